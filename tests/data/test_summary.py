from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import pixels_of, write_image_folder, write_images
from PIL import Image

from nullclass.data import Dataset, LabelledImages, load_dataset, summary


def test_counts_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_image_folder(tmp_path / "photos")
    data = load_dataset(folder, validation=0)
    text = "\n".join(summary.summary(data))
    assert "12 training and 6 test images of 3 x 6 x 5, 3 classes" in text
    assert "classes (training + test images): ant 4 + 2, bee 4 + 2, cat 4 + 2" in text
    pixels = np.stack([pixels_of(number) for number in range(12)]) / 255
    mean = " ".join(f"{value:.4f}" for value in pixels.mean(axis=(0, 1, 2)))
    limits = f"from {pixels.min():.3g} to {pixels.max():.3g}"
    assert f"pixels of the training images: {limits}, mean {mean}" in text
    assert data.checksum in text
    monkeypatch.setattr(summary, "IN_MEMORY", 100)
    monkeypatch.setattr(summary, "SAMPLE", 5)
    assert "pixels of the 5 training images: " in "\n".join(summary.summary(data))
    alone = load_dataset(write_images(tmp_path / "alone"), validation=0)
    assert "classes (test images): ant 2, bee 2, cat 2" in "\n".join(summary.summary(alone))


def test_null_images_are_counted() -> None:
    images, labels = torch.rand(9, 1, 4, 4), torch.tensor([0, 1, -1] * 3)
    part = LabelledImages(images, labels)
    data = Dataset("mine", ("0", "1"), None, None, part, "", "here")
    assert "classes (test images): 0 3, 1 3, null 3" in "\n".join(summary.summary(data))


@pytest.mark.parametrize("shape", [(6, 5, 3), (100, 300, 3), (6, 6)])
def test_the_contact_sheet_shows_the_first_images_of_each_class(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "photos", 11, shape=shape)
    data = load_dataset(folder, validation=0)
    sheet = Image.open(BytesIO(summary.contact_sheet(data)))
    assert sheet.size == (110 + 10 * 68, 3 * 68 + 4)
    pixels = np.asarray(sheet)
    if shape == (6, 6):  # enlarged by repetition
        top_left = data.test.batch(torch.tensor([1]))[0][0, 0, 0, 0]
        assert pixels[4 + 68 + 2, 110 + 2].tolist() == [round(255 * float(top_left))] * 3
    assert (pixels[:, -64:] != 255).any(), "the tenth column"

"""Evaluation of images that are coloured, not square, or on the disk, up to the gallery."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from few_resamples import few_resamples
from pictures import write_image_folder
from torch import nn

from nullclass import evaluate
from nullclass.data import LabelledImages, load_dataset, streamed
from nullclass.data.streamed import StreamedImages
from nullclass.evaluation.record import record_evaluation
from nullclass.models import Classifier
from nullclass.report.figures.gallery import gallery
from nullclass.results.run import read_run


def network(shape: tuple[int, ...], num_classes: int = 3) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(16, num_classes + 1),
        )  # fmt: skip
    return Classifier(body, num_classes, image_shape=shape)


@pytest.mark.parametrize("shape", [(32, 32, 3), (24, 40, 3), (24, 40)])
def test_from_an_image_folder_to_the_gallery(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_image_folder(tmp_path / "photos", shape=shape)
    in_memory = load_dataset(folder, validation=6)
    in_memory.test.batch(slice(None))
    monkeypatch.setattr(streamed, "IN_MEMORY", 0)
    on_disk = load_dataset(folder, validation=6)
    rows = []
    for dataset, name in ((on_disk, "disk"), (in_memory, "memory")):
        out = tmp_path / name
        with few_resamples():
            evaluation = record_evaluation(
                network(dataset.image_shape), None, dataset, out, name="model",
                attacks=["fgsm", "mi-fgsm"], eps=[0.02], norm="linf", num_images=6,
                ood=["noise", "blank", "tiles"], num_smallest=0, checks=False, seed=0,
            )  # fmt: skip
        rows.append(evaluation.rows)
        assert set(evaluation.ood["source"]) == {"noise", "blank", "tiles"}
    assert rows[0].equals(rows[1])
    drawing = gallery(read_run(tmp_path / "disk"))
    assert drawing is not None
    (panel,) = drawing.panels
    assert len(re.findall(r'<img [^>]*alt="attacked image', panel.html)) == 12


def test_no_more_images_are_read_than_are_scored(tmp_path: Path) -> None:
    """Evaluations of the first images of a large set read no others."""
    read: set[int] = set()

    def one(position: int) -> object:
        read.add(position)
        return torch.full((3, 8, 8), position % 256, dtype=torch.uint8).numpy()

    images = StreamedImages(one, (3, 8, 8), torch.arange(5000), "0" * 64)  # type: ignore[arg-type]
    data = LabelledImages(images, torch.arange(5000) % 3, 3)
    part = data.subset(torch.arange(4000, 5000)).first(20)
    evaluate(network((3, 8, 8)), part, attacks=["fgsm"], eps=[0.05], ood=("tiles",), checks=True)
    assert read == set(range(4000, 4020))

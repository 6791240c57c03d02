from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import CLASSES, pixels_of, write_image_folder, write_images
from PIL import Image

from nullclass.core.errors import UserError
from nullclass.data import DATASETS, Dataset, LabelledImages, load_dataset, streamed
from nullclass.data.streamed import StreamedImages


def expected(first: int, num: int, shape: tuple[int, ...] = (6, 5, 3)) -> torch.Tensor:
    """The images of three classes, numbered class by class, one of each class in turn."""
    in_turns = np.arange(first, first + num).reshape(3, -1).T.flatten()
    pixels = np.stack([pixels_of(int(number), shape) for number in in_turns])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def test_training_and_test_images(tmp_path: Path) -> None:
    data = load_dataset(write_image_folder(tmp_path / "photos"), validation=3)
    assert (data.name, data.class_names, data.image_shape) == ("photos", CLASSES, (3, 6, 5))
    assert data.train is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (9, 3)
    assert torch.equal(data.test.images[:], expected(100, 6))
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    images, labels = data.test.batch([5, 0])
    assert torch.equal(images, expected(100, 6)[[5, 0]] / 255)
    assert labels.tolist() == [2, 0]
    whole = load_dataset(tmp_path / "photos", validation=0)
    assert torch.equal(whole.training_images().images[:], expected(0, 12))
    mean = expected(0, 12).double().mean(dim=(0, 2, 3)) / 255
    assert whole.mean == data.mean == pytest.approx(mean.tolist(), abs=1e-12)


def test_test_images_alone_and_images_of_imagenet(tmp_path: Path) -> None:
    alone = load_dataset(write_images(tmp_path / "alone", first=100), validation=0)
    assert alone.train is None
    assert torch.equal(alone.test.images[:], expected(100, 6))
    with pytest.raises(UserError, match="alone has test images only: give data with training"):
        load_dataset(tmp_path / "alone")
    with pytest.raises(UserError, match="alone has test images only"):
        _ = alone.mean
    both = write_image_folder(tmp_path / "both")
    (both / "test").rename(both / "val")
    nested = both / "val" / "bee" / "images"
    nested.mkdir()
    for path in (both / "val" / "bee").glob("*.png"):
        path.rename(nested / path.name)
    (both / "val" / "bee" / "notes.txt").write_text("ignored")
    (both / "val" / ".hidden").mkdir()
    assert torch.equal(load_dataset(both, validation=0).test.images[:], expected(100, 6))


def test_grey_images_and_mixtures(tmp_path: Path) -> None:
    grey = write_images(tmp_path / "grey", shape=(6, 5))
    data = load_dataset(grey, validation=0)
    assert data.image_shape == (1, 6, 5)
    assert torch.equal(data.test.images[1:2][0, 0], torch.from_numpy(pixels_of(2, (6, 5))))
    Image.fromarray(pixels_of(7)).save(grey / "bee" / "00.png")
    mixed = load_dataset(grey, validation=0)
    assert mixed.image_shape == (3, 6, 5)
    coloured = torch.from_numpy(pixels_of(7)).permute(2, 0, 1)
    assert torch.equal(mixed.test.images[1:2][0], coloured)
    first = torch.from_numpy(pixels_of(0, (6, 5)))
    assert torch.equal(mixed.test.images[:1][0], first.expand(3, -1, -1))


def test_images_are_scaled_and_cropped_on_request(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "mixed", shape=(8, 8, 3))
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200  # the middle third
    Image.fromarray(wide).save(folder / "bee" / "01.png")
    with pytest.raises(UserError, match=r"differ in size .*has 8 x 8, .*01.png 4 x 12.*resize"):
        load_dataset(folder, validation=0)
    data = load_dataset(folder, validation=0, resize=4)
    assert data.image_shape == (3, 4, 4)
    assert torch.equal(data.test.images[4:5], torch.full((1, 3, 4, 4), 200, dtype=torch.uint8))
    assert load_dataset(folder, validation=0, resize=(2, 6)).image_shape == (3, 2, 6)
    checksums = {load_dataset(folder, validation=0, resize=r).checksum for r in (4, 5, (4, 5))}
    assert len(checksums) == 3
    for resize in (0, -1, 10**6, (4, 4, 4), (), "4", 1.5, True):
        with pytest.raises(UserError, match="resize must be"):
            load_dataset(folder, validation=0, resize=resize)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="only image folders are resized, and ramps is none"):
        load_dataset("ramps", resize=4)


def test_the_checksum_covers_files_and_classes(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "photos")
    checksums = {load_dataset(folder, validation=0).checksum}
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert load_dataset(copy, validation=0).checksum in checksums
    Image.fromarray(pixels_of(9)).save(copy / "train" / "cat" / "00.png")
    checksums.add(load_dataset(copy, validation=0).checksum)
    (folder / "test" / "ant" / "00.png").rename(folder / "test" / "bee" / "2.png")
    checksums.add(load_dataset(folder, validation=0).checksum)
    assert len(checksums) == 3


def test_hidden_folders_hold_no_images(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "photos")
    before = load_dataset(folder, validation=0)
    hidden = folder / "train" / "ant" / ".checkpoints"
    hidden.mkdir()
    shutil.copy(folder / "train" / "ant" / "00.png", hidden)
    assert load_dataset(folder, validation=0).checksum == before.checksum


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no test images": (lambda f: shutil.rmtree(f / "test"), "but no test/CLASS/"),
    "one class": (
        lambda f: [shutil.rmtree(f / part / c) for part in ("train", "test") for c in CLASSES[1:]],
        "train has 1 class folders, and no IDX files: make a folder of images for each class",
    ),
    "an empty class": (
        lambda f: [path.unlink() for path in (f / "train" / "bee").iterdir()],
        "bee holds no images",
    ),
    "another class": (lambda f: (f / "test" / "dog").mkdir(), "has the class dog, which is not in"),
    "a broken file": (
        lambda f: (f / "test" / "bee" / "00.png").write_bytes(b"no image"),
        "0.png is no image, or broken: replace or remove it",
    ),
    "a pipe": (
        lambda f: [
            (f / "test" / "bee" / "00.png").unlink(),
            os.mkfifo(f / "test" / "bee" / "00.png"),
        ],
        "is not a regular file",
    ),
    "16 bits": (
        lambda f: Image.fromarray(np.zeros((6, 5), np.uint16)).save(f / "test" / "bee" / "00.png"),
        "0.png has more than 8 bits per channel",
    ),
    "other sizes in the test images": (
        lambda f: [shutil.rmtree(f / "test"), write_images(f / "test", shape=(5, 5, 3))],
        "training images of photos are 3 x 6 x 5, but test images 3 x 5 x 5",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders(kind: str, tmp_path: Path) -> None:
    damage, says = BAD[kind]
    folder = write_image_folder(tmp_path / "photos")
    damage(folder)
    with pytest.raises(UserError, match=says):
        load_dataset(folder, validation=0)


def test_files_that_break_when_they_are_read(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", shape=(40, 40, 3))
    path = folder / "bee" / "00.png"
    path.write_bytes(path.read_bytes()[:-300])
    data = load_dataset(folder, validation=0)
    with pytest.raises(UserError, match=r"0.png is broken: replace or remove it"):
        data.test.batch(slice(None))
    clear = np.zeros((40, 40, 4), np.uint8)
    Image.fromarray(clear).save(path)
    with pytest.raises(UserError, match=r"0.png has transparent pixels"):
        load_dataset(folder, validation=0).test.batch([1])
    clear[..., 3] = 255
    Image.fromarray(clear).save(path)
    assert not load_dataset(folder, validation=0).test.batch([1])[0].any()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="0 class folders"):
        load_dataset(tmp_path / "empty")


def test_images_are_read_when_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "IN_MEMORY", 0)
    data = load_dataset(write_images(tmp_path / "many", 50), validation=0).test
    assert isinstance(data.images, StreamedImages)
    read: list[int] = []
    counted = StreamedImages(
        lambda position: read.append(position) or data.images.read(position),  # type: ignore[func-returns-value, union-attr]
        data.images.image_shape,
        data.images.positions,
        data.images.digest,
    )
    labelled = LabelledImages(counted, data.labels, 3)
    part = labelled.subset(torch.arange(10, 150, 10)).first(5)
    assert len(part.sha256()) == 64
    assert part.images.shape == (5, 3, 6, 5)
    assert read == []
    images, labels = part.batch([4, 0])
    assert read == [50, 10]
    assert torch.equal(images, (expected(0, 150)[[50, 10]]) / 255)
    assert labels.tolist() == [50 % 3, 10 % 3]
    assert part.sha256() != labelled.first(5).sha256()
    assert read == [50, 10]


def test_small_sets_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "few")
    data = load_dataset(folder, validation=0).test
    first = data.batch([3])[0]
    shutil.rmtree(folder)
    assert torch.equal(data.subset([3]).batch([0])[0], first)
    with pytest.raises(UserError, match="is missing"):
        data.batch([2])


def test_classes_of_different_sizes_are_read_in_turns(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "uneven", 4)
    for path in sorted((folder / CLASSES[1]).iterdir())[2:]:
        path.unlink()
    labels = load_dataset(folder, validation=0).test.labels.tolist()
    assert labels == [0, 1, 2, 0, 1, 2, 0, 2, 0, 2]


@pytest.mark.slow
def test_cifar10_as_jpeg() -> None:
    """CIFAR-10, JPEG copy, in the folder that NULLCLASS_CIFAR10_JPEG names."""
    folder = os.environ.get("NULLCLASS_CIFAR10_JPEG")
    if folder is None:
        pytest.skip("NULLCLASS_CIFAR10_JPEG names no folder with train/CLASS and test/CLASS")
    data = load_dataset(folder, validation=5000)
    assert data.class_names == DATASETS["cifar10"].class_names
    assert (len(data.training_images()), len(data.test)) == (45_000, 10_000)
    assert data.test.labels.bincount().tolist() == [1000] * 10
    test = Dataset("test", data.class_names, data.test, None, data.test, "", "")
    # The test images of CIFAR-10 have these means; JPEG changes them little.
    assert test.mean == pytest.approx((0.4942, 0.4851, 0.4504), abs=0.002)

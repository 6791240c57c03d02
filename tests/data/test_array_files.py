from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from nullclass.core.errors import UserError
from nullclass.data import array_files, load_dataset
from nullclass.data.streamed import StreamedImages

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (10, 3, 6, 5), dtype=np.uint8)
LABELS = np.arange(10) % 4


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


@pytest.fixture(params=["data.npz", "data.safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_names_of_arrays(path: Path) -> None:
    for names in (("images", "labels"), ("x", "y"), ("x_test", "y_test")):
        data = load_dataset(
            write(path, dict(zip(names, (GREY, LABELS), strict=True))), validation=0
        )
        assert data.train is None
        assert (data.name, data.num_classes, data.image_shape) == (path.name, 4, (1, 6, 5))
        assert torch.equal(data.test.images[:, 0], torch.from_numpy(GREY))
        assert data.test.labels.tolist() == LABELS.tolist()
    for names in array_files.NAMES:
        arrays = (COLOUR, LABELS[:, None], COLOUR[:4], LABELS[:4])
        data = load_dataset(write(path, dict(zip(names, arrays, strict=True))), validation=2)
        assert len(data.training_images()) == 8
        assert torch.equal(data.test.images[:], torch.from_numpy(COLOUR[:4]))


@pytest.mark.parametrize(
    "images",
    [
        COLOUR.transpose(0, 2, 3, 1),
        COLOUR.astype(np.float32) / 255,
        COLOUR.astype(np.float64) / 255,
        COLOUR.astype(np.float32),
        COLOUR.astype(np.int32).transpose(0, 2, 3, 1),
        COLOUR.astype(np.uint16),
    ],
    ids=["channel-last", "float32", "float64", "whole floats", "int32 channel-last", "uint16"],
)
def test_bytes_and_channels_are_recognised(images: np.ndarray, path: Path) -> None:
    data = load_dataset(write(path, {"images": images, "labels": LABELS}), validation=0)
    assert torch.equal(data.test.batch(slice(None))[0], torch.from_numpy(COLOUR) / 255)


FLOATS = COLOUR.astype(np.float32) / 255
BAD = [
    ({"pictures": GREY, "labels": LABELS}, "holds the arrays|holds labels, pictures: name the arr"),
    ({"images": GREY, "labels": LABELS + 1}, "run from 1 to 4, .* add an image of class 0"),
    ({"images": GREY, "labels": LABELS * 0}, "all labels of .* are 0: give at least two classes"),
    ({"images": GREY, "labels": LABELS - 2}, "labels run from -2 to 1"),
    ({"images": GREY, "labels": LABELS[:9]}, "10 images but 9 labels"),
    ({"images": GREY, "labels": LABELS / 2}, "labels are torch.float64: pass integers"),
    ({"images": GREY, "labels": np.eye(10, dtype=np.int64)}, "pass one number per image"),
    ({"images": GREY, "labels": np.zeros((10, 2), np.int64)}, "pass one number per image"),
    (
        {"x_train": GREY, "y_train": np.eye(10, dtype=np.int64), "x_test": GREY, "y_test": LABELS},
        "pass one number per image",
    ),
    ({"images": GREY[:0], "labels": LABELS[:0]}, "there are no images"),
    ({"images": FLOATS * np.nan, "labels": LABELS}, "NaN or infinite"),
    ({"images": FLOATS * 4 - 2, "labels": LABELS}, r"must be in \[0,1\], but range from"),
    ({"images": COLOUR.astype(np.int16) * 9, "labels": LABELS}, "images of integers run from"),
    ({"images": COLOUR.astype(np.uint32) * 9, "labels": LABELS}, "images of integers run from"),
    ({"images": np.zeros((10, 6, 5, 4), np.uint8), "labels": LABELS}, "looks like RGBA"),
    ({"images": np.zeros((10, 6), np.uint8), "labels": LABELS}, r"pass \(N, C, H, W\)"),
    (
        {"x_train": COLOUR, "y_train": LABELS, "x_test": GREY, "y_test": LABELS},
        "are 3 x 6 x 5, but test images 1 x 6 x 5: make them alike",
    ),
]


@pytest.mark.parametrize(("arrays", "says"), BAD)
def test_bad_arrays(arrays: dict[str, np.ndarray], says: str, path: Path) -> None:
    with pytest.raises(UserError, match=says):
        load_dataset(write(path, arrays), validation=0)


def test_damaged_files(path: Path) -> None:
    content = write(path, {"images": GREY, "labels": LABELS}).read_bytes()
    for damaged in (b"", b"no file of arrays", content[:-40], content[:100]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"or damaged|is damaged"):
            load_dataset(path, validation=0)
    other = path.with_suffix(".zip")
    other.write_bytes(content)
    with pytest.raises(UserError, match="unpack archives and give the folder"):
        load_dataset(other, validation=0)


def test_nothing_is_unpickled_or_expanded(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=GREY, labels=np.array([print] * 10, dtype=object))
    with pytest.raises(UserError, match=r"is no .npz file of numbers"):
        load_dataset(path, validation=0)
    np.savez_compressed(path, images=np.zeros((30_000, 60, 60), np.uint8), labels=np.arange(30_000))
    with pytest.raises(UserError, match="expands to over 200 times its size"):
        load_dataset(path, validation=0)


@pytest.mark.parametrize("layout", ["first", "last", "grey"])
def test_large_safetensors_stay_on_the_disk(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "IN_MEMORY", 100)
    images = {"first": COLOUR, "last": COLOUR.transpose(0, 2, 3, 1), "grey": GREY}[layout]
    expected = torch.from_numpy(GREY[:, None] if layout == "grey" else COLOUR)
    arrays = {"x_train": images, "y_train": LABELS, "x_test": images[::-1], "y_test": LABELS}
    path = write(tmp_path / "data.safetensors", arrays)
    data = load_dataset(path, validation=3)
    assert data.validation is not None
    for part in (data.training_images(), data.validation, data.test):
        assert isinstance(part.images, StreamedImages)
    assert torch.equal(data.test.images[:], expected.flip(0))
    assert torch.equal(data.test.first(7).batch([6])[0][0], expected[3] / 255)
    assert data.training_images().sha256() != data.test.sha256()
    checksum = data.checksum
    arrays["x_test"] = images
    write(path, arrays)
    assert load_dataset(path, validation=0).checksum != checksum
    write(path, arrays | {"x_test": images.astype(np.float32) / 255})
    with pytest.raises(UserError, match="too large for memory: store large sets as bytes"):
        load_dataset(path, validation=0)

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import idx_bytes, tiny_arrays, write_dataset

from nullclass.core.errors import UserError
from nullclass.data import FILE_NAMES, Dataset, LabelledImages, load_dataset
from nullclass.data.dataset import pixel_statistics

ARRAYS = tiny_arrays(num_train=40, num_test=12, num_classes=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "plain", ARRAYS)


def test_any_folder_of_idx_files(folder: Path) -> None:
    data = load_dataset(folder, validation=10)
    assert (len(data.train), len(data.test)) == (30, 12)
    assert data.validation is not None
    assert len(data.validation) == 10
    assert data.num_classes == data.train.num_classes == data.test.num_classes == 4
    assert data.class_names == ("0", "1", "2", "3")
    assert data.image_shape == (1, 6, 6)
    pixels = ARRAYS[FILE_NAMES[0]] / 255
    assert data.mean == pytest.approx((pixels.mean(),), abs=1e-12)
    assert data.std == pytest.approx((pixels.std(),), abs=1e-12)
    assert (plain := load_dataset(folder, validation=0)).mean == data.mean
    assert plain.name == "plain"
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(ARRAYS[FILE_NAMES[2]]))
    assert torch.equal(data.test.labels, torch.from_numpy(ARRAYS[FILE_NAMES[3]]).long())
    assert str(folder) in data.source


def test_the_checksum_covers_every_byte_of_the_uncompressed_files(
    folder: Path, tmp_path: Path
) -> None:
    digests = [hashlib.sha256(idx_bytes(ARRAYS[name])).hexdigest() for name in FILE_NAMES]
    expected = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    plain = load_dataset(folder, validation=5)
    zipped = load_dataset(write_dataset(tmp_path / "zipped", ARRAYS, end=".gz"), validation=5)
    assert plain.checksum == zipped.checksum == expected
    assert torch.equal(plain.train.images, zipped.train.images)
    for name in FILE_NAMES:
        changed = {key: array.copy() for key, array in ARRAYS.items()}
        changed[name].flat[0] ^= 1
        other = write_dataset(tmp_path / name, changed)
        assert load_dataset(other, validation=0).checksum != expected


def test_the_split() -> None:
    state = torch.get_rng_state()
    # Every image is its own number.
    images = torch.arange(200, dtype=torch.uint8).reshape(200, 1, 1, 1)
    data = LabelledImages(images, torch.zeros(200, dtype=torch.int64), 2)
    dataset = Dataset("numbers", ("a", "b"), data, None, data, "", "")

    def numbers() -> list[list[int]]:
        parts = dataset.hold_out(50)
        assert parts.train is not None
        assert parts.validation is not None
        return [part.images.flatten().tolist() for part in (parts.train, parts.validation)]

    rest, held_out = numbers()
    assert len(held_out) == 50
    assert sorted(rest + held_out) == list(range(200))
    assert [rest, held_out] == numbers(), "always the same"
    assert held_out != list(range(50)), "random"
    assert rest == sorted(rest), "the order of the file"
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_sizes_of_the_validation_set(folder: Path) -> None:
    data = load_dataset(folder, validation=0)
    assert data.validation is None
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(ARRAYS[FILE_NAMES[0]]))
    for validation in (40, 5000, -1, 1.5, "5", 10**23):
        with pytest.raises(UserError, match=r"held out of 40 .* from 0 to 39, not"):
            load_dataset(folder, validation=validation)  # type: ignore[arg-type]


def changed(tmp_path: Path, **arrays: np.ndarray) -> Path:
    keys = dict(zip(("images", "labels", "test_images", "test_labels"), FILE_NAMES, strict=True))
    return write_dataset(tmp_path / "bad", ARRAYS | {keys[k]: v for k, v in arrays.items()})


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cases = [
        (changed(tmp_path / "1", labels=ARRAYS[FILE_NAMES[1]][:-1]), "40 images but .* 39 labels"),
        (changed(tmp_path / "2", test_images=np.ones((12, 5, 6), np.uint8)), "6x6 but .* 5x6"),
        (
            changed(
                tmp_path / "4", labels=np.zeros(40, np.uint8), test_labels=np.zeros(12, np.uint8)
            ),
            "at least two classes",
        ),
        (changed(tmp_path / "5", images=ARRAYS[FILE_NAMES[1]]), "swapped"),
    ]
    for folder, says in cases:
        with pytest.raises(UserError, match=says):
            load_dataset(folder, validation=0)


def test_alike_pixels_are_refused_where_their_statistics_are_needed(tmp_path: Path) -> None:
    folder = changed(tmp_path, images=np.full((40, 6, 6), 7, np.uint8))
    with pytest.raises(UserError, match="all pixels in bad are alike"):
        _ = load_dataset(folder, validation=0).std


def test_classes_of_the_test_file_count(tmp_path: Path) -> None:
    test_labels = ARRAYS[FILE_NAMES[3]].copy()
    test_labels[0] = 6
    data = load_dataset(changed(tmp_path, test_labels=test_labels), validation=0)
    assert data.num_classes == data.train.num_classes == 7


def test_pixel_statistics_are_exact_over_many_parts() -> None:
    images = torch.full((5000, 1, 2, 2), 51, dtype=torch.uint8)
    labels = torch.zeros(5000, dtype=torch.int64)
    assert pixel_statistics([LabelledImages(images, labels)]) == ((0.2,), (0.0,))
    images[::2] = 153
    found = pixel_statistics([LabelledImages(images, labels)])
    assert found == (pytest.approx((0.4,)), pytest.approx((0.2,)))


def test_pixel_statistics_are_per_channel_and_of_all_parts() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 3, 4, 5), np.uint8))
    images[:, 1] //= 3
    labels = torch.zeros(30, dtype=torch.int64)
    expected = images.double() / 255
    mean, std = expected.mean(dim=(0, 2, 3)), expected.std(dim=(0, 2, 3), correction=0)
    for stored in (images, images.float() / 255):
        parts = [LabelledImages(stored[:12], labels[:12]), LabelledImages(stored[12:], labels[12:])]
        found_mean, found_std = pixel_statistics(parts)
        assert found_mean == pytest.approx(mean.tolist(), abs=1e-7)
        assert found_std == pytest.approx(std.tolist(), abs=1e-7)


def test_mnist(mnist: Dataset) -> None:
    assert (len(mnist.train), len(mnist.test)) == (60000, 10000)
    assert mnist.image_shape == (1, 28, 28)
    assert mnist.class_names == tuple("0123456789")
    assert torch.bincount(mnist.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    # The published constants are those of the whole training file.
    (mean,), (std,) = pixel_statistics([mnist.training_images()])
    assert (
        (mnist.mean, mnist.std) == ((round(mean, 4),), (round(std, 4),)) == ((0.1307,), (0.3081,))
    )


@pytest.mark.slow
def test_mnist_from_its_sources(
    mnist: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NULLCLASS_CACHE", str(tmp_path))
    data = load_dataset("mnist", validation=5000)
    assert data.train is not None
    assert "fetching 4 files" in capsys.readouterr().err
    assert data.checksum == mnist.checksum
    assert (len(data.train), len(data.validation or ())) == (55000, 5000)
    again = load_dataset("mnist", validation=0)
    assert again.source == "MNIST from the cache, checksums verified"
    assert capsys.readouterr().err == ""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import idx_bytes, tiny_arrays, write_dataset

from nullclass.core.errors import UserError
from nullclass.data import FILE_NAMES, LabelledImages, load_dataset
from nullclass.data.loading import pixel_statistics, split

ARRAYS = tiny_arrays(num_train=40, num_test=12, num_classes=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "plain", ARRAYS)


def test_any_folder_of_idx_files(folder: Path) -> None:
    data = load_dataset("idx", data_dir=folder, validation=10)
    assert (len(data.train), len(data.test)) == (30, 12)
    assert data.validation is not None
    assert len(data.validation) == 10
    assert data.num_classes == data.train.num_classes == data.test.num_classes == 4
    assert data.class_names == ("0", "1", "2", "3")
    assert data.image_shape == (1, 6, 6)
    pixels = ARRAYS[FILE_NAMES[0]] / 255
    assert data.mean == pytest.approx(pixels.mean(), abs=1e-12)
    assert data.std == pytest.approx(pixels.std(), abs=1e-12)
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(ARRAYS[FILE_NAMES[2]]))
    assert torch.equal(data.test.labels, torch.from_numpy(ARRAYS[FILE_NAMES[3]]).long())
    assert str(folder) in data.source


def test_gzip_and_plain_are_the_same_data(folder: Path, tmp_path: Path) -> None:
    zipped = write_dataset(tmp_path / "zipped", ARRAYS, end=".gz", dotted=True)
    one = load_dataset("idx", data_dir=folder, validation=5)
    two = load_dataset("idx", data_dir=zipped, validation=5)
    assert torch.equal(one.train.images, two.train.images)
    assert torch.equal(one.train.labels, two.train.labels)
    assert one.checksum == two.checksum


def test_the_checksum_is_what_it_says_and_sees_every_byte(folder: Path, tmp_path: Path) -> None:
    digests = [hashlib.sha256(idx_bytes(ARRAYS[name])).hexdigest() for name in FILE_NAMES]
    expected = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert load_dataset("idx", data_dir=folder, validation=0).checksum == expected
    for name in FILE_NAMES:
        changed = {key: array.copy() for key, array in ARRAYS.items()}
        changed[name].flat[0] ^= 1
        other = write_dataset(tmp_path / name, changed)
        assert load_dataset("idx", data_dir=other, validation=0).checksum != expected


def test_the_split_is_fixed_by_the_seed_and_loses_nothing() -> None:
    # Every image is its own number, so that images can be told apart.
    images = torch.arange(200, dtype=torch.uint8).reshape(200, 1, 1, 1)
    data = LabelledImages(images, torch.zeros(200, dtype=torch.int64), 2)

    def numbers(seed: int) -> tuple[list[int], list[int]]:
        rest, held_out = split(data, 50, seed)
        assert held_out is not None
        return rest.images.flatten().tolist(), held_out.images.flatten().tolist()

    rest, held_out = numbers(0)
    assert len(held_out) == 50
    assert sorted(rest + held_out) == list(range(200))
    assert (rest, held_out) == numbers(0)
    assert held_out != numbers(1)[1]
    assert held_out != list(range(50)), "drawn, not cut off"
    assert rest == sorted(rest), "the order of the file"


def test_the_split_does_not_touch_the_global_generator() -> None:
    data = LabelledImages(torch.zeros(9, 1, 1, 1), torch.zeros(9, dtype=torch.int64))
    state = torch.get_rng_state()
    split(data, 3, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_may_be_nothing_but_not_all(folder: Path) -> None:
    data = load_dataset("idx", data_dir=folder, validation=0)
    assert data.validation is None
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(ARRAYS[FILE_NAMES[0]]))
    for validation in (40, 5000, -1):
        with pytest.raises(UserError, match=r"of 40 training images: set validation to 0 … 39"):
            load_dataset("idx", data_dir=folder, validation=validation)


def changed(tmp_path: Path, **arrays: np.ndarray) -> Path:
    keys = dict(zip(("images", "labels", "test_images", "test_labels"), FILE_NAMES, strict=True))
    return write_dataset(tmp_path / "bad", ARRAYS | {keys[k]: v for k, v in arrays.items()})


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cases = [
        (changed(tmp_path / "1", labels=ARRAYS[FILE_NAMES[1]][:-1]), "40 images but .* 39 labels"),
        (changed(tmp_path / "2", test_images=np.ones((12, 5, 6), np.uint8)), "6x6 but .* 5x6"),
        (changed(tmp_path / "3", images=np.full((40, 6, 6), 7, np.uint8)), "are alike"),
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
            load_dataset("idx", data_dir=folder, validation=0)


def test_a_class_seen_in_the_test_file_only_counts(tmp_path: Path) -> None:
    test_labels = ARRAYS[FILE_NAMES[3]].copy()
    test_labels[0] = 6
    data = load_dataset("idx", data_dir=changed(tmp_path, test_labels=test_labels), validation=0)
    assert data.num_classes == data.train.num_classes == 7


def test_pixel_statistics_are_exact_over_many_parts() -> None:
    images = torch.full((5000, 1, 2, 2), 51, dtype=torch.uint8)
    assert pixel_statistics(images) == (0.2, 0.0)
    images[::2] = 153
    assert pixel_statistics(images) == (pytest.approx(0.4), pytest.approx(0.2))


def test_listing_the_datasets_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from nullclass.data import DATASETS, fetch; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attribute() -> None:
    import nullclass.data

    with pytest.raises(AttributeError, match="load_datasets"):
        _ = nullclass.data.load_datasets


def test_mnist_comes_through_the_real_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NULLCLASS_CACHE", str(tmp_path))
    data = load_dataset("mnist", validation=5000)
    assert (len(data.train), len(data.test)) == (55000, 10000)
    assert data.validation is not None
    assert len(data.validation) == 5000
    assert data.image_shape == (1, 28, 28)
    assert (data.num_classes, data.class_names) == (10, tuple("0123456789"))
    assert (data.mean, data.std) == (0.1307, 0.3081)
    assert torch.bincount(data.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert "fetching 4 files" in capsys.readouterr().err
    everything = load_dataset("mnist", validation=0)
    assert len(everything.train) == 60000
    # The published constants are those of the whole training file.
    mean, std = pixel_statistics(everything.train.images)
    assert (round(mean, 4), round(std, 4)) == (data.mean, data.std)
    assert everything.source == "MNIST from the cache, checksums verified"
    assert everything.checksum == data.checksum
    assert capsys.readouterr().err == ""

"""CIFAR and SVHN, from small archives of the same layout with checksums of their own."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from nullclass.core.errors import UserError
from nullclass.data import DATASETS, load_dataset
from nullclass.data.cifar import CLASS_NAMES_100

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1, 7, 2, 8, 4, 5, 6, 0], np.uint8)


def records(index: slice, *columns: np.ndarray) -> bytes:
    rows = [column[index, None] for column in columns] + [PIXELS[index].reshape(-1, 3072)]
    return np.concatenate(rows, axis=1).tobytes()


def write_tar(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_cifar10(folder: Path, **changed: bytes) -> None:
    inside = "cifar-10-batches-bin"
    train = {f"data_batch_{n}.bin": records(slice(2 * n - 2, 2 * n), LABELS) for n in range(1, 6)}
    contents = train | {"test_batch.bin": records(slice(10, 12), LABELS)} | changed
    named = {name if "/" in name else f"{inside}/{name}": c for name, c in contents.items()}
    write_tar(folder / "cifar-10-binary.tar.gz", {f"{inside}/readme.html": b"text"} | named)


def write_cifar100(folder: Path) -> None:
    coarse = np.full(12, 17, np.uint8)
    contents = {
        "cifar-100-binary/train.bin": records(slice(0, 10), coarse, LABELS),
        "cifar-100-binary/test.bin": records(slice(10, 12), coarse, LABELS),
    }
    write_tar(folder / "cifar-100-binary.tar.gz", contents)


def write_svhn(folder: Path) -> None:
    labels = np.where(LABELS == 0, 10, LABELS)
    for name, index in (("train", slice(0, 10)), ("test", slice(10, 12))):
        content = {"X": PIXELS[index].transpose(2, 3, 1, 0), "y": labels[index, None]}
        savemat(folder / f"{name}_32x32.mat", content)


WRITERS = {"cifar10": write_cifar10, "cifar100": write_cifar100, "svhn": write_svhn}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "downloads"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["cifar-10-batches-py/data_batch_1"],
            "pickles.*give the archive cifar-10-binary.tar.gz or",
        ),
        (["data_batch_1", "batches.meta"], "CIFAR in Python's pickles, which can run code"),
        (["cifar-100-python.tar.gz", "cifar-100-python/meta"], "pickles.*cifar100$"),
        (
            ["cifar-10-batches-bin/data_batch_1.bin"],
            "an unpacked archive of CIFAR: give the archive",
        ),
        (["data_batch_1.bin", "test_batch.bin"], "an unpacked archive of CIFAR"),
        (["train.bin", "test.bin", "fine_label_names.txt"], "an unpacked archive of CIFAR"),
        (
            ["train_32x32.mat"],
            "train_32x32.mat and test_32x32.mat: give the folder that holds both",
        ),
        (["photos/a.txt"], "1 class folders, and no IDX files"),
        (["a.txt"], "0 class folders, and no IDX files"),
    ],
)
def test_forms_that_are_not_read(names: list[str], says: str, folder: Path) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"content")
    with pytest.raises(UserError, match=says):
        load_dataset(folder)
    if (folder / names[0]).parent == folder and "class folders" not in says:
        with pytest.raises(UserError, match=says):
            load_dataset(folder / names[0])


def make_known(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the checksums of the files in the folder for those of the dataset."""
    known = DATASETS[name]
    contents = {file: (folder / file).read_bytes() for file in known.md5}
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    sizes = {file: len(content) for file, content in contents.items()}
    monkeypatch.setitem(DATASETS, name, replace(known, md5=md5, sizes=sizes))


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_with_the_archives(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](folder)
    with pytest.raises(UserError, match=r"is not (CIFAR|SVHN).*its checksum differs"):
        load_dataset(folder, validation=0)
    make_known(name, folder, monkeypatch)
    places = [folder] if name == "svhn" else [folder, next(folder.iterdir())]
    for place in places:
        data = load_dataset(place, validation=0)
        assert (data.name, data.num_classes) == (name, 100 if name == "cifar100" else 10)
        assert "checksums verified" in data.source
        assert torch.equal(data.training_images().images[:], torch.from_numpy(PIXELS[:10]))
        assert torch.equal(data.test.images[:], torch.from_numpy(PIXELS[10:]))
        assert data.training_images().labels.tolist() == LABELS[:10].tolist()
        assert data.test.labels.tolist() == LABELS[10:].tolist()
        assert data.mean == pytest.approx(PIXELS[:10].mean(axis=(0, 2, 3)) / 255)


def test_the_cache_is_filled_from_a_mirror(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mirror:
        label = "a mirror"

        def fetch(self, sizes: dict[str, int], workplace: Path, accept: object) -> None:
            (name,) = sizes
            path = workplace / name
            path.write_bytes((folder / name).read_bytes())
            accept(name, path)  # type: ignore[operator]

    monkeypatch.setenv("NULLCLASS_CACHE", str(tmp_path / "cache"))
    write_cifar10(folder)
    make_known("cifar10", folder, monkeypatch)
    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], sources=(Mirror(),)))
    first = load_dataset("cifar10", validation=0, progress=lambda _: None)
    assert first.source == "CIFAR-10 from a mirror, checksums verified"
    assert (
        load_dataset("cifar10", validation=0).source
        == "CIFAR-10 from the cache, checksums verified"
    )
    name = "cifar-10-binary.tar.gz"
    cached = tmp_path / "cache" / "cifar10" / name
    assert cached.read_bytes() == (folder / name).read_bytes(), "as it was published"


def test_the_checksum_covers_all_channels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for channel in (0, 2):
        write_cifar10(folder)
        make_known("cifar10", folder, monkeypatch)
        found.add(load_dataset(folder, validation=0).checksum)
        content = bytearray(records(slice(10, 12), LABELS))
        content[1 + 1024 * channel] ^= 1
        write_cifar10(folder, **{"test_batch.bin": bytes(content)})
        make_known("cifar10", folder, monkeypatch)
        found.add(load_dataset(folder, validation=0).checksum)
    assert len(found) == 3


def test_bad_archives(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changed, says in (
        ({"../escaped.bin": b"x"}, r"names a path outside its folder \(../escaped.bin\)"),
        ({"/tmp/escaped.bin": b"x"}, "names a path outside its folder"),
        ({"test_batch.bin": b"x" * 3072}, "holds no records of 3073 bytes"),
        ({"test_batch.bin": b""}, "holds no records"),
        ({"test_batch.bin": bytes([10]) + bytes(3072)}, "labels run from 10 to 10"),
    ):
        write_cifar10(folder, **changed)
        make_known("cifar10", folder, monkeypatch)
        with pytest.raises(UserError, match=says):
            load_dataset(folder, validation=0)
    write_tar(folder / "cifar-10-binary.tar.gz", {"other": b"x"})
    make_known("cifar10", folder, monkeypatch)
    with pytest.raises(UserError, match=r"lacks cifar-10-batches-bin/data_batch_1.bin"):
        load_dataset(folder, validation=0)
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"no archive")
    make_known("cifar10", folder, monkeypatch)
    with pytest.raises(UserError, match="is damaged"):
        load_dataset(folder, validation=0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "cifar-10-binary.tar.gz", "downloads"
    ]  # fmt: skip


def test_bad_files_of_svhn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(folder)
    savemat(folder / "test_32x32.mat", {"X": np.zeros((32, 32, 2)), "y": np.zeros((2, 1))})
    make_known("svhn", folder, monkeypatch)
    with pytest.raises(UserError, match="does not hold 32 x 32 colour images of bytes"):
        load_dataset(folder, validation=0)
    (folder / "test_32x32.mat").write_bytes(b"no matrix")
    make_known("svhn", folder, monkeypatch)
    with pytest.raises(UserError, match="is no file of SVHN"):
        load_dataset(folder, validation=0)


def test_names_of_classes() -> None:
    assert len(CLASS_NAMES_100) == 100
    assert list(CLASS_NAMES_100) == sorted(set(CLASS_NAMES_100))

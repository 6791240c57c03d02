from __future__ import annotations

import dataclasses
import gzip
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from idx_files import idx_bytes, tiny_arrays, write_dataset

from nullclass.core.errors import UserError
from nullclass.data import DATASETS, FILE_NAMES, fetching
from nullclass.data.fetching import cache_folder, fetch
from nullclass.data.known import Accept, KnownDataset, SourceError
from nullclass.data.mnist import MNIST

ARRAYS = tiny_arrays()
CONTENTS = {name: idx_bytes(array) for name, array in ARRAYS.items()}


class FakeSource:
    """Brings what it was given, and counts."""

    def __init__(self, label: str, contents: dict[str, bytes]) -> None:
        self.label = label
        self.contents = contents
        self.asked: list[tuple[str, ...]] = []

    def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
        self.asked.append(tuple(names))
        for name in names:
            if name not in self.contents:
                raise SourceError(f"has no {name}")
            path = folder / "arrived"
            path.write_bytes(self.contents[name])
            accept(name, path)


class Interrupted(FakeSource):
    """The user presses Ctrl-C in the middle of the second file."""

    def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
        super().bring(names[:1], folder, accept)
        (folder / names[1]).write_bytes(self.contents[names[1]][:50])
        raise KeyboardInterrupt


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NULLCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tiny"


def add_tiny(monkeypatch: pytest.MonkeyPatch, *sources: FakeSource) -> None:
    known = KnownDataset(
        name="tiny",
        title="Tiny",
        class_names=("a", "b", "c", "d"),
        md5={name: hashlib.md5(contents).hexdigest() for name, contents in CONTENTS.items()},
        sources=sources,
        subfolders=MNIST.subfolders,
    )
    monkeypatch.setitem(DATASETS, "tiny", known)


def quiet(message: str) -> None:
    pass


def assert_cached(cache: Path) -> None:
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == CONTENTS


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_source_fills_the_cache_once(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    gzipped: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack = gzip.compress if gzipped else bytes
    source = FakeSource("a fake", {name: pack(data) for name, data in CONTENTS.items()})
    add_tiny(monkeypatch, source)
    paths, sentence = fetch("tiny")
    assert list(paths) == list(FILE_NAMES)
    assert "a fake" in sentence
    assert_cached(cache)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Tiny: fetching 4 files from a fake\n"
    assert fetch("tiny")[0] == paths
    assert len(source.asked) == 1
    assert capsys.readouterr().err == ""


def test_the_next_source_brings_what_is_left(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dict(CONTENTS)
    broken[FILE_NAMES[2]] = gzip.compress(CONTENTS[FILE_NAMES[2]])[:-3]
    first, second = FakeSource("one", broken), FakeSource("two", CONTENTS)
    add_tiny(monkeypatch, first, second)
    _, sentence = fetch("tiny", progress=quiet)
    assert second.asked == [FILE_NAMES[2:]]
    assert "one and two" in sentence
    assert_cached(cache)


def test_wrong_contents_are_never_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login_page = dict.fromkeys(FILE_NAMES, b"<!DOCTYPE html>")
    add_tiny(monkeypatch, FakeSource("a captive portal", login_page))
    with pytest.raises(UserError, match=r"a captive portal.*another checksum.*data_dir"):
        fetch("tiny", progress=quiet)
    assert list(cache.iterdir()) == []


def test_an_interrupted_download_leaves_no_data(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tiny(monkeypatch, Interrupted("slow", CONTENTS))
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", progress=quiet)
    assert [path.name for path in cache.iterdir()] == [FILE_NAMES[0]]
    source = FakeSource("fast", CONTENTS)
    add_tiny(monkeypatch, source)
    fetch("tiny", progress=quiet)
    assert source.asked == [FILE_NAMES[1:]]
    assert_cached(cache)


@pytest.mark.parametrize("damage", [b"", CONTENTS[FILE_NAMES[1]][:-1], b"\x1f\x8bxx"])
def test_a_damaged_cache_is_repaired(
    cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    source = FakeSource("a fake", CONTENTS)
    add_tiny(monkeypatch, source)
    fetch("tiny", progress=quiet)
    (cache / FILE_NAMES[1]).write_bytes(damage)
    said: list[str] = []
    fetch("tiny", progress=said.append)
    assert source.asked[1:] == [(FILE_NAMES[1],)]
    assert "damaged" in said[0]
    assert_cached(cache)


def test_two_at_once_do_not_disturb_each_other(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(4, timeout=10)

    class Meeting(FakeSource):
        def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
            together.wait()
            super().bring(names, folder, accept)

    add_tiny(monkeypatch, Meeting("a fake", CONTENTS))
    got: list[str] = []
    threads = [
        threading.Thread(target=lambda: got.append(fetch("tiny", progress=quiet)[1]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(got) == 4
    assert_cached(cache)


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file where the folder should be")
    add_tiny(monkeypatch, FakeSource("a fake", CONTENTS))
    with pytest.raises(UserError, match=r"cannot write to the cache.*NULLCLASS_CACHE"):
        fetch("tiny", progress=quiet)


def test_a_full_disk_is_not_blamed_on_the_source(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    class Blamed(FakeSource):  # as the real ones: any OSError is a failure of theirs
        def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
            try:
                super().bring(names, folder, accept)
            except OSError as error:
                raise SourceError("failed") from error

    add_tiny(monkeypatch, Blamed("a fake", CONTENTS))
    monkeypatch.setattr(fetching, "_write", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        fetch("tiny", progress=quiet)


# The folder of the user


@pytest.mark.parametrize("inside", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_the_users_folder_wins(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    inside: str,
    dotted: bool,
    end: str,
) -> None:
    source = FakeSource("a fake", CONTENTS)
    add_tiny(monkeypatch, source)
    folder = write_dataset(tmp_path / "mine" / inside, ARRAYS, end=end, dotted=dotted)
    for name in ("tiny", "idx"):
        paths, sentence = fetch(name, tmp_path / "mine", quiet)
        assert {path.parent.resolve() for path in paths.values()} == {folder.resolve()}
        assert str(tmp_path / "mine") in sentence
    assert source.asked == []
    assert not cache.exists()


def test_an_incomplete_folder_is_an_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = FakeSource("a fake", CONTENTS)
    add_tiny(monkeypatch, source)
    folder = write_dataset(tmp_path / "mine", ARRAYS)
    (folder / FILE_NAMES[3]).unlink()
    for name in ("tiny", "idx"):
        with pytest.raises(UserError, match=f"lacks {FILE_NAMES[3]}: "):
            fetch(name, folder, quiet)
        with pytest.raises(UserError, match="is not a folder"):
            fetch(name, tmp_path / "nowhere", quiet)
    assert source.asked == []


def test_other_files_under_the_names_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_tiny(monkeypatch)
    changed = dict(ARRAYS)
    changed[FILE_NAMES[2]] = np.zeros_like(ARRAYS[FILE_NAMES[2]])
    folder = write_dataset(tmp_path / "mine", changed)
    with pytest.raises(UserError, match=f"is not Tiny's {FILE_NAMES[2]}.*replace it"):
        fetch("tiny", folder, quiet)
    fetch("idx", folder, quiet)


# Names


def test_names() -> None:
    with pytest.raises(UserError, match=r"did you mean mnist\?.*fashion-mnist, idx"):
        fetch("mnits")
    with pytest.raises(UserError, match=r"did you mean fashion-mnist\?"):
        fetch("Fashion_MNIST")
    with pytest.raises(UserError, match="choose one of"):
        fetch("cifar")
    with pytest.raises(UserError, match="data_dir"):
        fetch("idx")


def test_the_cache_folder_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NULLCLASS_CACHE", raising=False)
    assert cache_folder().name == "nullclass"


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_dataset_keeps_the_contract(name: str) -> None:
    known = DATASETS[name]
    assert known.name == name
    assert known.title
    assert len(set(known.class_names)) == len(known.class_names) >= 2
    assert set(known.md5) == set(FILE_NAMES)
    for md5 in known.md5.values():
        assert len(bytes.fromhex(md5)) == 16
    assert len(set(known.md5.values())) == 4
    assert known.subfolders[0] == "."
    assert known.sources
    for source in known.sources:
        assert source.label
        for url in getattr(source, "urls", ()):
            assert url.startswith(("https://", "http://"))
            assert url.endswith("/")
    if known.pixel_statistics is not None:
        mean, std = known.pixel_statistics
        assert 0 < mean < 1
        assert 0 < std <= 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        known.name = "other"  # type: ignore[misc]

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idx_files import idx_bytes, tiny_arrays, write_dataset

from nullclass.core.errors import UserError
from nullclass.data import DATASETS, FILE_NAMES, fetch, fetching, load_dataset
from nullclass.data.fetching import cache_folder, find_known
from nullclass.data.known import KnownDataset
from nullclass.data.sources import Accept, SourceError

ARRAYS = tiny_arrays()
CONTENTS = {name: idx_bytes(array) for name, array in ARRAYS.items()}


class FakeSource:
    """Has some files, and records what was requested."""

    def __init__(self, label: str, contents: dict[str, bytes]) -> None:
        self.label = label
        self.contents = contents
        self.requests: list[tuple[str, ...]] = []

    def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
        self.requests.append(tuple(sizes))
        for name in sizes:
            if name not in self.contents:
                raise SourceError(f"has no {name}")
            path = folder / "arrived"
            path.write_bytes(self.contents[name])
            accept(name, path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NULLCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tiny"


def add_tiny(monkeypatch: pytest.MonkeyPatch, *sources: FakeSource) -> None:
    known = KnownDataset(
        title="Tiny",
        class_names=("a", "b", "c", "d"),
        md5={name: hashlib.md5(contents).hexdigest() for name, contents in CONTENTS.items()},
        sizes={name: len(contents) for name, contents in CONTENTS.items()},
        sources=sources,
        subfolders=DATASETS["mnist"].subfolders,
    )
    monkeypatch.setitem(DATASETS, "tiny", known)


def ignore(line: str) -> None:
    pass


def assert_cached(cache: Path) -> None:
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == CONTENTS


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_source_fills_the_cache_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, pack: object, capsys: pytest.CaptureFixture[str]
) -> None:
    source = FakeSource("a fake", {name: pack(data) for name, data in CONTENTS.items()})  # type: ignore[operator]
    add_tiny(monkeypatch, source)
    paths, sentence = fetch("tiny")
    assert list(paths) == list(FILE_NAMES)
    assert "a fake" in sentence
    assert_cached(cache)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Tiny: fetching 4 files from a fake\n")
    assert fetch("tiny") == (paths, "Tiny from the cache, checksums verified")
    assert len(source.requests) == 1
    assert capsys.readouterr().err == ""


def test_the_next_source_brings_the_rest(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = gzip.compress(CONTENTS[FILE_NAMES[2]])[:-3]
    first, second = FakeSource("one", CONTENTS | {FILE_NAMES[2]: cut}), FakeSource("two", CONTENTS)
    add_tiny(monkeypatch, first, second)
    _, sentence = fetch("tiny", progress=ignore)
    assert second.requests == [FILE_NAMES[2:]]
    assert "one and two" in sentence
    assert_cached(cache)


def test_wrong_content_is_never_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login_page = dict.fromkeys(FILE_NAMES, b"<!DOCTYPE html>")
    add_tiny(monkeypatch, FakeSource("a captive portal", login_page))
    with pytest.raises(UserError, match=r"a captive portal.*another checksum.*give it as the data"):
        fetch("tiny", progress=ignore)
    assert not cache.parent.exists(), "what was made for nothing is removed"
    cache.parent.mkdir()
    with pytest.raises(UserError, match="another checksum"):
        fetch("tiny", progress=ignore)
    assert list(cache.parent.iterdir()) == []


def test_what_expands_beyond_the_known_size_is_not_expanded(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bombs = {name: gzip.compress(content + bytes(10**7), 1) for name, content in CONTENTS.items()}
    add_tiny(monkeypatch, FakeSource("a bomb", bombs))
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, bomb in bombs.items():
        (mine / f"{name}.gz").write_bytes(bomb)
    written: list[int] = []
    chunks = fetching.content_chunks

    def counted(*arguments: Any, **options: Any) -> Iterator[bytes]:
        for chunk in chunks(*arguments, **options):
            written.append(len(chunk))
            yield chunk

    monkeypatch.setattr(fetching, "content_chunks", counted)
    with pytest.raises(UserError, match="another checksum"):
        fetch("tiny", progress=ignore)
    assert sum(written) <= 2 * (len(CONTENTS[FILE_NAMES[0]]) + 1), "fetched, checked"
    assert find_known(mine) is None
    assert max(written) <= 10_009, "the size of the smallest file of MNIST, and one byte"


def test_an_interrupted_download_leaves_no_half_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FakeSource):
        """Ctrl-C in the middle of the second file."""

        def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
            first, second, *_ = sizes
            super().fetch({first: sizes[first]}, folder, accept)
            (folder / second).write_bytes(self.contents[second][:50])
            raise KeyboardInterrupt

    add_tiny(monkeypatch, Interrupted("slow", CONTENTS))
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", progress=ignore)
    assert [path.name for path in cache.iterdir()] == [FILE_NAMES[0]]
    source = FakeSource("fast", CONTENTS)
    add_tiny(monkeypatch, source)
    fetch("tiny", progress=ignore)
    assert source.requests == [FILE_NAMES[1:]]
    assert_cached(cache)


def test_what_killed_downloads_left_is_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tiny(monkeypatch, FakeSource("a fake", CONTENTS))
    for name, age in (("old", 2 * 86_400), ("young", 60)):
        left = cache / f".fetching-{name}"
        left.mkdir(parents=True)
        (left / "0-half.gz").write_bytes(b"half")
        os.utime(left, (time.time() - age,) * 2)
    fetch("tiny", progress=ignore)
    assert {path.name for path in cache.iterdir()} == {".fetching-young", *FILE_NAMES}


@pytest.mark.parametrize("damage", [b"", CONTENTS[FILE_NAMES[1]][:-1], b"\x1f\x8bxx"])
def test_a_damaged_cache_is_repaired(
    cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    source = FakeSource("a fake", CONTENTS)
    add_tiny(monkeypatch, source)
    fetch("tiny", progress=ignore)
    (cache / FILE_NAMES[1]).write_bytes(damage)
    lines: list[str] = []
    fetch("tiny", progress=lines.append)
    assert source.requests[1:] == [(FILE_NAMES[1],)]
    assert "damaged" in lines[0]
    assert_cached(cache)


def test_simultaneous_downloads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=10)

    class Meeting(FakeSource):
        def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
            together.wait()
            super().fetch(sizes, folder, accept)

    add_tiny(monkeypatch, Meeting("a fake", CONTENTS))
    done: list[str] = []
    threads = [
        threading.Thread(target=lambda: done.append(fetch("tiny", progress=ignore)[1]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 4
    assert_cached(cache)


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blamed(FakeSource):  # like real sources, which turn any OSError into a failure
        def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
            try:
                super().fetch(sizes, folder, accept)
            except OSError as error:
                raise SourceError("failed") from error

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    add_tiny(monkeypatch, Blamed("a fake", CONTENTS))
    with monkeypatch.context() as patched:
        patched.setattr(fetching, "content_chunks", full)
        with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
            fetch("tiny", progress=ignore)
    cache.rmdir()
    cache.parent.rmdir()
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write to the cache.*NULLCLASS_CACHE"):
        fetch("tiny", progress=ignore)


def test_the_users_folder_comes_first(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = FakeSource("a fake", CONTENTS)
    add_tiny(monkeypatch, source)
    spellings = [(dotted, end) for dotted in (False, True) for end in ("", ".gz")]
    for number, (dotted, end) in enumerate(spellings):
        for inside in (".", "raw", "MNIST/raw"):
            mine = tmp_path / f"mine{number}{inside[0]}"
            folder = write_dataset(mine / inside, ARRAYS, end=end, dotted=dotted)
            found = find_known(mine)
            assert found is not None
            assert found[0] == "tiny"
            assert {path.parent.resolve() for path in found[1].values()} == {folder.resolve()}
            dataset = load_dataset(mine, validation=0)
            assert (dataset.name, dataset.class_names) == ("tiny", ("a", "b", "c", "d"))
            assert str(mine) in dataset.source
    assert source.requests == []
    assert not cache.exists()


def test_bad_folders(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = FakeSource("a fake", CONTENTS)
    add_tiny(monkeypatch, source)
    lacking = write_dataset(tmp_path / "lacking", ARRAYS)
    (lacking / FILE_NAMES[3]).unlink()
    with pytest.raises(UserError, match=f"lacks {FILE_NAMES[3]}: "):
        load_dataset(lacking, validation=0)
    with pytest.raises(UserError, match="there is no dataset, folder or file"):
        load_dataset(tmp_path / "nowhere", validation=0)
    others = ARRAYS | {FILE_NAMES[2]: np.zeros_like(ARRAYS[FILE_NAMES[2]])}
    folder = write_dataset(tmp_path / "tiny", others)
    dataset = load_dataset(folder, validation=0)
    assert dataset.name == "tiny (IDX files)", "never the name of a known dataset"
    assert source.requests == []


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"did you mean mnist\?.*fashion-mnist, cifar10"):
        fetch("mnits")
    with pytest.raises(UserError, match=r"did you mean fashion-mnist\?"):
        fetch("Fashion_MNIST")
    for name in ("cifar", "x" * 10**5, "", None, 3, ["mnist"]):
        with pytest.raises(UserError, match=r"there is no dataset .*: choose one of"):
            fetch(name)  # type: ignore[arg-type]
    for name in ("x" * 10**5, "", None, 3, ["mnist"], "a\0b"):
        with pytest.raises(UserError, match=r"data must be a path|too long|there are no data"):
            load_dataset(name)  # type: ignore[arg-type]
    monkeypatch.delenv("NULLCLASS_CACHE", raising=False)
    assert cache_folder().name == "nullclass"


@pytest.mark.parametrize("known", DATASETS.values(), ids=DATASETS)
def test_known_datasets(known: KnownDataset) -> None:
    assert len(set(known.class_names)) == len(known.class_names) >= 2
    assert set(known.md5) == set(known.sizes)
    assert known.is_idx == (set(known.md5) == set(FILE_NAMES))
    assert {len(bytes.fromhex(md5)) for md5 in known.md5.values()} == {16}
    assert len(set(known.md5.values())) == len(known.md5)
    assert known.subfolders[0] == "."
    for source in known.sources:
        assert source.label
        for url in getattr(source, "urls", ()):
            assert url.startswith(("https://", "http://"))
            assert url.endswith("/")
    with pytest.raises(dataclasses.FrozenInstanceError):
        known.title = "other"  # type: ignore[misc]

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import make_folder, read_json, replacing, sha256, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    write_text(path, "ε\n")
    assert path.read_text(encoding="utf-8") == "ε\n"
    assert names(path.parent) == ["file.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, "as if opened plainly"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_what_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(CannotWriteError if error is OSError else error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (
        lambda: write_text(tmp_path / "file" / "x.txt", ""),
        lambda: write_json(tmp_path / "file" / "x" / "y.json", {}),
        lambda: make_folder(tmp_path / "file"),
        lambda: make_folder(tmp_path / "file" / "x"),
    ):
        with pytest.raises(CannotWriteError, match=r"cannot write .* choose another"):
            write()
    with pytest.raises(CannotWriteError, match="cannot write"):
        write_text(tmp_path, "a folder has the name")
    assert names(tmp_path) == ["file"]


def test_make_folder_leaves_it_empty(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a" / "b")
    assert names(folder) == []
    assert make_folder(folder) == folder


def test_json_round_trip(tmp_path: Path) -> None:
    content = {"ε": [1, 2.5, None], "nested": {"yes": True}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json", "test") == content


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is missing, so there is no model card there"),
        ("{", "cannot be read as the model card"),
        ("", "cannot be read as the model card"),
        ("[1]", "is not a model card"),
        ("\udcff", "cannot be read as the model card"),
    ],
)
def test_bad_json(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "card.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=says):
        read_json(path, "model card")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()

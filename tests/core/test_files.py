from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import (
    LOCK,
    TEMPORARY,
    locked,
    locked_file,
    make_folder,
    replacing,
    write_text,
)
from nullclass.core.paths import sha256


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    write_text(path, "ε\n")
    assert path.read_text(encoding="utf-8") == "ε\n"
    assert names(path.parent) == ["file.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, "as if opened plainly"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
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
        lambda: write_text(tmp_path / "file" / "x" / "y.json", ""),
        lambda: make_folder(tmp_path / "file"),
        lambda: make_folder(tmp_path / "file" / "x"),
    ):
        with pytest.raises(CannotWriteError, match=r"cannot write .* choose another"):
            write()
    with pytest.raises(CannotWriteError, match="cannot write"):
        write_text(tmp_path, "a folder has the name")
    assert names(tmp_path) == ["file"]


def test_make_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a" / "b")
    assert names(make_folder(folder)) == []


def test_a_locked_folder_has_one_place_for_temporary_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stale = folder / TEMPORARY / "deep" / "file"
    write_text(stale, "of a killed process")
    with locked(folder):
        assert not stale.exists()
        with replacing(folder / "sub" / "x.txt") as temporary:
            temporary.write_text("new")
            assert temporary.parent == folder / TEMPORARY
        with replacing(tmp_path / "outside.txt") as temporary:
            assert temporary.parent == tmp_path
    assert names(folder) == [LOCK, "sub"]
    assert names(folder / "sub") == ["x.txt"]
    with locked_file(tmp_path / "y.csv"):
        write_text(tmp_path / "y.csv", "y")
    assert names(tmp_path) == ["outside.txt", "run", "y.csv"]


def test_a_refused_command_leaves_nothing(tmp_path: Path) -> None:
    for lock, path in ((locked, tmp_path / "a" / "b"), (locked_file, tmp_path / "c" / "d.csv")):
        with pytest.raises(UserError, match="refused"), lock(path):
            raise UserError("refused")
    assert names(tmp_path) == []


def test_a_refused_command_leaves_the_lock_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with locked(folder):
        for _ in range(2):
            with pytest.raises(UserError, match="another process"), locked(folder):
                pass
        assert (folder / LOCK).exists()
    assert not folder.exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    write_text(victim / "file", "precious")
    folder.mkdir()
    (folder / TEMPORARY).symlink_to(victim)
    with locked(folder):
        write_text(folder / "x", "")
    (folder / LOCK).unlink()
    (folder / LOCK).symlink_to(victim / "file")
    with pytest.raises(UserError, match="is not a regular file"), locked(folder):
        pass
    assert (victim / "file").read_text() == "precious"
    assert names(victim) == ["file"]


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from nullclass.core.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(UserError, match="another process is writing to"),
            locked(tmp_path),
        ):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()

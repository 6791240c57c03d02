"""Output files and folders of commands: checked before the work, locked during it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nullclass.core.errors import DamagedStateError, UserError
from nullclass.core.files import LOCK, TEMPORARY, cannot_write, locked, locked_file, remove
from nullclass.results.schema import PARTS, STATE
from nullclass.training.card import CARD

if TYPE_CHECKING:
    from nullclass.scoring.parts import Parts

T = TypeVar("T")


@contextmanager
def checkpoint_folder(folder: Path) -> Iterator[None]:
    """Lock the output folder of a training: a new or empty one, or that of the same training.

    Raises:
        UserError: If it holds something else, cannot be written, or another process writes there.
    """
    check_output(folder)
    _check_free(folder)  # first, so that a folder of something else gets no lock file
    with locked(folder):
        _check_free(folder)
        yield


@contextmanager
def output_file(path: Path | None) -> Iterator[None]:
    """Lock an output file, if there is one.

    Raises:
        UserError: If something else is there, it cannot be written, or another process writes it.
    """
    if path is None:
        yield
        return
    check_output(path, is_file=True)
    with locked_file(path):
        yield


@contextmanager
def kept_parts(output: Path | None) -> Iterator[Parts]:
    """Keep what is finished beside an output file until that is written; without one, nothing.

    The same command, repeated after an interruption, goes on from there.
    """
    from nullclass.scoring.parts import NOTHING, Parts

    if output is None:
        yield NOTHING
        return
    folder = output.with_name(f".{output.name}{PARTS}")
    yield Parts(folder)
    remove(folder)


def restarting(path: Path, work: Callable[[], T]) -> T:
    """Do work that resumes from a saved state; if the state is damaged, start again."""
    try:
        return work()
    except DamagedStateError:
        print(f"nullclass: {path} is damaged, so the work starts again", file=sys.stderr)
        remove(path)
        return work()


def check_output(path: Path, *, is_file: bool = False) -> None:
    """Check that a folder or file can be written, before any work. Creates nothing.

    Raises:
        UserError: If something else is there, or its folder cannot be written.
    """
    try:
        folder = _existing(path.absolute())
        if is_file and folder == path.absolute():
            if not path.is_file():
                raise UserError(f"{path} is not a regular file: choose another --out")
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise cannot_write(path, error) from None


def _existing(path: Path) -> Path:
    """Return the path, or the innermost of its parents that exists."""
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path} is a broken symbolic link: choose another --out") from None
        return _existing(path.parent)
    return path


def names_in(folder: Path) -> set[str]:
    """Return the names in a folder, if there is one, besides our lock and temporary files."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return names - {LOCK, TEMPORARY}


def _check_free(folder: Path) -> None:
    """Refuse a folder that holds something else than an unfinished training."""
    names = names_in(folder)
    if not names or STATE in names:
        return
    if CARD in names:
        raise UserError(f"{folder} holds a checkpoint already: choose another --out")
    raise UserError(
        f"{folder} holds {min(names)!r}, which is of no unfinished training: choose another --out, "
        "or empty that folder"
    )

"""Writes files atomically and locks folders, with disk errors as one sentence."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nullclass.core.errors import CannotWriteError, UserError

LOCK = ".lock"
"""File in a folder that the process writing there has locked."""

TEMPORARY = ".tmp"
"""Folder for the temporary files of a locked folder."""


@dataclass(frozen=True)
class _Workplace:
    """Where temporary files of a folder or file are."""

    scope: Path
    temporary: Path

    def covers(self, path: Path) -> bool:
        return path == self.scope or self.scope in path.parents


_workplace: ContextVar[_Workplace | None] = ContextVar("workplace", default=None)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; without an error it is renamed to ``path``.

    In a folder of :func:`locked` or :func:`working_in` the temporary file is in its
    :data:`TEMPORARY` folder, elsewhere beside ``path``.

    Raises:
        CannotWriteError: If the folder cannot be created or written to, or the disk is full.
    """
    temporary: Path | None = None
    place = _workplace.get()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path.parent
        if place is not None and place.covers(path.absolute()):
            folder = place.temporary
            folder.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # content before name, in case of a power cut
        os.replace(temporary, path)
    except Exception as error:
        # safetensors has its own disk errors; to import it here would load NumPy for every help
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise cannot_write(path, error) from error
        raise
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; raises like :func:`replacing`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; raises like :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def cannot_write(path: Path, error: Exception) -> CannotWriteError:
    """Return a disk error as one sentence."""
    reason = getattr(error, "strerror", None) or error
    return CannotWriteError(
        f"cannot write {path}: {reason}; choose another output folder or make room there"
    )


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there; symbolic links are removed, not followed.

    Raises:
        CannotWriteError: If it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def make_folder(folder: Path) -> Path:
    """Create a folder, test that it can be written to, and return it.

    Raises:
        CannotWriteError: If it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(4096))  # an empty file fits on a full disk
    except (OSError, ValueError) as error:
        raise cannot_write(folder, error) from error
    return folder


@contextmanager
def locked(folder: Path, part: str = "", wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, created if needed, and remove its stale temporary files.

    ``part`` names a lock of its own, for files that another process may write meanwhile. ``wait``
    is how many seconds to wait for another process.

    The system releases the lock when the process ends, even if killed. A folder that was created
    here and is empty in the end is removed again.

    Raises:
        UserError: If another process holds the lock, or the folder cannot be written.
    """
    with ExitStack() as stack:
        stack.callback(_remove_empty, _missing(folder))
        make_folder(folder)
        lock = folder / f"{part}{LOCK}"
        stack.enter_context(_lock(lock, folder, wait))
        # while it is held: once released, it may be another process's
        if part:
            stack.callback(lock.unlink, missing_ok=True)
        else:
            stack.callback(_remove_lock_alone, folder)
        temporary = folder.absolute() / f"{part}{TEMPORARY}"
        stack.enter_context(_working(_Workplace(folder.absolute(), temporary)))
        yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold the lock of an output file, ``.NAME.lock``; as :func:`locked` for one file.

    Raises:
        UserError: If another process holds the lock, or the file cannot be written.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is not a regular file: choose another output file")
    folder, absolute = path.parent, path.absolute()
    with ExitStack() as stack:
        stack.callback(_remove_empty, _missing(folder))
        make_folder(folder)
        lock = folder / f".{path.name}{LOCK}"
        stack.enter_context(_lock(lock, path))
        stack.callback(lock.unlink, missing_ok=True)
        place = _Workplace(absolute, absolute.parent / f".{path.name}{TEMPORARY}")
        stack.enter_context(_working(place))
        yield


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Use the temporary folder of a folder that another process has locked."""
    token = _workplace.set(_Workplace(folder.absolute(), folder.absolute() / TEMPORARY))
    try:
        yield
    finally:
        _workplace.reset(token)


@contextmanager
def _working(place: _Workplace) -> Iterator[None]:
    remove(place.temporary)
    token = _workplace.set(place)
    try:
        yield
    finally:
        _workplace.reset(token)
        with suppress(CannotWriteError):
            remove(place.temporary)


@contextmanager
def _lock(path: Path, target: Path, wait: float = 0.0) -> Iterator[None]:
    """Lock a file, which must be a regular one or missing."""
    lock = FileLock(path, timeout=wait)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise UserError(f"{path} is not a regular file: remove it, or choose another --out")
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is writing to {target}: wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        yield
    finally:
        lock.release()


def _remove_lock_alone(folder: Path) -> None:
    """Remove the lock file if nothing else is in the folder."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()


def _missing(folder: Path) -> list[Path]:
    """Return the folder and its parents that do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that are empty, innermost first."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()

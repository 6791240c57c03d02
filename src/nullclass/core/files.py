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
    with _holding(folder, folder / f"{part}{LOCK}", folder / f"{part}{TEMPORARY}", wait):
        yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold the lock of an output file, ``.NAME.lock``; as :func:`locked` for one file.

    Raises:
        UserError: If another process holds the lock, or the file cannot be written.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is not a regular file: choose another output file")
    folder, name = path.parent, f".{path.name}"
    with _holding(path, folder / f"{name}{LOCK}", folder / f"{name}{TEMPORARY}"):
        yield


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Use the temporary folder of a folder that another process has locked."""
    with _working(folder, folder / TEMPORARY):
        yield


@contextmanager
def _holding(target: Path, lock: Path, temporary: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder or file, with an empty folder for its temporary files."""
    with ExitStack() as stack:
        stack.callback(_remove_empty, _missing(lock.parent))
        make_folder(lock.parent)
        stack.enter_context(_lock(lock, target, wait))
        # while it is held: once released, it may be another process's
        stack.callback(_remove_lock, lock)
        remove(temporary)
        stack.callback(_remove_if_possible, temporary)
        stack.enter_context(_working(target, temporary))
        yield


@contextmanager
def _working(scope: Path, temporary: Path) -> Iterator[None]:
    """Use a folder for the temporary files of what is in ``scope``."""
    token = _workplace.set(_Workplace(scope.absolute(), temporary.absolute()))
    try:
        yield
    finally:
        _workplace.reset(token)


def _remove_if_possible(path: Path) -> None:
    with suppress(CannotWriteError):
        remove(path)


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


def _remove_lock(lock: Path) -> None:
    """Remove a lock file; that of a folder only if nothing else is in the folder."""
    with suppress(OSError):
        if lock.name != LOCK or [path.name for path in lock.parent.iterdir()] == [LOCK]:
            lock.unlink()


def _missing(folder: Path) -> list[Path]:
    """Return the folder and its parents that do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that are empty, innermost first."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()

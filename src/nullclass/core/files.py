"""Reads and writes files atomically, with disk errors as one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from nullclass.core.errors import CannotWriteError, UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; without an error it is renamed to ``path``.

    Raises:
        CannotWriteError: If the folder cannot be created or written to, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # content before name, in case of a power cut
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors has its own disk errors
        reason = getattr(error, "strerror", None) or error
        raise CannotWriteError(
            f"cannot write {path}: {reason}; choose another output folder or make room there"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; raises like :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; raises like :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON atomically; raises like :func:`replacing`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: If the file is missing, unreadable or not a JSON object. The message calls the
            file ``what``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing, so there is no {what} there") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the {what}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a {what}: expected a JSON object")
    return content


def make_folder(folder: Path) -> Path:
    """Create a folder, test that it can be written to, and return it.

    Raises:
        CannotWriteError: If it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(4096))  # an empty file fits on a full disk
    except OSError as error:
        raise CannotWriteError(
            f"cannot write to the folder {folder}: {error.strerror or error}; choose another --out"
        ) from error
    return folder


LOCK = ".lock"
"""File of :func:`locked` in a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system releases it when the process ends, even if killed.

    Raises:
        UserError: If another process holds it, or the folder cannot be locked.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is writing to {folder}: wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise CannotWriteError(
            f"cannot write {folder / LOCK}: {error.strerror or error}; choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""File names from names, paths that stay inside a folder, and regular files only."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from io import BufferedReader
from pathlib import Path

from nullclass.core.errors import UserError

NAME_LENGTH = 100
"""Most characters of a file name made from a name."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]")


def file_name(text: str) -> str:
    """Return a safe file name, the text itself if it is one.

    Letters, digits and ``. _ + = -`` are kept, others become ``_``. A changed or shortened name
    ends with a hash of the text, so different texts have different names.
    """
    safe = _UNSAFE.sub("_", text)
    if safe[:1] in ("", "."):
        safe = f"_{safe[1:]}"
    if safe == text and len(safe) <= NAME_LENGTH:
        return safe
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe[: NAME_LENGTH - 9]}-{digest}"


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file or folder below a folder.

    Args:
        folder: The folder.
        name: Names separated by ``/``, from a file or a user.

    Raises:
        UserError: If the name is not relative, holds ``..`` or a character that no file name may
            have, or leads through a symbolic link.
    """
    parts = name.split("/")
    is_safe = all(part not in ("", ".", "..") and part == file_name(part) for part in parts)
    if not is_safe:
        raise UserError(f"{name!r} is not the name of a file in {folder}")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link, which nullclass does not follow here")
    return path


def open_regular(path: Path, what: str) -> BufferedReader:
    """Open a file for reading; anything but a regular file is refused without waiting for it.

    Args:
        path: The file.
        what: What it holds, for the error.

    Raises:
        UserError: If it is missing, unreadable, or a folder, pipe, socket or device.
    """
    try:
        # a pipe without a writer would block
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise UserError(f"{path} is missing (the {what})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as the {what}: {reason}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path} is not a regular file, so it cannot be read as the {what}")
    return os.fdopen(handle, "rb")


def check_regular(path: Path, what: str) -> Path:
    """Return the path of a regular file; for libraries that open files themselves.

    Raises:
        UserError: As :func:`open_regular`.
    """
    open_regular(path, what).close()
    return path


def read_bytes(path: Path, what: str, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        UserError: As :func:`open_regular`, or if it is larger.
    """
    with open_regular(path, what) as file:
        try:
            size = os.fstat(file.fileno()).st_size  # read(n) allocates n bytes
            content = file.read(min(size, limit) + 1)
        except OSError as error:
            raise UserError(f"{path} cannot be read as the {what}: {error.strerror}") from None
    if len(content) > limit:
        raise UserError(f"{path} has over {limit:,} bytes, too many for a {what}")
    return content


def sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file's content, in hexadecimal.

    Raises:
        UserError: As :func:`open_regular`.
    """
    with open_regular(path, "file") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None

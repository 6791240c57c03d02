"""Writes and reads tensors as safetensors, states of unfinished work with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nullclass.core.documents import Schema, parse
from nullclass.core.errors import DamagedStateError, StateError, UserError
from nullclass.core.files import replacing
from nullclass.core.paths import open_regular

HEADER_LIMIT = 2**22
"""Most bytes of a file's header: some 30,000 tensors."""

_UNSIGNED = b"0" * 64
"""Placeholder of the checksum in the content that is hashed."""

S = TypeVar("S", bound=Schema)


def tensor_sha256(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's values, of any type."""
    content = values.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()


def stored_copy(tensor: Tensor) -> Tensor:
    """Return a copy to store: safetensors refuses tensors that share memory, as tied layers."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device and layout atomically.

    Raises:
        CannotWriteError: As :func:`nullclass.core.files.replacing`.
    """
    with replacing(path) as temporary:
        _save(temporary, tensors, None)


def check_header(path: Path, what: str) -> None:
    """Refuse a file whose header would take much memory; anything but a regular file too.

    Raises:
        UserError: If it is missing, no regular file, or its header is too large.
    """
    with open_regular(path, what) as file:
        size = int.from_bytes(file.read(8), "little")
    if size > HEADER_LIMIT:
        raise UserError(
            f"{path} is damaged: its header has {size:,} bytes, too many for the {what}"
        )


def save_state(path: Path, fingerprint: str, tensors: Mapping[str, Tensor], info: Schema) -> None:
    """Write the state of unfinished work atomically, with a checksum of the file.

    Args:
        path: The file.
        fingerprint: A hash of everything that decides the result, so that no other work resumes it.
        tensors: Tensors by name.
        info: Other values.

    Raises:
        CannotWriteError: As :func:`nullclass.core.files.replacing`.
    """
    metadata = {
        "checksum": _UNSIGNED.decode(),
        "fingerprint": fingerprint,
        "info": msgspec.json.encode(info).decode(),
    }
    with replacing(path) as temporary:
        _save(temporary, tensors, metadata)
        position, digest = _checksum(temporary)
        with temporary.open("r+b") as file:
            file.seek(position)
            file.write(digest)


def load_state(path: Path, fingerprint: str, schema: type[S]) -> tuple[S, dict[str, Tensor]]:
    """Return the values and the tensors that :func:`save_state` wrote.

    Raises:
        DamagedStateError: If it is not what was written.
        StateError: If it has another fingerprint.
    """
    try:
        check_header(path, "state")
        position, digest = _checksum(path)
        with path.open("rb") as file:
            file.seek(position)
            if file.read(len(digest)) != digest:
                raise UserError("it has changed since it was written")
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
        if metadata.get("fingerprint") == fingerprint:
            return parse(metadata.get("info", ""), schema, "its description"), tensors
    except (SafetensorError, OSError, UserError) as error:
        raise DamagedStateError(f"{path} is damaged ({error}): remove it to start again") from None
    raise StateError(
        f"{path} belongs to a training with other settings or data: choose another output folder, "
        "or remove that file to start again"
    )


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
    copies = {name: stored_copy(tensor) for name, tensor in tensors.items()}
    save_file(copies, path, metadata=metadata)


def _checksum(path: Path) -> tuple[int, bytes]:
    """Return where a state's checksum is in the file, and the checksum of its content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.read(8)
        header = file.read(min(int.from_bytes(size, "little"), HEADER_LIMIT))
        mark = b'"checksum":"'
        start = header.find(mark) + len(mark)
        if start < len(mark) or len(header) < start + len(_UNSIGNED):
            raise UserError("it has no checksum")
        digest.update(size + header[:start] + _UNSIGNED + header[start + len(_UNSIGNED) :])
        while chunk := file.read(2**20):
            digest.update(chunk)
    return len(size) + start, digest.hexdigest().encode()

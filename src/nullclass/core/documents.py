"""Reads and writes JSON files through typed schemas; the only reader of JSON files.

A document carries a SHA-256 of its own text. It guards against damage and edits by mistake, not
against forgery: whoever changes a document on purpose can write its checksum too.
"""

from __future__ import annotations

import hashlib
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from nullclass.core.errors import UserError
from nullclass.core.files import write_bytes
from nullclass.core.paths import read_bytes

LIMIT = 64 * 2**20
"""Most bytes of a document."""

DEPTH = 64
"""Most levels of nested lists and objects."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A whole number that fits into a column of a table."""

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""In hexadecimal."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[][{}]+")
_LEVEL = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a document: typed fields, and no others."""


class Document(Schema, frozen=True, kw_only=True):
    """A JSON file."""

    checksum: str = ""
    """SHA-256 of the file's text with an empty ``checksum``; written by :func:`write_document`."""


T = TypeVar("T")
D = TypeVar("D", bound=Document)


def parse(content: bytes | str, schema: type[T], what: str) -> T:
    """Return a value from JSON text, which must have the types of the schema.

    Args:
        content: JSON, without NaN and infinity.
        schema: A type that msgspec can decode, such as a :class:`Schema`.
        what: Name of the text, for the error.

    Raises:
        UserError: If it is not JSON or has another structure.
    """
    try:
        raw = content.encode() if isinstance(content, str) else content
        brackets = b"".join(_BRACKETS.findall(_STRING.sub(b"", raw)))
        levels = accumulate(_LEVEL[bracket] for bracket in brackets)
        if max(levels, default=0) > DEPTH:
            raise UserError(f"{what} is nested over {DEPTH} levels deep")
        return msgspec.json.decode(raw, type=schema)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UserError(f"{what} is damaged or of another version: {error}") from None


def json_values(value: Any, what: str = "this") -> Any:
    """Return a value as JSON holds it (:func:`to_json`): dictionaries, lists, text and numbers.

    Raises:
        UserError: If it holds something else, or text that is not Unicode.
    """
    return msgspec.json.decode(to_json(value, what))


def to_json(value: Any, what: str = "this") -> bytes:
    """Return the JSON of a value; NaN is null, NumPy's scalars are numbers.

    Raises:
        UserError: As :func:`json_values`.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{what} must hold JSON values (numbers, text, lists and dictionaries): {error}"
        ) from None


def write_document(path: Path, document: Document) -> None:
    """Write a document atomically, with its checksum.

    Raises:
        UserError: If a field holds no JSON value.
        CannotWriteError: If the file cannot be written.
    """
    write_bytes(path, encode(document))


def encode(document: Document) -> bytes:
    """Return a document's text with its checksum.

    Raises:
        UserError: If a field holds no JSON value.
    """
    values = json_values(document)
    text = _formatted(values | {"checksum": ""})
    return _formatted(values | {"checksum": hashlib.sha256(text).hexdigest()})


def read_document(path: Path, schema: type[D], what: str) -> D:
    """Read what :func:`write_document` wrote.

    Args:
        path: The file.
        schema: Its type.
        what: What it describes, for the error.

    Raises:
        UserError: If it is missing, no regular file, too large, damaged or of another structure.
    """
    content = read_bytes(path, what, LIMIT)
    document = parse(content, schema, f"{path} (the {what})")
    stated = f'"checksum": "{document.checksum}"'.encode(errors="replace")
    text = content.replace(stated, b'"checksum": ""', 1)
    if hashlib.sha256(text).hexdigest() != document.checksum:
        raise UserError(
            f"{path} (the {what}) is damaged: it has changed since it was written; restore it from "
            "a copy, or write it again in a new place"
        )
    return document


def or_nan(value: float | None) -> float:
    """Return a number read from JSON, which has no NaN."""
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """Return the plain value of a scalar of NumPy."""
    if type(value).__module__ == "numpy" and value.shape == ():
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _formatted(values: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n"

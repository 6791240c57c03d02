"""Wrong JSON by a fixed grammar: each value of a document replaced, removed or joined by others.

Changed files get valid checksums, so that it is the schema that is tested.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HERE = "\uf8ff"
"""A character that no document has; where raw text is put."""

RAW = {
    "null": "null",
    "true": "true",
    "minus one": "-1",
    "zero": "0",
    "float": "1.5",
    "over 64 bits": str(2**63),
    "ten to the 30": str(10**30),
    "5000 digits": "9" * 5000,
    "1e999": "1e999",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "empty text": '""',
    "text": '"else"',
    "path": '"../../../victim"',
    "absolute path": '"/nowhere/victim"',
    "NUL": r'"a\u0000b"',
    "newline": r'"a\nb"',
    "lone surrogate": r'"\ud800"',
    "long text": f'"{"x" * 20000}"',
    "empty list": "[]",
    "empty object": "{}",
    "list of text": '["else"]',
    "object": '{"else": [1]}',
    "deep list": "[" * 3000 + "]" * 3000,
}
"""Name and JSON text of what replaces a value."""


def faults_of_values(text: str) -> Iterator[tuple[str, str]]:
    """Yield a description and the text of the document with one wrong value, for all values."""
    document = json.loads(text)
    for path in _paths(document):
        for name, raw in RAW.items():
            changed = _changed(document, path, _HERE)
            yield f"{_spelled(path)} is {name}", _text(changed).replace(f'"{_HERE}"', raw)
        if path:
            yield f"{_spelled(path)} is missing", _text(_changed(document, path, None, remove=True))
        if isinstance(_at(document, path), dict):
            more = {**_at(document, path), "unknown": 1}
            yield f"{_spelled(path)} has one more", _text(_changed(document, path, more))


def faults_of_files(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a description and the bytes of files that are no document at all, or twice."""
    text = content.decode()
    first = re.search(r'"[^"]+":[^\n]+\n', text)
    assert first is not None
    yield "empty", b""
    yield "blank", b" \n"
    yield "byte order mark", b"\xef\xbb\xbf" + content
    yield "UTF-16", text.encode("utf-16")
    yield "Latin-1", content.replace(b'": "', b'": "\xe9', 1)
    yield "NUL bytes", bytes(len(content))
    yield "truncated", content[: len(content) // 2]
    yield "without the end", content.rstrip()[:-1]
    yield "twice", content + content
    yield "more after it", content + b"x"
    yield "duplicate key", text.replace(first[0], first[0].replace("\n", "") + first[0], 1).encode()
    yield "comment", b"// text\n" + content
    yield "single quotes", content.replace(b'"', b"'")
    yield "trailing comma", re.sub(rb"\n}\s*$", b",\n}\n", content)
    yield "list", b"[" + content + b"]"
    yield "null", b"null"
    yield "number", b"1"
    yield "text", b'"text"'
    yield "100000 lists", b"[" * 100000
    yield "100000 objects", b'{"a":' * 100000
    yield "long key", b'{"' + b"k" * 10**6 + b'": 1}'


def some_paths(text: str) -> int:
    """Number of values of a document."""
    return sum(1 for _ in _paths(json.loads(text)))


# Checksums


def with_checksum(content: bytes, before: bytes) -> bytes:
    """Return a changed document with a valid checksum in place of that of the unchanged one."""
    try:
        old = json.loads(before).get("checksum")
    except (ValueError, AttributeError):
        return content
    stated = f'"checksum": "{old}"'.encode()
    if not old or stated not in content:
        return content
    blank = content.replace(stated, b'"checksum": ""', 1)
    digest = hashlib.sha256(blank).hexdigest()
    return content.replace(stated, f'"checksum": "{digest}"'.encode(), 1)


def write_with_checksum(folder: Path, path: Path, content: bytes, before: bytes) -> None:
    """Write a changed file with its checksum, and its digests in the documents above it."""
    content = with_checksum(content, before)
    path.write_bytes(content)
    old, new = hashlib.sha256(before).hexdigest(), hashlib.sha256(content).hexdigest()
    above = path.parent
    while above == folder or folder in above.parents:
        for name in ("result.json", "run.json", "card.json"):
            document = above / name
            if document == path or not document.is_file():
                continue
            unchanged = document.read_bytes()
            if old.encode() in unchanged:
                changed = unchanged.replace(old.encode(), new.encode())
                write_with_checksum(folder, document, changed, unchanged)
        above = above.parent


# Paths in a document


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value; of a list only those of its first two items."""
    yield prefix
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "checksum" or prefix:
                yield from _paths(item, (*prefix, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from _paths(item, (*prefix, index))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _changed(value: Any, path: tuple[Any, ...], new: Any, *, remove: bool = False) -> Any:
    """Return a copy with another value at a path, or without it."""
    if not path:
        return new
    key, *rest = path
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if rest or not remove:
        copy[key] = _changed(value[key], tuple(rest), new, remove=remove)
    else:
        del copy[key]
    return copy


def _text(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _spelled(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path)) or "the document"

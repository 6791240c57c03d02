"""Reads small CSV tables through typed schemas, row by row."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TypeVar

import msgspec

from nullclass.core.documents import Schema
from nullclass.core.errors import UserError
from nullclass.core.paths import read_bytes

LIMIT = 16 * 2**20
"""Most bytes of a table."""

S = TypeVar("S", bound=Schema)


def read_rows(path: Path, schema: type[S], what: str) -> list[S]:
    """Read a CSV table whose first row names the columns.

    Spaces around cells are ignored, and so are empty rows.

    Args:
        path: The file.
        schema: Type of a row. A column or cell may be missing if the field has a default.
        what: What the table holds, for the error.

    Raises:
        UserError: If it is missing, no regular file or too large, has other columns, a row of
            another length, or a value of another type or range.
    """
    content = read_bytes(path, what, LIMIT)
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        lines = [[cell.strip() for cell in line] for line in csv.reader(text, strict=True)]
    except (UnicodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as the {what}: {error}") from None
    names, fields = lines[0] if lines else [], msgspec.structs.fields(schema)
    known = [field.name for field in fields]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise UserError(
                f"the {what} {path} must have the columns {', '.join(known)}, once each, and not "
                f"{name!r}"
            )
    for field in fields:
        if field.required and field.name not in names:
            raise UserError(f"the {what} {path} has no column {field.name!r}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) not in (0, len(names)):
            raise UserError(
                f"the {what} {path} has {len(line)} cells in row {number}, and {len(names)} columns"
            )
        values = {name: cell for name, cell in zip(names, line, strict=False) if cell}
        try:
            if line:
                rows.append(msgspec.convert(values, schema, strict=False))
        except msgspec.ValidationError as error:
            raise UserError(f"the {what} {path} is damaged in row {number}: {error}") from None
    return rows

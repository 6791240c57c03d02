"""Reads and writes tables (Parquet or CSV) and example images."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nullclass.core.documents import Int64, Schema, parse, to_json
from nullclass.core.errors import UserError
from nullclass.core.files import replacing
from nullclass.core.paths import check_regular, open_regular
from nullclass.results.schema import TABLES, Examples

READ_AS_MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
    | {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""Words that ``pandas.read_csv`` takes for a missing value."""


MAX_ROWS = 100_000_000
"""Most rows of a table."""


class _Shown(Schema, frozen=True):
    """What an image file says of :class:`nullclass.results.schema.Examples`, apart from images."""

    attack: str
    norm: str
    eps_pixels: float | None
    budgets: list[float]
    labels: list[Int64]
    clean_predictions: list[Int64]
    clean_confidences: list[float]
    predictions: list[Int64]
    confidences: list[float]


def empty_table(name: str) -> pd.DataFrame:
    """Return the table of that file name without rows."""
    columns = TABLES[name]
    return pd.DataFrame(columns=list(columns)).astype(columns)


def write_frame(path: Path, frame: pd.DataFrame, float_format: str | None = "%.7g") -> None:
    """Write a table atomically, as Parquet or CSV by the ending of the name.

    Equal tables give equal bytes. ``pandas.read_parquet`` and ``pandas.read_csv`` with their
    defaults read back what was written.

    Args:
        path: Where. A name in :data:`nullclass.results.schema.TABLES` decides the columns, their
            order and types.
        frame: The table; its index is not written.
        float_format: How CSV writes numbers, exactly if None; Parquet and ``eps_pixels`` are exact.

    Raises:
        UserError: If a value of a CSV would be read as missing, such as a model named "null".
        CannotWriteError: If the file cannot be written.
    """
    columns = TABLES.get(path.name)
    if columns:
        frame = frame[list(columns)].astype(columns)
    if path.suffix == ".parquet":
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
        return
    for column in frame:
        is_unreadable = frame[column].isin(READ_AS_MISSING)
        if is_unreadable.any():
            raise UserError(
                f"pandas reads the {column} {frame[column][is_unreadable].iloc[0]!r} in "
                f"{path.name} as missing: choose another name"
            )
    if "eps_pixels" in frame:  # a key: rows of other tables have the same number
        frame = frame.assign(eps_pixels=frame["eps_pixels"].map(_exact, na_action="ignore"))
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")


def _exact(value: float) -> str:
    """Return the number in seven digits if they are enough to read it back, else in full."""
    short = f"{value:.7g}"
    return short if float(short) == value else repr(float(value))


def read_frame(path: Path) -> pd.DataFrame:
    """Read a table that :func:`write_frame` wrote.

    Args:
        path: Its file. A name in :data:`nullclass.results.schema.TABLES` decides exactly which
            columns it must have, and their types.

    Raises:
        UserError: If it is missing, no regular file, damaged, or has other columns.
    """
    wanted = TABLES.get(path.name, {})
    try:
        with open_regular(path, "table") as file:
            frame = _parquet(file) if path.suffix == ".parquet" else pd.read_csv(file, dtype=wanted)
        unexpected = [name for name in frame if name not in wanted] if wanted else []
        lacking = [column for column in wanted if column not in frame]
        frame = frame if lacking else frame.astype(wanted)
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is damaged ({reason}): run the command that wrote it again"
        ) from None
    if lacking or unexpected:
        which = f"lacks the column {lacking[0]!r}" if lacking else f"has a column {unexpected[0]!r}"
        raise UserError(f"{path} {which}: it has another format")
    return frame


def _parquet(file: BinaryIO) -> pd.DataFrame:
    """Read a Parquet file; its header says how many rows it takes memory for."""
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    num_rows = ParquetFile(file).metadata.num_rows
    if num_rows > MAX_ROWS:
        raise ValueError(f"{num_rows:,} rows, more than {MAX_ROWS:,}")
    file.seek(0)
    return pd.read_parquet(file)


def write_examples(path: Path, examples: list[Examples]) -> None:
    """Write example images with their labels and predictions as one safetensors file."""
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    metadata = []
    for number, example in enumerate(examples):
        values = asdict(example)
        for name in ("clean", "adv_images"):
            tensors[f"{number}.{name}"] = np.ascontiguousarray(values.pop(name))
        metadata.append(values)
    examples_json = to_json(metadata).decode()
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"examples": examples_json})


def read_examples(path: Path) -> list[Examples]:
    """Read what :func:`write_examples` wrote; an empty list without a file.

    Raises:
        UserError: If the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with safe_open(check_regular(path, "examples"), framework="numpy") as file:
            shown = parse((file.metadata() or {})["examples"], list[_Shown], "the list of examples")
            return [
                Examples(
                    **msgspec.structs.asdict(values)
                    | {"eps_pixels": math.nan if values.eps_pixels is None else values.eps_pixels},
                    clean=file.get_tensor(f"{number}.clean"),
                    adv_images=file.get_tensor(f"{number}.adv_images"),
                )
                for number, values in enumerate(shown)
            ]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): run the command that wrote it again"
        ) from None

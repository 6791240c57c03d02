"""Tables and example images on disk."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nullclass.core.errors import UserError
from nullclass.core.files import replacing
from nullclass.results.schema import (
    Examples,
)


def write_frame(path: Path, frame: pd.DataFrame, float_format: str = "%.7g") -> None:
    """Write a table as CSV (gzipped if the name says so), whole or not at all."""
    content = frame.to_csv(index=False, float_format=float_format).encode()
    with replacing(path) as temporary:
        # The same rows give the same bytes: no time and no temporary name in the gzip header.
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_frame(path: Path, dtypes: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table written by :func:`write_frame`.

    Raises:
        UserError: If it is missing, damaged, or lacks a column.
    """
    try:
        # "none" is an attack's name here, not a missing value
        frame = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=["", "nan"])
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run the study again, it redoes what is lacking"
        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())  # pandas tells some things in several lines
        raise UserError(
            f"{path} is damaged ({reason}): remove it and run the study again"
        ) from None
    missing = [column for column in dtypes or {} if column not in frame]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}: it was written by something else")
    return frame


def write_examples(path: Path, examples: list[Examples]) -> None:
    """Write example images, their labels and predictions in one safetensors file."""
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    told = []
    for number, example in enumerate(examples):
        tensors[f"{number}.clean"] = np.ascontiguousarray(example.clean)
        tensors[f"{number}.attacked"] = np.ascontiguousarray(example.adv_images)
        told.append({k: v for k, v in asdict(example).items() if k not in ("clean", "adv_images")})
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"examples": json.dumps(told)})


def read_examples(path: Path) -> list[Examples]:
    """Read what :func:`write_examples` wrote; no file, no examples."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="numpy") as file:
            return [
                Examples(
                    **told,
                    clean=file.get_tensor(f"{number}.clean"),
                    adv_images=file.get_tensor(f"{number}.attacked"),
                )
                for number, told in enumerate(json.loads(file.metadata()["examples"]))
            ]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run the study again") from None

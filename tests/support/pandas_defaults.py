"""Every table of a run folder, read by pandas with its defaults."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nullclass.results.frames import read_frame


def check_tables(folder: Path) -> set[str]:
    """pandas reads what nullclass reads, and no word as a missing value; the names checked."""
    names = set()
    for path in sorted([*folder.rglob("*.csv"), *folder.rglob("*.parquet")]):
        plain = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        pd.testing.assert_frame_equal(
            plain, read_frame(path), obj=path.name, check_dtype=len(plain) > 0
        )
        for column in plain:
            is_number = pd.api.types.is_numeric_dtype(plain[column])
            assert is_number or plain[column].notna().all(), (path.name, column)
        names.add(path.name)
    return names

"""Writes run folders: locks, results with their digests, ``run.json`` as the commit.

:mod:`nullclass.results.run` reads them as data frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pandas as pd
from msgspec.structs import replace

from nullclass.core.checks import shown
from nullclass.core.documents import LIMIT, Int64, parse, read_document, write_document
from nullclass.core.errors import UserError
from nullclass.core.files import LOCK, TEMPORARY, locked, remove
from nullclass.core.paths import inside, read_bytes, sha256
from nullclass.results import schema
from nullclass.results.frames import write_examples, write_frame
from nullclass.results.info import AnyResult, Result, RunInfo, TrialResult
from nullclass.results.schema import Examples

R = TypeVar("R", bound=Result)

VIEWS = ".report"
"""Begins the names of the lock and the temporary files of a report."""

OWN_NAMES = frozenset(
    {
        *schema.JOB_FOLDERS,
        *(schema.SUMMARY, schema.REPORT, schema.FIGURES),
    }
)
"""What a run folder holds, besides ``run.json``."""

MAX_DRAWING = 300.0
"""Seconds to wait for another process that draws a report."""

OPTIONAL = (schema.HELD_OUT, schema.OOD, schema.CERTIFIED, schema.PROVED_EPS)
"""Tables of a trial that are not written if they are empty."""


def write_trial(
    folder: Path, tables: Mapping[str, pd.DataFrame], examples: list[Examples], result: TrialResult
) -> None:
    """Write a trial, ``result.json`` last.

    Args:
        folder: The trial's folder, perhaps with thresholds or decisions in it already.
        tables: File name to table; an empty optional table is not written.
        examples: Images to show.
        result: The rest.
    """
    invalidate(folder)
    for name, table in tables.items():
        if len(table) or name not in OPTIONAL:
            write_frame(folder / name, table)
        else:
            remove(folder / name)
    write_examples(folder / schema.EXAMPLES, examples)
    finalize(folder, replace(result, num_rows=len(tables[schema.ROWS])))


def invalidate(folder: Path) -> None:
    """Remove ``result.json``, before anything in the folder changes."""
    remove(folder / schema.RESULT)


def finalize(folder: Path, result: Result) -> None:
    """Write ``result.json`` with the SHA-256 of every file in the folder; remove the parts."""
    write_document(folder / schema.RESULT, replace(result, files=_digests(folder)))
    remove(folder / schema.PARTS)


def with_result(parent: Path) -> list[Path]:
    """Return the folders in a folder that have a result, by name."""
    return [path.parent for path in sorted(parent.glob(f"*/{schema.RESULT}"))]


def is_complete(folder: Path) -> bool:
    """Return whether every file that ``result.json`` lists is there, unchanged."""
    try:
        read_complete(folder)
    except UserError:
        return False
    return True


def read_complete(folder: Path) -> AnyResult:
    """Read ``result.json`` of any kind, and check every file that it lists.

    Raises:
        UserError: If something in the folder is missing or damaged.
    """
    result: AnyResult = read_document(folder / schema.RESULT, AnyResult, "result")  # type: ignore[arg-type]
    check_files(folder, result)
    return result


def read_result(folder: Path, kind: type[R]) -> R:
    """Read ``result.json``.

    Raises:
        UserError: If it is missing, damaged or of another kind.
    """
    return read_document(folder / schema.RESULT, kind, "result")


def check_files(folder: Path, result: Result) -> None:
    """Check every file that a result lists; other files are not ours.

    Raises:
        UserError: If one is missing or has changed.
    """
    for name, digest in result.files.items():
        path = inside(folder, name)
        if not path.is_file() or sha256(path) != digest:
            raise UserError(
                f"{path} has changed since it was written, or is gone: run the command that wrote "
                "it again"
            )


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    not_ours = (schema.RESULT, schema.STATE)
    return {
        name: sha256(path)
        for name, path in names.items()
        if name not in not_ours and not any(part.startswith(".") for part in name.split("/"))
    }


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, created if needed (:func:`nullclass.core.files.locked`).

    Raises:
        UserError: If another process writes to it, it cannot be written, or it holds something
            else than a run.
    """
    check_free(folder)
    with locked(folder):
        check_free(folder)  # another process may have been faster
        for parts in folder.glob(f"*/*/{schema.PARTS}"):
            name = parts.parent.relative_to(folder).as_posix()
            if is_complete(inside(folder, name)):  # killed after the result was written
                remove(parts)
        yield


def drawing(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a run's views; whoever replaces the run waits until they are drawn.

    Raises:
        UserError: If another process still draws them after :data:`MAX_DRAWING` seconds.
    """
    return locked(folder, VIEWS, MAX_DRAWING)


def check_free(folder: Path) -> None:
    """Raise UserError unless the folder is missing, empty or that of a run."""
    if (folder / schema.RUN).exists() or not folder.is_dir():
        return
    hidden = {part + name for part in ("", VIEWS) for name in (LOCK, TEMPORARY)}
    names = {path.name for path in folder.iterdir()} - hidden
    if not names or (names <= OWN_NAMES and _has_results(folder)):  # run.json was removed
        return
    other = min(names - OWN_NAMES or names)
    raise UserError(
        f"{folder} holds {shown(other)} but no {schema.RUN}, so it is no run folder: choose "
        "another --out"
    )


def _has_results(folder: Path) -> bool:
    """Return whether a job of a run was finished in a folder."""
    results = folder.glob(f"*/*/{schema.RESULT}")
    return any(is_complete(path.parent) for path in results if path.is_file())


def write_info(folder: Path, info: RunInfo) -> None:
    """Write ``run.json``, with the digests of the results that are finished."""
    results = {}
    for name in info.trials.values():
        path = inside(folder, name) / schema.RESULT
        if path.exists():
            results[name] = sha256(path)
    write_document(folder / schema.RUN, replace(info, results=results))


def read_info(folder: Path) -> RunInfo:
    """Read ``run.json``.

    Raises:
        UserError: If the folder is no run folder, the file is missing or damaged, or another
            version of nullclass wrote it.
    """
    path = folder / schema.RUN
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give the --out of a study or evaluation")
    if not path.exists():
        raise UserError(
            f"{folder} is no run folder, since it has no {schema.RUN}: give the --out of a study "
            "or an evaluation"
        )
    content = read_bytes(path, "description of a run", LIMIT)
    try:
        number = parse(content, _Format, f"{path} (the description of a run)").format
        if number == schema.FORMAT:
            return read_document(path, RunInfo, "description of a run")
    except UserError as error:
        raise UserError(
            f"{error}. Restore it, or remove it and run the same command again: finished trials "
            "are kept"
        ) from None
    raise UserError(
        f"{folder} was written by another version of nullclass: run it again in a new folder"
    )


class _Format(msgspec.Struct):
    """The number of a run's format, whatever else its ``run.json`` holds."""

    format: Int64 = 0


def remove_views(folder: Path) -> None:
    """Remove what is drawn from the trials: summary, report and figures."""
    for name in (schema.SUMMARY, schema.REPORT, schema.FIGURES):
        remove(folder / name)


def remove_others(folder: Path) -> None:
    """Remove the trials that ``run.json`` does not list."""
    listed = {inside(folder, name) for name in read_info(folder).trials.values()}
    for path in (folder / schema.TRIALS).iterdir():
        if path not in listed:
            remove(path)

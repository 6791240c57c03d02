"""Joins a piece of a study, copied from another machine, into a run folder.

A piece is a run folder of the same study and preset, with other seeds or variants. All of it is
checked before the first file is copied. Then one job after another is copied and renamed into
place, ``run.json`` last: after an interruption the same call goes on, and repeating it changes
nothing.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from nullclass.core.errors import UserError
from nullclass.core.files import TEMPORARY, cannot_write, remove, replacing
from nullclass.core.paths import check_regular, inside, sha256
from nullclass.experiments.run_info import merge_info, with_note
from nullclass.experiments.study import Preset, Study
from nullclass.results import schema, store
from nullclass.results.info import AnyResult, RunInfo
from nullclass.results.run import read_run, write_summary
from nullclass.training.card import CARD

TIMED = (CARD, schema.HISTORY, schema.COSTS)
"""Files that hold times, which differ between two runs of one job."""


def join_run(study: Study, preset: Preset, folder: Path, piece: Path) -> tuple[int, int]:
    """Copy the finished jobs of a piece into a run folder.

    Args:
        study: The study.
        preset: Its preset.
        folder: The run folder; it need not exist yet.
        piece: The other run folder, which is only read.

    Returns:
        The number of jobs copied, and of those that were there already.

    Raises:
        UserError: If the two folders are one, hold runs of other studies, presets, data or
            settings, or the same job with other results; if the piece is damaged; or if another
            process writes to the folder. Then the folder is left as it is.
    """
    if piece.resolve() == folder.resolve():
        raise UserError(f"{piece} is the run folder itself: give --join the folder of a piece")
    theirs = store.read_info(piece)
    if (theirs.study, theirs.preset) != (study.name, preset):
        raise UserError(
            f"{piece} holds a run of {theirs.study} ({theirs.preset}), not of {study.name} "
            f"({preset}): it cannot be joined"
        )
    with store.writing(folder):
        info = theirs
        if (folder / schema.RUN).exists():
            before = store.read_info(folder)
            info = with_note(merge_info(study, before, theirs, folder), theirs)
            _check_trials(before, theirs, piece)
        jobs = _read_jobs(piece, theirs)
        present = _read_present(folder)
        for name, result in jobs.items():
            if name in present:
                _check_same(name, present[name], result)
        missing = [name for name in jobs if name not in present]
        for name in missing:
            _copy(piece, folder, name, jobs[name])
        with store.drawing(folder):
            if missing:
                store.remove_views(folder)  # of fewer trials
            store.write_info(folder, info)
            write_summary(read_run(folder, study.published))
    return len(missing), len(jobs) - len(missing)


def _read_jobs(piece: Path, info: RunInfo) -> dict[str, AnyResult]:
    """Return the finished jobs of a piece by their folders, every job after what it needs.

    Raises:
        UserError: If a file is damaged.
    """
    try:
        for name, digest in info.results.items():
            if sha256(inside(piece, name) / schema.RESULT) != digest:
                raise UserError(f"{piece / name} is not the trial that {schema.RUN} lists")
        return {name: store.read_complete(inside(piece, name)) for name in _with_result(piece)}
    except UserError as error:
        raise UserError(f"the piece is damaged: {error}") from None


def _with_result(folder: Path) -> list[str]:
    """Return the folders of jobs with a result, relative to the run folder."""
    return [
        f"{kind}/{path.name}"
        for kind in schema.JOB_FOLDERS
        for path in store.with_result(folder / kind)
    ]


def _read_present(folder: Path) -> dict[str, AnyResult]:
    """Return the finished jobs of the run folder; a damaged one is not finished."""
    present = {}
    for name in _with_result(folder):
        with suppress(UserError):
            present[name] = store.read_complete(inside(folder, name))
    return present


def _check_trials(before: RunInfo, theirs: RunInfo, piece: Path) -> None:
    """Raise UserError if a trial of both runs has two folders: its settings differ."""
    for title in before.trials.keys() & theirs.trials.keys():
        if before.trials[title] != theirs.trials[title]:
            raise UserError(f"{piece} holds the trial {title} with other settings")


def _check_same(name: str, ours: AnyResult, theirs: AnyResult) -> None:
    """Raise UserError if two results of one job differ in more than their times."""
    for file in sorted(ours.files.keys() | theirs.files.keys()):
        is_same = ours.files.get(file) == theirs.files.get(file)
        if not is_same and Path(file).name not in TIMED:
            raise UserError(
                f"both folders hold {name}, with another {file}: join pieces of other seeds, or "
                "remove that job from one of them"
            )


def _copy(piece: Path, folder: Path, name: str, result: AnyResult) -> None:
    """Copy a job's folder, check the copy, and rename it into place."""
    temporary, target = folder / TEMPORARY / "joined", inside(folder, name)
    remove(temporary)
    for file in (*result.files, schema.RESULT):
        source = check_regular(inside(piece / name, file), "file of a job")
        with replacing(temporary / file) as part:
            shutil.copyfile(source, part)
    store.read_complete(temporary)
    remove(target)
    try:
        target.parent.mkdir(exist_ok=True)
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_write(target, error) from None

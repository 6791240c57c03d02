"""Reads and writes run folders (:mod:`nullclass.results.schema` lists their files)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import read_json, sha256, write_json
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.results.frames import read_examples, read_frame, write_examples, write_frame
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import (
    CERTIFIED,
    CERTIFIED_COLUMNS,
    COST_COLUMNS,
    COSTS,
    CRAFTED,
    DECISIONS,
    ESTIMATES,
    EXAMPLES,
    HELD_OUT,
    HISTORY,
    MODELS,
    OOD,
    OOD_COLUMNS,
    QUERIES,
    RESULT,
    ROW_COLUMNS,
    ROWS,
    RUN,
    SCORES,
    SIZE_COLUMNS,
    SIZES,
    STATE,
    SUMMARY,
    SUMMARY_COLUMNS,
    THRESHOLDS,
    TRIALS,
    Examples,
    Flag,
)


@dataclass(frozen=True)
class Trial:
    """One trained and evaluated model of a run. Its files are read when they are asked for."""

    folder: Path
    model: str
    seed: int
    selection: str
    """Which of the training's weights."""
    result: dict[str, Any]
    """Settings and timings, from ``result.json``."""

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One attacked image a line: :data:`ROW_COLUMNS`.

        Raises:
            UserError: If they are damaged.
        """
        rows = read_frame(self.folder / ROWS, ROW_COLUMNS)
        is_complete = len(rows) == self.result.get("num_rows", len(rows))
        if not is_complete or not rows["outcome"].isin(OUTCOME_NAMES).all():
            raise UserError(f"{self.folder / ROWS} is damaged: remove it and run the study again")
        return rows

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Rates of the rows, as :func:`nullclass.metrics.rates.summarise` gave them."""
        return read_frame(self.folder / SUMMARY)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What each attack and member did and cost: :data:`COST_COLUMNS`."""
        return self._frame(COSTS, COST_COLUMNS)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Clean held-out images: :data:`ROW_COLUMNS`; empty if there were none."""
        return self._frame(HELD_OUT, ROW_COLUMNS)

    @cached_property
    def ood(self) -> pd.DataFrame:
        """Inputs of no class: :data:`OOD_COLUMNS`; empty if there were none."""
        return self._frame(OOD, OOD_COLUMNS)

    @cached_property
    def certified(self) -> pd.DataFrame:
        """What is proved of each image: :data:`CERTIFIED_COLUMNS`; empty if it was not asked."""
        return self._frame(CERTIFIED, CERTIFIED_COLUMNS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Metrics of the null score, as :func:`nullclass.metrics.score_summary.score_metrics` gave
        them.
        """
        return self._frame(SCORES)

    @property
    def flags(self) -> list[Flag]:
        """Reasons not to believe the evaluation."""
        return [Flag(**told) for told in self.result.get("flags", [])]

    def _frame(self, name: str, dtypes: dict[str, str] | None = None) -> pd.DataFrame:
        path = self.folder / name
        return (
            read_frame(path, dtypes) if path.exists() else pd.DataFrame(columns=list(dtypes or {}))
        )

    @cached_property
    def history(self) -> pd.DataFrame:
        """One epoch a line; empty for a model that was trained elsewhere.

        Columns epoch, loss, null_loss, train_accuracy, validation_accuracy, seconds and the losses
        of the selections, such as ``test_loss``.
        """
        place = self.result.get("trained_in")
        path = self.folder.parent.parent / str(place) / HISTORY
        return read_frame(path) if place and path.exists() else pd.DataFrame()

    @cached_property
    def examples(self) -> list[Examples]:
        """Images to show."""
        return read_examples(self.folder / EXAMPLES)

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """Columns image and threshold (eps in pixel units), where this trial looked for them.

        Empty if it did not.
        """
        path = self.folder / THRESHOLDS
        empty = pd.DataFrame({"image": [], "threshold": []})
        return read_frame(path) if path.exists() else empty

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """Where probability goes with size: :data:`SIZE_COLUMNS`; empty if it was not asked."""
        return self._frame(SIZES, SIZE_COLUMNS)

    @cached_property
    def decisions(self) -> npt.NDArray[np.int8] | None:
        """Predictions on a grid over the unit cube, -1 for null; one axis a pixel."""
        path = self.folder / DECISIONS
        if not path.exists():
            return None
        try:
            return load_file(path)["predictions"]
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): run the study again") from None


@dataclass(frozen=True)
class Curve:
    """An estimated null curve of a run."""

    model: str
    """The clean model."""
    seed: int
    curve: NullCurve
    result: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Source:
    """Images attacked on one model of a run, and what became of them there."""

    model: str
    seed: int
    attack: str
    result: dict[str, Any] = field(repr=False)
    rows: pd.DataFrame = field(repr=False)
    """:data:`ROW_COLUMNS`."""


@dataclass(frozen=True)
class Run:
    """Everything a report needs."""

    folder: Path
    info: dict[str, Any]
    """``run.json``."""
    summary: pd.DataFrame = field(repr=False)
    trials: list[Trial] = field(repr=False)

    @cached_property
    def curves(self) -> list[Curve]:
        """The null curves estimated in the run.

        Raises:
            UserError: If one is damaged.
        """
        return [
            Curve(
                told["model"],
                told["seed"],
                NullCurve.from_dict(told["curve"]),
                told,
            )
            for _, told in _results(self.folder / ESTIMATES)
        ]

    @cached_property
    def sources(self) -> list[Source]:
        """The models on which images were crafted.

        Raises:
            UserError: If one is damaged.
        """
        return [
            Source(
                told["model"],
                told["seed"],
                told["attack"],
                told,
                read_frame(folder / ROWS, ROW_COLUMNS),
            )
            for folder, told in _results(self.folder / CRAFTED)
        ]

    @cached_property
    def queried(self) -> dict[tuple[str, int], pd.DataFrame]:
        """Name and seed of each substitute trained by queries, to its rounds.

        Columns num_queries, num_images, null, agreement_before, agreement_after.
        """
        return {
            (told["config"]["name"], told["config"]["seed"]): read_frame(folder / QUERIES)
            for folder, told in _results(self.folder / MODELS)
            if (folder / QUERIES).exists()
        }


def _results(parent: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders with a result, by name, and the results."""
    for path in sorted(parent.glob(f"*/{RESULT}")):
        yield path.parent, read_json(path, "result")


def trial_folder(run_folder: Path, model: str, seed: int) -> Path:
    """Where the one trial of an evaluation lives."""
    return run_folder / TRIALS / f"{model}-seed{seed}"


def write_trial(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    examples: list[Examples],
    result: dict[str, Any],
) -> None:
    """Write a trial; ``result.json`` last, so that it vouches for the rest.

    Args:
        folder: The trial's folder, perhaps with thresholds or decisions in it already.
        tables: File name to table; an empty optional table is not written.
        examples: Images to show.
        result: At least ``model`` and ``seed``; ``selection`` and ``trained_in`` (the training's
            folder, from the run folder) if there are any.
    """
    invalidate(folder)
    for name, table in tables.items():
        if len(table) or name not in (HELD_OUT, OOD, CERTIFIED):
            write_frame(folder / name, table)
        else:
            (folder / name).unlink(missing_ok=True)
    write_examples(folder / EXAMPLES, examples)
    finalize(folder, result | {"num_rows": len(tables[ROWS])})


def invalidate(folder: Path) -> None:
    """Take away ``result.json``, before anything in the folder changes."""
    try:
        (folder / RESULT).unlink(missing_ok=True)
    except OSError as error:
        raise CannotWriteError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error


def finalize(folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``: what is told, and the SHA-256 of every file in the folder."""
    write_json(folder / RESULT, {**result, "files": _digests(folder)})


def is_complete(folder: Path) -> bool:
    """Whether all that ``result.json`` vouches for is there, to the byte."""
    try:
        told = read_json(folder / RESULT, "result")["files"]
        return bool(told.items() <= _digests(folder).items())  # what others put there is theirs
    except (UserError, KeyError, OSError, AttributeError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in files
        if path.name not in (RESULT, STATE) and not path.name.startswith(".")
    }


def read_trial(folder: Path) -> Trial:
    """Read one trial.

    Raises:
        UserError: If something in it is missing or damaged.
    """
    result = read_json(folder / RESULT, "result of a trial")
    if not is_complete(folder):
        raise UserError(
            f"{folder} is damaged (a file is not the one that was written): remove it and run the "
            "study again"
        )
    try:
        return Trial(
            folder=folder,
            model=result["model"],
            seed=result["seed"],
            selection=result.get("selection", "last"),
            result=result,
        )
    except KeyError as error:
        raise UserError(f"{folder / RESULT} does not say its {error}: remove that folder") from None


def recorded_trials(run_folder: Path) -> Iterator[Path]:
    """Folders of the run's trials that have a result, by name.

    ``run.json`` names a study's trials: one that was planned otherwise before stays where it is,
    but is no longer part of the run.
    """
    told = run_folder / RUN
    planned = read_info(run_folder).get("trials") if told.exists() else None
    for result in sorted((run_folder / TRIALS).glob(f"*/{RESULT}")):
        place = result.parent.relative_to(run_folder).as_posix()
        if planned is None or place in planned.values():
            yield result.parent


def clear_leftovers(folder: Path) -> None:
    """Remove what was half-written in a folder when somebody was killed."""
    for leftover in folder.rglob(".*"):
        if leftover.is_file():
            leftover.unlink()


def write_summary(
    folder: Path,
    study: str,
    published: Callable[[str, str, float, str], float | None] = lambda *_: None,
) -> None:
    """Write ``summary.csv`` from those of the trials.

    Args:
        folder: The run folder.
        study: Name of the study, for its column.
        published: Model, attack, eps in pixel units (NaN for thresholds) and metric to the
            source's figure, if any.
    """
    tables = []
    for trial in map(read_trial, recorded_trials(folder)):
        table = trial.summary.assign(
            study=study, model=trial.model, seed=trial.seed, selection=trial.selection
        )
        told = zip(table["attack"], table["eps_pixels"], table["metric"], strict=True)
        table["published"] = [published(trial.model, *place) for place in told]
        tables.append(table)
    summary = pd.concat(tables) if tables else pd.DataFrame(columns=SUMMARY_COLUMNS)
    write_frame(folder / SUMMARY, summary[SUMMARY_COLUMNS])


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        UserError: If it is no run folder, or the file is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give the --out of a study or evaluation")
    return read_json(folder / RUN, "description of a run")


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: If it is no run folder, or something in it is missing or damaged.
    """
    info = read_info(folder)
    order = info.get("models", [])
    trials = [read_trial(path) for path in recorded_trials(folder)]
    trials.sort(key=lambda t: (order.index(t.model) if t.model in order else len(order), t.seed))
    return Run(folder=folder, info=info, summary=read_frame(folder / SUMMARY), trials=trials)

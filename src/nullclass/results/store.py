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
from nullclass.core.files import read_json, remove, write_json
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.core.paths import sha256
from nullclass.results import schema
from nullclass.results.frames import (
    empty_table,
    read_examples,
    read_frame,
    write_examples,
    write_frame,
)
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import Examples, Flag


def _optional(name: str) -> cached_property[pd.DataFrame]:
    """Return a property that reads a table of a trial; without its file it has no rows."""

    def read(trial: Trial) -> pd.DataFrame:
        path = trial.folder / name
        return read_frame(path) if path.exists() else empty_table(name)

    return cached_property(read)


@dataclass(frozen=True)
class Trial:
    """One evaluated model of a run. Files are read on first use.

    Raises:
        UserError: On first use, if a file is damaged.
    """

    folder: Path
    model: str
    seed: int
    selection: str
    """Which of the training's weights."""
    result: dict[str, Any]
    """Settings and timings, from ``result.json``."""

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row per image and attack: :data:`nullclass.results.schema.ROW_COLUMNS`."""
        path = self.folder / schema.ROWS
        rows = read_frame(path)
        is_complete = len(rows) == self.result.get("num_rows", len(rows))
        if not is_complete or not rows["outcome"].isin(OUTCOME_NAMES).all():
            raise UserError(f"{path} is damaged: remove it and run the study again")
        return rows

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Rates of the rows (:func:`nullclass.metrics.rates.summarise`)."""
        return read_frame(self.folder / schema.SUMMARY)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Metrics of the null score (:func:`nullclass.metrics.scores.score_metrics`)."""
        path = self.folder / schema.SCORES
        return read_frame(path) if path.exists() else pd.DataFrame()

    costs = _optional(schema.COSTS)
    """What each attack did and cost: :data:`nullclass.results.schema.COST_COLUMNS`."""
    held_out = _optional(schema.HELD_OUT)
    """Clean held-out images: :data:`nullclass.results.schema.ROW_COLUMNS`."""
    ood = _optional(schema.OOD)
    """Inputs of no class: :data:`nullclass.results.schema.OOD_COLUMNS`."""
    certified = _optional(schema.CERTIFIED)
    """Proofs per image: :data:`nullclass.results.schema.CERTIFIED_COLUMNS`."""
    radii = _optional(schema.RADII)
    """Answers with other radii: :data:`nullclass.results.schema.RADIUS_COLUMNS`."""
    sizes = _optional(schema.SIZES)
    """Answers by size of perturbation: :data:`nullclass.results.schema.SIZE_COLUMNS`."""
    thresholds = _optional(schema.THRESHOLDS)
    """The smallest eps per image: :data:`nullclass.results.schema.THRESHOLD_COLUMNS`."""

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch; empty for a model that was trained elsewhere.

        Columns epoch, loss, null_loss, train_accuracy, validation_accuracy, seconds and the losses
        of the selections, such as ``test_loss``.
        """
        trained_in = self.result.get("trained_in")
        path = self.folder.parent.parent / str(trained_in) / schema.HISTORY
        return read_frame(path) if trained_in and path.exists() else pd.DataFrame()

    @cached_property
    def epochs(self) -> dict[str, int]:
        """The epoch that each selection of the training kept, by selection."""
        training = self.folder.parent.parent / str(self.result["trained_in"])
        return dict(read_json(training / schema.RESULT, "result of a training")["epochs"])

    @cached_property
    def examples(self) -> list[Examples]:
        """Images to show."""
        return read_examples(self.folder / schema.EXAMPLES)

    @property
    def flags(self) -> list[Flag]:
        """Red flags of the evaluation."""
        return [Flag(**flag) for flag in self.result.get("flags", [])]

    @cached_property
    def decisions(self) -> npt.NDArray[np.int8] | None:
        """Predictions on a grid over the unit cube, -1 for null; one axis per pixel."""
        path = self.folder / schema.DECISIONS
        if not path.exists():
            return None
        try:
            return load_file(path)["predictions"]
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): run the study again") from None


@dataclass(frozen=True)
class Curve:
    """A null curve estimated in a run."""

    model: str
    """The clean model."""
    seed: int
    curve: NullCurve
    result: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Source:
    """Adversarial images of one model of a run, with their outcomes on that model."""

    model: str
    seed: int
    attack: str
    result: dict[str, Any] = field(repr=False)
    rows: pd.DataFrame = field(repr=False)
    """:data:`nullclass.results.schema.ROW_COLUMNS`."""


@dataclass(frozen=True)
class Run:
    """A run folder. Curves, sources and tables of trials are read on first use.

    Raises:
        UserError: On first use, if a file is damaged.
    """

    folder: Path
    info: dict[str, Any]
    """``run.json``."""
    summary: pd.DataFrame = field(repr=False)
    trials: list[Trial] = field(repr=False)

    @cached_property
    def curves(self) -> list[Curve]:
        """The null curves estimated in the run."""
        return [
            Curve(result["model"], result["seed"], NullCurve.from_dict(result["curve"]), result)
            for _, result in _results(self.folder / schema.ESTIMATES)
        ]

    @cached_property
    def sources(self) -> list[Source]:
        """The models that transferred images were made on."""
        return [
            Source(
                result["model"],
                result["seed"],
                result["attack"],
                result,
                read_frame(folder / schema.ROWS),
            )
            for folder, result in _results(self.folder / schema.CRAFTED)
        ]

    @cached_property
    def queried(self) -> dict[tuple[str, int], pd.DataFrame]:
        """Name and seed of each substitute trained by queries, to its rounds.

        Columns num_queries, num_images, null, agreement_before, agreement_after.
        """
        return {
            (result["config"]["name"], result["config"]["seed"]): read_frame(
                folder / schema.QUERIES
            )
            for folder, result in _results(self.folder / schema.MODELS)
            if (folder / schema.QUERIES).exists()
        }


def _results(parent: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield folders with a result, by name, and their results."""
    for path in sorted(parent.glob(f"*/{schema.RESULT}")):
        yield path.parent, read_json(path, "result")


def trial_folder(run_folder: Path, model: str, seed: int) -> Path:
    """Return the folder of an evaluation's only trial."""
    return run_folder / schema.TRIALS / f"{model}-seed{seed}"


def write_trial(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    examples: list[Examples],
    result: dict[str, Any],
) -> None:
    """Write a trial, ``result.json`` last.

    Args:
        folder: The trial's folder, perhaps with thresholds or decisions in it already.
        tables: File name to table; an empty optional table is not written.
        examples: Images to show.
        result: At least ``model`` and ``seed``; ``selection`` and ``trained_in`` (the training's
            folder, relative to the run folder) if there are any.
    """
    invalidate(folder)
    for name, table in tables.items():
        if len(table) or name not in (schema.HELD_OUT, schema.OOD, schema.CERTIFIED):
            write_frame(folder / name, table)
        else:
            (folder / name).unlink(missing_ok=True)
    write_examples(folder / schema.EXAMPLES, examples)
    finalize(folder, result | {"num_rows": len(tables[schema.ROWS])})


def invalidate(folder: Path) -> None:
    """Remove ``result.json``, before anything in the folder changes."""
    try:
        (folder / schema.RESULT).unlink(missing_ok=True)
    except OSError as error:
        raise CannotWriteError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error


def finalize(folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``: the result, and the SHA-256 of every file in the folder.

    Then what was kept for an interruption is removed.
    """
    write_json(folder / schema.RESULT, {**result, "files": _digests(folder)})
    remove(folder / schema.PARTS)


def is_complete(folder: Path) -> bool:
    """Return whether every file that ``result.json`` lists is there, unchanged."""
    try:
        files = read_json(folder / schema.RESULT, "result")["files"]
        return bool(files.items() <= _digests(folder).items())  # other files are not ours
    except (UserError, KeyError, OSError, AttributeError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in files
        if path.name not in (schema.RESULT, schema.STATE)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def read_trial(folder: Path) -> Trial:
    """Read one trial.

    Raises:
        UserError: If something in it is missing or damaged.
    """
    result = read_json(folder / schema.RESULT, "result of a trial")
    if not is_complete(folder):
        raise UserError(
            f"{folder} is damaged (a file has changed since it was written): remove it and run "
            "the study again"
        )
    try:
        model, seed = result["model"], result["seed"]
    except KeyError as error:
        raise UserError(f"{folder / schema.RESULT} lacks {error}: remove that folder") from None
    return Trial(folder, model, seed, result.get("selection", schema.LAST), result)


def recorded_trials(run_folder: Path) -> Iterator[Path]:
    """Yield the folders of the run's trials that have a result, by name.

    ``run.json`` lists a study's trials. A trial whose settings have changed since keeps its
    folder, but is no longer part of the run.
    """
    info = read_info(run_folder) if (run_folder / schema.RUN).exists() else {}
    planned = info.get("trials")
    for result in sorted((run_folder / schema.TRIALS).glob(f"*/{schema.RESULT}")):
        path = result.parent.relative_to(run_folder).as_posix()
        if planned is None or path in planned.values():
            yield result.parent


def clear_leftovers(folder: Path) -> None:
    """Remove half-written files that a killed process left in a folder."""
    for leftover in folder.rglob(".*"):
        if leftover.is_file():
            leftover.unlink()


def write_summary(
    folder: Path,
    study: str,
    published: Callable[[str, str, float, str], float | None] = lambda *_: None,
) -> None:
    """Write the run's ``summary.csv`` from those of its trials.

    Args:
        folder: The run folder.
        study: Name of the study, for its column.
        published: Maps model, attack, eps in pixel units (NaN for own budgets) and metric to the
            source's figure, if any.
    """
    tables = []
    for trial in map(read_trial, recorded_trials(folder)):
        table = trial.summary.assign(
            study=study, model=trial.model, seed=trial.seed, selection=trial.selection
        )
        keys = zip(table["attack"], table["eps_pixels"], table["metric"], strict=True)
        table["published"] = [published(trial.model, *key) for key in keys]
        tables.append(table)
    summary = pd.concat(tables) if tables else pd.DataFrame(columns=list(schema.SUMMARY_COLUMNS))
    write_frame(folder / schema.SUMMARY, summary[list(schema.SUMMARY_COLUMNS)])


def read_summary(folder: Path) -> pd.DataFrame:
    """Read the run's ``summary.csv``.

    Raises:
        UserError: If it is missing or damaged, lacks a column, or holds a rate outside [0, 1].
    """
    path = folder / schema.SUMMARY
    summary = read_frame(path, schema.SUMMARY_COLUMNS)
    rates = summary.loc[~summary["metric"].isin(schema.LOSSES), ["value", "low", "high"]]
    is_wrong = ((rates < 0) | (rates > 1)).any(axis=1)
    if is_wrong.any():
        line = summary.loc[rates.index[is_wrong]].iloc[0]
        raise UserError(
            f"{path} is damaged (a rate outside [0, 1]: {line['metric']} of {line['model']}): "
            "remove it and run the study again"
        )
    return summary


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Write ``run.json``, with the number of the format."""
    write_json(folder / schema.RUN, {"format": schema.FORMAT, **info})


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        UserError: If the folder is no run folder, the file is missing or damaged, or another
            version of nullclass wrote it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give the --out of a study or evaluation")
    info = read_json(folder / schema.RUN, "description of a run")
    if info.get("format") != schema.FORMAT:
        raise UserError(
            f"{folder} was written by another version of nullclass: run it again in a new folder"
        )
    return info


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: If the folder is no run folder, or something in it is missing or damaged.
    """
    info = read_info(folder)
    order = info.get("models", [])
    trials = [read_trial(path) for path in recorded_trials(folder)]
    trials.sort(key=lambda t: (order.index(t.model) if t.model in order else len(order), t.seed))
    return Run(folder, info, read_summary(folder), trials)

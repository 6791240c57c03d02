"""Reads run folders as data frames (:mod:`nullclass.results.schema` lists their files)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.core.paths import check_regular, inside, sha256
from nullclass.results import schema
from nullclass.results.frames import empty_table, read_examples, read_frame, write_frame
from nullclass.results.info import (
    CraftResult,
    EstimateResult,
    Result,
    RunInfo,
    TrainingResult,
    TrialResult,
)
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import Examples, Flag
from nullclass.results.store import R, changed_file, read_info, read_result

Published = Callable[[str, str, float, str], float | None]
"""From model, attack, eps in pixel units and metric to the source's figure, if any."""


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
    result: TrialResult
    """Settings, timings and red flags."""

    @property
    def model(self) -> str:
        """The model's name."""
        return self.result.model

    @property
    def seed(self) -> int:
        """Seed of the model's training, or of the attacks."""
        return self.result.seed

    @property
    def selection(self) -> str:
        """Which of the training's weights."""
        return self.result.selection

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row per image and attack: :data:`nullclass.results.schema.ROW_COLUMNS`."""
        path = self.folder / schema.ROWS
        rows = read_frame(path)
        if len(rows) != self.result.num_rows or not rows["outcome"].isin(OUTCOME_NAMES).all():
            raise UserError(f"{path} is damaged: run the command that wrote it again")
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
        if self._training is None or not (self._training / schema.RESULT).exists():
            return pd.DataFrame()
        result = read_result(self._training, TrainingResult)
        return _read_listed(self._training, result, schema.HISTORY)

    @cached_property
    def epochs(self) -> dict[str, int]:
        """The epoch that each selection of the training kept, by selection."""
        return {} if self._training is None else read_result(self._training, TrainingResult).epochs

    @property
    def _training(self) -> Path | None:
        """The training's folder."""
        name = self.result.trained_in
        return None if name is None else inside(self.folder.parent.parent, name)

    @cached_property
    def examples(self) -> list[Examples]:
        """Images to show."""
        return read_examples(self.folder / schema.EXAMPLES)

    @property
    def flags(self) -> list[Flag]:
        """Red flags of the evaluation."""
        return self.result.flags

    @cached_property
    def decisions(self) -> npt.NDArray[np.int8] | None:
        """Predictions on a grid over the unit cube, -1 for null; one axis per pixel."""
        path = self.folder / schema.DECISIONS
        if not path.exists():
            return None
        try:
            return load_file(check_regular(path, "decisions"))["predictions"]
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(
                f"{path} is damaged ({error}): run the command that wrote it again"
            ) from None


@dataclass(frozen=True)
class Curve:
    """A null curve estimated in a run."""

    model: str
    """The clean model."""
    seed: int
    curve: NullCurve


@dataclass(frozen=True)
class Source:
    """Adversarial images of one model of a run, with their outcomes on that model."""

    model: str
    seed: int
    attack: str
    rows: pd.DataFrame = field(repr=False)
    """:data:`nullclass.results.schema.ROW_COLUMNS`."""


@dataclass(frozen=True)
class Run:
    """A run folder. Curves, sources and tables of trials are read on first use.

    Raises:
        UserError: On first use, if a file is damaged.
    """

    folder: Path
    info: RunInfo
    """``run.json``."""
    trials: list[Trial] = field(repr=False)
    published: Published = field(repr=False)
    """See :func:`read_run`."""

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Rates of all trials: :data:`nullclass.results.schema.SUMMARY_COLUMNS`."""
        tables = []
        for trial in self.trials:
            table = trial.summary.assign(
                study=self.info.study,
                model=trial.model,
                seed=trial.seed,
                selection=trial.selection,
            )
            keys = zip(table["attack"], table["eps_pixels"], table["metric"], strict=True)
            table["published"] = [self.published(trial.model, *key) for key in keys]
            tables.append(table)
        columns = schema.SUMMARY_COLUMNS
        summary = pd.concat(tables) if tables else pd.DataFrame(columns=list(columns))
        return summary[list(columns)].astype(columns).reset_index(drop=True)

    @cached_property
    def curves(self) -> list[Curve]:
        """The null curves estimated in the run."""
        return [
            Curve(result.model, result.seed, NullCurve.from_dict(result.curve))
            for _, result in _results(self.folder / schema.ESTIMATES, EstimateResult)
        ]

    @cached_property
    def sources(self) -> list[Source]:
        """The models that transferred images were made on."""
        return [
            Source(
                result.model, result.seed, result.attack, _read_listed(folder, result, schema.ROWS)
            )
            for folder, result in _results(self.folder / schema.CRAFTED, CraftResult)
        ]

    @cached_property
    def queried(self) -> dict[tuple[str, int], pd.DataFrame]:
        """Name and seed of each substitute trained by queries, to its rounds.

        Columns num_queries, num_images, null, agreement_before, agreement_after.
        """
        return {
            (result.name, result.seed): _read_listed(folder, result, schema.QUERIES)
            for folder, result in _results(self.folder / schema.MODELS, TrainingResult)
            if schema.QUERIES in result.files
        }


def _results(parent: Path, kind: type[R]) -> Iterator[tuple[Path, R]]:
    """Yield folders with a result, by name, and their results."""
    for path in sorted(parent.glob(f"*/{schema.RESULT}")):
        yield path.parent, read_result(path.parent, kind)


def _read_listed(folder: Path, result: Result, name: str) -> pd.DataFrame:
    """Read a table whose digest a result lists; without it, a table without rows.

    Raises:
        UserError: If it is missing or has changed since it was written.
    """
    digest = result.files.get(name)
    if digest is None:
        return pd.DataFrame()
    if sha256(folder / name) != digest:
        raise UserError(
            f"{folder / name} has changed since it was written: run the command that wrote it again"
        )
    return read_frame(folder / name)


def read_trial(folder: Path) -> Trial:
    """Read one trial.

    Raises:
        UserError: If something in it is missing or damaged.
    """
    result = read_result(folder, TrialResult)
    changed = changed_file(folder, result.files)
    if changed is not None:
        raise UserError(
            f"{changed} has changed since it was written, or is gone: run the command that wrote "
            "it again"
        )
    return Trial(folder, result)


def read_run(folder: Path, published: Published = lambda *_: None) -> Run:
    """Read a run folder.

    Args:
        folder: The folder.
        published: Maps model, attack, eps in pixel units (NaN for own budgets) and metric to the
            source's figure, if any, for the summary.

    Raises:
        UserError: If the folder is no run folder, or something in it is missing or damaged.
    """
    info = read_info(folder)
    trials = []
    for name in dict.fromkeys(info.trials.values()):
        path = inside(folder, name)
        if name not in info.results and not (path / schema.RESULT).exists():
            continue  # not finished yet
        if name in info.results and sha256(path / schema.RESULT) != info.results[name]:
            raise UserError(
                f"{path / schema.RESULT} is not the one that {folder / schema.RUN} lists: run the "
                "same command again"
            )
        trials.append(read_trial(path))
    order = {model: index for index, model in enumerate(info.models)}
    trials.sort(key=lambda trial: (order.get(trial.model, len(order)), trial.seed))
    return Run(folder, info, trials, published)


def write_summary(run: Run) -> None:
    """Write the run's ``summary.csv``."""
    write_frame(run.folder / schema.SUMMARY, run.summary)

"""Reads run folders as data frames (:mod:`nullclass.results.schema` lists their files)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
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
from nullclass.results.store import check_files, read_info, read_result, with_result

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
    proved_eps = _optional(schema.PROVED_EPS)
    """The largest eps proved of each image: :data:`nullclass.results.schema.CERTIFIED_COLUMNS`."""
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
        if self._training is None:
            return pd.DataFrame()
        return _read_listed(*self._training, schema.HISTORY)

    @cached_property
    def epochs(self) -> dict[str, int]:
        """The epoch that each selection of the training kept, by selection."""
        return {} if self._training is None else self._training[1].epochs

    @cached_property
    def _training(self) -> tuple[Path, TrainingResult] | None:
        """The training's folder and result, if the run folder has them."""
        if self.result.trained_in is None:
            return None
        folder = inside(self.folder.parent.parent, self.result.trained_in)
        if not (folder / schema.RESULT).exists():
            return None
        return folder, read_result(folder, TrainingResult)

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
class Damaged:
    """A result that cannot be read."""

    title: str
    """The trial's title, or the folder."""
    reason: str
    """One sentence."""


@dataclass(frozen=True)
class Run:
    """A run folder, without what is damaged in it. Tables of trials are read on first use."""

    folder: Path
    info: RunInfo
    """``run.json``."""
    trials: list[Trial] = field(repr=False)
    published: Published = field(repr=False)
    """See :func:`read_run`."""
    curves: list[Curve] = field(default_factory=list, repr=False)
    """The null curves estimated in the run."""
    sources: list[Source] = field(default_factory=list, repr=False)
    """The models that transferred images were made on."""
    queried: dict[tuple[str, int], pd.DataFrame] = field(default_factory=dict, repr=False)
    """Name and seed of each substitute trained by queries, to its rounds.

    Columns num_queries, num_images, null, agreement_before, agreement_after.
    """
    damaged: list[Damaged] = field(default_factory=list)
    """What is left out above."""

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Rates of all trials: :data:`nullclass.results.schema.SUMMARY_COLUMNS`."""
        rates = _joined((trial, trial.summary) for trial in self.trials)
        return summary_of(rates, self.info.study, self.published)

    @cached_property
    def histories(self) -> pd.DataFrame:
        """:attr:`Trial.history` of all trials, after columns model, seed and selection."""
        return _joined((trial, trial.history) for trial in self.trials)

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """:attr:`Trial.thresholds` of all trials, after columns model, seed and selection."""
        return _joined((trial, trial.thresholds) for trial in self.trials)


def summary_of(rates: pd.DataFrame, study: str, published: Published) -> pd.DataFrame:
    """The rates of a study's trials with the source's figures, as :attr:`Run.summary`."""
    columns = schema.SUMMARY_COLUMNS
    if rates.empty:
        return pd.DataFrame(columns=list(columns)).astype(columns)
    keys = zip(*(rates[name] for name in ("model", "attack", "eps_pixels", "metric")), strict=True)
    table = rates.assign(study=study)
    table["published"] = [published(*key) for key in keys]
    return table[list(columns)].astype(columns).reset_index(drop=True)


def _joined(tables: Iterable[tuple[Trial, pd.DataFrame]]) -> pd.DataFrame:
    """The tables of trials as one, without the empty ones."""
    keys = ["model", "seed", "selection"]
    named = [
        table.assign(**{key: getattr(trial, key) for key in keys})
        for trial, table in tables
        if len(table)
    ]
    if not named:
        return pd.DataFrame(columns=keys)
    joined = pd.concat(named, ignore_index=True)
    return joined[[*keys, *(name for name in joined if name not in keys)]]


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


def read_history(folder: Path) -> pd.DataFrame:
    """Read the history of a training; a table without rows if the run folder lacks the training.

    Raises:
        UserError: If it is damaged.
    """
    if not (folder / schema.RESULT).exists():
        return pd.DataFrame()
    return _read_listed(folder, read_result(folder, TrainingResult), schema.HISTORY)


def read_trial(folder: Path) -> Trial:
    """Read one trial.

    Raises:
        UserError: If something in it is missing or damaged.
    """
    result = read_result(folder, TrialResult)
    check_files(folder, result)
    return Trial(folder, result)


def read_run(folder: Path, published: Published = lambda *_: None) -> Run:
    """Read a run folder; what is damaged costs itself, and is listed in :attr:`Run.damaged`.

    Args:
        folder: The folder.
        published: Maps model, attack, eps in pixel units (NaN for own budgets) and metric to the
            source's figure, if any, for the summary.

    Raises:
        UserError: If the folder is no run folder, ``run.json`` is damaged, or every finished trial.
    """
    info = read_info(folder)
    damaged: list[Damaged] = []
    reading = partial(_noting_damage, damaged)
    trials: list[Trial] = []
    titles = {name: title for title, name in info.trials.items()}
    for name, title in titles.items():
        with reading(title):
            trial = _read_listed_trial(folder, name, info.results.get(name))
            if trial is not None:
                trials.append(trial)
    if damaged and not trials:
        raise UserError(damaged[0].reason)
    order = {model: index for index, model in enumerate(info.models)}
    trials.sort(key=lambda trial: (order.get(trial.model, len(order)), trial.seed))
    curves: list[Curve] = []
    for path in with_result(folder / schema.ESTIMATES):
        with reading(f"{schema.ESTIMATES}/{path.name}"):
            estimate = read_result(path, EstimateResult)
            curve = NullCurve.from_dict(estimate.curve)
            curves.append(Curve(estimate.model, estimate.seed, curve))
    sources: list[Source] = []
    for path in with_result(folder / schema.CRAFTED):
        with reading(f"{schema.CRAFTED}/{path.name}"):
            craft = read_result(path, CraftResult)
            rows = _read_listed(path, craft, schema.ROWS)
            sources.append(Source(craft.model, craft.seed, craft.attack, rows))
    queried: dict[tuple[str, int], pd.DataFrame] = {}
    for path in with_result(folder / schema.MODELS):
        with reading(f"{schema.MODELS}/{path.name}"):
            training = read_result(path, TrainingResult)
            if schema.QUERIES in training.files:
                rounds = _read_listed(path, training, schema.QUERIES)
                queried[training.name, training.seed] = rounds
    return Run(folder, info, trials, published, curves, sources, queried, damaged)


@contextmanager
def _noting_damage(damaged: list[Damaged], title: str) -> Iterator[None]:
    """Turn a UserError into an entry of ``damaged``."""
    try:
        yield
    except UserError as error:
        damaged.append(Damaged(title, str(error)))


def _read_listed_trial(folder: Path, name: str, digest: str | None) -> Trial | None:
    """Read a trial of ``run.json`` with the record of its training; None if it is not finished.

    Raises:
        UserError: If something in it is missing or damaged.
    """
    path = inside(folder, name)
    if digest is None and not (path / schema.RESULT).exists():
        return None
    if digest is not None and sha256(path / schema.RESULT) != digest:
        raise UserError(
            f"{path / schema.RESULT} is not the one that {folder / schema.RUN} lists: run the "
            "same command again"
        )
    trial = read_trial(path)
    trial.history  # noqa: B018 - reads it
    return trial


def write_summary(run: Run) -> None:
    """Write the run's ``summary.csv``."""
    write_frame(run.folder / schema.SUMMARY, run.summary)

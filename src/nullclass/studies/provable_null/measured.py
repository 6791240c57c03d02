"""Numbers of the study ``provable-null``: proofs beside attacks, radii, trainings, the zoo."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.experiments.config import Training
from nullclass.experiments.config import Trial as TrialConfig
from nullclass.experiments.jobs import folder_of
from nullclass.metrics import claims
from nullclass.metrics.claims import ROUNDING
from nullclass.metrics.rates import wilson
from nullclass.report.measures import Measure, Measures
from nullclass.results.run import Run, Trial, read_history
from nullclass.results.schema import CLEAN, PROOF, UNION
from nullclass.training.eps_schedule import RAMPS, EpsSchedule
from nullclass.zoo import FOLDER, read_zoo
from nullclass.zoo import results as zoo_results

BRACKET = ["model", "kind", "eps", "rate", "low", "high", "num_images"]
"""Columns of RAR by ε. The kind is ``clean`` (correct at ε 0), ``proved`` (a lower bound) or
``attacked`` (an upper bound)."""
KINDS = {
    (CLEAN, "correct_rate"): "clean",
    (PROOF, "rar_proved"): "proved",
    (UNION, "rar"): "attacked",
}
ZOO_KINDS = {
    (zoo_results.CLEAN, "correct_rate"): "clean",
    (zoo_results.PROOF, "rar_proved"): "proved",
    (zoo_results.ATTACK, "rar"): "attacked",
}


def brackets(measures: Measures) -> pd.DataFrame:
    """RAR of the run's models, with the columns of :data:`BRACKET`."""
    rows = [
        (m.model, KINDS[m.attack, m.metric], m.eps, m.mean, *m.interval, m.num_images)
        for m in measures.all
        if (m.attack, m.metric) in KINDS
    ]
    return pd.DataFrame(rows, columns=BRACKET)


def zoo_brackets(run: Run, known: Collection[str], folder: Path = FOLDER) -> pd.DataFrame:
    """RAR of the zoo's models for the run's dataset, from the zoo's recorded results.

    Args:
        run: The run.
        known: Names of models to leave out.
        folder: Folder of the zoo.

    Returns:
        The columns of :data:`BRACKET`; the rates of most images. No rows if the zoo is damaged,
        which must not prevent the report of a run.
    """
    dataset = run.info.data.name
    try:
        tables = [
            zoo_results.read_results(member)
            for member in read_zoo(folder).values()
            if member.data == dataset and member.name not in known
        ]
    except UserError:
        tables = []
    if not tables:
        return pd.DataFrame(columns=BRACKET)
    rows = pd.concat(tables).rename(columns={"member": "model", "eps_pixels": "eps"})
    kinds = [ZOO_KINDS.get(pair, "") for pair in zip(rows["kind"], rows["metric"], strict=True)]
    rows = rows.assign(kind=kinds).sort_values(["eps", "num_images"])
    rows = rows[rows["kind"] != ""]
    return rows.drop_duplicates(["model", "kind", "eps"], keep="last")[BRACKET]


def run_violations(run: Run) -> tuple[int, pd.DataFrame]:
    """Check all rows of a run against the proofs of their images.

    Returns:
        Number of rows, clean or attacked, of images with a proof at that ε or a larger one; and the
        rows that contradict a proof: model, seed, image, attack, eps_pixels, outcome, proved (ε of
        the proof), claim.
    """
    columns = ["model", "seed", "image", "attack", "eps_pixels", "outcome", "proved", "claim"]
    num_checked, tables = 0, [pd.DataFrame(columns=columns)]
    for trial in run.trials:
        if len(trial.certified):
            found = claims.find_violations(trial.rows, trial.certified)
            num_checked += found.num_rows
            broken = found.violations.assign(model=trial.model, seed=trial.seed)[columns]
            tables += [broken] if len(broken) else []
    return num_checked, pd.concat(tables[1:] or tables, ignore_index=True)


def by_radius(run: Run) -> pd.DataFrame:
    """Outcomes of clean test images by the radius of the proof.

    Returns:
        Columns model, radius, correct, null, fooled (means over seeds) and num_images (per seed,
        the minimum). ``correct`` is the certified accuracy at the radius, and hence the proved RAR
        at twice the radius.
    """
    tables = []
    for trial in run.trials:
        rows = trial.radii
        if len(rows):
            outcomes = pd.get_dummies(rows["outcome"]).reindex(
                columns=[*OUTCOME_NAMES], fill_value=0
            )
            groups = outcomes.groupby(rows["radius"])
            table = groups.mean().assign(num_images=groups.size(), model=trial.model)
            tables.append(table.reset_index())
    columns = ["model", "radius", *OUTCOME_NAMES, "num_images"]
    if not tables:
        return pd.DataFrame(columns=columns)
    means = dict.fromkeys(OUTCOME_NAMES, "mean") | {"num_images": "min"}
    both = pd.concat(tables).groupby(["model", "radius"], sort=False, as_index=False)
    return both.agg(means)[columns]


def trial_config(trial: Trial) -> TrialConfig:
    """The config that a trial's result records.

    Raises:
        UserError: If it records no such config.
    """
    try:
        return msgspec.convert(trial.result.config, TrialConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"the config in {trial.folder} is not that of a trial: {error}") from None


def configs(run: Run) -> dict[str, TrialConfig]:
    """The config of each model's trials."""
    return {trial.model: trial_config(trial) for trial in run.trials}


def radii(run: Run) -> dict[str, float]:
    """The radii of the models that prove their answers."""
    found = {model: config.radius for model, config in configs(run).items()}
    return {model: radius for model, radius in found.items() if radius is not None}


def stages(training: Training) -> list[Training]:
    """The trainings behind a model's weights, the last one first."""
    return [training, *(stages(training.start) if training.start else [])]


def training_minutes(run: Run) -> pd.Series[float]:
    """Duration of each model's training in minutes, all stages together, mean over seeds."""
    seconds = []
    for trial in run.trials:
        earlier = stages(trial_config(trial).training)[1:]
        folders = [folder_of(training, run.info.data.checksum) for training in earlier]
        histories = [trial.history, *(read_history(run.folder / name) for name in folders)]
        if all(map(len, histories)):
            seconds.append((trial.model, sum(history["seconds"].sum() for history in histories)))
    table = pd.DataFrame(seconds, columns=["model", "seconds"])
    return table.groupby("model")["seconds"].mean() / 60


def training_eps(training: Training, num_epochs: int) -> npt.NDArray[np.float64]:
    """Mean ε of the steps of each epoch in pixel units; 0 without a robust loss.

    Args:
        training: The training.
        num_epochs: Number of epochs.
    """
    robust = training.robust
    if robust is None:
        return np.zeros(num_epochs)
    (warmup, ramp), settings = RAMPS[robust.loss], robust.settings
    schedule = EpsSchedule(
        settings["eps"], settings.get("warmup", warmup), settings.get("ramp", ramp)
    )
    steps = (np.arange(200 * num_epochs) + 0.5) / (200 * num_epochs)
    fractions = np.array([schedule.fraction(step) for step in steps])
    return np.asarray(schedule.eps * fractions.reshape(num_epochs, 200).mean(axis=1))


def proved_on_attacked_images(run: Run, proved: Measure, attacked: str) -> Measure | None:
    """The proved RAR on the images on which another model was attacked.

    Args:
        run: The run.
        proved: The proved RAR of a model on all images.
        attacked: Name of the other model.
    """

    def at_eps(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[(rows["eps_pixels"] - proved.eps).abs() <= ROUNDING]

    tables = [at_eps(t.rows[t.rows["attack"] != CLEAN]) for t in run.trials if t.model == attacked]
    images = pd.concat(tables)["image"].unique()
    hits = {}
    for trial in run.trials:
        rows = at_eps(trial.certified)
        of = rows[rows["image"].isin(images)].groupby("image")["is_rar_proved"].any()
        if trial.model == proved.model and len(of):
            hits[trial.seed] = of
    if not hits:
        return None
    (first, *_) = hits.values()
    is_one = len(hits) == 1
    low, high = wilson(int(first.sum()), len(first)) if is_one else (math.nan, math.nan)
    return replace(
        proved,
        values=tuple(float(of.mean()) for of in hits.values()),
        seeds=tuple(hits),
        low=low,
        high=high,
        num_images=min(map(len, hits.values())),
    )

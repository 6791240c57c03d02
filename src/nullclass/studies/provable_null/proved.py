"""What is proved beside what attacks did: the bracket, and whether one ever breaks the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from nullclass.metrics.claims import ROUNDING, find_violations
from nullclass.metrics.rates import PROOF, UNION, wilson
from nullclass.report.measures import Measure, Measures
from nullclass.results.frames import read_frame
from nullclass.results.schema import CLEAN, RADII, RADIUS_COLUMNS
from nullclass.results.store import Run, Trial


@dataclass(frozen=True)
class Point:
    """One model at one eps: what is proved from below, what attacks left from above."""

    model: str
    eps: float
    proved: Measure | None
    """RAR that no attack can go below."""
    attacked: Measure | None
    """RAR that the attacks made left; a stronger one may leave less."""


@dataclass(frozen=True)
class Checked:
    """Proofs held against every attack of a run, image by image."""

    num_pairs: int
    """Attacked or clean images of which something had been proved at that eps or beyond."""
    broken: pd.DataFrame = field(repr=False)
    """Those that did what was proved impossible: model, seed, image, attack, eps_pixels, outcome,
    proved (the eps of the proof) and claim (:data:`nullclass.metrics.claims.CLAIMS` in words)."""


def bracket(measures: Measures, model: str) -> list[Point]:
    """One model at every eps where something is proved or attacked, rising."""
    found = {*measures.union_budgets("rar"), *proved_budgets(measures)}
    points = [
        Point(
            model,
            eps,
            measures.find(model, PROOF, "rar_proved", eps),
            measures.find(model, UNION, "rar", eps),
        )
        for eps in sorted(found)
    ]
    return [point for point in points if point.proved or point.attacked]


def proved_budgets(measures: Measures) -> list[float]:
    """Eps at which something is proved, rising."""
    return [eps for eps in measures.budgets(PROOF) if eps == eps]


def checked(run: Run) -> Checked:
    """Look for images that an attack, or nothing at all, made do what was proved impossible.

    An image proved at an eps is held to it at that eps and at every smaller one. If none is broken,
    no RAR under attack can be below the proved one, whichever images both are taken over.
    """
    asked = [trial for trial in run.trials if len(trial.certified)]
    held = [(trial, find_violations(trial.rows, trial.certified)) for trial in asked]
    columns = ["model", "seed", "image", "attack", "eps_pixels", "outcome", "proved", "claim"]
    found = [
        of.violations.assign(model=trial.model, seed=trial.seed)[columns]
        for trial, of in held
        if len(of.violations)
    ]
    return Checked(
        sum(of.num_rows for _, of in held),
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns),
    )


def radii_of(trial: Trial) -> pd.DataFrame:
    """What the model would answer with other radii:
    :data:`nullclass.results.schema.RADIUS_COLUMNS`.

    Empty if it was not asked.
    """
    path = trial.folder / RADII
    if not path.exists():
        return pd.DataFrame(columns=list(RADIUS_COLUMNS))
    return read_frame(path, RADIUS_COLUMNS)


def by_radius(run: Run) -> pd.DataFrame:
    """Shares of clean test images answered rightly, refused and answered wrongly, by radius.

    Returns:
        Columns model, radius, correct, null, fooled (means over seeds), num_images (a seed, the
        fewest) and num_seeds. ``correct`` is the certified accuracy at the radius, and so what is
        proved of RAR at twice the radius.
    """
    lines = []
    for trial in run.trials:
        for radius, group in radii_of(trial).groupby("radius"):
            shares = {word: float((group["outcome"] == word).mean()) for word in WORDS}
            place = {"model": trial.model, "seed": trial.seed, "radius": radius}
            lines.append(place | shares | {"num_images": len(group)})
    columns = ["model", "radius", *WORDS, "num_images", "num_seeds"]
    if not lines:
        return pd.DataFrame(columns=columns)
    by = pd.DataFrame(lines).groupby(["model", "radius"], sort=False, as_index=False)
    means = by[list(WORDS)].mean()
    means["num_images"] = by["num_images"].min()["num_images"]
    means["num_seeds"] = by["seed"].nunique()["seed"]
    return means


WORDS = ("correct", "null", "fooled")


def radius_of(trial: Trial) -> float | None:
    """The radius within which a model proves its answers, if it is one that does."""
    config = trial.result.get("config")
    found = config.get("radius") if isinstance(config, dict) else None
    return float(found) if isinstance(found, int | float) else None


def radii(run: Run) -> dict[str, float]:
    """The radius of each model that has one."""
    told = {trial.model: radius_of(trial) for trial in run.trials}
    return {model: radius for model, radius in told.items() if radius is not None}


def minutes(run: Run, model: str) -> tuple[float, ...]:
    """How long each seed's training took, in minutes; those that say."""
    return tuple(
        float(trial.history["seconds"].sum()) / 60
        for trial in run.trials
        if trial.model == model and "seconds" in trial.history
    )


def training_of(run: Run, model: str) -> dict[str, Any]:
    """How a model was trained (:class:`nullclass.experiments.config.Training`); empty if untold."""
    for trial in run.trials:
        config = trial.result.get("config")
        told = config.get("training") if isinstance(config, dict) else None
        if trial.model == model and isinstance(told, dict):
            return told
    return {}


def trained_for(run: Run, model: str) -> float | None:
    """The eps a model's robust loss was trained for, in pixel units, if it has one."""
    robust = training_of(run, model).get("robust")
    return float(robust["settings"]["eps"]) if isinstance(robust, dict) else None


def proved_where_attacked(run: Run, measure: Measure, attacked: str) -> Measure | None:
    """What is proved of RAR, over those images only that another model was attacked on.

    Args:
        run: The run.
        measure: What is proved of all images, at the eps.
        attacked: The other model.

    Returns:
        None if there are no such images.
    """
    images = {
        image
        for trial in run.trials
        if trial.model == attacked
        for image in trial.rows.loc[
            (trial.rows["attack"] != CLEAN)
            & ((trial.rows["eps_pixels"] - measure.eps).abs() <= ROUNDING),
            "image",
        ]
    }
    hits, counts, seeds = [], [], []
    for trial in run.trials:
        rows = trial.certified
        at = rows["image"].isin(images) & ((rows["eps_pixels"] - measure.eps).abs() <= ROUNDING)
        proved = rows[at].groupby("image")["is_rar_proved"].any()  # by whichever verifier
        if trial.model == measure.model and len(proved):
            hits.append(int(proved.sum()))
            counts.append(len(proved))
            seeds.append(trial.seed)
    if not hits:
        return None
    is_alone = len(hits) == 1
    low, high = wilson(hits[0], counts[0]) if is_alone else (math.nan, math.nan)
    values = tuple(hit / count for hit, count in zip(hits, counts, strict=True))
    return replace(
        measure, values=values, seeds=tuple(seeds), low=low, high=high, num_images=min(counts)
    )


def clean_triple(measures: Measures, model: str) -> list[Measure | None]:
    """Correct, null and fooled of clean images."""
    return [measures.find(model, CLEAN, word) for word in WORDS]

"""What is proved beside what attacks did: the bracket, and whether one ever breaks the other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nullclass.records import RADII, RADIUS_COLUMNS, Run, Trial, read_frame
from nullclass.report.measures import CLEAN, Measure, Measures
from nullclass.summary import PROOF, UNION

ROUNDING = 1e-9
"""Two budgets that differ by this are the same."""


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
    proved (the eps of the proof) and what (``never fooled``, ``always right``)."""


PROMISES = {
    "is_never_fooled": ("never fooled", ("fooled",)),
    "is_correct_proved": ("always right", ("fooled", "null")),
}
"""What a column of the proofs promises, and the outcomes that break it."""


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
    tables = [_broken(trial) for trial in run.trials if len(trial.certified)]
    columns = ["model", "seed", "image", "attack", "eps_pixels", "outcome", "proved", "what"]
    found = [table[columns] for _, table in tables if len(table)]
    return Checked(
        sum(num for num, _ in tables),
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns),
    )


def _broken(trial: Trial) -> tuple[int, pd.DataFrame]:
    certified, tables, is_held = trial.certified, [], np.zeros(len(trial.rows), dtype=bool)
    for column, (what, breaking) in PROMISES.items():
        proved = certified[certified[column].astype(bool)]
        furthest = proved.groupby(["norm", "image"])["eps_pixels"].max()
        keys = pd.MultiIndex.from_frame(trial.rows[["norm", "image"]])
        reach = furthest.reindex(keys).to_numpy(dtype=float)  # NaN, and so no promise, if unproved
        holds = trial.rows["eps_pixels"].to_numpy() <= reach + ROUNDING
        is_held |= holds
        breaks = holds & trial.rows["outcome"].isin(breaking).to_numpy()
        tables.append(trial.rows[breaks].assign(proved=reach[breaks], what=what))
    broken = pd.concat(tables).assign(model=trial.model, seed=trial.seed)
    return int(is_held.sum()), broken.drop_duplicates(["image", "attack", "eps_pixels"])


def radii_of(trial: Trial) -> pd.DataFrame:
    """What the model would answer with other radii: :data:`nullclass.records.RADIUS_COLUMNS`.

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


def clean_triple(measures: Measures, model: str) -> list[Measure | None]:
    """Correct, null and fooled of clean images."""
    return [measures.find(model, CLEAN, word) for word in WORDS]

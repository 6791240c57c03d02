"""Numbers of the study ``provable-null``: proofs beside attacks, radii, trainings, the zoo."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.metrics import claims
from nullclass.metrics.claims import ROUNDING
from nullclass.metrics.rates import PROOF, UNION, wilson
from nullclass.report.measures import OUTCOMES, Measure, Measures
from nullclass.results.frames import read_frame
from nullclass.results.schema import CLEAN, RADII, RADIUS_COLUMNS
from nullclass.results.store import Run, Trial
from nullclass.zoo import FOLDER, Member, read_zoo
from nullclass.zoo import results as zoo_results


@dataclass(frozen=True)
class Bracket:
    """RAR of one model by ε: proved from below, attacked from above."""

    model: str
    clean: Measure | None
    """Clean images answered correctly."""
    proved: list[Measure]
    """RAR that no attack can lower, ε ascending."""
    attacked: list[Measure]
    """RAR under the attacks of the run; a stronger attack may lower it."""


def bracket(measures: Measures, model: str) -> Bracket:
    """The bracket of a model of the run."""
    kinds = ((PROOF, "rar_proved"), (UNION, "rar"))
    proved, attacked = (
        [m for m in measures.all if (m.model, m.attack, m.metric) == (model, attack, metric)]
        for attack, metric in kinds
    )
    return Bracket(model, measures.find(model, CLEAN, "correct"), proved, attacked)


def zoo_brackets(run: Run, known: Collection[str], folder: Path = FOLDER) -> list[Bracket]:
    """Brackets of the zoo's models for the run's dataset, from the zoo's recorded results.

    Args:
        run: The run.
        known: Names of models to leave out.
        folder: Folder of the zoo.
    """
    data = run.info.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    try:
        members = [m for m in read_zoo(folder).values() if m.dataset == name]
        found = [_zoo_bracket(member) for member in members if member.name not in known]
    except UserError:  # a damaged zoo must not prevent the report of a run
        return []
    return [one for one in found if one.proved or one.attacked]


def _zoo_bracket(member: Member) -> Bracket:
    rows = zoo_results.read_results(member)

    def of(kind: str, metric: str) -> list[Measure]:
        found = rows[(rows["kind"] == kind) & (rows["metric"] == metric)]
        found = found.sort_values(["eps_pixels", "num_images"])
        return [
            Measure(
                member.name,
                kind,
                metric,
                (row["rate"],),
                eps=row["eps_pixels"],
                low=row["low"],
                high=row["high"],
                num_images=row["num_images"],
            )
            for row in found.drop_duplicates("eps_pixels", keep="last").to_dict("records")
        ]

    clean = of(zoo_results.CLEAN, "correct_rate")
    return Bracket(
        member.name,
        clean[0] if clean else None,
        of(zoo_results.PROOF, "rar_proved"),
        of(zoo_results.ATTACK, "rar"),
    )


@dataclass(frozen=True)
class Violations:
    """Images that contradict a proof."""

    num_checked: int
    """Rows, clean or attacked, of images with a proof at that ε or a larger one."""
    rows: pd.DataFrame = field(repr=False)
    """Columns model, seed, image, attack, eps_pixels, outcome, proved (ε of the proof), what."""


def find_violations(run: Run) -> Violations:
    """Check all rows of a run against the proofs of their images."""
    columns = ["model", "seed", "image", "attack", "eps_pixels", "outcome", "proved", "claim"]
    num_checked, tables = 0, [pd.DataFrame(columns=columns)]
    for trial in run.trials:
        if len(trial.certified):
            found = claims.find_violations(trial.rows, trial.certified)
            num_checked += found.num_rows
            broken = found.violations.assign(model=trial.model, seed=trial.seed)[columns]
            tables += [broken] if len(broken) else []
    return Violations(num_checked, pd.concat(tables[1:] or tables, ignore_index=True))


def clean_outcomes(measures: Measures, model: str) -> list[Measure | None]:
    """Rates of correct, null and fooled on clean images."""
    return [measures.find(model, CLEAN, outcome) for outcome in OUTCOMES]


def by_radius(run: Run) -> pd.DataFrame:
    """Outcomes of clean test images by the radius of the proof.

    Returns:
        Columns model, radius, correct, null, fooled (means over seeds) and num_images (per seed,
        the minimum). ``correct`` is the certified accuracy at the radius, and hence the proved RAR
        at twice the radius.
    """
    tables = []
    for trial in run.trials:
        if (trial.folder / RADII).exists():
            rows = read_frame(trial.folder / RADII, RADIUS_COLUMNS)
            outcomes = pd.get_dummies(rows["outcome"]).reindex(columns=[*OUTCOMES], fill_value=0)
            groups = outcomes.groupby(rows["radius"])
            table = groups.mean().assign(num_images=groups.size(), model=trial.model)
            tables.append(table.reset_index())
    columns = ["model", "radius", *OUTCOMES, "num_images"]
    if not tables:
        return pd.DataFrame(columns=columns)
    means = dict.fromkeys(OUTCOMES, "mean") | {"num_images": "min"}
    both = pd.concat(tables).groupby(["model", "radius"], sort=False, as_index=False)
    return both.agg(means)[columns]


def radius_of(trial: Trial) -> float | None:
    """The radius within which the model proves its answers, if it does."""
    radius = (trial.result.get("config") or {}).get("radius")
    return float(radius) if isinstance(radius, int | float) else None


def radii(run: Run) -> dict[str, float]:
    """The radii of the models that prove their answers."""
    found = {trial.model: radius_of(trial) for trial in run.trials}
    return {model: radius for model, radius in found.items() if radius is not None}


def training_minutes(run: Run, model: str) -> float | None:
    """Mean duration of a model's trainings in minutes, if recorded."""
    histories = [trial.history for trial in run.trials if trial.model == model]
    seconds = [float(h["seconds"].sum()) for h in histories if "seconds" in h]
    return sum(seconds) / len(seconds) / 60 if seconds else None


def training_of(run: Run, model: str) -> dict[str, Any]:
    """A model's training config (:class:`nullclass.experiments.config.Training`), if recorded."""
    configs = (t.result.get("config") or {} for t in run.trials if t.model == model)
    found = (config["training"] for config in configs if isinstance(config.get("training"), dict))
    return next(found, {})


def trained_for(run: Run, model: str) -> float | None:
    """The ε of a model's robust loss in pixel units, if it has one."""
    robust = training_of(run, model).get("robust")
    return float(robust["settings"]["eps"]) if isinstance(robust, dict) else None


def proved_on_attacked_images(run: Run, proved: Measure, attacked: str) -> Measure | None:
    """The proved RAR on the images on which another model was attacked.

    Args:
        run: The run.
        proved: The proved RAR of a model on all images.
        attacked: Name of the other model.
    """

    def at_eps(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[(rows["eps_pixels"] - proved.eps).abs() <= ROUNDING]

    images: set[int] = set()
    for trial in run.trials:
        if trial.model == attacked:
            images |= set(at_eps(trial.rows[trial.rows["attack"] != CLEAN])["image"])
    hits = {}
    for trial in run.trials:
        rows = at_eps(trial.certified)
        of = rows[rows["image"].isin(images)].groupby("image")["is_rar_proved"].any()
        if trial.model == proved.model and len(of):
            hits[trial.seed] = (int(of.sum()), len(of))
    if not hits:
        return None
    (first, *_) = hits.values()
    low, high = wilson(*first) if len(hits) == 1 else (math.nan, math.nan)
    return replace(
        proved,
        values=tuple(num / total for num, total in hits.values()),
        seeds=tuple(hits),
        low=low,
        high=high,
        num_images=min(total for _, total in hits.values()),
    )

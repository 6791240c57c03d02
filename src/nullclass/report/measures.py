"""``summary.csv`` grouped over seeds, and how numbers are written."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nullclass.errors import UserError
from nullclass.records import SUMMARY, SUMMARY_COLUMNS, Run
from nullclass.report.blocks import Cell, Mark
from nullclass.summary import WORST_CASE

CLEAN = "none"
FGSM = "fgsm"
NULL_AWARE = "null-aware-pgd"
LOSSES = ("loss", "null_loss")
NORMS = {"linf": "L∞", "l2": "L2"}
NAMES = {FGSM: "FGSM", NULL_AWARE: "null-aware PGD", "pgd": "PGD", "pgd-targeted": "targeted PGD"}
"""Attacks as they are written; others by the name they have in the rows."""

FLOOR = 0.003
"""How far a published rate may always be from ours: 0.3 points."""
ROUNDING = 1e-9
"""Two decimal numbers that differ by this are the same."""


@dataclass(frozen=True)
class Measure:
    """One metric of one model under one attack and budget, over seeds."""

    model: str
    attack: str
    objective: str
    norm: str
    eps: float
    """In pixel units; 0 for clean images."""
    metric: str
    values: tuple[float, ...]
    """One a seed."""
    published: float | None
    low: float
    """Lower end of the 95 % Wilson interval over images; NaN unless there is one seed."""
    high: float
    num_images: int
    """Images a seed; the fewest if seeds differ."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds; NaN for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def is_rate(self) -> bool:
        """Whether it is a share in [0,1], not a loss."""
        return self.metric not in LOSSES

    @property
    def verdict(self) -> Mark:
        """Whether the published value is reproduced; empty if that cannot be said.

        Reproduced means within 2 sd of our seeds' mean, or within 0.3 points (0.003 of a loss)
        where 2 sd is less. One seed has no sd: then only the 0.3 points count, and a loss,
        which has no points, is not judged.
        """
        if self.published is None or (len(self.values) == 1 and not self.is_rate):
            return ""
        allowed = FLOOR if len(self.values) == 1 else max(2 * self.sd, FLOOR)
        return "within" if abs(self.mean - self.published) <= allowed + ROUNDING else "outside"


class Measures:
    """All measures of a run, in the run's order of models.

    Raises:
        UserError: If the summary is empty, lacks a column or holds numbers that cannot be.
    """

    def __init__(self, run: Run) -> None:
        summary = _checked(run)
        named = run.info.get("models")
        order = [str(name) for name in named] if isinstance(named, list) else []
        present = list(dict.fromkeys(summary["model"]))
        self.models: list[str] = [name for name in order if name in present]
        self.models += [name for name in present if name not in order]
        self.missing: list[str] = [name for name in order if name not in present]
        self.seeds: list[int] = sorted(int(seed) for seed in summary["seed"].unique())
        self.all: list[Measure] = []
        keys = ["model", "attack", "objective", "norm", "eps_pixels", "metric"]
        for (model, attack, objective, norm, eps, metric), lines in summary.groupby(keys):
            known = [float(value) for value in lines["published"].dropna()]
            alone = len(lines) == 1
            self.all.append(
                Measure(
                    model=str(model),
                    attack=str(attack),
                    objective=str(objective),
                    norm=str(norm),
                    eps=float(str(eps)),
                    metric=str(metric),
                    values=tuple(float(value) for value in lines.sort_values("seed")["value"]),
                    published=known[0] if known else None,
                    low=float(lines["low"].iloc[0]) if alone else math.nan,
                    high=float(lines["high"].iloc[0]) if alone else math.nan,
                    num_images=int(lines["num_images"].min()),
                )
            )

    def find(self, model: str, attack: str, metric: str, eps: float = 0.0) -> Measure | None:
        """The measure, or ``None``; eps may differ by what a table rounds off."""
        for measure in self.all:
            named = (measure.model, measure.attack, measure.metric) == (model, attack, metric)
            if named and math.isclose(measure.eps, eps, rel_tol=1e-5, abs_tol=1e-9):
                return measure
        return None

    def attacks(self) -> list[str]:
        """Names of the attacks, FGSM first, the union of all left out."""
        names = {measure.attack for measure in self.all} - {CLEAN, WORST_CASE}
        return sorted(names, key=lambda name: (name != FGSM, name))

    def budgets(self, attack: str) -> list[float]:
        """Budgets of an attack in pixel units, rising."""
        return sorted({measure.eps for measure in self.all if measure.attack == attack})

    def worst_case_budgets(self) -> list[float]:
        """Budgets AER and RAR are given for, rising."""
        return self.budgets(WORST_CASE)

    def attacker(self) -> str:
        """Who AER and RAR are about: one who knows about null, or whatever attacks there were."""
        return "an attacker who knows about null" if self.budgets(NULL_AWARE) else "some attack"

    def norm(self, attack: str) -> str:
        """The norm of an attack's budget, as it is written."""
        for measure in self.all:
            if measure.attack == attack:
                return NORMS.get(measure.norm, measure.norm)
        return ""

    def has_null(self, model: str) -> bool:
        """Whether the model can answer null at all: only then it has a null loss, or nulls."""
        return any(
            measure.model == model
            and (
                (measure.metric == "null_loss")
                or (measure.metric == "null" and max(measure.values) > 0)
            )
            for measure in self.all
        )

    def num_images(self, attack: str) -> str:
        """How many images a seed an attack saw, as it is written."""
        counts = {measure.num_images for measure in self.all if measure.attack == attack}
        return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))

    def seeds_text(self) -> str:
        """How many seeds, and which."""
        if len(self.seeds) == 1:
            return f"1 seed ({self.seeds[0]})"
        is_run = self.seeds == list(range(self.seeds[0], self.seeds[-1] + 1))
        which = f"{self.seeds[0]}–{self.seeds[-1]}" if is_run else ", ".join(map(str, self.seeds))
        return f"{len(self.seeds)} seeds ({which})"


def _checked(run: Run) -> pd.DataFrame:
    summary, path = run.summary, run.folder / SUMMARY
    for column in SUMMARY_COLUMNS:
        if column not in summary:
            raise UserError(f"{path} lacks the column {column!r}: run the study again")
    if summary.empty:
        raise UserError(f"{path} holds no results yet: run the study again, it goes on")
    numbers = summary.copy()
    for column in ("seed", "eps_pixels", "value", "published", "low", "high", "num_images"):
        numbers[column] = pd.to_numeric(numbers[column], errors="coerce")
        if column in ("published", "low", "high"):
            damaged = numbers[column].isna() & summary[column].notna()
        elif column == "value":
            # a loss may be missing (no null class, another's model), a rate may not
            damaged = numbers[column].isna() & ~numbers["metric"].isin(LOSSES)
        else:
            damaged = numbers[column].isna()
        if damaged.any():
            line = int(damaged.to_numpy().argmax()) + 2
            raise UserError(
                f"{path} is damaged (line {line}, column {column!r}): remove it and run the study "
                "again"
            )
    numbers = numbers[numbers["value"].notna()]
    rates = numbers[~numbers["metric"].isin(LOSSES)]
    if not rates["value"].between(0, 1).all():
        raise UserError(
            f"{path} is damaged (a rate outside [0, 1]): remove it and run the study again"
        )
    return numbers


def pixel_per_unit(info: dict[str, Any]) -> float | None:
    """Pixel units in one of the source's epsilons, if the run has such a unit."""
    found: Any = info.get("settings")
    for settings in (found, found.get("unit") if isinstance(found, dict) else None):
        if isinstance(settings, dict):
            factor = settings.get("pixel_per_notebook_eps")
            if isinstance(factor, int | float) and factor > 0:
                return float(factor)
    return 0.3081 if info.get("study") == "fgsm-null" else None


def percent(share: float, digits: int = 2) -> str:
    """A share as a number of percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def loss_text(loss: float) -> str:
    """A loss with as many digits as mean something."""
    if 0 < loss < 5e-5:
        return "<0.0001"
    return f"{loss:.4f}" if loss < 10 else f"{loss:.2f}"


def attack_name(attack: str) -> str:
    """An attack as it is written."""
    return NAMES.get(attack, attack)


def eps_text(eps: float) -> str:
    """An epsilon with three digits."""
    return f"{eps:.3g}"


def value_cell(measure: Measure | None, published: str | None = None) -> Cell:
    """A measure as a table shows it: mean, spread, and the source's figure with a verdict.

    Args:
        measure: What was measured, if it was.
        published: How the source gives its figure, where that is not one number.
    """
    if measure is None:
        return Cell("–")
    write = percent if measure.is_rate else loss_text
    small = ""
    if len(measure.values) > 1:
        # no more digits than the mean has, and none where the mean itself is not written out
        sd = write(measure.sd) if measure.is_rate or measure.mean < 10 else f"{measure.sd:.2f}"
        small = "" if not measure.is_rate and measure.mean < 5e-5 else f"± {sd}"
    elif not math.isnan(measure.low):
        small = f"{write(measure.low)} to {write(measure.high)}"
    if measure.published is not None and published is None:
        published = write(measure.published)
    return Cell(write(measure.mean), small, published or "", measure.verdict)

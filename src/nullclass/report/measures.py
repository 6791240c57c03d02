"""``summary.csv`` grouped over seeds, and how numbers are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Cell, Mark
from nullclass.results.schema import LAST, SUMMARY, SUMMARY_COLUMNS
from nullclass.results.store import Run
from nullclass.studies.null_samples import config as null_samples

CLEAN = "none"
FGSM = "fgsm"
WORST_CASE = "worst-case"
NULL_AWARE = (WORST_CASE, "null-aware-pgd")
"""Attacks by one who has the model and knows of null, the stronger first."""
SMALLEST = "smallest-eps"
"""The search for each image's smallest eps that fools."""
LOSSES = ("loss", "null_loss")
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
NAMES = {
    FGSM: "FGSM",
    WORST_CASE: "worst-case ensemble",
    f"{WORST_CASE}-deny": "worst-case ensemble (deny)",
    "null-aware-pgd": "null-aware PGD",
    SMALLEST: "search for the smallest ε",
    "pgd": "PGD",
    "pgd-deny": "PGD (deny)",
    "pgd-targeted": "targeted PGD",
    "mi-fgsm": "MI-FGSM",
    "rays": "RayS",
    null_samples.TRANSFER_AT_THRESHOLD: "FGSM at threshold",
    null_samples.TRANSFER_BEYOND: "FGSM at 1.5 thresholds",
    null_samples.WHITE_BOX_AT_THRESHOLD: "worst-case ensemble at threshold",
}
"""Attacks as they are written; others by the name they have in the rows."""

GOALS = {"fool": "a wrong class", "untargeted": "anything but the true class", "force-null": "null"}
"""What an attack's objective means."""

FLOOR = 0.003
"""How far a published rate may always be from ours: 0.3 points."""
READ_OFF = 0.0015
"""How far one may be that was read off a plot: 0.15 points."""
LAST_DIGIT = 0.0005
"""Half of the last digit of a published rate with one decimal of a percent."""
ROUNDING = 1e-9
"""Two decimal numbers that differ by this are the same."""

OWN_BUDGET = math.nan
"""The eps of an attack that gave each image its own threshold as its budget."""


def own_spread(measure: Measure) -> float | None:
    """2 sd of our seeds, or 0.3 points (0.003 of a loss) where 2 sd is less.

    One seed has no sd: then only the 0.3 points count, and a loss, which has no points, is not
    judged.
    """
    if len(measure.values) > 1:
        return max(2 * measure.sd, FLOOR)
    return FLOOR if measure.is_rate else None


def source_spread(measure: Measure) -> float | None:
    """2 sd of the source's own sets, or its last digit where that is more.

    What was read off its plot may be 0.15 points off.
    """
    if measure.attack == CLEAN:
        return READ_OFF
    found = null_samples.AT_THRESHOLD.get(measure.model, {}).get(measure.metric)
    return None if found is None else max(2 * found[1], LAST_DIGIT)


Rule = Callable[["Measure"], float | None]
"""How far a published value may be from our mean to count as reproduced; ``None`` where that
cannot be said."""

RULES: dict[str, Rule] = {null_samples.NULL_SAMPLES.name: source_spread}
"""Rules by study; :func:`own_spread` for others."""


@dataclass(frozen=True)
class Measure:
    """One metric of one model under one attack and budget, over seeds."""

    model: str
    attack: str
    objective: str
    norm: str
    eps: float
    """In pixel units; 0 for clean images, NaN where each image had a budget of its own."""
    metric: str
    values: tuple[float, ...]
    """One a seed."""
    published: float | None
    low: float
    """Lower end of the 95 % Wilson interval over images; NaN unless there is one seed."""
    high: float
    num_images: int
    """Images a seed; the fewest if seeds differ."""
    source_name: str = "self"
    """The model attacked, if it is another."""
    seeds: tuple[int, ...] = ()
    """Of the values, if they are known."""
    rule: Rule = field(default=own_spread, repr=False)
    """When a published value counts as reproduced."""

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
        """Whether the published value is reproduced; empty if that cannot be said."""
        allowed = self.rule(self)
        if self.published is None or allowed is None:
            return ""
        is_near = abs(self.mean - self.published) <= allowed + ROUNDING
        return "within" if is_near else "outside"


def on_common_seeds(measures: Sequence[Measure | None]) -> list[Measure | None]:
    """The same measures over those seeds only that all of them have.

    Without any such seed, or where one is missing altogether, there is nothing to compare.
    """
    known = [measure for measure in measures if measure is not None]
    common = set.intersection(*(set(measure.seeds) for measure in known)) if known else set()
    if len(known) < len(measures) or not common:
        return [None] * len(measures)
    kept = []
    for measure in known:
        pairs = zip(measure.seeds, measure.values, strict=True)
        seeds, values = zip(*(pair for pair in pairs if pair[0] in common), strict=True)
        kept.append(replace(measure, seeds=seeds, values=values, low=math.nan, high=math.nan))
    return [*kept]


class Measures:
    """All measures of a run, in the run's order of models.

    Args:
        run: The run.
        selection: Which of the trainings' weights to tell of, where several were kept; the run's
            first selection unless given.

    Raises:
        UserError: If the summary is empty, lacks a column or holds numbers that cannot be.
    """

    def __init__(self, run: Run, selection: str | None = None) -> None:
        summary = _checked(run)
        self.selections: list[str] = _selections(run, summary)
        self.selection: str = self.selections[0] if selection is None else selection
        summary = summary[summary["selection"] == self.selection]
        named = run.info.get("models")
        order = [str(name) for name in named] if isinstance(named, list) else []
        present = list(dict.fromkeys(summary["model"]))
        self.models: list[str] = [name for name in order if name in present]
        self.models += [name for name in present if name not in order]
        self.missing: list[str] = [name for name in order if name not in present]
        self.seeds: list[int] = sorted(int(seed) for seed in summary["seed"].unique())
        rule = RULES.get(str(run.info.get("study")), own_spread)
        self.all: list[Measure] = _grouped(summary, rule)
        self._by_name: dict[tuple[str, str, str], list[Measure]] = {}
        for measure in self.all:
            name = (measure.model, measure.attack, measure.metric)
            self._by_name.setdefault(name, []).append(measure)

    def find(self, model: str, attack: str, metric: str, eps: float = 0.0) -> Measure | None:
        """The measure, or ``None``; eps may differ by what a table rounds off.

        Args:
            model: Name of the model.
            attack: Name of the attack.
            metric: Name of the metric.
            eps: In pixel units; :data:`OWN_BUDGET` where each image had its own.
        """
        for measure in self._by_name.get((model, attack, metric), []):
            is_own = math.isnan(measure.eps) and math.isnan(eps)
            if is_own or math.isclose(measure.eps, eps, rel_tol=1e-5, abs_tol=1e-9):
                return measure
        return None

    def attacks(self) -> list[str]:
        """Names of the attacks, FGSM first; neither their union, proofs nor the smallest eps."""
        names = {measure.attack for measure in self.all} - {CLEAN, UNION, PROOF, SMALLEST}
        return sorted(names, key=lambda name: (name != FGSM, name))

    def budgets(self, attack: str) -> list[float]:
        """Budgets of an attack in pixel units, rising; last NaN, if images had their own."""
        of = {measure.eps for measure in self.all if measure.attack == attack}
        own = [OWN_BUDGET] if any(map(math.isnan, of)) else []
        return sorted(eps for eps in of if not math.isnan(eps)) + own

    def union_budgets(self, metric: str = "aer") -> list[float]:
        """Budgets that a rate of the union of all attacks is given for, rising."""
        return sorted({m.eps for m in self.all if (m.attack, m.metric) == (UNION, metric)})

    def null_aware(self) -> str | None:
        """The strongest attack of one who has the model and knows of null, if there was any."""
        return next((attack for attack in NULL_AWARE if self.budgets(attack)), None)

    def attacker(self) -> str:
        """Who AER and RAR are about: one who knows about null, or whatever attacks there were."""
        return "an attacker who knows about null" if self.null_aware() else "some attack"

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

    def source_name(self, attack: str) -> str:
        """Which other model an attack was made on, as it is written; empty if on none."""
        sources = sorted({m.source_name for m in self.all if m.attack == attack} - {"none", "self"})
        if not sources or attack == UNION:
            return ""
        return f"made on {' and '.join(sources)} of the same seed and transferred"

    def seeds_text(self, word: str = "seed") -> str:
        """How many seeds, and which; ``word`` is what the source calls one."""
        if len(self.seeds) == 1:
            return f"1 {word} ({self.seeds[0]})"
        is_run = self.seeds == list(range(self.seeds[0], self.seeds[-1] + 1))
        which = f"{self.seeds[0]}–{self.seeds[-1]}" if is_run else ", ".join(map(str, self.seeds))
        return f"{len(self.seeds)} {word}s ({which})"


def _selections(run: Run, summary: pd.DataFrame) -> list[str]:
    """Selections of a run that have results, in its own order."""
    named = run.info.get("selections")
    order = [str(name) for name in named] if isinstance(named, list) else [LAST]
    present = list(dict.fromkeys(summary["selection"]))
    return [name for name in order if name in present] or present


def _grouped(summary: pd.DataFrame, rule: Rule) -> list[Measure]:
    """Measures over seeds, sorted by name and eps."""
    keys = ["model", "attack", "objective", "norm", "eps_pixels", "metric", "source"]
    columns = [*keys, "seed", "value", "published", "low", "high", "num_images"]
    ordered = summary.sort_values([*keys, "seed"], na_position="last")
    lines_of: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for line in zip(*(ordered[column].tolist() for column in columns), strict=True):
        eps = line[4]  # NaN is equal to nothing, so it makes a poor key
        lines_of.setdefault((*line[:4], None if math.isnan(eps) else eps, *line[5:7]), []).append(
            line
        )
    measures = []
    for (model, attack, objective, norm, eps, metric, source_name), lines in lines_of.items():
        told = zip(*(line[7:] for line in lines), strict=True)
        seeds, values, published, lows, highs, counts = told
        known = [value for value in published if not math.isnan(value)]
        is_alone = len(lines) == 1
        measures.append(
            Measure(
                model=str(model),
                attack=str(attack),
                objective=str(objective),
                norm=str(norm),
                eps=OWN_BUDGET if eps is None else float(eps),
                metric=str(metric),
                values=tuple(map(float, values)),
                published=float(known[0]) if known else None,
                low=float(lows[0]) if is_alone else math.nan,
                high=float(highs[0]) if is_alone else math.nan,
                num_images=int(min(counts)),
                source_name=str(source_name),
                seeds=tuple(map(int, seeds)),
                rule=rule,
            )
        )
    return measures


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
        if column in ("eps_pixels", "published", "low", "high"):
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
    return "own threshold" if math.isnan(eps) else f"{eps:.3g}"


def value_cell(measure: Measure | None, published: str | None = None, digits: int = 2) -> Cell:
    """A measure as a table shows it: mean, spread, and the source's figure with a verdict.

    Args:
        measure: What was measured, if it was.
        published: How the source gives its figure, where that is not one number.
        digits: Decimals of a rate in percent.
    """
    if measure is None:
        return Cell("–")
    write = partial(percent, digits=digits) if measure.is_rate else loss_text
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


def reach(measure: Measure) -> tuple[float, float]:
    """Lowest and highest set; of one set, its interval. The mean is never outside by rounding."""
    ends = measure.values if len(measure.values) > 1 else (measure.low, measure.high)
    return min(measure.mean, *ends), max(measure.mean, *ends)

"""Metrics of a run, grouped over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.metrics.rates import NEED_NULL, forces_null, wilson_of
from nullclass.report.blocks import Mark
from nullclass.report.formatting import FGSM, NORMS, WORST_CASE, ends_text
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, LOSSES, PROOF, SMALLEST, UNION

NULL_AWARE = (WORST_CASE, "null-aware-pgd")
"""White-box attacks that take null into account, the stronger first."""
RATE_NAMES = (*OUTCOME_NAMES, "not_null")
"""Names of rates without their ending."""

TOLERANCE = 0.003
"""A published rate within 0.3 points of ours always counts as reproduced."""
ROUNDING = 1e-9
OWN_BUDGET = math.nan
"""The ε of an attack in which each image's budget is its own threshold."""

Band = tuple[float, float]
"""Lowest and highest mean over our seeds that count as reproduced."""
Rule = Callable[["Measure"], Band | None]
"""When a published value counts as reproduced; ``None`` where no verdict is possible."""


def own_spread(measure: Measure) -> Band | None:
    """Two standard deviations of our seeds, at least :data:`TOLERANCE`, around the published value.

    With one seed, :data:`TOLERANCE` for a rate and no verdict on a loss.
    """
    if len(measure.values) == 1 and not measure.is_rate:
        return None
    spread = measure.sd if len(measure.values) > 1 else 0.0
    return around(measure.published, max(2 * spread, TOLERANCE))


def around(center: float | None, distance: float) -> Band | None:
    """The band of that distance around a value, if it is known."""
    return None if center is None else (center - distance, center + distance)


@dataclass(frozen=True)
class Measure:
    """One metric of one model under one attack and budget, over seeds."""

    model: str
    attack: str
    metric: str
    values: tuple[float, ...]
    """One per seed."""
    objective: str = CLEAN
    norm: str = "linf"
    eps: float = 0.0
    """In pixel units; 0 for clean images, NaN where each image has its own budget."""
    published: float | None = None
    low: float = math.nan
    """Lower end of the 95 % Wilson interval over images; NaN unless there is one seed."""
    high: float = math.nan
    num_images: int = 0
    """Images per seed; the minimum if seeds differ."""
    source_name: str = "self"
    """Name of the attacked model, if it is another one."""
    seeds: tuple[int, ...] = ()
    """Seeds of the values, if known."""
    rule: Rule = field(default=own_spread, repr=False)

    @property
    def name(self) -> str:
        """The metric in words; of a rate of an outcome, the outcome."""
        return self.metric.removesuffix("_rate")

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
        """Whether it is a share in [0, 1] rather than a loss."""
        return self.metric not in LOSSES

    @property
    def interval(self) -> tuple[float, float]:
        """Lowest and highest seed; with one seed, the Wilson interval. Always holds the mean."""
        ends = self.values if len(self.values) > 1 else (self.low, self.high)
        return min(self.mean, *ends), max(self.mean, *ends)

    @property
    def certain(self) -> tuple[float, float]:
        """:attr:`interval`, with the Wilson interval of the mean over one seed's images.

        The seeds share their images, so more seeds do not shorten it.
        """
        low, high = self.interval
        if not (self.is_rate and self.num_images):
            return low, high
        ends = wilson_of(self.mean, self.num_images)
        return min(low, ends[0]), max(high, ends[1])

    @property
    def error(self) -> tuple[float, float]:
        """Lengths of the error bar below and above the mean."""
        low, high = self.interval
        return self.mean - low, high - self.mean

    def complement(self, metric: str) -> Measure:
        """One minus this rate, under another name."""
        values = tuple(1 - value for value in self.values)
        return replace(self, metric=metric, values=values, low=1 - self.high, high=1 - self.low)

    @property
    def verdict(self) -> Mark:
        """Whether the published value is reproduced; empty if there is no verdict."""
        band = self.rule(self)
        if band is None:
            return ""
        low, high = band
        return "within" if low - ROUNDING <= self.mean <= high + ROUNDING else "outside"


def differ(one: Measure, other: Measure) -> bool:
    """Whether two measures are further apart than their seeds and their images explain.

    Their :attr:`Measure.certain` intervals are disjoint.
    """
    return one.certain[0] > other.certain[1] or other.certain[0] > one.certain[1]


def on_common_seeds(measures: Sequence[Measure | None]) -> list[Measure | None]:
    """The measures restricted to the seeds that all of them have.

    All are ``None`` if one is missing or no seed is common to all.
    """
    known = [measure for measure in measures if measure is not None]
    common = set.intersection(*(set(measure.seeds) for measure in known)) if known else set()
    if len(known) < len(measures) or not common:
        return [None] * len(measures)
    kept: list[Measure | None] = []
    for measure in known:
        pairs = zip(measure.seeds, measure.values, strict=True)
        seeds, values = zip(*(pair for pair in pairs if pair[0] in common), strict=True)
        kept.append(replace(measure, seeds=seeds, values=values, low=math.nan, high=math.nan))
    return kept


class Measures:
    """All measures of a run, models in the run's order.

    Without those of :data:`NEED_NULL` of models that can answer null, if no attack on them tries to
    force that; of all models if there is no such attack.

    Args:
        run: The run.
        selection: Which of each training's weights to use, where several are kept; by default the
            run's first selection.
        rule: When a published value counts as reproduced.

    Raises:
        UserError: If the summary is empty.
    """

    def __init__(self, run: Run, selection: str | None = None, rule: Rule = own_spread) -> None:
        self.run: Run = run
        summary = run.summary[run.summary["value"].notna()]
        if summary.empty:
            raise UserError(
                f"{run.folder} holds no results yet: the command that wrote it resumes it"
            )
        known = [*summary["selection"].unique()]
        of_run = [name for name in run.info.selections if name in known]
        self.selections: list[str] = of_run or known
        self.selection: str = self.selections[0] if selection is None else selection
        summary = summary[summary["selection"] == self.selection]
        planned = run.info.models
        known = [*summary["model"].unique()]
        self.models: list[str] = [name for name in planned if name in known]
        self.models += [name for name in known if name not in planned]
        self.missing: list[str] = [name for name in planned if name not in known]
        self.seeds: list[int] = sorted(int(seed) for seed in summary["seed"].unique())
        measures = _grouped(summary, rule)
        forced = {m.model for m in measures if forces_null([m.objective])}
        may_refuse = {m.model for m in measures if m.metric == "null_loss"}
        missed = may_refuse - forced if forced else {m.model for m in measures}
        self.all: list[Measure] = [
            m
            for m in measures
            if not (m.attack == UNION and m.metric in NEED_NULL and m.model in missed)
        ]
        self._by_name: dict[tuple[str, str, str], list[Measure]] = {}
        for measure in self.all:
            name = (measure.model, measure.attack, measure.metric)
            self._by_name.setdefault(name, []).append(measure)

    def find(self, model: str, attack: str, metric: str, eps: float = 0.0) -> Measure | None:
        """The measure, or ``None``.

        Args:
            model: Name of the model.
            attack: Name of the attack.
            metric: Name of the metric, or an outcome for its rate.
            eps: In pixel units, up to rounding; :data:`OWN_BUDGET` for each image's own.
        """
        if metric in RATE_NAMES:
            metric = f"{metric}_rate"
        found = self._by_name.get((model, attack, metric), [])
        if math.isnan(eps):
            return next((measure for measure in found if math.isnan(measure.eps)), None)
        near = [m for m in found if math.isclose(m.eps, eps, rel_tol=1e-5, abs_tol=1e-9)]
        return min(near, key=lambda measure: abs(measure.eps - eps), default=None)

    def find_all(
        self, models: Iterable[str], attack: str, metric: str, eps: float = 0.0
    ) -> list[Measure]:
        """The measures of several models, without the missing ones."""
        found = (self.find(model, attack, metric, eps) for model in models)
        return [measure for measure in found if measure is not None]

    def curve(self, model: str, attack: str, metric: str) -> list[Measure]:
        """The measures at every ε that images have in common, ascending."""
        known = (self.find(model, attack, metric, eps) for eps in self.budgets(attack))
        return [measure for measure in known if measure is not None and measure.eps == measure.eps]

    def attacks(self) -> list[str]:
        """Names of the attacks, FGSM first; without the union, proofs and the smallest ε."""
        names = {measure.attack for measure in self.all} - {CLEAN, UNION, PROOF, SMALLEST}
        return sorted(names, key=lambda name: (name != FGSM, name))

    def budgets(self, attack: str) -> list[float]:
        """Budgets of an attack in pixel units, ascending; NaN last, if images have their own."""
        of = {measure.eps for measure in self.all if measure.attack == attack}
        return sorted(eps for eps in of if eps == eps) + [OWN_BUDGET] * any(map(math.isnan, of))

    def union_budgets(self, metric: str = "aer") -> list[float]:
        """Budgets at which a rate of the union of all attacks is known, ascending."""
        return sorted({m.eps for m in self.all if (m.attack, m.metric) == (UNION, metric)})

    def null_aware(self) -> str | None:
        """The strongest null-aware white-box attack of the run, if there is one."""
        return next((attack for attack in NULL_AWARE if self.budgets(attack)), None)

    def attacker(self) -> str:
        """Subject of sentences about AER and RAR."""
        return "a null-aware attacker" if self.null_aware() else "some attack"

    def norm(self, attack: str) -> str:
        """Display name of the norm of an attack's budget."""
        norms = (NORMS.get(m.norm, m.norm) for m in self.all if m.attack == attack)
        return next(norms, "")

    def has_null(self, model: str) -> bool:
        """Whether the model can answer null: it has a null loss or answers null somewhere."""
        return any(
            m.model == model
            and (m.metric == "null_loss" or (m.name == "null" and max(m.values) > 0))
            for m in self.all
        )

    def num_images(self, attack: str) -> str:
        """Number of images per seed under an attack, as text."""
        counts = {measure.num_images for measure in self.all if measure.attack == attack}
        return ends_text(counts or {0}, "{:,}")

    def source_name(self, attack: str) -> str:
        """Which other model an attack uses, as text; empty if none."""
        sources = sorted({m.source_name for m in self.all if m.attack == attack} - {CLEAN, "self"})
        if not sources or attack == UNION:
            return ""
        return f"transferred from {' and '.join(sources)} of the same seed"

    def seeds_text(self, word: str = "seed") -> str:
        """Number of seeds and which; ``word`` is the source's name for one."""
        if len(self.seeds) == 1:
            return f"1 {word} ({self.seeds[0]})"
        is_run = self.seeds == list(range(self.seeds[0], self.seeds[-1] + 1))
        which = f"{self.seeds[0]}–{self.seeds[-1]}" if is_run else ", ".join(map(str, self.seeds))
        return f"{len(self.seeds)} {word}s ({which})"

    def spread_note(self, word: str = "seed") -> str:
        """What the small print under each rate of a table means."""
        if len(self.seeds) == 1:
            return "Below each rate: its 95 % Wilson interval over the images."
        return f"Mean over {word}s ± standard deviation."

    def interval_note(self) -> str:
        """What bands and error bars of a figure mean (:attr:`Measure.interval`)."""
        if len(self.seeds) == 1:
            return "error bars: 95 % Wilson intervals over the images"
        return "bands: lowest to highest seed"


def _grouped(summary: pd.DataFrame, rule: Rule) -> list[Measure]:
    """Measures over seeds, sorted by name and ε."""
    keys = ["model", "attack", "objective", "norm", "eps_pixels", "metric", "source"]
    ordered = summary.sort_values([*keys, "seed"], na_position="last")
    number = ordered.groupby(keys, sort=False, dropna=False).ngroup()
    measures = []
    # plain records: indexing a frame for each of thousands of measures takes seconds
    records = ordered.assign(number=number).to_dict("records")
    for _, group in groupby(records, key=lambda line: line["number"]):
        lines = list(group)
        first, is_one = lines[0], len(lines) == 1
        published = [line["published"] for line in lines if not pd.isna(line["published"])]
        measures.append(
            Measure(
                model=first["model"],
                attack=first["attack"],
                metric=first["metric"],
                values=tuple(line["value"] for line in lines),
                objective=first["objective"],
                norm=first["norm"],
                eps=first["eps_pixels"],
                published=published[0] if published else None,
                low=first["low"] if is_one else math.nan,
                high=first["high"] if is_one else math.nan,
                num_images=min(line["num_images"] for line in lines),
                source_name=first["source"],
                seeds=tuple(line["seed"] for line in lines),
                rule=rule,
            )
        )
    return measures


def tolerance_note(num_seeds: int) -> str:
    """When a published value counts as reproduced under :func:`own_spread`."""
    if num_seeds == 1:
        return (
            "A published rate counts as reproduced (✓) if it is within 0.3 points of ours. With "
            "one seed the variation between trainings is unknown, so losses get no verdict."
        )
    return (
        "A published value counts as reproduced (✓) if it is within 2 standard deviations of the "
        f"mean of our {num_seeds} seeds, or within 0.3 points (0.003 for a loss) if that is more."
    )

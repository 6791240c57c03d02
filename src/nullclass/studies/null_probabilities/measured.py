"""Numbers of the study ``null-probabilities``: transfers, probabilities by size, criteria."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.metrics.rates import SELF, UNION
from nullclass.report.measures import Measure, Measures, on_common_seeds
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run, Trial
from nullclass.studies.null_probabilities.config import CLEAN as BASE
from nullclass.studies.null_probabilities.config import (
    PROBABILITIES,
    QUERIED,
    SUBSTITUTES,
    TRANSFERS,
    VARIANTS,
)
from nullclass.studies.null_probabilities.names import own_norm

SUBSTITUTE = SUBSTITUTES[0]
Place = tuple[str, str, str, float]
"""Attack, source, target, and ε in pixel units."""


# Transfers


@dataclass(frozen=True)
class TransferRate:
    """Share of images that fool the target, of those that fool the source and are correct when
    clean on the target.
    """

    values: tuple[float, ...]
    """One per seed with such images."""
    num_images: int
    """Number of such images; the minimum if seeds differ."""


class Transfers:
    """All transferred attacks of a run.

    Args:
        run: The run.
        measures: Of the run.
    """

    def __init__(self, run: Run, measures: Measures) -> None:
        self.run = run
        self.targets = measures.models
        self._found: dict[tuple[Place, str], Measure] = {}
        for measure in measures.all:
            source = _source(measure.attack, measure.source_name, measure.model)
            if source is not None and measure.attack != UNION:
                place = _place(measure.attack, source, measure.model, measure.eps)
                self._found[place, measure.name] = measure
        places = [place for place, _ in self._found]
        order = (*SUBSTITUTES, *VARIANTS, QUERIED)
        self.attacks: list[str] = _in_order((place[0] for place in places), TRANSFERS)
        self.sources: list[str] = _in_order((place[1] for place in places), order)
        self.budgets: list[float] = sorted({place[3] for place in places})
        counts = [measure.num_images for measure in self._found.values()]
        ends = sorted({min(counts, default=0), max(counts, default=0)})
        self.num_images: str = " to ".join(f"{count:,}" for count in ends)

    def find(
        self, attack: str, source: str, target: str, eps: float, outcome: str = "fooled"
    ) -> Measure | None:
        """The rate of an outcome of the target, or ``None``."""
        return self._found.get(((attack, source, target, eps), outcome))

    def strongest(self, source: str, target: str, eps: float) -> Measure | None:
        """The attack on a source that fools the target most."""
        found = (self.find(attack, source, target, eps) for attack in self.attacks)
        return max((m for m in found if m is not None), key=lambda m: m.mean, default=None)

    def rate(self, attack: str, source: str, target: str, eps: float) -> TransferRate | None:
        """The transfer rate, or ``None`` if no image fooled the source."""
        return self._rates.get((attack, source, target, eps))

    @cached_property
    def _rates(self) -> dict[Place, TransferRate]:
        counts: dict[Place, list[tuple[int, int]]] = {}
        for trial in self.run.trials:
            for place, num, total in _counts(self.run, trial):
                if total:
                    counts.setdefault(place, []).append((num, total))
        return {
            place: TransferRate(tuple(num / n for num, n in of), min(n for _, n in of))
            for place, of in counts.items()
        }

    def table(self) -> pd.DataFrame:
        """All rates, one row per attack, ε, source and target."""
        lines = []
        for (place, outcome), fooled in self._found.items():
            if outcome != "fooled":
                continue
            null, rate = self._found.get((place, "null")), self.rate(*place)
            values = (
                *place,
                fooled.mean,
                fooled.sd,
                fooled.low,
                fooled.high,
                math.nan if null is None else null.mean,
                fooled.num_images,
                len(fooled.values),
                math.nan if rate is None else statistics.fmean(rate.values),
                0 if rate is None else rate.num_images,
            )
            lines.append(values)
        columns = ["attack", "source", "target", "eps_pixels", "fooled_rate", "fooled_sd"]
        columns += ["fooled_low", "fooled_high", "null_rate", "num_images", "num_seeds"]
        return pd.DataFrame(lines, columns=[*columns, "transfer_rate", "num_transferable"])


def _counts(run: Run, trial: Trial) -> Iterator[tuple[Place, int, int]]:
    """Places with the number of images that transferred, and of those that could."""
    rows = trial.rows
    clean = rows[rows["attack"] == CLEAN].set_index("image")["outcome"]
    crafted = (trial.result.get("config") or {}).get("crafted") or ()
    trainings = (craft["source"]["training"] for craft in crafted)
    seeds = {training["name"]: training["seed"] for training in trainings}  # substitutes' own seeds
    sources = {(source.model, source.seed, source.attack): source for source in run.sources}
    keys: Any
    for keys, of in rows.groupby(["attack", "source", "eps_pixels"]):
        attack, eps = str(keys[0]), float(keys[2])
        name = _source(attack, str(keys[1]), trial.model)
        if name is None:
            continue
        place = _place(attack, name, trial.model, eps)
        source = sources.get((name, seeds.get(name, trial.seed), place[0]))
        if source is None:
            continue
        on_source = source.rows[(source.rows["eps_pixels"] - eps).abs() < 1e-6]
        fooled_source, fooled_target = (
            table.set_index("image")["outcome"] == "fooled" for table in (on_source, of)
        )
        images = fooled_target.index
        could = fooled_source.reindex(images, fill_value=False)
        could &= clean.reindex(images) == "correct"
        yield place, int((could & fooled_target).sum()), int(could.sum())


def _source(attack: str, source: str, target: str) -> str | None:
    """The source of a crafted attack, possibly the target; ``None`` for other attacks."""
    source = target if source == SELF else source
    return source if attack.endswith(f" on {source}") else None


def _place(attack: str, source: str, target: str, eps: float) -> Place:
    attack = attack.removesuffix(f" on {source}")
    source = QUERIED if source == f"{QUERIED}-{target}" else source
    return attack, source, target, round(eps, 6)


def _in_order(names: Iterable[str], order: tuple[str, ...]) -> list[str]:
    found = dict.fromkeys(names)
    return [*(n for n in order if n in found), *(n for n in found if n not in order)]


# Probabilities by size

SHARES = ("p_null", "rest", "p_label")
"""Probability of null, of all wrong classes and of the true class; they sum to 1."""
_MEANS = [*SHARES, *OUTCOME_NAMES, "f"]
_KEYS = ["model", "seed", "norm", "perturbation", "size"]


def by_size(run: Run) -> pd.DataFrame:
    """Mean probabilities and outcomes by size of the perturbation.

    Returns:
        Columns model, seed, norm, perturbation, size, ``num_images``, those of :data:`SHARES`,
        correct, null and fooled, and ``f``: the null curve at the sizes that were reached, NaN
        without a curve.
    """
    tables = []
    for trial in run.trials:
        for norm, rows in trial.sizes.groupby("norm", sort=False):
            curve = curve_of(run, str(norm), trial.seed)
            values = rows.assign(
                model=trial.model,
                seed=trial.seed,
                rest=(1 - rows["p_label"] - rows["p_null"]).clip(0, 1),
                f=math.nan if curve is None else curve(rows["actual_size"]),
                **{outcome: rows["outcome"] == outcome for outcome in OUTCOME_NAMES},
            )
            groups = values.groupby(_KEYS, sort=False)
            tables.append(groups[_MEANS].mean().assign(num_images=groups.size()).reset_index())
    columns = [*_KEYS, "num_images", *_MEANS]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def curve_of(run: Run, norm: str, seed: int) -> NullCurve | None:
    """The null curve that a seed's models were trained with."""
    of = (c.curve for c in run.curves if (c.curve.norm, c.seed) == (norm, seed))
    return next(of, None)


@dataclass(frozen=True)
class CurveFit:
    """How the mean null probability of one model follows its null curve in the trained range."""

    model: str
    norm: str
    distance: float
    """Largest distance from the curve."""
    size: float
    """Size with the largest distance."""
    fall: float
    """Largest decrease with growing size."""
    end: float
    """Largest size of the trained range."""
    num_sizes: int
    num_images: int


def curve_fits(run: Run, means: pd.DataFrame) -> list[CurveFit]:
    """One fit per seed and model with NULL probabilities and a curve.

    Args:
        run: The run.
        means: From :func:`by_size`.
    """
    found = []
    keys: Any
    for keys, table in means.groupby(["model", "seed", "norm"], sort=False):
        model, seed, norm = str(keys[0]), int(keys[1]), str(keys[2])
        curve = curve_of(run, norm, seed) if norm == own_norm(model) else None
        if curve is None:
            continue
        within = table[table["size"] <= curve.largest * (1 + 1e-6)].sort_values("size")
        if within.empty:
            continue
        p_null = within["p_null"].to_numpy()
        distances = np.abs(p_null - within["f"].to_numpy())
        found.append(
            CurveFit(
                model=model,
                norm=norm,
                distance=float(distances.max()),
                size=float(within["size"].iloc[int(distances.argmax())]),
                fall=float((np.maximum.accumulate(p_null) - p_null).max()),
                end=curve.largest,
                num_sizes=len(within),
                num_images=int(within["num_images"].min()),
            )
        )
    return found


# Criteria

LOST, CLEAN_NULL, TRANSFERRED, DISTANCE, FALL = (
    "lost",
    "clean null",
    "transferred",
    "from f",
    "falls",
)
LIMITS = {LOST: 0.003, CLEAN_NULL: 0.005, TRANSFERRED: 0.02, DISTANCE: 0.1, FALL: 0.005}
"""Largest allowed values, as shares: clean accuracy below that of the clean model, null on clean
images, fooled by transfer from the clean substitute, distance of the null probability from f, and
its decrease with growing size."""


@dataclass(frozen=True)
class Criterion:
    """One requirement on a model with NULL probabilities, and its measured values."""

    model: str
    what: str
    """A key of :data:`LIMITS`."""
    values: tuple[float, ...]
    """One per seed."""
    eps: float = 0.0
    """In pixel units, of a transferred attack."""

    @property
    def is_met(self) -> bool:
        """Whether the mean over seeds is within the limit."""
        return statistics.fmean(self.values) <= LIMITS[self.what] + 1e-9


def criteria(measures: Measures, transfers: Transfers, fits: list[CurveFit]) -> list[Criterion]:
    """All criteria that the run has values for, by model."""
    found = []
    for model in measures.models:
        if model not in PROBABILITIES:
            continue
        pair = [measures.find(name, CLEAN, "correct") for name in (BASE, model)]
        before, after = on_common_seeds(pair)
        if before is not None and after is not None:
            lost = tuple(b - a for b, a in zip(before.values, after.values, strict=True))
            found.append(Criterion(model, LOST, lost))
        null = measures.find(model, CLEAN, "null")
        if null is not None:
            found.append(Criterion(model, CLEAN_NULL, null.values))
        for eps in transfers.budgets:
            fooled = transfers.strongest(SUBSTITUTE, model, eps)
            if fooled is not None:
                found.append(Criterion(model, TRANSFERRED, fooled.values, eps))
        of = [fit for fit in fits if fit.model == model]
        if of:
            found.append(Criterion(model, DISTANCE, tuple(fit.distance for fit in of)))
            found.append(Criterion(model, FALL, tuple(fit.fall for fit in of)))
    return found

"""What attacks made on one model do to another: shares fooled, and transfer rates from the rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from nullclass.metrics.rates import SELF, UNION
from nullclass.report.measures import Measure, Measures
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run, Trial
from nullclass.studies.null_probabilities.config import QUERIED, SUBSTITUTES, TRANSFERS, VARIANTS

ORDER = (*SUBSTITUTES, *VARIANTS, QUERIED)
"""Of sources."""

Place = tuple[str, str, str, float]
"""Attack, source, target, and eps in pixel units."""


@dataclass(frozen=True)
class Rate:
    """Of the images that fool the source and that the target gets right, the share that fools it.

    One value a seed that has such images.
    """

    values: tuple[float, ...]
    num_images: int
    """Such images; the fewest if seeds differ."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)


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
            source_name = _made_on(measure.attack, measure.source_name, measure.model)
            if source_name is None or measure.attack == UNION:
                continue
            place = _place(measure.attack, source_name, measure.model, measure.eps)
            self._found[place, measure.name] = measure
        places = [place for place, _ in self._found]
        self.attacks: list[str] = _in_order((place[0] for place in places), TRANSFERS)
        self.sources: list[str] = _in_order((place[1] for place in places), ORDER)
        self.budgets: list[float] = sorted({place[3] for place in places})

    def find(
        self, attack: str, source: str, target: str, eps: float, metric: str = "fooled"
    ) -> Measure | None:
        """A share of the target's outcomes, or ``None``."""
        return self._found.get(((attack, source, target, eps), metric))

    def strongest(self, source: str, target: str, eps: float) -> Measure | None:
        """Of the attacks from a source, that which fools the target most."""
        found = (self.find(attack, source, target, eps) for attack in self.attacks)
        return max((m for m in found if m is not None), key=lambda m: m.mean, default=None)

    def rate(self, attack: str, source: str, target: str, eps: float) -> Rate | None:
        """The transfer rate, or ``None`` where no image fooled the source."""
        return self._rates.get((attack, source, target, eps))

    @cached_property
    def _rates(self) -> dict[Place, Rate]:
        told: dict[Place, list[tuple[int, int]]] = {}
        for trial in self.run.trials:
            for place, num, total in _counts(self.run, trial):
                told.setdefault(place, []).append((num, total))
        return {
            place: Rate(
                tuple(num / total for num, total in counts if total),
                min(total for _, total in counts if total),
            )
            for place, counts in told.items()
            if any(total for _, total in counts)
        }


def _counts(run: Run, trial: Trial) -> Iterator[tuple[Place, int, int]]:
    """Places with the images that transferred and those that might have."""
    rows = trial.rows
    clean = rows[rows["attack"] == CLEAN].set_index("image")["outcome"]
    seeds = _seeds_of_sources(trial)
    sources = {(source.model, source.seed, source.attack): source for source in run.sources}
    keys: Any
    for keys, of in rows.groupby(["attack", "source", "eps_pixels"]):
        attack, eps = str(keys[0]), float(keys[2])
        source_name = _made_on(attack, str(keys[1]), trial.model)
        if source_name is None:
            continue
        source = sources.get(
            (source_name, seeds.get(source_name, trial.seed), _plain(attack, source_name))
        )
        if source is None:
            continue
        told = source.rows[(source.rows["eps_pixels"] - eps).abs() < 1e-6]
        on_source, on_target = (
            table.set_index("image")["outcome"] == "fooled" for table in (told, of)
        )
        images = on_target.index
        might = on_source.reindex(images, fill_value=False) & (clean.reindex(images) == "correct")
        num = int((might & on_target).sum())
        yield _place(attack, source_name, trial.model, eps), num, int(might.sum())


def _seeds_of_sources(trial: Trial) -> dict[str, int]:
    """Substitutes have seeds of their own: the trial's config tells them."""
    crafted = (trial.result.get("config") or {}).get("crafted") or ()
    told = (craft["source"]["training"] for craft in crafted)
    return {training["name"]: training["seed"] for training in told}


def _made_on(attack: str, source_name: str, target: str) -> str | None:
    """The source of crafted images, the target itself among them; ``None`` of other attacks."""
    source_name = target if source_name == SELF else source_name
    return source_name if attack.endswith(f" on {source_name}") else None


def _place(attack: str, source_name: str, target: str, eps: float) -> Place:
    source = QUERIED if source_name == f"{QUERIED}-{target}" else source_name
    return _plain(attack, source_name), source, target, round(eps, 6)


def _plain(attack: str, source_name: str) -> str:
    return attack.removesuffix(f" on {source_name}")


def _in_order(names: Iterator[str], order: tuple[str, ...]) -> list[str]:
    found = dict.fromkeys(names)
    return [*(n for n in order if n in found), *(n for n in found if n not in order)]


def table_of(transfers: Transfers) -> pd.DataFrame:
    """Every cell of every matrix, one a line, in shares."""
    lines = []
    for attack in transfers.attacks:
        for eps in transfers.budgets:
            for source in transfers.sources:
                for target in transfers.targets:
                    fooled = transfers.find(attack, source, target, eps)
                    if fooled is None:
                        continue
                    null = transfers.find(attack, source, target, eps, "null")
                    rate = transfers.rate(attack, source, target, eps)
                    lines.append(
                        {
                            "attack": attack,
                            "eps_pixels": eps,
                            "source": source,
                            "target": target,
                            "fooled": fooled.mean,
                            "fooled_sd": fooled.sd,
                            "fooled_low": fooled.low,
                            "fooled_high": fooled.high,
                            "null": None if null is None else null.mean,
                            "num_images": fooled.num_images,
                            "num_seeds": len(fooled.values),
                            "transfer_rate": None if rate is None else rate.mean,
                            "num_transferable": 0 if rate is None else rate.num_images,
                        }
                    )
    return pd.DataFrame(lines)

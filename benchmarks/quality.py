"""The notebook's rates from the quick recipes, over seeds, judged as the study judges them.

Trains the models of ``nullclass study fgsm-null`` without the white-box attacks; interrupted, the
same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from common import SCRATCH, mnist, say, table, verdict
from nullclass.data import absolute_source
from nullclass.experiments.engines import DataSource, make_engine
from nullclass.experiments.runner import plan_trials, run_study
from nullclass.report.measures import Measure
from nullclass.studies.fgsm_null.config import FGSM_NULL
from nullclass.studies.fgsm_null.loop import measures_of, rule
from nullclass.studies.fgsm_null.tables import compared, loop_text, name_of, value_text
from nullclass.studies.reports import read_run

NUM_RATES = 19
"""Rates that the notebook prints."""
FEWEST = 18
"""Rates that every single seed has to reproduce."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds to train with."""
    data: str = "mnist"
    """mnist, or a folder with its files."""
    folder: Path = SCRATCH / "quality"
    """Run folder; what it holds is not trained again."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    source = DataSource(absolute_source(options.data), 0)
    trials = [
        replace(trial, attacks=trial.attacks[:1], is_checked=False)
        for trial in plan_trials(FGSM_NULL, "quick", options.seeds)
    ]
    outcome = run_study(
        FGSM_NULL,
        mnist(options.data),
        options.folder.absolute(),
        engine=make_engine("local", source, device="cpu"),
        device=torch.device("cpu"),
        trials=trials,
    )
    if outcome.failed:
        raise RuntimeError(str(outcome))
    rates = [m for m in compared(measures_of(read_run(options.folder))) if m.is_rate]
    by_seed = {seed: num_within(of_seed(rates, seed)) for seed in options.seeds}
    for seed, num in by_seed.items():
        missed = [f"{m.model} {name_of(m)}" for m in of_seed(rates, seed) if m.verdict != "within"]
        say(f"  seed {seed}: {num} of {NUM_RATES}; not: {', '.join(missed) or 'none'}")
    lines = [
        (m.model, name_of(m), value_text(m), loop_text(m), "yes" if m.verdict == "within" else "no")
        for m in rates
    ]
    fewest = min(by_seed.values())
    return "\n\n".join(
        [
            "## The notebook's rates over seeds",
            f"Quick recipes, {len(options.seeds)} seeds, {rates[0].num_images:,} test images; "
            f"%, mean ± sd. {rule()}",
            table(["model", "figure", "measured", "loop", "reproduced"], lines),
            "Reproduced by each seed alone: " + ", ".join(map(str, by_seed.values())) + ".",
            "\n".join(
                [
                    verdict(
                        num_within(rates) == NUM_RATES,
                        f"{num_within(rates)} of {NUM_RATES} rates reproduced by the mean",
                    ),
                    verdict(fewest >= FEWEST, f"{fewest} by the worst seed (wanted {FEWEST})"),
                ]
            ),
        ]
    )


def of_seed(found: Sequence[Measure], seed: int) -> list[Measure]:
    """The measures as if there were that seed alone."""
    return [replace(m, values=(m.values[m.seeds.index(seed)],), seeds=(seed,)) for m in found]


def num_within(found: Sequence[Measure]) -> int:
    """How many are reproduced."""
    return sum(m.verdict == "within" for m in found)


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

"""Write the results in docs/cifar10.md: python docs/cifar10.py RUN…

Each run is one of ``nullclass evaluate`` on one model; runs of a model in two norms are joined.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from marks import replace_results

from nullclass.report.formatting import FGSM, NORMS, percent
from nullclass.report.measures import Measure, Measures
from nullclass.report.render import markdown_table
from nullclass.results.schema import CLEAN, UNION
from nullclass.studies.reports import read_run

PAGE = Path(__file__).with_name("cifar10.md")

BUDGETS = (("linf", 2 / 255, "2/255"), ("linf", 8 / 255, "8/255"), ("l2", 0.5, "0.5"))
"""Norm, ε in pixel units, and how the page writes it."""

OUTCOMES = ("correct", "null", "fooled")
RATES = {
    "FGSM: null": (FGSM, "null_rate"),
    "FGSM: fooled": (FGSM, "fooled_rate"),
    "AER": (UNION, "aer"),
    "RAR": (UNION, "rar"),
    "null-DoS": (UNION, "null_dos"),
}


def rate(measure: Measure | None, digits: int = 1) -> str:
    """A rate in % with its interval."""
    if measure is None:
        return "–"
    low, high = (percent(end, digits) for end in (measure.low, measure.high))
    return f"{percent(measure.mean, digits)} ({low} – {high})"


def clean_table(runs: Sequence[Measures]) -> str:
    """Outcomes of the clean images, one row per model."""
    rows = []
    for name, of in by_model(runs).items():
        found = [of[0].find(name, CLEAN, f"{outcome}_rate") for outcome in OUTCOMES]
        rows.append([f"`{name}`", *(rate(measure, 2) for measure in found)])
    return markdown_table(["model", *OUTCOMES], rows)


def by_model(runs: Sequence[Measures]) -> dict[str, list[Measures]]:
    """The runs of each model."""
    return {name: [r for r in runs if name in r.models] for r in runs for name in r.models}


def attack_tables(runs: Sequence[Measures]) -> Iterator[str]:
    """One table per budget."""
    for norm, eps, text in BUDGETS:
        rows = []
        for name, of in by_model(runs).items():
            found = [m for m in of if m.norm(UNION) == NORMS[norm]]
            if found:
                rates = [rate(found[0].find(name, *what, eps)) for what in RATES.values()]
                rows.append([f"`{name}`", found[0].num_images(UNION), *rates])
        if rows:
            yield markdown_table([f"{NORMS[norm]}, ε {text}", "n", *RATES], rows)


if __name__ == "__main__":
    runs = [Measures(read_run(Path(folder))) for folder in sys.argv[1:]]
    replace_results(PAGE, __file__, "\n".join([clean_table(runs), *attack_tables(runs)]))

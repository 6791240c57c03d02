"""The notebook's own loop over seeds: what the study's models are judged by.

The notebook printed one run, so a part of its digits is the luck of that run.
``notebook-loop.csv`` holds the figures of its code, run again from several seeds
(``benchmarks/notebook_loop.py``, which shares no code with the package).
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import replace
from functools import cache
from importlib.resources import files

from nullclass.report.formatting import FGSM, ends_text
from nullclass.report.measures import TOLERANCE, Band, Measure, Measures, around
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, LOSSES
from nullclass.studies.fgsm_null.config import PIXEL, pixels


@cache
def _figures() -> dict[tuple[str, str, str, float], tuple[float, ...]]:
    """Values over seeds, by model, attack, metric and ε in pixel units."""
    values: dict[tuple[str, str, str, float], tuple[float, ...]] = {}
    with files(__package__).joinpath("notebook-loop.csv").open() as file:
        for line in csv.DictReader(file):
            eps = float(line["eps"])
            key = line["model"], FGSM if eps else CLEAN, line["metric"], pixels(eps)
            values[key] = (*values.get(key, ()), float(line["value"]))
    return values


def loop_figure(measure: Measure) -> Measure | None:
    """The loop's figure of a measure, if the notebook has it."""
    key = (measure.model, measure.attack, measure.metric, round(measure.eps, 6))
    values = _figures().get(key)
    return None if values is None else replace(measure, values=values, published=None)


def loop_spread(measure: Measure) -> Band | None:
    """Two standard deviations of the loop's seeds, at least :data:`TOLERANCE`, around the mean."""
    figure = loop_figure(measure)
    return None if figure is None else around(figure.mean, max(2 * figure.sd, TOLERANCE))


def measures_of(run: Run) -> Measures:
    """Measures of a run, judged by :func:`loop_spread`."""
    return Measures(run, rule=loop_spread)


def rule() -> str:
    """When a figure of the notebook counts as reproduced."""
    seeds = ends_text(map(len, _figures().values()))
    undecided = [
        f" It decides nothing for {model} at ε {eps / PIXEL:g}, where the loop's own seeds range "
        f"from {100 * min(values):.1f} to {100 * max(values):.1f} %."
        for (model, _, metric, eps), values in _figures().items()
        if metric not in LOSSES and 2 * statistics.stdev(values) > 0.5
    ]
    return (
        "The notebook prints one run. “Loop” is its own code, run again: mean ± standard "
        f"deviation over {seeds} seeds (results/notebook-loop.csv in the repository). A figure "
        "counts as reproduced (✓) if our mean is within 2 standard deviations of the loop's mean, "
        f"or within 0.3 points (0.003 for a loss).{''.join(undecided)}"
    )

"""Display names of the models, sources and norms of the study ``null-probabilities``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import percent
from nullclass.report.measures import Measure
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.config import PROBABILITIES, QUERIED, VARIANTS


@dataclass(frozen=True)
class Norm:
    """How the size of a perturbation is measured."""

    short: str
    what: str
    """In a sentence, after “the”."""
    axis: str
    """Label of an axis."""
    end: str
    """Name of the smallest size where f is 1."""


NORMS = {
    "linf": Norm("L∞", "largest change", "largest pixel change, pixel units", "ε_max"),
    "l2": Norm("L2", "Euclidean length", "Euclidean length, pixel units", "ε_max"),
    "l0": Norm("L0", "share of pixels changed", "share of pixels changed", "N_max"),
}
"""By their names in :mod:`nullclass.nulls.perturb`."""

NAMES = {
    "clean": ("clean", "no null class"),
    "hard": ("hard null", "the notebook's"),
    **{f"np-{name}": (f"NULL prob. {n.short}", f"f of the {n.what}") for name, n in NORMS.items()},
    "ccat": ("CCAT", "null by a threshold"),
    "background": ("background", "Fashion-MNIST is null"),
    "twins": ("2N labels", "one null label per class"),
    "sub-clean": ("clean substitute", "same data, other network"),
    "sub-null": ("null substitute", "same data, other network"),
    QUERIED: ("by queries", "each target's own substitute"),
}
"""Name and description of each model and source."""

MEANINGS = {
    "clean": "No null class; trained on clean images only, for comparison.",
    "hard": "The notebook's: one FGSM image per clean image, labelled null whatever its size.",
    **{
        f"np-{name}": (
            "NULL probabilities (Hosseini et al. 2017): perturbed images of random size. Their "
            f"target moves from the true class to null by the null curve f of the {norm.what}."
        )
        for name, norm in NORMS.items()
    },
    "ccat": (
        "Confidence-calibrated adversarial training (Stutz et al. 2020): the target moves to the "
        "uniform distribution with the size of an attack. Null means a confidence below a "
        "threshold that is chosen on held-out images."
    ),
    "background": "Images of Fashion-MNIST are null; no perturbed images.",
    "twins": "2N labels: one null label per class, learnt from FGSM images.",
}


def short(model: str) -> str:
    """The name of a model or source."""
    return NAMES.get(model, (model, ""))[0]


def model_cell(model: str) -> Cell:
    """Name and description of a model or source as a table cell."""
    return Cell(*NAMES.get(model, (model, "")))


def names_of(models: Iterable[str]) -> str:
    """Names in a sentence; ``none`` without any."""
    return ", ".join(map(short, models)) or "none"


def named(table: Table) -> Table:
    """The table with the names of its rows' models."""
    return replace(table, rows=[[model_cell(row[0].text), *row[1:]] for row in table.rows])


def with_names(run: Run) -> Run:
    """The run with the names of its models, for shared figures."""
    trials = [replace(trial, model=short(trial.model)) for trial in run.trials]
    return replace(run, trials=trials)


def defences(models: Iterable[str]) -> list[str]:
    """All models but the clean one."""
    return [model for model in models if model != VARIANTS[0]]


def own_norm(model: str) -> str:
    """The norm of the null curve that a model was trained with; empty without one."""
    return model.removeprefix("np-") if model in PROBABILITIES else ""


def size_text(size: float, norm: str) -> str:
    """A size with its unit."""
    return f"{100 * size:.3g} % of pixels" if norm == "l0" else f"{size:.3g}"


def range_of(found: list[Measure], digits: int = 1) -> str:
    """Lowest and highest mean, with their models."""
    by: dict[str, list[str]] = {}
    for measure in sorted(found, key=lambda m: m.mean):
        by.setdefault(percent(measure.mean, digits), []).append(short(measure.model))
    if len(by) == 1:
        return f"{next(iter(by))} %"
    ends = (next(iter(by.items())), next(reversed(by.items())))
    return " to ".join(
        f"{rate} % ({of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''})"
        for rate, of in ends
    )

"""The models of the study ``null-probabilities`` as its readers know them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nullclass.report.blocks import Cell, Table
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.config import PROBABILITIES, QUERIED, VARIANTS


@dataclass(frozen=True)
class Measure:
    """How the size of a perturbation is told."""

    short: str
    what: str
    """In a sentence, after “the”."""
    axis: str
    """With its unit."""
    end: str
    """What the smallest size is called where f is 1."""


NORM_WORDS = {
    "linf": Measure("L∞", "largest change", "largest pixel change, pixel units", "ε_max"),
    "l2": Measure("L2", "Euclidean length", "Euclidean length, pixel units", "ε_max"),
    "l0": Measure("L0", "share of pixels changed", "share of pixels changed", "N_max"),
}
"""By their names in :mod:`nullclass.nulls.perturb`."""

NAMES = {
    "clean": ("clean", "no null class"),
    "hard": ("hard null", "the notebook's"),
    **{
        f"np-{name}": (f"NULL prob. {norm.short}", f"f of the {norm.what}")
        for name, norm in NORM_WORDS.items()
    },
    "ccat": ("CCAT", "refuses by a threshold"),
    "background": ("background", "Fashion-MNIST is null"),
    "twins": ("2N labels", "an adversarial twin a class"),
    "sub-clean": ("clean substitute", "same data, other network"),
    "sub-null": ("null substitute", "same data, other network"),
    QUERIED: ("by queries", "each target's own substitute"),
}
"""Name of a model or source to what figures call it, and what that is."""

MEANINGS = {
    "clean": "No null class, trained on clean images alone: what the others are compared with.",
    "hard": (
        "The notebook's: one FGSM image for every clean one, and the right answer to it is null, "
        "however small the change."
    ),
    **{
        f"np-{name}": (
            "NULL probabilities (Hosseini et al. 2017): perturbed images of random size, whose "
            "target moves from the true class to null as the null curve f does. Here f is a "
            f"function of the {norm.what}."
        )
        for name, norm in NORM_WORDS.items()
    },
    "ccat": (
        "Confidence-calibrated adversarial training (Stutz et al. 2020): the target decays to the "
        "uniform distribution with the size of an attack. It has no null class and answers null "
        "where its confidence is below a threshold, chosen on held-out images."
    ),
    "background": "Learns images of Fashion-MNIST as null, and sees no perturbed image.",
    "twins": (
        "2N labels: one adversarial twin for each class, learnt from FGSM images. An answer among "
        "the twins counts as null."
    ),
}
"""The models, in a sentence."""


def short(model: str) -> str:
    """As figures and sentences have it."""
    return NAMES.get(model, (model, ""))[0]


def model_cell(model: str) -> Cell:
    """As a table has it."""
    return Cell(*NAMES.get(model, (model, "")))


def named(table: Table) -> Table:
    """A table whose rows begin with a model, which gets its readers' name."""
    return replace(table, rows=[[model_cell(row[0].text), *row[1:]] for row in table.rows])


def with_names(run: Run) -> Run:
    """The run for figures that write names as the trials have them."""
    trials = [replace(trial, model=short(trial.model)) for trial in run.trials]
    return replace(run, trials=trials)


def defences(models: list[str]) -> list[str]:
    """Those that can refuse: all but the clean model."""
    return [model for model in models if model != VARIANTS[0]]


def own_norm(model: str) -> str:
    """The argument of f of a model trained with NULL probabilities; else empty."""
    return model.removeprefix("np-") if model in PROBABILITIES else ""

"""Display names of the models, sources and norms of the study ``null-probabilities``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from nullclass.report.blocks import Cell, Table
from nullclass.results.run import Run
from nullclass.studies.null_probabilities.config import BASE, QUERIED

NORMS = {"linf": "L∞", "l2": "L2", "l0": "L0"}
"""Norms of perturbations (:mod:`nullclass.nulls.perturb`)."""
SIZES = {
    "linf": "largest pixel change",
    "l2": "Euclidean length",
    "l0": "share of pixels changed",
}
"""The size of a perturbation, by norm."""

NAMES = {
    "clean": "clean",
    "hard": "hard null",
    **{f"np-{norm}": f"NULL prob. {name}" for norm, name in NORMS.items()},
    "ccat": "CCAT",
    "background": "background",
    "per-class-null": "null per class",
    "sub-clean": "clean substitute",
    "sub-null": "null substitute",
    QUERIED: "by queries",
}
"""Name of each model and source."""

MEANINGS = {
    "clean": "No null class; trained on clean images only, for comparison.",
    "hard": "The notebook's: one FGSM image per clean image, labelled null at every size.",
    **{
        f"np-{norm}": (
            "NULL probabilities (Hosseini et al. 2017): perturbed images of random size. Their "
            f"target moves from the true class to null by the null curve f of the {size}."
        )
        for norm, size in SIZES.items()
    },
    "ccat": (
        "Confidence-calibrated adversarial training (Stutz et al. 2020): the target moves to the "
        "uniform distribution with the size of an attack. Null means a confidence below a "
        "threshold that is chosen on held-out images."
    ),
    "background": "Images of Fashion-MNIST are null; no perturbed images.",
    "per-class-null": "One null label per class (2N labels), learnt from FGSM images.",
}


def short(model: str) -> str:
    """The name of a model or source."""
    return NAMES.get(model, model)


def names_of(models: Iterable[str]) -> str:
    """Names in a sentence; ``none`` without any."""
    return ", ".join(map(short, models)) or "none"


def named(table: Table) -> Table:
    """The table with the names of its rows' models."""
    return replace(table, rows=[[Cell(short(row[0].text)), *row[1:]] for row in table.rows])


def with_names(run: Run) -> Run:
    """The run with the names of its models, for shared figures."""
    trials = []
    for trial in run.trials:
        result = msgspec.structs.replace(trial.result, model=short(trial.model))
        trials.append(replace(trial, result=result))
    return replace(run, trials=trials)


def defences(models: Iterable[str]) -> list[str]:
    """All models but the clean one."""
    return [model for model in models if model != BASE]


def size_text(size: float, norm: str) -> str:
    """A size with its unit."""
    return f"{100 * size:.3g} % of pixels" if norm == "l0" else f"{size:.3g}"

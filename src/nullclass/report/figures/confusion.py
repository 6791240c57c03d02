"""Which class is answered for which, null among the answers: clean, and under all attacks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.core.outcomes import NULL_LABEL
from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.judged import can_refuse, judged, only_trial
from nullclass.report.measures import Measures, eps_text
from nullclass.report.style import WIDE, WIDTH, sheet
from nullclass.results.store import Run

MOST_CLASSES = 20
"""With more a matrix cannot be read, and is left out."""
NARROW = 12
"""Up to so many classes two matrices fit beside each other."""


def confusion(run: Run) -> Drawing | None:
    """Two matrices of counts, shaded by the share of their row."""
    trial = only_trial(run)
    if trial is None:
        return None
    rows, num_classes = trial.rows, num_classes_of(run)
    of = judged(rows)
    if num_classes > MOST_CLASSES or of.clean.empty:
        return None
    measures = Measures(run)
    budgets = measures.union_budgets() or measures.budgets(UNION)
    has_null = can_refuse(rows)
    labels = of.clean["label"]
    parts = [("clean", "Clean", of.clean["prediction"])]
    told = f"{len(labels):,} test images"
    if budgets:
        eps = budgets[len(budgets) // 2]
        heading = f"Under all attacks, ε {eps_text(eps)}"
        parts.append(("attacked", heading, of.answers(eps)))
        told += (
            f". Under all attacks up to ε {eps_text(eps)} ({measures.norm(UNION)}, pixel units): "
            "each image counts once, with the first wrong class that it was answered as, clean or "
            "attacked, the smallest ε first; else as null if it was ever refused; else as right"
        )
    panels = [
        _panel(name, heading, counted(labels, answers, num_classes, has_null))
        for name, heading, answers in parts
    ]
    return Drawing(
        "Who is taken for whom",
        f"Rows: true class; columns: answer{', null last' if has_null else ''}. Numbers of images, "
        f"shaded by their share of the row; 0 is left empty. {told}.",
        panels,
        is_large=num_classes <= NARROW,
    )


def num_classes_of(run: Run) -> int:
    """K, as the threat model says; else as many as the rows show."""
    trial = only_trial(run)
    if trial is None:
        return 0
    told = (trial.result.get("threat") or {}).get("num_classes")
    rows = trial.rows
    seen = 1 + int(
        max(rows["label"].max(), rows["prediction"].max(), rows["real_prediction"].max())
    )
    return int(told) if told else seen


def counted(
    labels: pd.Series, answers: pd.Series, num_classes: int, has_null: bool
) -> npt.NDArray[np.int64]:
    """``(K, K)`` counts of true class by answer, or ``(K, K + 1)`` with null last."""
    table = np.zeros((num_classes, num_classes + has_null), np.int64)
    columns = np.where(answers == NULL_LABEL, num_classes, answers)
    np.add.at(table, (labels.to_numpy(), columns), 1)
    return table


def _panel(name: str, heading: str, table: npt.NDArray[np.int64]) -> Panel:
    from matplotlib.colors import LinearSegmentedColormap

    num_classes, num_columns = table.shape
    has_null = num_columns > num_classes
    width = WIDTH if num_classes <= NARROW else WIDE
    side = (width - 0.7) / num_columns
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    colours = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", "#9CC9E5", "#005A8C"])
    alt = f"{heading}: numbers of images by true class and answer"
    size = (width, 0.75 + side * num_classes)
    with sheet(f"fig_confusion_{name}", alt, size) as (figure, drawn):
        axis = figure.subplots()
        axis.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolor="#E8EAEC", linewidth=0.4)
        for (row, column), count in np.ndenumerate(table):
            if count:
                axis.text(
                    column + 0.5,
                    row + 0.5,
                    f"{count}",
                    ha="center",
                    va="center",
                    fontsize=7.5 if num_classes <= NARROW or count < 1000 else 6,
                    color="#FFFFFF" if shares[row, column] > 0.55 else "#1D1F22",
                )
        if has_null:
            axis.axvline(num_classes, color="#1D1F22", linewidth=1.2)
        names = [str(label) for label in range(num_classes)]
        axis.set_xticks(np.arange(num_columns) + 0.5, [*names, *(["null"] if has_null else [])])
        axis.set_yticks(np.arange(num_classes) + 0.5, names)
        axis.tick_params(length=0)
        axis.set_ylim(num_classes, 0)
        axis.set_xlim(0, num_columns)
        axis.set_aspect("equal")
        axis.set_xlabel("answer")
        axis.set_ylabel("true class")
        axis.spines[:].set_visible(False)
    (panel,) = drawn
    return Panel(panel.html, heading, panel.file, panel.svg, panel.png)

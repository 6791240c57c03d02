"""Confusion matrices with null among the answers: clean, and in the worst case."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.core.outcomes import NULL_LABEL
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import eps_text
from nullclass.report.measures import Measures
from nullclass.report.style import INK, WIDE, WIDTH, panel
from nullclass.report.worst_case import worst_case_table
from nullclass.results.run import Trial
from nullclass.results.schema import UNION

MOST_CLASSES = 20
"""A matrix of more classes is not readable."""
NARROW = 12
"""Two matrices of up to so many classes fit side by side."""


def confusion(trial: Trial, measures: Measures) -> Drawing | None:
    """Two matrices of counts, shaded by the share of their row; ``None`` for many classes."""
    table, num_classes = worst_case_table(trial.rows), num_classes_of(trial)
    labels, has_null = table.clean["label"], measures.has_null(trial.model)
    if num_classes > MOST_CLASSES:
        return None
    matrices = [("clean", "Clean", table.clean["prediction"])]
    note = f"{len(labels):,} test images"
    budgets = measures.union_budgets() or measures.budgets(UNION)
    if budgets:
        eps = budgets[len(budgets) // 2]
        heading = f"Worst case over all attacks, ε {eps_text(eps)}"
        matrices.append(("attacked", heading, table.answers(eps)))
        note += (
            f". Worst case over all attacks up to ε {eps_text(eps)} ({measures.norm(UNION)}, pixel "
            "units): each image counts once, by the first wrong class, ε ascending from the clean "
            "image; else by null if it occurs; else as correct"
        )
    return Drawing(
        "Confusion matrices",
        f"Rows: true class; columns: answer{', null last' * has_null}. Numbers of images, shaded "
        f"by their share of the row; 0 is left empty. {note}.",
        [
            _matrix(name, heading, counted(labels, answers, num_classes, has_null))
            for name, heading, answers in matrices
        ],
        is_large=num_classes <= NARROW,
    )


def num_classes_of(trial: Trial) -> int:
    """K of the threat model, at least the largest class in the rows plus one."""
    columns = ["label", "prediction", "real_prediction"]
    return max(trial.result.threat.num_classes, 1 + int(trial.rows[columns].to_numpy().max()))


def counted(
    labels: pd.Series, answers: pd.Series, num_classes: int, has_null: bool
) -> npt.NDArray[np.int64]:
    """``(K, K)`` counts of true class by answer, or ``(K, K + 1)`` with null last."""
    table = np.zeros((num_classes, num_classes + has_null), np.int64)
    columns = np.where(answers == NULL_LABEL, num_classes, answers)
    np.add.at(table, (labels.to_numpy(), columns), 1)
    return table


def _matrix(name: str, heading: str, table: npt.NDArray[np.int64]) -> Panel:
    from matplotlib.colors import LinearSegmentedColormap

    num_classes, num_columns = table.shape
    has_null = num_columns > num_classes
    width = WIDTH if num_classes <= NARROW else WIDE
    height = 0.75 + (width - 0.7) / num_columns * num_classes
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    colours = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", "#9CC9E5", "#005A8C"])
    alt = f"{heading}: numbers of images by true class and answer"
    panels: list[Panel] = []
    with panel(panels, f"fig_confusion_{name}", alt, height, heading, width=width) as axis:
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
                    color="#FFFFFF" if shares[row, column] > 0.55 else INK,
                )
        if has_null:
            axis.axvline(num_classes, color=INK, linewidth=1.2)
        names = [str(label) for label in range(num_classes)]
        axis.set_xticks(np.arange(num_columns) + 0.5, [*names, *["null"] * has_null])
        axis.set_yticks(np.arange(num_classes) + 0.5, names)
        axis.tick_params(length=0)
        axis.set(xlim=(0, num_columns), ylim=(num_classes, 0), aspect="equal")
        axis.set(xlabel="answer", ylabel="true class")
        axis.spines[:].set_visible(False)
    return panels[0]

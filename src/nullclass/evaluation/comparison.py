"""Several evaluations in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pandas as pd

from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.evaluation.result import Evaluation, draw_curve
from nullclass.metrics.comparable import Subject, check_comparable, find_differences
from nullclass.metrics.rates import NEED_NULL
from nullclass.results.info import ThreatModel
from nullclass.results.run import read_run
from nullclass.results.schema import CLEAN, PROOF, UNION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ATTACKED = ("aer", "rar", "strict", "null_dos")
PROVED = ("rar_proved",)
COUNTS = {"num_clean": CLEAN, "num_attacked": UNION, "num_proved": PROOF}
"""Columns of numbers of images, by what the images were used for."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Evaluations of several models on the same images, by the same attacks."""

    evaluations: Mapping[str, Evaluation]
    """By the model's name."""
    differences: list[str]
    """Why their rates are not comparable; empty if they are."""

    def summary(self) -> pd.DataFrame:
        """Return the rates of all: :meth:`Evaluation.summary` with a first column ``model``."""
        tables = []
        for name, evaluation in self.evaluations.items():
            table = evaluation.summary()
            table.insert(0, "model", name)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def table(self) -> pd.DataFrame:
        """Return one row per model and eps, rates as shares in [0,1].

        Columns: ``model``; ``eps`` in pixel units; ``correct``, ``null`` and ``fooled`` of
        ``num_clean`` clean images; ``aer``, ``rar``, ``strict`` and ``null_dos`` of the worst case
        over all attacks on ``num_attacked`` images; ``rar_proved`` of ``num_proved`` images;
        ``flags``, the number of red flags. What was not measured is NaN, as ``strict`` and
        ``null_dos`` of a model that no attack tries to force to null, though it has null.
        """
        rates = self.summary()
        keys = ["model", "eps_pixels"]
        is_shown = rates["metric"].isin(ATTACKED) & (rates["attack"] == UNION)
        is_shown |= rates["metric"].isin(PROVED) & (rates["attack"] == PROOF)
        shown = rates[is_shown]
        table = shown.pivot_table("value", keys, "metric").reset_index()
        clean = rates[rates["attack"] == CLEAN].pivot_table("value", "model", "metric")
        for outcome in OUTCOME_NAMES:
            table[outcome] = table["model"].map(clean[f"{outcome}_rate"])
        for count, attack in COUNTS.items():
            counts = rates[rates["attack"] == attack].groupby("model")["num_images"].min()
            table[count] = table["model"].map(counts)
        flags = {name: len(each.flags) for name, each in self.evaluations.items()}
        table["flags"] = table["model"].map(flags)
        is_missed = table["model"].map(lambda name: self.evaluations[name].misses_null())
        table.loc[is_missed, [*NEED_NULL]] = math.nan
        order = {name: index for index, name in enumerate(self.evaluations)}
        table = table.sort_values(keys, key=lambda of: of.map(order) if of.name == "model" else of)
        columns = ["model", "eps_pixels", *OUTCOME_NAMES, *ATTACKED, *PROVED]
        table = table.reindex(columns=[*columns, *COUNTS, "flags"])
        return table.rename(columns={"eps_pixels": "eps"}).reset_index(drop=True)

    def plot(self, metric: str = "rar", ax: Axes | None = None) -> Axes:
        """Draw a rate against eps, one line per model, with 95 % intervals and n.

        Args:
            metric: ``aer``, ``rar``, ``strict``, ``null_dos`` or ``rar_proved``.
            ax: Axes to draw on. Default: new ones.

        Returns:
            The axes.

        Raises:
            UserError: If no model has that rate.
        """
        import matplotlib.pyplot as plt

        rates = self.summary()
        rates = rates[(rates["metric"] == metric) & rates["attack"].isin([UNION, PROOF])]
        if rates.empty:
            raise UserError(
                f"there is no rate {metric!r}: choose from {', '.join([*ATTACKED, *PROVED])}"
            )
        if ax is None:
            _, ax = plt.subplots()
        for name, of in rates.sort_values("eps_pixels").groupby("model", sort=False):
            draw_curve(ax, of, str(name))
        ax.set(xlabel="eps (pixel units)", ylabel=metric, ylim=(0, 1))
        ax.legend()
        return ax

    def __repr__(self) -> str:
        """Return the table in percent, and the differences, as text."""
        return "\n".join([self._shown().to_string(index=False), *self.differences])

    def _repr_html_(self) -> str:
        """Return the same for notebooks."""
        return self._shown().to_html(index=False, border=0) + "".join(
            f"<p>{escape(each)}</p>" for each in self.differences
        )

    def _shown(self) -> pd.DataFrame:
        table = self.table()
        rates = [*OUTCOME_NAMES, *ATTACKED, *PROVED]
        table[rates] = (100 * table[rates]).round(2)
        return table.dropna(axis="columns", how="all")


def compare(
    evaluations: Mapping[str, Evaluation | Path | str], *, allow_differences: bool = False
) -> Comparison:
    """Return several evaluations side by side.

    Args:
        evaluations: Names to evaluations, or to run folders of ``nullclass evaluate``.
        allow_differences: Compare also evaluations with other images, norms or attacks;
            :attr:`Comparison.differences` names what differs.

    Raises:
        UserError: If there are fewer than two, a folder does not hold one evaluation, or what was
            attacked, in which norm or by what, differs.
    """
    if len(evaluations) < 2:
        raise UserError("a comparison needs at least two evaluations")
    read, subjects = {}, {}
    for name, each in evaluations.items():
        checksum = ""
        if not isinstance(each, Evaluation):
            run = read_run(Path(each))
            if len(run.trials) != 1:
                raise UserError(
                    f"{each} holds {len(run.trials)} evaluations: give the folder of one, or "
                    "compare them by nullclass compare"
                )
            checksum, each = run.trials[0].result.data_checksum, Evaluation.read(run.trials[0])
        read[name] = each
        subjects[name] = Subject.of(each.rows, msgspec.convert(each.threat, ThreatModel), checksum)
    differences = find_differences(subjects)
    if not allow_differences:
        check_comparable(differences, "pass allow_differences=True to compare them all the same")
    return Comparison(read, differences)

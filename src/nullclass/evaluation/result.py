"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd

from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.diagnostics.evidence import CHECKS_NAME
from nullclass.metrics.distribution import robustness_distribution
from nullclass.metrics.rates import (
    NEED_NULL,
    forces_null,
    num_left_out,
    preview_note,
    proved_rates,
    summarise,
)
from nullclass.metrics.scores import score_metrics
from nullclass.results.info import TrialResult
from nullclass.results.run import Trial
from nullclass.results.schema import (
    CERTIFIED,
    CERTIFIED_COLUMNS,
    CLEAN,
    COSTS,
    HELD_OUT,
    OOD,
    PROOF,
    PROVED_EPS,
    ROWS,
    SCORES,
    SUMMARY,
    UNION,
    Examples,
    Flag,
)
from nullclass.results.store import write_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRIPLE = ("correct_rate", "null_rate", "fooled_rate")
SHOWN = ("aer", "rar", "rar_proved", "strict", "null_dos")
PLOTTED = {"aer": "AER", "rar": "RAR", "strict": "strict", "rar_proved": "RAR, proved"}


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of an evaluation; print it for the table of rates and the red flags."""

    rows: pd.DataFrame
    """One row per attacked image: :data:`nullclass.results.schema.ROW_COLUMNS`."""
    costs: pd.DataFrame
    """Passes and seconds of each attack, ensemble member and check:
    :data:`nullclass.results.schema.COST_COLUMNS`."""
    examples: list[Examples]
    """The first few adversarial images of each attack and eps."""
    held_out: pd.DataFrame
    """Clean held-out images, columns of ``rows``; may be empty."""
    ood: pd.DataFrame
    """Images of no class: :data:`nullclass.results.schema.OOD_COLUMNS`; may be empty."""
    threat: dict[str, Any]
    """The threat model: the attacker's objectives, budgets and access (JSON values)."""
    probes: dict[str, Any]
    """Measurements for the red flags (:mod:`nullclass.diagnostics.probes`); empty without checks.
    """
    flags: list[Flag]
    """Reasons to doubt the evaluation (:mod:`nullclass.diagnostics.red_flags`)."""
    certified: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(CERTIFIED_COLUMNS))
    )
    """What is proved of each image: :data:`nullclass.results.schema.CERTIFIED_COLUMNS`; may be
    empty."""
    proved_eps: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(CERTIFIED_COLUMNS))
    )
    """The largest eps proved of each image, columns of ``certified``; may be empty."""

    def summary(self) -> pd.DataFrame:
        """Return rates with 95 % intervals: see :func:`nullclass.metrics.rates.summarise`.

        Proved rates (:func:`nullclass.metrics.rates.proved_rates`) come last, with the attack name
        ``proof``.
        """
        rates = summarise(self.rows)
        if self.certified.empty:
            return rates
        proved = proved_rates(self.certified).drop(columns="verifier")
        proved = proved.assign(attack=PROOF, objective="any", source="any")
        return pd.concat([rates, proved[list(rates.columns)]], ignore_index=True)

    def scores(self) -> pd.DataFrame:
        """Return metrics of the null score: see :func:`nullclass.metrics.scores.score_metrics`."""
        return score_metrics(self.rows, self.held_out, self.ood)

    def distribution(self) -> pd.DataFrame:
        """Return the robustness distribution, one row per image.

        See :func:`nullclass.metrics.distribution.robustness_distribution`.
        """
        return robustness_distribution(self.rows, self.proved_eps)

    def rate(self, metric: str, eps: float = 0.0, *, attack: str | None = None) -> float:
        """Return one rate of :meth:`summary`.

        Args:
            metric: Such as ``aer``, ``rar``, ``strict``, ``null_dos`` or ``rar_proved``.
            eps: The budget in pixel units; 0 for the clean images.
            attack: Name of an attack. Default: the clean images, the worst case over all attacks,
                or the proofs, of which one has the metric.

        Raises:
            UserError: If there is no such rate.
        """
        summary = self.summary()
        rates = summary[summary["metric"] == metric]
        of = [CLEAN, UNION, PROOF] if attack is None else [attack]
        is_at_eps = np.isclose(rates["eps_pixels"], eps, rtol=1e-6, atol=0)  # eps may be a float32
        found = rates[rates["attack"].isin(of) & is_at_eps]
        if found.empty:
            if rates.empty:
                raise UserError(
                    f"there is no metric {metric!r}: choose {', '.join(summary['metric'].unique())}"
                )
            known = [
                f"eps={e:.7g}" + ("" if a in (CLEAN, UNION, PROOF) else f", attack={a!r}")
                for a, e in rates[["attack", "eps_pixels"]].to_numpy()
            ]
            raise UserError(f"there is no such {metric}: choose {' or '.join(known)}")
        return float(found["value"].iloc[int((found["eps_pixels"] - eps).abs().argmin())])

    def table(self) -> pd.DataFrame:
        """Return worst-case rates in percent with 95 % intervals as text, one row per eps.

        ``n`` is the number of images; ``n proved`` that of proved rates, where it is another.

        ``strict`` and ``null_dos`` only if an attack counts null as a success.
        """
        return self._table(self.summary())

    def _table(self, summary: pd.DataFrame) -> pd.DataFrame:
        rows = summary[summary["attack"].isin([UNION, PROOF])].sort_values("eps_pixels")
        if not self._forces_null():
            rows = rows[~rows["metric"].isin(NEED_NULL)]
        counts = {UNION: "n", PROOF: "n"}
        if rows["num_images"].nunique() > 1:
            counts[PROOF] = "n proved"
        lines: dict[float, dict[str, str]] = {}
        for row in rows[rows["metric"].isin(SHOWN)].to_dict("records"):
            eps = float(row["eps_pixels"])
            line = lines.setdefault(eps, {"eps": f"{eps:.4g}"})
            line[counts[row["attack"]]] = str(row["num_images"])
            line[str(row["metric"])] = _percent(row)
        columns = ["eps", *dict.fromkeys(counts.values())]
        columns += [metric for metric in SHOWN if metric in set(rows["metric"])]
        return pd.DataFrame(list(lines.values()), columns=columns).fillna("")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw rates against eps with 95 % intervals (security curves).

        Args:
            ax: Axes to draw on. Default: new ones.

        Returns:
            The axes.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        summary = self.summary()
        of_all = summary[summary["attack"].isin([UNION, PROOF])]
        for metric, label in PLOTTED.items():
            curve = of_all[of_all["metric"] == metric].sort_values("eps_pixels")
            if len(curve):
                draw_curve(ax, curve, label)
        ax.set(xlabel=f"eps ({self.threat['norm']}, pixel units)", ylabel="rate", ylim=(0, 1))
        ax.legend()
        return ax

    def __repr__(self) -> str:
        """Return the table of rates, the red flags and the time taken, as text."""
        flags = [f"red flag {flag.name}: {flag.message} ({flag.page})" for flag in self.flags]
        summary = self.summary()
        table = self._table(summary).to_string(index=False) + "\n"
        return "\n".join([*self._titles(summary), table, *flags, *self._notes(summary)])

    def _repr_html_(self) -> str:
        """Return the same for notebooks."""
        flags = "".join(
            f"<li><b>{escape(flag.name)}</b>: {escape(flag.message)} ({escape(flag.page)})</li>"
            for flag in self.flags
        )
        summary = self.summary()
        texts = self._titles(summary), self._notes(summary)
        titles, notes = ("<br>".join(map(escape, text)) for text in texts)
        table = self._table(summary).to_html(index=False, border=0)
        return f"<p>{titles}</p>{table}<ul>{flags}</ul><p>{notes}</p>"

    def _titles(self, summary: pd.DataFrame) -> list[str]:
        clean = summary[(summary["attack"] == CLEAN) & summary["metric"].isin(TRIPLE)]
        triple = ", ".join(
            f"{row['metric'].removesuffix('_rate')} {_percent(row)}"
            for row in clean.to_dict("records")
        )
        attacks = ", ".join(self.threat.get("attacks", {})) or "no attacks"
        return [
            "Rates in % [95 % interval]",
            f"clean images (n = {(self.rows['attack'] == CLEAN).sum()}): {triple}",
            f"worst case over {attacks} ({self.threat.get('norm')}, eps in pixel units):",
        ]

    def _forces_null(self) -> bool:
        return forces_null(self.rows["objective"].unique())

    def misses_null(self) -> bool:
        """Return whether the model can answer null, and no attack tries to force that."""
        return bool(self.rows["null_loss"].notna().any()) and not self._forces_null()

    def _notes(self, summary: pd.DataFrame) -> list[str]:
        is_check = self.costs["attack"] == CHECKS_NAME
        seconds = self.costs["seconds"]
        attacked = summary.loc[summary["attack"] == UNION, "num_images"]
        preview = preview_note(map(int, attacked))
        notes = [preview] if preview else []
        left_out = num_left_out(self.rows)
        if left_out:
            counts = ", ".join(f"{num} at eps {eps:g}" for eps, num in left_out.items())
            notes.append(f"Proved never to be fooled, so left out by iterative attacks: {counts}.")
        if self.misses_null():
            notes.append(
                "No attack tries to force null, so strict and null_dos are not shown: add "
                "'worst-case-force-null' to the attacks."
            )
        if not self.probes:
            notes.append("No checks were run: leave out checks=False to look for red flags.")
            return notes
        if not self.flags:
            notes.append("No red flags.")
        notes.append(
            f"Attacks took {seconds[~is_check].sum():.1f} s, "
            f"checks {seconds[is_check].sum():.1f} s."
        )
        return notes

    def write(self, folder: Path, **result: Any) -> None:
        """Write the evaluation as a trial's folder.

        Args:
            folder: The trial's folder.
            result: Further fields of :class:`nullclass.results.info.TrialResult`.

        Raises:
            CannotWriteError: If the folder cannot be written.
        """
        tables = {
            ROWS: self.rows,
            COSTS: self.costs,
            SUMMARY: self.summary(),
            SCORES: self.scores(),
            HELD_OUT: self.held_out,
            OOD: self.ood,
            CERTIFIED: self.certified,
            PROVED_EPS: self.proved_eps,
        }
        values = result | {"threat": self.threat, "probes": self.probes, "flags": self.flags}
        values = json_values(values | {"kind": "trial"})
        write_trial(folder, tables, self.examples, msgspec.convert(values, TrialResult))

    @classmethod
    def read(cls, trial: Trial) -> Evaluation:
        """Return the evaluation that :meth:`write` wrote.

        Raises:
            UserError: If a file is damaged.
        """
        return cls(
            rows=trial.rows,
            costs=trial.costs,
            examples=trial.examples,
            held_out=trial.held_out,
            ood=trial.ood,
            certified=trial.certified,
            proved_eps=trial.proved_eps,
            threat=json_values(trial.result.threat),
            probes=trial.result.probes,
            flags=trial.result.flags,
        )


def draw_curve(ax: Axes, rates: pd.DataFrame, label: str) -> None:
    """Draw rates against eps with their intervals and n; rows of one metric, eps ascending."""
    eps, n = rates["eps_pixels"], rates["num_images"].min()
    (line,) = ax.plot(eps, rates["value"], "o-", ms=3, label=f"{label} (n = {n:,})")
    ax.fill_between(eps, rates["low"], rates["high"], color=line.get_color(), alpha=0.2)


def _percent(row: Mapping[Any, Any]) -> str:
    return f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"

"""What an evaluation found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nullclass.metrics.rates import PROOF, proved_rates, summarise
from nullclass.metrics.score_summary import score_metrics
from nullclass.results.schema import (
    CERTIFIED,
    CERTIFIED_COLUMNS,
    COST_COLUMNS,
    COSTS,
    HELD_OUT,
    OOD,
    OOD_COLUMNS,
    ROW_COLUMNS,
    ROWS,
    SCORES,
    SUMMARY,
    Examples,
    Flag,
)
from nullclass.results.store import write_trial


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, as it is kept."""

    rows: pd.DataFrame = field(repr=False)
    """One attacked image a line: :data:`ROW_COLUMNS`."""
    costs: pd.DataFrame = field(repr=False)
    """What each attack and member did and cost: :data:`COST_COLUMNS`."""
    examples: list[Examples] = field(repr=False)
    """The first few images under each attack and eps, to show."""
    held_out: pd.DataFrame = field(repr=False)
    """Clean held-out images, columns of :data:`ROW_COLUMNS`; empty without any."""
    ood: pd.DataFrame = field(repr=False)
    """Inputs of no class: :data:`OOD_COLUMNS`; empty without any."""
    threat: dict[str, Any] = field(repr=False)
    """The threat model: what the attacker wants, may do and knows (JSON values)."""
    probes: dict[str, Any] = field(repr=False)
    """What the model was asked besides (:mod:`nullclass.diagnostics.probes`); empty if it was
    not."""
    flags: list[Flag]
    """Reasons not to believe the evaluation (:mod:`nullclass.diagnostics.red_flags`)."""
    certified: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(CERTIFIED_COLUMNS)), repr=False
    )
    """What is proved of each image: :data:`CERTIFIED_COLUMNS`; empty if it was not asked."""

    def summary(self) -> pd.DataFrame:
        """Rates with 95 % intervals, one a line: see :func:`nullclass.metrics.rates.summarise`.

        Last, under the attack name ``proof``, those of
        :func:`nullclass.metrics.rates.proved_rates`.
        """
        rates = summarise(self.rows)
        if self.certified.empty:
            return rates
        place = {"attack": PROOF, "objective": "any", "source": "any"}
        proved = proved_rates(self.certified).drop(columns="verifier").assign(**place)
        return pd.concat([rates, proved[list(rates.columns)]], ignore_index=True)

    def scores(self) -> pd.DataFrame:
        """Metrics of the null score: see :func:`nullclass.metrics.score_summary.score_metrics`."""
        return score_metrics(self.rows, self.held_out, self.ood)

    def write(self, folder: Path, result: dict[str, Any]) -> None:
        """Write the evaluation as a trial's folder; see
        :func:`nullclass.results.store.write_trial`.
        """
        tables = {
            ROWS: self.rows[list(ROW_COLUMNS)],
            COSTS: self.costs[list(COST_COLUMNS)],
            SUMMARY: self.summary(),
            SCORES: self.scores(),
            HELD_OUT: self.held_out[list(ROW_COLUMNS)],
            OOD: self.ood[list(OOD_COLUMNS)],
            CERTIFIED: self.certified[list(CERTIFIED_COLUMNS)],
        }
        info = {
            "threat": self.threat,
            "probes": self.probes,
            "flags": [asdict(flag) for flag in self.flags],
        }
        write_trial(folder, tables, self.examples, result | info)

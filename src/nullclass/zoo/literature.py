"""Figures of others on MNIST, L∞, quoted and not measured here. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quoted:
    """One published figure."""

    what: str
    """The defence."""
    eps: float
    """In pixel units."""
    figure: str
    """What was counted, and against what."""
    value: str
    """In %."""
    source: str


_AUTOATTACK = "robust accuracy, no rejection, AutoAttack"
_BENCH = "the AutoAttack leaderboard (Croce & Hein 2020)"
_WITH_NULL = "RAR, attacked"
_PALUMBO = "Palumbo et al. 2024"
_ABSTAIN = "clean error / verified error / PGD error; clean null counts as error"
_SHEIKHOLESLAMI = "Sheikholeslami et al. 2021"
_RERR = "RErr@99TPR (less is better; an error rate among what is accepted)"
_STUTZ = "Stutz et al. 2020"

LITERATURE = (
    Quoted("Gowal et al. 2020, clean 99.26", 0.3, _AUTOATTACK, "96.34", _BENCH),
    Quoted("CROWN-IBP", 0.3, _AUTOATTACK, "93.96", _BENCH),
    Quoted("IBP", 0.3, _AUTOATTACK, "92.83", _BENCH),
    Quoted("TRADES", 0.3, _AUTOATTACK, "92.81", _BENCH),
    Quoted("Madry et al. 2018", 0.3, _AUTOATTACK, "88.50", _BENCH),
    Quoted(
        "certified training", 0.3, "certified accuracy, no rejection", "about 93.4 – 94.0",
        "range of several papers",
    ),
    Quoted(
        "certified training", 0.4, "certified accuracy, no rejection", "about 87.5 – 88",
        "range of several papers",
    ),
    Quoted("adversarial training, no rejection", 0.3, _WITH_NULL, "89.7", _PALUMBO),
    Quoted("the same, rejection by PGD consistency", 0.3, _WITH_NULL, "96.8", _PALUMBO),
    Quoted("the same, transduction", 0.3, _WITH_NULL, "97.2", _PALUMBO),
    Quoted("IBP with an abstain class", 0.3, _ABSTAIN, "4.34 / 5.98 / 4.15", _SHEIKHOLESLAMI),
    Quoted("IBP with an abstain class", 0.4, _ABSTAIN, "4.79 / 11.29 / 7.55", _SHEIKHOLESLAMI),
    Quoted("CCAT", 0.3, _RERR, "7.7", _STUTZ),
    Quoted("adversarial training, confidence threshold", 0.3, _RERR, "1.0", _STUTZ),
    Quoted("CCAT", 0.4, _RERR, "40", _STUTZ),
    Quoted("adversarial training, confidence threshold", 0.4, _RERR, "100", _STUTZ),
)  # fmt: skip
"""In the order of the page."""

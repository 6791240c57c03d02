"""How ε increases over a robust training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nullclass.core.errors import UserError

CERTIFIED_RAMP = (0.04, 0.4)
ADVERSARIAL_RAMP = (0.0, 0.5)
RAMPS: dict[str, tuple[float, float]] = {
    "interval": CERTIFIED_RAMP,
    "mtl-ibp": CERTIFIED_RAMP,
    "adversarial": ADVERSARIAL_RAMP,
    "abstain": CERTIFIED_RAMP,
}
"""Default ``warmup`` and ``ramp`` of each robust loss."""


@dataclass(frozen=True)
class EpsSchedule:
    """ε over a training: 0, then a linear increase, then constant."""

    eps: float
    """The final ε in pixel units, in (0, 1]."""
    warmup: float
    """Fraction of all steps with ε 0, on the clean loss alone."""
    ramp: float
    """Fraction of all steps after which ε is reached."""

    def __post_init__(self) -> None:
        """Check all values."""
        if not 0 < self.eps <= 1:
            raise UserError(f"the training eps must be in (0, 1] pixel units, not {self.eps}")
        if not 0 <= self.warmup < self.ramp <= 1:
            raise UserError(
                "warmup must be at least 0 and below ramp, and ramp at most 1, not "
                f"{self.warmup} and {self.ramp}"
            )

    def fraction(self, progress: float) -> float:
        """Return the fraction of ε, in [0, 1], at ``progress`` of all steps."""
        return min(1.0, max(0.0, (progress - self.warmup) / (self.ramp - self.warmup)))

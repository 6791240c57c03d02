"""An alarm for a null rate that leaves its band, with a bound on false alarms. Imports no torch.

Let x_t be 1 if image t is null. As long as the probability of that, given the past, is in a band
[l, h], every one of the bets

    L_t = 1 + b (x_t - h),  0 < b < 1 / h
    L_t = 1 + b (l - x_t),  0 < b < 1 / (1 - l)

has expectation at most 1 given the past. The Shiryaev-Roberts sum of one bet,
``R_t = (1 + R_(t-1)) L_t`` with ``R_0 = 0``, then grows by at most 1 per image in expectation, and
so does the mean of R over several bets. The alarm goes off when this mean reaches c. By optional
stopping the expected number of images until then is at least c, for any dependence between images
(Shin, Ramdas & Rinaldo 2023, "E-detectors: a nonparametric framework for sequential change
detection"; the bets are those of Waudby-Smith & Ramdas 2024, "Estimating means of bounded random
variables by betting").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nullclass.core.checks import check_positive, check_share
from nullclass.core.errors import UserError

MEAN_IMAGES = 1_000_000
"""Default of the mean number of images between false alarms, at least."""

_NUM_BETS = 12
_CHUNK = 64
"""Images whose bets are multiplied at once."""


class NullRateAlarm:
    """A sequential test of whether the null rate is in a band.

    While it is, an alarm comes after at least ``mean_images`` images on average.

    Args:
        low: Lower end; 0 for none.
        high: Upper end; 1 for none.
        mean_images: c, at least 1.

    Raises:
        UserError: If the band is empty or all of [0, 1], high is 0, or c is below 1.
    """

    def __init__(self, low: float, high: float, mean_images: float = MEAN_IMAGES) -> None:
        self.low, self.high = check_share("low", low), check_share("high", high)
        self.mean_images = check_positive("mean_images", mean_images)
        if self.mean_images < 1:
            raise UserError(f"mean_images must be at least 1, not {self.mean_images:g}")
        if self.low > self.high or self.high == 0 or self.high - self.low == 1:
            raise UserError(
                f"the band {self.low:g} to {self.high:g} cannot be tested: give 0 <= low <= high, "
                "with high above 0, and not 0 and 1"
            )
        null, other = self._bets()
        self._factors = np.stack([other, null])
        self._sums = np.zeros(len(null))

    @property
    def evidence(self) -> float:
        """The mean of the sums: an alarm is due at ``mean_images``."""
        return float(self._sums.mean())

    def observe(self, is_null: npt.NDArray[np.bool_]) -> bool:
        """Take in the answers to some images, in order, and return whether the alarm goes off.

        The test begins anew after an alarm.
        """
        has_alarm = False
        with np.errstate(over="ignore"):
            for start in range(0, len(is_null), _CHUNK):
                factors = self._factors[is_null[start : start + _CHUNK].astype(np.intp)]
                products = factors[::-1].cumprod(axis=0)[::-1]
                # The sum after n images, of which product j is that of the factors j to n.
                self._sums = (self._sums + 1) * products[0] + products[1:].sum(axis=0)
                if self.evidence >= self.mean_images:
                    has_alarm = True
                    self._sums = np.zeros_like(self._sums)
        return has_alarm

    def _bets(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return each bet's factor for null, and for another answer."""
        null, other = [], []
        if self.high < 1:  # stakes that are best for rates from a little above the band up to 1
            stakes = np.geomspace(self.high / 4, 0.9, _NUM_BETS)
            null.append(1 + stakes * (1 - self.high) / self.high)
            other.append(1 - stakes)
        if self.low > 0:
            stakes = np.linspace(0.1, 0.95, _NUM_BETS)
            null.append(1 - stakes)
            other.append(1 + stakes * self.low / (1 - self.low))
        return np.concatenate(null), np.concatenate(other)

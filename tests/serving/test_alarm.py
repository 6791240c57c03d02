"""The alarm on the null rate: intervals, bets, false alarms, delay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from nullclass.core.errors import UserError
from nullclass.serving import NullRateAlarm, null_band

rates = st.floats(0.001, 0.999)


@pytest.mark.parametrize(("nulls", "images"), [(0, 50), (3, 50), (50, 50), (1, 1), (130, 10_000)])
def test_the_band_is_the_interval_of_scipy(nulls: int, images: int) -> None:
    exact = binomtest(nulls, images).proportion_ci(0.99, method="exact")
    assert null_band(nulls, images) == pytest.approx((exact.low, exact.high), abs=1e-12)


def by_hand(alarm: NullRateAlarm, answers: list[bool]) -> list[float]:
    """The definition, image by image, with the bets written out again."""
    low, high = alarm.low, alarm.high
    bets = [("high", stake / high) for stake in np.geomspace(high / 4, 0.9, 12)] if high < 1 else []
    if low > 0:
        bets += [("low", stake / (1 - low)) for stake in np.linspace(0.1, 0.95, 12)]
    sums, means = np.zeros(len(bets)), []
    for answer in answers:
        factors = [
            1 + b * (answer - high) if side == "high" else 1 + b * (low - answer)
            for side, b in bets
        ]
        sums = (1 + sums) * factors
        means.append(sums.mean())
        if means[-1] >= alarm.mean_images:
            break
    return means


@given(rates, rates, st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 70))
def test_evidence_is_the_shiryaev_roberts_sum(
    first: float, second: float, answers: list[bool], size: int
) -> None:
    alarm = NullRateAlarm(*sorted((first, second)), mean_images=1e300)
    for start in range(0, len(answers), size):
        alarm.observe(np.array(answers[start : start + size]))
    expected = by_hand(alarm, answers)
    assert alarm.evidence == pytest.approx(expected[-1], rel=1e-9)


@given(rates, rates, st.floats(0, 1))
def test_no_bet_gains_while_the_rate_is_in_the_band(
    first: float, second: float, share: float
) -> None:
    """The expectation of each factor, exactly: at most 1 in the band, above 1 outside for some."""
    low, high = sorted((first, second))
    other, null = NullRateAlarm(low, high)._factors
    rate = low + share * (high - low)
    assert (rate * null + (1 - rate) * other <= 1 + 1e-12).all()
    assert (other > 0).all()
    assert (null > 0).all()
    for outside in (low / 2, (1 + high) / 2):
        assert (outside * null + (1 - outside) * other).max() > 1


def test_false_alarms_are_at_least_as_rare_as_stated() -> None:
    """Rates at both ends of the band; mean of 400 times to an alarm, batches of one image."""
    generator = np.random.default_rng(0)
    mean_images = 200
    for rate in (0.05, 0.2):
        times = []
        for _ in range(400):
            alarm = NullRateAlarm(0.05, 0.2, mean_images)
            time = 0
            while True:
                time += 8
                if alarm.observe(generator.random(8) < rate):
                    break
            times.append(time)
        error = np.std(times) / np.sqrt(len(times))
        assert np.mean(times) + 3 * error > mean_images


@pytest.mark.parametrize(("rate", "most"), [(0.5, 40), (0.05, 600), (0.0, 3000)])
def test_a_changed_rate_is_found_soon_even_after_a_long_time(rate: float, most: int) -> None:
    generator = np.random.default_rng(1)
    alarm = NullRateAlarm(0.008, 0.012)
    assert not alarm.observe(generator.random(20_000) < 0.01)
    answers = generator.random(most) < rate
    assert any(alarm.observe(answers[start : start + 8]) for start in range(0, most, 8))
    assert alarm.evidence < alarm.mean_images, "begun anew"


def test_extreme_bands_do_not_overflow() -> None:
    alarm = NullRateAlarm(0, 1e-9, 1e12)
    assert not alarm.observe(np.zeros(1000, dtype=bool))
    assert alarm.observe(np.ones(1000, dtype=bool))
    assert np.isfinite(alarm.evidence)


@pytest.mark.parametrize(
    ("low", "high", "mean"), [(0.2, 0.1, 10), (0, 0, 10), (0, 1, 10), (0, 0.1, 0.5), (-1, 0.5, 10)]
)
def test_impossible_alarms_are_refused(low: float, high: float, mean: float) -> None:
    with pytest.raises(UserError):
        NullRateAlarm(low, high, mean)


def test_intervals_of_impossible_counts_are_refused() -> None:
    for nulls, images in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(UserError):
            null_band(nulls, images)


def test_the_interval_holds() -> None:
    """The exact probability that the interval misses the rate, summed over all counts."""
    num, rate = 60, 0.07
    missed = sum(
        binom.pmf(k, num, rate)
        for k in range(num + 1)
        if not null_band(k, num)[0] <= rate <= null_band(k, num)[1]
    )
    assert missed <= 0.01

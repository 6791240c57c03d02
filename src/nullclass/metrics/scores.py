"""How well a null score parts images: curves, areas and errors, from arrays of scores alone.

A larger score means *more null*. Images that should be null (no class, attacked, wrong) are the
positive ones, clean images the negative ones. Imports neither torch nor scikit-learn, so that
reports can draw these from rows.

    AUROC     Mann & Whitney 1947, interval by DeLong et al. 1988 as Sun & Xu 2014 compute it
    AURC      Geifman & El-Yaniv 2017 (curve), Geifman et al. 2019 (area)
    AUGRC     Traub et al. 2024
    RErr      Stutz et al. 2020 (CCAT), robust test error among what is accepted
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from nullclass.metrics.rates import wilson_of

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

Z_95 = 1.959964
"""The normal quantile of a 95 % interval."""


def roc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """The ROC curve, one point for every score that occurs.

    Args:
        positive: ``(M,)`` null scores of images that should be null.
        negative: ``(N,)`` null scores of images that should not.

    Returns:
        ``fpr, tpr, thresholds``, all ``(T + 1,)`` for T different scores: the shares of negative
        and of positive images with a score of at least the threshold. Thresholds fall from
        infinity (0, 0) to the smallest score (1, 1).

    Raises:
        ValueError: If there are no scores on one side, or one of them is NaN.
    """
    positive, negative = _scores(positive, "positive"), _scores(negative, "negative")
    levels = np.unique(np.concatenate([positive, negative]))[::-1]
    tpr, fpr = (
        np.concatenate([[0.0], (len(side) - np.searchsorted(np.sort(side), levels)) / len(side)])
        for side in (positive, negative)
    )
    return fpr, tpr, np.concatenate([[np.inf], levels])


def auroc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Probability that a positive image scores higher than a negative one; ties count half.

    Args:
        positive: ``(M,)`` null scores of images that should be null.
        negative: ``(N,)`` null scores of images that should not.

    Returns:
        The area in [0, 1]; 0.5 if the score knows nothing.

    Raises:
        ValueError: If there are no scores on one side, or one of them is NaN.
    """
    positive, negative = _scores(positive, "positive"), _scores(negative, "negative")
    twice = int(_twice_below(positive, negative).sum())
    return twice / (2 * len(positive) * len(negative))


def auroc_interval(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[float, float]:
    """The 95 % interval of :func:`auroc`.

    DeLong et al. 1988, with every image's placement (V10, V01) found by sorting (Sun & Xu 2014):

        V10(x) = share of negatives below x,   V01(y) = share of positives above y
        AUROC +- 1.96 sqrt(var(V10) / M + var(V01) / N),   clipped to [0, 1]

    Where the placements do not vary (all pairs in order, all tied) or there is a single image on
    one side, that would be an interval of no width or none at all. There the variance is bounded
    by ``A (1 - A) / min(M, N)`` (Birnbaum & Klose 1957), which gives a Wilson interval.

    Args:
        positive: ``(M,)`` null scores of images that should be null.
        negative: ``(N,)`` null scores of images that should not.

    Returns:
        Both ends, in [0, 1].

    Raises:
        ValueError: If there are no scores on one side, or one of them is NaN.
    """
    positive, negative = _scores(positive, "positive"), _scores(negative, "negative")
    area = auroc(positive, negative)
    sides = (_twice_below(positive, negative), _twice_below(negative, positive))
    variance = 0.0
    if min(len(positive), len(negative)) > 1:
        for twice, num_others in zip(sides, (len(negative), len(positive)), strict=True):
            variance += float(np.var(twice / (2 * num_others), ddof=1)) / len(twice)
    if variance == 0:
        return wilson_of(area, min(len(positive), len(negative)))
    half = Z_95 * math.sqrt(variance)
    return max(0.0, area - half), min(1.0, area + half)


def fpr_at_tpr(positive: npt.ArrayLike, negative: npt.ArrayLike, tpr: float = 0.95) -> float:
    """Share of negative images refused by the highest threshold that refuses enough positive ones.

    Args:
        positive: ``(M,)`` null scores of images that should be null.
        negative: ``(N,)`` null scores of images that should not.
        tpr: The least share of positive images to refuse, in (0, 1].

    Returns:
        The share in [0, 1]; nothing between the points of the curve is made up.

    Raises:
        ValueError: If a score is missing or NaN, or ``tpr`` is out of range.
    """
    positive, negative = _scores(positive, "positive"), _scores(negative, "negative")
    place = len(positive) - _num_needed(tpr, len(positive))
    threshold = np.partition(positive, place)[place]
    return float(np.mean(negative >= threshold))


def risk_coverage(scores: npt.ArrayLike, is_wrong: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The risk-coverage curve: accept in order of rising null score (Geifman & El-Yaniv 2017).

    Args:
        scores: ``(N,)`` null scores.
        is_wrong: ``(N,)`` booleans: whether the best real class is not the true one.

    Returns:
        ``coverage, risk``, both ``(T,)`` for T different scores: the share accepted, rising to 1,
        and the share of those that is wrong. Images of one score are accepted in one step.

    Raises:
        ValueError: If there are no images, a score is NaN, or the shapes differ.
    """
    scores, is_wrong = _scores(scores, "the"), _booleans(is_wrong, "is_wrong")
    _check_shapes(scores, is_wrong)
    _, step_of, num_taken = np.unique(scores, return_inverse=True, return_counts=True)
    num_accepted = np.cumsum(num_taken)
    num_wrong = np.cumsum(np.bincount(step_of, weights=is_wrong))
    return num_accepted / len(scores), num_wrong / num_accepted


def aurc(scores: npt.ArrayLike, is_wrong: npt.ArrayLike) -> float:
    """Area under the risk-coverage curve (Geifman et al. 2019); smaller is better.

        AURC = 1/N sum_i risk at the threshold s_i

    so every image's own score is a threshold once. It weighs the most certain images' errors
    heavily; :func:`augrc` does not.

    Args:
        scores: ``(N,)`` null scores.
        is_wrong: ``(N,)`` booleans: whether the best real class is not the true one.

    Returns:
        The area in [0, 1].

    Raises:
        ValueError: As :func:`risk_coverage`.
    """
    coverage, risk = risk_coverage(scores, is_wrong)
    return float(np.diff(coverage, prepend=0) @ risk)


def augrc(scores: npt.ArrayLike, is_wrong: npt.ArrayLike) -> float:
    """Area under the *generalised* risk-coverage curve (Traub et al. 2024); smaller is better.

    The generalised risk is the share of *all* images that is accepted and wrong, risk x coverage:
    how many silent failures there are. The area is the trapezoids' from (0, 0) on, hence

        AUGRC = (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2

    with the AUROC of wrong against right images.

    Args:
        scores: ``(N,)`` null scores.
        is_wrong: ``(N,)`` booleans: whether the best real class is not the true one.

    Returns:
        The area in [0, 0.5].

    Raises:
        ValueError: As :func:`risk_coverage`.
    """
    coverage, risk = risk_coverage(scores, is_wrong)
    failures = np.concatenate([[0.0], coverage * risk])
    return float(np.diff(coverage, prepend=0) @ (failures[:-1] + failures[1:]) / 2)


def accepting_threshold(scores: npt.ArrayLike, tpr: float = 0.99) -> float:
    """The smallest of some scores such that at least a share of them is no larger.

    Args:
        scores: ``(N,)`` null scores of held-out clean images that are classified right.
        tpr: The least share of them to accept, in (0, 1].

    Returns:
        The threshold: an image is accepted if its score is no larger.

    Raises:
        ValueError: If there are no scores, one is NaN, or ``tpr`` is out of range.
    """
    scores = np.sort(_scores(scores, "held-out"))
    return float(scores[_num_needed(tpr, len(scores)) - 1])


def rerr(
    threshold: float,
    clean_scores: npt.ArrayLike,
    clean_is_wrong: npt.ArrayLike,
    attacked_scores: npt.ArrayLike,
    attacked_is_wrong: npt.ArrayLike,
) -> float:
    """Robust test error among what is accepted (Stutz et al. 2020, RErr(tau)).

                    sum_n max over x' of [f(x') != y_n and s(x') <= tau]
        RErr(tau) = ----------------------------------------------------
                            sum_n max over x' of [s(x') <= tau]

    where x' runs over the clean image n and every attack's image of it, f is the best real class
    and s the null score (the paper's confidence c is at least its threshold).

    Args:
        threshold: tau; see :func:`accepting_threshold`.
        clean_scores: ``(N,)`` null scores of the clean test images.
        clean_is_wrong: ``(N,)`` booleans: whether their best real class is not the true one.
        attacked_scores: ``(N,)``, or ``(A, N)`` for several attacks: of the same images, attacked.
        attacked_is_wrong: Of the same shape.

    Returns:
        The error in [0, 1]; NaN if nothing is accepted, clean or attacked, as there is no share of
        nothing (the authors' code has 0, which would make the model that refuses all the best).

    Raises:
        ValueError: If there are no images, a score or the threshold is NaN, or the shapes differ.
    """
    if math.isnan(threshold):
        raise ValueError("the threshold is NaN")
    clean, attacked = _scores(clean_scores, "clean"), _scores(attacked_scores, "attacked", 2)
    clean_wrong = _booleans(clean_is_wrong, "clean_is_wrong")
    attacked_wrong = _booleans(attacked_is_wrong, "attacked_is_wrong")
    _check_shapes(clean, clean_wrong)
    _check_shapes(attacked, attacked_wrong)
    if attacked.shape[-1] != len(clean):
        raise ValueError(f"there are {len(clean)} clean images, but {attacked.shape[-1]} attacked")
    is_accepted = np.vstack([clean, attacked]) <= threshold
    is_failure = is_accepted & np.vstack([clean_wrong, attacked_wrong])
    num_accepted = int(is_accepted.any(axis=0).sum())
    return int(is_failure.any(axis=0).sum()) / num_accepted if num_accepted else math.nan


def rerr_at_tpr(
    held_out_scores: npt.ArrayLike,
    clean_scores: npt.ArrayLike,
    clean_is_wrong: npt.ArrayLike,
    attacked_scores: npt.ArrayLike,
    attacked_is_wrong: npt.ArrayLike,
    tpr: float = 0.99,
) -> float:
    """RErr@99TPR: :func:`rerr` at a threshold that held-out clean images choose.

    Args:
        held_out_scores: ``(H,)`` null scores of held-out clean images that are classified right;
            none of them may be among the test images.
        clean_scores: As :func:`rerr`.
        clean_is_wrong: As :func:`rerr`.
        attacked_scores: As :func:`rerr`.
        attacked_is_wrong: As :func:`rerr`.
        tpr: The least share of the held-out images to accept, in (0, 1].

    Returns:
        The error in [0, 1], or NaN, as :func:`rerr`.

    Raises:
        ValueError: As :func:`rerr` and :func:`accepting_threshold`.
    """
    threshold = accepting_threshold(held_out_scores, tpr)
    return rerr(threshold, clean_scores, clean_is_wrong, attacked_scores, attacked_is_wrong)


def bootstrap(
    statistic: Callable[..., float],
    *samples: npt.ArrayLike | tuple[npt.ArrayLike, ...],
    num_resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """A 95 % percentile interval (Efron 1979) of a statistic that has no closed form.

    ``bootstrap(fpr_at_tpr, positive, negative)`` draws both sides independently;
    ``bootstrap(aurc, (scores, is_wrong))`` draws images, each with all that is known of it.

    Args:
        statistic: Called with all arrays, one after another.
        samples: Arrays, or tuples of arrays about the same images; the last axis is images.
        num_resamples: How many times to draw.
        seed: Seed of the draws.

    Returns:
        Both ends; NaN if the statistic was NaN for a draw.

    Raises:
        ValueError: If there is no sample, an empty one, or arrays of a tuple differ in length.
    """
    groups = [
        [np.asarray(array) for array in (sample if isinstance(sample, tuple) else (sample,))]
        for sample in samples
    ]
    if not groups or num_resamples < 1:
        raise ValueError("a bootstrap needs at least one sample and one resample")
    for group in groups:
        lengths = {array.shape[-1] if array.ndim else 0 for array in group}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"a sample has arrays about {sorted(lengths)} images")
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        drawn = []
        for group in groups:
            num_images = group[0].shape[-1]
            chosen = generator.integers(num_images, size=num_images)
            drawn += [array[..., chosen] for array in group]
        values.append(statistic(*drawn))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _twice_below(scores: Floats, others: Floats) -> npt.NDArray[np.int64]:
    """Twice the number of others below each score, ties counted half: integers, so exact."""
    ordered = np.sort(others)
    return np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")


def _scores(values: npt.ArrayLike, which: str, most_axes: int = 1) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if not 1 <= scores.ndim <= most_axes or scores.size == 0:
        raise ValueError(f"{which} scores have shape {scores.shape}: give at least one, as (N,)")
    if np.isnan(scores).any():
        raise ValueError(f"{which} scores hold NaN")
    return scores


def _booleans(values: npt.ArrayLike, name: str) -> Booleans:
    flags = np.asarray(values)
    if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{name} must hold booleans")
    return flags.astype(np.bool_)


def _check_shapes(scores: Floats, flags: Booleans) -> None:
    if scores.shape != flags.shape:
        raise ValueError(f"scores have shape {scores.shape}, but booleans {flags.shape}")


def _num_needed(share: float, num_images: int) -> int:
    """The least number of images that is at least a share of them."""
    if not 0 < share <= 1:
        raise ValueError(f"the true positive rate must be in (0, 1], not {share}")
    # As a decimal: 0.07 * 100 is a little more than 7 in floating point.
    return math.ceil(Fraction(str(float(share))) * num_images)

"""Metrics of the null score: how well it separates images that should be null.

A larger score means more null. Images that should be null (adversarial, wrong or of no class) are
the positive ones, clean images the negative ones.

    AUROC     Mann & Whitney 1947, interval by DeLong et al. 1988 as Sun & Xu 2014 compute it
    AURC      Geifman & El-Yaniv 2017 (curve), Geifman et al. 2019 (area)
    AUGRC     Traub et al. 2024
    RErr      Stutz et al. 2020 (CCAT), robust test error among accepted images
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.metrics.rates import Z, attacked_by_all, wilson, wilson_of, with_given_eps
from nullclass.results.schema import CLEAN, LEFT_OUT, OOD_PREFIX, SELF, UNION

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Line = dict[str, Any]

TPR = 0.99
"""Share of correct held-out images that the threshold of ``rerr99`` accepts."""

SCORE_COLUMNS = {
    "attack": "str",  # clean, an attack, union, or ood:NAME
    "norm": "str",  # none for inputs of no class
    "eps_pixels": "float64",
    "metric": "str",
    "value": "float64",
    "low": "float64",  # 95 % interval
    "high": "float64",
    "num_images": "int64",
    "is_optimistic": "bool",  # the attacker did not know the threshold of this metric
}
"""Columns of :func:`score_metrics`."""

# Arrays of scores


def roc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the ROC curve, one point per score that occurs.

    Args:
        positive: ``(M,)`` null scores of images that should be null.
        negative: ``(N,)`` null scores of images that should not.

    Returns:
        ``fpr, tpr``, both ``(T + 1,)`` for T different scores, from (0, 0) to (1, 1).

    Raises:
        ValueError: If a side is empty, or a score is NaN.
    """
    from sklearn.metrics import roc_curve

    positive, negative = _scores(positive), _scores(negative)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    curve = roc_curve(labels, np.concatenate([positive, negative]), drop_intermediate=False)
    return curve[0], curve[1]


def auroc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the probability that a positive score is larger than a negative one.

    Ties count half. Arguments and errors are those of :func:`roc`.
    """
    positive, negative = _scores(positive), _scores(negative)
    return int(_twice_below(positive, negative).sum()) / (2 * len(positive) * len(negative))


def auroc_interval(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[float, float]:
    """Return the 95 % interval of :func:`auroc`.

    DeLong et al. 1988, with the placements of all images found by sorting (Sun & Xu 2014):

        V10(x) = share of negatives below x,   V01(y) = share of positives above y
        AUROC +- 1.96 sqrt(var(V10) / M + var(V01) / N),   clipped to [0, 1]

    Where that is zero wide (all pairs in order, all tied) or undefined (one image on a side), the
    variance is bounded by ``A (1 - A) / min(M, N)`` (Birnbaum & Klose 1957): a Wilson interval.
    """
    positive, negative = _scores(positive), _scores(negative)
    area = auroc(positive, negative)
    variance = 0.0
    if min(len(positive), len(negative)) > 1:
        for side, others in ((positive, negative), (negative, positive)):
            placements = _twice_below(side, others) / (2 * len(others))
            variance += float(np.var(placements, ddof=1)) / len(side)
    if variance == 0:
        return wilson_of(area, min(len(positive), len(negative)))
    half = Z * math.sqrt(variance)
    return max(0.0, area - half), min(1.0, area + half)


def fpr_at_tpr(positive: npt.ArrayLike, negative: npt.ArrayLike, tpr: float = 0.95) -> float:
    """Return the share of negatives rejected where at least ``tpr`` of the positives are.

    The threshold is the highest such one; nothing is interpolated.
    """
    positive, negative = _scores(positive), _scores(negative)
    index = len(positive) - _num_needed(tpr, len(positive))
    return float(np.mean(negative >= np.partition(positive, index)[index]))


def risk_coverage(scores: npt.ArrayLike, is_wrong: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the risk-coverage curve: images are accepted by increasing null score.

    Args:
        scores: ``(N,)`` null scores.
        is_wrong: ``(N,)`` booleans: whether the best real class is not the true one.

    Returns:
        ``coverage, risk``, both ``(T,)`` for T different scores: the share accepted, increasing to
        1, and the share of those that is wrong.

    Raises:
        ValueError: If there are no images, a score is NaN, or the shapes differ.
    """
    scores, is_wrong = _scores(scores), _booleans(is_wrong)
    if scores.shape != is_wrong.shape:
        raise ValueError(f"scores have shape {scores.shape}, but booleans {is_wrong.shape}")
    _, step_of, num_taken = np.unique(scores, return_inverse=True, return_counts=True)
    num_accepted = np.cumsum(num_taken)
    num_wrong = np.cumsum(np.bincount(step_of, weights=is_wrong))
    return num_accepted / len(scores), num_wrong / num_accepted


def aurc(scores: npt.ArrayLike, is_wrong: npt.ArrayLike) -> float:
    """Return the area under the risk-coverage curve, ``1/N sum_i risk at the threshold s_i``.

    Smaller is better. It gives the errors of the most certain images a large weight;
    :func:`augrc` does not.
    """
    coverage, risk = risk_coverage(scores, is_wrong)
    return float(np.diff(coverage, prepend=0) @ risk)


def augrc(scores: npt.ArrayLike, is_wrong: npt.ArrayLike) -> float:
    """Return the area under risk times coverage, the share of images accepted and wrong.

    Smaller is better. Trapezoids from (0, 0) on give
    ``(1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2``, with the AUROC of wrong against right images.
    """
    coverage, risk = risk_coverage(scores, is_wrong)
    failures = np.concatenate([[0.0], coverage * risk])
    return float(np.diff(coverage, prepend=0) @ (failures[:-1] + failures[1:]) / 2)


def accepting_threshold(scores: npt.ArrayLike, tpr: float = TPR) -> float:
    """Return the smallest score such that at least a share ``tpr`` of all is not larger.

    Args:
        scores: ``(N,)`` null scores of correctly classified held-out images.
        tpr: The share of them to accept, in (0, 1].
    """
    scores = np.sort(_scores(scores))
    return float(scores[_num_needed(tpr, len(scores)) - 1])


def rerr(threshold: float, scores: npt.ArrayLike, is_wrong: npt.ArrayLike) -> float:
    """Return the robust test error among accepted images (Stutz et al. 2020, RErr(tau)).

                    sum_n max over x' of [f(x') != y_n and s(x') <= tau]
        RErr(tau) = ----------------------------------------------------
                            sum_n max over x' of [s(x') <= tau]

    Here x' are the clean image n and its adversarial images, f is the best real class and s the
    null score.

    Args:
        threshold: tau.
        scores: ``(A, N)`` null scores of A versions of N images, the clean ones included.
        is_wrong: ``(A, N)`` booleans: whether the best real class is not the true one.

    Returns:
        The error in [0, 1]; NaN if no version of any image is accepted (the authors' code has 0,
        which makes a model that rejects everything the best).
    """
    is_accepted = np.asarray(scores) <= threshold
    num_accepted = int(is_accepted.any(axis=0).sum())
    num_failures = int((is_accepted & np.asarray(is_wrong)).any(axis=0).sum())
    return num_failures / num_accepted if num_accepted else math.nan


def bootstrap(
    statistic: Callable[..., float],
    *samples: tuple[npt.NDArray[Any], ...],
    num_images: int | None = None,
    num_resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile interval (Efron 1979) of a statistic.

    Resamples in which it has no value (NaN) are left out. Where all others agree (no error among n
    images), it is the Wilson interval of the value.

    Args:
        statistic: Called with all arrays, in order.
        samples: Each a tuple of arrays about the same images, drawn together; the last axis is
            images.
        num_images: How many images the value is a share of. Default: those of the last sample.
        num_resamples: How many resamples to draw.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        drawn = []
        for arrays in samples:
            num_drawn = arrays[0].shape[-1]
            chosen = generator.integers(num_drawn, size=num_drawn)
            drawn += [array[..., chosen] for array in arrays]
        values.append(statistic(*drawn))
    known = [value for value in values if value == value]
    if not known:
        return math.nan, math.nan
    low, high = map(float, np.quantile(known, [0.025, 0.975]))
    if low == high and 0 <= low <= 1:
        return wilson_of(low, num_images or samples[-1][0].shape[-1])
    return low, high


def _scores(values: npt.ArrayLike) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or np.isnan(scores).any():
        raise ValueError(f"scores must be (N,) numbers, at least one, not {scores!r}")
    return scores


def _booleans(values: npt.ArrayLike) -> Booleans:
    flags = np.asarray(values)
    if not np.isin(flags, (0, 1)).all():
        raise ValueError("is_wrong must hold booleans")
    return flags.astype(np.bool_)


def _twice_below(scores: Floats, others: Floats) -> npt.NDArray[np.int64]:
    """Return twice the number of others below each score, ties counted half: exact integers."""
    ordered = np.sort(others)
    return np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")


def _num_needed(share: float, num_images: int) -> int:
    """Return the smallest number of images that is at least a share of them."""
    if not 0 < share <= 1:
        raise ValueError(f"the true positive rate must be in (0, 1], not {share}")
    # As a decimal: 0.07 * 100 is a little more than 7 in floating point.
    return math.ceil(Fraction(str(float(share))) * num_images)


# Tables


def score_metrics(rows: pd.DataFrame, held_out: pd.DataFrame, ood: pd.DataFrame) -> pd.DataFrame:
    """Return metrics of the null score with 95 % intervals, one per row.

    - Clean images: ``aurc`` and ``augrc``.
    - Every attack and eps: ``auroc`` and ``fpr95`` of its images against the clean ones, without
      those that it did not attack because they are proved; only attacks on the model itself, if
      there are any.
    - All attacks up to an eps together: ``rerr``, the error among images that the model accepts,
      if it can answer null; with held-out images ``rerr99``, the same at the threshold that accepts
      99 % of the correct held-out images.
    - Inputs of no class: ``null_rate``, ``auroc`` and ``fpr95``.

    Attacks are made against the model's own decision, a null score above 0. Metrics with any other
    threshold are optimistic: an attacker who knew that threshold would aim at it.

    Args:
        rows: Columns of :data:`nullclass.results.schema.ROW_COLUMNS`, of one model.
        held_out: The same columns, of clean held-out images; may be empty.
        ood: Columns of :data:`nullclass.results.schema.OOD_COLUMNS`; may be empty.

    Returns:
        :data:`SCORE_COLUMNS`.
    """
    clean = rows[rows["attack"] == CLEAN]
    attacked = with_given_eps(rows)
    lines = [
        *_selective(clean),
        *_detection(attacked, clean),
        *_robust_error(attacked, clean, held_out),
        *_outside(clean, ood),
    ]
    return pd.DataFrame(lines, columns=list(SCORE_COLUMNS)).astype(SCORE_COLUMNS)


def _line(
    keys: Line, metric: str, value: float, interval: tuple[float, float], num_images: int
) -> Line:
    low, high = interval
    values = {"metric": metric, "value": value, "low": low, "high": high, "num_images": num_images}
    return {"is_optimistic": False} | keys | values


def _selective(clean: pd.DataFrame) -> Iterator[Line]:
    if clean.empty:
        return
    score, is_wrong = _score_and_wrong(clean)
    keys = {"attack": CLEAN, "norm": clean["norm"].iloc[0], "eps_pixels": 0.0}
    for name, metric in (("aurc", aurc), ("augrc", augrc)):
        interval = bootstrap(metric, (score, is_wrong))
        yield _line(keys, name, metric(score, is_wrong), interval, len(clean))


def _detection(attacked: pd.DataFrame, clean: pd.DataFrame) -> Iterator[Line]:
    own = attacked[attacked["source"] == SELF]
    attacked = own if len(own) else attacked
    attacked = attacked[attacked["member"] != LEFT_OUT]
    for (attack, norm, eps), group in attacked.groupby(["attack", "norm", "eps_pixels"]):
        keys = {"attack": attack, "norm": norm, "eps_pixels": eps, "is_optimistic": True}
        yield from _separation(keys, group["null_score"], clean["null_score"])


def _outside(clean: pd.DataFrame, ood: pd.DataFrame) -> Iterator[Line]:
    for source, group in ood.groupby("source", sort=False):
        keys = {"attack": f"{OOD_PREFIX}{source}", "norm": "none", "eps_pixels": math.nan}
        num_null = int((group["prediction"] == -1).sum())
        interval = wilson(num_null, len(group))
        yield _line(keys, "null_rate", num_null / len(group), interval, len(group))
        yield from _separation(keys, group["null_score"], clean["null_score"])


def _separation(keys: Line, positive: pd.Series, negative: pd.Series) -> Iterator[Line]:
    above, below = positive.to_numpy(), negative.to_numpy()
    if not len(above) or not len(below):
        return
    yield _line(keys, "auroc", auroc(above, below), auroc_interval(above, below), len(above))
    interval = bootstrap(fpr_at_tpr, (above,), (below,))
    yield _line(keys, "fpr95", fpr_at_tpr(above, below), interval, len(above))


def _robust_error(
    attacked: pd.DataFrame, clean: pd.DataFrame, held_out: pd.DataFrame
) -> Iterator[Line]:
    thresholds = {}
    if clean["null_loss"].notna().any():
        thresholds["rerr"] = 0.0
    is_correct = held_out["real_prediction"] == held_out["label"]
    if is_correct.any():
        thresholds["rerr99"] = accepting_threshold(held_out.loc[is_correct, "null_score"])
    for norm, of_norm in attacked.groupby("norm"):
        images = attacked_by_all(clean, of_norm)
        for eps in sorted(of_norm["eps_pixels"].unique()) if images else ():
            within = of_norm[of_norm["eps_pixels"] <= eps]
            groups = [clean, *(group for _, group in within.groupby(["attack", "eps_pixels"]))]
            versions = [_score_and_wrong(g.set_index("image").loc[images]) for g in groups]
            sample = tuple(map(np.stack, zip(*versions, strict=True)))
            is_transfer = not (within["source"] == SELF).any()
            for metric, tau in thresholds.items():
                keys = {"attack": UNION, "norm": norm, "eps_pixels": eps}
                keys["is_optimistic"] = is_transfer or tau != 0
                value = rerr(tau, *sample)
                num_accepted = int((sample[0] <= tau).any(axis=0).sum())
                interval = bootstrap(
                    lambda s, w, tau=tau: rerr(tau, s, w), sample, num_images=num_accepted
                )
                yield _line(keys, metric, value, interval, len(images))


def _score_and_wrong(rows: pd.DataFrame) -> tuple[Floats, Booleans]:
    is_wrong = (rows["real_prediction"] != rows["label"]).to_numpy()
    return rows["null_score"].to_numpy(dtype=np.float64), is_wrong

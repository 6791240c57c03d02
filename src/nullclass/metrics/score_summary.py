"""From rows to metrics of the null score. Imports no torch: reports are drawn from rows alone.

The null score is larger where the model is nearer to saying null
(:mod:`nullclass.rejection.threshold`).
Attacked images and inputs of no class are the positive class: they ought to score high.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.metrics import scores
from nullclass.metrics.rates import wilson
from nullclass.results.schema import CLEAN, SELF, UNION

TPR = 0.99
"""Share of right held-out clean images that must be accepted, for RErr (Stutz et al. 2020)."""

COLUMNS = ["attack", "norm", "eps_pixels", "metric", "value", "low", "high", "num_images"]
"""``attack`` is ``clean`` for clean images, an attack's name, ``union``, or ``ood:NAME``."""

Line = dict[str, object]
Array = npt.NDArray[np.float64] | npt.NDArray[np.bool_]


def score_metrics(rows: pd.DataFrame, held_out: pd.DataFrame, ood: pd.DataFrame) -> pd.DataFrame:
    """Metrics of the null score with 95 % intervals, one a line.

    - clean images: ``aurc`` and ``augrc`` of risk against coverage, an error being a wrong best
      real class;
    - every attack and eps: ``auroc`` and ``fpr95`` of telling its images from the clean ones (only
      of attacks on the model itself, if there are any: of transfers there can be very many);
    - every eps of the union, with held-out images: ``rerr99``, the error among what is accepted at
      the threshold that accepts 99 % of the right held-out ones;
    - inputs of no class: ``auroc``, ``fpr95`` and ``null_rate``, the share answered null.

    Args:
        rows: Columns of :data:`nullclass.results.schema.ROW_COLUMNS`, of one model.
        held_out: The same columns, clean held-out images; may be empty.
        ood: Columns of :data:`nullclass.results.schema.OOD_COLUMNS`; may be empty.

    Returns:
        :data:`COLUMNS`.
    """
    clean = rows[rows["attack"] == CLEAN]
    lines = [*_selective(clean), *_detection(rows, clean)]
    if len(held_out):
        lines += _robust_error(rows, clean, held_out)
    if len(ood):
        lines += _outside(clean, ood)
    return pd.DataFrame(lines, columns=COLUMNS)


def _selective(clean: pd.DataFrame) -> Iterator[Line]:
    """Risk against coverage on clean images."""
    if clean.empty:
        return
    score = clean["null_score"].to_numpy()
    is_wrong = (clean["real_prediction"] != clean["label"]).to_numpy()
    place = {"attack": CLEAN, "norm": clean["norm"].iloc[0], "eps_pixels": 0.0}
    for name, metric in (("aurc", scores.aurc), ("augrc", scores.augrc)):
        low, high = scores.bootstrap(metric, (score, is_wrong))
        yield place | _line(name, metric(score, is_wrong), low, high, len(clean))


def _detection(rows: pd.DataFrame, clean: pd.DataFrame) -> Iterator[Line]:
    """Attacked images against clean ones."""
    attacked = rows[(rows["attack"] != CLEAN) & ~rows["has_own_eps"]]
    own = attacked[attacked["source"] == SELF]
    attacked = own if len(own) else attacked
    for (attack, norm, eps), group in attacked.groupby(["attack", "norm", "eps_pixels"]):
        place = {"attack": attack, "norm": norm, "eps_pixels": eps}
        yield from _separation(place, group["null_score"], clean["null_score"])


def _outside(clean: pd.DataFrame, ood: pd.DataFrame) -> Iterator[Line]:
    """Inputs of no class against clean images."""
    for source, group in ood.groupby("source", sort=False):
        place = {"attack": f"ood:{source}", "norm": "none", "eps_pixels": math.nan}
        is_null = group["prediction"] == -1
        low, high = wilson(int(is_null.sum()), len(group))
        yield place | _line("null_rate", float(is_null.mean()), low, high, len(group))
        yield from _separation(place, group["null_score"], clean["null_score"])


def _separation(place: Line, positive: pd.Series, negative: pd.Series) -> Iterator[Line]:
    high_scores, low_scores = positive.to_numpy(), negative.to_numpy()
    if not len(high_scores) or not len(low_scores):
        return
    auroc = scores.auroc(high_scores, low_scores)
    low, high = scores.auroc_interval(high_scores, low_scores)
    yield place | _line("auroc", auroc, low, high, len(positive))
    fpr = scores.fpr_at_tpr(high_scores, low_scores)
    low, high = scores.bootstrap(scores.fpr_at_tpr, (high_scores,), (low_scores,))
    yield place | _line("fpr95", fpr, low, high, len(positive))


def _robust_error(
    rows: pd.DataFrame, clean: pd.DataFrame, held_out: pd.DataFrame
) -> Iterator[Line]:
    """RErr at the threshold of the held-out images, worst case over the attacks up to each eps."""
    given = rows[(rows["attack"] != CLEAN) & ~rows["has_own_eps"]]
    is_right = held_out["real_prediction"] == held_out["label"]
    chosen_by = held_out.loc[is_right, "null_score"].to_numpy()
    for norm, attacked in given.groupby("norm"):
        seen = [set(group["image"]) for _, group in attacked.groupby("attack")]
        images = sorted(set.intersection(*seen, set(clean["image"])))
        if not images or not len(chosen_by):
            continue
        calm = clean.set_index("image").loc[images]
        threshold = scores.accepting_threshold(chosen_by, TPR)

        def rerr(clean: Array, wrong: Array, attacked: Array, attacked_wrong: Array) -> float:
            return scores.rerr(threshold, clean, wrong, attacked, attacked_wrong)  # noqa: B023

        calm_wrong = (calm["real_prediction"] != calm["label"]).to_numpy()
        for eps in sorted(attacked["eps_pixels"].unique()):
            within = attacked[attacked["image"].isin(images) & (attacked["eps_pixels"] <= eps)]
            tried = [
                group.set_index("image").loc[images]
                for _, group in within.groupby(["attack", "eps_pixels"])
            ]
            attacked_scores = np.stack([one["null_score"].to_numpy() for one in tried])
            attacked_wrong = np.stack(
                [(one["real_prediction"] != one["label"]).to_numpy() for one in tried]
            )
            of_images = (
                calm["null_score"].to_numpy(),
                calm_wrong,
                attacked_scores,
                attacked_wrong,
            )
            low, high = scores.bootstrap(rerr, of_images)
            place: Line = {"attack": UNION, "norm": norm, "eps_pixels": eps}
            yield place | _line("rerr99", rerr(*of_images), low, high, len(images))


def _line(metric: str, value: float, low: float, high: float, num_images: int) -> Line:
    return {"metric": metric, "value": value, "low": low, "high": high, "num_images": num_images}

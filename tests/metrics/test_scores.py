"""Metrics of scores against scikit-learn, against their definitions, and against the truth."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import auc, roc_auc_score

from nullclass.metrics.rates import wilson
from nullclass.metrics.scores import (
    accepting_threshold,
    augrc,
    aurc,
    auroc,
    auroc_interval,
    bootstrap,
    fpr_at_tpr,
    rerr,
    risk_coverage,
    roc,
    score_metrics,
)
from nullclass.results.schema import LEFT_OUT

few_scores = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=7)
"""Small whole numbers, so that ties are common."""

judged = st.lists(st.tuples(st.integers(0, 4).map(float), st.booleans()), min_size=1, max_size=8)
"""Scores and whether the answer is wrong."""

attacked_world = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=n, max_size=n),
        st.lists(
            st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=n, max_size=n),
            min_size=1,
            max_size=3,
        ),
    )
)
"""Scores and errors of n clean images, and of the same under up to three attacks."""


def unzip(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, flags = zip(*pairs, strict=True)
    return np.array(scores, dtype=float), np.array(flags)


# ROC


@given(few_scores, few_scores)
def test_roc_and_auroc(positive: list[float], negative: list[float]) -> None:
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    curve = roc(positive, negative)
    by_hand = {
        tuple(float(np.mean(np.array(side) >= tau)) for side in (negative, positive))
        for tau in {*positive, *negative, math.inf}
    }
    np.testing.assert_allclose(sorted(zip(*curve, strict=True)), sorted(by_hand), atol=1e-12)
    pairs = list(itertools.product(positive, negative))
    wanted = sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)
    assert auroc(positive, negative) == pytest.approx(wanted, abs=1e-12)
    assert roc_auc_score(labels, np.r_[positive, negative]) == pytest.approx(wanted, abs=1e-12)
    assert auc(*curve) == pytest.approx(wanted, abs=1e-12)
    assert auroc(negative, positive) == pytest.approx(1 - wanted, abs=1e-12)
    assert auroc([math.inf, 1], [-math.inf, 1]) == 7 / 8


@given(few_scores, few_scores, st.sampled_from([0.05, 0.25, 0.5, 2 / 3, 0.95, 1.0]))
def test_fpr_at_tpr_tries_all_thresholds(
    positive: list[float], negative: list[float], tpr: float
) -> None:
    found = [
        sum(n >= tau for n in negative) / len(negative)
        for tau in {*positive, *negative, math.inf}
        if sum(p >= tau for p in positive) >= tpr * len(positive) - 1e-9
    ]
    assert fpr_at_tpr(positive, negative, tpr) == pytest.approx(min(found), abs=1e-12)


def test_a_share_that_is_just_reached_in_decimals() -> None:
    """k of 100 is enough for k %, whatever floating point makes of it."""
    for percent in range(1, 101):
        share = float(f"{percent}e-2")
        positive = np.r_[np.ones(percent), np.zeros(100 - percent)]
        assert fpr_at_tpr(positive, [0.0, 1.0, 0.5], share) == pytest.approx(1 / 3)
        assert accepting_threshold(np.arange(1, 101), share) == percent


# The interval of AUROC


@given(few_scores.filter(lambda s: len(s) > 1), few_scores.filter(lambda s: len(s) > 1))
def test_interval_is_delongs(positive: list[float], negative: list[float]) -> None:
    """The variance by DeLong's own definition, pair by pair."""
    wins = np.array([[(p > n) + (p == n) / 2 for n in negative] for p in positive])
    variance = wins.mean(axis=1).var(ddof=1) / len(positive)
    variance += wins.mean(axis=0).var(ddof=1) / len(negative)
    low, high = auroc_interval(positive, negative)
    assert 0 <= low <= auroc(positive, negative) <= high <= 1
    if variance > 0:
        half = norm.ppf(0.975) * math.sqrt(variance)
        assert low == pytest.approx(max(0, wins.mean() - half), abs=1e-6)
        assert high == pytest.approx(min(1, wins.mean() + half), abs=1e-6)


def test_interval_covers_the_truth() -> None:
    """Two normals at a distance of 1 have an AUROC of Phi(1 / sqrt 2)."""
    rng, truth = np.random.default_rng(5), norm.cdf(1 / math.sqrt(2))
    num_worlds, hits = 1000, 0
    for _ in range(num_worlds):
        low, high = auroc_interval(rng.normal(1, 1, 60), rng.normal(0, 1, 80))
        hits += low <= truth <= high
    # four standard deviations of a binomial, around what is promised
    assert hits / num_worlds == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / num_worlds))


@pytest.mark.parametrize(
    ("positive", "negative", "wanted"),
    [
        ([2, 3, 4], [0, 1, 1, 0], wilson(3, 3)),
        ([0, 1, 1, 0], [2, 3, 4], wilson(0, 3)),
        ([1, 1, 1, 1], [1, 1, 1, 1], wilson(2, 4)),
        ([5], [1, 2, 3], wilson(1, 1)),
        ([1, 1], [0], wilson(1, 1)),
    ],
)
def test_interval_that_delong_has_not(
    positive: list[float], negative: list[float], wanted: tuple[float, float]
) -> None:
    low, high = auroc_interval(positive, negative)
    assert (low, high) == pytest.approx(wanted)
    assert low < high


# Risk and coverage


@given(judged)
def test_risk_coverage_tries_all_thresholds(pairs: list[tuple[float, bool]]) -> None:
    scores, is_wrong = unzip(pairs)
    wanted = []
    for tau in sorted(set(scores)):
        accepted = [wrong for score, wrong in pairs if score <= tau]
        wanted.append((len(accepted) / len(pairs), sum(accepted) / len(accepted)))
    coverage, risk = risk_coverage(scores, is_wrong)
    np.testing.assert_allclose(np.stack([coverage, risk], axis=1), wanted, atol=1e-12)
    by_hand = np.mean([np.mean([w for s, w in pairs if s <= own]) for own, _ in pairs])
    assert aurc(scores, is_wrong) == pytest.approx(by_hand, abs=1e-12)
    # The identity of Traub et al. 2024, exact with ties too.
    error = is_wrong.mean()
    area = error**2 / 2
    if 0 < error < 1:
        area += (1 - auroc(scores[is_wrong], scores[~is_wrong])) * error * (1 - error)
    assert augrc(scores, is_wrong) == pytest.approx(area, abs=1e-12)


# RErr


@given(few_scores, st.sampled_from([0.1, 0.5, 0.75, 0.99, 1.0]))
def test_accepting_threshold_is_the_smallest(scores: list[float], tpr: float) -> None:
    enough = [tau for tau in scores if sum(s <= tau for s in scores) >= tpr * len(scores) - 1e-9]
    assert accepting_threshold(scores, tpr) == min(enough)


@given(attacked_world, st.integers(-1, 5))
def test_rerr_image_by_image(
    world: tuple[list[tuple[int, bool]], list[list[tuple[int, bool]]]], tau: int
) -> None:
    clean, attacks = world
    failures = accepted = 0
    for index, own in enumerate(clean):
        seen = [own, *(attack[index] for attack in attacks)]
        failures += any(wrong and score <= tau for score, wrong in seen)
        accepted += any(score <= tau for score, _ in seen)
    scores, wrong = (np.array(part) for part in zip(*map(unzip, [clean, *attacks]), strict=True))
    found = rerr(tau, scores, wrong)
    if accepted == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(failures / accepted)


# Bootstrap


def test_bootstrap_keeps_pairs_together_and_is_repeatable() -> None:
    scores = np.random.default_rng(1).normal(40, 10, 400)
    seen = []

    def mean(first: np.ndarray, second: np.ndarray, versions: np.ndarray) -> float:
        assert ((first > 40) == second).all()
        assert (versions[0] == first).all()
        seen.append(first.copy())
        return float(first.mean())

    sample = (scores, scores > 40, np.stack([scores, -scores]))
    once = bootstrap(mean, sample)
    assert once == bootstrap(mean, sample)
    assert once != bootstrap(mean, sample, seed=1)
    assert len({tuple(draw) for draw in seen[:500]}) == 500
    half = norm.ppf(0.975) * scores.std() / math.sqrt(400)
    assert once == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.3)
    # The difference of a sample with itself varies unless both are drawn as one.
    low, high = bootstrap(lambda a, b: float(a.mean() - b.mean()), (scores,), (scores,))
    assert low < 0 < high


def test_an_error_among_few_accepted_images_has_their_interval() -> None:
    """All metrics of the null score count images; RErr counts the accepted ones only."""
    rows = table(clean="c" * 20 + "n" * 180, pgd="c" * 20 + "n" * 180)
    found = lookup(score_metrics(rows, rows[:0], NO_OOD), "rerr", "union")
    assert (found["value"], found["low"]) == (0, 0)
    assert found["high"] == pytest.approx(wilson(0, 20)[1])
    scores = (np.arange(50) >= 1) * 1.0
    low, high = bootstrap(lambda s, w: rerr(0, s, w), (scores[None], scores[None] < 0))
    assert low == 0 < high < 1, "resamples that accept nothing are left out"
    assert all(map(math.isnan, bootstrap(lambda s: math.nan, (scores,))))


# Bad input


@pytest.mark.parametrize(
    "call",
    [
        lambda: roc([], [1.0]),
        lambda: roc([1.0], [math.nan]),
        lambda: auroc([1.0], []),
        lambda: auroc([[1.0]], [1.0]),
        lambda: auroc_interval([math.nan], [1.0]),
        lambda: fpr_at_tpr([1.0], [1.0], 0),
        lambda: fpr_at_tpr([1.0], [1.0], 95),
        lambda: fpr_at_tpr([1.0], [1.0], math.nan),
        lambda: risk_coverage([], []),
        lambda: risk_coverage([1.0, 2.0], [True]),
        lambda: aurc([math.nan], [True]),
        lambda: augrc([1.0], [0.5]),
        lambda: accepting_threshold([]),
        lambda: accepting_threshold([1.0], 1.01),
    ],
)
def test_bad_input(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        call()


# Tables


def table(**groups: str) -> pd.DataFrame:
    """Rows by attack: per image c, n or f for correct, null and fooled, with scores -1, 1, -1."""
    lines = []
    for attack, letters in groups.items():
        for image, letter in enumerate(letters):
            score = 1.0 if letter == "n" else -1.0 - image / 100
            source = "other" if attack == "transfer" else "self"
            eps = 0.0 if attack == "clean" else 0.1
            lines.append((attack, "linf", False, image, eps, 0, source, 1.0, letter == "f", score))
    columns = "attack norm has_own_eps image eps_pixels label source null_loss real_prediction"
    return pd.DataFrame(lines, columns=[*columns.split(), "null_score"]).assign(member="pgd")


NO_OOD = pd.DataFrame({"source": [], "prediction": [], "null_score": []})


def lookup(scores: pd.DataFrame, metric: str, attack: str) -> dict[str, Any]:
    (line,) = scores[(scores["metric"] == metric) & (scores["attack"] == attack)].to_dict("records")
    return line


def test_images_that_were_not_attacked_do_not_count_as_attacked() -> None:
    rows = table(clean="c" * 20, pgd="n" * 10 + "c" * 10)
    rows.loc[(rows["attack"] == "pgd") & (rows["image"] >= 10), "member"] = LEFT_OUT
    line = lookup(score_metrics(rows, rows.head(0), NO_OOD), "auroc", "pgd")
    assert (line["value"], line["num_images"]) == (1.0, 10)


def test_a_broken_model_looks_perfect_only_where_the_table_says_optimistic() -> None:
    # Every image is fooled, but with a null score just above that of all clean ones.
    rows = table(clean="c" * 40, pgd="f" * 40)
    rows.loc[rows["attack"] == "pgd", "null_score"] = -0.001
    scores = score_metrics(rows, table(clean="c" * 50), NO_OOD)
    for metric, attack, value in (("auroc", "pgd", 1), ("fpr95", "pgd", 0), ("rerr99", "union", 0)):
        line = lookup(scores, metric, attack)
        assert line["value"] == value
        assert line["is_optimistic"], "the attacker did not know this threshold"
        assert line["low"] < line["high"], "no interval is zero wide"
        assert line["low"] <= value <= line["high"]
    own = lookup(scores, "rerr", "union")
    assert (own["value"], own["is_optimistic"]) == (1, False)
    for metric in ("aurc", "augrc"):
        line = lookup(scores, metric, "clean")
        assert (line["value"], line["is_optimistic"]) == (0, False)
        assert 0 < line["high"] < 0.1


def test_who_knows_the_threshold() -> None:
    held_out = table(clean="c" * 99 + "n")
    held_out["null_score"] = np.linspace(-1, 0, 100)
    held_out.loc[98:, "null_score"] = 0.0  # the 99 % threshold is the decision in force
    own = lookup(
        score_metrics(table(clean="ccnf", pgd="fcnf"), held_out, NO_OOD), "rerr99", "union"
    )
    assert (own["value"], own["is_optimistic"]) == (2 / 3, False)
    scores = score_metrics(table(clean="cccc", transfer="fccn"), table(), NO_OOD.head(0))
    assert lookup(scores, "rerr", "union")["is_optimistic"]
    both = score_metrics(table(clean="cccc", transfer="fccn", pgd="cccc"), table(), NO_OOD)
    assert not lookup(both, "rerr", "union")["is_optimistic"]
    assert set(both.loc[both["metric"] == "auroc", "attack"]) == {"pgd"}, "transfers are left out"


def test_a_model_without_null_has_no_decision_of_its_own() -> None:
    rows = table(clean="cc", pgd="fc").assign(null_loss=math.nan)
    metrics = set(score_metrics(rows, table(), NO_OOD)["metric"])
    assert metrics == {"aurc", "augrc", "auroc", "fpr95"}


def test_inputs_of_no_class() -> None:
    ood = pd.DataFrame({"source": "noise", "prediction": [-1, 3], "null_score": [2.0, -9.0]})
    scores = score_metrics(table(clean="cccc"), table(), ood)
    line = lookup(scores, "null_rate", "ood:noise")
    assert (line["value"], line["is_optimistic"]) == (0.5, False)
    assert (line["low"], line["high"]) == pytest.approx(wilson(1, 2))
    assert lookup(scores, "auroc", "ood:noise")["value"] == 0.5


def test_metrics_and_results_load_without_torch_and_scikit_learn() -> None:
    code = (
        "import sys, nullclass.metrics.scores, nullclass.metrics.claims, nullclass.results.store; "
    )
    code += "print(sorted({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"

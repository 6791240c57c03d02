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
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score

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


def stacked(positive: list[float], negative: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores as scikit-learn wants them."""
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return labels, np.r_[positive, negative]


# ROC


@given(few_scores, few_scores)
def test_roc_and_auroc(positive: list[float], negative: list[float]) -> None:
    labels, scores = stacked(positive, negative)
    curve = roc(positive, negative)
    by_hand = {
        tuple(float(np.mean(np.array(side) >= tau)) for side in (negative, positive))
        for tau in {*positive, *negative, math.inf}
    }
    np.testing.assert_allclose(sorted(zip(*curve, strict=True)), sorted(by_hand), atol=1e-12)
    assert auroc(positive, negative) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(*curve) == pytest.approx(auroc(positive, negative), abs=1e-12)


@given(few_scores, few_scores)
def test_auroc_counts_pairs(positive: list[float], negative: list[float]) -> None:
    pairs = list(itertools.product(positive, negative))
    wanted = sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)
    assert auroc(positive, negative) == pytest.approx(wanted, abs=1e-12)
    assert auroc(negative, positive) == pytest.approx(1 - wanted, abs=1e-12)


def test_auroc_of_infinite_scores() -> None:
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


@pytest.mark.parametrize("num_hit", range(1, 101))
def test_fpr_at_tpr_of_a_share_that_is_just_reached(num_hit: int) -> None:
    """k of 100 is enough for k %, whatever floating point makes of it."""
    positive = np.r_[np.ones(num_hit), np.zeros(100 - num_hit)]
    assert fpr_at_tpr(
        positive, [0.0, 1.0, 0.5], float(f"0.{num_hit:02}") if num_hit < 100 else 1
    ) == (pytest.approx(1 / 3))


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


def test_interval_is_the_bootstraps() -> None:
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(1, 1, 200), rng.normal(0, 1.5, 300)
    exact = auroc_interval(positive, negative)
    drawn = bootstrap(auroc, (positive,), (negative,), num_resamples=4000)
    assert exact == pytest.approx(drawn, abs=0.004)
    assert exact[1] - exact[0] == pytest.approx(drawn[1] - drawn[0], rel=0.05)


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


@given(judged.filter(lambda pairs: not all(wrong for _, wrong in pairs)))
def test_risk_is_what_precision_lacks(pairs: list[tuple[float, bool]]) -> None:
    scores, is_wrong = unzip(pairs)
    precision, _, _ = precision_recall_curve(~is_wrong, -scores)  # from all accepted to none
    _, risk = risk_coverage(scores, is_wrong)
    np.testing.assert_allclose(1 - risk, precision[:-1][::-1], atol=1e-12)


@given(st.permutations(range(7)), st.lists(st.booleans(), min_size=7, max_size=7))
def test_areas_without_ties_by_their_sums(order: list[int], wrong: list[bool]) -> None:
    """All images in order, the curves' points summed as in the papers."""
    num, sorted_wrong = 7, [w for _, w in sorted(zip(order, wrong, strict=True))]
    selective = sum(sum(sorted_wrong[:k]) / k for k in range(1, num + 1)) / num
    assert aurc(order, wrong) == pytest.approx(selective, abs=1e-12)
    generalised = [sum(sorted_wrong[:k]) / num for k in range(num + 1)]
    trapezoids = sum((a + b) / 2 / num for a, b in itertools.pairwise(generalised))
    assert augrc(order, wrong) == pytest.approx(trapezoids, abs=1e-12)


@given(judged)
def test_augrc_is_told_by_auroc_and_accuracy(pairs: list[tuple[float, bool]]) -> None:
    """The identity of Traub et al. 2024, exact with ties too."""
    scores, is_wrong = unzip(pairs)
    error = is_wrong.mean()
    wanted = error**2 / 2
    if 0 < error < 1:
        wanted += (1 - auroc(scores[is_wrong], scores[~is_wrong])) * error * (1 - error)
    assert augrc(scores, is_wrong) == pytest.approx(wanted, abs=1e-12)


def test_areas_at_their_ends() -> None:
    scores = np.arange(4)
    assert aurc(scores, [False] * 4) == augrc(scores, [False] * 4) == 0
    assert aurc(scores, [True] * 4) == 1
    assert augrc(scores, [True] * 4) == 0.5


# RErr


@given(few_scores, st.sampled_from([0.1, 0.5, 0.75, 0.99, 1.0]))
def test_accepting_threshold_is_the_smallest(scores: list[float], tpr: float) -> None:
    enough = [tau for tau in scores if sum(s <= tau for s in scores) >= tpr * len(scores) - 1e-9]
    assert accepting_threshold(scores, tpr) == min(enough)


@pytest.mark.parametrize("percent", range(1, 100))
def test_accepting_threshold_of_a_share_that_is_just_reached(percent: int) -> None:
    assert accepting_threshold(np.arange(1, 101), float(f"0.{percent:02}")) == percent


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


def test_rerr_by_hand() -> None:
    """Image 0 fails when attacked, 2 when clean; 3 is accepted only attacked, and is right."""
    assert accepting_threshold(np.arange(100) / 100) == 0.98
    scores = [[0.1, 0.2, 0.3, 1.2, 1.3], [0.98, 0.99, 2.0, 0.5, 3.0]]
    assert rerr(0.98, scores, [[0, 0, 1, 0, 1], [1, 1, 1, 0, 1]]) == 2 / 4
    assert rerr(math.inf, [[0, 1, 2], [5, 5, 5]], [[1, 0, 0], [1, 1, 0]]) == 2 / 3


# Bootstrap


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    half = norm.ppf(0.975) * values.std() / math.sqrt(400)
    low, high = bootstrap(np.mean, (values,), num_resamples=4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_bootstrap_keeps_pairs_together_and_is_repeatable() -> None:
    scores = np.arange(50.0)
    is_wrong = scores > 40
    seen = []

    def told(first: np.ndarray, second: np.ndarray, adv_images: np.ndarray) -> float:
        assert ((first > 40) == second).all()
        assert adv_images.shape == (2, 50)
        assert (adv_images[0] == first).all()
        seen.append(first.copy())
        return float(first.mean())

    sample = (scores, is_wrong, np.stack([scores, -scores]))
    once = bootstrap(told, sample, num_resamples=20)
    assert once == bootstrap(told, sample, num_resamples=20)
    assert once != bootstrap(told, sample, num_resamples=20, seed=1)
    assert len({tuple(draw) for draw in seen[:20]}) == 20


def test_bootstrap_draws_samples_independently() -> None:
    """The difference of a sample with itself varies unless both are drawn as one."""
    values = np.arange(30.0)

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return float(first.mean() - second.mean())

    low, high = bootstrap(difference, (values,), (values,), num_resamples=50)
    assert low < 0 < high
    assert bootstrap(difference, (values, values), num_resamples=50)[0] == 0, "never another value"


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
    return pd.DataFrame(lines, columns=[*columns.split(), "null_score"])


NO_OOD = pd.DataFrame({"source": [], "prediction": [], "null_score": []})


def lookup(scores: pd.DataFrame, metric: str, attack: str) -> dict[str, Any]:
    (line,) = scores[(scores["metric"] == metric) & (scores["attack"] == attack)].to_dict("records")
    return line


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


def test_the_threshold_of_the_attack_itself_is_not_optimistic() -> None:
    held_out = table(clean="c" * 99 + "n")
    held_out["null_score"] = np.linspace(-1, 0, 100) - 0.0
    held_out.loc[98:, "null_score"] = 0.0  # the 99 % threshold is the decision in force
    rows = table(clean="ccnf", pgd="fcnf")
    line = lookup(score_metrics(rows, held_out, NO_OOD), "rerr99", "union")
    assert not line["is_optimistic"]
    assert line["value"] == 2 / 3


def test_transfers_know_no_threshold() -> None:
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

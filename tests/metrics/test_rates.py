"""Rates and their intervals, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.metrics.rates import summarise, wilson
from nullclass.results.schema import ROW_COLUMNS, UNION


@settings(deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    hits, images = case
    low, high = wilson(hits, images)
    theirs = binomtest(hits, images).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-8)
    assert 0 <= low <= hits / images <= high <= 1
    assert (low == 0) is (hits == 0)
    assert (high == 1) is (hits == images)


@pytest.mark.parametrize(("hits", "images"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(hits: int, images: int) -> None:
    with pytest.raises(ValueError, match="make no share"):
        wilson(hits, images)


ATTACKS = {"fgsm": "untargeted", "pgd": "fool", "other": "fool", "force-null": "force-null"}
EPS = (0.1, 0.2, 0.3)


@st.composite
def random_rows(draw: st.DrawFn) -> pd.DataFrame:
    """Rows of one model: every attack sees the first so many images at some of the eps."""
    num_images = draw(st.integers(1, 6))
    rows = []

    def add(image: int, attack: str, objective: str, eps: float) -> None:
        outcome = draw(st.sampled_from(OUTCOME_NAMES))
        predicted = {"correct": 0, "null": -1, "fooled": 1}[outcome]
        source = "clean" if attack == "clean" else "self"
        key = (image, 0, attack, objective, source, "linf", False, eps)
        attacked_eps = math.nan if attack == "clean" else eps
        rows.append((*key, attacked_eps, "clean", predicted, outcome, 0.5, 1.0, 2.0, 0, 0.0))

    for image in range(num_images):
        add(image, "clean", "clean", 0.0)
    for attack, objective in ATTACKS.items():
        seen = draw(st.integers(1, num_images))
        for eps in draw(st.sets(st.sampled_from(EPS), min_size=1)):
            for image in range(seen):
                add(image, attack, objective, eps)
    return pd.DataFrame(rows, columns=list(ROW_COLUMNS))


def lookup(summary: pd.DataFrame, attack: str, eps: float, metric: str) -> float:
    found = summary[
        (summary["attack"] == attack)
        & (summary["eps_pixels"] == eps)
        & (summary["metric"] == metric)
    ]
    assert len(found) == 1, (attack, eps, metric)
    return float(found["value"].iloc[0])


@settings(deadline=None, max_examples=40)
@given(random_rows())
def test_rates_against_loops(rows: pd.DataFrame) -> None:
    summary = summarise(rows)
    keys = zip(summary["attack"], summary["eps_pixels"], summary["metric"], strict=True)
    values = dict(zip(keys, summary["value"], strict=True))
    assert len(values) == len(summary)
    lines = list(rows.itertuples(index=False))
    check_single_attacks(values, lines)
    check_worst_case(values, lines)
    worst = summary[summary["attack"] == UNION]
    assert (worst["num_images"] == len(judged_images(lines))).all()
    rates = summary[~summary["metric"].isin(["loss", "null_loss"])]
    assert (rates["low"] <= rates["value"]).all()
    assert (rates["value"] <= rates["high"]).all()


def check_single_attacks(values: dict[Any, float], lines: list[Any]) -> None:
    for attack, eps in {(line.attack, line.eps_pixels) for line in lines}:
        outcomes = [
            line.outcome for line in lines if (line.attack, line.eps_pixels) == (attack, eps)
        ]
        for name in OUTCOME_NAMES:
            share = outcomes.count(name) / len(outcomes)
            assert values[attack, eps, f"{name}_rate"] == pytest.approx(share)
    not_null = [line.outcome != "null" for line in lines if line.attack == "clean"]
    assert values["clean", 0.0, "not_null_rate"] == pytest.approx(sum(not_null) / len(not_null))


def judged_images(lines: list[Any]) -> list[int]:
    """The images that every attack saw."""
    seen = [{line.image for line in lines if line.attack == name} for name in ATTACKS]
    return sorted(set.intersection(*seen))


def check_worst_case(values: dict[Any, float], lines: list[Any]) -> None:
    budgets = sorted({line.eps_pixels for line in lines if ATTACKS.get(line.attack) == "fool"})
    assert sorted({eps for attack, eps, _ in values if attack == UNION}) == budgets
    judged = judged_images(lines)
    before = -1.0
    for eps in budgets:
        num_fooled = num_robust = num_strict = num_null_dos = 0
        for image in judged:
            is_fooled = is_null = is_correct = False
            for line in lines:
                if line.image != image or line.eps_pixels > eps:
                    continue
                is_fooled |= line.outcome == "fooled"  # under any attack, or already when clean
                is_null |= line.outcome == "null"
                is_correct |= line.attack == "clean" and line.outcome == "correct"
            num_fooled += is_fooled
            num_robust += is_correct and not is_fooled
            num_strict += is_correct and not is_fooled and not is_null
            num_null_dos += is_correct and is_null
        for metric, num in (
            ("aer", num_fooled),
            ("rar", num_robust),
            ("strict", num_strict),
            ("null_dos", num_null_dos),
        ):
            assert values[UNION, eps, metric] == pytest.approx(num / len(judged))
        assert values[UNION, eps, "aer"] >= before, "AER never falls as eps grows"
        before = values[UNION, eps, "aer"]


def row(image: int, attack: str, outcome: str, eps: float = 0.0, **changed: object) -> dict:
    objective = {"clean": "clean", "pgd": "fool", "fgsm": "untargeted"}[attack]
    return {
        "image": image, "label": 0, "attack": attack, "objective": objective,
        "source": "clean" if attack == "clean" else "self", "norm": "linf", "has_own_eps": False,
        "eps_pixels": eps, "prediction": 0, "outcome": outcome, "confidence": 1.0,
        "loss": 1.0, "null_loss": 2.0,
    } | changed  # fmt: skip


def test_losses_are_means_and_null_loss_is_left_out_without_null() -> None:
    rows = pd.DataFrame([row(0, "clean", "correct", loss=1.0), row(1, "clean", "fooled", loss=4.0)])
    summary = summarise(rows)
    assert lookup(summary, "clean", 0.0, "loss") == 2.5
    assert lookup(summary, "clean", 0.0, "null_loss") == 2.0
    loss = summary[summary["metric"] == "loss"]
    assert loss[["low", "high"]].isna().all(axis=None)
    without = summarise(rows.assign(null_loss=math.nan))
    assert "null_loss" not in set(without["metric"])


def test_norms_are_kept_apart() -> None:
    rows = pd.DataFrame(
        [
            row(0, "clean", "correct"),
            row(0, "pgd", "correct", 0.1),
            row(0, "clean", "correct", norm="l2"),
            row(0, "pgd", "fooled", 0.1, norm="l2"),
        ]
    )
    summary = summarise(rows)
    worst = summary[summary["metric"] == "aer"].set_index("norm")["value"]
    assert worst.to_dict() == {"linf": 0.0, "l2": 1.0}


def test_without_an_attack_that_fools_there_is_no_aer() -> None:
    rows = pd.DataFrame([row(0, "clean", "correct"), row(0, "fgsm", "null", 0.1)])
    summary = summarise(rows)
    union = summary[summary["attack"] == UNION].set_index("metric")["value"]
    assert union.to_dict() == {"strict": 0.0, "null_dos": 1.0}


def test_images_at_their_own_thresholds_are_one_group_without_an_eps() -> None:
    outcomes = ["correct", "null", "null", "fooled"]
    rows = [row(i, "fgsm", o, 0.1 * (i + 1), has_own_eps=True) for i, o in enumerate(outcomes)]
    rows += [row(i, "fgsm", "fooled", 0.2) for i in range(3)]  # of the same name, eps given
    rows += [row(i, "clean", "correct") for i in range(4)]
    summary = summarise(pd.DataFrame(rows))
    own = summary[summary["eps_pixels"].isna()].set_index("metric")
    assert set(own["attack"]) == {"fgsm"}
    assert (own["num_images"] == 4).all()
    values = own["value"].to_dict()
    assert values == {
        "correct_rate": 0.25,
        "null_rate": 0.5,
        "fooled_rate": 0.25,
        "loss": 1.0,
        "null_loss": 2.0,
    }
    assert own.loc["null_rate", ["low", "high"]].tolist() == pytest.approx(wilson(2, 4))
    assert lookup(summary, "fgsm", 0.2, "fooled_rate") == 1
    given = summary[(summary["attack"] == "fgsm") & (summary["eps_pixels"] == 0.2)]
    assert (given["num_images"] == 3).all()


def test_a_search_at_thresholds_has_no_worst_case_of_its_own_but_counts_within_its_eps() -> None:
    own = [row(i, "pgd", "fooled", eps, has_own_eps=True) for i, eps in enumerate((0.05, 0.3))]
    clean = [row(i, "clean", "correct") for i in range(2)]
    assert UNION not in set(summarise(pd.DataFrame(own + clean))["attack"])
    given = [row(i, "pgd", "correct", eps) for i in range(2) for eps in (0.1, 0.4)]
    summary = summarise(pd.DataFrame(own + clean + given))
    worst = summary[summary["metric"] == "aer"].set_index("eps_pixels")["value"]
    assert worst.to_dict() == {0.1: 0.5, 0.4: 1.0}, (
        "image 0 is fooled within 0.1, image 1 within 0.4"
    )


def test_transfers_are_kept_apart_from_what_is_made_on_the_model_itself() -> None:
    rows = [row(0, "clean", "correct"), row(1, "clean", "correct")]
    rows += [row(i, "fgsm", "null", 0.1) for i in range(2)]
    rows += [row(i, "fgsm", "fooled", 0.1, source="base") for i in range(2)]
    summary = summarise(pd.DataFrame(rows))
    fooled = summary[(summary["attack"] == "fgsm") & (summary["metric"] == "fooled_rate")]
    assert fooled.set_index("source")["value"].to_dict() == {"self": 0.0, "base": 1.0}
    assert set(summary.loc[summary["attack"] == "clean", "source"]) == {"clean"}

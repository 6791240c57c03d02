"""The losses of attacks against lists, the published formulas and the outcomes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullclass.attacks.losses import OBJECTIVES, find_objective, is_success
from nullclass.core.outcomes import OUTCOME_NAMES, SUCCESSES, Outcome

K = 4
Case = tuple[str, list[float], int]


@st.composite
def cases(draw: st.DrawFn, *, num_digits: int = 3, unique: bool = False) -> Case:
    """An objective, K or K + 1 logits and a true label."""
    name = draw(st.sampled_from(list(OBJECTIVES)))
    size = K + 1 if name == "force-null" else draw(st.integers(K, K + 1))
    logit = st.floats(-30, 30, width=32).map(lambda z: round(z, num_digits))
    logits = draw(st.lists(logit, min_size=size, max_size=size, unique=unique))
    return name, logits, draw(st.integers(0, K - 1))


def winners(name: str, num_logits: int, y: int) -> list[int]:
    """The answers that are a success."""
    return {
        "fool": [k for k in range(K) if k != y],
        "force-null": [K],
        "untargeted": [k for k in range(num_logits) if k != y],
    }[name]


def logsumexp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(v - largest) for v in values))


@settings(max_examples=200)
@given(case=cases())
def test_margins_against_lists(case: Case) -> None:
    name, z, y = case
    logits, labels = torch.tensor([z], dtype=torch.float64), torch.tensor([y])
    wins = winners(name, len(z), y)
    defends = [z[k] for k in range(len(z)) if k not in wins]
    for loss, top in (("margin", max), ("logsumexp-margin", logsumexp)):
        expected = top([z[k] for k in wins]) - top(defends)
        found = OBJECTIVES[name].loss(logits, labels, K, loss)  # type: ignore[arg-type]
        assert float(found) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=200)
@given(case=cases(unique=True))
def test_the_margin_is_positive_exactly_on_success(case: Case) -> None:
    name, z, y = case
    logits, labels = torch.tensor([z]), torch.tensor([y])
    reached = z.index(max(z)) in winners(name, len(z), y)
    objective = find_objective(name)
    assert bool(is_success(logits, labels, K, objective)) is reached
    assert bool(objective.loss(logits, labels, K, "margin") > 0) is reached


def test_successes_by_name_are_those_of_the_objectives() -> None:
    for name, objective in OBJECTIVES.items():
        reached = objective.is_reached(torch.tensor(list(Outcome))).tolist()
        named = [outcome in SUCCESSES[name] for outcome in OUTCOME_NAMES]
        assert reached == named
    assert SUCCESSES.keys() == OBJECTIVES.keys()


def test_the_logsumexp_margin_of_a_target_is_its_log_odds() -> None:
    logits = torch.randn(6, K + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, targets = torch.arange(6) % K, (torch.arange(6) + 1) % K
    p = logits.softmax(1)[torch.arange(6), targets]
    for objective in OBJECTIVES.values():
        margin = objective.target_loss(logits, labels, targets, K, "logsumexp-margin")
        torch.testing.assert_close(margin, (p / (1 - p)).log())


@settings(max_examples=200)
@given(case=cases())
def test_the_best_target_has_the_untargeted_margin(case: Case) -> None:
    name, z, y = case
    objective = OBJECTIVES[name]
    logits, labels = torch.tensor([z], dtype=torch.float64), torch.tensor([y])
    wins = winners(name, len(z), y)
    targets = objective.rank_targets(logits, labels, K)[0].tolist()
    assert sorted(targets) == wins
    assert [z[t] for t in targets] == sorted((z[t] for t in wins), reverse=True)
    margins = [
        float(objective.target_loss(logits, labels, torch.tensor([t]), K, "margin"))
        for t in targets
    ]
    assert margins[0] == max(margins) == float(objective.loss(logits, labels, K, "margin"))


def test_targets_are_all_wrong_real_classes_largest_logit_first() -> None:
    logits = torch.tensor([[0.1, 5.0, -2.0, 3.0, 99.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    labels = torch.tensor([1, 2])
    assert OBJECTIVES["fool"].rank_targets(logits, labels, K).tolist() == [[3, 0, 2], [0, 1, 3]]
    assert OBJECTIVES["untargeted"].rank_targets(logits, labels, K)[0].tolist() == [4, 3, 0, 2]
    assert OBJECTIVES["force-null"].rank_targets(logits, labels, K).tolist() == [[4], [4]]
    assert OBJECTIVES["fool"].rank_targets(logits[:0], labels[:0], K).shape[0] == 0


def test_dlr_is_the_published_ratio() -> None:
    # Croce & Hein 2020, eq. 6 and 7 (theirs falls, ours climbs): without null nothing is merged.
    logits, y, t = torch.tensor([[3.0, 5.0, 1.0, 2.5]]), torch.tensor([0]), torch.tensor([3])
    untargeted = OBJECTIVES["untargeted"]
    assert float(untargeted.loss(logits, y, K, "dlr")) == pytest.approx((5 - 3) / (5 - 2.5))
    targeted = float(untargeted.target_loss(logits, y, t, K, "dlr"))
    assert targeted == pytest.approx((2.5 - 3) / (5 - (2.5 + 1) / 2))
    assert float(OBJECTIVES["fool"].loss(logits, y, K, "dlr")) == pytest.approx(2 / 2.5)
    # Of y and null only the larger logit counts: here null, 4 instead of 3.
    with_null = torch.tensor([[3.0, 5.0, 1.0, 2.5, 4.0]])
    assert float(OBJECTIVES["fool"].loss(with_null, y, K, "dlr")) == pytest.approx(1 / (5 - 2.5))
    # force-null has one winner: the spread is that of the real classes alone.
    force_null = float(OBJECTIVES["force-null"].loss(with_null, y, K, "dlr"))
    assert force_null == pytest.approx((4 - 5) / (5 - 2.5))


@given(case=cases(num_digits=1, unique=True), scale=st.sampled_from([0.01, 7.0, 1e4]))
def test_dlr_has_the_sign_of_the_margin_at_any_scale(case: Case, scale: float) -> None:
    name, z, y = case
    objective = OBJECTIVES[name]
    logits, labels = torch.tensor([z], dtype=torch.float64), torch.tensor([y])
    for target in (None, *objective.rank_targets(logits, labels, K)[0]):

        def loss(at: torch.Tensor, name: str, target: torch.Tensor | None = target) -> float:
            if target is None:
                return float(objective.loss(at, labels, K, name))  # type: ignore[arg-type]
            return float(objective.target_loss(at, labels, target[None], K, name))  # type: ignore[arg-type]

        dlr = loss(logits, "dlr")
        assert math.copysign(1, dlr) == math.copysign(1, loss(logits, "margin"))
        assert loss(scale * logits, "dlr") == pytest.approx(dlr, rel=1e-6)

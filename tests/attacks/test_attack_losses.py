from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullclass.attacks.losses import OBJECTIVES, find_objective, is_success

K = 4
LOGIT = st.floats(-30, 30, width=32).map(lambda z: round(z, 3))
CASES = st.tuples(st.lists(LOGIT, min_size=K, max_size=K + 1), st.integers(0, K - 1))


def brute_margin(name: str, z: list[float], y: int, smooth: bool) -> float:
    """The margins of the module's first lines, written out with lists."""

    def top(values: list[float]) -> float:
        if not smooth:
            return max(values)
        largest = max(values)
        return largest + math.log(sum(math.exp(v - largest) for v in values))

    real, null = z[:K], z[K:]
    if name == "fool":
        return top([v for k, v in enumerate(real) if k != y]) - top([z[y], *null])
    if name == "force-null":
        return null[0] - top(real)
    return top([v for k, v in enumerate(z) if k != y]) - z[y]


@settings(deadline=None, max_examples=200)
@given(case=CASES, name=st.sampled_from(list(OBJECTIVES)))
def test_margins_against_lists(case: tuple[list[float], int], name: str) -> None:
    z, y = case
    if name == "force-null" and len(z) == K:
        return
    logits, labels = torch.tensor([z], dtype=torch.float64), torch.tensor([y])
    for form in ("margin", "logsumexp-margin"):
        margin = OBJECTIVES[name].loss(logits, labels, K, form)
        assert float(margin) == pytest.approx(
            brute_margin(name, z, y, form == "logsumexp-margin"), abs=1e-9
        )


@settings(deadline=None, max_examples=200)
@given(case=CASES, name=st.sampled_from(list(OBJECTIVES)))
def test_the_hard_margin_is_positive_exactly_on_success(
    case: tuple[list[float], int], name: str
) -> None:
    z, y = case
    if len(set(z)) < len(z) or (name == "force-null" and len(z) == K):
        return
    logits, labels = torch.tensor([z]), torch.tensor([y])
    answer = z.index(max(z))
    reached = {
        "fool": answer not in (y, K),
        "force-null": answer == K,
        "untargeted": answer != y,
    }[name]
    objective = find_objective(name)
    assert bool(is_success(logits, labels, K, objective)) is reached
    assert bool(objective.loss(logits, labels, K, "margin") > 0) is reached


def test_the_smooth_target_margin_is_the_log_odds() -> None:
    logits = torch.randn(6, K + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, targets = torch.arange(6) % K, (torch.arange(6) + 1) % K
    p = logits.softmax(1)[torch.arange(6), targets]
    for objective in OBJECTIVES.values():
        margin = objective.target_loss(logits, labels, targets, K, "logsumexp-margin")
        torch.testing.assert_close(margin, (p / (1 - p)).log())


@settings(deadline=None, max_examples=200)
@given(case=CASES, name=st.sampled_from(list(OBJECTIVES)))
def test_the_best_target_is_the_margin(case: tuple[list[float], int], name: str) -> None:
    # Aiming at the nearest answer that wins is the untargeted hard margin; at no other is it more.
    z, y = case
    if name == "force-null" and len(z) == K:
        return
    objective = OBJECTIVES[name]
    logits, labels = torch.tensor([z], dtype=torch.float64), torch.tensor([y])
    winners = {
        "fool": [k for k in range(K) if k != y],
        "force-null": [K],
        "untargeted": [k for k in range(len(z)) if k != y],
    }[name]
    targets = objective.rank_targets(logits, labels, K)[0].tolist()
    assert sorted(targets) == winners
    assert [z[t] for t in targets] == sorted((z[t] for t in winners), reverse=True)
    margins = [
        float(objective.target_loss(logits, labels, torch.tensor([t]), K, "margin"))
        for t in targets
    ]
    assert margins[0] == max(margins) == float(objective.loss(logits, labels, K, "margin"))


def test_targets_are_all_wrong_real_classes_nearest_first() -> None:
    logits = torch.tensor([[0.1, 5.0, -2.0, 3.0, 99.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    labels = torch.tensor([1, 2])
    assert OBJECTIVES["fool"].rank_targets(logits, labels, K).tolist() == [[3, 0, 2], [0, 1, 3]]
    assert OBJECTIVES["untargeted"].rank_targets(logits, labels, K)[0].tolist() == [4, 3, 0, 2]
    assert OBJECTIVES["force-null"].rank_targets(logits, labels, K).tolist() == [[4], [4]]
    assert OBJECTIVES["fool"].rank_targets(logits[:0], labels[:0], K).shape[0] == 0


def test_dlr_is_the_published_ratio() -> None:
    # Croce & Hein 2020, eq. 6 and 7 (theirs falls, ours climbs): without null nothing is merged.
    logits, y, t = torch.tensor([[3.0, 5.0, 1.0, 2.5]]), torch.tensor([0]), torch.tensor([3])
    evade = OBJECTIVES["untargeted"]
    assert float(evade.loss(logits, y, K, "dlr")) == pytest.approx((5 - 3) / (5 - 2.5))
    towards = float(evade.target_loss(logits, y, t, K, "dlr"))
    assert towards == pytest.approx((2.5 - 3) / (5 - (2.5 + 1) / 2))
    assert float(OBJECTIVES["fool"].loss(logits, y, K, "dlr")) == pytest.approx(2 / 2.5)
    # Of the defenders y and null only the better one is seen: here null, 4 instead of 3.
    with_null = torch.tensor([[3.0, 5.0, 1.0, 2.5, 4.0]])
    assert float(OBJECTIVES["fool"].loss(with_null, y, K, "dlr")) == pytest.approx(1 / (5 - 2.5))
    # Deny has one winner: the spread is that of the real classes alone.
    deny = float(OBJECTIVES["force-null"].loss(with_null, y, K, "dlr"))
    assert deny == pytest.approx((4 - 5) / (5 - 2.5))


@settings(deadline=None, max_examples=200)
@given(case=CASES, name=st.sampled_from(list(OBJECTIVES)), scale=st.sampled_from([0.01, 7.0, 1e4]))
def test_dlr_has_the_hard_margins_sign_and_does_not_see_scale(
    case: tuple[list[float], int], name: str, scale: float
) -> None:
    z, y = case
    if len({round(v, 1) for v in z}) < len(z) or (name == "force-null" and len(z) == K):
        return
    objective = OBJECTIVES[name]
    logits, labels = torch.tensor([z], dtype=torch.float64), torch.tensor([y])
    for target in (None, *objective.rank_targets(logits, labels, K)[0]):

        def margin(at: torch.Tensor, form: str, target: torch.Tensor | None = target) -> float:
            if target is None:
                return float(objective.loss(at, labels, K, form))  # type: ignore[arg-type]
            return float(objective.target_loss(at, labels, target[None], K, form))  # type: ignore[arg-type]

        dlr = margin(logits, "dlr")
        assert math.copysign(1, dlr) == math.copysign(1, margin(logits, "margin"))
        assert margin(scale * logits, "dlr") == pytest.approx(dlr, rel=1e-6)

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullclass.attacks import find_attack
from nullclass.attacks.objectives import (
    OBJECTIVES,
    find_objective,
    is_success,
    ranked_targets,
    target_margin,
)
from nullclass.errors import UserError

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
    if name == "deny":
        return null[0] - top(real)
    return top([v for k, v in enumerate(z) if k != y]) - z[y]


@settings(deadline=None, max_examples=200)
@given(case=CASES, name=st.sampled_from(list(OBJECTIVES)))
def test_margins_against_lists(case: tuple[list[float], int], name: str) -> None:
    z, y = case
    if name == "deny" and len(z) == K:
        return
    logits, labels = torch.tensor([z], dtype=torch.float64), torch.tensor([y])
    for form in ("hard", "smooth"):
        margin = OBJECTIVES[name].margin(logits, labels, K, form)
        assert float(margin) == pytest.approx(brute_margin(name, z, y, form == "smooth"), abs=1e-9)


@settings(deadline=None, max_examples=200)
@given(case=CASES, name=st.sampled_from(list(OBJECTIVES)))
def test_the_hard_margin_is_positive_exactly_on_success(
    case: tuple[list[float], int], name: str
) -> None:
    z, y = case
    if len(set(z)) < len(z) or (name == "deny" and len(z) == K):
        return
    logits, labels = torch.tensor([z]), torch.tensor([y])
    answer = z.index(max(z))
    reached = {
        "fool": answer not in (y, K),
        "deny": answer == K,
        "evade": answer != y,
    }[name]
    objective = find_objective(name)
    assert bool(is_success(logits, labels, K, objective)) is reached
    assert bool(objective.margin(logits, labels, K, "hard") > 0) is reached


def test_target_margin_is_the_log_odds() -> None:
    logits = torch.randn(6, K + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(6) % K
    p = logits.softmax(1)[torch.arange(6), targets]
    torch.testing.assert_close(target_margin(logits, targets), (p / (1 - p)).log())


def test_targets_are_all_wrong_real_classes_nearest_first() -> None:
    logits = torch.tensor([[0.1, 5.0, -2.0, 3.0, 99.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    ranked = ranked_targets(logits, torch.tensor([1, 2]), K)
    assert ranked.tolist() == [[3, 0, 2], [0, 1, 3]]


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="no objective 'annoy': choose one of fool, deny, evade"):
        find_objective("annoy")
    with pytest.raises(UserError, match="no attack 'cw': choose one of fgsm, pgd"):
        find_attack("cw")

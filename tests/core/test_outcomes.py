from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullclass.core.outcomes import (
    NULL_LABEL,
    OUTCOME_NAMES,
    Outcome,
    outcome_name,
    outcomes,
    predictions,
)

K = 4
ROWS = st.lists(st.integers(-2, 2), min_size=K, max_size=K)  # few values: many ties
NULL_ROWS = st.lists(st.integers(-2, 2), min_size=K + 1, max_size=K + 1)
PAIRS = st.lists(st.tuples(st.integers(-1, K - 1), st.integers(0, K - 1)), min_size=1)


@settings(deadline=None)
@given(st.one_of(st.lists(ROWS, min_size=1), st.lists(NULL_ROWS, min_size=1)))
def test_predictions_against_a_loop(rows: list[list[int]]) -> None:
    expected = []
    for row in rows:
        first = row.index(max(row))
        expected.append(-1 if first == K else first)
    found = predictions(torch.tensor(rows, dtype=torch.float32), K)
    assert found.tolist() == expected
    assert found.dtype == torch.int64


@settings(deadline=None)
@given(PAIRS)
def test_outcomes_against_a_loop(pairs: list[tuple[int, int]]) -> None:
    expected = [
        "null" if predicted == -1 else "correct" if predicted == label else "fooled"
        for predicted, label in pairs
    ]
    predicted, labels = (torch.tensor(values) for values in zip(*pairs, strict=True))
    scored = outcomes(predicted, labels)
    assert [OUTCOME_NAMES[code] for code in scored.tolist()] == expected
    assert [outcome_name(*pair) for pair in pairs] == expected


def test_the_vocabulary() -> None:
    assert OUTCOME_NAMES == ("correct", "null", "fooled")
    assert [int(outcome) for outcome in Outcome] == [0, 1, 2]
    assert NULL_LABEL == -1


def test_senseless_input_is_refused() -> None:
    for shape in ((3, K - 1), (3, K + 2), (K,), (3, K, 1)):
        with pytest.raises(ValueError, match="4 classes need"):
            predictions(torch.zeros(shape), K)
    with pytest.raises(ValueError, match=r"2.* predictions, .*3.* labels"):
        outcomes(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="true labels must not be negative"):
        outcomes(torch.tensor([0, -1]), torch.tensor([0, -1]))


def test_inputs_are_left_alone() -> None:
    predicted, labels = torch.tensor([0, -1, 2]), torch.tensor([0, 1, 1])
    outcomes(predicted, labels)
    assert predicted.tolist() == [0, -1, 2]
    assert labels.tolist() == [0, 1, 1]

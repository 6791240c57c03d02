"""Proofs held against rows: each promise, broken and kept, counted by hand."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullclass.metrics.claims import PROMISES, hold

COLUMNS = [promise.column for promise in PROMISES]


def row(outcome: str, attack: str = "pgd", eps: float = 0.1, image: int = 0) -> dict[str, object]:
    return {"image": image, "attack": attack, "norm": "linf", "eps_pixels": eps, "outcome": outcome}


def proof(column: str, eps: float = 0.1, image: int = 0, norm: str = "linf") -> dict[str, object]:
    return {"image": image, "norm": norm, "eps_pixels": eps} | {
        name: name == column for name in COLUMNS
    }


def told(rows: list[dict[str, object]], proofs: list[dict[str, object]]) -> list[tuple[int, str]]:
    found = hold(pd.DataFrame(rows), pd.DataFrame(proofs)).broken
    return list(zip(found["image"], found["what"], strict=True))


@pytest.mark.parametrize(
    ("column", "when_attacked", "when_clean"),
    [
        ("is_never_fooled", {"fooled"}, {"fooled"}),
        ("is_correct_proved", {"fooled", "null"}, {"fooled", "null"}),
        ("is_rar_proved", {"fooled"}, {"fooled", "null"}),
    ],
)
def test_what_breaks_each_promise(
    column: str, when_attacked: set[str], when_clean: set[str]
) -> None:
    for outcome in ("correct", "null", "fooled"):
        adv_images = told([row(outcome)], [proof(column)])
        assert len(adv_images) == (outcome in when_attacked), outcome
        clean = told([row(outcome, "clean", 0.0)], [proof(column)])
        assert len(clean) == (outcome in when_clean), outcome


def test_it_is_held_within_the_ball_of_that_image_and_norm_alone() -> None:
    fooled = [row("fooled", eps=0.2, image=3)]
    assert told(fooled, [proof("is_never_fooled", 0.3, 3)]) == [(3, "never fooled")]
    assert told(fooled, [proof("is_never_fooled", 0.1 + 0.1, 3)]), "the same eps, rounded"
    assert not told(fooled, [proof("is_never_fooled", 0.19, 3)])
    assert not told(fooled, [proof("is_never_fooled", 0.3, 4)])
    assert not told(fooled, [proof("is_never_fooled", 0.3, 3, norm="l2")])


def test_a_row_that_breaks_two_promises_is_one_row() -> None:
    both = [proof("is_never_fooled"), proof("is_rar_proved", 0.2)]
    held = hold(pd.DataFrame([row("fooled"), row("null", "clean", 0.0)]), pd.DataFrame(both))
    assert held.num_rows == 2
    assert held.num_images == {
        "never fooled": 1,
        "always right": 0,
        "right when clean and never fooled": 1,
    }
    assert held.broken["what"].tolist() == ["never fooled", "right when clean and never fooled"]
    assert held.broken["proved"].tolist() == [0.1, 0.2]


EPS = st.sampled_from((0.0, 0.1, 0.2, 0.3))
IMAGES = st.integers(0, 2)


@given(
    st.lists(st.tuples(IMAGES, EPS, st.sampled_from(("correct", "null", "fooled"))), min_size=1),
    st.lists(st.tuples(IMAGES, EPS, st.sampled_from(COLUMNS)), min_size=1),
)
def test_as_one_would_look_it_up_row_by_row(
    seen: list[tuple[int, float, str]], proved: list[tuple[int, float, str]]
) -> None:
    rows = [row(outcome, "pgd" if eps else "clean", eps, image) for image, eps, outcome in seen]
    proofs = [proof(column, eps, image) for image, eps, column in proved]
    found = hold(pd.DataFrame(rows), pd.DataFrame(proofs))

    def breaks(eps: float, outcome: str, column: str) -> bool:
        is_null_bad = column == "is_correct_proved" or (column == "is_rar_proved" and eps == 0)
        return outcome == "fooled" or (outcome == "null" and is_null_bad)

    expected = {
        number
        for number, (image, eps, outcome) in enumerate(seen)
        if any(i == image and eps <= e and breaks(eps, outcome, c) for i, e, c in proved)
    }
    assert set(found.broken.index) == expected
    held = [any(i == image and eps <= e for i, e, _ in proved) for image, eps, _ in seen]
    assert found.num_rows == sum(held)


def test_holding_proofs_does_not_wait_for_torch() -> None:
    code = "import sys, nullclass.metrics.claims; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

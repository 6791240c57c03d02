"""Proofs against outcomes: each claim, violated and not, counted by hand."""

from __future__ import annotations

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from nullclass.metrics.claims import CLAIMS, find_violations
from nullclass.results.schema import LEFT_OUT

COLUMNS = [claim.column for claim in CLAIMS]


def row(
    outcome: str, attack: str = "pgd", eps: float = 0.1, image: int = 0, member: str = "pgd"
) -> dict[str, object]:
    keys = {"image": image, "attack": attack, "norm": "linf", "eps_pixels": eps}
    return keys | {"member": member, "outcome": outcome}


def proof(column: str, eps: float = 0.1, image: int = 0, norm: str = "linf") -> dict[str, object]:
    return {"image": image, "norm": norm, "eps_pixels": eps} | {
        name: name == column for name in COLUMNS
    }


def violations(
    rows: list[dict[str, object]], proofs: list[dict[str, object]]
) -> list[tuple[int, str]]:
    found = find_violations(pd.DataFrame(rows), pd.DataFrame(proofs)).violations
    return list(zip(found["image"], found["claim"], strict=True))


def test_a_claim_is_about_the_ball_of_that_image_and_norm_alone() -> None:
    fooled = [row("fooled", eps=0.2, image=3)]
    assert violations(fooled, [proof("is_never_fooled", 0.3, 3)]) == [(3, "never fooled")]
    assert violations(fooled, [proof("is_never_fooled", 0.1 + 0.1, 3)]), "the same eps, rounded"
    assert not violations(fooled, [proof("is_never_fooled", 0.19, 3)])
    assert not violations(fooled, [proof("is_never_fooled", 0.3, 4)])
    assert not violations(fooled, [proof("is_never_fooled", 0.3, 3, norm="l2")])


def test_a_row_of_an_image_that_was_not_attacked_checks_nothing() -> None:
    rows = [row("null", member=LEFT_OUT), row("correct", image=1)]
    proofs = [proof("is_correct_proved"), proof("is_correct_proved", image=1)]
    checked = find_violations(pd.DataFrame(rows), pd.DataFrame(proofs))
    assert (checked.num_rows, len(checked.violations)) == (1, 0)


def test_a_row_that_violates_two_claims_is_one_row() -> None:
    both = [proof("is_never_fooled"), proof("is_rar_proved", 0.2)]
    checked = find_violations(
        pd.DataFrame([row("fooled"), row("null", "clean", 0.0)]), pd.DataFrame(both)
    )
    assert checked.num_rows == 2
    assert checked.num_images == {
        "never fooled": 1,
        "always correct": 0,
        "correct when clean and never fooled": 1,
    }
    assert checked.violations["claim"].tolist() == [
        "never fooled",
        "correct when clean and never fooled",
    ]
    assert checked.violations["proved"].tolist() == [0.1, 0.2]


EPS = st.sampled_from((0.0, 0.1, 0.2, 0.3))
IMAGES = st.integers(0, 2)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(IMAGES, EPS, st.sampled_from(("correct", "null", "fooled"))), min_size=1),
    st.lists(st.tuples(IMAGES, EPS, st.sampled_from(COLUMNS)), min_size=1),
)
def test_violations_against_a_loop_over_rows(
    outcomes: list[tuple[int, float, str]], proved: list[tuple[int, float, str]]
) -> None:
    rows = [row(outcome, "pgd" if eps else "clean", eps, image) for image, eps, outcome in outcomes]
    proofs = [proof(column, eps, image) for image, eps, column in proved]
    found = find_violations(pd.DataFrame(rows), pd.DataFrame(proofs))

    def is_violated(eps: float, outcome: str, column: str) -> bool:
        is_null_bad = column == "is_correct_proved" or (column == "is_rar_proved" and eps == 0)
        return outcome == "fooled" or (outcome == "null" and is_null_bad)

    expected = {
        number
        for number, (image, eps, outcome) in enumerate(outcomes)
        if any(i == image and eps <= e and is_violated(eps, outcome, c) for i, e, c in proved)
    }
    assert set(found.violations.index) == expected
    covered = [any(i == image and eps <= e for i, e, _ in proved) for image, eps, _ in outcomes]
    assert found.num_rows == sum(covered)

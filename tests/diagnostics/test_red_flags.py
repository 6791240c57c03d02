"""Every check on rows made by hand: it raises its flag, and does not just below the threshold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import PLANTED, SOUND, Models, train_models
from worlds import Digits

from nullclass.diagnostics.evidence import Evidence
from nullclass.diagnostics.red_flags import CHECKS, Flag, find_flags
from nullclass.results.schema import (
    CLEAN,
    COST_COLUMNS,
    LEFT_OUT,
    NO_MEMBER,
    ROW_COLUMNS,
    SMALLEST,
    UNION,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "red-flags.md"
LETTERS = {"c": "correct", "n": "null", "f": "fooled"}
NUM = 200


@dataclass
class Run:
    """An attack's outcomes by eps, one letter per image, and its costs."""

    outcomes: dict[float, str]
    objective: str = "fool"
    source: str = "self"
    access: str = "white-box"
    is_iterative: bool = True
    num_backwards: int = 1000
    num_forwards: int = 1000
    members: list[tuple[str, str, int]] = field(default_factory=list)
    """Name, access and successes of the members of an ensemble."""
    losses: float | None = None
    """Loss of all rows; by default it depends on eps."""


def some(letter: str, num: int, rest: str = "c", total: int = NUM) -> str:
    return letter * num + rest * (total - num)


def at(num: int, eps: float = 0.1, rest: str = "c", **settings: Any) -> Run:
    """An attack that fools so many images at one eps."""
    return Run({eps: some("f", num, rest)}, **settings)


def search(*nums: int, eps: tuple[float, ...] = (0.1, 0.2), rest: str = "c") -> Run:
    """A sound search that fools so many images at every eps."""
    return Run({e: some("f", n, rest) for e, n in zip(eps, nums, strict=True)})


def forcing_null(*outcomes: str) -> Run:
    """An attack that forces null; the images that are not named stay correct."""
    letters = {e: of.ljust(NUM, "c") for e, of in zip((0.1, 0.2), outcomes, strict=True)}
    return Run(letters, objective="force-null")


def rows_of(name: str, eps: float, run: Run, letters: str, loss: float) -> pd.DataFrame:
    labels = np.arange(len(letters)) % 10
    codes = np.array([{"c": 0, "f": 1, "n": -1}[letter] for letter in letters])
    predicted = np.where(codes < 0, -1, (labels + codes) % 10)
    columns = {"image": range(len(letters)), "label": labels, "prediction": predicted}
    return pd.DataFrame(columns).assign(
        attack=name,
        objective=run.objective,
        source=run.source,
        norm="linf",
        has_own_eps=False,
        eps_pixels=eps,
        attacked_eps_pixels=np.nan if name == CLEAN else eps,
        member=NO_MEMBER,
        outcome=[LETTERS[letter] for letter in letters],
        confidence=0.9,
        loss=loss,
        null_loss=1.0,
    )


def evidence(
    *,
    clean: str = "c" * NUM,
    probes: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
    certified: pd.DataFrame | None = None,
    **attacks: Run,
) -> Evidence:
    rows = [rows_of(CLEAN, 0.0, Run({}, objective=CLEAN, source=CLEAN), clean, 0.1)]
    costs = []
    for name, run in attacks.items():
        for eps, letters in run.outcomes.items():
            loss = 0.1 + eps if run.losses is None else run.losses
            rows.append(rows_of(name, eps, run, letters, loss))
            for member, access, num_successes in run.members or [(name, run.access, 0)]:
                costs.append(
                    {
                        "attack": name,
                        "objective": run.objective,
                        "source": run.source,
                        "norm": "linf",
                        "eps_pixels": eps,
                        "member": member,
                        "access": access,
                        "is_iterative": run.is_iterative,
                        "num_images": len(letters),
                        "num_successes": num_successes,
                        "num_forwards": run.num_forwards,
                        "num_backwards": run.num_backwards if access == "white-box" else 0,
                        "seconds": 0.1,
                    }
                )
    defaults = {"num_classes": 10, "norm": "linf", "data": None, "threshold": None}
    return Evidence(
        pd.concat(rows, ignore_index=True),
        pd.DataFrame(costs, columns=list(COST_COLUMNS)),
        {"has_null": True} | (probes or {}),
        defaults | {"selected_on": None} | (info or {}),
        pd.DataFrame() if certified is None else certified,
    )


def proofs(num_never: int, num_always: int = 0, eps: float = 0.1, norm: str = "linf") -> Any:
    """The last images are proved never fooled, and the last of them always correct."""
    image = np.arange(NUM)
    return pd.DataFrame(
        {
            "image": image,
            "norm": norm,
            "eps_pixels": eps,
            "is_never_fooled": image >= NUM - num_never,
            "is_correct_proved": image >= NUM - num_always,
            "is_rar_proved": False,
        }
    )


HEALTHY = search(50, 120)
REPEATED = {"eps": 0.2, "num_judged": 200, "num_survivors": 80, "num_images": 9, "num_fooled": 2}
PROBES: dict[str, dict[str, Any] | None] = {
    "forward": {
        "num_images": 64,
        "num_predictions": 0,
        "largest_difference": 1e-6,
    },
    "gradients": {
        "num_images": 64,
        "has_gradients": True,
        "num_zero_cross_entropy": 0,
        "num_zero_margin": 0,
        "num_zero_null_score": 0,
        "num_non_finite": 0,
        "largest_difference": 0.0,
    },
    "null_direction": {"eps": 0.01, "num_images": 64, "num_risen": 60, "num_fallen": 0},
    "noise": {"eps": 0.2, "num_images": 200, "num_null_uniform": 4, "num_null_signs": 26},
    "largest_eps": {"eps": 1.0, "num_images": 50, "num_accepted": 48, "num_fooled": 46},
    "gate": None,
    "estimated_gate": None,
    "rerun": {
        "attack": "pgd",
        "eps": 0.2,
        "follows_from": "smaller",
        "num_judged": 200,
        "num_images": 50,
        "num_fooled": 48,
    },
    "reference": REPEATED,
    "doubled_steps": {"attack": "pgd", **REPEATED},
    "doubled_restarts": {"attack": "pgd", **REPEATED},
}
"""Results of a sound model, just below the thresholds."""
THRESHOLD = {"value": 1.5, "origin": "held-out", "num_overlapping": 0}


def probed(name: str = "forward", certified: Any = None, **changes: Any) -> Evidence:
    """A sound evaluation in which a probe has changed results."""
    return evidence(pgd=HEALTHY, probes={name: PROBES[name] | changes}, certified=certified)


def with_gate() -> Evidence:
    """A model with a gate, through which 20 images were fooled, and 5 as it is given."""
    gate = {"attack": "pgd", "eps": 0.2, "num_images": 20, "num_fooled": 5}
    return evidence(pgd=HEALTHY, probes={"gradients": PROBES["gradients"], "gate": gate})


def with_info(**info: Any) -> Evidence:
    return evidence(pgd=HEALTHY, info=info)


def known(num_fooled: int) -> Evidence:
    run = Run({0.6: some("f", num_fooled, total=1000)})
    return evidence(clean="c" * 1000, pgd=run, info={"data": "mnist"})


def not_attacked(found: Evidence, name: str, images: range, eps: float | None = None) -> Evidence:
    """An attack did not attack some images: they are proved, or it attacked them at eps."""
    rows = found.rows.copy()
    chosen = (rows["attack"] == name) & rows["image"].isin(images)
    rows.loc[chosen, "attacked_eps_pixels"] = np.nan if eps is None else eps
    rows.loc[chosen, "member"] = LEFT_OUT if eps is None else NO_MEMBER
    return replace(found, rows=rows)


def looking(found: Evidence) -> Evidence:
    """Every member makes backward passes."""
    return replace(found, costs=found.costs.assign(num_backwards=9))


def searched(found: Evidence, images: range, eps: float) -> Evidence:
    """The search for the smallest eps fools some images at eps."""
    rows = found.rows[(found.rows["attack"] == "pgd") & found.rows["image"].isin(images)]
    own = rows.assign(attack=SMALLEST, has_own_eps=True, eps_pixels=eps, outcome="fooled")
    return replace(found, rows=pd.concat([found.rows, own], ignore_index=True))


FIRST_20, BY_STEP, ALL_NULL = (
    evidence(pgd=Run({0.2: "c" * 20 + "f" * 180}, losses=0.1)),
    evidence(pgd=HEALTHY, fgsm=at(123, 0.2, objective="untargeted", is_iterative=False)),
    evidence(pgd=at(180, 0.2, rest="n")),
)

# Name of the check, evidence that must raise it, evidence just below it.
CASES: list[tuple[str, Evidence, Evidence]] = [
    ("no-threat-model", evidence(), evidence(pgd=HEALTHY)),
    ("no-threat-model", evidence(pgd=at(5, access="unknown")), probed()),
    (
        "eps-units",
        evidence(pgd=search(0, 1, eps=(0.001, 0.003))),
        evidence(pgd=search(0, 1, eps=(0.001, 0.004))),
    ),
    ("eps-units", evidence(pgd=at(0, 0.001)), evidence(pgd=at(0, 0.0))),
    (
        "clean-near-chance",  # chance is 10 %: 19 % are needed
        evidence(clean=some("c", 38, "f"), pgd=HEALTHY),
        evidence(clean=some("c", 39, "f"), pgd=HEALTHY),
    ),
    (
        "clean-near-chance",  # among the images that are answered
        evidence(clean="c" + "f" * 9 + "n" * 190, pgd=HEALTHY),
        evidence(clean="c" + "f" * 8 + "n" * 191, pgd=HEALTHY),  # too few answers
    ),
    (
        "no-null-aware-attack",
        evidence(pgd=Run({0.1: some("n", 100)}, objective="untargeted")),
        # Without null, untargeted success is being fooled.
        evidence(pgd=at(100, objective="untargeted"), probes={"has_null": False}),
    ),
    (
        "no-null-aware-attack",
        evidence(pgd=HEALTHY, info={"chosen_targets": ["pgd"]}),
        evidence(pgd=HEALTHY, to_three=HEALTHY, info={"chosen_targets": ["to_three"]}),
    ),
    (
        "transfer-as-white-box",
        evidence(pgd=at(5, num_backwards=0)),
        evidence(pgd=at(5, num_backwards=0, access="scores")),
    ),
    (
        "transfer-as-white-box",
        evidence(square=at(5, num_forwards=0, access="scores")),
        evidence(dataset=at(5, num_forwards=0, num_backwards=0, access="none")),
    ),
    (
        "transfer-as-white-box",
        evidence(rays=at(5, num_forwards=0, access="labels")),
        evidence(rays=at(5, num_backwards=0, access="labels")),
    ),
    (
        "transfer-as-white-box",  # a member that had no image left made no pass
        evidence(both=at(5, members=[("a", "white-box", 5)], num_backwards=0)),
        evidence(both=at(5, members=[("a", "white-box", NUM)], num_backwards=0)),
    ),
    (
        "transfer-as-white-box",
        evidence(both=at(5, members=[("a", "scores", 2), ("b", "white-box", 3)], num_backwards=0)),
        evidence(both=at(5, members=[("a", "scores", 2)], num_backwards=0)),
    ),
    (
        "attack-moves-nothing",
        evidence(pgd=Run({0.1: some("f", 100), 0.2: some("f", 120)}, losses=0.1)),
        evidence(pgd=Run({0.1: some("f", 100), 0.2: some("f", 120)}, losses=0.11)),
    ),
    (
        "attack-moves-nothing",  # images fooled when clean are left alone by every attack
        evidence(clean=some("f", 50), pgd=Run({0.2: "f" * 180 + "c" * 20}, losses=0.1)),
        evidence(clean=some("f", 50), pgd=Run({0.2: "f" * NUM}, losses=0.1)),
    ),
    (
        "attack-moves-nothing",  # images that it made null were moved, though not fooled
        evidence(pgd=Run({0.2: "c" * 40 + "n" * 160}, losses=0.1)),
        evidence(pgd=Run({0.2: "c" * 40 + "n" * 160}, losses=[0.1] * 40 + [2.0] * 160)),
    ),
    ("attack-moves-nothing", FIRST_20, not_attacked(FIRST_20, "pgd", range(1))),
    ("single-step-beats-iterative", BY_STEP, not_attacked(BY_STEP, "pgd", range(122, 123))),
    ("failures-all-null", ALL_NULL, not_attacked(ALL_NULL, "pgd", range(199, 200))),
    ("failures-all-null", ALL_NULL, not_attacked(ALL_NULL, "pgd", range(199, 200), eps=0.3)),
    (
        "single-step-beats-iterative",
        evidence(pgd=HEALTHY, fgsm=at(123, 0.2, objective="untargeted", is_iterative=False)),
        evidence(pgd=HEALTHY, fgsm=at(122, 0.2, objective="untargeted", is_iterative=False)),
    ),
    (
        "black-box-beats-white-box",
        evidence(pgd=HEALTHY, square=at(123, 0.2, access="scores")),
        evidence(pgd=HEALTHY, square=at(122, 0.2, access="scores")),
    ),
    (
        "black-box-beats-white-box",  # a success at a smaller eps counts
        evidence(pgd=HEALTHY, other=at(60, source="source")),
        evidence(pgd=search(60, 120), other=at(100, 0.2, source="source")),
    ),
    (
        "black-box-beats-white-box",
        evidence(both=at(60, 0.2, members=[("pgd", "white-box", 57), ("square", "scores", 3)])),
        evidence(both=at(60, 0.2, members=[("dataset", "scores", 57), ("pgd", "white-box", 3)])),
    ),
    (
        "black-box-beats-white-box",  # a member by scores that looks for gradients of zero
        looking(evidence(both=at(60, members=[("pgd", "white-box", 57), ("zero", "scores", 3)]))),
        looking(evidence(both=at(60, members=[("pgd", "white-box", 58), ("zero", "scores", 2)]))),
    ),
    (
        "better-than-known",  # the search for the smallest eps counts too
        known(20),
        searched(known(20), range(30, 50), 0.6),
    ),
    (
        "failures-all-null",  # as it does here: 19 say little
        ALL_NULL,
        searched(ALL_NULL, range(199, 200), 0.15),
    ),
    ("doubling-finds-more", probed("doubled_steps", num_fooled=3), probed("doubled_steps")),
    (
        "doubling-finds-more",  # 6 of 1,000 are more than half a point
        probed("doubled_restarts", num_fooled=6, num_judged=1000),
        probed("doubled_restarts", num_fooled=5, num_judged=1000),
    ),
    ("reference-finds-more", probed("reference", num_fooled=3), probed("reference")),
    ("aer-falls", evidence(pgd=search(50, 47)), evidence(pgd=search(50, 48))),
    (  # what it fools on the way is no success
        "aer-falls",
        evidence(pgd=HEALTHY, deny=forcing_null("n" * 50, "n" * 47)),
        evidence(pgd=HEALTHY, deny=forcing_null("n" * 50 + "f" * 77, "n" * 127)),
    ),
    ("aer-falls", probed("rerun", num_fooled=47), probed("rerun")),
    (
        "aer-falls",
        probed("rerun", follows_from="larger", num_fooled=3),
        probed("rerun", follows_from="larger", num_fooled=2),
    ),
    ("largest-budget-survived", probed("largest_eps", num_fooled=45), probed("largest_eps")),
    (
        "largest-budget-survived",  # not if all images but two are fooled or proved safe
        probed("largest_eps", proofs(NUM - 123, eps=0.2), num_fooled=45),
        probed("largest_eps", proofs(NUM - 122, eps=0.2), num_fooled=45),
    ),
    (
        "strict-above-chance",  # 20 of 200 are of one class
        evidence(pgd=at(NUM - 23, 0.5)),
        evidence(pgd=at(NUM - 22, 0.5)),
    ),
    ("strict-above-chance", evidence(pgd=at(10, 0.5)), evidence(pgd=at(10, 0.49))),
    ("better-than-known", known(20), known(40)),  # no model is known to reach 98 % at 0.3
    (
        "no-gradients",
        probed("gradients", has_gradients=False, num_zero_margin=64),
        probed("gradients", num_zero_margin=64),
    ),
    (
        "zero-gradients",
        probed("gradients", num_zero_cross_entropy=4),
        probed("gradients", num_zero_cross_entropy=3),
    ),
    ("zero-gradients", probed("gradients", num_zero_margin=64), probed("gradients")),
    (
        "hidden-null-score",
        probed("gradients", num_zero_null_score=4),
        probed("gradients", num_zero_null_score=3),
    ),
    (
        "hidden-null-score",  # a gate is one whatever the gradient is
        with_gate(),
        probed("gradients"),
    ),
    (
        "misleading-null-gradient",
        probed("null_direction", num_risen=44, num_fallen=16),
        probed("null_direction", num_risen=45, num_fallen=15),
    ),
    ("non-finite-gradients", probed("gradients", num_non_finite=1), probed("gradients")),
    (
        "random-gradients",
        probed("gradients", largest_difference=0.02),
        probed("gradients", largest_difference=1e-4),
    ),
    ("random-forward", probed("forward", largest_difference=1e-3), probed("forward")),
    (
        "failures-all-null",
        evidence(pgd=search(50, 120, rest="n")),
        evidence(pgd=Run({0.2: "f" * 100 + "n" * 98 + "cc"})),
    ),
    (
        "failures-all-null",  # 19 say little
        evidence(pgd=at(180, 0.2, rest="n")),
        evidence(pgd=at(181, 0.2, rest="n")),
    ),
    (
        "failures-all-null",  # of the strongest attack
        evidence(weak=at(10, 0.2), strong=at(99, 0.2, rest="n")),
        evidence(weak=at(10, 0.2, rest="n"), strong=at(99, 0.2)),
    ),
    (
        "proof-broken",  # the first 50 are fooled at 0.1: one proof too many
        evidence(pgd=HEALTHY, certified=proofs(NUM - 49)),
        evidence(pgd=HEALTHY, certified=proofs(NUM - 50)),
    ),
    (
        "proof-broken",  # at 0.2 120 are fooled, but proved only at a smaller eps
        evidence(pgd=HEALTHY, certified=proofs(NUM - 119, eps=0.2)),
        evidence(pgd=HEALTHY, certified=proofs(NUM - 119, eps=0.1)),
    ),
    (
        "proof-broken",  # without an attack; proved in another norm
        evidence(clean=some("f", 1), pgd=HEALTHY, certified=proofs(NUM, eps=0.0)),
        evidence(clean=some("f", 1), pgd=HEALTHY, certified=proofs(NUM, eps=0.0, norm="l2")),
    ),
    (
        "proof-broken",  # null breaks only a proof of always correct
        evidence(null=search(0, 0, rest="n"), certified=proofs(NUM, 1)),
        evidence(null=search(0, 0, rest="n"), certified=proofs(NUM, 0)),
    ),
    ("null-on-noise", probed("noise", num_null_signs=30), probed("noise")),  # 15 and 13 %
    (
        "null-on-clean",
        evidence(clean=some("n", 18), pgd=HEALTHY),  # 9 %, at least 5.8
        evidence(clean=some("n", 14), pgd=HEALTHY),  # 7 %, at least 4.2
    ),
    (
        "threshold-on-test",
        with_info(threshold=THRESHOLD | {"num_overlapping": 3}),
        with_info(threshold=THRESHOLD | {"num_overlapping": 2}),
    ),
    (
        "threshold-unknown",
        with_info(threshold=THRESHOLD | {"origin": "unknown"}),
        with_info(threshold=THRESHOLD),
    ),
    ("weights-on-test", with_info(selected_on="test"), with_info(selected_on="held-out")),
]


@pytest.mark.parametrize(
    ("name", "bad", "good"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)]
)
def test_a_check_raises_its_flag_in_one_sentence(name: str, bad: Evidence, good: Evidence) -> None:
    message = CHECKS[name](bad)
    assert message, "no flag where there should be one"
    assert message.endswith(".")
    assert ". " not in message
    assert "nan" not in message
    assert CHECKS[name](good) is None
    assert Flag(name=name, message=message) in find_flags(bad)


def test_finite_differences_of_a_hidden_score_are_told() -> None:
    probes = {"gradients": PROBES["gradients"] | {"num_zero_null_score": 64}}  # type: ignore[operator]
    for num_fooled, is_told in ((0, False), (7, True)):
        probes["estimated_gate"] = REPEATED | {"num_fooled": num_fooled}
        message = CHECKS["hidden-null-score"](evidence(pgd=HEALTHY, probes=probes))
        assert message is not None
        assert (
            "with finite differences of it a reference at eps 0.2 fooled 7 of 9" in message
        ) == is_told


def test_every_check_has_a_case_and_a_paragraph() -> None:
    assert {case[0] for case in CASES} == set(CHECKS)
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(CHECKS)
    for part in text.split("\n## ")[1:]:
        name, _, body = part.partition("\n\n")
        assert "\n\n" not in body.strip(), f"{name} has more than one paragraph"
        assert len(body.split()) > 25
        assert Flag(name=name, message="").page == f"docs/red-flags.md#{name}"


def test_a_sound_table_raises_nothing() -> None:
    info = {"threshold": THRESHOLD, "selected_on": "held-out", "data": "mnist"}
    probes = {"has_null": True} | PROBES
    assert find_flags(evidence(pgd=HEALTHY, probes=probes, info=info)) == []


SLOW = ("kernel density", "feature squeezing", "Mahalanobis distance")
NO_ROWS, NO_COSTS = (pd.DataFrame(columns=list(names)) for names in (ROW_COLUMNS, COST_COLUMNS))
HAS_NULL = {"has_null": True}
EMPTY = [
    Evidence(NO_ROWS, NO_COSTS, HAS_NULL, {}),
    evidence(),
    evidence(fgsm=at(5, objective="untargeted", is_iterative=False)),
    evidence(pgd=at(5, 0.0)),
    evidence(pgd=at(5)),
    evidence(null=Run({0.1: some("n", 5)}, "force-null")),
    evidence(clean="f" * NUM, pgd=Run({0.1: "f" * NUM})),
    evidence(clean="n" * NUM, pgd=Run({0.6: "n" * NUM}), info={"data": "mnist"}),
    evidence(clean="c", pgd=Run({0.1: "c"}), info={"data": "mnist"}),
    Evidence(evidence(pgd=HEALTHY).rows, NO_COSTS, HAS_NULL, {"norm": "linf"}),
    Evidence(NO_ROWS, NO_COSTS, HAS_NULL | dict.fromkeys(PROBES), {"norm": "l2"}),
    probed("doubled_steps", num_images=0, num_fooled=0),
    probed("rerun", num_judged=0, num_images=0, num_fooled=0),
]


@pytest.mark.parametrize("empty", EMPTY, ids=range(len(EMPTY)))
def test_no_check_crashes_where_something_is_missing(empty: Evidence) -> None:
    assert all(isinstance(flag, Flag) for flag in find_flags(empty))


def test_one_image_raises_no_flag() -> None:
    for letter in "cnf":
        one = evidence(clean="c", pgd=Run({0.1: "c", 0.6: letter}), info={"data": "mnist"})
        assert find_flags(one) == []


def test_which_attacks_and_images_are_judged() -> None:
    rows = evidence(pgd=HEALTHY).rows
    own = rows.assign(has_own_eps=rows["attack"] != CLEAN)
    assert Evidence(own, NO_COSTS, HAS_NULL, {"norm": "linf"}).attacks == []
    assert Evidence(rows, NO_COSTS, HAS_NULL, {"norm": "l2"}).attacks == []
    both = evidence(pgd=HEALTHY, few=Run({0.2: some("f", 3, total=20)}))
    assert both.judged(0.2) == set(range(20))
    assert both.judged(0.1) == set(range(NUM))  # the other attack was not made there
    assert len(both.fooled(0.2)) == 120
    smallest = searched(both, range(119, 130), 0.15)
    assert [len(smallest.fooled(eps)) for eps in (0.1, 0.2)] == [50, 130]


@pytest.fixture(scope="module")
def models(digits: Digits) -> Models:
    return train_models(digits)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_failure_raises_the_right_flag(name: str, models: Models) -> None:
    flag, make = PLANTED[name]
    assert flag in {raised.name for raised in make(models).flags}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SOUND],
)
def test_a_sound_evaluation_raises_no_flag(name: str, models: Models) -> None:
    evaluation = SOUND[name](models)
    assert evaluation.flags == []
    summary = evaluation.summary()  # some images are fooled, and some are not
    aer = summary.loc[(summary["attack"] == UNION) & (summary["metric"] == "aer"), "value"]
    assert aer.max() > 0.2
    assert aer.min() < 0.8


def test_images_of_one_class_show_nothing() -> None:
    of_one_class = evidence(pgd=HEALTHY)
    of_one_class.rows["label"] = 3
    message = CHECKS["clean-near-chance"](of_one_class)
    assert message is not None
    assert "have the same label" in message

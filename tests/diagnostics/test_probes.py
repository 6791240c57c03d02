"""Probes on models whose answers are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from planted import Noisy, Quantised, Saturated, Scaled, around
from torch import Tensor, nn
from worlds import Affine, Digits

import nullclass
from nullclass.attacks import (
    APGD,
    FGSM,
    PGD,
    Attack,
    AttackEnsemble,
    DatasetAttack,
    MultiTargetedPGD,
    Square,
)
from nullclass.attacks.conditional import OnZeroGradient
from nullclass.attacks.counters import count_passes
from nullclass.attacks.steps import NoGradientError
from nullclass.data import LabelledImages
from nullclass.diagnostics.attack_probes import (
    ATTACK_PROBES,
    NUM_REPEATED,
    REFERENCE,
    REFERENCE_COST,
    RESTARTS,
    STEPS,
    double,
)
from nullclass.diagnostics.evidence import BACKWARD, CHECKS_NAME, MIN_IMAGES, Evidence, cost_of
from nullclass.diagnostics.probe_context import BATCH_COST, ProbeContext
from nullclass.diagnostics.probes import MAX_SHARE, MIN_COST, PROBES, probe
from nullclass.models import Classifier
from nullclass.rejection import reject_by, see_through
from nullclass.rejection.gates import NUM_DIRECTIONS, EstimatedGate
from nullclass.results.schema import COST_COLUMNS, LEFT_OUT
from nullclass.scoring.parts import NOTHING
from nullclass.scoring.score import score_batch

NO_COSTS = pd.DataFrame(columns=list(COST_COLUMNS))
STEP = FGSM("untargeted")
WEAK = {"pgd": PGD(num_steps=3)}


def rows_of(
    model: Classifier,
    data: LabelledImages,
    attacks: dict[str, Attack],
    eps: tuple[float, ...],
    norm: str = "linf",
) -> pd.DataFrame:
    """Rows from a plain loop: no success is reused at a larger eps."""
    images, labels = data.batch(slice(0, len(data)))
    batches = [("clean", "clean", 0.0, images)]
    for name, attack in attacks.items():
        for budget in eps:
            adv_images = attack(model, images, labels, eps=budget, norm=norm)
            batches.append((name, attack.objective, budget, adv_images))
    tables = []
    for name, objective, budget, adv_images in batches:
        tables.append(
            score_batch(model, adv_images, labels)
            .assign(image=range(len(labels)), attack=name, objective=objective, norm=norm)
            .assign(source="clean" if name == "clean" else "self", eps_pixels=budget)
            .assign(attacked_eps_pixels=budget, has_own_eps=False, member=name)
        )
    return pd.concat(tables, ignore_index=True)


def context(
    model: Classifier,
    data: LabelledImages,
    rows: pd.DataFrame,
    attacks: dict[str, Attack],
    norm: str = "linf",
) -> ProbeContext:
    evidence = Evidence(rows, NO_COSTS, {"has_null": model.has_null}, {"norm": norm})
    shared = ProbeContext(model, data, evidence, attacks, seed=0, batch_size=None)
    shared.begin(NOTHING, 1e9, 1e9)
    return shared


def run(
    name: str,
    model: Classifier,
    data: LabelledImages,
    attacks: dict[str, Attack],
    eps: tuple[float, ...] = (0.1,),
    norm: str = "linf",
) -> Any:
    """The result of one probe."""
    rows = rows_of(model, data, attacks, eps, norm)
    return PROBES[name](context(model, data, rows, attacks, norm))


@pytest.fixture(scope="module")
def data(digits: Digits) -> LabelledImages:
    return LabelledImages(digits.images[:150], digits.labels[:150], 10)


@pytest.mark.parametrize("name", ["plain", "guarded"])
def test_probes_of_an_ordinary_model_are_repeatable_and_change_nothing(
    name: str, digits: Digits, data: LabelledImages
) -> None:
    model = getattr(digits, name)
    rows = rows_of(model, data, WEAK, (0.1,))
    before, state = data.images.clone(), torch.get_rng_state()
    counts: list[int] = []

    evidence = Evidence(rows, NO_COSTS, {"has_null": model.has_null}, {"norm": "linf"})
    results, costs = probe(model, data, evidence, WEAK, seed=3, on_images=counts.append)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert list(results) == ["has_null", *PROBES]
    assert costs["member"].tolist() == list(PROBES)
    assert (costs["seconds"] > 0).all()
    assert len(counts) == len(PROBES)
    assert sum(counts) == costs["num_images"].sum() > 200
    assert results["has_null"] == (name == "guarded")
    forward = {"num_images": 64, "num_predictions": 0}
    assert results["forward"] == forward | {"largest_difference": pytest.approx(0, abs=1e-6)}
    gradients = {"num_images": 64, "has_gradients": True}
    assert results["gradients"] == dict.fromkeys(results["gradients"], 0) | gradients
    assert (results["noise"] is None) == (name == "plain")
    assert probe(model, data, evidence, WEAK, seed=3)[0] == results
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data.images, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_masked_gradients(digits: Digits, data: LabelledImages) -> None:
    def result(wrapper: Any, name: str) -> dict[str, Any]:
        return run(name, around(wrapper, digits.guarded), data, {})

    scaled = result(Scaled, "gradients")
    assert scaled["num_zero_cross_entropy"] > 0.9 * scaled["num_images"]
    assert scaled["num_zero_margin"] == 0  # the margin does not saturate
    for mask in (Quantised, Saturated):
        gradients = result(mask, "gradients")
        assert gradients["num_zero_margin"] > 0.9 * gradients["num_images"]
    for name in ("forward", "gradients"):
        assert result(Noisy, name)["largest_difference"] > 0.01


class Detached(nn.Module):
    """A body that blocks gradients, like one that runs outside autograd."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.detach())


def test_a_model_without_gradients(digits: Digits, data: LabelledImages) -> None:
    model = Classifier(Detached(digits.guarded), 10)
    square: dict[str, Attack] = {"square": Square(num_queries=20)}
    assert not run("gradients", model, data, square)["has_gradients"]
    with pytest.raises(NoGradientError):  # an evaluation leaves this probe out
        run("reference", model, data, square)
    assert run("doubled_steps", model, data, square)["num_images"] > 0


class NotANumber(nn.Module):
    """Finite logits with a gradient that is not finite where a pixel is exactly 0."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) + 0 * images.sqrt().flatten(1).sum(dim=1, keepdim=True)


def test_gradients_that_are_not_finite(digits: Digits, data: LabelledImages) -> None:
    model = Classifier(NotANumber(digits.guarded), 10)
    gradients = run("gradients", model, data, {})
    assert gradients["num_non_finite"] == gradients["num_images"]


def first_pixel(images: Tensor, logits: Tensor) -> Tensor:
    return images.flatten(1)[:, 0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    ("detector", "surrogate", "expected"),
    [
        (first_pixel, None, (0, 12, 0)),
        (lambda images, logits: -first_pixel(images, logits), None, (0, 12, 0)),
        (lambda images, logits: first_pixel(images, logits).round(), first_pixel, (0, 0, 0)),
        (first_pixel, lambda images, logits: -first_pixel(images, logits), (0, 0, 12)),
        (first_pixel, lambda images, logits: 0 * logits[:, 0], (12, 0, 0)),
    ],
)
def test_the_direction_of_the_null_score(
    detector: Any, surrogate: Any, expected: tuple[int, int, int], norm: str
) -> None:
    """How often its gradient is zero, and how often the score rises and falls along it."""
    network = Classifier(Affine(torch.eye(2), torch.tensor([9.0, 0.0])), 2, has_null=False)
    model = reject_by(network, detector, 2.0, surrogate=surrogate)
    flat = LabelledImages(torch.full((12, 1, 1, 2), 0.75), torch.zeros(12).long(), 2)
    rows = rows_of(model, flat, WEAK, (0.1,), norm)
    shared = context(model, flat, rows, WEAK, norm)
    result, gradients = PROBES["null_direction"](shared), PROBES["gradients"](shared)
    assert result["eps"] == pytest.approx(0.01)
    found = gradients["num_zero_null_score"], result["num_risen"], result["num_fallen"]
    assert found == expected


def gated(is_torch: bool) -> Classifier:
    """Two pixels: class 1 needs the second to rise by 0.1, and null by twice that less the first.

    From (0.5, 0.5) it takes a step of 0.1375 along both; without the first pixel one ends in null.
    """
    weight, bias = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, -0.6])
    network = Classifier(Affine(weight, bias), 2, has_null=False)

    def forward(images: Tensor) -> Tensor:
        logits, pixels = network(images), images.flatten(1) - 0.5
        score = 2 * pixels[:, 1] - pixels[:, 0]
        is_null = score > 0.0625 if is_torch else torch.from_numpy(score.detach().numpy() > 0.0625)
        top = logits.amax(dim=1)
        return torch.cat([logits, torch.where(is_null, top + 1, top - 1)[:, None]], dim=1)

    return see_through(Classifier(forward, 2), torch.rand(16, 1, 1, 2))


def test_what_a_gate_hides() -> None:
    data = LabelledImages(torch.full((12, 1, 1, 2), 0.5), torch.zeros(12).long(), 2)
    model = gated(is_torch=True)
    rows = rows_of(model, data, {"pgd": PGD(num_steps=20)}, (0.2,))
    through = PROBES["gate"](context(model, data, rows, {"pgd": PGD(num_steps=20)}))
    assert (through["num_images"], through["num_fooled"]) == (12, 0)
    model = gated(is_torch=False)
    still: dict[str, Attack] = {"still": Still()}
    shared = context(model, data, rows_of(model, data, still, (0.3,)), still)
    assert PROBES["gate"](shared) is None
    assert PROBES["estimated_gate"](shared) is None, "nothing is known of gradients"
    shared.results["gradients"] = PROBES["gradients"](shared)
    estimated = PROBES["estimated_gate"](shared)
    assert estimated["num_survivors"] == 12
    assert estimated["num_fooled"] >= 6
    assert PROBES["reference"](shared)["num_fooled"] == 0
    assert shared.passes.forward > NUM_DIRECTIONS / 2 * shared.passes.backward  # differences count


def test_noise_counts_nulls() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    model = Classifier(Affine(weight, torch.tensor([0.0, -9.0, 0.9])), 2)  # null iff x1 < 0.45
    images = torch.full((90, 1, 1, 2), 0.5)
    flat = LabelledImages(images, torch.zeros(90, dtype=torch.int64), 2)
    noise = run("noise", model, flat, WEAK, (0.1, 0.6))
    assert noise["eps"] == 0.1  # at 0.6 noise may hide the image
    assert noise["num_images"] == 90
    assert 30 <= noise["num_null_signs"] <= 60  # one half: the sign of x1's noise
    assert 9 <= noise["num_null_uniform"] <= 36  # one quarter
    assert run("noise", model, flat, WEAK, (0.04,))["num_null_signs"] == 0


@dataclass(frozen=True)
class Still:
    """Changes nothing."""

    objective: ClassVar[Any] = "fool"
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Any] = "white-box"

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **_: object) -> Tensor:
        return images.clone()


@dataclass(frozen=True)
class OutOfBudget(Still):
    """Returns images of other classes at any budget."""

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **_: object) -> Tensor:
        return images.roll(1, dims=0)


def test_the_largest_eps_counts_the_union(digits: Digits, data: LabelledImages) -> None:
    still: dict[str, Attack] = {"still": Still()}
    result = run("largest_eps", digits.guarded, data, still)
    assert (result["eps"], result["num_images"]) == (1.0, 4), "it fails on the first few"
    assert result["num_fooled"] <= 1  # fooled when clean
    both = run("largest_eps", digits.guarded, data, still | {"dataset": DatasetAttack()})
    assert both["num_images"] == 50
    assert both["num_fooled"] >= both["num_accepted"] >= 48
    assert run("largest_eps", digits.guarded, data, still, (1.0,), "l2")["eps"] == 8.0


def test_images_out_of_budget_do_not_count(digits: Digits, data: LabelledImages) -> None:
    rows = rows_of(digits.plain, data, {"still": Still()}, (0.05, 0.1))
    attacks: dict[str, Attack] = {"still": OutOfBudget()}
    honest = context(digits.plain, data, rows, attacks)
    assert PROBES["doubled_steps"](honest) is None
    assert PROBES["rerun"](honest)["num_images"] == 0
    moved = rows.assign(outcome="fooled").where(rows["attack"] != "clean", rows)
    moved["attacked_eps_pixels"] = 0.05
    rerun = PROBES["rerun"](context(digits.plain, data, moved, attacks))
    assert rerun["num_images"] == NUM_REPEATED
    assert rerun["num_fooled"] <= 3  # fooled when clean


def test_the_reference_finds_what_a_weak_attack_misses(
    digits: Digits, data: LabelledImages
) -> None:
    weak = run("reference", digits.guarded, data, {"still": Still()}, (0.15,))
    assert weak["num_judged"] == len(data)
    assert weak["num_images"] == weak["num_survivors"] > 140
    assert weak["num_fooled"] > 100
    sound: dict[str, Attack] = {"pgd": AttackEnsemble((PGD(), MultiTargetedPGD()))}
    result = run("reference", digits.guarded, data, sound, (0.15,))
    assert result["num_fooled"] == 0 < result["num_images"]
    assert abs(weak["num_survivors"] - weak["num_fooled"] - result["num_survivors"]) <= 3


@pytest.mark.parametrize("effort", ["steps", "restarts"])
def test_doubling_finds_what_more_effort_finds(
    effort: str, digits: Digits, data: LabelledImages
) -> None:
    name = f"doubled_{effort}"
    doubled = run(name, digits.guarded, data, {"pgd": PGD(num_steps=1)}, (0.05, 0.15))
    assert (doubled["attack"], doubled["eps"]) == ("pgd", 0.15)
    assert doubled["num_fooled"] >= MIN_IMAGES
    steady = run(name, digits.plain, data, {"pgd": PGD(num_steps=40)}, (0.1,))
    assert steady["num_images"] == steady["num_survivors"] > 0
    assert steady["num_fooled"] == 0


def test_few_images_are_attacked_the_most_nearly_fooled_first(
    digits: Digits, data: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks: dict[str, Attack] = {"still": Still(), "pgd": PGD(num_steps=2)}
    rows = rows_of(digits.guarded, data, attacks, (0.15,))
    shared = context(digits.guarded, data, rows, attacks)
    survivors = shared.survivors(0.15)
    images, labels = data.batch(survivors)
    adv_images = attacks["pgd"](digits.guarded, images, labels, eps=0.15)
    with torch.no_grad():
        chances = digits.guarded(adv_images).softmax(dim=1)
    wrong = 1 - chances[:, 10] - chances.gather(1, labels[:, None]).squeeze(1)
    assert (wrong.diff() < 1e-6).all()
    assert wrong[0] > wrong[-1] + 0.1


def test_rounds_keep_to_a_budget(digits: Digits, data: LabelledImages) -> None:
    shared = context(digits.plain, data, rows_of(digits.plain, data, {}, ()), {})

    def sizes(num_images: int, cost: float, used: float = 1.0, left: float = 200) -> list[int]:
        """Images per round, if each image needs a share of its cost."""
        shared.begin(NOTHING, left, share=200)
        rounds = []
        for chosen in shared.rounds(range(num_images), cost):
            rounds.append(len(chosen))
            shared.passes.backward += round(used * cost * (len(chosen) + BATCH_COST) / BACKWARD)
        return rounds

    assert sizes(40, cost=10) == [15]
    assert sizes(40, cost=10, used=0.4) == [15, 7]  # of 200 they take 80 and 48
    assert sizes(4, cost=10) == [4]
    assert sizes(40, cost=0) == [40]
    assert sizes(40, cost=26) == [], "two images decide nothing"
    assert sizes(2, cost=26) == [2]
    assert sizes(40, cost=26, left=300) == [3], "more than its share"
    assert sizes(40, cost=40, left=300) == []


@pytest.mark.parametrize("num_images", [30, 150])
def test_all_probes_keep_to_a_budget(num_images: int, digits: Digits, data: LabelledImages) -> None:
    strong = AttackEnsemble((PGD(num_steps=20), MultiTargetedPGD(num_steps=20)))
    result = nullclass.evaluate(
        digits.guarded, data.first(num_images), attacks={"strong": strong}, eps=[0.05, 0.15]
    )
    is_check = result.costs["attack"] == CHECKS_NAME
    of_checks, of_attacks = (cost_of(result.costs[rows]).sum() for rows in (is_check, ~is_check))
    budget = max(MAX_SHARE * of_attacks, MIN_COST)
    assert 0.2 * budget < of_checks < budget
    assert result.probes["reference"]["num_images"] >= MIN_IMAGES


def test_the_strongest_attack_at_the_middle_eps(digits: Digits, data: LabelledImages) -> None:
    attacks: dict[str, Attack] = {"still": Still(), "pgd": PGD(num_steps=20), "one": STEP}
    rows = rows_of(digits.plain, data, attacks, (0.01, 0.1, 0.4))
    shared = context(digits.plain, data, rows, attacks)
    assert shared.middle_eps() == 0.1
    doubled = PROBES["doubled_steps"](shared)
    assert (doubled["attack"], doubled["eps"]) == ("pgd", 0.1)


def test_an_attack_is_repeated_where_its_answers_follow_from_another_eps(
    digits: Digits, data: LabelledImages
) -> None:
    attacks: dict[str, Attack] = {"still": Still(), "pgd": PGD(num_steps=20)}
    rows = rows_of(digits.plain, data, attacks, (0.01, 0.1, 0.4))
    is_last, is_fooled = rows["eps_pixels"] == 0.4, rows["outcome"] == "fooled"
    carried = rows.assign(attacked_eps_pixels=rows["eps_pixels"].mask(is_last & is_fooled, 0.1))
    rerun = PROBES["rerun"](context(digits.plain, data, carried, attacks))
    assert (rerun["attack"], rerun["eps"], rerun["follows_from"]) == ("pgd", 0.4, "smaller")
    assert rerun["num_fooled"] == rerun["num_images"] > 50
    # As if it had failed at 0.4 on all images and was not run at 0.1
    survived = rows.assign(attacked_eps_pixels=0.4, outcome="correct")
    rerun = PROBES["rerun"](context(digits.plain, data, survived, attacks))
    assert (rerun["eps"], rerun["follows_from"]) == (0.1, "larger")
    assert rerun["num_fooled"] >= MIN_IMAGES
    proved = survived.assign(member=LEFT_OUT)
    assert PROBES["rerun"](context(digits.plain, data, proved, attacks))["num_images"] == 0


def test_attacks_that_a_probe_does_not_apply_to(digits: Digits, data: LabelledImages) -> None:
    rows = rows_of(digits.plain, data, {"fgsm": STEP}, (0.1, 0.2))
    single_step = context(digits.plain, data, rows, {"fgsm": STEP})
    assert PROBES["largest_eps"](single_step) is not None
    assert PROBES["doubled_steps"](single_step) is None  # nothing to double
    assert (
        PROBES["rerun"](single_step) is None
    )  # no search, so its success need not hold at a larger eps
    force_null: dict[str, Attack] = {"force-null": PGD(objective="force-null", num_steps=3)}
    rows = rows_of(digits.guarded, data, force_null, (0.1,))
    denied = context(digits.guarded, data, rows, force_null)
    assert [PROBES[name](denied) for name in ("largest_eps", "doubled_steps", "rerun")] == [
        None
    ] * 3
    rows = rows_of(digits.guarded, data, WEAK, (0.1,))
    rows.loc[rows["attack"] == "pgd", "source"] = "source"  # a transfer
    assert PROBES["largest_eps"](context(digits.guarded, data, rows, WEAK)) is None
    clean = context(digits.guarded, data, rows[rows["attack"] == "clean"], {})
    assert PROBES["gradients"](clean)["num_images"] == 64
    assert all(PROBES[name](clean) is None for name in ("null_direction", "noise", *ATTACK_PROBES))


def test_double() -> None:
    attack = PGD(num_steps=7, num_restarts=2, relative_step=0.1)
    assert double(attack, STEPS) == PGD(num_steps=14, num_restarts=2, relative_step=0.1)
    assert double(attack, RESTARTS) == PGD(num_steps=7, num_restarts=4, relative_step=0.1)
    assert double(STEP, STEPS) is None
    assert double(Still(), STEPS) is None
    both = AttackEnsemble(
        (DatasetAttack(), PGD(num_steps=5), AttackEnsemble((OnZeroGradient(Square()),))),
        ("a", "b", "c"),
    )
    more = double(both, STEPS)
    assert more.names == both.names
    assert more.members[:2] == (DatasetAttack(), PGD(num_steps=10))
    assert more.members[2].members == (OnZeroGradient(Square(num_queries=10_000)),)
    assert double(AttackEnsemble((DatasetAttack(),)), STEPS) is None


def test_which_member_of_an_ensemble_is_repeated(digits: Digits, data: LabelledImages) -> None:
    attack = AttackEnsemble((DatasetAttack(), PGD(), APGD(), Square()), ("a", "b", "c", "d"))
    rows = rows_of(digits.plain, data, {"all": Still()}, (0.01,))

    def repeated(*num_successes: int) -> tuple[str, Attack, float]:
        """The member, if these are the successes of each; none is left for the last."""
        costs = pd.DataFrame(
            {
                "attack": "all",
                "source": "self",
                "member": attack.names,
                "access": [member.access for member in attack.members],
                "eps_pixels": 0.01,
                "is_iterative": True,
                "num_images": [20, 18, 12, 0],
                "num_successes": num_successes,
                "num_forwards": [0, 60, 40, 0],
                "num_backwards": [0, 30, 20, 0],
            }
        )
        evidence = Evidence(rows, costs, {"has_null": False}, {"norm": "linf"})
        shared = ProbeContext(digits.plain, data, evidence, {"all": attack}, 0, None)
        (run,) = shared.runs
        return shared.last_success(run)

    assert repeated(2, 6, 2, 0) == ("all (c)", APGD(), 8.0)  # 80 for ten failures
    assert repeated(2, 6, 0, 0)[:2] == ("all (b)", PGD())
    assert repeated(2, 6, 0, 0)[2] == 10.0
    assert repeated(2, 0, 0, 0)[0] == "all (b)"


def test_the_cost_of_the_reference(digits: Digits, data: LabelledImages) -> None:
    images, labels = data.first(20).batch(slice(0, 20))
    with count_passes(digits.plain) as passes:
        adv_images = REFERENCE(digits.plain, images, labels, eps=1e-6)
    assert torch.equal(digits.plain.predict(adv_images), digits.plain.predict(images))
    cost = passes.forward + BACKWARD * passes.backward
    assert 0.8 * 20 * REFERENCE_COST < cost <= 20 * REFERENCE_COST


def test_the_largest_eps_keeps_to_what_is_left(digits: Digits, data: LabelledImages) -> None:
    attacks: dict[str, Attack] = {"still": Still(), "square": Square("fool", num_queries=100)}
    rows = rows_of(digits.guarded, data, {"still": Still()}, (0.1,))
    found = []
    for left in (1e9, 2000, 0):
        shared = context(digits.guarded, data, rows, attacks)
        shared.attacks["still"] = attacks["square"]
        shared.begin(NOTHING, left, left)
        found.append(PROBES["largest_eps"](shared)["num_images"])
        assert shared.passes.forward < max(left, 4 * 100)
    assert found[0] == 50 > found[1] > found[2] == 4


def test_an_interruption_does_not_change_estimated_gradients(
    digits: Digits, data: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gated(is_torch=False)
    flat = LabelledImages(torch.full((12, 1, 1, 2), 0.5), torch.zeros(12).long(), 2)
    still: dict[str, Attack] = {"still": Still()}
    shared = context(model, flat, rows_of(model, flat, still, (0.3,)), still)
    shared.results["gradients"] = PROBES["gradients"](shared)
    monkeypatch.setattr(shared, "rounds", lambda images, cost: [images[:2], images[2:]])
    states = []

    def recorded(attack: Attack, chosen: Any, eps: float, model: EstimatedGate) -> int:
        states.append(model.generator.get_state())
        model.generator.seed()
        return 0

    monkeypatch.setattr(shared, "num_fooled", recorded)
    assert PROBES["estimated_gate"](shared)["num_images"] == 12
    assert torch.equal(*states)

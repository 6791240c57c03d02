"""What the model is asked, on models whose answers are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from planted import Noisy, Quantised, Saturated, Scaled, Softmaxed, around
from torch import Tensor, nn
from worlds import Affine, Digits

from nullclass.attacks import (
    FGSM,
    PGD,
    Attack,
    AttackEnsemble,
    DatasetAttack,
    MultiTargetedPGD,
    Square,
)
from nullclass.core.outcomes import OUTCOME_NAMES, outcomes
from nullclass.data import LabelledImages
from nullclass.diagnostics.probes import NUM_AGAIN, NUM_DOUBLED, PROBES, doubled, evenly, probe
from nullclass.diagnostics.red_flags import MIN_IMAGES
from nullclass.models import Classifier


def rows_of(
    model: Classifier,
    data: LabelledImages,
    attacks: dict[str, Attack],
    eps: tuple[float, ...],
    norm: str = "linf",
) -> pd.DataFrame:
    """Plain rows, nothing carried along."""
    images, labels = data.batch(slice(0, len(data)))
    made = [("none", "none", 0.0, images)]
    for name, attack in attacks.items():
        for budget in eps:
            tried = attack(model, images, labels, eps=budget, norm=norm)
            made.append((name, attack.objective, budget, tried))
    tables = []
    for name, objective, budget, tried in made:
        predicted = model.predict(tried)
        told = [OUTCOME_NAMES[code] for code in outcomes(predicted, labels).tolist()]
        tables.append(
            pd.DataFrame({"image": range(len(labels)), "label": labels.numpy(), "outcome": told})
            .assign(attack=name, objective=objective, norm=norm, budget="given")
            .assign(source_name="none" if name == "none" else "self", eps_pixels=budget)
            .assign(prediction=predicted.numpy())
        )
    return pd.concat(tables, ignore_index=True)


def ask(
    model: Classifier,
    data: LabelledImages,
    attacks: dict[str, Attack],
    eps: tuple[float, ...] = (0.1,),
    norm: str = "linf",
    seed: int = 0,
) -> dict[str, Any]:
    rows = rows_of(model, data, attacks, eps, norm)
    told = probe(model, data, rows, attacks, norm=norm, seed=seed)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    return told


@pytest.fixture(scope="module")
def data(digits: Digits) -> LabelledImages:
    return LabelledImages(digits.images[:150], digits.labels[:150], 10)


WEAK = {"pgd": PGD(num_steps=3)}


@pytest.mark.parametrize("name", ["plain", "guarded"])
def test_a_plain_model_is_in_order(name: str, digits: Digits, data: LabelledImages) -> None:
    told = ask(getattr(digits, name), data, WEAK)
    assert list(told) == ["has_null", *PROBES]
    assert told["has_null"] == (name == "guarded")
    assert told["repeated"]["largest_difference"] == 0
    assert told["repeated"]["num_predictions"] == 0
    assert not told["repeated"]["are_probabilities"]
    gradients = told["gradients"]
    assert gradients.pop("num_images") == 64
    assert set(gradients.values()) == {0}
    assert (told["noise"] is None) == (name == "plain")


def test_masks_are_seen(digits: Digits, data: LabelledImages) -> None:
    scaled = ask(around(Scaled, digits.guarded), data, WEAK)["gradients"]
    assert scaled["num_zero_cross_entropy"] > 0.9 * scaled["num_images"]
    assert scaled["num_zero_margin"] == 0  # which is why the margin is climbed
    for mask in (Quantised, Saturated):
        told = ask(around(mask, digits.guarded), data, WEAK)["gradients"]
        assert told["num_zero_margin"] > 0.9 * told["num_images"]
    assert ask(around(Softmaxed, digits.guarded), data, WEAK)["repeated"]["are_probabilities"]
    noisy = ask(around(Noisy, digits.guarded), data, WEAK)
    assert noisy["repeated"]["largest_difference"] > 0.01
    assert noisy["gradients"]["largest_difference"] > 0.01


class Blocked(nn.Module):
    """A body that lets no gradient through, as one that runs elsewhere."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.detach())


def test_a_model_without_gradients_can_be_asked(digits: Digits, data: LabelledImages) -> None:
    model = Classifier(Blocked(digits.guarded), 10)
    told = ask(model, data, {"square": Square(num_queries=20)})
    assert told["gradients"]["num_zero_margin"] == told["gradients"]["num_images"]
    assert told["reference"] is None
    assert told["doubling"]["steps"] is not None


class NotANumber(nn.Module):
    """Finite logits with a gradient that is not, where a pixel is exactly 0."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) + 0 * images.sqrt().flatten(1).sum(dim=1, keepdim=True)


def test_gradients_that_are_not_numbers(digits: Digits, data: LabelledImages) -> None:
    model = Classifier(NotANumber(digits.guarded), 10)
    told = ask(model, data, {"dataset": DatasetAttack()})
    assert told["gradients"]["num_non_finite"] == told["gradients"]["num_images"]


def test_noise_counts_nulls(data: LabelledImages) -> None:
    """Null as soon as two pixels differ by more than 0.25 from the image's mean of them."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    model = Classifier(Affine(weight, torch.tensor([0.0, -9.0, 0.9])), 2)  # null iff x1 < 0.45
    images = torch.full((90, 1, 1, 2), 0.5)
    flat = LabelledImages(images, torch.zeros(90, dtype=torch.int64), 2)
    told = ask(model, flat, {"pgd": PGD(num_steps=3)}, (0.1, 0.6))["noise"]
    assert told["eps"] == 0.1  # at 0.6 noise may blot the image out
    assert told["num_images"] == 90
    assert 30 <= told["num_null_signs"] <= 60  # one half: the sign of x1's noise
    assert 9 <= told["num_null_uniform"] <= 36  # one quarter
    assert ask(model, flat, {"pgd": PGD(num_steps=3)}, (0.04,))["noise"]["num_null_signs"] == 0


def test_reach_counts_the_union_and_what_is_accepted(digits: Digits, data: LabelledImages) -> None:
    still = {"still": Still()}
    told = ask(digits.guarded, data, still)["reach"]
    assert told["eps"] == 1.0
    assert told["num_images"] == 50
    assert told["num_fooled"] <= 3  # those that are fooled when clean
    both = ask(digits.guarded, data, still | {"dataset": DatasetAttack()})["reach"]
    assert both["num_fooled"] >= both["num_accepted"] >= 48
    assert ask(digits.guarded, data, still, (1.0,), "l2")["reach"]["eps"] == 8.0


@dataclass(frozen=True)
class Still:
    """Does nothing."""

    objective: ClassVar[Any] = "fool"
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Any] = "white-box"

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **_: object) -> Tensor:
        return images.clone()


@dataclass(frozen=True)
class OutOfBudget(Still):
    """Answers with images of other classes, whatever the budget."""

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **_: object) -> Tensor:
        return images.roll(1, dims=0)


def test_what_leaves_its_budget_counts_for_nothing(digits: Digits, data: LabelledImages) -> None:
    rows = rows_of(digits.plain, data, {"still": Still()}, (0.05, 0.1))
    told = probe(digits.plain, data, rows, {"still": OutOfBudget()}, norm="linf", seed=0)
    assert told["doubling"]["steps"] is None
    assert told["anew"]["num_images"] == 0
    moved = rows.assign(outcome=rows["outcome"].where(rows["eps_pixels"] != 0.05, "fooled"))
    told = probe(digits.plain, data, moved, {"still": OutOfBudget()}, norm="linf", seed=0)
    assert told["anew"]["num_images"] == NUM_AGAIN
    assert told["anew"]["num_fooled"] == 0


def test_the_reference_finds_what_a_lazy_attack_missed(
    digits: Digits, data: LabelledImages
) -> None:
    lazy = ask(digits.guarded, data, {"still": Still()}, (0.15,))["reference"]
    assert lazy["num_images"] == NUM_AGAIN
    assert lazy["num_more"] > 50
    assert lazy["num_null_by_stock"] > 50  # where stock PGD stops, satisfied
    sound = {"pgd": AttackEnsemble((PGD(), MultiTargetedPGD()))}
    told = ask(digits.guarded, data, sound, (0.15,))["reference"]
    assert told["num_more"] == 0
    assert abs(told["num_fooled"] - lazy["num_fooled"] - lazy["num_more"]) <= 2


def test_doubling_finds_what_more_steps_find(digits: Digits, data: LabelledImages) -> None:
    told = ask(digits.guarded, data, {"pgd": PGD(num_steps=1)}, (0.05, 0.15))["doubling"]
    assert told["attack"] == "pgd"
    assert told["eps"] == 0.15
    assert told["steps"]["num_successes"] >= MIN_IMAGES
    assert told["steps"]["num_images"] == min(told["num_standing"], NUM_DOUBLED[0])
    steady = ask(digits.plain, data, {"pgd": PGD(num_steps=40)}, (0.1,))["doubling"]
    num_asked = min(steady["num_standing"], NUM_DOUBLED[0])
    assert steady["steps"] == {"num_images": num_asked, "num_successes": 0}


@dataclass(frozen=True)
class FoolsOne(Still):
    """Fools the first image it is given, if it may take two steps."""

    num_steps: int = 1

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **how: Any) -> Tensor:
        tried = images.clone()
        if self.num_steps > 1:
            tried[:1] = PGD()(model, images[:1], labels[:1], **how)
        return tried


def test_doubling_looks_at_more_images_if_one_falls(digits: Digits, data: LabelledImages) -> None:
    told = ask(digits.plain, data, {"one": FoolsOne()}, (0.4,))["doubling"]
    assert told["steps"] == {"num_images": told["num_standing"], "num_successes": 2}
    assert told["restarts"] is None
    assert told["num_standing"] > NUM_DOUBLED[0]


def test_the_strongest_attack_is_asked_at_the_contested_eps(
    digits: Digits, data: LabelledImages
) -> None:
    attacks: dict[str, Attack] = {
        "still": Still(),
        "pgd": PGD(num_steps=20),
        "one": FGSM("untargeted"),
    }
    told = ask(digits.plain, data, attacks, (0.01, 0.1, 0.4))
    assert told["doubling"]["eps"] == told["reference"]["eps"] == 0.1
    assert told["doubling"]["attack"] == told["anew"]["attack"] == "pgd"
    assert told["anew"]["eps"] == 0.4
    assert told["anew"]["num_fooled"] == told["anew"]["num_images"] > 50


def test_a_single_step_is_no_search(digits: Digits, data: LabelledImages) -> None:
    told = ask(digits.plain, data, {"fgsm": FGSM("untargeted")}, (0.1, 0.2))
    assert told["reach"] is not None
    assert told["doubling"] is None  # it has nothing to double
    assert told["anew"] is None  # and promises nothing at a larger eps


def test_deny_and_transfers_are_passed_over(digits: Digits, data: LabelledImages) -> None:
    deny: dict[str, Attack] = {"force-null": PGD(objective="force-null", num_steps=3)}
    told = ask(digits.guarded, data, deny)
    assert told["reach"] is None
    assert told["doubling"] is None
    assert told["anew"] is None
    assert told["reference"]["num_images"] == NUM_AGAIN  # there is all the more to find
    rows = rows_of(digits.guarded, data, WEAK, (0.1,))
    rows.loc[rows["attack"] == "pgd", "source"] = "source"
    assert probe(digits.guarded, data, rows, WEAK, norm="linf", seed=0)["reach"] is None


def test_clean_rows_alone_are_enough(digits: Digits, data: LabelledImages) -> None:
    told = ask(digits.guarded, data, {})
    assert told["gradients"]["num_images"] == 64
    for name in ("noise", "reach", "doubling", "anew", "reference"):
        assert told[name] is None


def test_the_same_seed_tells_the_same_and_nothing_is_disturbed(
    digits: Digits, data: LabelledImages
) -> None:
    rows = rows_of(digits.guarded, data, WEAK, (0.15,))
    before, stream = data.images.clone(), torch.get_rng_state()
    done: list[int] = []
    first = probe(digits.guarded, data, rows, WEAK, norm="linf", seed=3, on_images=done.append)
    assert probe(digits.guarded, data, rows, WEAK, norm="linf", seed=3) == first
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.equal(data.images, before)
    assert len(done) == len(PROBES)
    assert sum(done) > 200
    assert all(parameter.requires_grad for parameter in digits.guarded.parameters())


def test_doubled_settings() -> None:
    steps, restarts = ("num_steps", "num_queries"), ("num_restarts",)
    attack = PGD(num_steps=7, num_restarts=2, relative_step=0.1)
    assert doubled(attack, steps) == PGD(num_steps=14, num_restarts=2, relative_step=0.1)
    assert doubled(attack, restarts) == PGD(num_steps=7, num_restarts=4, relative_step=0.1)
    assert doubled(FGSM("untargeted"), steps) is None
    assert doubled(Still(), steps) is None
    both = AttackEnsemble(
        (DatasetAttack(), PGD(num_steps=5), AttackEnsemble((MultiTargetedPGD(num_steps=3),))),
        ("a", "b", "c"),
    )
    more = doubled(both, steps)
    assert isinstance(more, AttackEnsemble)
    assert more.names == both.names
    assert more.members[:2] == (DatasetAttack(), PGD(num_steps=10))
    assert isinstance(more.members[2], AttackEnsemble)
    assert more.members[2].members == (MultiTargetedPGD(num_steps=6),)
    assert doubled(AttackEnsemble((DatasetAttack(),)), steps) is None


def test_images_are_taken_evenly() -> None:
    assert evenly(range(10), 20) == list(range(10))
    assert evenly({7, 3, 5}, 2) == [3, 7]
    assert evenly(range(100), 4) == [12, 37, 62, 87]
    assert evenly([], 4) == []

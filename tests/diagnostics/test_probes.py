"""Probes on models whose answers are known."""

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
from nullclass.diagnostics.attack_probes import NUM_DOUBLED, NUM_REPEATED, double
from nullclass.diagnostics.evidence import MIN_IMAGES, Evidence
from nullclass.diagnostics.probe_context import ProbeContext
from nullclass.diagnostics.probes import ATTACK_PROBES, QUICK_PROBES, probe
from nullclass.models import Classifier
from nullclass.results.schema import COST_COLUMNS

PROBES: dict[str, Any] = QUICK_PROBES | ATTACK_PROBES
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
        predicted = model.predict(adv_images)
        names = [OUTCOME_NAMES[code] for code in outcomes(predicted, labels).tolist()]
        tables.append(
            pd.DataFrame({"image": range(len(labels)), "label": labels.numpy(), "outcome": names})
            .assign(attack=name, objective=objective, norm=norm, has_own_eps=False)
            .assign(source="clean" if name == "clean" else "self", eps_pixels=budget)
            .assign(prediction=predicted.numpy())
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
    return ProbeContext(model, data, evidence, attacks, seed=0, batch_size=None)


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

    def probe_all(**settings: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        evidence = Evidence(rows, NO_COSTS, {"has_null": model.has_null}, {"norm": "linf"})
        return probe(model, data, evidence, WEAK, seed=3, **settings)

    results, costs = probe_all(on_images=counts.append)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert list(results) == ["has_null", *PROBES]
    assert costs["member"].tolist() == list(PROBES)
    assert (costs["seconds"] > 0).all()
    assert len(counts) == len(PROBES)
    assert sum(counts) == costs["num_images"].sum() > 200
    assert results["has_null"] == (name == "guarded")
    forward = {"num_images": 64, "num_predictions": 0, "largest_difference": 0}
    assert results["forward"] == forward | {"are_probabilities": False}
    gradients = {"num_images": 64, "has_gradients": True}
    assert results["gradients"] == dict.fromkeys(results["gradients"], 0) | gradients
    assert (results["noise"] is None) == (name == "plain")
    quick, costs = probe_all(level="quick")
    assert quick.pop("expected_seconds") >= 0
    assert quick == {key: results[key] for key in ("has_null", *QUICK_PROBES)}
    assert costs["member"].tolist() == list(QUICK_PROBES)
    assert 0 < costs["num_forwards"].sum() < 1500
    assert costs["num_backwards"].sum() == 3 * 64
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
    assert result(Softmaxed, "forward")["are_probabilities"]
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
    assert run("reference", model, data, square) is None
    assert run("doubling", model, data, square)["steps"] is not None


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


@dataclass(frozen=True)
class FoolsOne(Still):
    """Fools the first image of a batch if it may take two steps."""

    num_steps: int = 1

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **how: Any) -> Tensor:
        adv_images = images.clone()
        if self.num_steps > 1:
            adv_images[:1] = PGD()(model, images[:1], labels[:1], **how)
        return adv_images


def test_the_largest_eps_counts_the_union(digits: Digits, data: LabelledImages) -> None:
    still: dict[str, Attack] = {"still": Still()}
    result = run("largest_eps", digits.guarded, data, still)
    assert (result["eps"], result["num_images"]) == (1.0, 50)
    assert result["num_fooled"] <= 3  # those that are fooled when clean
    both = run("largest_eps", digits.guarded, data, still | {"dataset": DatasetAttack()})
    assert both["num_fooled"] >= both["num_accepted"] >= 48
    assert run("largest_eps", digits.guarded, data, still, (1.0,), "l2")["eps"] == 8.0


def test_images_out_of_budget_do_not_count(digits: Digits, data: LabelledImages) -> None:
    rows = rows_of(digits.plain, data, {"still": Still()}, (0.05, 0.1))
    attacks: dict[str, Attack] = {"still": OutOfBudget()}
    honest = context(digits.plain, data, rows, attacks)
    assert PROBES["doubling"](honest)["steps"] is None
    assert PROBES["rerun"](honest)["num_images"] == 0
    moved = rows.assign(outcome=rows["outcome"].where(rows["eps_pixels"] != 0.05, "fooled"))
    rerun = PROBES["rerun"](context(digits.plain, data, moved, attacks))
    assert (rerun["num_images"], rerun["num_fooled"]) == (NUM_REPEATED, 0)


def test_the_reference_finds_what_a_weak_attack_misses(
    digits: Digits, data: LabelledImages
) -> None:
    weak = run("reference", digits.guarded, data, {"still": Still()}, (0.15,))
    assert weak["num_images"] == NUM_REPEATED
    assert weak["num_more"] > 50
    assert weak["num_null_by_stock"] > 50  # stock PGD counts null as success
    sound: dict[str, Attack] = {"pgd": AttackEnsemble((PGD(), MultiTargetedPGD()))}
    result = run("reference", digits.guarded, data, sound, (0.15,))
    assert result["num_more"] == 0
    assert abs(result["num_fooled"] - weak["num_fooled"] - weak["num_more"]) <= 2


def test_doubling_finds_what_more_steps_find(digits: Digits, data: LabelledImages) -> None:
    doubling = run("doubling", digits.guarded, data, {"pgd": PGD(num_steps=1)}, (0.05, 0.15))
    assert (doubling["attack"], doubling["eps"]) == ("pgd", 0.15)
    assert doubling["steps"]["num_successes"] >= MIN_IMAGES
    assert doubling["steps"]["num_images"] == min(doubling["num_active"], NUM_DOUBLED[0])
    steady = run("doubling", digits.plain, data, {"pgd": PGD(num_steps=40)}, (0.1,))
    num_images = min(steady["num_active"], NUM_DOUBLED[0])
    assert steady["steps"] == {"num_images": num_images, "num_successes": 0}
    # One success among the first images is too few: it attacks more images.
    single = run("doubling", digits.plain, data, {"one": FoolsOne()}, (0.4,))
    assert single["steps"] == {"num_images": single["num_active"], "num_successes": 2}
    assert single["restarts"] is None
    assert single["num_active"] > NUM_DOUBLED[0]


def test_the_strongest_attack_at_the_middle_eps(digits: Digits, data: LabelledImages) -> None:
    attacks: dict[str, Attack] = {"still": Still(), "pgd": PGD(num_steps=20), "one": STEP}
    rows = rows_of(digits.plain, data, attacks, (0.01, 0.1, 0.4))
    shared = context(digits.plain, data, rows, attacks)
    assert shared.middle_eps() == 0.1
    doubling, rerun = PROBES["doubling"](shared), PROBES["rerun"](shared)
    assert doubling["eps"] == 0.1
    assert doubling["attack"] == rerun["attack"] == "pgd"
    assert rerun["eps"] == 0.4
    assert rerun["num_fooled"] == rerun["num_images"] > 50


def test_attacks_that_a_probe_does_not_apply_to(digits: Digits, data: LabelledImages) -> None:
    rows = rows_of(digits.plain, data, {"fgsm": STEP}, (0.1, 0.2))
    single_step = context(digits.plain, data, rows, {"fgsm": STEP})
    assert PROBES["largest_eps"](single_step) is not None
    assert PROBES["doubling"](single_step) is None  # nothing to double
    assert (
        PROBES["rerun"](single_step) is None
    )  # no search, so its success need not hold at a larger eps
    force_null: dict[str, Attack] = {"force-null": PGD(objective="force-null", num_steps=3)}
    rows = rows_of(digits.guarded, data, force_null, (0.1,))
    denied = context(digits.guarded, data, rows, force_null)
    assert [PROBES[name](denied) for name in ("largest_eps", "doubling", "rerun")] == [None] * 3
    rows = rows_of(digits.guarded, data, WEAK, (0.1,))
    rows.loc[rows["attack"] == "pgd", "source"] = "source"  # a transfer
    assert PROBES["largest_eps"](context(digits.guarded, data, rows, WEAK)) is None
    clean = context(digits.guarded, data, rows[rows["attack"] == "clean"], {})
    assert PROBES["gradients"](clean)["num_images"] == 64
    assert all(PROBES[name](clean) is None for name in ("noise", *ATTACK_PROBES))


def test_double() -> None:
    steps, restarts = ("num_steps", "num_queries"), ("num_restarts",)
    attack = PGD(num_steps=7, num_restarts=2, relative_step=0.1)
    assert double(attack, steps) == PGD(num_steps=14, num_restarts=2, relative_step=0.1)
    assert double(attack, restarts) == PGD(num_steps=7, num_restarts=4, relative_step=0.1)
    assert double(STEP, steps) is None
    assert double(Still(), steps) is None
    both = AttackEnsemble(
        (DatasetAttack(), PGD(num_steps=5), AttackEnsemble((MultiTargetedPGD(num_steps=3),))),
        ("a", "b", "c"),
    )
    more = double(both, steps)
    assert isinstance(more, AttackEnsemble)
    assert more.names == both.names
    assert more.members[:2] == (DatasetAttack(), PGD(num_steps=10))
    assert isinstance(more.members[2], AttackEnsemble)
    assert more.members[2].members == (MultiTargetedPGD(num_steps=6),)
    assert double(AttackEnsemble((DatasetAttack(),)), steps) is None

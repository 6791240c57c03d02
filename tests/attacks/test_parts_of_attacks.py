"""Ensembles and wrapped attacks: their norms, settings, passes and states."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from worlds import small_network

import nullclass
from nullclass.attacks import (
    PGD,
    Attack,
    AttackEnsemble,
    DiversifiedPGD,
    Noise,
    RayS,
    RefinedPGD,
    Square,
    Transfer,
    WholeBallPGD,
    describe,
)
from nullclass.attacks.base import supported_norms
from nullclass.attacks.conditional import OnSample
from nullclass.attacks.counters import count_passes
from nullclass.attacks.ensemble import EnsembleProgress, attacks_inside
from nullclass.attacks.steps import ascend
from nullclass.core.errors import UserError
from nullclass.core.norms import BALLS, along_gradient
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull

IMAGES = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def linear(num_outputs: int = 4) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, num_outputs))
    return Classifier(body, 3, has_null=num_outputs > 3, image_shape=(1, 4, 4))


MODEL = linear()
LABELS = MODEL.predict(IMAGES).clamp(min=0)


def test_norms_are_those_of_the_attacks_inside() -> None:
    transfer = Transfer((MODEL,), Square(num_queries=3))
    assert supported_norms(transfer) == ("linf", "l2")
    assert supported_norms(AttackEnsemble((RayS(), Square()))) == ("linf", "l2")
    with_pgd = AttackEnsemble((PGD(num_steps=2), transfer))
    assert supported_norms(with_pgd) == supported_norms(PGD())
    stats = with_pgd.run_members(MODEL, IMAGES, LABELS, eps=0.1, norm="l1").member_stats
    assert [member.status for member in stats] == ["ran", "unsupported-norm"]
    for attack in (transfer, AttackEnsemble((RayS(), Square()))):
        with pytest.raises(UserError, match="must be one of linf, l2, not 'l1'"):
            nullclass.evaluate(MODEL, (IMAGES, LABELS), attacks={"a": attack}, eps=1.0, norm="l1")


def test_lists_become_tuples() -> None:
    members: Any = [PGD(), Square()]
    sources: Any = [MODEL]
    for attack in (AttackEnsemble(members, names=["a", "b"]), Transfer(sources, PGD())):  # type: ignore[arg-type]
        assert json.loads(json.dumps(describe(attack))) == describe(attack)
    assert AttackEnsemble(members) == AttackEnsemble(tuple(members))


def test_none_where_the_type_allows_it() -> None:
    assert WholeBallPGD(num_targets=None).num_targets is None
    for attack in (DiversifiedPGD(relative_step=None), RefinedPGD(relative_step=None)):
        assert attack.step_sizes()[0] == pytest.approx(2.5 / attack.num_steps)
    with pytest.raises(UserError, match="num_steps"):
        PGD(num_steps=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.01 * 4), ("l2", 0.01), ("l1", 0.01)])
def test_steps_along_the_gradient_are_as_long_in_l2_as_the_norms_own(
    norm: str, length: float
) -> None:
    images, gradient = torch.full((2, 1, 4, 4), 0.5), torch.randn(2, 1, 4, 4)
    eps = BALLS[norm].largest(16)
    ball = along_gradient(BALLS[norm])
    moved = ascend(images, gradient, images, eps=eps, step_size=0.01, norm=ball)
    unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(moved - images, length * unit, atol=1e-6)


def test_refined_pgd_along_the_gradient_leaves_pixels_without_one_alone() -> None:
    model = linear()
    with torch.no_grad():
        model.body[1].weight[:, 8:] = 0
    attack = RefinedPGD(num_steps=5, num_restarts=1, along_gradient=True)
    delta = attack(model, IMAGES, LABELS, eps=0.02) - IMAGES
    sizes = delta.flatten(1)[:, :8].abs()
    assert torch.equal(delta.flatten(1)[:, 8:], torch.zeros(12, 8))
    assert ((sizes > 1e-4) & (sizes < 0.01)).any()  # steps of the norm move all pixels by the same


def test_what_an_attack_consists_of() -> None:
    attack = AttackEnsemble((OnSample(PGD()), Transfer((MODEL,), AttackEnsemble((Noise(),)))))
    assert attacks_inside(attack) == [PGD(), Noise()]
    assert attacks_inside(PGD()) == [PGD()]


@pytest.mark.parametrize("wrap", [OnSample, lambda attack: AttackEnsemble((attack,))])
def test_chosen_targets_inside_a_wrapper_are_recognised(wrap: Any) -> None:
    def flags(attack: Attack) -> set[str]:
        evaluation = nullclass.evaluate(MODEL, (IMAGES, LABELS), attacks={"a": attack}, eps=0.1)
        return {flag.name for flag in evaluation.flags}

    assert "no-null-aware-attack" in flags(wrap(PGD(targets=1, num_steps=2)))
    both = AttackEnsemble((wrap(PGD(targets=1, num_steps=2)), PGD(num_steps=2)))
    assert "no-null-aware-attack" not in flags(both)
    with pytest.raises(UserError, match="one target per image"):
        flags(wrap(PGD(targets=(LABELS + 1) % 3)))


def test_progress_does_not_change_after_it_is_handed_out() -> None:
    seen: list[tuple[EnsembleProgress, dict[str, Any]]] = []

    def on_member(progress: EnsembleProgress) -> None:
        tensors = {k: v.clone() for k, v in vars(progress).items() if torch.is_tensor(v)}
        seen.append((progress, tensors))

    ensemble = AttackEnsemble((Noise(num_draws=1), PGD(num_steps=2), PGD(num_steps=20)))
    ensemble.run_members(MODEL, IMAGES, LABELS, eps=0.15, on_member=on_member)
    assert seen[0][1]["active"].sum() > seen[-1][1]["active"].sum()
    for progress, tensors in seen:
        for name, expected in tensors.items():
            assert torch.equal(getattr(progress, name), expected)


def test_passes_of_the_network_inside_count_once() -> None:
    inner = linear(num_outputs=3)
    model = ProvableNull(inner, 0.02)
    with count_passes(model) as passes:
        model(IMAGES)
        inner(IMAGES[:5].requires_grad_()).sum().backward()
        with pytest.raises(UserError):
            model(IMAGES[:, :, :3])
        inner(IMAGES[:3])
    assert (passes.forward, passes.backward) == (12 + 5 + 3, 5)


@pytest.mark.parametrize("is_member", [False, True])
def test_an_attack_on_the_network_inside_is_white_box(is_member: bool) -> None:
    model = ProvableNull(linear(num_outputs=3), 0.02)
    labels = model.predict(IMAGES)
    kept = labels >= 0
    ball: Attack = WholeBallPGD(num_steps=10)
    if is_member:
        ball = AttackEnsemble((PGD(num_steps=1, relative_step=0.01), ball))
    found = nullclass.evaluate(
        model, (IMAGES[kept], labels[kept]), attacks={"ball": ball}, eps=0.06
    )
    costs = found.costs[found.costs["attack"] == "ball"]
    assert (costs["num_backwards"] > 0).all()
    wrong = {"transfer-as-white-box", "black-box-beats-white-box"}
    assert not wrong & {flag.name for flag in found.flags}


def test_batches_fit_the_attacked_source_too(monkeypatch: pytest.MonkeyPatch) -> None:
    source = linear()
    monkeypatch.setattr(
        "nullclass.evaluation.run.find_batch_size", lambda model, image: 3 if model is source else 9
    )
    for attacked, expected in ((source, 3), (None, 9)):
        found = nullclass.evaluate(
            MODEL,
            (IMAGES, LABELS),
            attacks={"pgd": PGD(num_steps=2)},
            eps=0.1,
            source=attacked,
            checks=False,
        )
        assert found.threat["batch_size"] == expected


def test_no_pass_is_larger_than_the_batch_size() -> None:
    model = small_network()
    sizes: list[int] = []
    model.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    images = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = model.predict(images).clamp(min=0)
    sizes.clear()
    attacks = {"fgsm": nullclass.attacks.FGSM(), "pgd": PGD(num_steps=2)}
    found = nullclass.evaluate(model, (images, labels), attacks=attacks, eps=0.1, batch_size=4)
    assert max(sizes) == 4
    assert found.probes["gradients"]["num_images"] > 4
    assert found.probes["null_direction"]["num_images"] > 4

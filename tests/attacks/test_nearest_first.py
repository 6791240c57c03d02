"""Nearest-first PGD, and where the worst case runs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nullclass.attacks import FMN, PGD, AttackEnsemble, NearestFirstPGD, worst_case
from nullclass.attacks.state import AttackState
from nullclass.core.outcomes import predictions
from nullclass.models import Classifier, as_classifier
from nullclass.rejection import ProvableNull, ThroughGate, reject_by, with_threshold

FEW = torch.full((3, 1, 1, 1), 0.4)
LABELS = torch.zeros(3, dtype=torch.long)
LAST_ACCEPTED = 0.501


def pixel_network() -> Classifier:
    """Class 1 if the pixel is above 0.5."""
    return as_classifier(
        lambda images: torch.cat([0.5 - images.flatten(1), images.flatten(1) - 0.5], 1),
        2,
        FEW,
        has_null=False,
    )


def far(images: Tensor, logits: Tensor) -> Tensor:
    """A score without any gradient: positive just above the boundary of the classes."""
    return (images.flatten(1).squeeze(1) > LAST_ACCEPTED).float() - 0.5


def test_it_finds_the_gap_between_network_and_rule_where_the_score_has_no_gradient() -> None:
    rule = reject_by(pixel_network(), lambda x, z: far(x, z) + 0 * z.sum(dim=1))
    found = NearestFirstPGD()(rule, FEW, LABELS, eps=0.3)
    assert (rule.predict(found) == 1).all()
    assert ((found > 0.5) & (found <= LAST_ACCEPTED)).all()
    assert (rule.predict(PGD()(rule, FEW, LABELS, eps=0.3)) != 1).all(), "its steps pass over it"


def hand_made(images: Tensor) -> Tensor:
    logits = pixel_network()(images)
    top = logits.amax(dim=1)
    null = torch.where(far(images, logits) > 0, top + 1, top - 1)
    return torch.cat([logits, null[:, None]], dim=1)


def with_score(images: Tensor) -> tuple[Tensor, Tensor]:
    logits = pixel_network()(images)
    return logits, far(images, logits) + 0 * logits.sum(dim=1)


def test_the_worst_case_runs_it_on_rules_around_a_network_alone() -> None:
    members = dict(zip(worst_case().names, worst_case().members, strict=True))
    network = pixel_network()
    layers = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    linear = as_classifier(layers, 2, FEW, has_null=False)
    gate = as_classifier(hand_made, 2, FEW)
    for model, runs in (
        (network, False),
        (gate, False),
        (ProvableNull(linear, 0.1), False),
        (reject_by(network, lambda x, z: far(x, z) + 0 * z.sum(dim=1)), True),
        (reject_by(network, lambda x, z: (far(x, z) + 0 * z.sum(dim=1)).double()), True),
        (with_threshold(network, 0.0), True),
        (ThroughGate(gate, 0, 1, len(FEW)), True),
        (as_classifier(with_score, 2, FEW, has_score=True), True),
    ):
        attack = AttackEnsemble((members["nearest-first"],))
        (stats,) = attack.run_members(model, FEW, LABELS, eps=0.05).member_stats
        assert (stats.num_backwards > 0) == runs, type(model)
    assert "nearest-first" not in worst_case("force-null").names


def test_fmn_towards_chosen_classes_is_exact_on_linear_networks() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 9, generator=generator)
    network = as_classifier(
        lambda images: images.flatten(1) @ weight.T, 4, torch.rand(2, 1, 3, 3), has_null=False
    )
    images = 0.3 + 0.4 * torch.rand(20, 1, 3, 3, generator=generator)
    logits = network(images)
    labels = logits.argmax(dim=1)
    state = AttackState(network, images, labels, eps=1.0, norm="linf", objective="fool")
    state.targets = (labels + 1) % 4
    FMN(is_nearest=True).run(state, None)
    is_target = predictions(network(state.adv_images), 4) == state.targets
    distance = (state.adv_images - images).abs().flatten(1).amax(dim=1)
    # A point of class t beats every other class, so none is nearer than where t beats the label.
    gap = logits.gather(1, labels[:, None]) - logits.gather(1, state.targets[:, None])
    slope = (weight[state.targets] - weight[labels]).abs().sum(dim=1)
    assert is_target.sum() >= 10
    assert (distance >= gap.squeeze(1) / slope - 1e-5)[is_target].all()
    is_near = distance <= 1.1 * gap.squeeze(1) / slope
    assert is_near[is_target].float().mean() > 0.5

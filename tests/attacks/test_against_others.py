"""PGD against foolbox, FGSM against the notebook's own formula, searches against each other."""

from __future__ import annotations

import foolbox
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from worlds import Digits, fooled

from nullclass.attacks import (
    FGSM,
    PGD,
    MultiTargetedPGD,
    null_aware_pgd,
)
from nullclass.core.norms import is_allowed
from nullclass.models import build_model

NUM_STEPS = 20


@pytest.mark.parametrize(
    ("norm", "eps"),
    [
        ("linf", 0.06),
        pytest.param("linf", 0.1, marks=pytest.mark.slow),
        pytest.param("l2", 0.4, marks=pytest.mark.slow),
        ("l2", 0.7),
        ("l1", 1.2),
        pytest.param("l1", 2.0, marks=pytest.mark.slow),
    ],
)
def test_pgd_is_no_weaker_than_foolbox(digits: Digits, norm: str, eps: float) -> None:
    model, images, labels = digits.plain, digits.images[:150], digits.labels[:150]
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    maker = {
        "linf": foolbox.attacks.LinfPGD,
        "l2": foolbox.attacks.L2PGD,
        "l1": foolbox.attacks.L1PGD,
    }[norm]
    their_attack = maker(rel_stepsize=2.5 / NUM_STEPS, steps=NUM_STEPS, random_start=False)
    _, clipped, _ = their_attack(theirs, images, labels, epsilons=eps)
    their_success = fooled(model, clipped, labels)
    adv_images = PGD(num_steps=NUM_STEPS)(model, images, labels, eps=eps, norm=norm)
    assert is_allowed(adv_images, images, eps, norm).all()
    # Without null the logsumexp margin is the log-odds of being wrong, whose gradient has the
    # direction of cross-entropy's: the same walk, but success on the way counts too.
    ours = fooled(model, adv_images, labels)
    assert ours.sum() >= their_success.sum()
    assert (ours | ~their_success).double().mean() > 0.99, "and on the same images"
    every_target = MultiTargetedPGD(num_steps=NUM_STEPS)(model, images, labels, eps=eps, norm=norm)
    assert fooled(model, every_target, labels).sum() >= their_success.sum()
    assert 0.02 < their_success.double().mean() < 1, "a budget that decides something"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_their_cross_entropy_hides_what_ours_finds(digits: Digits, norm: str) -> None:
    # The reason the package exists: on a null-class model stock PGD stops at null.
    model, images, labels = digits.guarded, digits.images[:200], digits.labels[:200]
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    maker = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    eps = {"linf": 0.15, "l2": 1.0}[norm]
    _, clipped, _ = maker(steps=NUM_STEPS, random_start=False)(theirs, images, labels, epsilons=eps)
    stock = fooled(model, clipped, labels).double().mean()
    aware = (
        fooled(
            model,
            null_aware_pgd(NUM_STEPS, NUM_STEPS)(model, images, labels, eps=eps, norm=norm),
            labels,
        )
        .double()
        .mean()
    )
    assert aware > stock + 0.2


def test_reduced_precision_claims_nothing_and_loses_little(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:150], digits.labels[:150]
    exact, reduced = (
        fooled(model, null_aware_pgd(20, 20, precision=p)(model, images, labels, eps=0.1), labels)
        for p in ("float32", "bfloat16")
    )
    assert abs(int(reduced.sum()) - int(exact.sum())) <= 3


def test_restarts_and_targets_only_add(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:150], digits.labels[:150]

    def count(attack: PGD | MultiTargetedPGD) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        adv_images = attack(model, images, labels, eps=0.07, generator=generator)
        return fooled(model, adv_images, labels)

    assert (count(PGD(num_steps=8, num_restarts=3)) | ~count(PGD(num_steps=8))).all()
    few, many = (count(MultiTargetedPGD(num_steps=8, num_targets=t)) for t in (2, None))
    assert (many | ~few).all()


@pytest.mark.parametrize("notebook_eps", [0.001, 0.01, 0.1, 0.5, 3.0])
def test_fgsm_is_the_notebook_formula(notebook_eps: float) -> None:
    mean, std = 0.1307, 0.3081
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(
            "notebook", image_shape=(1, 28, 28), num_classes=10, mean=(mean,), std=(std,)
        )
        images = torch.rand(16, 1, 28, 28)
        images[:, :, :4] = 0
    labels = torch.arange(16) % 10
    # The notebook: standardised images, step and clamp in standardised units.
    x = ((images - mean) / std).requires_grad_()
    F.cross_entropy(model.body(x), labels).backward()
    low, high = (0 - mean) / std, (1 - mean) / std
    theirs = (x.detach() + notebook_eps * x.grad.sign()).clamp(low, high)
    ours = FGSM("untargeted")(model, images, labels, eps=min(std * notebook_eps, 1.0))
    torch.testing.assert_close((ours - mean) / std, theirs, atol=2e-6, rtol=0)
    torch.testing.assert_close(ours, theirs * std + mean, atol=1e-6, rtol=0)


def test_fgsm_l2_is_one_step_of_length_eps(digits: Digits) -> None:
    images, labels = digits.images[:20] * 0.2 + 0.4, digits.labels[:20]  # away from the box
    adv_images = FGSM("untargeted")(digits.plain, images, labels, eps=0.1, norm="l2")
    x = images.clone().requires_grad_()
    F.cross_entropy(digits.plain(x), labels, reduction="sum").backward()
    direction = x.grad / x.grad.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(adv_images, images + 0.1 * direction, atol=1e-6, rtol=0)

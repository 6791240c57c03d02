"""What every attack that takes no gradients must keep to, and small things to attack."""

from __future__ import annotations

import copy

import pytest
import torch
from disturbed import NUM_CLASSES, left_as_found, small_batch, small_model
from torch import Tensor, nn

from nullclass.attacks import Attack
from nullclass.attacks.counters import count_passes
from nullclass.attacks.losses import find_objective, is_success
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, is_allowed
from nullclass.models import Classifier

EPS = {"linf": 0.1, "l2": 0.7, "l1": 3.0}
LARGEST = {"linf": 1.0, "l2": 6.0, "l1": 36.0}
OBJECTIVES = [("fool", True), ("force-null", True), ("untargeted", True), ("fool", False)]
"""Objectives, and whether the model has null."""


def run(
    attack: Attack, model: Classifier, batch: tuple[Tensor, Tensor], eps: Eps, norm: str
) -> Tensor:
    return attack(model, *batch, eps=eps, norm=norm, generator=torch.Generator().manual_seed(5))


def check_contract(attack: Attack, norm: str, has_null: bool) -> None:
    """Shape, type, budget and box; nothing disturbed; repeatable; never worse than nothing."""
    model, (images, labels) = small_model(has_null), small_batch()
    judge = copy.deepcopy(model).eval()
    answers = judge.predict(images)  # so that most images stand for fool and evade
    labels = torch.where((answers >= 0) & (torch.arange(9) > 2), answers, labels)
    with left_as_found(model, images, labels), count_passes(model) as passes:
        adv_images = run(attack, model, (images, labels), EPS[norm], norm)

    assert adv_images.shape == images.shape
    assert adv_images.dtype == images.dtype
    assert not adv_images.requires_grad
    assert adv_images.isfinite().all()
    assert is_allowed(adv_images, images, EPS[norm], norm).all()
    assert (adv_images != images).any(), "an attack that does nothing"
    assert passes.backward == 0, "it takes no gradients"
    # Same generator, same result, whatever the caller thinks of gradients.
    assert torch.equal(adv_images, run(attack, model, (images, labels), EPS[norm], norm))
    with torch.no_grad():
        assert torch.equal(adv_images, run(attack, model, (images, labels), EPS[norm], norm))
    graded = images.clone().requires_grad_()
    assert torch.equal(adv_images, run(attack, model, (graded, labels), EPS[norm], norm))
    assert graded.grad is None

    # A try is never further from success than the clean image, and what fell is left alone.
    objective = find_objective(attack.objective)
    with torch.no_grad():
        clean_logits, logits = judge(images), judge(adv_images)
    hard = [objective.loss(z, labels, NUM_CLASSES, "margin") for z in (clean_logits, logits)]
    assert (hard[1] >= hard[0] - 1e-5).all()
    fell = is_success(clean_logits, labels, NUM_CLASSES, objective)
    assert torch.equal(adv_images[fell], images[fell])


def check_budgets(attack: Attack, norm: str) -> None:
    """One for each image, none at all, the whole box; none of the senseless ones."""
    model, (images, labels) = small_model(), small_batch()
    batch = (images, labels)
    assert torch.equal(run(attack, model, batch, 0.0, norm), images)
    budgets = EPS[norm] * torch.tensor([0.0, 1.0, 0.3, 3.0, 0.0, 2.0, 1.5, 0.01, 0.6])
    adv_images = run(attack, model, batch, budgets, norm)
    assert is_allowed(adv_images, images, budgets, norm).all()
    assert torch.equal(adv_images[[0, 4]], images[[0, 4]]), "nothing allowed, nothing done"
    equal = run(attack, model, batch, torch.full((9,), EPS[norm]), norm)
    torch.testing.assert_close(equal, run(attack, model, batch, EPS[norm], norm), atol=1e-6, rtol=0)
    adv_images = run(attack, model, batch, LARGEST[norm], norm)
    assert is_allowed(adv_images, images, LARGEST[norm], norm).all()
    for eps in (-0.1, 1.001 * LARGEST[norm], float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"eps .* outside \[0, .*pixel units"):
            run(attack, model, batch, eps, norm)
    for shape in ((8,), (10,), (9, 1)):
        with pytest.raises(UserError, match=r"eps has shape .* for 9 images"):
            run(attack, model, batch, torch.full(shape, 0.1), norm)
    with pytest.raises(UserError, match="norm must be one of linf, l2, l1, not 'l7'"):
        run(attack, model, batch, 0.1, "l7")


def check_double(attack: Attack, norm: str) -> None:
    """A model in double precision."""
    images, labels = small_batch()
    images, model = images.double(), small_model().double()
    adv_images = run(attack, model, (images, labels), EPS[norm], norm)
    assert adv_images.dtype == torch.float64
    assert is_allowed(adv_images, images, EPS[norm], norm).all()
    assert (adv_images != images).any()


def check_sizes(attack: Attack, norm: str) -> None:
    """One image, and none."""
    images, labels = small_batch()
    model = small_model()
    assert run(attack, model, (images[2:3], labels[2:3]), 0.1, norm).shape == (1, 1, 6, 6)
    nothing = run(attack, model, (images[:0], labels[:0]), 0.1, norm)
    assert nothing.shape == (0, 1, 6, 6)
    nothing = run(attack, model, (images[:0], labels[:0]), torch.zeros(0), norm)
    assert nothing.shape == (0, 1, 6, 6)


def wide_colour_world() -> tuple[Classifier, Tensor, Tensor]:
    """Images of 3 channels, 5 by 8 pixels, two classes and null."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        body = nn.Sequential(nn.Flatten(), nn.Linear(120, 16), nn.ReLU(), nn.Linear(16, 3))
    images = torch.rand(70, 3, 5, 8, generator=torch.Generator().manual_seed(2))
    model = Classifier(body, 2)
    return model, images, (model.predict(images)).clamp(min=0)

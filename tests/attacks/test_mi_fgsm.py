"""MI-FGSM against its formula written out, and that it never stops before the end of its budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from worlds import Affine, Digits, linear_batch, outcome_of, two_input_world

from nullclass.attacks import MIFGSM
from nullclass.core.outcomes import Outcome, outcomes
from nullclass.models import Classifier


def margin_by_hand(logits: Tensor, label: int) -> Tensor:
    """log-sum-exp of the wrong real classes less that of the label and null."""
    num_classes = len(logits) - 1
    wrong = [logits[k] for k in range(num_classes) if k != label]
    return torch.stack(wrong).logsumexp(0) - logits[[label, num_classes]].logsumexp(0)


def step_by_hand(past: Tensor, norm: str) -> Tensor:
    return past.sign() if norm == "linf" else past / past.pow(2).sum().sqrt()


def pulled_back(image: Tensor, clean: Tensor, eps: float, norm: str) -> Tensor:
    delta = image - clean
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    elif (size := float(delta.pow(2).sum().sqrt())) > eps:
        delta = delta * (eps / size)
    return (clean + delta).clamp(0, 1)


@pytest.mark.parametrize("momentum", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.08), ("linf", 0.6), ("l2", 0.7), ("l2", 4.0)])
def test_it_is_the_formula_written_out(
    norm: str, eps: float, momentum: float, digits: Digits
) -> None:
    num_steps, num = 5, 6
    model = digits.guarded
    attack = MIFGSM(num_steps=num_steps, momentum=momentum)
    found = attack(model, digits.images[:num], digits.labels[:num], eps=eps, norm=norm)
    for i in range(num):
        clean, label = digits.images[i], int(digits.labels[i])
        image, past = clean.clone(), torch.zeros_like(clean)
        for _ in range(num_steps):
            image.requires_grad_()
            margin = margin_by_hand(model(image[None])[0], label)
            (gradient,) = torch.autograd.grad(margin, image)
            past = momentum * past + gradient / gradient.abs().sum()
            moved = image.detach() + 2.5 * eps / num_steps * step_by_hand(past, norm)
            image = pulled_back(moved, clean, eps, norm)
        # Rounding may turn the sign of a gradient that is nearly nothing: such pixels are few.
        is_off = (found[i] - image).abs() > 1e-4
        assert is_off.float().mean() < 0.02, i


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_never_stops_before_the_end_of_the_budget(norm: str) -> None:
    """On a linear model of two classes the direction never turns: every step counts, in line."""
    world = linear_batch(seed=3, num_images=30, scale=10)
    model = two_classes(world.model)
    eps = 0.29  # all pixels are in 0.3 ... 0.7, so the box does not matter
    needed = distances(model, world.images, norm)
    images, needed = world.images[needed < 0.5 * eps], needed[needed < 0.5 * eps]
    assert len(images) > 5, "a fair case"
    labels = model.predict(images)
    made = MIFGSM()(model, images, labels, eps=eps, norm=norm)
    assert (outcomes(model.predict(made), labels) == Outcome.FOOLED).all()
    delta = (made - images).flatten(1)
    size = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
    torch.testing.assert_close(size, torch.full_like(size, eps), atol=1e-5, rtol=1e-4)
    if norm == "linf":
        assert (delta.abs() > eps - 1e-5).all(), "every pixel to the edge"
    least = MIFGSM()(model, images, labels, eps=1.01 * needed, norm=norm)
    assert (outcomes(model.predict(least), labels) == Outcome.FOOLED).all()
    below = MIFGSM()(model, images, labels, eps=0.99 * needed, norm=norm)
    assert (outcomes(model.predict(below), labels) == Outcome.CORRECT).all()


def two_classes(model: Classifier) -> Classifier:
    """The first two classes of a linear model with null, and no null."""
    body = model.body
    return Classifier(
        Affine(body.weight[:2].detach().clone(), body.bias[:2].detach().clone()), 2, has_null=False
    )


def distances(model: Classifier, images: Tensor, norm: str) -> Tensor:
    """To the boundary between two classes: the gap over the gradient's dual norm."""
    with torch.no_grad():
        logits = model(images)
        normal = model.body.weight[0] - model.body.weight[1]
    dual = normal.abs().sum() if norm == "linf" else normal.norm()
    return (logits[:, 0] - logits[:, 1]).abs() / dual


@pytest.mark.parametrize("ratio", [0.2, 1.0, 2.9])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_two_inputs(ratio: float, scale: float) -> None:
    for b in (0.01, 0.1, 0.3):
        model, image, label = two_input_world(a=ratio * b, b=b, scale=scale)
        for eps, outcome in ((0.95 * b, "correct"), (1.05 * b, "fooled")):
            made = MIFGSM()(model, image, label, eps=eps)
            assert outcome_of(model, made, label) == [outcome], (b, eps)
            assert (made - image).abs().max() <= eps + 1e-6


def test_where_there_is_no_gradient_it_stays() -> None:
    model, image, label = two_input_world(0.1, 0.1, scale=0.0)
    assert torch.equal(MIFGSM()(model, image, label, eps=0.2), image)

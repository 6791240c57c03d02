"""Consistency: exact on linear models, its gradients, and its place beside the proof."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from worlds import Affine, Digits

import nullclass
from nullclass.core.errors import UserError
from nullclass.core.norms import is_allowed
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.rejection import ConsistentNull, ProvableNull, null_scores

DUAL = {"linf": 1, "l2": 2}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(num_classes: int = 2) -> tuple[Classifier, Tensor]:
    weight = torch.randn(num_classes, 6, generator=generator(0))
    return Classifier(Affine(weight, -weight.sum(dim=1) / 2), num_classes, has_null=False), weight


def middle(num: int) -> Tensor:
    """Images so far from the edges of the box that it does not matter."""
    return 0.3 + 0.4 * torch.rand(num, 1, 2, 3, generator=generator(1))


@pytest.mark.parametrize("norm", DUAL)
@pytest.mark.parametrize("is_unrolled", [False, True])
def test_of_two_linear_classes_the_score_is_exact(norm: str, is_unrolled: bool) -> None:
    network, weight = linear()
    images, radius = middle(40).requires_grad_(), 0.03 if norm == "linf" else 0.1
    model = ConsistentNull(network, radius, norm=norm, num_steps=4, is_unrolled=is_unrolled)
    scores = null_scores(model(images), 2)
    logits = network(images)
    margins = logits.amin(dim=1) - logits.amax(dim=1)
    expected = margins + radius * (weight[0] - weight[1]).norm(p=DUAL[norm])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.predict(images.detach()) == -1, scores > 0)
    assert 5 < int((scores > 0).sum()) < 35
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    (of_margin,) = torch.autograd.grad(margins.sum(), images)
    torch.testing.assert_close(gradient, of_margin)


def test_inference_mode_changes_no_answer() -> None:
    network, images = smooth().float(), middle(12)
    models = [ConsistentNull(network, 0.05, num_steps=2)]
    models += [ProvableNull(network, 0.02, verifier=name) for name in ("crown-ibp", "cascade")]
    for model in models:
        expected = model(images)
        with torch.inference_mode():
            assert torch.equal(model(images * 1), expected)
        assert torch.equal(model(images), expected), "nothing of that mode is kept"


def smooth(seed: int = 2) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return Classifier(body, 3, has_null=False).double()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_unrolling_changes_the_gradient_and_not_the_score(norm: str) -> None:
    network, images = smooth(), middle(8).double().requires_grad_()
    found = []
    for is_unrolled in (False, True):
        model = ConsistentNull(
            network, 0.2, norm=norm, num_steps=3, num_restarts=1, is_unrolled=is_unrolled
        )
        scores = null_scores(model(images), 3)
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        found.append((scores.detach(), gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


def test_the_unrolled_gradient_is_that_of_the_score() -> None:
    """In L2 every inner step is differentiable, so finite differences must agree."""
    model = ConsistentNull(smooth(), 0.2, norm="l2", num_steps=2, is_unrolled=True)
    images = middle(3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: null_scores(model(x), 3), images)


def test_the_detached_gradient_is_that_of_the_worst_image_found() -> None:
    network, images = smooth(), middle(5).double().requires_grad_()
    model = ConsistentNull(network, 0.2, num_steps=3)
    (gradient,) = torch.autograd.grad(null_scores(model(images), 3).sum(), images)
    labels = network(images).argmax(dim=1)
    found, margins = model.detector._search(images.detach(), labels, is_unrolled=False)
    assert is_allowed(found, images.detach(), 0.2, "linf").all()
    at = found.detach().requires_grad_()
    logits = network(at)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    expected = others - logits.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(expected, margins)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), at)[0])


def test_what_is_proved_is_consistent(digits: Digits) -> None:
    images = digits.images[:60]
    for radius in (0.01, 0.03):
        proved = ProvableNull(digits.plain, radius).predict(images)
        model = ConsistentNull(digits.plain, radius, num_restarts=1)
        answers = model.predict(images)
        assert torch.equal(answers[proved >= 0], proved[proved >= 0])
        assert (answers >= 0).sum() > (proved >= 0).sum()
        assert torch.equal(answers, model.predict(images.flip(0)).flip(0))


def test_more_effort_finds_no_less(digits: Digits) -> None:
    images = digits.images[:40]
    scores = [
        null_scores(ConsistentNull(digits.plain, 0.1, num_restarts=num)(images), 10)
        for num in (0, 2)
    ]
    assert (scores[1] >= scores[0] - 1e-5).all()


def test_attacks_reach_the_known_optimum_against_consistency() -> None:
    """One pixel, class 1 above 0.5: an accepted wrong answer is beyond 0.5 + r."""
    network = Classifier(
        Affine(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, -0.5])), 2, has_null=False
    )
    image = LabelledImages(torch.full((1, 1, 1, 1), 0.3), torch.tensor([0]), 2)
    for is_unrolled in (False, True):
        model = ConsistentNull(network, 0.1, num_steps=2, is_unrolled=is_unrolled)
        for eps, rate in ((0.29, 0), (0.31, 1)):
            result = nullclass.evaluate(model, image, attacks="pgd", eps=eps, checks=False, seed=0)
            assert result.rate("aer", eps=eps) == rate


def test_settings_that_are_wrong(digits: Digits) -> None:
    for settings, says in (
        ({"radius": 0}, "radius must be a number above 0"),
        ({"norm": "l0"}, "norm must be one of"),
        ({"num_steps": 0}, "num_steps must be a whole number"),
        ({"num_restarts": -1}, "num_restarts must be a whole number"),
    ):
        with pytest.raises(UserError, match=says):
            ConsistentNull(digits.plain, **{"radius": 0.1} | settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the classifier has null already"):
        ConsistentNull(digits.guarded, 0.1)

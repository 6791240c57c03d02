"""The interface of all detectors: the rule, gradients, and detectors that are wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import entropy
from torch import Tensor, nn
from worlds import Affine

import nullclass
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.rejection import (
    SCORES,
    FeatureSqueezing,
    Threshold,
    calibrate,
    null_scores,
    reject_by,
    with_threshold,
)


def pixels(num_classes: int = 3, *, has_null: bool = False) -> Classifier:
    """A classifier whose logits are the first pixels."""
    num = num_classes + has_null
    return Classifier(lambda images: images.flatten(1)[:, :num], num_classes, has_null=has_null)


def fourth_pixel(images: Tensor, logits: Tensor) -> Tensor:
    return images.flatten(1)[:, 3]


def some_images(num: int = 8, *, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_null_wins_exactly_if_the_score_is_above_the_threshold(
    dtype: torch.dtype, scale: float
) -> None:
    tau = torch.tensor(0.3, dtype=dtype)
    one = torch.ones((), dtype=dtype)
    near = [tau, torch.nextafter(tau, one), torch.nextafter(tau, -one), -one, one]
    scores = torch.stack(near).repeat(40)
    logits = scale * torch.rand(200, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    images = torch.cat([logits, scores[:, None]], dim=1).view(200, 1, 2, 2)
    model = reject_by(pixels(), fourth_pixel, 0.3)
    answers = model(images).argmax(dim=1)
    assert torch.equal(answers == 3, scores > tau)
    assert torch.equal(answers[answers < 3], logits.argmax(dim=1)[answers < 3])
    default = reject_by(pixels(), fourth_pixel)
    assert torch.equal(default(images).argmax(dim=1) == 3, scores > 0)
    assert torch.equal(null_scores(default(images), 3), scores)


def test_scores_of_the_logits_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [90.0, 1.0, 2.0]])
    images = torch.cat([logits, torch.zeros(3, 1)], dim=1).view(3, 1, 2, 2)
    exact = logits.double().numpy()
    expected = {
        "softmax": -torch.log_softmax(logits.double(), dim=1).amax(dim=1).numpy(),
        "margin": np.array([-1.5, 0.0, -88.0]),
        "energy": -logsumexp(exact, axis=1),
        "entropy": entropy(torch.softmax(logits.double(), dim=1).numpy(), axis=1),
    }
    assert {*expected, "null-logit"} == set(SCORES)
    for name, scores in expected.items():
        model = reject_by(pixels(), name)
        found = null_scores(model(images), 3)
        torch.testing.assert_close(found.double(), torch.as_tensor(scores), rtol=1e-6, atol=1e-6)


def test_the_null_logit_as_a_score_changes_no_decision() -> None:
    images, model = some_images(40), pixels(has_null=True)
    by_score = reject_by(model, "null-logit", 0.125)
    assert torch.equal(by_score(images), with_threshold(model, 0.125)(images))


def test_any_detector_is_calibrated_on_held_out_images() -> None:
    images, labels = some_images(300), torch.arange(300) % 3
    held_out, test = (images[:200], labels[:200]), (images[200:], labels[200:])
    threshold = calibrate(reject_by(pixels(), fourth_pixel), held_out, 0.05)
    scores = held_out[0].flatten(1)[:, 3]
    assert 0 < threshold.held_out_null_rate == float((scores > threshold.value).double().mean())
    model = reject_by(pixels(), fourth_pixel, threshold)
    result = nullclass.evaluate(model, test, attacks="fgsm", eps=0.1, checks=False)
    is_null = test[0].flatten(1)[:, 3] > threshold.value
    assert result.rate("null_rate") == int(is_null.sum()) / 100 > 0
    with pytest.raises(UserError, match="needs at least 199 held-out images, and there are 100"):
        calibrate(reject_by(pixels(), fourth_pixel), test, 0.005)


def in_numpy(images: Tensor, logits: Tensor) -> Tensor:
    return torch.from_numpy(images.numpy()[:, 0, 1, 1].round(1))


def steep(images: Tensor, logits: Tensor) -> Tensor:
    return 7 * images.flatten(1)[:, 3] + logits[:, 1]


def test_a_surrogate_gives_its_gradient_and_not_its_value() -> None:
    images = some_images().requires_grad_()
    model = reject_by(pixels(), in_numpy, surrogate=steep)
    scores = null_scores(model(images), 3)
    assert torch.equal(scores, in_numpy(images.detach(), images))
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    expected = torch.tensor([0.0, 1.0, 0.0, 7.0]).expand(8, 4).view(8, 1, 2, 2)
    assert torch.equal(gradient, expected)
    (of_null,) = torch.autograd.grad(model(images)[:, 3].sum(), images)
    (of_top,) = torch.autograd.grad(model(images)[:, :3].amax(dim=1).sum(), images)
    assert torch.equal(of_null - of_top, expected)


def test_a_detector_without_a_surrogate_keeps_its_own_gradient() -> None:
    images = some_images().requires_grad_()
    scores = null_scores(reject_by(pixels(), steep, 0.5)(images), 3)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert torch.equal(gradient.view(8, 4)[:, 3], torch.full((8,), 7.0))


def conflicting(b: float, tau: float, rounds: bool, has_surrogate: bool) -> Classifier:
    """Two pixels, from (0.5, 0.5): class 1 needs the second to rise by b, the detector more.

    s - tau = 2 (x2 - 0.5) - (x1 - 0.5) - tau, so the image can be fooled within eps > max(b, 2b -
    tau), by moving the second pixel only just far enough, and the first by eps. With ``rounds``
    the score is rounded up to multiples of 2^-10 by NumPy, which hides its gradient.
    """
    weight, bias = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, -0.5 - b])

    def score(images: Tensor, logits: Tensor) -> Tensor:
        first, second = (images.flatten(1) - 0.5).unbind(dim=1)
        return 2 * second - first

    def rounded(images: Tensor, logits: Tensor) -> Tensor:
        return torch.from_numpy(np.ceil(score(images, logits).detach().numpy() * 2**10) / 2**10)

    return reject_by(
        Classifier(Affine(weight, bias), 2, has_null=False),
        rounded if rounds else score,
        tau,
        surrogate=score if has_surrogate else None,
    )


@pytest.mark.parametrize(
    ("rounds", "has_surrogate", "is_reached"),
    [(False, False, True), (True, True, True), (True, False, False)],
)
def test_attacks_reach_the_known_optimum_against_a_detector(
    rounds: bool, has_surrogate: bool, is_reached: bool
) -> None:
    model = conflicting(0.1, 0.0625, rounds, has_surrogate)
    optimum = 2 * 0.1 - 0.0625
    image = LabelledImages(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), 2)
    for factor in (0.95, 1.1):
        result = nullclass.evaluate(
            model, image, attacks="pgd", eps=factor * optimum, checks=False, seed=1
        )
        assert result.rate("aer", eps=factor * optimum) == (is_reached and factor > 1)


def writes_into(images: Tensor, logits: Tensor) -> Tensor:
    images.mul_(2)
    return images.flatten(1)[:, 3]


def writes_into_logits(images: Tensor, logits: Tensor) -> Tensor:
    logits[:, 0] = 9
    return images.flatten(1)[:, 3]


def writes_by_numpy(images: Tensor, logits: Tensor) -> Tensor:
    values = images.numpy()
    values *= 255
    return torch.from_numpy(values[:, 0, 0, 0])


@pytest.mark.parametrize(
    ("detector", "says"),
    [
        (lambda images, logits: logits, r"detector returns shape \(8, 3\) for 8 images: let it"),
        (lambda images, logits: logits.mean(), r"detector returns shape \(\) for 8 images"),
        (lambda images, logits: 0.5, "detector returns float for 8 images"),
        (lambda images, logits: logits[:, 0] / 0, "detector returns scores that are not finite"),
        (lambda images, logits: logits[:, 0] * math.nan, "scores that are not finite"),
        (writes_into, "detector changes its input in place"),
        (writes_into_logits, "detector changes its input in place"),
        (writes_by_numpy, "detector changes its input in place"),
    ],
)
def test_detectors_that_are_wrong(detector: Any, says: str) -> None:
    images = some_images()
    before = images.clone()
    for call in (reject_by(pixels(), detector), reject_by(pixels(), detector, 0.5)):
        with pytest.raises(UserError, match=says):
            call(images)
        assert torch.equal(images, before)
    with pytest.raises(UserError, match=says):
        calibrate(reject_by(pixels(), detector), (images, torch.zeros(8).long()), 0.2)


def test_logits_that_are_not_finite_are_named() -> None:
    network = Classifier(lambda images: images.flatten(1)[:, :3] * math.nan, 3, has_null=False)
    with pytest.raises(UserError, match="the model's logits are not finite"):
        reject_by(network, fourth_pixel)(some_images())


def test_settings_that_are_wrong() -> None:
    images = some_images()
    shorter = reject_by(pixels(), fourth_pixel, surrogate=lambda images, logits: logits[:4, 0])
    with pytest.raises(UserError, match=r"the surrogate returns shape \(4,\) for 8 images"):
        shorter(images)
    for detector in (None, 0.5, "confidence", nn.Flatten):
        with pytest.raises(UserError, match="a threshold needs a score"):
            reject_by(pixels(), detector, 0.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the surrogate must be a module or function"):
        reject_by(pixels(), fourth_pixel, surrogate=0.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the classifier has null already"):
        reject_by(pixels(has_null=True), fourth_pixel)
    with pytest.raises(UserError, match="the classifier has no null logit"):
        reject_by(pixels(), "null-logit")
    with pytest.raises(UserError, match="threshold must be a finite number"):
        reject_by(pixels(), "energy", math.nan)
    with pytest.raises(UserError, match=r"must be a nullclass\.Classifier"):
        reject_by(nn.Flatten(), "energy")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="already has a threshold"):
        with_threshold(reject_by(pixels(), "energy", 0.5), 0.5)


def test_the_parts_of_a_model_move_together_and_stay_in_evaluation_mode() -> None:
    network = Classifier(
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)), 3, has_null=False
    )
    helper = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 1))
    model = reject_by(network, lambda images, logits: helper(images)[:, 0], Threshold(0.5)).train()
    assert not network.training
    assert not helper.training
    images = some_images()
    assert torch.equal(model(images), model(images))
    assert model.double()(images.double()).dtype == torch.float64
    assert next(helper.parameters()).dtype == torch.float64


def test_a_detector_of_your_own_is_not_saved(tmp_path: Any) -> None:
    network = pixels()
    for model in (
        reject_by(network, fourth_pixel),
        reject_by(network, fourth_pixel, 0.5),
        reject_by(network, "energy", surrogate=fourth_pixel),
        reject_by(network, FeatureSqueezing(pixels())),
        reject_by(reject_by(pixels(has_null=True), "null-logit"), "null-logit", 0.5),
    ):
        with pytest.raises(
            UserError, match="does not record a class, detector or surrogate of your own"
        ):
            nullclass.save_checkpoint(model, tmp_path / "no")
    assert not (tmp_path / "no").exists()

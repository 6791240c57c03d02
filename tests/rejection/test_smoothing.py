"""Randomised smoothing against linear classifiers, whose smoothed radius is known exactly."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from msgspec.structs import replace
from proof_worlds import tiny_net
from scipy.stats import binom, binomtest
from torch import Tensor, nn

from nullclass.attacks import PGD
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection import Certificates, SmoothedNull, check_certificates
from nullclass.rejection.smoothing import lower_confidence_bound
from nullclass.scoring.proofs import prove

SIGMA = 0.25


def plane(seed: int = 0, pixels: int = 4) -> tuple[Classifier, Tensor]:
    """Two classes on both sides of a plane through the middle of the box, and its unit normal."""
    normal = torch.randn(pixels, generator=torch.Generator().manual_seed(seed))
    normal = normal / normal.norm()
    layer = nn.Linear(pixels, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([normal, -normal]))
        layer.bias.copy_(torch.stack([-normal.sum() / 2, normal.sum() / 2]))
    return Classifier(nn.Sequential(nn.Flatten(), layer), 2, has_null=False).eval(), normal


def images_at(normal: Tensor, *distances: float) -> Tensor:
    """Images at these distances from the plane, on the side of class 0."""
    middle = torch.full((len(normal),), 0.5)
    return torch.stack([middle + d * normal for d in distances]).view(-1, 1, 1, len(normal))


def test_the_radius_is_the_distance_from_the_plane() -> None:
    """p_A = Phi(d / sigma), so R = d: the bound from 4000 copies is below it, and close."""
    model, normal = plane()
    smoothed = SmoothedNull(model, 0.1, sigma=SIGMA, num_samples=4000)
    for distance in (0.1, 0.2, 0.35, -0.2):
        selected, radius = smoothed.certified_radius(images_at(normal, distance)[0])
        assert selected == int(distance < 0)
        assert abs(distance) - 0.06 < radius <= abs(distance)
    predicted = smoothed.predict(images_at(normal, -0.25, -0.05, 0.0, 0.09, 0.2, 0.3))
    assert predicted.tolist() == [1, -1, -1, -1, 0, 0]
    _, largest = smoothed.certified_radius(images_at(normal, 10.0)[0])
    assert largest == pytest.approx(SIGMA * NormalDist().inv_cdf(0.001 ** (1 / 4000)), abs=1e-6)


@pytest.mark.parametrize("num", [1, 7, 100, 1000, 20_000])
def test_the_confidence_bound_is_that_of_clopper_and_pearson(num: int) -> None:
    for rate in (0.0, 0.3, 0.9, 0.999, 1.0):
        hits = round(rate * num)
        bound = lower_confidence_bound(hits, num, 0.999)
        exact = binomtest(hits, num, alternative="greater").proportion_ci(0.999, "exact").low
        assert bound == pytest.approx(exact, abs=1e-9)
        assert binom.sf(hits - 1, num, bound) <= 0.001 or hits == 0


def test_certificates_are_false_no_more_often_than_the_confidence_allows() -> None:
    """At confidence 0.8, at most one in five may claim more than the distance."""
    model, normal = plane(1)
    (image,) = images_at(normal, 0.15)
    num_false = 0
    for seed in range(300):
        smoothed = SmoothedNull(
            model, 0.0, sigma=SIGMA, num_samples=60, num_selection=20, confidence=0.8, seed=seed
        )
        num_false += smoothed.certified_radius(image)[1] > 0.15
    assert num_false > 5, "a bound that is never wrong is not that of a sample"
    assert binom.sf(num_false - 1, 300, 0.2) > 1e-4


def test_the_gradient_is_that_of_the_mean_probabilities() -> None:
    model = tiny_net(0, pixels=4)
    smoothed = SmoothedNull(model, 0.02, sigma=0.1, num_samples=20, num_selection=50)
    images = torch.rand((3, 1, 1, 4), generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        logits = smoothed(images)
    assert max(kept) < 50, "no batch of noisy copies is kept for the gradient"
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), images)
    noisy = torch.stack(
        [smoothed._noisy(each, 50, smoothed._generator(each.detach())) for each in images]
    )
    means = torch.stack([model(copies).softmax(dim=1).mean(dim=0) for copies in noisy])
    (expected,) = torch.autograd.grad(means[:, 1].sum(), images)
    torch.testing.assert_close(gradient, expected)


def test_predictions_depend_on_image_and_seed_only() -> None:
    model = tiny_net(0, pixels=4)
    images = torch.rand((30, 1, 1, 4), generator=torch.Generator().manual_seed(0))
    smoothed = SmoothedNull(model, 0.02, sigma=0.1, num_samples=200)
    before = torch.get_rng_state()
    logits = smoothed(images)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is not used"
    assert torch.equal(smoothed(images.flip(0)).flip(0), logits)
    assert torch.equal(torch.cat([smoothed(image[None]) for image in images]), logits)
    other = SmoothedNull(model, 0.02, sigma=0.1, num_samples=200, seed=1)
    assert not torch.equal(other(images), logits)
    assert set(smoothed.predict(images).tolist()) > {-1}


def test_certificates_are_checked_with_fresh_noise(tmp_path: Path) -> None:
    model, normal = plane(2)
    images = images_at(normal, -0.3, 0.05, 0.2, 0.3)
    certificates = SmoothedNull(model, 0.1, sigma=SIGMA, confidence=0.99).certificates(images)
    assert certificates.labels == (1, -1, 0, 0)
    assert (certificates.confidence, certificates.verifier) == (0.99, "smoothing")
    assert certificates.settings["sigma"] == SIGMA
    certificates.save(tmp_path / "certificates.json")
    margins = check_certificates(tmp_path / "certificates.json", model, images)
    assert (margins > 0).tolist() == [True, False, True, True]
    assert Certificates.load(tmp_path / "certificates.json") == certificates
    # 0.2 is the distance, so 0.1 + 0.3 cannot be the radius.
    larger = replace(certificates, margins=(*certificates.margins[:2], 0.3, 0.1))
    with pytest.raises(UserError, match=r"certificate 2 claims label 0 .* fresh noise finds it"):
        check_certificates(larger, model, images)
    swapped = replace(certificates, labels=(0, -1, 0, 0))
    with pytest.raises(UserError, match="certificate 0"):
        check_certificates(swapped, model, images)
    for index in (2, 3):
        labels, margins_now = list(certificates.labels), list(certificates.margins)
        labels[index], margins_now[index] = -1, -0.05
        hidden = replace(certificates, labels=tuple(labels), margins=tuple(margins_now))
        with pytest.raises(UserError, match="claims that its votes certify nothing"):
            check_certificates(hidden, model, images)


def test_a_forged_number_of_votes_does_not_pass() -> None:
    model, normal = plane(2)
    images = images_at(normal, -0.05)
    certificates = SmoothedNull(model, 0.02, sigma=SIGMA).certificates(images)
    few = {**certificates.settings, "num_samples": 1}
    forged = replace(certificates, labels=(0,), margins=(0.1,), settings=few)
    with pytest.raises(UserError, match="certificate 0"):
        check_certificates(forged, model, images)
    with pytest.raises(UserError, match="need the settings"):
        check_certificates(replace(certificates, settings={}), model, images)
    unsure = SmoothedNull(model, 0.02, sigma=SIGMA, confidence=0.4).certificates(images)
    with pytest.raises(UserError, match=r"a confidence of 0\.4, too little to check"):
        check_certificates(unsure, model, images)


def test_attacks_follow_the_mean_probabilities() -> None:
    model, normal = plane(4)
    images, labels = images_at(normal, 0.2, 0.25), torch.zeros(2, dtype=torch.long)
    smoothed = SmoothedNull(model, 0.1, sigma=SIGMA, num_samples=500)
    near, far = (
        smoothed.predict(PGD(num_steps=8)(smoothed, images, labels, eps=eps, norm="l2"))
        for eps in (0.1, 0.6)
    )
    assert (near != 1).all()
    assert (far == 1).all(), "beyond the distance it can be fooled"


def test_what_smoothing_refuses() -> None:
    model, normal = plane(3)
    smoothed = SmoothedNull(model, 0.02, sigma=SIGMA)
    logits = smoothed(images_at(normal, 0.3) * float("nan"))
    assert logits.argmax(dim=1).tolist() == [smoothed.num_classes], "null"
    data = images_at(normal, 0.2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(UserError, match=r"confidence: call model\.certificates"):
        prove(smoothed, data, 0.2, norm="l2")
    for message, arguments in (
        ("radius", {"radius": -1}),
        ("sigma", {"sigma": 0.0}),
        ("num_samples", {"num_samples": 0}),
        ("confidence", {"confidence": 1.0}),
        ("no null of its own", {"model": tiny_net(0, num_nulls=1)}),
    ):
        with pytest.raises(UserError, match=message):
            SmoothedNull(**({"model": model, "radius": 0.1, "sigma": 0.1} | arguments))

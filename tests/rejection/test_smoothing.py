"""Randomised smoothing against linear classifiers, whose smoothed radius is known exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from proof_worlds import tiny_net
from scipy.stats import beta, binom
from torch import nn

from nullclass.attacks import PGD
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection.certificates import Certificates, check_certificates
from nullclass.rejection.smoothing import SmoothedNull, log_tail, lower_confidence_bound
from nullclass.scoring.prove import certify

SIGMA = 0.25


def plane(seed: int = 0, pixels: int = 4) -> tuple[Classifier, torch.Tensor]:
    """Two classes on both sides of a plane through the box's middle, and its unit normal."""
    normal = torch.randn(pixels, generator=torch.Generator().manual_seed(seed))
    normal = normal / normal.norm()
    layer = nn.Linear(pixels, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([normal, -normal]))
        layer.bias.copy_(torch.stack([-normal.sum() / 2, normal.sum() / 2]))
    return Classifier(nn.Sequential(nn.Flatten(), layer), 2, has_null=False).eval(), normal


def images_at(normal: torch.Tensor, *distances: float) -> torch.Tensor:
    """So far from the plane, on the side of class 0."""
    middle = torch.full((len(normal),), 0.5)
    return torch.stack([middle + d * normal for d in distances]).view(-1, 1, 1, len(normal))


def test_of_a_plane_the_radius_is_the_distance() -> None:
    """p_A = Phi(d / sigma), so R = d: the bound from 4000 copies is below it, and not by much."""
    model, normal = plane()
    smoothed = SmoothedNull(model, 0.1, sigma=SIGMA, num_samples=4000)
    for distance in (0.1, 0.2, 0.35):
        guess, radius = smoothed.body.certified_radius(images_at(normal, distance)[0])
        assert guess == 0
        assert distance - 0.06 < radius <= distance
    guess, radius = smoothed.body.certified_radius(images_at(normal, -0.2)[0])
    assert guess == 1
    assert 0.14 < radius <= 0.2
    # It answers where the radius is certified, and certainly not where it is not.
    answers = smoothed.predict(images_at(normal, -0.25, -0.05, 0.0, 0.09, 0.2, 0.3))
    assert answers.tolist() == [1, -1, -1, -1, 0, 0]
    _, most = smoothed.body.certified_radius(images_at(normal, 10.0)[0])
    assert most == pytest.approx(SIGMA * NormalDist().inv_cdf(0.001 ** (1 / 4000)), abs=1e-6)


@pytest.mark.parametrize("num", [1, 7, 100, 1000, 20_000])
def test_the_confidence_bound_is_that_of_clopper_and_pearson(num: int) -> None:
    for share in (0.0, 0.3, 0.9, 0.999, 1.0):
        hits = round(share * num)
        exact = beta.ppf(0.001, hits, num - hits + 1) if hits else 0.0
        found = lower_confidence_bound(hits, num, 0.999)
        assert found == pytest.approx(exact, abs=1e-9)
        if 0 < found < 1:
            assert log_tail(hits, num, found) == pytest.approx(binom.logsf(hits - 1, num, found))


def test_claims_are_false_no_more_often_than_the_confidence_says() -> None:
    """With the confidence at 0.8 one answer in five at most may claim more than the distance."""
    model, normal = plane(1)
    image = images_at(normal, 0.15)
    num_false = 0
    for seed in range(300):
        smoothed = SmoothedNull(
            model, 0.0, sigma=SIGMA, num_samples=60, num_selection=20, confidence=0.8, seed=seed
        )
        num_false += smoothed.body.certified_radius(image[0])[1] > 0.15
    assert num_false > 5, "the bound is never wrong: then it is not that of a sample"
    assert binom.sf(num_false - 1, 300, 0.2) > 1e-4


def test_answers_hang_on_image_and_seed_alone() -> None:
    model = tiny_net(0, pixels=4)
    images = torch.rand((30, 1, 1, 4), generator=torch.Generator().manual_seed(0))
    smoothed = SmoothedNull(model, 0.02, sigma=0.1, num_samples=200)
    before = torch.get_rng_state()
    logits = smoothed(images)
    assert torch.equal(torch.get_rng_state(), before), "the global stream is nobody's"
    assert torch.equal(smoothed(images.flip(0)).flip(0), logits)
    assert torch.equal(torch.cat([smoothed(image[None]) for image in images]), logits)
    other = SmoothedNull(model, 0.02, sigma=0.1, num_samples=200, seed=1)
    assert not torch.equal(other(images), logits)
    assert set(smoothed.predict(images).tolist()) > {-1}


def test_its_certificates_tell_their_confidence_and_are_held_against_fresh_noise(
    tmp_path: Path,
) -> None:
    model, normal = plane(2)
    images = images_at(normal, -0.3, 0.05, 0.2, 0.3)
    smoothed = SmoothedNull(model, 0.1, sigma=SIGMA, confidence=0.99)
    certificates = smoothed.certificates(images)
    assert certificates.labels == (1, -1, 0, 0)
    assert certificates[2].confidence == 0.99
    assert certificates[2].verifier == "smoothing"
    assert certificates.settings["sigma"] == SIGMA
    certificates.save(tmp_path / "kept.json")
    again = check_certificates(Certificates.load(tmp_path / "kept.json"), model, images)
    assert again.isnan().tolist() == [False, True, False, False]
    assert (again[2:] > 0).all()
    # 0.2 is the distance, so 0.1 + 0.3 cannot be its radius.
    more = replace(certificates, margins=(*certificates.margins[:2], 0.3, 0.1))
    with pytest.raises(UserError, match=r"certificate 2 claims label 0 .* fresh noise finds it"):
        check_certificates(more, model, images)
    swapped = replace(certificates, labels=(0, -1, 0, 0))
    with pytest.raises(UserError, match="certificate 0"):
        check_certificates(swapped, model, images)


def test_it_is_no_proof() -> None:
    model, normal = plane(3)
    data = images_at(normal, 0.2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(UserError, match=r"confidence: ask for model\.certificates"):
        certify(SmoothedNull(model, 0.1, sigma=SIGMA), data, 0.2, norm="l2")


def test_a_forged_number_of_votes_does_not_pass() -> None:
    model, normal = plane(2)
    images = images_at(normal, -0.05)
    told = SmoothedNull(model, 0.02, sigma=SIGMA).certificates(images)
    few = {**told.settings, "num_samples": 1}
    forged = replace(told, labels=(0,), margins=(0.1,), settings=few)
    with pytest.raises(UserError, match="certificate 0"):
        check_certificates(forged, model, images)
    with pytest.raises(UserError, match="settings that make no sense"):
        check_certificates(replace(told, settings={}), model, images)


def test_votes_that_are_no_numbers_are_null() -> None:
    model, normal = plane(2)
    smoothed = SmoothedNull(model, 0.02, sigma=SIGMA)
    assert smoothed.predict(images_at(normal, 0.3) * float("nan")).tolist() == [-1]


def test_attacks_climb_by_the_mean_probabilities() -> None:
    model, normal = plane(4)
    images = images_at(normal, 0.2, 0.25)
    smoothed = SmoothedNull(model, 0.1, sigma=SIGMA, num_samples=500)
    labels = torch.zeros(2, dtype=torch.long)
    attack = PGD(num_steps=8)
    near = attack(smoothed, images, labels, eps=0.1, norm="l2")
    assert (smoothed.predict(near) != 1).all()
    far = attack(smoothed, images, labels, eps=0.6, norm="l2")
    assert (smoothed.predict(far) == 1).all(), "beyond the distance it can be fooled"


def test_bad_input_is_refused_in_a_sentence() -> None:
    model, _ = plane()
    with pytest.raises(UserError, match="radius"):
        SmoothedNull(model, -1, sigma=0.1)
    with pytest.raises(UserError, match="sigma"):
        SmoothedNull(model, 0.1, sigma=0.0)
    with pytest.raises(UserError, match="noisy copy"):
        SmoothedNull(model, 0.1, sigma=0.1, num_samples=0)
    with pytest.raises(UserError, match="confidence"):
        SmoothedNull(model, 0.1, sigma=0.1, confidence=1.0)
    with pytest.raises(UserError, match="no null of its own"):
        SmoothedNull(tiny_net(0, num_nulls=1), 0.1, sigma=0.1)

"""The worst case through every way to refuse, where brute force knows the best attack.

Images have two pixels, so a grid of the whole square finds the smallest ε at which any image of the
ball is fooled, up to the grid's spacing.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nullclass.attacks import Attack, WholeBallPGD, worst_case
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.models import Classifier
from nullclass.rejection import (
    AnswerDivergence,
    ConsistentNull,
    FeatureSqueezing,
    ProvableNull,
    ReconstructionError,
    calibrate,
    fit_kernel_density,
    fit_mahalanobis,
    fit_odds_are_odd,
    reject_by,
    with_threshold,
)
from nullclass.rejection.scores import SCORES

SIDE = 201
"""Points of the grid per pixel."""
SPACING = 1 / (SIDE - 1)
NUM_CLASSES = 3


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> Classifier:
    """Three classes with curved boundaries; the last hidden features have four dimensions."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    model = Classifier(body, NUM_CLASSES, has_null=False, image_shape=(1, 1, 2))
    with torch.no_grad():
        body[1].weight.mul_(6)
        body[1].bias.copy_(-body[1].weight.sum(dim=1) / 2 + torch.randn(8, generator=generator(9)))
        body[3].weight.mul_(4)
    images = torch.rand(2000, 1, 1, 2, generator=generator(1))
    with torch.no_grad():  # so that all classes occur
        body[3].bias.sub_(model(images).mean(dim=0))
    return model.eval()


class OnADiagonal(nn.Module):
    """An autoencoder that knows images with two equal pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=3, keepdim=True).expand_as(images)


def clean_images(model: Classifier) -> tuple[Tensor, Tensor]:
    """Images near the diagonal, and the network's answers as labels."""
    along = torch.rand(600, 1, 1, 1, generator=generator(2))
    images = along + 0.06 * torch.randn(600, 1, 1, 2, generator=generator(3))
    images = images.clamp(0, 1)
    return images, model.predict(images)


def refusing(name: str, model: Classifier) -> Classifier:
    """The network with a way to refuse that answers about nine tenths of the clean images."""
    images, labels = clean_images(model)
    fit, held_out = (images[:400], labels[:400]), (images[400:], labels[400:])
    if name == "proof":
        return ProvableNull(model, 0.01)
    if name == "consistency":
        around = ConsistentNull(model, 0.03, num_steps=8)
    else:
        detectors = {
            "feature-squeezing": lambda: FeatureSqueezing(model, num_bits=3),
            "magnet-reconstruction": lambda: ReconstructionError(OnADiagonal()),
            "magnet-divergence": lambda: AnswerDivergence(model, OnADiagonal()),
            "kernel-density": lambda: fit_kernel_density(model, fit, bandwidth=0.3),
            "mahalanobis": lambda: fit_mahalanobis(model, fit),
            "odds-are-odd": lambda: fit_odds_are_odd(model, fit, sigma=0.03, num_draws=8),
        }
        around = reject_by(model, name if name in SCORES else detectors[name]())  # type: ignore[assignment]
    return with_threshold(around, calibrate(around, held_out, 0.1))


def grid() -> Tensor:
    axis = torch.linspace(0, 1, SIDE)
    return torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)


def brute_force(model: Classifier, image: Tensor, label: Tensor) -> float:
    """The distance of the nearest fooled point whose neighbours are fooled too.

    A single point of the grid need not be found by steps.
    """
    points = grid()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in points.split(20_000)])
    answers = predictions(logits, NUM_CLASSES)
    fooled = ((answers != label) & (answers >= 0)).view(1, 1, SIDE, SIDE).float()
    solid = -nn.functional.max_pool2d(-fooled, 5, stride=1, padding=2).flatten() > 0
    distances = (points - image).abs().flatten(1).amax(dim=1)
    return float(distances[solid].min()) if bool(solid.any()) else float("inf")


RULES = (
    *(name for name in SCORES if name != "null-logit"),
    "feature-squeezing",
    "magnet-reconstruction",
    "magnet-divergence",
    "kernel-density",
    "mahalanobis",
    "odds-are-odd",
    "consistency",
    "proof",
)


def attack_all(attack: Attack, name: str) -> tuple[int, int]:
    """The number of images that the attack fools where it must, and of those it must fool."""
    found = num = 0
    for seed in range(2):
        inside = network(seed)
        model = refusing(name, inside)
        images, labels = clean_images(inside)
        answered = (model.predict(images) == labels).nonzero()[:, 0][:6]
        images, labels = images[answered], labels[answered]
        nearest = torch.tensor(
            [brute_force(model, *pair) for pair in zip(images, labels, strict=True)]
        )
        chosen = nearest < 0.9
        eps = 1.05 * nearest[chosen] + SPACING
        adv_images = attack(model, images[chosen], labels[chosen], eps=eps, generator=generator(0))
        answers = outcomes(model.predict(adv_images), labels[chosen])
        num += len(eps)
        found += int((answers == Outcome.FOOLED).sum())
    return found, num


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_the_worst_case_finds_the_best_attack(name: str) -> None:
    found, num = attack_all(worst_case(), name)
    assert num >= 6
    assert found == num


@pytest.mark.slow
@pytest.mark.parametrize(("name", "radius"), [("consistency", 0.03), ("proof", 0.01)])
def test_so_does_the_attack_on_the_whole_ball(name: str, radius: float) -> None:
    found, num = attack_all(WholeBallPGD(radius=radius), name)
    assert num >= 6
    assert found == num

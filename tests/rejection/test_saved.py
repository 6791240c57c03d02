"""Checkpoints of models with detectors: the same model comes back, and damage is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from worlds import small_network

import nullclass
from nullclass.core.documents import write_document
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier, build_model
from nullclass.rejection import (
    AnswerDivergence,
    ConsistentNull,
    FeatureSqueezing,
    ReconstructionError,
    Threshold,
    ThresholdedClassifier,
    calibrate,
    fit_kernel_density,
    fit_mahalanobis,
    fit_odds_are_odd,
    reject_by,
    train_autoencoder,
    with_threshold,
)
from nullclass.rejection.saved import KINDS
from nullclass.training.card import DetectorRefusal, read_card
from nullclass.training.checkpoint import CARD

SHAPE = (1, 8, 8)


def world() -> tuple[Classifier, LabelledImages]:
    """An untrained network of the package, and images on which it predicts each class."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model("small", image_shape=SHAPE, num_classes=3, has_null=False).eval()
    images = torch.rand(90, *SHAPE, generator=torch.Generator().manual_seed(1))
    last = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= network(images).mean(dim=0)
    return network, LabelledImages(images, torch.arange(90) % 3, 3)


DETECTORS: dict[str, Callable[[Classifier, LabelledImages], nn.Module | str]] = {
    "logits": lambda network, clean: "entropy",
    "feature-squeezing": lambda network, clean: FeatureSqueezing(network, num_bits=2, window=3),
    "magnet-reconstruction": lambda network, clean: ReconstructionError(
        train_autoencoder(clean, num_epochs=1), power=2
    ),
    "magnet-divergence": lambda network, clean: AnswerDivergence(
        network, train_autoencoder(clean, num_epochs=1), temperature=40.0
    ),
    "kernel-density": lambda network, clean: fit_kernel_density(network, clean, bandwidth=0.5),
    "mahalanobis": lambda network, clean: fit_mahalanobis(
        network, clean, layers=(None, _first_convolution(network))
    ),
    "odds-are-odd": lambda network, clean: fit_odds_are_odd(network, clean, num_draws=4),
}


def _first_convolution(network: Classifier) -> str:
    return next(name for name, part in network.named_modules() if isinstance(part, nn.Conv2d))


def refusing(name: str) -> tuple[Classifier, LabelledImages]:
    network, clean = world()
    if name == "consistency":
        model: Classifier = ConsistentNull(network, 0.02, num_steps=2, num_restarts=1, seed=5)
    else:
        model = reject_by(network, DETECTORS[name](network, clean))
    return model, clean


@pytest.mark.parametrize("name", KINDS)
def test_a_model_with_a_detector_comes_back(name: str, tmp_path: Path) -> None:
    model, clean = refusing(name)
    calibrated = with_threshold(model, calibrate(model, clean, 0.2))
    for saved, folder in ((model, tmp_path / "plain"), (calibrated, tmp_path / "calibrated")):
        nullclass.save_checkpoint(saved, folder)
        loaded, card = nullclass.load_checkpoint(folder)
        assert torch.equal(loaded(clean.images), saved(clean.images))
        images = clean.images[:8].clone().requires_grad_()
        gradients = [
            torch.autograd.grad(m(images)[:, -1].sum(), images)[0] for m in (loaded, saved)
        ]
        assert torch.equal(*gradients)
        assert isinstance(card.refusal, DetectorRefusal)
        assert card.refusal.detector == name
        nullclass.save_checkpoint(loaded, folder)  # again the same file
        assert read_card(folder).weights_sha256 == card.weights_sha256
    assert isinstance(loaded, ThresholdedClassifier)
    assert loaded.threshold == calibrated.threshold  # type: ignore[attr-defined]
    assert 0 < float((loaded.predict(clean.images) == -1).float().mean()) <= 0.2


def test_rounding_leaves_the_detector_exact(tmp_path: Path) -> None:
    model, _ = refusing("mahalanobis")
    nullclass.save_checkpoint(model, tmp_path, stored="int8")
    loaded, _ = nullclass.load_checkpoint(tmp_path)
    assert torch.equal(loaded.detector.means_0, model.detector.means_0)  # type: ignore[union-attr]


def test_a_null_logit_by_a_threshold_is_saved(tmp_path: Path) -> None:
    network = build_model("small", image_shape=SHAPE, num_classes=3).eval()
    model = reject_by(network, "null-logit", Threshold(0.25))
    nullclass.save_checkpoint(model, tmp_path)
    images = torch.rand(9, *SHAPE)
    assert torch.equal(nullclass.load_checkpoint(tmp_path)[0](images), model(images))


def test_a_network_of_your_own_with_a_detector(tmp_path: Path) -> None:
    model = reject_by(small_network(0), "energy", 0.1)
    nullclass.save_checkpoint(model, tmp_path)
    body = small_network(0).body
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.zero_()
    loaded, _ = nullclass.load_checkpoint(tmp_path, body=body)
    images = torch.rand(9, 1, 6, 6)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"detector": "magic"}, "there is no detector 'magic' of these settings and tensors"),
        ({"detector": "odds-are-odd"}, "there is no detector 'odds-are-odd' of these"),
        ({"detector": "logits", "settings": {"name": "magic"}}, "score must be one of"),
        ({"settings": {}}, "there is no detector 'mahalanobis' of these settings and tensors"),
        ({"settings": {"layers": [None, None, None]}}, "there is no detector 'mahalanobis'"),
        ({"shapes": {}}, "has the shape"),
        ({"shapes": {"means_0": (1, 1)}}, "has the shape"),
    ],
)
def test_a_card_that_does_not_fit(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    model, _ = refusing("mahalanobis")
    nullclass.save_checkpoint(model, tmp_path)
    card = read_card(tmp_path)
    assert isinstance(card.refusal, DetectorRefusal)
    refusal = msgspec.structs.replace(card.refusal, **changes)
    write_document(tmp_path / CARD, msgspec.structs.replace(card, refusal=refusal, checksum=""))
    with pytest.raises(UserError, match=says) as caught:
        nullclass.load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    json.loads((tmp_path / CARD).read_text())

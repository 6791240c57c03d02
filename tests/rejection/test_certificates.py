"""Certificates: kept, checked again from the weights alone, and refused if anything was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proof_worlds import square_grid, tiny_net
from torch import nn

from nullclass.certify.corners import corner_margins
from nullclass.certify.margins import margins
from nullclass.certify.network import read_network
from nullclass.certify.verifiers import VERIFIERS
from nullclass.core.errors import UserError
from nullclass.models import Classifier, build_model
from nullclass.rejection.certificates import (
    Certificates,
    check_certificates,
    weights_sha256,
)
from nullclass.rejection.provable import ProvableNull

IMAGES = square_grid(12)


def made(seed: int = 0, **settings: Any) -> tuple[Classifier, Certificates]:
    model = tiny_net(seed)
    return model, ProvableNull(model, 0.05, **settings).certificates(IMAGES)


def test_a_certificate_tells_what_was_proved() -> None:
    model, certificates = made()
    guarded = ProvableNull(model, 0.05)
    assert [each.label for each in certificates] == guarded.predict(IMAGES).tolist()
    assert 0 < certificates.num_proved < len(certificates) == len(IMAGES)
    first = certificates[0]
    assert (first.radius, first.norm, first.verifier) == (0.05, "linf", "interval")
    assert (first.dtype, first.confidence) == ("float32", 1.0)
    assert first.weights_sha256 == weights_sha256(model)
    for each in certificates:
        assert (each.margin > 0) == (each.label >= 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_they_are_kept_and_proved_anew(norm: str, tmp_path: Path) -> None:
    model, certificates = made(norm=norm)
    certificates.save(tmp_path / "kept.json")
    assert Certificates.load(tmp_path / "kept.json") == certificates
    again = check_certificates(tmp_path / "kept.json", model, IMAGES)
    told = torch.tensor(certificates.margins, dtype=torch.float64)
    claimed = torch.tensor(certificates.labels) >= 0
    assert torch.equal(again.isfinite(), claimed), "null claims nothing"
    # A float32 proof is never better than the float64 one, and not far worse.
    assert (again[claimed] >= told[claimed]).all()
    assert (again[claimed] - told[claimed] < 1e-3).all()
    # The model itself will do, and so will its exact copy in float64.
    check_certificates(certificates, ProvableNull(model, 0.05), IMAGES)
    check_certificates(certificates, model.double(), IMAGES.double())


def flip_bit(model: Classifier, name: str) -> None:
    """The last bit of one weight."""
    with torch.no_grad():
        dict(model.named_parameters())[name].view(torch.int32).flatten()[3] ^= 1


@pytest.mark.parametrize("name", ["body.1.weight", "body.1.bias", "body.3.weight"])
def test_one_bit_of_one_weight_is_noticed(name: str) -> None:
    model, certificates = made()
    check_certificates(certificates, model, IMAGES)
    flip_bit(model, name)
    with pytest.raises(UserError, match="weights are not those"):
        check_certificates(certificates, model, IMAGES)
    flip_bit(model, name)
    check_certificates(certificates, model, IMAGES)


def test_the_standardisation_and_statistics_belong_to_the_weights() -> None:
    def model(mean: float = 0.1) -> Classifier:
        torch.manual_seed(0)
        body = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(2, 3))
        return Classifier(body, 3, has_null=False, mean=(mean,)).eval()

    with torch.random.fork_rng():
        told = weights_sha256(model())
        assert weights_sha256(model()) == told
        assert weights_sha256(model(mean=0.1 + 1e-8)) != told
        other = model()
    other.body[0].running_var += 1e-7
    assert weights_sha256(other) != told


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda: IMAGES.flip(0), "image 0 is not the one"),
        (lambda: IMAGES[:-1], "144 certificates, but 143 images"),
        (lambda: IMAGES + torch.zeros(144, 1, 1, 2).index_fill_(0, torch.tensor([7]), 1e-3),
         "image 7 is not the one"),
        (lambda: IMAGES.view(-1, 1, 2, 1), "image 0 is not the one"),
    ],
)  # fmt: skip
def test_other_images_are_refused(images: Callable[[], torch.Tensor], message: str) -> None:
    model, certificates = made()
    with pytest.raises(UserError, match=message):
        check_certificates(certificates, model, images())


def changed(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def test_a_changed_claim_cannot_be_proved() -> None:
    model, told = made()
    proved = next(place for place, each in enumerate(told) if each.label >= 0)
    null = next(place for place, each in enumerate(told) if each.label < 0)
    other = (told.labels[proved] + 1) % 3
    claims = {
        "margin": replace(told, margins=changed(told.margins, proved, told.margins[proved] * 1.5)),
        "label": replace(told, labels=changed(told.labels, proved, other)),
        "null answered": replace(
            told,
            labels=changed(told.labels, null, 1),
            margins=changed(told.margins, null, 0.1),
        ),
        "radius": replace(told, radius=0.3),
        "negative": replace(told, margins=changed(told.margins, proved, -0.1)),
    }
    for name, claim in claims.items():
        with pytest.raises(UserError, match="claims a margin"):
            check_certificates(claim, model, IMAGES)
        assert name
    with pytest.raises(UserError, match="label that the model does not have"):
        check_certificates(replace(told, labels=changed(told.labels, proved, 9)), model, IMAGES)
    # A smaller margin is no lie.
    check_certificates(
        replace(told, margins=changed(told.margins, proved, told.margins[proved] / 2)),
        model,
        IMAGES,
    )


def test_an_edited_or_foreign_file_is_refused(tmp_path: Path) -> None:
    _, certificates = made()
    path = tmp_path / "kept.json"
    certificates.save(path)
    content = json.loads(path.read_text())
    for edit in (
        {"margins": [0.5, *content["margins"][1:]]},
        {"radius": 0.06},
        {"labels": content["labels"][:-1]},
    ):
        path.write_text(json.dumps(content | edit))
        with pytest.raises(UserError, match="damaged or edited"):
            Certificates.load(path)
    path.write_text(json.dumps({"kind": "shopping"}))
    with pytest.raises(UserError, match="holds no certificates"):
        Certificates.load(path)
    with pytest.raises(UserError, match="no list of certificates"):
        Certificates.load(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="without null"):
        check_certificates(certificates, tiny_net(0, num_nulls=1), IMAGES)


def test_an_unsound_verifier_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its certificates are proved anew by the same wrong bounds, which corners contradict."""
    sound = VERIFIERS["interval"]
    monkeypatch.setitem(VERIFIERS, "interval", lambda *given: sound(*given) + 0.3)
    model, certificates = made()
    with pytest.raises(UserError, match="two computations of one bound differ"):
        check_certificates(certificates, model, IMAGES)


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_corners_and_centres_bound_the_same(seed: int, radius: float) -> None:
    model = tiny_net(seed, num_classes=4, pixels=6).double()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((8, 1, 1, 6), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (8,), generator=generator)
    network = read_network(model)
    with torch.no_grad():
        one = margins(network, images, labels, radius, verifier=VERIFIERS["interval"])
    torch.testing.assert_close(
        corner_margins(network, images, labels, radius), one, atol=1e-9, rtol=1e-9
    )


def test_corners_know_every_kind_of_layer() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(1, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.two = nn.Conv2d(1, 4, 3, padding=1)
            self.last = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.sigmoid(self.norm(self.one(x))) - torch.tanh(self.two(x))
            return self.last(nn.functional.max_pool2d(x, 2).flatten(1)).relu()

    with torch.random.fork_rng():
        torch.manual_seed(1)
        odd = Classifier(Branches(), 3, has_null=False, mean=(0.2,), std=(0.4,)).double().eval()
        usual = build_model(
            "certifiable-small", image_shape=(1, 8, 8), num_classes=3, has_null=False
        ).double().eval()  # fmt: skip
        pixels = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    odd.body.norm.running_mean.fill_(0.1)
    for model, images in ((odd, pixels[..., :4, :4]), (usual, pixels)):
        network = read_network(model)
        labels = torch.tensor([0, 1, 2, 0, 1])
        with torch.no_grad():
            one = margins(network, images, labels, 0.03, verifier=VERIFIERS["interval"])
        other = corner_margins(network, images, labels, 0.03)
        torch.testing.assert_close(other, one, atol=1e-9, rtol=1e-9)

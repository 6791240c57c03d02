"""Certificates: stored, proved again from the weights alone, and refused after any change."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from edited import edit_document
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from proof_worlds import square_grid, tiny_net
from torch import Tensor, nn

from nullclass.certify import VERIFIERS, corner_margins, label_margins, read_network
from nullclass.core.errors import UserError
from nullclass.core.outcomes import NULL_LABEL
from nullclass.models import Classifier, build_model
from nullclass.rejection import Certificates, ProvableNull, check_certificates, weights_sha256

IMAGES = square_grid(12)


def certify(norm: str = "linf") -> tuple[Classifier, Certificates]:
    model = tiny_net(0)
    return model, ProvableNull(model, 0.05, norm=norm).certificates(IMAGES)


def test_certificates_state_what_was_proved() -> None:
    model, certificates = certify()
    assert list(certificates.labels) == ProvableNull(model, 0.05).predict(IMAGES).tolist()
    assert 0 < certificates.num_proved < len(certificates) == len(IMAGES)
    stated = certificates.radius, certificates.norm, certificates.verifier, certificates.dtype
    assert stated == (0.05, "linf", "interval", "float32")
    assert (certificates.confidence, certificates.settings) == (1.0, {})
    assert certificates.weights_sha256 == weights_sha256(model)
    for label, margin in zip(certificates.labels, certificates.margins, strict=True):
        assert (margin > 0) == (label >= 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_they_are_stored_and_proved_again(norm: str, tmp_path: Path) -> None:
    model, certificates = certify(norm)
    path = tmp_path / "certificates.json"
    certificates.save(path)
    assert Certificates.load(path) == certificates
    proved = check_certificates(path, model, IMAGES)
    margins = torch.tensor(certificates.margins, dtype=torch.float64)
    claimed = torch.tensor(certificates.labels) >= 0
    assert (proved[~claimed] <= 0).all(), "of null, in float32 as it was"
    # A float32 proof is never better than the float64 one, and not much worse.
    assert (proved[claimed] >= margins[claimed]).all()
    assert (proved[claimed] - margins[claimed] < 1e-3).all()
    # The model that made them is accepted, and so is an exact copy in float64.
    check_certificates(certificates, ProvableNull(model, 0.05), IMAGES)
    check_certificates(certificates, model.double(), IMAGES.double())


def flip_bit(model: Classifier, name: str) -> None:
    """Flip the last bit of one weight."""
    with torch.no_grad():
        dict(model.named_parameters())[name].view(torch.int32).flatten()[3] ^= 1


def test_one_bit_of_one_weight_is_noticed() -> None:
    model, certificates = certify()
    for name in ("body.1.weight", "body.1.bias", "body.3.weight"):
        flip_bit(model, name)
        with pytest.raises(UserError, match="weights are not those"):
            check_certificates(certificates, model, IMAGES)
        flip_bit(model, name)
        check_certificates(certificates, model, IMAGES)


def test_standardisation_and_statistics_belong_to_the_weights() -> None:
    def model(mean: float = 0.1) -> Classifier:
        torch.manual_seed(0)
        body = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(2, 3))
        return Classifier(body, 3, has_null=False, mean=(mean,)).eval()

    with torch.random.fork_rng():
        digest = weights_sha256(model())
        assert weights_sha256(model()) == digest
        assert weights_sha256(model(mean=0.1 + 1e-8)) != digest
        other = model()
    other.body[0].running_var += 1e-7
    assert weights_sha256(other) != digest


def test_other_images_are_refused() -> None:
    model, certificates = certify()
    for images, message in (
        (IMAGES.flip(0), "image 0 is not the image"),
        (IMAGES[:-1], "144 certificates, but 143 images"),
        (torch.cat([IMAGES[:7], IMAGES[7:] + 1e-3]), "image 7 is not the image"),
        (IMAGES.view(-1, 1, 2, 1), "image 0 is not the image"),
    ):
        with pytest.raises(UserError, match=message):
            check_certificates(certificates, model, images)


def test_a_changed_claim_is_refused() -> None:
    model, given_ = certify()
    proved = next(index for index, label in enumerate(given_.labels) if label >= 0)
    null = given_.labels.index(-1)
    other = (given_.labels[proved] + 1) % 3

    def claim(index: int, label: int, margin: float) -> Certificates:
        labels, margins = list(given_.labels), list(given_.margins)
        labels[index], margins[index] = label, margin
        return replace(given_, labels=tuple(labels), margins=tuple(margins))

    label, margin = given_.labels[proved], given_.margins[proved]
    for false in (
        claim(proved, label, 1.5 * margin),
        claim(proved, label, -0.1),
        claim(proved, other, margin),
        claim(null, 1, 0.1),
        claim(null, NULL_LABEL, 0.1),
        claim(proved, NULL_LABEL, margin),
    ):
        with pytest.raises(UserError, match="claims a margin"):
            check_certificates(false, model, IMAGES)
    for false in (
        claim(proved, NULL_LABEL, -margin),
        claim(proved, NULL_LABEL, 0.0),
        claim(null, NULL_LABEL, given_.margins[null] - 0.01),
        claim(null, NULL_LABEL, -1000.0),
        replace(given_, radius=0.3),
    ):
        with pytest.raises(UserError, match="claims that nothing is proved"):
            check_certificates(false, model, IMAGES)
    for label_ in (9, -2):
        with pytest.raises(UserError, match="label that the model does not have"):
            check_certificates(claim(proved, label_, margin), model, IMAGES)
    with pytest.raises(UserError, match="they were changed"):
        check_certificates(replace(given_, confidence=0.9), model, IMAGES)
    check_certificates(claim(proved, label, margin / 2), model, IMAGES)  # claims less


def test_an_edited_or_foreign_file_is_refused(tmp_path: Path) -> None:
    _, certificates = certify()
    path = tmp_path / "certificates.json"
    certificates.save(path)
    content = json.loads(path.read_text())
    for edit in ({"margins": [0.5, *content["margins"][1:]]}, {"radius": 0.06}):
        path.write_text(json.dumps(content | edit, indent=2))
        with pytest.raises(UserError, match="has changed since it was written"):
            Certificates.load(path)
    text = json.dumps(content)
    for edit, says in (
        ({"kind": "shopping"}, "Invalid value 'shopping'"),
        ({"labels": content["labels"][:-1]}, "need a label, a margin and a hash"),
        ({"labels": [-2, *content["labels"][1:]]}, "Expected `int` >= -1"),
        ({"labels": [0.5, *content["labels"][1:]]}, "Expected `int`, got `float`"),
        ({"images_sha256": ["x", *content["images_sha256"][1:]]}, "matching regex"),
        ({"radius": -1}, "Expected `float` >= 0"),
        ({"norm": "l0"}, "Invalid enum value 'l0'"),
        ({"dtype": "int8"}, "Invalid enum value 'int8'"),
        ({"confidence": 2}, "Expected `float` <= 1"),
        ({"settings": {"sigma": "x"}}, "Expected `int | float`"),
        ({"beer": 1}, "unknown field `beer`"),
    ):
        path.write_text(text)
        edit_document(path, **edit)
        with pytest.raises(UserError, match=re.escape(says)):
            Certificates.load(path)
    with pytest.raises(UserError, match="list of certificates"):
        Certificates.load(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="without null"):
        check_certificates(certificates, tiny_net(0, num_nulls=1), IMAGES)


def test_an_unsound_verifier_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wrong bounds prove its certificates again; the bounds by corners contradict them."""
    sound = VERIFIERS["interval"]
    monkeypatch.setitem(VERIFIERS, "interval", lambda *args: lambda spec: sound(*args)(spec) + 0.3)
    model, certificates = certify()
    with pytest.raises(UserError, match="two computations of a bound differ"):
        check_certificates(certificates, model, IMAGES)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.two = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.norm(self.one(x))) - torch.tanh(self.two(x))
        return self.last(nn.functional.max_pool2d(x, 2).flatten(1)).relu()


@torch.no_grad()
def assert_bounds_agree(model: Classifier, images: Tensor, labels: Tensor, radius: float) -> None:
    """Center and radius, and lower and upper corners, give the same bounds."""
    network = read_network(model, images.shape[1:])
    margins = label_margins(network, images, labels, radius, verifier=VERIFIERS["interval"])
    corners = corner_margins(network, images, labels, radius)
    torch.testing.assert_close(corners, margins, atol=1e-9, rtol=1e-9)


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_both_computations_agree(seed: int, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((8, 1, 1, 6), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (8,), generator=generator)
    assert_bounds_agree(tiny_net(seed, num_classes=4, pixels=6).double(), images, labels, radius)


def test_both_computations_agree_on_every_kind_of_layer() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        branches = Classifier(Branches(), 3, has_null=False, mean=(0.2,), std=(0.4,))
        branches.body.norm.running_mean.fill_(0.1)
        usual = build_model(
            "certifiable-small", image_shape=(1, 8, 8), num_classes=3, has_null=False
        )
        images = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    assert_bounds_agree(branches.double().eval(), images[..., :4, :4], labels, 0.03)
    assert_bounds_agree(usual.double().eval(), images, labels, 0.03)

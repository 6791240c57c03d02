"""Direct calls of attacks: every input is understood, or refused in one sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worlds import Affine

from nullclass.attacks import (
    APGD,
    FGSM,
    FMN,
    MIFGSM,
    PGD,
    AttackEnsemble,
    DatasetAttack,
    RayS,
    Square,
    Transfer,
    worst_case,
)
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.conditional import OnSample, OnZeroGradient
from nullclass.attacks.refined import RefinedPGD
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier

ATTACKS = {
    "fgsm": FGSM(),
    "mi-fgsm": MIFGSM(num_steps=2),
    "pgd": PGD(num_steps=2),
    "apgd": APGD(num_steps=2),
    "fmn": FMN(num_steps=2),
    "square": Square(num_queries=2),
    "rays": RayS(num_queries=2),
    "worst-case": worst_case(),
}
IMAGES = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 4)).eval()


def attacked(name: str, module: nn.Module, images: Any, labels: Any) -> Tensor:
    return ATTACKS[name](module, images, labels, eps=0.1, num_classes=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["fgsm", "pgd", "rays", "fmn"])
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES, LABELS.int()),
        (IMAGES, LABELS.to(torch.uint8)),
        (IMAGES * (1 + 2e-6) - 1e-6, LABELS),
        (IMAGES.double(), LABELS),
    ],
    ids=["int32 labels", "uint8 labels", "rounding", "float64"],
)
def test_inputs_that_evaluate_takes(name: str, images: Tensor, labels: Tensor) -> None:
    expected = attacked(name, network(), IMAGES, LABELS)
    found = attacked(name, network(), images, labels)
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_attacked_in_float32(dtype: torch.dtype) -> None:
    images = IMAGES.to(dtype)
    expected = attacked("pgd", network(), images.float(), LABELS)
    assert torch.equal(attacked("pgd", network(), images, LABELS), expected)


def test_everything_is_on_one_device() -> None:
    model = Classifier(network(), 3)
    with pytest.raises(UserError, match="on cpu, meta: move them to one device"):
        PGD()(model.to("meta"), IMAGES, LABELS, eps=0.1)


def test_images_of_another_shape_are_refused() -> None:
    model = Classifier(network(), 3, image_shape=(1, 2, 2))
    says = r"images have the shape \(1, 1, 4\), and the model takes \(1, 2, 2\)"
    with pytest.raises(UserError, match=says):
        PGD()(model, IMAGES.view(6, 1, 1, 4), LABELS, eps=0.1)
    with pytest.raises(UserError, match=says):
        model.predict(IMAGES.view(6, 1, 1, 4))


@pytest.mark.parametrize("name", ATTACKS)
def test_no_images_are_no_adversarial_images(name: str) -> None:
    model = Classifier(network(), 3)
    for module in (model, model.body):
        assert attacked(name, module, IMAGES[:0], LABELS[:0]).shape == (0, 1, 2, 2)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        ((IMAGES * 255).to(torch.uint8), LABELS, "not .* of torch.uint8: .* divide bytes by 255"),
        ((IMAGES * 255).long(), LABELS, "of torch.int64"),
        (IMAGES > 0.5, LABELS, "of torch.bool"),
        (IMAGES.numpy(), LABELS, "not ndarray: convert arrays by torch.from_numpy"),
        (IMAGES, LABELS.numpy(), "labels must be a tensor, not ndarray"),
        (IMAGES, LABELS.tolist(), "labels must be a tensor, not list"),
        (IMAGES, LABELS.float(), "labels are torch.float32: pass integers"),
        (IMAGES * math.nan, LABELS, "NaN or infinite"),
        (IMAGES + 0.5, LABELS, r"images must be in \[0,1\]"),
    ],
)
def test_other_inputs_are_refused(images: Any, labels: Any, says: str) -> None:
    model = Classifier(network(), 3)
    for module in (model, model.body):
        for attack in ("fgsm", "worst-case"):
            with pytest.raises(UserError, match=says):
                attacked(attack, module, images, labels)


@pytest.mark.parametrize("name", ATTACKS)
def test_logits_that_are_not_finite_are_refused(name: str) -> None:
    broken = Classifier(Affine(torch.full((4, 4), math.nan), torch.zeros(4)), 3)
    with pytest.raises(UserError, match="logits are not finite"):
        attacked(name, broken, IMAGES, LABELS)


@pytest.mark.parametrize("sources", [Classifier(nn.Flatten(), 3), (), (nn.Flatten(),), PGD()])
def test_sources_of_a_transfer(sources: Any) -> None:
    with pytest.raises(UserError, match=r"Transfer\(\(source,\), PGD\(\)\)"):
        Transfer(sources, PGD())


class Normalised(nn.Module):
    """Logits of the normalised image: their gradient is NaN for an image of one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.last = network()

    def forward(self, images: Tensor) -> Tensor:
        centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
        size = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        logits: Tensor = self.last(centred / (size + 1e-3))
        return logits


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_without_a_finite_gradient_is_attacked_without_gradients(norm: str) -> None:
    model = Classifier(Normalised(), 3)
    images = torch.cat([torch.zeros(1, 1, 2, 2), IMAGES[:1]])
    labels = model.predict(images).clamp(min=0)
    for attack in (PGD(num_steps=3), FGSM(), MIFGSM(num_steps=2)):
        moved = attack(model, images, labels, eps=0.3, norm=norm)
        assert moved.isfinite().all()
        assert torch.equal(moved[0], images[0])
        assert not torch.equal(moved[1], images[1])
    blind = OnZeroGradient(Square(num_queries=200))(model, images, labels, eps=0.9, norm=norm)
    assert not torch.equal(blind[0], images[0])
    assert torch.equal(blind[1], images[1])


@pytest.mark.parametrize("setting", [{"noise": math.nan}, {"noise": -1.0}])
def test_settings_that_are_no_sizes_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match="noise must be"):
        RefinedPGD(**setting)  # type: ignore[arg-type]


def test_wrapped_attacks_get_reference_images_and_say_whether_they_search() -> None:
    reference = LabelledImages(IMAGES, LABELS)
    source = Classifier(network(), 3)
    for wrapped in (OnSample(DatasetAttack()), Transfer((source,), DatasetAttack())):
        given = with_reference_images(wrapped, reference)
        assert isinstance(given, OnSample | Transfer)
        assert isinstance(given.attack, DatasetAttack)
        assert given.attack.reference_images is reference
    assert OnSample(PGD()).is_iterative
    for once in (OnSample(FGSM()), Transfer((source,), FGSM()), AttackEnsemble((FGSM(),))):
        assert not once.is_iterative

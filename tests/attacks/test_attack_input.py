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
    RayS,
    Square,
    Transfer,
    worst_case,
)
from nullclass.core.errors import UserError
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
        (IMAGES, LABELS.numpy(), "labels must be a tensor of integers, not ndarray"),
        (IMAGES, LABELS.tolist(), "labels must be a tensor of integers, not list"),
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

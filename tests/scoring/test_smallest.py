"""The search of the smallest eps, with an attack whose results are known."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from nullclass.attacks.fmn import FMN
from nullclass.core import devices
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.scoring.smallest import score_smallest

SIZES = torch.tensor([0.5, 0.25, math.inf, 0.0, 0.75, 0.25, 0.125, math.inf, 0.5, 0.25])


class Known(FMN):
    """Finds ``SIZES``; the first pixel of an image is its index / 10."""

    def smallest(
        self, model: Any, images: Tensor, labels: Tensor, **more: Any
    ) -> tuple[Tensor, Tensor]:
        adv_images = images.clone()
        found.append(weakref.ref(adv_images))
        return adv_images, SIZES[(images[:, 0, 0, 0] * 10).round().long()]


found: list[weakref.ref[Tensor]] = []


@pytest.mark.parametrize("batch", [1, 3, 10])
@pytest.mark.parametrize("num", [0, 1, 4, 20])
def test_the_nearest_images_of_all_batches_are_kept(
    num: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "BATCH_SIZE", batch)
    found.clear()
    images = (torch.arange(10) / 10).view(10, 1, 1, 1).expand(10, 1, 2, 2).contiguous()
    model = Classifier(lambda x: x.flatten(1)[:, :3], 2).eval()
    data = LabelledImages(images, torch.arange(10) % 2)
    result = score_smallest(
        model,
        data,
        "known",
        Known(),
        norm="linf",
        num_examples=num,
        on_images=lambda _: kept.append(sum(each() is not None for each in found)),
    )
    assert result.rows["eps_pixels"].tolist() == SIZES.where(SIZES.isfinite(), 1).tolist()
    nearest = [6, 1, 5, 9, 0, 8, 4][:num]  # of equal ones the first
    shown = [index for each in result.examples for index in (each.clean[:, 0, 0, 0] * 10).round()]
    assert shown == nearest
    for example in result.examples:
        assert example.budgets == SIZES[nearest].tolist()
        assert example.labels == [index % 2 for index in nearest]
    assert len(found) == -(-10 // batch)
    assert max(kept) == 0


kept: list[int] = []

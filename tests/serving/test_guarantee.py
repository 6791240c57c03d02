"""What a calibrated threshold promises, against simulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nullclass
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.rejection import Threshold, calibrate, with_threshold


class PixelAsNull(nn.Module):
    """Two real logits of 0, and the first pixel as the null logit."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, :1]
        return torch.cat([torch.zeros_like(pixel), torch.zeros_like(pixel), pixel], dim=1)


def thresholds(num_trials: int, num_images: int, rate: float, levels: int) -> list[Threshold]:
    """Thresholds of models whose null score is uniform on [0, 1], possibly of a few levels."""
    model = Classifier(PixelAsNull(), 2)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(num_trials):
        pixels = torch.rand(num_images, 1, 1, 1, generator=generator, dtype=torch.float32)
        if levels:
            pixels = (pixels * levels).floor() / levels
        data = LabelledImages(pixels, torch.zeros(num_images, dtype=torch.int64), 2)
        found.append(calibrate(model, data, rate))
    return found


def true_rate(threshold: Threshold, levels: int) -> float:
    if not levels:
        return min(1.0, 1 - threshold.value)
    return float(np.mean(np.arange(levels) / levels > threshold.value))


@pytest.mark.parametrize("levels", [0, 20])
def test_the_promises_hold(levels: int) -> None:
    """200 calibrations: mean rate at most the target; the band misses as often as it may."""
    found = thresholds(200, 150, 0.1, levels)
    rates = np.array([true_rate(threshold, levels) for threshold in found])
    error = rates.std() / np.sqrt(len(rates))
    assert rates.mean() - 3 * error <= 0.1
    bands = np.array([threshold.band(0.9) for threshold in found])
    above, below = (rates > bands[:, 1]).mean(), (rates < bands[:, 0]).mean()
    slack = 3 * np.sqrt(0.05 * 0.95 / 200)
    assert above <= 0.05 + slack
    assert below <= 0.05 + slack
    if not levels:  # exact there: Beta quantiles
        assert above >= 0.05 - slack
        assert below >= 0.05 - slack


def test_the_sentence_has_the_numbers() -> None:
    (threshold,) = thresholds(1, 999, 0.01, 0)
    assert threshold.guarantee is not None
    assert "999 held-out" in threshold.guarantee
    assert "at most 0.01," in threshold.guarantee
    # 99th percentile of Beta(10, 990): by a million draws
    draws = np.random.default_rng(0).beta(10, 990, 1_000_000)
    stated = float(threshold.guarantee.split("answered null is at most ")[1].split(". ")[0])
    assert stated == pytest.approx(np.quantile(draws, 0.99), rel=0.01)


def test_the_card_says_it(tmp_path: Path) -> None:
    from nullclass.models import build_model

    model = build_model("small", image_shape=(1, 8, 8), num_classes=3).eval()
    data = LabelledImages(torch.rand(50, 1, 8, 8), torch.arange(50) % 3)
    thresholded = with_threshold(model, calibrate(model, data, 0.1))
    nullclass.save_checkpoint(thresholded, tmp_path / "one")
    loaded, card = nullclass.load_checkpoint(tmp_path / "one")
    assert card.refusal.guarantee == thresholded.threshold.guarantee  # type: ignore[union-attr]
    assert loaded.threshold == thresholded.threshold  # type: ignore[attr-defined]
    nullclass.save_checkpoint(with_threshold(model, 0.3), tmp_path / "two")
    assert nullclass.load_checkpoint(tmp_path / "two")[1].refusal.guarantee is None  # type: ignore[union-attr]


def test_a_threshold_that_was_chosen_promises_nothing() -> None:
    assert Threshold(0.3).guarantee is None
    with pytest.raises(UserError, match="not calibrated"):
        Threshold(0.3).band()

"""Other radii, on a model whose every proof is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull
from nullclass.results.schema import RADIUS_COLUMNS
from nullclass.scoring.sweeps import score_radii

PIXELS = (0.9, 0.6, 0.3, 0.55)
LABELS = (0, 0, 1, 1)


def side() -> tuple[Classifier, LabelledImages]:
    """One pixel x, logits x and 1 - x.

    Class 0 is proved within r if and only if x - r > 1/2, class 1 if and only if x + r < 1/2.
    """
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    model = Classifier(nn.Sequential(nn.Flatten(), layer), num_classes=2, has_null=False)
    images = torch.tensor(PIXELS).view(-1, 1, 1, 1)
    return model, LabelledImages(images, torch.tensor(LABELS))


def test_answers_are_those_that_can_be_proved() -> None:
    model, images = side()
    answering, seen = ProvableNull(model, 0.15), []
    rows = score_radii(answering, images, (0.3, 0.0, 0.15), on_images=seen.append)
    assert sum(seen) == len(images)
    own = rows.loc[rows["radius"] == 0.15, "prediction"]
    assert own.tolist() == answering.predict(images.images).tolist()
    outcomes = {radius: of["outcome"].tolist() for radius, of in rows.groupby("radius")}
    assert outcomes == {
        0.0: ["correct", "correct", "correct", "fooled"],
        0.15: ["correct", "null", "correct", "null"],
        0.3: ["correct", "null", "null", "null"],
    }
    assert list(rows) == list(RADIUS_COLUMNS)
    # z_0 - z_1 = 2 x - 1, so that 0.9 is proved by 2 (0.9 - 0.15) - 1
    at = rows[(rows["radius"] == 0.15) & (rows["image"] == 0)]
    assert at["margin"].item() == pytest.approx(0.5, abs=1e-4)
    assert at["margin"].item() <= 0.5


def test_what_has_no_radius_is_refused() -> None:
    model, images = side()
    with pytest.raises(UserError, match="only a ProvableNull has a radius"):
        score_radii(model, images, (0.1,))
    with pytest.raises(UserError, match="at least one radius"):
        score_radii(ProvableNull(model, 0.1), images, ())
    with pytest.raises(UserError, match="radius, in pixel units, must be a number from 0 to 1"):
        score_radii(ProvableNull(model, 0.1), images, (1.5,))

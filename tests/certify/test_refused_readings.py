"""Models that would be read as something else, and images of which nothing can be proved."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from proof_worlds import square_grid, tiny_net
from torch import Tensor, nn

from nullclass.certify.network import read_network
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection.provable import ProvableNull


class Kept(nn.Module):
    """Reads again what was changed in place."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) * 2
        y = x
        if self.how == "module":
            y = self.relu(x)
        elif self.how == "function":
            y = F.relu(x, inplace=True)
        elif self.how == "view":
            y = x.view(-1, 2).relu_()
        else:
            y += 1
        return x + y


@pytest.mark.parametrize("how", ["module", "function", "view", "operator"])
def test_changes_in_place_of_what_is_read_again_are_refused(how: str) -> None:
    with pytest.raises(UserError, match="in place"):
        read_network(Classifier(Kept(how), 2, has_null=False).eval())


class Two(nn.Module):
    def forward(self, x: Tensor, shift: float = 1.0) -> Tensor:
        return x.flatten(1) + shift


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x.flatten(1), 0.5)


@pytest.mark.parametrize(("body", "told"), [(Two(), "shift"), (Dropping(), "dropout")])
def test_what_is_no_function_of_the_image_is_refused(body: nn.Module, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_network(Classifier(body, 2, has_null=False).eval())


def test_a_wrong_number_of_logits_and_halves_are_refused() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 4))
    model = Classifier(body, 3, has_null=False, image_shape=(1, 1, 2))
    with pytest.raises(UserError, match="num_classes"):
        ProvableNull(model, 0.1)
    with pytest.raises(UserError, match="float32 or float64"):
        ProvableNull(tiny_net(0).half(), 0.1)


def test_nothing_is_answered_where_numbers_are_none_or_images_out_of_range() -> None:
    model = tiny_net(0)
    guarded, images = ProvableNull(model, 0.02), square_grid(5)
    assert (guarded.predict(images * float("nan")) == -1).all()
    assert (guarded(images + 2).argmax(dim=1) == 3).all()
    with pytest.raises(UserError, match=r"\[0,1\]"):
        guarded.predict(images + 0.1)
    with torch.no_grad():
        model.body[1].weight[0, 0] = float("nan")
    assert (guarded.predict(images) == -1).all()

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nullclass import with_null_class
from nullclass.core.errors import UserError
from nullclass.core.outcomes import predictions
from nullclass.models import Classifier, build_model

K = 5


class Nested(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU())
        self.classifier = nn.ModuleDict(
            {"head": nn.Sequential(nn.Dropout(), nn.Linear(8, K, bias))}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier["head"](self.features(x))


MAKERS = {
    "linear": lambda: nn.Linear(12, K),
    "linear without bias": lambda: nn.Linear(12, K, bias=False),
    "float64": lambda: nn.Linear(12, K, dtype=torch.float64),
    "sequential": lambda: nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, K)),
    "nested": Nested,
    "nested without bias": lambda: Nested(bias=False),
}


def last_linear(module: nn.Module) -> nn.Linear:
    return [m for m in module.modules() if isinstance(m, nn.Linear)][-1]


@pytest.mark.parametrize("name", MAKERS)
def test_a_second_null_class_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="has a null class already"):
        with_null_class(with_null_class(MAKERS[name]()))


@pytest.mark.parametrize("name", MAKERS)
def test_widening(name: str) -> None:
    module = MAKERS[name]().eval()
    before = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    wider = with_null_class(module)
    assert torch.equal(torch.get_rng_state(), state)

    dtype = last_linear(module).weight.dtype
    images = torch.randn(400, 12, dtype=dtype, generator=torch.Generator().manual_seed(1))
    old, new = module(images), wider(images)
    assert new.shape == (400, K + 1)
    torch.testing.assert_close(new[:, :K], old)
    torch.testing.assert_close(new[:, K], old.mean(dim=1))
    assert torch.equal(predictions(new, K), old.argmax(dim=1)), "no prediction changes"

    was, now = last_linear(module), last_linear(wider)
    assert torch.equal(now.weight[:K], was.weight), "learned rows are kept to the bit"
    assert now.out_features == K + 1
    assert (now.bias is None) is (was.bias is None)
    if was.bias is not None:
        assert torch.equal(now.bias[:K], was.bias)
    assert now.weight.dtype == dtype
    # The module is unchanged, and shares nothing with the copy.
    assert module(images).shape == (400, K)
    with torch.no_grad():
        for parameter in wider.parameters():
            parameter.add_(1)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.requires_grad for parameter in wider.parameters())
    assert [m.training for m in wider.modules()] == [False for _ in module.modules()]


def test_widening_a_classifier() -> None:
    for num_nulls in (1, 3):  # without null, the number of null logits does not matter
        model = build_model(
            "notebook", image_shape=(1, 8, 8), num_classes=K, has_null=False, num_nulls=num_nulls
        )
        wider = with_null_class(model)
        assert isinstance(wider, Classifier)
        assert (wider.has_null, wider.num_outputs, wider.num_nulls) == (True, K + 1, 1)
        images = torch.rand(6, 1, 8, 8)
        assert torch.equal(wider.predict(images), model.predict(images))
        assert torch.equal(wider(images), wider.all_logits(images))
        assert (model.has_null, model.num_nulls) == (False, 0)
    per_class = build_model("notebook", image_shape=(1, 8, 8), num_classes=K, num_nulls=K)
    for has_null in (wider, per_class):
        with pytest.raises(UserError, match="has a null class already"):
            with_null_class(has_null)
    with pytest.raises(UserError, match="no linear layer to widen"):
        with_null_class(nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_computed_weights_are_refused() -> None:
    for norm in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        module = nn.Sequential(nn.Flatten(), norm(nn.Linear(12, K)))
        with pytest.raises(UserError, match="'1' has weights that are computed"):
            with_null_class(module)

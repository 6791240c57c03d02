"""Bounds hold whatever the machine is told: other arithmetic, changed weights, keywords."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from nullclass.certify.network import read_network
from nullclass.certify.rounding import proof_dtype
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection.provable import ProvableNull


def small(body: nn.Module | None = None) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        body = body or nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3))
    return Classifier(body, 3, has_null=False, image_shape=(1, 3, 3))


def images(num: int = 6) -> Tensor:
    return torch.rand(num, 1, 3, 3, generator=torch.Generator().manual_seed(2))


def test_without_onednn_bounds_are_computed_in_float64() -> None:
    cpu = torch.device("cpu")
    assert proof_dtype(cpu, torch.float32) == torch.float32
    with torch.backends.mkldnn.flags(enabled=False):
        assert proof_dtype(cpu, torch.float32) == torch.float64
        margins = ProvableNull(small(), 0.05)(images())
    assert torch.allclose(margins, ProvableNull(small(), 0.05)(images()), atol=1e-3)


def test_cuda_is_bounded_in_float64_and_others_are_refused() -> None:
    assert proof_dtype(torch.device("cuda"), torch.float32) == torch.float64
    with pytest.raises(UserError, match="mps"):
        proof_dtype(torch.device("mps"), torch.float32)


def test_bounds_follow_every_change_of_the_weights() -> None:
    model = small()
    guarded = ProvableNull(model, 0.02)
    before = guarded(images())
    with torch.no_grad():
        model.body[1].weight.mul_(2)
    assert not torch.equal(guarded(images()), before)
    assert torch.equal(guarded(images()), ProvableNull(model, 0.02)(images()))
    model.body[2] = nn.Tanh()
    assert torch.equal(guarded(images()), ProvableNull(model, 0.02)(images()))


def test_weights_that_are_computed_are_refused() -> None:
    layer = weight_norm(nn.Linear(9, 3))
    with pytest.raises(UserError, match="param"):
        ProvableNull(small(nn.Sequential(nn.Flatten(), layer)), 0.1)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(input=self.first(input=x.flatten(1)))
        result: Tensor = self.last(hidden)
        return result


def test_arguments_by_keyword_are_read() -> None:
    model = small(ByKeyword())
    assert torch.allclose(read_network(model).values(images()), model(images()), atol=1e-6)


def test_a_reduced_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = ProvableNull(small(), 0.1)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(UserError, match="precision"):
            guarded.predict(images())
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_image_of_another_shape_gets_one_sentence() -> None:
    from nullclass.scoring.prove import certify

    wrong = torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
    with pytest.raises(UserError):
        certify(ProvableNull(small(), 0.1), wrong, 0.1)

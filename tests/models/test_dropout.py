from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nullclass.models.dropout import Dropout, scaled_dropout


@pytest.fixture(autouse=True)
def seeded() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        yield


def layer(p: float) -> Dropout:
    return Dropout(p).train()


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9])
def test_dropped_units_are_independent_and_the_others_scaled(p: float) -> None:
    num = 1_000_003  # no multiple of eight
    values = torch.rand(num) + 0.5
    out = layer(p)(values)
    kept = out != 0
    level = round(256 * p)
    share = 1 - level / 256
    assert abs(share - (1 - p)) <= 1 / 512
    spread = math.sqrt(num * share * (1 - share))
    assert abs(int(kept.sum()) - num * share) <= 4 * spread
    torch.testing.assert_close(out[kept], values[kept] / share)
    if p:
        for lag in (1, 8, 64):  # eight units share a draw
            pairs = torch.stack([kept[:-lag], kept[lag:]]).double()
            assert abs(float(torch.corrcoef(pairs)[0, 1])) < 4.5 / math.sqrt(num), lag


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_the_expectation_is_preserved(p: float) -> None:
    values = torch.linspace(-1, 2, 40)
    mean = layer(p)(values.expand(20_000, 40)).mean(dim=0)
    spread = values.abs() * math.sqrt(p / (1 - p) / 20_000)
    assert ((mean - values).abs() <= 4.5 * spread + 1e-6).all()


def test_evaluation_and_gradients() -> None:
    values, state = torch.rand(50, 50).requires_grad_(), torch.get_rng_state()
    assert layer(0.5).eval()(values) is values
    assert torch.equal(torch.get_rng_state(), state)
    out = layer(0.5)(values)
    out.sum().backward()
    assert torch.equal(values.grad, torch.where(out != 0, 2.0, 0.0)), "of kept units only"


def test_masks_depend_on_the_seed_and_change_with_every_call() -> None:
    dropout, values = layer(0.5), torch.ones(300)
    torch.manual_seed(1)
    first, second = dropout(values), dropout(values)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(dropout(values), first)
    assert torch.equal(dropout(values), second)


def test_values_keep_their_type() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        out = layer(0.5)(torch.ones(64, dtype=dtype))
        assert out.dtype == dtype
        assert set(out.tolist()) == {0.0, 2.0}


def test_scaled_dropout_scales_inside_the_block_only() -> None:
    model = nn.Sequential(Dropout(0.25), nn.ReLU(), nn.Sequential(Dropout(0.5)), nn.Dropout(0.5))
    layers = [model[0], model[2][0]]
    values = torch.ones(200_000)

    def dropped() -> list[float]:
        return [float((one.train()(values) == 0).double().mean()) for one in layers]

    for factor in (0.5, 0.0, 1.0):
        with scaled_dropout(model, factor):
            assert dropped() == pytest.approx([0.25 * factor, 0.5 * factor], abs=0.006)
            assert float(layers[1](values).mean()) == pytest.approx(1, abs=0.015)
        assert dropped() == pytest.approx([0.25, 0.5], abs=0.006)
    with pytest.raises(KeyError), scaled_dropout(model, 0.0):
        raise KeyError
    assert [one.level for one in layers] == [64, 128], "after an error too"
    assert model[3].p == 0.5, "not of this class"


def test_settings() -> None:
    assert repr(Dropout(0.25)) == "Dropout(p=0.25)"
    for p in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="the dropout probability must be in"):
            Dropout(p)

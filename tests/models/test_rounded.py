"""Rounded weights: their error, their size, and what loading gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nullclass.core.errors import UserError
from nullclass.models import Classifier, build_model
from nullclass.models.quantize import SCALE, packed, unpacked
from nullclass.training.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint


def model_of(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model("notebook", image_shape=(1, 6, 6), num_classes=4).eval()


@given(st.integers(0, 10_000), st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_bytes_are_the_nearest_of_255_steps_per_row(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(5, 3, 2, generator=generator)
    weight[2] = 0
    again = unpacked(packed({"w": weight}, "int8"))
    assert again.keys() == {"w"}
    steps = weight.abs().flatten(1).amax(dim=1).view(-1, 1, 1) / 127
    assert bool(((again["w"] - weight).abs() <= 0.5 * steps * (1 + 1e-5)).all())
    assert bool((again["w"][2] == 0).all())


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_rounded_checkpoints(stored: str, tmp_path: Path) -> None:
    model = model_of()
    save_checkpoint(model, tmp_path / "exact")
    save_checkpoint(model, tmp_path / "small", stored=stored)
    loaded, card = load_checkpoint(tmp_path / "small")
    assert card.stored == stored
    assert load_checkpoint(tmp_path / "exact")[1].stored == "exact"
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("small", "exact")]
    assert sizes[0] < {"float16": 0.52, "int8": 0.27}[stored] * sizes[1]
    images = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(loaded(images), model(images))
    assert torch.allclose(loaded(images), model(images), atol=0.02)
    save_checkpoint(loaded, tmp_path / "again", stored=stored)
    twice, _ = load_checkpoint(tmp_path / "again")
    for one, other in zip(loaded.parameters(), twice.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=0)
    if stored == "float16":
        expected = {name: value.half().float() for name, value in model.state_dict().items()}
        assert all(torch.equal(v, expected[n]) for n, v in loaded.state_dict().items())


def test_weights_that_cannot_be_rounded(tmp_path: Path) -> None:
    model = model_of()
    with torch.no_grad():
        next(model.parameters())[0] = 1e5
    with pytest.raises(UserError, match="numbers that float16 cannot hold"):
        save_checkpoint(model, tmp_path / "m", stored="float16")
    with torch.no_grad():
        next(model.parameters())[0] = torch.inf
    for stored in ("float16", "int8"):
        with pytest.raises(UserError, match=r"not finite|cannot hold"):
            save_checkpoint(model, tmp_path / "m", stored=stored)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="stored must be one of exact, float16, int8, not 'int4'"):
        save_checkpoint(model, tmp_path / "m", stored="int4")  # type: ignore[arg-type]
    assert not (tmp_path / "m").exists()


def test_scales_that_do_not_fit_are_another_architecture(tmp_path: Path) -> None:
    save_checkpoint(model_of(), tmp_path, stored="int8")
    tensors = load_file(tmp_path / WEIGHTS)
    name = next(name for name in tensors if name.endswith(SCALE))
    for change in ({name: tensors[name][1:]}, {}):
        others = {n: t for n, t in tensors.items() if n != name}
        save_file(others | change, tmp_path / WEIGHTS)
        with pytest.raises(UserError, match=r"does not fit its card|another SHA-256"):
            load_checkpoint(tmp_path)

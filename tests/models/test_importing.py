"""Weights from a file for a network of the user's own."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier, Imported
from nullclass.models.importing import import_model, load_weights


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_are_loaded_from_a_file(ending: str, prefix: str, tmp_path: Path) -> None:
    source, path = network(), tmp_path / f"weights{ending}"
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded = network()
    load_weights(loaded, path)
    assert all(
        torch.equal(value, loaded.state_dict()[n]) for n, value in source.state_dict().items()
    )


def test_the_only_state_dict_among_other_values(tmp_path: Path) -> None:
    source, loaded = network(), network()
    path = tmp_path / "training.pt"
    torch.save({"epoch": 3, "state_dict": source.state_dict(), "optimizer": {"lr": 0.1}}, path)
    load_weights(loaded, path)
    assert torch.equal(loaded[3].weight, source[3].weight)
    torch.save({"model": source.state_dict(), "ema": source.state_dict()}, path)
    with pytest.raises(UserError, match=r"holds several state dicts \(model, ema\): save the one"):
        load_weights(loaded, path)


def test_names_that_begin_like_a_wrapper_are_kept(tmp_path: Path) -> None:
    source, loaded = nn.DataParallel(network()), nn.DataParallel(network())
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt")
    assert torch.equal(loaded.module[3].weight, source.module[3].weight)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "harm"))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    state = network().state_dict() | {"harm": Harmful(tmp_path / "harm")}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"holds code or objects beside tensors, .* not loaded"):
        load_weights(network(), tmp_path / "w.pt")
    for write in (torch.save, lambda net, path: torch.jit.script(net).save(path)):
        write(network(), tmp_path / "w.pt")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with pytest.raises(UserError, match="holds code or objects beside tensors"):
                load_weights(network(), tmp_path / "w.pt")
        assert not warned
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("3.bias"), "does not fit the network: it lacks 3.bias$"),
        (lambda s: [s.pop(n) for n in list(s)[:5]], "lacks 1.weight, 1.bias, 2.weight and 2 more"),
        (lambda s: s.update(a=s["3.bias"]), "has unknown a$"),
        (lambda s: s.update({"3.bias": torch.zeros(4)}), r"other shapes for 3.bias \(4, not 3\)"),
        (
            lambda s: s.update({"3.weight": torch.zeros(3), "b": torch.zeros(1)}),
            r"has unknown b, and has other shapes for 3.weight \(3, not 3x5\)",
        ),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_weights_that_do_not_fit(change: Any, says: str, ending: str, tmp_path: Path) -> None:
    state = dict(network().state_dict())
    change(state)
    path = tmp_path / f"w{ending}"
    if ending == ".pt":
        torch.save(state, path)
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    with pytest.raises(UserError, match=says):
        load_weights(network(), path)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_files_that_are_no_weights(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{ending}"
    for content, says in (
        (None, "is missing"),
        (b"", "is damaged"),
        (b"no weights", "is damaged"),
        (b"\x00" * 100, "is damaged|no state dict"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            load_weights(network(), path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_weights(network(), tmp_path / "list.pt")
    with pytest.raises(UserError, match=r"names end in \.safetensors, \.pt"):
        load_weights(network(), tmp_path / "w.h5")
    with pytest.raises(UserError, match="let the function return one"):
        load_weights(lambda images: images, path)


CODE = """
import nullclass
from torch import nn

def network(width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width))

def classifier():
    return nullclass.Classifier(network(), 2, mean=0.5)
"""


def test_models_of_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models_of_test.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    images = torch.rand(5, 1, 2, 2)
    data = LabelledImages(images, torch.tensor([0, 1, 0, 1, 1]))
    imported = Imported("models_of_test:network", {"width": 4})
    weights = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    torch.save(weights.state_dict(), tmp_path / "w.pt")
    model = import_model(
        imported, data, num_classes=3, weights=tmp_path / "w.pt", mean=0.1, std=0.2
    )
    assert model.imported == imported
    assert model.has_null
    assert torch.equal(model(images), weights((images - model.mean) / model.std))
    own = Imported("models_of_test:classifier")
    assert type(import_model(own, data)) is Classifier
    with pytest.raises(UserError, match="returns a Classifier, which has its own mean, std: leave"):
        import_model(own, data, std=0.1, mean=0.2)
    with pytest.raises(UserError, match="the model has 2 classes, not 3"):
        import_model(own, data, num_classes=3)
    assert not import_model(Imported("models_of_test:network", {"width": 2}), data).has_null
    with pytest.raises(UserError, match="3 logits, but num_classes=2 and has_null=False need 2"):
        import_model(Imported("models_of_test:network"), data)
    assert import_model(Imported("models_of_test:network"), data, has_null=True).has_null

"""Checkpoints: what is saved is what is loaded, or a sentence says why not."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edited import edit_document
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nullclass
from nullclass import with_null_class
from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.core.files import LOCK, locked
from nullclass.core.paths import sha256
from nullclass.data import LabelledImages
from nullclass.models import Classifier, Imported, build_model
from nullclass.rejection import (
    ProvableNull,
    SmoothedNull,
    Threshold,
    ThresholdedClassifier,
    calibrate,
    overlap,
    reject_by,
    with_threshold,
)
from nullclass.training.card import CARD, Origin, OwnNetwork, ThresholdRefusal, read_card
from nullclass.training.checkpoint import (
    NEW_WEIGHTS,
    WEIGHTS,
    load_checkpoint,
    save_checkpoint,
)


def built(name: str = "notebook", **changed: Any) -> Classifier:
    settings = {"image_shape": (1, 6, 6), "num_classes": 4, "mean": (0.3,), "std": (0.2,)}
    return build_model(name, **(settings | changed)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of the notebook's network on 6x6 images."""
    save_checkpoint(built(), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def change_card(folder: Path, **changed: object) -> None:
    edit_document(folder / CARD, **changed)


# What is saved


def test_a_file_of_the_checkpoint_is_enough(folder: Path, images: Tensor) -> None:
    expected = load_checkpoint(folder)[0](images)
    for path in (folder / WEIGHTS, folder / CARD, str(folder)):
        assert torch.equal(load_checkpoint(path)[0](images), expected)


@pytest.mark.parametrize(("has_null", "num_nulls"), [(True, 4), (True, 1), (False, 4)])
def test_the_card_has_the_number_of_null_logits(
    has_null: bool, num_nulls: int, folder: Path, images: Tensor
) -> None:
    model = built(has_null=has_null, num_nulls=num_nulls)
    save_checkpoint(model, folder, origin=Origin(data="mnist"), metadata={"mine": [1, None]})
    loaded, card = load_checkpoint(folder)
    expected = num_nulls if has_null else 0
    assert (card.num_nulls, loaded.num_nulls, loaded.has_null) == (expected, expected, has_null)
    assert (card.origin.data, card.refusal, card.metadata) == ("mnist", None, {"mine": [1, None]})
    assert torch.equal(loaded.all_logits(images), model.all_logits(images))
    assert not loaded.training


def own_body(num_outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, num_outputs))


@pytest.mark.parametrize("num_nulls", [1, 2])
def test_a_network_of_ones_own(num_nulls: int, tmp_path: Path, images: Tensor) -> None:
    body = own_body(2 + num_nulls)
    model = Classifier(body, 2, num_nulls=num_nulls, mean=(0.1307,), std=(0.3081,))
    model(torch.rand(8, 1, 6, 6))  # moves the statistics of batch norm
    save_checkpoint(model.eval(), tmp_path)
    with pytest.raises(UserError, match=r"load_checkpoint\(body=\)"):
        load_checkpoint(tmp_path)
    loaded, card = load_checkpoint(tmp_path, body=own_body(2 + num_nulls))
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(loaded.std, model.std)
    own = OwnNetwork(function=None, arguments={}, outputs="logits", has_score=False)
    assert card.architecture == own
    with pytest.raises(UserError, match="does not fit its card"):
        load_checkpoint(tmp_path, body=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))


BUILDER = """
from torch import nn

def build(units, num_outputs=3):
    output = nn.Linear(units, num_outputs)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, units), nn.ReLU(), output)

def fails(**settings):
    raise ValueError("no such\\nnetwork")
"""


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder; returns its name."""
    (tmp_path / "builder_of_test.py").write_text(BUILDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "builder_of_test", raising=False)
    return "builder_of_test"


@pytest.mark.parametrize("stored", ["exact", "int8"])
def test_a_network_that_a_function_builds(
    stored: Any, builder: str, tmp_path: Path, images: Tensor
) -> None:
    imported = Imported(f"{builder}:build", {"units": 5})
    model = Classifier(imported, 2, mean=0.2, outputs="probabilities", has_score=True)
    model.body[3].weight.data[:] = torch.rand(3, 5)
    save_checkpoint(model, tmp_path / "model", stored=stored)
    state = torch.get_rng_state()
    del sys.modules[builder]
    with pytest.raises(UserError, match=r"built by builder_of_test:build, which would be imported"):
        load_checkpoint(tmp_path / "model")
    assert builder not in sys.modules
    loaded, card = load_checkpoint(tmp_path / "model", allow_import=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert card.architecture == OwnNetwork(
        function=imported.function,
        arguments={"units": 5},
        outputs="probabilities",
        has_score=True,
    )
    assert (loaded.imported, loaded.outputs, loaded.has_score) == (imported, "probabilities", True)
    by_hand, _ = load_checkpoint(tmp_path / "model", body=imported.build())
    save_checkpoint(loaded, tmp_path / "again", stored=stored)
    again, _ = load_checkpoint(tmp_path / "again", allow_import=True)
    for each in (loaded, by_hand, again):
        names = [name for name in model.state_dict() if stored == "exact" or "bias" in name]
        assert names
        assert all(torch.equal(each.state_dict()[n], model.state_dict()[n]) for n in names)
    for changed, says in (
        ({"function": f"{builder}:fails"}, "fails failed .ValueError: no such network"),
        ({"function": "nowhere_of_test:f"}, "nowhere_of_test cannot be imported"),
        ({"arguments": {"units": 6}}, "does not fit its card"),
        ({"arguments": {"width": 6}}, "build failed .TypeError"),
    ):
        own = json_values(card.architecture) | changed
        change_card(tmp_path / "again", architecture=own)
        with pytest.raises(UserError, match=says):
            load_checkpoint(tmp_path / "again", allow_import=True)


def test_weights_that_share_memory_are_saved(tmp_path: Path, images: Tensor) -> None:
    def tied() -> nn.Module:
        body = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3))
        body[2].weight = body[1].weight
        return body

    model = Classifier(tied(), 2).eval()
    save_checkpoint(model, tmp_path)
    assert torch.equal(load_checkpoint(tmp_path, body=tied())[0](images), model(images))


@pytest.mark.parametrize("stored", ["exact", "int8"])
@pytest.mark.parametrize("has_null", [True, False])
def test_a_model_with_a_threshold(
    has_null: bool, stored: Any, tmp_path: Path, images: Tensor
) -> None:
    held_out = LabelledImages(torch.rand(200, 1, 6, 6), torch.arange(200) % 4)
    inner = built(has_null=has_null)
    save_checkpoint(inner, tmp_path / "inner", stored=stored)  # may round
    inner = load_checkpoint(tmp_path / "inner")[0]
    model = with_threshold(inner, calibrate(inner, held_out, 0.1))
    save_checkpoint(model, tmp_path / "model", stored=stored)
    loaded, card = load_checkpoint(tmp_path / "model")
    assert torch.equal(loaded(images), model(images))
    assert isinstance(card.refusal, ThresholdRefusal)
    assert loaded.threshold == model.threshold
    assert overlap(loaded.threshold, held_out) == 200, "it still knows those images"
    by_hand = with_threshold(inner, 0.25)
    save_checkpoint(by_hand, tmp_path / "model")
    loaded, _ = load_checkpoint(tmp_path / "model")
    assert loaded.threshold == Threshold(0.25)
    assert torch.equal(loaded(images), by_hand(images))


@pytest.mark.parametrize(
    ("kind", "wrapper", "settings"),
    [
        ("provable", ProvableNull,
         {"radius": 0.01, "norm": "linf", "verifier": "crown-ibp", "budget": None}),
        ("provable", ProvableNull,
         {"radius": 0.1, "norm": "l2", "verifier": "interval", "budget": None}),
        ("provable", ProvableNull,
         {"radius": 0.0, "norm": "linf", "verifier": "cascade", "budget": 7}),
        (
            "smoothed",
            SmoothedNull,
            {"radius": 0.1, "sigma": 0.2, "num_samples": 99, "num_selection": 7,
             "confidence": 0.9, "seed": 3},
        ),
    ],
)  # fmt: skip
def test_models_that_answer_what_is_certified(
    kind: str, wrapper: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = wrapper(built("certifiable-small", image_shape=(1, 8, 8), has_null=False), **settings)
    save_checkpoint(model, tmp_path)
    loaded, card = load_checkpoint(tmp_path)
    assert type(loaded) is wrapper
    assert torch.equal(loaded(images), model(images))
    assert json_values(card.refusal) == {"kind": kind, **settings}
    assert {name: getattr(loaded, name) for name in settings} == settings


def test_weights_that_would_be_loaded_in_another_type_are_not_saved(tmp_path: Path) -> None:
    network = built("certifiable-small", image_shape=(1, 8, 8)).double()
    with pytest.raises(UserError, match=r"weights are torch.float64: save .* as float32"):
        save_checkpoint(network, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    save_checkpoint(network.float(), tmp_path / "yes")


def test_an_exchanged_layer_makes_it_a_network_of_ones_own(tmp_path: Path) -> None:
    network = built("notebook", image_shape=(1, 12, 12))
    images = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    network.body.relu1 = nn.GELU()
    save_checkpoint(network, tmp_path)
    with pytest.raises(UserError, match="a network of your own: pass it"):
        load_checkpoint(tmp_path)
    loaded, card = load_checkpoint(tmp_path, body=copy.deepcopy(network.body))
    assert isinstance(card.architecture, OwnNetwork)
    assert torch.equal(loaded(images), network(images))


class Cooled(Classifier):
    def all_logits(self, images: Tensor) -> Tensor:
        return super().all_logits(images) / 4


class Reversed(ThresholdedClassifier):
    def all_logits(self, images: Tensor) -> Tensor:
        return -super().all_logits(images)


def test_classes_of_ones_own_are_not_saved(tmp_path: Path) -> None:
    network = built("certifiable-small", image_shape=(1, 8, 8))
    cooled = Cooled(network.body, network.num_classes, image_shape=(1, 8, 8)).eval()
    reversed_ = Reversed(network, Threshold(0.1)).eval()
    for model in (cooled, with_threshold(cooled, 0.1), reversed_):
        with pytest.raises(UserError, match=r"does not record (the class Cooled|a class)"):
            save_checkpoint(model, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_network_of_ones_own_keeps_its_type(
    dtype: torch.dtype, is_whole: bool, builder: str, tmp_path: Path, images: Tensor
) -> None:
    model = Classifier(Imported(f"{builder}:build", {"units": 5}), 2, mean=0.2)
    (model if is_whole else model.body).to(dtype)
    save_checkpoint(model, tmp_path / "model")
    for loaded in (
        load_checkpoint(tmp_path / "model", allow_import=True)[0],
        load_checkpoint(
            tmp_path / "model", body=Imported(f"{builder}:build", {"units": 5}).build()
        )[0],
    ):
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert loaded.mean.dtype == model.mean.dtype
        assert torch.equal(loaded(images), model(images))


def test_a_network_that_was_passed_keeps_its_function(builder: str, tmp_path: Path) -> None:
    imported = Imported(f"{builder}:build", {"units": 5})
    save_checkpoint(Classifier(imported, 2), tmp_path / "model")
    loaded, card = load_checkpoint(tmp_path / "model", body=imported.build())
    save_checkpoint(loaded, tmp_path / "again")
    assert read_card(tmp_path / "again").architecture == card.architecture
    load_checkpoint(tmp_path / "again", allow_import=True)


def test_a_widened_network_has_no_function(builder: str, tmp_path: Path) -> None:
    imported = Imported(f"{builder}:build", {"units": 5, "num_outputs": 3})
    wider = with_null_class(Classifier(imported, 3, has_null=False))
    assert isinstance(wider, Classifier)
    save_checkpoint(wider, tmp_path / "model")
    with pytest.raises(UserError, match=r"pass it as load_checkpoint\(body=\)"):
        load_checkpoint(tmp_path / "model", allow_import=True)
    load_checkpoint(tmp_path / "model", body=wider.body)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"origin": Origin(selected_on="validation")}, "could not be loaded: .*'validation'"),  # type: ignore[arg-type]
        ({"origin": Origin(data_checksum="abc")}, "data_checksum"),
        ({"origin": Origin(num_held_out=-1)}, "num_held_out"),
        ({"metadata": {"deep": nested(70)}}, "nested over 64 levels deep"),
    ],
)
def test_cards_that_could_not_be_read_are_not_written(
    settings: dict[str, Any], says: str, folder: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=says):
        save_checkpoint(built("small"), folder, **settings)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_refusals_that_could_not_be_read_are_not_written(tmp_path: Path) -> None:
    network = built("small", has_null=False)
    model = SmoothedNull(network, 0.1, sigma=0.2, num_samples=2 * 10**8)
    with pytest.raises(UserError, match="num_samples"):
        save_checkpoint(model, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_a_calibrated_model_is_not_rounded(stored: Any, tmp_path: Path) -> None:
    held_out = LabelledImages(torch.rand(200, 1, 6, 6), torch.arange(200) % 4)
    network = built(has_null=False)
    for model in (network, reject_by(network, "energy")):
        calibrated = with_threshold(model, calibrate(model, held_out, 0.1))
        with pytest.raises(UserError, match=f"calibrated with the exact weights, and {stored} rou"):
            save_checkpoint(calibrated, tmp_path / "no", stored=stored)
    assert not (tmp_path / "no").exists()


def test_two_ways_to_refuse_are_not_saved(tmp_path: Path) -> None:
    network = built("certifiable-small", image_shape=(1, 8, 8), has_null=False)
    with pytest.raises(UserError, match="save its inner model"):
        save_checkpoint(with_threshold(ProvableNull(network, 0.1), 0.5), tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (3, "Expected `object"),
        ({}, "missing required field `kind`"),
        ({"kind": "threshold"}, "missing required field `value`"),
        ({"kind": "provable", "radius": 0.1, "norm": "linf"}, "missing required field `verifier`"),
        ({"kind": "prayer", "value": 1}, "Invalid value 'prayer'"),
        ({"kind": "provable", "radius": 0.1, "norm": "l7", "verifier": "interval"}, "how its mod"),
        ({"kind": "provable", "radius": -1, "norm": "linf", "verifier": "interval"}, ">= 0"),
    ],
)
def test_a_card_with_an_unknown_refusal(folder: Path, refusal: object, says: str) -> None:
    save_checkpoint(built("small", has_null=False), folder)
    change_card(folder, refusal=refusal)
    with pytest.raises(UserError, match=says):
        load_checkpoint(folder)


# What is refused


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(UserError, match=f"{WEIGHTS} is damaged"):
        load_checkpoint(folder)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"{WEIGHTS} is missing"):
        load_checkpoint(folder)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CARD).unlink()
    with pytest.raises(UserError, match=f"{CARD} is missing"):
        load_checkpoint(folder)


def test_weights_that_changed(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    save_checkpoint(built(), tmp_path / "other")
    for weights in (content, (tmp_path / "other" / WEIGHTS).read_bytes()):
        (folder / WEIGHTS).write_bytes(weights)
        with pytest.raises(UserError, match=r"not the file that its card .*another SHA-256"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"num_classes": 9}, "does not fit its card"),
        ({"num_nulls": 0}, "does not fit its card"),
        ({"num_nulls": 4}, "does not fit its card"),
        ({"architecture": "report", "image_shape": [1, 28, 28]}, "does not fit its card"),
        ({"image_shape": [1, 28, 28]}, "does not fit its card"),
        ({"image_shape": [3, 6, 6]}, "does not fit its card"),
        ({"mean": [0.1, 0.2]}, "does not fit its card"),
        ({"stored": "int8"}, "does not fit its card"),
        ({"architecture": "resnet"}, "names the model 'resnet'; known are notebook, report"),
        ({"num_classes": 1}, "Expected `int` >= 2"),
        ({"num_classes": 10**9}, "Expected `int` <="),
        ({"num_classes": "four"}, "Expected `int`, got `str`"),
        ({"num_classes": True}, "Expected `int`, got `bool`"),
        ({"image_shape": [1, 6]}, "image_shape"),
        ({"image_shape": [1, 2, 2]}, "too small"),
        ({"image_shape": None}, "no image_shape"),
        ({"std": [0.0]}, "std must be positive"),
        ({"mean": "middle"}, "Expected `array`"),
        ({"beer": 1}, "unknown field `beer`"),
        ({"weights_sha256": "x"}, "matching regex"),
    ],
)
def test_a_card_that_does_not_fit(folder: Path, changed: dict[str, object], says: str) -> None:
    change_card(folder, **changed)
    with pytest.raises(UserError, match=says):
        load_checkpoint(folder)


def test_every_field_of_the_card_is_needed(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    for key in card.keys() - {"checksum"}:
        (folder / CARD).write_text(json.dumps({k: v for k, v in card.items() if k != key}))
        with pytest.raises(UserError, match=f"missing required field `{key}`"):
            load_checkpoint(folder)


def test_every_flipped_bit_of_the_card_is_noticed(folder: Path) -> None:
    content = (folder / CARD).read_bytes()
    for position in range(0, len(content), 5):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        (folder / CARD).write_bytes(changed)
        with pytest.raises(UserError, match=CARD):
            read_card(folder)
    (folder / CARD).write_bytes(content)
    load_checkpoint(folder)


# Sizes and types


def test_sizes_are_compared_before_memory_is_taken(folder: Path) -> None:
    """A card and weights of gigabytes: the model of the card is not allocated."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for changed in ({"image_shape": [1, 8000, 8000]}, {"num_classes": 130_000}):
        save_checkpoint(built(), folder)
        change_card(folder, **changed)
        with pytest.raises(UserError, match="does not fit its card"):
            load_checkpoint(folder)
    header = {"body.output.weight": {"dtype": "F32", "shape": [10**9, 128], "data_offsets": [0, 0]}}
    for name, content in (
        ("promises", json.dumps(header).encode()),
        ("is too long", b"{" + b" " * 2**23 + b"}"),
    ):
        weights = len(content).to_bytes(8, "little") + content
        (folder / WEIGHTS).write_bytes(weights)
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(folder)
        assert name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000, "kB"


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["body.output.bias"] = torch.ones_like(tensors["body.output.bias"], dtype=dtype)
    save_file(tensors, folder / WEIGHTS)
    change_card(folder, weights_sha256=sha256(folder / WEIGHTS))
    with pytest.raises(UserError, match=r"body\.output\.bias holds numbers of the type"):
        load_checkpoint(folder)


def test_special_files_are_refused_at_once(folder: Path) -> None:
    for name in (WEIGHTS, CARD):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(UserError, match=f"{name} is not a regular file"):
            load_checkpoint(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    load_checkpoint(folder)


# Saving over a checkpoint


def test_a_save_that_stops_anywhere_leaves_the_old_or_the_new(
    folder: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops before each rename and removal of a save, and before each file is written."""
    old, new = built(), built("small")
    number = 0
    while True:
        save_checkpoint(old, folder)
        left = number

        def stopping(operation: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return operation(*arguments, **options)

            return run

        with monkeypatch.context() as patched:
            for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink")):
                patched.setattr(owner, name, stopping(getattr(owner, name)))
            try:
                with locked(folder):
                    save_checkpoint(new, folder)
                break
            except KeyboardInterrupt:
                pass
        model, _ = load_checkpoint(folder)
        assert any(torch.equal(model(images), saved(images)) for saved in (old, new)), number
        number += 1
    assert number >= 6
    with locked(folder):  # removes what is left
        save_checkpoint(new, folder)
    assert sorted(path.name for path in folder.iterdir()) == [LOCK, CARD, WEIGHTS]
    assert torch.equal(load_checkpoint(folder)[0](images), new(images))


def test_weights_that_wait_for_their_name_are_loaded_and_kept(
    folder: Path, images: Tensor, tmp_path: Path
) -> None:
    other = built("small")
    save_checkpoint(other, tmp_path / "other")
    for name, target in ((WEIGHTS, NEW_WEIGHTS), (CARD, CARD)):
        (folder / target).write_bytes((tmp_path / "other" / name).read_bytes())
    assert torch.equal(load_checkpoint(folder)[0](images), other(images))
    save_checkpoint(built(), folder)
    assert not (folder / NEW_WEIGHTS).exists()
    (folder / NEW_WEIGHTS).write_bytes(b"of another save")
    load_checkpoint(folder)
    save_checkpoint(other, folder)
    assert not (folder / NEW_WEIGHTS).exists()


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot"):
        save_checkpoint(built(), tmp_path / "file")


def test_no_pickle_anywhere() -> None:
    forbidden = re.compile(
        r"\b(pickle|cPickle|dill|joblib|marshal|shelve)\b|torch\.save\((?!model)|allow_pickle(?!=False)"
        r"|torch\.load\((?!.*weights_only=True\))"
        r"|(?<![.\w])(eval|exec)\(|read_pickle|to_pickle"
    )
    root = Path(nullclass.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 30
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if forbidden.search(line)
    ]
    assert found == []


def test_slips_of_the_caller(tmp_path: Path) -> None:
    model, folder = built(), tmp_path / "model"
    for value in (torch.zeros(1), torch.zeros(2), {1j: 2}, "\ud800"):
        with pytest.raises(UserError, match="metadata must hold JSON values"):
            save_checkpoint(model, folder, metadata={"a": value})
    assert not folder.exists()
    save_checkpoint(model, folder)
    with pytest.raises(UserError, match="this machine has no device 'cuda:99'"):
        load_checkpoint(folder, device="cuda:99")
    weights = tmp_path / "a.pt"
    weights.touch()
    with pytest.raises(UserError, match=r"a\.pt is a file: give the folder of a checkpoint"):
        load_checkpoint(weights)


def test_a_checkpoint_that_is_saved_again_meanwhile_is_loaded(tmp_path: Path) -> None:
    models = [build_model("small", image_shape=(1, 28, 28), num_classes=3) for _ in range(2)]
    save_checkpoint(models[0], tmp_path)
    is_over = threading.Event()

    def save() -> None:
        while not is_over.is_set():
            for model in models:
                save_checkpoint(model, tmp_path)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        found = [load_checkpoint(tmp_path)[0].state_dict() for _ in range(20)]
    finally:
        is_over.set()
        thread.join()
    for loaded in found:
        assert any(
            all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
            for model in models
        )

"""Models of the user's own code on the command line: from a function to the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import Refused
from safetensors.torch import save_file
from torch import nn

import nullclass
from nullclass.cli.main import main
from nullclass.cli.models import ModelOptions, read_arguments
from nullclass.core.errors import UserError
from nullclass.data import load_dataset
from nullclass.evaluation import Evaluation
from nullclass.models import Classifier, Imported
from nullclass.results.run import read_run

NAME = "strangers_of_test"
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, units=8, num_outputs=4, kind="logits"):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.ReLU())
        self.head, self.kind = nn.Linear(units, num_outputs), kind

    def forward(self, images):
        logits = self.head(self.layers(images))
        if self.kind == "softmax":
            return logits.softmax(dim=1)
        if self.kind == "score":
            return {"logits": logits, "score": -logits.amax(dim=1)}
        if self.kind == "nan":
            return logits / 0
        return (logits, None)

def build(**settings):
    torch.manual_seed(3)
    return Net(**settings)

def colour():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 4))

def function():
    net = build().eval()
    return lambda images: net(images - 0.5)

def classifier():
    import nullclass
    return nullclass.Classifier(build(), 3, mean=0.4)

def refusing(kind):
    import nullclass
    from nullclass.rejection import calibrate, reject_by
    network = nullclass.Classifier(build(num_outputs=3), 3, has_null=False)
    energy = lambda images, logits: -logits.logsumexp(dim=1)
    detector = {
        "shape": lambda images, logits: logits,
        "nan": lambda images, logits: logits[:, 0] / 0,
        "in_place": lambda images, logits: images.mul_(2).flatten(1)[:, 0],
        "no_score": None,
    }.get(kind, energy)
    surrogate = (lambda images, logits: logits[:1, 0]) if kind == "surrogate" else None
    model = reject_by(network, detector, 0.5, surrogate=surrogate)
    if kind == "too_few":
        calibrate(model.model, (torch.rand(9, 1, 8, 8), torch.arange(9) % 3), 0.01)
    return model

def nothing():
    pass

def fails():
    raise OSError("no weights\\nhere")

def in_place():
    return lambda images: images.mul_(2).flatten(1)[:, :4]

def no_tensor():
    return lambda images: images.tolist()

class Squeezed(Net):
    def forward(self, images):
        return super().forward(images)[0].squeeze()  # of one image, without a batch

def squeezed():
    return Squeezed()

def rounded(has_gradient):
    net = build().eval()
    def model(images):
        rounded = (images * 255).round() / 255
        return net(images + (rounded - images).detach() if has_gradient else rounded)
    return model

def late(num):
    net, seen = build(), []
    def model(images):
        seen.append(len(images))
        if len(seen) > num:
            raise OSError("no longer")
        return net(images)
    return model

def wrong_size():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
"""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where the user's code is found; the code itself."""
    folder = tmp_path_factory.mktemp("code")
    (folder / f"{NAME}.py").write_text(CODE)
    (folder / "broken_of_test.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    from importlib import import_module

    return import_module(NAME)


def arguments(function: str, data: Path, *options: object) -> list[object]:
    return ["evaluate", "--model", f"{NAME}:{function}", "--data", data, "--out", "out",
            "--images", 5, "--eps", 0.1, "--attack", "fgsm", *options]  # fmt: skip


@pytest.mark.slow
def test_from_a_function_to_the_report(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In the working folder, with weights, and again from a checkpoint of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_nets.py").write_text(CODE)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    options = ["--data", str(data_folder), "--eps", "0.05", "0.2", "--images", "6", "--smallest",
               "2", "--attack", "fgsm", "worst-case", "--device", "cpu"]  # fmt: skip
    own = ["--model", "my_nets:build", "--model-args", "units=5", "--weights", "w.pt",
           "--num-classes", "3", "--mean", "0.4", "--std", "0.3"]  # fmt: skip
    from importlib import import_module

    sys.path.insert(0, str(tmp_path))
    torch.save(nn.DataParallel(import_module("my_nets").build(units=5)).state_dict(), "w.pt")
    assert main(["evaluate", *own, *options, "--out", "out"]) == 0
    printed = capsys.readouterr()
    assert "report: out/report.html" in printed.out
    assert "my_nets.build" in (tmp_path / "out" / "report.html").read_text()
    (trial,) = read_run(tmp_path / "out").trials
    rows = Evaluation.read(trial).rows
    model = Classifier(Imported("my_nets:build", {"units": 5}), 3, mean=0.4, std=0.3)
    test = load_dataset(data_folder, validation=0).test.first(6)
    by_hand = nullclass.evaluate(
        model, test, attacks=["fgsm", "worst-case"], eps=[0.05, 0.2], num_smallest=2, checks=False
    )
    assert rows["outcome"].tolist() == by_hand.rows["outcome"].tolist()
    assert main(["evaluate", *own, *options, "--out", "out"]) == 0
    assert "holds this evaluation already" in capsys.readouterr().err
    nullclass.save_checkpoint(model, "saved")
    checkpoint = ["evaluate", "saved", *options, "--out", "again"]
    assert main(checkpoint) == 2
    assert "would be imported and run" in capsys.readouterr().err
    assert main([*checkpoint, "--allow-import"]) == 0
    (trial,) = read_run(tmp_path / "again").trials
    assert Evaluation.read(trial).rows["outcome"].equals(rows["outcome"])
    # The same options, other code: computed again.
    (tmp_path / "my_nets.py").write_text(CODE.replace("(logits, None)", "-logits"))
    monkeypatch.delitem(sys.modules, "my_nets")
    assert main(["evaluate", *own, *options, "--out", "out"]) == 0
    assert "it is replaced" in capsys.readouterr().err


@pytest.mark.slow
def test_from_a_function_and_a_folder_of_pictures_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """One command; colour pictures that are not square."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(9):
        folder = tmp_path / "pictures" / ("cat", "dog", "emu")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    command = ["evaluate", "--model", f"{NAME}:colour", "--data", "pictures", "--num-classes", "3"]
    command += ["--mean", "0.5", "0.4", "0.3", "--attack", "fgsm", "pgd", "--smallest", "2"]
    assert main([*command, "--eps", "0.1", "--out", "out"]) == 0
    assert "report: out/report.html" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    (trial,) = read_run(tmp_path / "out").trials
    assert sorted(Evaluation.read(trial).rows["label"].unique()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        ("build", {"num_classes": 3}, {"has_null": True}),
        ("build", {"null": "last"}, {"has_null": True}),
        ("build", {"model_args": ("num_outputs=3",)}, {"has_null": False}),
        ("build", {"model_args": ("num_outputs=3", "kind=score"), "null": "score"},
         {"has_null": True, "has_score": True}),
        ("build", {"model_args": ("kind=softmax",), "outputs": "probabilities", "null": "last"},
         {"outputs": "probabilities"}),
        ("function", {"num_classes": 3}, {"has_null": True}),
        ("classifier", {}, {"has_null": True, "imported": None}),
    ],
)  # fmt: skip
def test_models_of_a_function(
    function: str, options: dict[str, Any], expected: dict[str, Any], data_folder: Path
) -> None:
    data = str(data_folder)
    found = ModelOptions(model=f"{NAME}:{function}", data=data, **options).load(CPU)
    assert found.model.num_classes == 3
    assert {name: getattr(found.model, name) for name in expected} == expected
    assert found.model(found.dataset.test.batch([0])[0]).isfinite().all()
    assert (found.name, found.card, found.weights_sha256) == (f"{NAME}.{function}", None, None)
    other = ModelOptions(model=f"{NAME}:build", data=data, model_args=("units=7",), null="last")
    assert found.digest != other.load(CPU).digest


BAD = [
    ("build", [], "4 logits, but num_classes=3 and has_null=False need 3: .*--num-classes"),
    ("build", ["--null", "none"], "4 logits, but num_classes=3 and has_null=False need 3"),
    ("build", ["--num-classes", 4, "--null", "last"], "4 logits for num_classes=4, so none"),
    ("build", ["--num-classes", 7], "has 4 logits, but num_classes=7"),
    ("build", ["--num-classes", 2, "--model-args", "num_outputs=2"], "labels run from 0 to 2"),
    ("build", ["--num-classes", 1], "num_classes must be a whole number of at least 2"),
    ("build", ["--null", "last", "--mean", 0.1, 0.2], "has 2 means, and the images have 1 channel"),
    ("build", ["--null", "last", "--std", 0], "std must be positive"),
    ("build", ["--null", "last", "--model-args", "units"], "'units' is not of the form NAME=VALUE"),
    ("build", ["--null", "last", "--model-args", "a b=1"], "'a b=1' is not of the form"),
    ("build", ["--null", "last", "--model-args", "units=1", "units=2"], "gives units twice"),
    ("build", ["--null", "last", "--model-args", "size=1"], "build failed .TypeError: .*size"),
    ("build", ["--null", "last", "--model-args", "units=-1"], "build failed .RuntimeError"),
    ("build", ["--null", "last", "--model-args", "kind=softmax"],
     "outputs are probabilities .*outputs=.probabilities. to .*.--outputs probabilities"),
    ("build", ["--null", "last", "--model-args", "kind=nan"], "logits are not finite"),
    ("build", ["--null", "score", "--model-args", "num_outputs=3"], "returns no score"),
    ("build", ["--null", "last", "--outputs", "probabilities"], "outputs .* are negative"),
    ("build", ["--null", "last", "--weights", "nowhere.pt"], "nowhere.pt is missing"),
    ("build", ["--null", "last", "--weights", "w.txt"], "w.txt: weights are files"),
    ("build", ["--null", "last", "--weights", "other.pt"],
     r"does not fit the network: it lacks layers.1.weight, .* has unknown a$"),
    ("build", ["--null", "last", "--weights", "other.safetensors"],
     r"it has other shapes for head.bias \(9, not 4\)"),
    ("build", ["--null", "last", "--weights", "code.pt"], "holds code or objects beside tensors"),
    ("function", ["--null", "last", "--weights", "other.pt"], "let the function return one"),
    ("classifier", ["--mean", 0.1], "returns a Classifier, which has its own mean"),
    ("classifier", ["--num-classes", 4], "the model has 3 classes, not 4"),
    ("refusing", ["--model-args", "kind=shape"], r"the detector returns shape \(\d+, 3\) for"),
    ("refusing", ["--model-args", "kind=nan"], "the detector returns scores that are not finite"),
    ("refusing", ["--model-args", "kind=in_place"], "the detector changes its input in place"),
    ("refusing", ["--model-args", "kind=no_score"], "a threshold needs a score"),
    ("refusing", ["--model-args", "kind=surrogate"], r"the surrogate returns shape \(1,\) for"),
    ("refusing", ["--model-args", "kind=too_few"], "needs at least 99 held-out images, and .* 9:"),
    ("nothing", [], "nothing returns a NoneType: let it return a torch.nn.Module"),
    ("Net", [], "outputs|4 logits"),
    ("missing", [], f"{NAME} has no function missing"),
    ("fails", [], "fails failed .OSError: no weights here"),
    ("in_place", ["--null", "last"], "changes its input in place"),
    ("no_tensor", [], "returns list without logits"),
    ("squeezed", ["--null", "last"], r"gives logits of shape \(4,\) for 1 images"),
    ("wrong_size", ["--null", "last"], r"fails on images of shape \(16, 1, 8, 8\) .RuntimeError"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "options", "says"), BAD)
def test_models_that_cannot_be_evaluated(
    function: str,
    options: list[object],
    says: str,
    refused: Refused,
    data_folder: Path,
    module: Any,
    tmp_path: Path,
) -> None:
    for path in options:
        if path == "other.pt":
            torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
        elif path == "other.safetensors":
            state = module.build().state_dict() | {"head.bias": torch.zeros(9)}
            save_file(state, tmp_path / "other.safetensors")
        elif path == "code.pt":
            torch.save(module.build(), tmp_path / "code.pt")
        elif path == "w.txt":
            (tmp_path / "w.txt").touch()
    refused(*arguments(function, data_folder, *options), says=says)


def test_a_mended_gradient_is_another_model(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its answers to the test images, which are bytes, are the same."""
    monkeypatch.chdir(tmp_path)
    rates = []
    for has_gradient in ("false", "true"):
        words = arguments("rounded", data_folder, "--null", "last", "--no-checks", "--smallest", 0)
        words += ["--model-args", f"has_gradient={has_gradient}", "--ood", "none"]
        assert main([str(word) for word in words]) == 0
        assert "holds this evaluation already" not in capsys.readouterr().err
        (trial,) = read_run(tmp_path / "out").trials
        rates.append(trial.rows)
    clean = [rows[rows["attack"] == "clean"]["outcome"].tolist() for rows in rates]
    assert clean[0] == clean[1]
    assert rates[0]["loss"].sum() < rates[1]["loss"].sum(), "FGSM has a gradient"


def test_a_model_that_fails_leaves_nothing_behind(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = arguments("late", data_folder, "--null", "last", "--model-args", "num=30")
    with pytest.raises(OSError, match="no longer"):
        main([str(word) for word in words])
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_fit_together(
    refused: Refused, data_folder: Path, checkpoint: Path
) -> None:
    own = ["--model", f"{NAME}:build"]
    data = ["--data", data_folder]
    for command in ("evaluate", "certify"):
        refused(command, *data, says="give either CHECKPOINT or --model")
        refused(command, checkpoint, *own, *data, says="give either CHECKPOINT or --model")
        refused(command, *own, says="--model needs --data")
        refused(command, checkpoint, *data, "--mean", 0.1, says="--mean is for --model")
        refused(command, checkpoint, *data, "--weights", "w.pt", says="--weights is for --model")
        refused(command, "--model", "nets", *data, says="PACKAGE.MODULE:FUNCTION")
        refused(command, "--model", "broken_of_test:f", *data, says="broken_of_test cannot be imp")
    refused("substitute", *data, "--out", "out", says="give either CHECKPOINT or --model")
    refused("evaluate", *own, "--null", "last", *data, "--null-rate", 0.1,
            says="no held-out images are known for this model")  # fmt: skip


def test_a_checkpoint_that_names_a_function(
    refused: Refused, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    nullclass.save_checkpoint(Classifier(Imported(f"{NAME}:build"), 3), folder)
    data, says = ["--data", data_folder], "would be imported and run: if you trust it"
    refused("evaluate", folder, *data, says=says)
    refused("certify", folder, *data, says=says)
    refused("substitute", folder, *data, "--out", "out", says=says)
    refused("curve", folder, *data, "--out", "f.csv", says=says)
    refused("transfer", "--sources", folder, "--targets", folder, *data, says=says)
    refused("curve", folder, *data, "--out", "f.csv", "--allow-import", says="a null curve needs")


def test_certify_and_transfer(
    data_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["--model", f"{NAME}:build", "--model-args", "num_outputs=3"]
    assert main(["certify", *own, "--data", str(data_folder), "--eps", "0.01", "--radius", "0.01",
                 "--images", "5", "--device", "cpu"]) == 0  # fmt: skip
    assert "proved against every attack" in capsys.readouterr().out
    nullclass.save_checkpoint(Classifier(Imported(f"{NAME}:build"), 3), tmp_path / "saved")
    assert main(["transfer", "--sources", "saved", "--targets", "saved", "--allow-import",
                 "--data", str(data_folder), "--attack", "fgsm",
                 "--device", "cpu"]) == 0  # fmt: skip
    assert "40 test images" in capsys.readouterr().out, "all that there are"


def test_arguments_are_json_or_text() -> None:
    words = ["a=1", "b=[1, 2.5]", "c=resnet18", "d=true", "e=", "f=x=y", 'g="1"', "h=NaN"]
    assert read_arguments(words) == {
        "a": 1, "b": [1, 2.5], "c": "resnet18", "d": True, "e": "", "f": "x=y", "g": "1",
        "h": "NaN",
    }  # fmt: skip
    assert json.dumps(read_arguments(words))
    with pytest.raises(UserError, match="not of the form"):
        read_arguments(["=1"])

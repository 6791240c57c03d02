"""``nullclass refuse``: a model gets a way to refuse, and a checkpoint has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from idx_files import tiny_arrays, write_dataset
from refusals import Refused
from tiny import learnable_arrays

import nullclass
from nullclass.cli.main import main
from nullclass.data import FILE_NAMES, LabelledImages, load_dataset
from nullclass.models import Classifier, build_model
from nullclass.rejection import (
    DETECTORS,
    DetectingClassifier,
    ProvableNull,
    ThresholdedClassifier,
    calibrate,
    fit_mahalanobis,
    reject_by,
)
from nullclass.training.card import Origin
from nullclass.training.checkpoint import load_checkpoint

RADIUS = {"consistency": ["--radius", "0.05"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrays = learnable_arrays(num_train=160, num_test=150)
    return write_dataset(tmp_path_factory.mktemp("data") / "letters", arrays)


@pytest.fixture(scope="module")
def network(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose card names 100 held-out images."""
    folder = tmp_path_factory.mktemp("network") / "checkpoint"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small", image_shape=(1, 8, 8), num_classes=3, has_null=False)
    checksum = load_dataset(str(data), validation=0).checksum
    origin = Origin(data="letters", data_checksum=checksum, num_held_out=100)
    nullclass.save_checkpoint(model, folder, origin=origin, metadata={"mine": 1})
    return folder


def held_out(data: Path) -> LabelledImages:
    images = load_dataset(str(data), validation=0).hold_out(100).validation
    assert images is not None
    return images


def other_images(folder: Path) -> Path:
    """Data with 150 test images that no other data have."""
    arrays = learnable_arrays(num_test=150)
    arrays[FILE_NAMES[2]] = 255 - arrays[FILE_NAMES[2]]
    return write_dataset(folder / "others", arrays)


def refuse(network: Path, data: Path, out: Path, *options: str) -> Classifier:
    assert main(["refuse", str(network), "--data", str(data), "--out", str(out), *options]) == 0
    return load_checkpoint(out)[0]


@pytest.mark.parametrize("rule", [*DETECTORS, "consistency"])
def test_every_rule_at_its_rate(
    rule: str, network: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--by", rule, "--null-rate", "0.1", *RADIUS.get(rule, [])]
    model = refuse(network, data, tmp_path / "out", *options)
    assert isinstance(model, ThresholdedClassifier)
    assert isinstance(model.model, DetectingClassifier)
    images, _ = held_out(data).batch(slice(None))
    with torch.no_grad():
        share = float((model(images).argmax(dim=1) == 3).float().mean())
    assert share == pytest.approx(model.threshold.held_out_null_rate)
    assert 0 < share <= 0.1
    assert f"{rule} refuses {100 * share:.2f} % of 100 held-out images" in capsys.readouterr().out


def test_it_is_what_the_library_makes(network: Path, data: Path, tmp_path: Path) -> None:
    model = refuse(
        network,
        data,
        tmp_path / "out",
        "--by",
        "mahalanobis",
        "--fitted",
        "50",
        "--null-rate",
        "0.05",
    )
    classifier, before = load_checkpoint(network)
    train = load_dataset(str(data), validation=0).hold_out(100).training_images()
    expected = reject_by(classifier, fit_mahalanobis(classifier, train.up_to(50)))
    threshold = calibrate(expected, held_out(data), 0.05)
    assert isinstance(model, ThresholdedClassifier)
    assert model.threshold == threshold
    images, _ = load_dataset(str(data), validation=0).test.batch(slice(None))
    torch.testing.assert_close(model.model(images), expected(images), rtol=0, atol=0)
    card = load_checkpoint(tmp_path / "out")[1]
    assert card.metadata == {"mine": 1}
    assert card.origin.num_held_out == 100
    assert card.origin.trained_on == before.provenance


def test_a_proof(network: Path, data: Path, tmp_path: Path) -> None:
    options = ["--by", "proof", "--radius", "0.01", "--verifier", "crown-ibp"]
    model = refuse(network, data, tmp_path / "out", *options)
    assert isinstance(model, ProvableNull)
    assert (model.radius, model.verifier) == (0.01, "crown-ibp")


def test_a_threshold_on_a_null_logit(data: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small", image_shape=(1, 8, 8), num_classes=3, has_null=True)
    nullclass.save_checkpoint(model, tmp_path / "null", origin=Origin(data="letters"))
    others = str(other_images(tmp_path))
    options = ["--by", "null-logit", "--null-rate", "0.1", "--held-out", others]
    refusing = refuse(tmp_path / "null", data, tmp_path / "out", *options)
    assert isinstance(refusing, ThresholdedClassifier)
    assert refusing.threshold.num_images == 150


def test_a_model_of_ones_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a function and a folder of held-out images to an evaluation, without a card."""
    code = "import torch\n\ndef build():\n    torch.manual_seed(0)\n"
    code += "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    (tmp_path / "refuse_of_test.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    others = other_images(tmp_path)
    out = tmp_path / "out"
    own = ["--model", "refuse_of_test:build", "--data", str(data), "--num-classes", "3"]
    held = ["--held-out", str(others), "--null-rate", "0.1"]
    assert main(["refuse", *own, *held, "--by", "energy", "--out", str(out)]) == 0
    command = ["evaluate", *own, *held, "--attack", "fgsm", "--images", "20", "--no-checks"]
    assert main([*command, "--out", str(tmp_path / "run"), "--smallest", "0"]) == 0
    capsys.readouterr()
    model, _ = load_checkpoint(out, allow_import=True)
    assert isinstance(model, ThresholdedClassifier)
    assert model.threshold.num_images == 150


def test_bad_input(
    refused: Refused,
    network: Path,
    data: Path,
    data_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def check(*options: object, says: str) -> None:
        refused("refuse", network, "--data", data, "--out", "out", *options, says=says)

    check("--by", "magic", says="--by must be one of softmax")
    for rule in ("proof", "consistency"):
        check("--by", rule, says=f"--by {rule} needs --radius")
    for rule, option, value in (
        ("energy", "radius", 0.1),
        ("energy", "verifier", "cascade"),
        ("energy", "fitted", 7),
        ("proof", "null-rate", 0.1),
        ("proof", "held-out", data),
    ):
        radius = ["--radius", 0.1] if rule == "proof" else []
        check("--by", rule, *radius, f"--{option}", value, says=f"--{option} has no effect with")
    check("--by", "energy", "--null-rate", 0.1, "--held-out", data, says="are test images too")
    check("--by", "null-logit", says="--by null-logit needs a model with a null class")
    check("--by", "energy", "--null-rate", 2, says="--null-rate must be between 0 and 1")
    check("--by", "energy", "--null-rate", 0.001, says="held-out images")
    check("--by", "kernel-density", "--fitted", 2, says="give more training images")
    refused("refuse", network, "--data", data_folder, "--out", "out", "--by", "energy",
            says="no held-out images are known")  # fmt: skip
    folder = tmp_path_factory.mktemp("large") / "large"
    large = write_dataset(folder, tiny_arrays(9, 9, 3, 28, seed=0))
    check("--by", "energy", "--held-out", large, says="--held-out has images of")

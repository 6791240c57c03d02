"""Exported files compute what the model computes, for every way to refuse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nullclass
from nullclass.cli.main import main
from nullclass.core.errors import UserError
from nullclass.data import Dataset, LabelledImages
from nullclass.models import Classifier, build_model
from nullclass.rejection import (
    ConsistentNull,
    ProvableNull,
    SmoothedNull,
    calibrate,
    reject_by,
    with_threshold,
)
from nullclass.serving import export, export_model
from nullclass.training.card import read_card
from nullclass.training.checkpoint import CARD
from nullclass.zoo import FOLDER

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

SHAPE = (1, 8, 8)
K = 3


def some_images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    contrast = torch.linspace(0, 1, 300)[:, None, None, None]
    noise = torch.rand(300, *SHAPE, generator=generator)
    return noise * contrast.flip(0) + contrast * (noise > 0.7)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    return LabelledImages(some_images(), torch.arange(300) % K)


def network(name: str = "small", *, num_classes: int = K, num_nulls: int = 0) -> Classifier:
    """An untrained network that gives no class most of the images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(
            name,
            image_shape=SHAPE,
            num_classes=num_classes,
            has_null=num_nulls > 0,
            num_nulls=max(1, num_nulls),
            mean=(0.3,),
            std=(0.2,),
        ).eval()
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= model.all_logits(some_images()).mean(dim=0)
    return model


def calibrated(images: LabelledImages) -> Classifier:
    model = network("residual")
    return with_threshold(model, calibrate(model, images.first(200), 0.1))


def sharpness(values: Tensor, logits: Tensor) -> Tensor:
    return values.flatten(1).std(dim=1) - 0.29


MODELS: dict[str, Callable[[LabelledImages], Classifier]] = {
    "null logit": lambda _: network("notebook", num_nulls=1),
    "several null logits": lambda _: network(num_nulls=3),
    "threshold": calibrated,
    "detector": lambda _: reject_by(network(), sharpness),
    "score": lambda _: reject_by(network(), "energy", -1.1),
    "bounds": lambda _: ProvableNull(network("certifiable-small"), 0.002),
    "bounds in L2": lambda _: ProvableNull(network("certifiable-small"), 0.02, norm="l2"),
    "bounds of many classes": lambda _: ProvableNull(network("small", num_classes=40), 0.0001),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(
    request: pytest.FixtureRequest, images: LabelledImages, tmp_path_factory: Any
) -> tuple[Classifier, Path]:
    model = MODELS[request.param](images)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    equality = export_model(model, path, images)
    assert equality.num_equal_labels == equality.num_images == 300
    labels = model.predict(images.batch(slice(None))[0])
    assert len(labels.unique()) > 1, "the model says more than one thing"
    return model, path


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_any_number_of_images_gives_the_same(
    exported: tuple[Classifier, Path], images: LabelledImages
) -> None:
    model, path = exported
    run = session(path)
    for size in (1, 2, 65, 130):
        batch, _ = images.batch(slice(0, size))
        logits, labels = run.run(["logits", "labels"], {"images": batch.numpy()})
        with torch.no_grad():
            expected = model(batch)
        scale = float(expected.abs().max())
        assert np.abs(logits - expected.numpy()).max() <= 1e-5 * scale
        assert labels.tolist() == model.predict(batch).tolist()


@pytest.mark.slow
def test_images_outside_the_range_are_null(
    exported: tuple[Classifier, Path], images: LabelledImages
) -> None:
    model, path = exported
    batch = images.batch(slice(0, 6))[0].clone()
    expected = model.predict(batch).tolist()
    for index, pixel in enumerate((1.1, -0.1, float("nan"), float("inf"))):
        batch[index, 0, 3, 3] = pixel
    batch[4, 0, 3, 3] = -5e-6  # rounding, which predict accepts too
    (labels,) = session(path).run(["labels"], {"images": batch.numpy()})
    assert labels.tolist()[:4] == [-1] * 4
    assert labels.tolist()[5] == expected[5]


def test_the_file_says_what_it_is(images: LabelledImages, tmp_path: Path) -> None:
    model = calibrated(images)
    nullclass.save_checkpoint(model, tmp_path / "checkpoint")
    loaded, card = nullclass.load_checkpoint(tmp_path / "checkpoint")
    path = tmp_path / "model.onnx"
    export_model(loaded, path, images, class_names=("a", "b", "c"), card=card)
    found = session(path)
    info = json.loads(found.get_modelmeta().custom_metadata_map["nullclass"])
    threshold = model.threshold  # type: ignore[attr-defined]
    assert info["class_names"] == ["a", "b", "c"]
    assert (info["num_classes"], info["null_index"], info["null_label"]) == (3, 3, -1)
    assert info["refusal"]["kind"] == "threshold"
    assert info["refusal"]["value"] == threshold.value
    assert info["guarantee"] == threshold.guarantee == card.refusal.guarantee  # type: ignore[union-attr]
    assert "at most 0.1" in info["guarantee"]
    assert info["card_sha256"] == read_card(tmp_path / "checkpoint").checksum
    assert info["card_sha256"] in (tmp_path / "checkpoint" / CARD).read_text()
    assert found.get_inputs()[0].shape == ["batch", *SHAPE]


@pytest.mark.slow
def test_torch_export_holds_the_same(images: LabelledImages, tmp_path: Path) -> None:
    model = ProvableNull(network("certifiable-small"), 0.002)
    path = tmp_path / "model.pt2"
    equality = export_model(model, path, images, format="torch-export")
    assert equality.is_equal
    extra = {"nullclass.json": ""}
    program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
    info = json.loads(extra["nullclass.json"])
    assert (info["eps_claimed"], info["refusal"]["radius"]) == (0.004, 0.002)
    for size in (1, 7):
        batch, _ = images.batch(slice(0, size))
        assert program.module()(batch)[1].tolist() == model.predict(batch).tolist()


class Draws(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4] * (2 if float(images.sum()) > 0 else 1)


def test_what_cannot_be_a_graph_is_refused(images: LabelledImages, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    refused = {
        "draws noise": SmoothedNull(network(), 0.1, sigma=0.1, num_samples=8, num_selection=4),
        "draws noise for every": with_threshold(SmoothedNull(network(), 0.1, sigma=0.1), 0.1),
        "need gradients": ProvableNull(network(), 0.001, verifier="crown-ibp"),
        "export the ProvableNull inside": with_threshold(ProvableNull(network(), 0.001), 0.1),
        "attacks every image": ConsistentNull(network(), 0.1),
        "attacks every image, which": with_threshold(ConsistentNull(network(), 0.1), 0.1),
        "cannot be exported": Classifier(Draws(), K),
    }
    for says, model in refused.items():
        with pytest.raises(UserError, match=says):
            export_model(model, path, images)
    with pytest.raises(UserError, match="format"):
        export_model(network(), path, images, format="tflite")
    assert not path.exists()


class Elsewhere(Classifier):
    """Says what device its images are on; its own is none of a computer."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.device == self.mean.device == torch.device("meta")
        return torch.zeros(len(images), K)


def test_a_model_on_another_device_is_compared(images: LabelledImages) -> None:
    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        return batch.flatten(1)[:, :K] * 0, torch.zeros(len(batch), dtype=torch.int64)

    model = Elsewhere(nn.Flatten(), K, has_null=False).to("meta")
    assert export.compare(model, run, images).is_equal


def test_a_file_that_computes_something_else_is_not_written(
    images: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(num_nulls=1)
    for shift, flips in ((1e-3, False), (0.0, True), (float("nan"), False)):

        def runner(_: bytes, shift: float = shift, flips: bool = flips) -> Any:
            def run(batch: Tensor) -> tuple[Tensor, Tensor]:
                labels = model.predict(batch)
                return model(batch).detach() + shift, labels + flips

            return run

        monkeypatch.setattr(export, "_onnx_runner", runner)
        with pytest.raises(UserError, match="something else"):
            export_model(model, tmp_path / "model.onnx", images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["provable-0.3", "notebook-null", "abstain"])
def test_zoo_models_on_ten_thousand_images(
    name: str, mnist: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    assert main(["export", name, "--out", str(path)]) == 0
    assert "10,000 of 10,000 labels" in capsys.readouterr().out
    info = json.loads(session(path).get_modelmeta().custom_metadata_map["nullclass"])
    card = read_card(FOLDER / "checkpoints" / name)
    assert info["card_sha256"] == card.checksum
    assert info["eps_claimed"] == (0.3 if name.startswith("provable") else None)
    assert info["class_names"] == list(mnist.class_names)

"""Exports a model that may refuse into one file, and compares the file with the model.

``onnx`` is read by ONNX Runtime, ``torch-export`` (``.pt2``) by ``torch.export.load``. Either file
holds the standardisation, the weights, the rule for null (a null logit, a threshold or bounds), and
:class:`Exported` as JSON: in ONNX's metadata under ``nullclass``, in a ``.pt2`` as the extra file
``nullclass.json``.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nullclass import __version__
from nullclass.core.checks import check_choice
from nullclass.core.devices import default_batch_size, exact_float32
from nullclass.core.documents import Schema, Sha256, to_json
from nullclass.core.errors import UserError
from nullclass.core.files import write_bytes
from nullclass.core.imports import import_extra
from nullclass.core.modules import frozen
from nullclass.core.outcomes import NULL_LABEL, predictions
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.rejection import ProvableNull, ThresholdedClassifier
from nullclass.serving.graph import INPUT, OUTPUTS, traced
from nullclass.training.card import Card, Refusal
from nullclass.training.refusals import without_refusal

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Formats and the usual ends of their files' names."""

INFO = "nullclass"
"""Key of the metadata in ONNX; in a ``.pt2`` the file ``nullclass.json``."""

TOLERANCE = 1e-5
"""Largest difference of a logit, relative to the largest absolute logit of all images."""

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images to logits and labels."""


class Exported(Schema, frozen=True, kw_only=True):
    """What an exported file says about its model."""

    num_classes: int
    """K, the number of real classes."""
    class_names: tuple[str, ...]
    """K names; empty if the data have none."""
    null_index: int | None
    """Position of null among the logits, K; None for a model that always answers."""
    null_label: int
    """Null in the output ``labels``."""
    image_shape: tuple[int, int, int]
    """``(C, H, W)``; pixels are float32 in [0,1], not standardised."""
    refusal: Refusal | None
    """How the model refuses, besides by a null logit."""
    guarantee: str | None
    """What the calibration of its threshold promises."""
    eps_claimed: float | None
    """No input within this eps gets another class if the label is proved (L∞ or L2 as the refusal
    says); None where nothing is proved."""
    claims: str | None
    """What the card of a zoo model claims."""
    limits: str | None
    """What it does not claim."""
    card_sha256: Sha256 | None
    """Checksum of the card."""
    weights_sha256: Sha256 | None
    """SHA-256 of the checkpoint's weights."""
    nullclass: str
    """Version that wrote the file."""


@dataclass(frozen=True)
class Equality:
    """How well a file agrees with its model."""

    num_images: int
    num_equal_labels: int
    difference: float
    """Largest absolute difference of a logit."""
    scale: float
    """Largest absolute logit."""

    @property
    def is_equal(self) -> bool:
        """Whether all labels are the same, and all logits within :data:`TOLERANCE`."""
        has_labels = self.num_equal_labels == self.num_images
        return has_labels and self.difference <= TOLERANCE * self.scale


def export_model(
    model: Classifier,
    path: Path | str,
    images: LabelledImages,
    *,
    format: str = "onnx",  # noqa: A002
    class_names: Sequence[str] = (),
    card: Card | None = None,
) -> Equality:
    """Write a model with its rule for null into one file, if the file computes the same.

    Args:
        model: A classifier, possibly one of :mod:`nullclass.rejection`.
        path: The file; replaced if there is one.
        images: Images on which model and file are compared.
        format: Key of :data:`FORMATS`.
        class_names: K names, for the metadata.
        card: The card of the checkpoint, likewise.

    Returns:
        The comparison: all labels are equal, and all logits within :data:`TOLERANCE`.

    Raises:
        UserError: If onnx or onnxruntime is not installed, the model cannot be exported, the file
            computes something else, or it cannot be written.
    """
    check_choice("the format", format, FORMATS)
    check_classifier(model)
    onnx = import_extra("onnx", "onnx") if format == "onnx" else None
    if format == "onnx":
        import_extra("onnxscript", "onnx")
        import_extra("onnxruntime", "onnx")
    shape = tuple(int(size) for size in images.images.shape[1:])
    if len(class_names) not in (0, model.num_classes):
        raise UserError(f"give {model.num_classes} class names, not {len(class_names)}")
    info = _info(model, (shape[0], shape[1], shape[2]), class_names, card)
    with frozen(model), _quiet():
        program = traced(model, shape)
        content = _to_onnx(onnx, program, info) if format == "onnx" else _to_pt2(program, info)
    run = _onnx_runner(content) if format == "onnx" else _pt2_runner(content)
    with exact_float32():
        equality = compare(copy.deepcopy(model).cpu(), run, images)
    if not equality.is_equal:
        is_half = any(p.dtype.itemsize < 4 for p in model.parameters())
        remedy = ": call model.float() first" if is_half else ""
        raise UserError(
            f"the {format} file computes something else than the model, so it is not written: "
            f"{equality.num_equal_labels:,} of {equality.num_images:,} labels are equal, and "
            f"logits of up to {equality.scale:.3g} differ by up to {equality.difference:.2g}"
            f"{remedy}"
        )
    write_bytes(Path(path), content)
    return equality


def compare(model: Classifier, run: Run, images: LabelledImages) -> Equality:
    """Compare a model with another computation of its logits and labels."""
    equal, difference, scale = 0, 0.0, 0.0
    with frozen(model), torch.no_grad():
        size = default_batch_size(images.batch([0])[0])
        for start in range(0, len(images), size):
            batch, _ = images.batch(slice(start, start + size))
            expected = model(batch.to(model.mean.device)).cpu()
            logits, labels = run(batch.cpu())
            equal += int((labels == predictions(expected, model.num_classes)).sum())
            distance = (logits - expected).abs().nan_to_num(torch.inf)
            difference = max(difference, float(distance.max()))
            scale = max(scale, float(expected.abs().max()))
    return Equality(len(images), equal, difference, scale)


def _info(
    model: Classifier,
    shape: tuple[int, int, int],
    class_names: Sequence[str],
    card: Card | None,
) -> Exported:
    zoo = None if card is None else card.zoo
    threshold = model.threshold if isinstance(model, ThresholdedClassifier) else None
    return Exported(
        num_classes=model.num_classes,
        class_names=tuple(class_names),
        null_index=model.num_classes if model.has_null else None,
        null_label=NULL_LABEL,
        image_shape=shape,
        refusal=without_refusal(model)[1],
        guarantee=None if threshold is None else threshold.guarantee,
        eps_claimed=2 * model.radius if isinstance(model, ProvableNull) else None,
        claims=None if zoo is None else zoo.claims,
        limits=None if zoo is None else zoo.limits,
        card_sha256=None if card is None else card.checksum or None,
        weights_sha256=None if card is None else card.weights_sha256,
        nullclass=__version__,
    )


def _to_onnx(onnx: Any, program: Any, info: Exported) -> bytes:
    exported: Any = torch.onnx.export(
        program, (), dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False
    )
    proto = exported.model_proto
    graph = proto.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param == symbol:
                side.dim_param = "batch"
    proto.producer_name, proto.producer_version = "nullclass", __version__
    onnx.helper.set_model_props(proto, {INFO: to_json(info).decode()})
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _to_pt2(program: Any, info: Exported) -> bytes:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={f"{INFO}.json": to_json(info).decode()})
    return content.getvalue()


def _onnx_runner(content: bytes) -> Run:
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = session.run(list(OUTPUTS), {INPUT: images.numpy().astype(np.float32)})
        return torch.from_numpy(logits), torch.from_numpy(labels)

    return run


def _pt2_runner(content: bytes) -> Run:
    module: Any = torch.export.load(io.BytesIO(content)).module()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = module(images)
        return logits, labels

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on libraries that are not used."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)

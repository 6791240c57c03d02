"""Finished parts of an unfinished evaluation, kept in files, so that the same call goes on.

An evaluation is a tree of steps: attacks, their batches; proofs, their batches; checks. A step
keeps what it has computed in one file, bit for bit, with a fingerprint of all that it depends on:
the settings, the images, the weights and answers of the models, the versions of the code. Another
fingerprint, or a checksum that does not fit, means that the step is computed again. So a folder can
be reused for any evaluation, and two evaluations are never mixed.

Nothing is kept of a step whose result is not decided by what nullclass knows of it: a user's own
attack, or a model whose answers are random. On another kind of processor answers may differ in the
last bit; then all is computed again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from nullclass.attacks.state import logits_of
from nullclass.attacks.steps import NoGradientError, input_gradient
from nullclass.core.documents import json_values, parse
from nullclass.core.errors import UserError
from nullclass.core.files import write_bytes
from nullclass.core.modules import frozen, searched
from nullclass.core.paths import file_name, read_bytes
from nullclass.core.provenance import provenance
from nullclass.core.tensor_files import stored_copy, tensor_sha256
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.rejection import ProvableNull

MIN_SECONDS = 0.2
"""A step that took less is not kept: on a slow disk, keeping it takes as long."""

LIMIT = 2**33
"""Most bytes of a part."""

FEW = slice(0, 8)
"""Images whose logits tell two models of equal weights apart, and reveal a random model."""

FILE = "part"
"""File of a step, in the step's folder."""

_TENSOR, _TABLE = "$tensor", "$table"

T = TypeVar("T")


class _UnknownError(Exception):
    """Something has no exact description."""


@dataclass(frozen=True)
class Parts:
    """What is kept of one step and of the steps in it; without a folder nothing is kept."""

    folder: Path | None = None
    fingerprint: str = ""
    """SHA-256 of all that the step depends on."""

    def of(
        self,
        name: str = "",
        *,
        models: Sequence[Classifier] = (),
        images: Tensor | None = None,
        **settings: Any,
    ) -> Parts:
        """Return the parts of a step in this one.

        Args:
            name: Name of the step; becomes a folder. Without it, the same step, of which more is
                known.
            models: Models that it calls.
            images: ``(N, C, H, W)`` in [0,1], its images, or some of them; needed with models.
            settings: All else that it depends on. JSON values, tensors, tables, labelled images,
                attacks and other dataclasses of nullclass, models in them; of anything else nothing
                is kept.
        """
        if self.folder is None:
            return self
        try:
            few = None if images is None else images[FEW]
            given = [self.fingerprint, name, _described(images), _described(settings, few)]
            if few is not None:
                given += [_described_model(model, few) for model in models]
        except _UnknownError:
            return Parts()
        about = given if self.fingerprint else [*given, _code()]
        folder = self.folder / file_name(name) if name else self.folder
        return Parts(folder, _sha256(repr(about).encode()))

    def keep(self, compute: Callable[[], T]) -> T:
        """Return what was kept of this step, or compute it and keep it.

        Args:
            compute: Returns a table, a tensor, a JSON value, or lists and dictionaries of them.

        Raises:
            CannotWriteError: If it cannot be kept.
        """
        kept = self.load()
        if kept is not None:
            value: T = kept["value"]
            return value
        started = time.perf_counter()
        value = compute()
        self.save({"value": value}, time.perf_counter() - started)
        return value

    def load(self) -> dict[str, Any] | None:
        """Return what :meth:`save` wrote last; None if there is nothing, or it is damaged."""
        if self.folder is None:
            return None
        try:
            content = read_bytes(self.folder / FILE, "part of an evaluation", LIMIT)
        except UserError:
            return None
        digest, content = content[:64], content[64:]
        if digest != _sha256(content).encode():
            return None
        tensors = load(content)
        index = parse(tensors["index"].numpy().tobytes(), dict[str, Any], "part")
        if index["fingerprint"] != self.fingerprint:
            return None
        values: dict[str, Any] = _unpacked(index["values"], tensors)
        return values

    def save(self, values: dict[str, Any], seconds: float) -> bool:
        """Keep values in the place of earlier ones, unless they took too little time.

        Args:
            values: Tables, tensors, JSON values, and lists and dictionaries of them.
            seconds: How long it took to compute what is new in them.

        Returns:
            Whether they were kept.

        Raises:
            CannotWriteError: If the file cannot be written.
        """
        if self.folder is None or seconds < MIN_SECONDS:
            return False
        tensors: dict[str, Tensor] = {}
        packed = json_values(_packed(values, tensors))
        index = msgspec.json.encode({"fingerprint": self.fingerprint, "values": packed})
        content = save(tensors | {"index": _as_tensor(index)})
        write_bytes(self.folder / FILE, _sha256(content).encode() + content)
        return True


NOTHING = Parts()
"""Parts of an evaluation that keeps none."""


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return JSON values in which tables and tensors are replaced by their keys in ``tensors``."""
    if isinstance(value, dict):
        return {name: _packed(part, tensors) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(part, tensors) for part in value]
    key = str(len(tensors))
    if isinstance(value, Tensor):
        tensors[key] = stored_copy(value)
        return {_TENSOR: key}
    if isinstance(value, pd.DataFrame):
        return {_TABLE: _packed(_columns(value), tensors)}
    return value


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    if value.keys() == {_TABLE}:
        columns = _unpacked(value[_TABLE], tensors)
        return pd.DataFrame(
            {
                name: column.numpy() if isinstance(column, Tensor) else column
                for name, column in columns.items()
            }
        )
    return {name: _unpacked(part, tensors) for name, part in value.items()}


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    """Return columns of numbers as tensors and columns of text as lists; the index is lost."""
    return {
        str(name): column.tolist()
        if column.dtype.kind not in "biuf"
        else torch.from_numpy(column.to_numpy(copy=True))
        for name, column in table.items()
    }


def _described(value: Any, images: Tensor | None = None) -> Any:
    """Return JSON values that differ where two settings may lead to different results.

    With images a model is described by its answers too, as the sources of a transfer are.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _described(part, images) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_described(part, images) for part in value]
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), tensor_sha256(value)]
    if isinstance(value, pd.DataFrame):
        return _described(_columns(value))
    if isinstance(value, LabelledImages):
        return [value.sha256(), value.num_classes]
    if isinstance(value, Classifier) and images is not None:
        return _described_model(value, images)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, nn.Module):
        return [kind, _described(value.state_dict())]
    if is_dataclass(value) and kind.startswith("nullclass."):
        return [
            kind,
            {field.name: _described(getattr(value, field.name), images) for field in fields(value)},
        ]
    raise _UnknownError


def _described_model(model: Classifier, images: Tensor) -> Any:
    """Return the type, classes, weights, device and behaviour of a model."""
    found = behaviour(model, images)
    with frozen(model), searched(model):
        again = logits_of(model, images.to(model.mean.device))
    if not torch.equal(found[0], again):
        raise _UnknownError
    settings: list[Any] = [model.num_classes, model.has_null, model.mean.device.type]
    settings += [
        [proved.radius, proved.norm, proved.verifier, proved.budget]
        for proved in model.modules()
        if isinstance(proved, ProvableNull)
    ]
    return [_described(model), settings, _described(found)]


def behaviour(model: Classifier, images: Tensor) -> list[Tensor]:
    """Return what tells models of the same weights but other code apart.

    Logits of some images and of noisy ones, and which images have a gradient: code that rounds its
    images may differ in these alone. The gradient itself may vary in its last digits. Of a cascade,
    the first stage.
    """
    images = images.to(model.mean.device)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    noisy = (images + 0.1 * (noise - 0.5)).clamp(0, 1)
    with frozen(model), searched(model):
        found = [logits_of(model, some) for some in (images, noisy)]
        weights = torch.arange(1.0, found[0].shape[1] + 1).to(found[0])
        with suppress(NoGradientError, RuntimeError):  # of a layer that cannot be differentiated
            gradient, _ = input_gradient(model, images, lambda z: (z * weights).sum(dim=1))
            found.append((gradient != 0).flatten(1).any(dim=1))
    return found


def _code() -> Any:
    """Return what code computes: versions and, of a source tree, the commit."""
    origin = provenance()
    return [origin.versions, origin.commit]


def _sha256(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)

"""Checkpoints: weights as safetensors, and a JSON card that rebuilds the model.

A checkpoint is a folder with ``model.safetensors`` and ``card.json``. The card is written last and
holds the SHA-256 of the weights, so an incomplete checkpoint is never loaded. It also records how
the model refuses: by a threshold, or by what is proved. Weights may be rounded for storage
(:mod:`nullclass.models.quantize`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nullclass.certify import proof_dtype
from nullclass.core.devices import find_device
from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.core.files import read_json, write_json
from nullclass.core.paths import sha256
from nullclass.core.provenance import provenance
from nullclass.core.rng import fork_rng
from nullclass.core.tensor_files import save_tensors
from nullclass.models import ARCHITECTURES, build_model
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.models.quantize import Stored, packed, unpacked
from nullclass.rejection import (
    ProvableNull,
    SmoothedNull,
    Threshold,
    ThresholdedClassifier,
    with_threshold,
)

WEIGHTS = "model.safetensors"
CARD = "card.json"
CARD_VERSION = 1

_CERTIFIED: dict[str, tuple[type[ProvableNull | SmoothedNull], tuple[str, ...]]] = {
    "provable": (ProvableNull, ("radius", "norm", "verifier")),
    "smoothed": (
        SmoothedNull,
        ("radius", "sigma", "num_samples", "num_selection", "confidence", "seed"),
    ),
}
"""Models that answer what is certified: the kind in the card, the class and its settings."""

_HELD_OUT = "refusal.held_out_sha256"
"""Tensor ``(N, 32)`` of bytes: the hashes of the images that a threshold was calibrated on."""


def save_checkpoint(
    model: Classifier,
    folder: Path | str,
    *,
    metadata: dict[str, Any] | None = None,
    stored: Stored = "exact",
) -> None:
    """Write the weights and the card of a model.

    Args:
        model: The model, possibly one of :mod:`nullclass.rejection`. A network of your own is saved
            without its code (``load_checkpoint(body=)``).
        folder: Output folder; created if needed.
        metadata: More JSON values for the card, such as the training config.
        stored: ``exact``, or rounded to ``float16`` or ``int8``; the checkpoint then holds the
            rounded network.

    Raises:
        UserError: If the folder cannot be written, the weights cannot be rounded, or a threshold
            was set on a model of :mod:`nullclass.rejection`.
    """
    folder = Path(folder)
    network, refusal, extra = _unwrapped(check_classifier(model))
    try:
        json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"metadata must hold JSON values (numbers, strings, lists and dictionaries): {error}"
        ) from None
    if isinstance(network.body, Classifier):
        raise UserError(
            "a checkpoint records one way to refuse, and this model has several: save its inner "
            "model, and wrap it again after loading"
        )
    tensors = network.state_dict()
    exact = {name: tensors.pop(name) for name in ("mean", "std")}
    tensors = exact | packed(tensors, stored) | extra
    # The old card must not match new weights if the process stops in between.
    try:
        (folder / CARD).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot replace the checkpoint in {folder}: {error.strerror}") from error
    save_tensors(folder / WEIGHTS, tensors)
    card = {
        "card_version": CARD_VERSION,
        "architecture": network.architecture,
        "image_shape": network.image_shape,
        "num_classes": network.num_classes,
        "has_null": network.has_null,
        "null_index": network.num_classes if network.has_null else None,
        "num_nulls": network.num_nulls,
        "mean": _exact(network.mean),
        "std": _exact(network.std),
        "refusal": refusal,
        "num_parameters": sum(p.numel() for p in network.parameters()),
        "stored": stored,
        "weights_sha256": sha256(folder / WEIGHTS),
        **(metadata or {}),
        **json_values(provenance()),
    }
    write_json(folder / CARD, card)


def load_checkpoint(
    path: Path | str, *, body: nn.Module | None = None, device: torch.device | str = "cpu"
) -> tuple[Classifier, dict[str, Any]]:
    """Rebuild a model from its card, load its weights and put it into evaluation mode.

    Args:
        path: The folder of the checkpoint, or one of its files.
        body: For a network of your own: a module to load the weights into.
        device: Device of the model.

    Returns:
        The model, which refuses as the saved one did, and its card.

    Raises:
        UserError: If a file is missing, damaged or changed, or does not fit the card.
    """
    folder = Path(path)
    if folder.name in (WEIGHTS, CARD):
        folder = folder.parent
    if not folder.exists():
        raise UserError(f"there is no checkpoint {folder}: give a folder with {CARD} and {WEIGHTS}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: give the folder of a checkpoint, with its {CARD}")
    device = find_device(str(device))
    card = read_json(folder / CARD, "model card")
    weights = folder / WEIGHTS
    try:
        with fork_rng(0):  # the initial weights are replaced
            model = _build(card, body)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the card {folder / CARD} does not describe a model: {error!r}") from None
    try:
        tensors = unpacked(load_file(weights))
    except FileNotFoundError:
        raise UserError(f"{weights} is missing, but its card is there") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights} is damaged ({error}): train or copy it again") from None
    held_out = tensors.pop(_HELD_OUT, None)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        name = next(n for n in [*expected, *found] if expected.get(n) != found.get(n))
        raise UserError(
            f"{weights} does not fit its card: {name} has the shape {found.get(name)}, and "
            f"{expected.get(name)} in the model of the card"
        )
    if sha256(weights) != card.get("weights_sha256"):
        raise UserError(
            f"{weights} is not the file that its card was written for (another SHA-256): train or "
            "copy the checkpoint again"
        )
    model.load_state_dict(tensors)
    return _wrapped(model.to(device).eval(), card, held_out, folder), card


def _unwrapped(model: Classifier) -> tuple[Classifier, dict[str, Any] | None, dict[str, Tensor]]:
    """Return the network without its refusal, the refusal as JSON values, and its tensors."""
    for kind, (wrapper, names) in _CERTIFIED.items():
        if isinstance(model, wrapper):
            return model.model, {"kind": kind} | {name: getattr(model, name) for name in names}, {}
    if not isinstance(model, ThresholdedClassifier):
        return model, None, {}
    digests = [list(bytes.fromhex(digest)) for digest in sorted(model.threshold.images)]
    extra = {_HELD_OUT: torch.tensor(digests, dtype=torch.uint8)} if digests else {}
    return model.model, {"kind": "threshold"} | model.threshold.to_dict(), extra


def _wrapped(
    model: Classifier, card: dict[str, Any], held_out: Tensor | None, folder: Path
) -> Classifier:
    """Return the model with the refusal of its card."""
    refusal = card.get("refusal")
    if refusal is None:
        return model
    try:
        values = {key: value for key, value in refusal.items() if key != "kind"}
        if refusal["kind"] in _CERTIFIED:
            wrapper, _ = _CERTIFIED[refusal["kind"]]
            if wrapper is ProvableNull:
                model = model.to(proof_dtype(model.mean.device, model.mean.dtype))
            return wrapper(model, **values).eval()
        digests = [] if held_out is None else held_out.tolist()
        values["images"] = frozenset(bytes(digest).hex() for digest in digests)
        del values["images_sha256"]
        return with_threshold(model, Threshold(**values)).eval()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the card {folder / CARD} does not say how its model refuses: {error!r}"
        ) from None


def _exact(buffer: Tensor) -> list[float]:
    # The shortest decimal form of a float32 reads back as the same float32.
    return [float(str(value)) for value in buffer.flatten().cpu().numpy()]


def _build(card: dict[str, Any], body: nn.Module | None) -> Classifier:
    if card.get("card_version") != CARD_VERSION:
        raise UserError(
            f"the card has version {card.get('card_version')!r}, and this nullclass reads version "
            f"{CARD_VERSION}: use the release that wrote it"
        )
    name = card["architecture"]
    shape = tuple(card["image_shape"]) if card["image_shape"] else None
    settings: dict[str, Any] = {
        "num_classes": card["num_classes"],
        "has_null": card["has_null"],
        "num_nulls": max(1, card["num_nulls"]),
        "mean": card["mean"],
        "std": card["std"],
    }
    if body is not None:
        return Classifier(body, architecture=name, image_shape=shape, **settings)
    if name is None:
        raise UserError(
            "the checkpoint holds a network of your own: pass it as load_checkpoint(body=)"
        )
    if name not in ARCHITECTURES:
        raise UserError(f"the card names the model {name!r}; known are {', '.join(ARCHITECTURES)}")
    if shape is None:
        raise UserError("the card has no image_shape, so its model cannot be rebuilt")
    return build_model(name, image_shape=shape, **settings)

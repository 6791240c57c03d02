"""Models on disk: weights as safetensors, and beside them a JSON card that rebuilds the model.

A checkpoint is a folder with ``model.safetensors`` and ``card.json``. The card is written last
and holds the weights' SHA-256, so a half-written checkpoint is never mistaken for a whole one.
Weights may be rounded as they are saved (:mod:`nullclass.models.quantize`); the card says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nullclass.core.errors import UserError
from nullclass.core.files import read_json, sha256, write_json
from nullclass.core.provenance import provenance
from nullclass.core.rng import fork_rng
from nullclass.core.tensor_files import save_tensors
from nullclass.models import MODELS, build_model
from nullclass.models.classifier import Classifier
from nullclass.models.quantize import Stored, packed, unpacked

WEIGHTS = "model.safetensors"
CARD = "card.json"
CARD_VERSION = 1


def save_checkpoint(
    model: Classifier,
    folder: Path | str,
    *,
    about: dict[str, Any] | None = None,
    stored: Stored = "exact",
) -> None:
    """Write a model's weights and card.

    Args:
        model: The model; a body of one's own is saved too, but its card cannot rebuild it.
        folder: Where to write; made if it is missing.
        about: What else the card should tell (training config, data checksum …); JSON values.
        stored: ``exact``, or rounded to ``float16`` or ``int8``: then what is loaded is the rounded
            network, no longer `model`.

    Raises:
        UserError: If the folder cannot be written, the weights cannot be rounded so, or the model
            is a :class:`nullclass.rejection.provable.ProvableNull`.
    """
    from nullclass.rejection import ProvableNull  # which imports models

    if isinstance(model, ProvableNull):
        raise UserError(
            "a card cannot hold a ProvableNull's radius, norm and verifier: save its .model, and "
            "wrap it again once it is loaded"
        )
    folder = Path(folder)
    tensors = packed(model.state_dict(), stored)
    # An old card must not vouch for new weights if we are stopped in between.
    try:
        (folder / CARD).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot replace the checkpoint in {folder}: {error.strerror}") from error
    save_tensors(folder / WEIGHTS, tensors)
    card = {
        "card_version": CARD_VERSION,
        "architecture": model.architecture,
        "image_shape": model.image_shape,
        "num_classes": model.num_classes,
        "has_null": model.has_null,
        "null_index": model.num_classes if model.has_null else None,
        "num_nulls": model.num_nulls,
        "mean": _exact(model.mean),
        "std": _exact(model.std),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "stored": stored,
        "weights_sha256": sha256(folder / WEIGHTS),
        **(about or {}),
        **provenance(),
    }
    write_json(folder / CARD, card)


def load_checkpoint(
    path: Path | str, *, body: nn.Module | None = None, device: torch.device | str = "cpu"
) -> tuple[Classifier, dict[str, Any]]:
    """Rebuild a model from its card and load its weights, in evaluation mode.

    Args:
        path: The checkpoint's folder, or its weights file.
        body: For a checkpoint of a body of one's own: such a module, to load the weights into.
        device: Where to put the model.

    Returns:
        The model and its card.

    Raises:
        UserError: If a file is missing, truncated or changed, or is of another architecture.
    """
    folder = Path(path)
    if folder.name in (WEIGHTS, CARD):
        folder = folder.parent
    if not folder.exists():
        raise UserError(f"there is no checkpoint {folder}: give a folder with {CARD} and {WEIGHTS}")
    card = read_json(folder / CARD, "model card")
    try:
        with fork_rng(0):  # its first weights are replaced
            model = _from_card(card, body)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the card {folder / CARD} does not describe a model: {error!r}") from None
    try:
        tensors = unpacked(load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing beside its card") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{folder / WEIGHTS} is damaged or cut short ({error}): train or copy it again"
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        name = next(n for n in [*expected, *found] if expected.get(n) != found.get(n))
        there, wanted = found.get(name, "missing"), expected.get(name, "no such tensor")
        raise UserError(
            f"{folder / WEIGHTS} holds another architecture than its card says: {name} is {there}, "
            f"the card's model has {wanted}"
        )
    if sha256(folder / WEIGHTS) != card.get("weights_sha256"):
        raise UserError(
            f"{folder / WEIGHTS} is not the file its card was written for (another SHA-256): "
            "train or copy the checkpoint again"
        )
    model.load_state_dict(tensors)
    return model.to(device).eval(), card


def _exact(buffer: torch.Tensor) -> list[float]:
    # float32 values have a shortest decimal form that reads back as the same float32
    return [float(str(value)) for value in buffer.flatten().cpu().numpy()]


def _from_card(card: dict[str, Any], body: nn.Module | None) -> Classifier:
    if card.get("card_version") != CARD_VERSION:
        raise UserError(
            f"the card has version {card.get('card_version')!r}, this nullclass reads version "
            f"{CARD_VERSION}: use the release that wrote it"
        )
    name = card["architecture"]
    num_nulls = max(1, card.get("num_nulls", 1))  # cards written before there could be several
    shape = tuple(card["image_shape"]) if card["image_shape"] else None
    if body is not None:
        return Classifier(
            body,
            card["num_classes"],
            has_null=card["has_null"],
            num_nulls=num_nulls,
            mean=card["mean"],
            std=card["std"],
            architecture=name,
            image_shape=shape,
        )
    if name is None:
        raise UserError(
            "the checkpoint is of a body of your own: pass it as load_checkpoint(body=)"
        )
    if name not in MODELS:
        raise UserError(f"the card names the model {name!r}; known are {', '.join(MODELS)}")
    if shape is None:
        raise UserError("the card has no image_shape, so its model cannot be rebuilt")
    return build_model(
        name,
        image_shape=shape,
        num_classes=card["num_classes"],
        has_null=card["has_null"],
        num_nulls=num_nulls,
        mean=card["mean"],
        std=card["std"],
    )

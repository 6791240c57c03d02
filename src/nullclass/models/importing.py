"""Models of the user's own code, with weights from a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nullclass.core.errors import UserError
from nullclass.core.paths import check_regular
from nullclass.core.tensor_files import check_header
from nullclass.data import LabelledImages
from nullclass.models.classifier import NUM_TRIED, Classifier, as_classifier
from nullclass.models.network import Body, Imported

SAFETENSORS = ".safetensors"
TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""Endings of files that ``torch.save`` writes."""

NUM_NAMED = 3
"""Tensors that a message names."""

PREFIXES = ("module.", "_orig_mod.")
"""Before the names of all weights of a module in DataParallel, and of a compiled one."""


def import_model(
    imported: Imported,
    data: LabelledImages,
    *,
    num_classes: int | None = None,
    weights: Path | None = None,
    **settings: Any,
) -> Classifier:
    """Build a model by a function of the user's own. This runs its code.

    Args:
        imported: The call. It returns a network, or a Classifier, which is used as it is.
        data: Images to try the network with.
        num_classes: K, the number of real classes. Default: that of the data, for a network
            without null, unless ``settings`` say otherwise.
        weights: File of weights for the network (:func:`load_weights`).
        settings: As for :func:`nullclass.models.as_classifier`; only for a network.

    Raises:
        UserError: If the function fails, the weights do not fit, or as for ``as_classifier``.
    """
    network = imported.build()
    if weights is not None:
        load_weights(network, weights)
    if isinstance(network, Classifier) and settings:
        raise UserError(
            f"{imported.function} returns a Classifier, which has its own "
            f"{', '.join(sorted(settings))}: leave that out, or return the network inside it"
        )
    if isinstance(network, Classifier):
        return as_classifier(network, num_classes)
    if num_classes is None:  # a network with one logit more may have a class that the data lack
        num_classes = data.num_classes
        settings = {"has_null": False} | settings
    images, _ = data.batch(slice(0, NUM_TRIED))
    model = as_classifier(network, num_classes, images, **settings)
    model.imported = imported
    return model


def load_weights(network: Body, path: Path) -> None:
    """Load the weights of a module: a state dict, exactly that of the module.

    The state dict may be the only one in a dictionary of other values, as training scripts save
    them, and its names may begin as those of a module in DataParallel, or of a compiled one.

    Args:
        network: The module; another function has no weights.
        path: A file of safetensors, or one of ``torch.save``, of which no code is run.

    Raises:
        UserError: If it is another file, damaged, or does not fit the module.
    """
    if not isinstance(network, nn.Module):
        raise UserError("weights are loaded into a torch.nn.Module: let the function return one")
    tensors, expected = _read(path), network.state_dict()
    for prefix in PREFIXES * 2:  # a compiled model may be inside or around a parallel one
        if tensors.keys() != expected.keys() and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    reasons = []
    for what, names in (
        ("lacks", [name for name in expected if name not in tensors]),
        ("has unknown", [name for name in tensors if name not in expected]),
        (
            "has other shapes for",
            [
                f"{name} ({_shape(tensor)}, not {_shape(expected[name])})"
                for name, tensor in tensors.items()
                if name in expected and tensor.shape != expected[name].shape
            ],
        ),
    ):
        if names:
            rest = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
            reasons.append(f"{what} {', '.join(names[:NUM_NAMED])}{rest}")
    if reasons:
        raise UserError(f"{path} does not fit the network: it {', and '.join(reasons)}")
    network.load_state_dict(tensors)


def _read(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file."""
    if path.suffix == SAFETENSORS:
        check_header(path, "weights")
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error})") from None
    if path.suffix not in TORCH:
        raise UserError(
            f"{path}: weights are files whose names end in {', '.join((SAFETENSORS, *TORCH))}"
        )
    check_regular(path, "weights")
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch's, before it refuses TorchScript
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # each kind of damage has its own
        if is_zipfile(path):
            raise UserError(
                f"{path} holds code or objects beside tensors, which are not loaded: save the "
                "weights alone, torch.save(model.state_dict(), PATH)"
            ) from None
        raise UserError(f"{path} is damaged, or no file of torch.save") from None
    found = content if _is_state_dict(content) else None
    if found is None and isinstance(content, Mapping):
        inner = {name: value for name, value in content.items() if _is_state_dict(value)}
        if len(inner) > 1:
            raise UserError(
                f"{path} holds several state dicts ({', '.join(map(str, inner))}): save the one to "
                "use in a file of its own"
            )
        found = next(iter(inner.values()), None)
    if found is None:
        raise UserError(f"{path} holds no state dict: save it by torch.save(model.state_dict())")
    return dict(found)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(v, Tensor) for name, v in value.items())
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"

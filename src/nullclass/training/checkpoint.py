"""Checkpoints: weights as safetensors, and a JSON card that rebuilds the model.

A checkpoint is a folder with ``model.safetensors`` and ``card.json``. The card holds the SHA-256 of
the weights and records how the model refuses: by a threshold, by a detector of this package, or by
what is proved. Weights may be rounded for storage (:mod:`nullclass.models.quantize`).

Saving over a checkpoint leaves the old one or the new one, wherever it stops: the new weights are
written as ``model.safetensors.new``, the card that holds their SHA-256 replaces the old card, and
then they get their name. Weights that still wait for it are loaded if they are the card's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nullclass.core.devices import find_device
from nullclass.core.documents import encode, json_values, parse, write_document
from nullclass.core.errors import UserError
from nullclass.core.files import cannot_write, remove
from nullclass.core.paths import sha256
from nullclass.core.provenance import provenance
from nullclass.core.rng import fork_rng
from nullclass.core.tensor_files import check_header, save_tensors
from nullclass.models import ARCHITECTURES, Imported, build_model
from nullclass.models.classifier import Classifier, at_least_float32, check_classifier
from nullclass.models.network import Body
from nullclass.models.quantize import FLOATS, Layout, Stored, packed, packed_layout, unpacked
from nullclass.training.card import (
    CARD,
    Card,
    Description,
    DetectorRefusal,
    Origin,
    OwnNetwork,
    ThresholdRefusal,
    read_card,
)
from nullclass.training.refusals import (
    DETECTOR,
    HELD_OUT,
    REFUSAL,
    is_calibrated,
    with_refusal,
    without_refusal,
)

WEIGHTS = "model.safetensors"
NUM_READS = 10
"""Attempts to read a checkpoint while other processes save over it."""

NEW_WEIGHTS = "model.safetensors.new"
"""Weights whose card may not be written yet."""

_EXACT = ("mean", "std")
"""Tensors that are never rounded."""

_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of safetensors that a state dict may have."""


def save_checkpoint(
    model: Classifier,
    folder: Path | str,
    *,
    metadata: dict[str, Any] | None = None,
    stored: Stored = "exact",
    origin: Origin | None = None,
    zoo: Description | None = None,
) -> None:
    """Write the weights and the card of a model; a checkpoint in the folder is replaced.

    Args:
        model: The model, possibly one of :mod:`nullclass.rejection`. A network of your own is saved
            without its code: the card records the call that builds it
            (:class:`nullclass.models.Imported`), or nothing. So is one of the package after a layer
            was exchanged.
        folder: Output folder; created if needed.
        metadata: Your own JSON values for the card.
        stored: ``exact``, or rounded to ``float16`` or ``int8``; the checkpoint then holds the
            rounded network, so a threshold must have been calibrated on that.
        origin: Where the weights are from: data and training. The command line finds the dataset
            by it.
        zoo: Description, for members of a zoo.

    Raises:
        UserError: If the folder cannot be written, the weights cannot be rounded, a value of the
            card is not one that it may have, or the model is of a class of your own, or has a
            detector or surrogate of your own, several ways to refuse, or an architecture of the
            package and other weights than float32.
    """
    folder = Path(folder)
    network, refusal, extra = without_refusal(check_classifier(model))
    own = json_values(metadata or {}, "metadata")
    if isinstance(network.body, Classifier):
        raise UserError(
            "a checkpoint does not record a class, detector or surrogate of your own, nor several "
            "ways to refuse: save its inner model (.model), and wrap it again after loading"
        )
    if type(network) is not Classifier:
        raise UserError(
            f"a checkpoint does not record the class {type(network).__name__}: save a Classifier "
            "with its network (.body), and make your own model of it after loading"
        )
    architecture = _architecture(network)
    others = {p.dtype for p in network.parameters()} - {torch.float32}
    if isinstance(architecture, str) and others:  # it would be loaded in float32, with other logits
        raise UserError(f"the weights are {others.pop()}: save the model as float32 (.float())")
    tensors = network.state_dict()
    exact = {name: tensors.pop(name) for name in _EXACT}
    weights = packed(tensors, stored)
    if stored != "exact" and is_calibrated(refusal) and _differ(unpacked(weights), tensors):
        raise UserError(
            f"the threshold was calibrated with the exact weights, and {stored} rounds them: save "
            "them exactly, or save the network rounded, load it, and calibrate that"
        )
    card = Card(
        architecture=architecture,
        image_shape=network.image_shape,
        num_classes=network.num_classes,
        num_nulls=network.num_nulls,
        mean=_exact(network.mean),
        std=_exact(network.std),
        num_parameters=sum(p.numel() for p in network.parameters()),
        refusal=refusal,
        stored=stored,
        weights_sha256="0" * 64,
        origin=Origin() if origin is None else origin,
        metadata=own,
        zoo=zoo,
        provenance=provenance(),
    )
    try:
        parse(encode(card), Card, "its card")
    except UserError as error:
        raise UserError(f"this checkpoint could not be loaded: {error}") from None
    _finish_save(folder)
    save_tensors(folder / NEW_WEIGHTS, exact | weights | extra)
    write_document(folder / CARD, replace(card, weights_sha256=sha256(folder / NEW_WEIGHTS)))
    _finish_save(folder)


def load_checkpoint(
    path: Path | str,
    *,
    body: Body | None = None,
    allow_import: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Classifier, Card]:
    """Rebuild a model from its card, load its weights and put it into evaluation mode.

    Args:
        path: The folder of the checkpoint, or one of its files.
        body: For a network of your own: a module to load the weights into. It gets their type.
        allow_import: Whether the function that the card of such a network names may be imported and
            called, instead of ``body``. This runs its code: allow it if you trust the card.
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
    for _ in range(NUM_READS):
        before = _stamps(folder)
        try:
            return _load(folder, body, allow_import, device)
        except UserError:
            if _stamps(folder) == before:
                raise  # else another process saved meanwhile
    raise UserError(f"{folder} is being written all the time: load it when that has ended")


def _load(
    folder: Path, body: Body | None, allow_import: bool, device: torch.device
) -> tuple[Classifier, Card]:
    card = read_card(folder)
    imported = _imported(card)
    if isinstance(card.architecture, OwnNetwork) and body is None:
        with fork_rng(0):
            body = _built(imported, allow_import)
    weights = folder / (NEW_WEIGHTS if _is_new(folder, card) else WEIGHTS)
    try:
        check_header(weights, f"weights of {CARD}")
        with safe_open(weights, framework="pt") as file:
            # The sizes in the files are compared before memory is taken for them.
            with torch.device("meta"):
                expected = _layout(_build(card, body), card)
            _check_layout(weights, _stored_layout(file), expected)
            if sha256(weights) != card.weights_sha256:
                raise UserError(
                    f"{weights} is not the file that its card was written for (another SHA-256): "
                    "train or copy the checkpoint again"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights} is damaged ({error}): train or copy it again") from None
    extra = {name: tensors.pop(name) for name in list(tensors) if name.startswith(REFUSAL)}
    with fork_rng(0):  # the initial weights are replaced
        model = _build(card, body)
    model.imported = imported
    if card.stored != "exact":
        tensors = unpacked(tensors)
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(tensors[name].dtype)
    model.load_state_dict(tensors)
    return with_refusal(model.to(device).eval(), card, extra, folder), card


def _stamps(folder: Path) -> list[tuple[int, int, int] | None]:
    """Return what changes when one of the files is replaced."""
    stamps: list[tuple[int, int, int] | None] = []
    for name in (CARD, WEIGHTS, NEW_WEIGHTS):
        try:
            found = (folder / name).stat()
            stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
        except OSError:
            stamps.append(None)
    return stamps


def _finish_save(folder: Path) -> None:
    """Give the weights of the card their name; new weights without a card are removed."""
    new = folder / NEW_WEIGHTS
    try:
        is_new = _is_new(folder, read_card(folder))
    except UserError:
        is_new = False
    if not is_new:
        remove(new)
        return
    try:
        os.replace(new, folder / WEIGHTS)
    except OSError as error:
        raise cannot_write(folder / WEIGHTS, error) from error


def _is_new(folder: Path, card: Card) -> bool:
    """Return whether the weights of the card still have their temporary name."""
    new = folder / NEW_WEIGHTS
    return new.is_file() and sha256(new) == card.weights_sha256


def _layout(model: Classifier, card: Card) -> dict[str, Layout]:
    """Return the types and shapes of all tensors that the weights' file must hold."""
    tensors = model.state_dict()
    exact = {name: tensors.pop(name) for name in _EXACT}
    layout = packed_layout(exact, "exact") | packed_layout(tensors, card.stored)
    threshold = card.refusal
    if isinstance(threshold, DetectorRefusal):
        for name, shape in threshold.shapes.items():
            layout[DETECTOR + name] = FLOATS | {torch.int64}, shape
        threshold = threshold.threshold
    if isinstance(threshold, ThresholdRefusal) and threshold.images_sha256 is not None:
        layout[HELD_OUT] = frozenset({torch.uint8}), (threshold.num_images, 32)
    return layout


def _stored_layout(file: safe_open) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the types and shapes in the header of a file."""
    slices: dict[str, Any] = {name: file.get_slice(name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
    return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def _check_layout(
    weights: Path, found: dict[str, tuple[str, tuple[int, ...]]], expected: dict[str, Layout]
) -> None:
    """Raise UserError if the file does not hold exactly the model's tensors."""
    for name in sorted(found.keys() | expected.keys()):
        dtype, shape = found.get(name, (None, None))
        dtypes, wanted = expected.get(name, (frozenset[torch.dtype](), None))
        if name == HELD_OUT and shape is not None and wanted is not None:
            wanted = (min(shape[0], wanted[0]), *wanted[1:])  # equal images have one hash
        if shape != wanted:
            raise UserError(
                f"{weights} does not fit its card: {name} has the shape {shape}, and {wanted} in "
                "the model of the card"
            )
        if _DTYPES.get(str(dtype)) not in dtypes:
            words = "floating-point numbers" if dtypes == FLOATS else _names(dtypes)
            raise UserError(
                f"{weights} does not fit its card: {name} holds numbers of the type {dtype}, and "
                f"the model of the card {words}"
            )


def _names(dtypes: frozenset[torch.dtype]) -> str:
    return " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _exact(buffer: Tensor) -> tuple[float, ...]:
    # The shortest decimal form of a float32 reads back as the same float32.
    values = at_least_float32(buffer).flatten().cpu().numpy()
    return tuple(float(str(value)) for value in values)


def _differ(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether tensors differ by more than a float32's rounding."""
    return not all(
        torch.allclose(first[name].double(), tensor.double(), rtol=1e-6, atol=0)
        for name, tensor in second.items()
    )


def _architecture(model: Classifier) -> str | OwnNetwork:
    """Return the name of the network, if that gives the same layers, or what else is known."""
    own = _own_network(model)
    if model.architecture not in ARCHITECTURES or model.image_shape is None:
        return own
    with torch.device("meta"):
        built = build_model(model.architecture, image_shape=model.image_shape, **_outputs(model))
    is_same = repr(built.body) == repr(model.body) and own == _own_network(built)
    return model.architecture if is_same else own


def _outputs(of: Classifier | Card) -> dict[str, Any]:
    """Return the arguments of a model that say how many logits it has."""
    nulls = {"has_null": of.num_nulls > 0, "num_nulls": max(1, of.num_nulls)}
    return {"num_classes": of.num_classes, **nulls}


def _own_network(model: Classifier) -> OwnNetwork:
    """Return what the card says of a network that is none of the architectures."""
    imported = model.imported
    return OwnNetwork(
        function=None if imported is None else imported.function,
        arguments={} if imported is None else dict(imported.arguments),
        outputs=model.outputs,
        has_score=model.has_score,
    )


def _imported(card: Card) -> Imported | None:
    """Return the call that builds a network of the user, if the card has one."""
    own = card.architecture
    if not isinstance(own, OwnNetwork) or own.function is None:
        return None
    return Imported(own.function, own.arguments)


def _built(imported: Imported | None, allow_import: bool) -> Body:
    """Return the network of a call, if it is known and allowed."""
    if imported is None:
        raise UserError(
            "the checkpoint holds a network of your own: pass it as load_checkpoint(body=)"
        )
    if not allow_import:
        raise UserError(
            f"the checkpoint's network is built by {imported.function}, which would be imported "
            "and run: if you trust it, allow that (--allow-import, or "
            "load_checkpoint(allow_import=True)), or pass the network as load_checkpoint(body=)"
        )
    return imported.build()


def _build(card: Card, body: Body | None) -> Classifier:
    name, shape = card.architecture, card.image_shape
    settings = _outputs(card) | {"mean": card.mean, "std": card.std}
    if isinstance(name, OwnNetwork):
        assert body is not None
        settings |= {"outputs": name.outputs, "has_score": name.has_score}
        return Classifier(body, image_shape=shape, **settings)
    if body is not None:
        return Classifier(body, architecture=name, image_shape=shape, **settings)
    if name not in ARCHITECTURES:
        raise UserError(f"the card names the model {name!r}; known are {', '.join(ARCHITECTURES)}")
    if shape is None:
        raise UserError("the card has no image_shape, so its model cannot be rebuilt")
    return build_model(name, image_shape=shape, **settings)

"""Which model a command uses: a checkpoint, one of the zoo, or one of the user's own code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import tyro

from nullclass.cli.common import Data, Resize
from nullclass.core.checks import check_path, shown
from nullclass.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from nullclass.data import Dataset
    from nullclass.models import Classifier
    from nullclass.training.card import Card

_CHECKPOINT = tyro.conf.arg(metavar="CHECKPOINT", help="Checkpoint folder, or name of a zoo model.")
AllowImport = Annotated[
    bool,
    tyro.conf.arg(
        help="Import and call the function that a checkpoint of a network of your own names. This "
        "runs its code."
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """A checkpoint, or a model of your own code."""

    checkpoint: Annotated[str | None, tyro.conf.Positional, _CHECKPOINT] = None
    data: Data = None
    resize: Resize = None
    allow_import: AllowImport = False
    model: Annotated[str | None, tyro.conf.arg(metavar="PACKAGE.MODULE:FUNCTION")] = None
    """Instead of a checkpoint: a function that returns a torch module, or a function from images
    to logits, or a nullclass.Classifier. It is imported from the working folder or an installed
    package, and called. This runs its code."""
    model_args: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE …")] = ()
    """Arguments of that function; a value is JSON, or else text."""
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """State dict for that module: .safetensors, or .pt of torch.save, of which no code is run."""
    num_classes: int | None = None
    """Number of real classes. Default: that of the data, if the model cannot answer null."""
    null: Literal["last", "none", "score"] | None = None
    """Where null comes from: the last logit; nowhere; or a score that the model returns after the
    logits. Default: with --num-classes, last if there is one logit more than classes, else none;
    without --num-classes, none."""
    outputs: Literal["logits", "probabilities"] | None = None
    """What the model returns. Default: logits; probabilities are recognised and refused."""
    mean: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="MEAN …")] = None
    """Pixel mean to subtract, pixels in [0,1]: one number, or one per channel."""
    std: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="STD …")] = None
    """Pixel standard deviation to divide by, likewise."""

    def load(self, device: torch.device, *, held_out: str | None = None) -> LoadedModel:
        """Load the model, and its data or other data, resized if need be.

        Args:
            device: Device of the model.
            held_out: Data whose test images become the held-out images.

        Raises:
            UserError: If the options or the data do not fit together, or as for
                :func:`load_model`.
        """
        loaded = self._load(device)
        if held_out is None:
            return loaded
        return replace(loaded, dataset=_holding_out(loaded.dataset, held_out, self.resize))

    def _load(self, device: torch.device) -> LoadedModel:
        own = {
            "--model-args": self.model_args,
            "--weights": self.weights,
            "--num-classes": self.num_classes,
            "--null": self.null,
            "--outputs": self.outputs,
            "--mean": self.mean,
            "--std": self.std,
        }
        given = [name for name, value in own.items() if value not in (None, ())]
        if (self.checkpoint is None) == (self.model is None):
            raise UserError("give either CHECKPOINT or --model, which names your own model")
        if self.checkpoint is not None:
            if given:
                raise UserError(f"{given[0]} is for --model: a checkpoint has its own settings")
            return load_model(
                self.checkpoint,
                self.data,
                device,
                resize=self.resize,
                allow_import=self.allow_import,
            )
        if self.data is None:
            raise UserError("--model needs --data: a model of your own names none")
        return self._load_own(self.data, device)

    def _load_own(self, data: str, device: torch.device) -> LoadedModel:
        from nullclass.core.paths import sha256
        from nullclass.data import load_dataset
        from nullclass.models import Imported
        from nullclass.models.importing import import_model
        from nullclass.scoring.score import check_classes

        assert self.model is not None
        imported = Imported(self.model, read_arguments(self.model_args))
        weights_sha256 = None if self.weights is None else sha256(self.weights)
        dataset = load_dataset(data, validation=0, resize=self.resize)
        settings: dict[str, Any] = {"outputs": self.outputs, "mean": self.mean, "std": self.std}
        if self.null is not None:
            settings |= {"has_null": self.null != "none"}
        if self.null == "score":
            settings |= {"has_score": True}
        model = import_model(
            imported,
            dataset.test,
            num_classes=self.num_classes,
            weights=self.weights,
            **{name: value for name, value in settings.items() if value is not None},
        )
        model = model.to(device).eval()
        check_classes(dataset, model)
        identity = msgspec.json.encode([self.model, imported.arguments, weights_sha256])
        return LoadedModel(
            name=self.model.replace(":", "."),
            model=model,
            card=None,
            dataset=dataset,
            weights_sha256=weights_sha256,
            digest=hashlib.sha256(identity).hexdigest()[:8],
        )


def _holding_out(dataset: Dataset, held_out: str, resize: Sequence[int] | None) -> Dataset:
    """Return the dataset with the test images of other data as its held-out images."""
    from nullclass.data import load_dataset

    given = load_dataset(held_out, validation=0, resize=resize)
    has_names = given.names_its_classes or dataset.names_its_classes
    has_others = has_names and given.class_names != dataset.class_names
    if given.image_shape != dataset.image_shape or has_others:
        raise UserError(
            f"--held-out has images of {given.image_shape} and the classes "
            f"{shown(', '.join(given.class_names))}; the data have {dataset.image_shape} and "
            f"{shown(', '.join(dataset.class_names))}"
        )
    return replace(dataset, validation=given.test)


Model = Annotated[ModelOptions, tyro.conf.arg(name="")]
"""Options of a command, without a prefix."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its dataset."""

    name: str
    """Name of the folder, of the zoo model, or of the function."""
    model: Classifier
    card: Card | None
    """None for a model of the user's own code."""
    dataset: Dataset
    weights_sha256: str | None
    """Of the file of weights, if there is one."""
    digest: str
    """Tells models of one name apart."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the model's classes; data without names may lack the last classes."""
        if self.dataset.names_its_classes:
            return self.dataset.class_names
        return tuple(map(str, range(self.model.num_classes)))

    def rejecting(self, null_rate: float | None = None) -> Classifier:
        """Return the model as it refuses: by its card, or by a calibrated threshold.

        Args:
            null_rate: Share of clean held-out images that a threshold refuses; None for none.

        Raises:
            UserError: If there are no held-out images to calibrate on, or too few.
        """
        from nullclass.evaluation.record import refuse_at_rate

        if null_rate is None:
            return self.model
        return refuse_at_rate(self.model, self.dataset, null_rate)


def load_model(
    checkpoint: str,
    data: str | None,
    device: torch.device,
    *,
    resize: Sequence[int] | None = None,
    allow_import: bool = False,
) -> LoadedModel:
    """Load a checkpoint folder or a zoo model, and the data of its card or other data.

    Raises:
        UserError: If neither exists, a file is damaged, the dataset does not fit the model, or the
            card names a function and ``allow_import`` is false.
    """
    from nullclass.evaluation.record import load_with_data
    from nullclass.zoo import read_zoo

    folder = check_path("CHECKPOINT", checkpoint)
    if not os.path.exists(folder):  # unlike Path.exists, False for a loop of symbolic links
        zoo = read_zoo()
        if checkpoint not in zoo:
            raise UserError(
                f"there is no checkpoint {shown(checkpoint)}: give a folder with card.json and "
                f"model.safetensors, or a model of the zoo ({', '.join(zoo)})"
            )
        folder = zoo[checkpoint].folder
    model, card, dataset = load_with_data(
        folder, data, device, resize=resize, allow_import=allow_import
    )
    if folder.is_file():  # the weights
        folder = folder.parent
    return LoadedModel(
        name=folder.resolve().name,
        model=model,
        card=card,
        dataset=dataset,
        weights_sha256=card.weights_sha256,
        digest=card.weights_sha256[:8],
    )


def read_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Return arguments from words ``NAME=VALUE``: a value is JSON, or else text.

    Raises:
        UserError: If a word has another form, or a name comes twice.
    """
    arguments: dict[str, Any] = {}
    for word in words:
        name, is_equation, value = word.partition("=")
        if not is_equation or not name.isidentifier():
            raise UserError(f"--model-args: {shown(word)} is not of the form NAME=VALUE")
        if name in arguments:
            raise UserError(f"--model-args gives {name} twice")
        try:
            arguments[name] = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError):
            arguments[name] = value
    return arguments

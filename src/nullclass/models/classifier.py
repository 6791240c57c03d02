"""The model that every other room uses: images in [0,1] in, K or K + 1 logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nullclass.core import outcomes
from nullclass.core.checks import check_choice, check_count
from nullclass.core.errors import UserError, describe_error
from nullclass.core.modules import frozen
from nullclass.data.arrays import checked_images
from nullclass.models.network import (
    Body,
    Imported,
    are_probabilities,
    as_module,
    device_of,
    dtype_of,
    split_output,
)

PerChannel = float | Sequence[float] | npt.NDArray[Any] | Tensor
"""One number per channel, or one for all."""

Outputs = Literal["logits", "probabilities"]
"""What a body returns: logits, or probabilities, of which the logarithm is taken."""

NUM_TRIED = 16
"""Images with which a network is tried before an evaluation."""


class Classifier(nn.Module):
    """A network on images in [0,1] that standardises its input itself.

    Budgets are therefore in pixel units everywhere, and the state dict holds mean and std. The last
    logit is null if ``has_null``. A body with several null logits, such as one per class, answers
    null if any of them is the largest: their maximum is the null logit of the model.

    A body that returns logits ``(N, K)`` and a score ``(N,)``, larger for more null, is a model
    with null if ``has_score``: its null logit is ``max_k z_k + score``, so that it answers null
    exactly if the score is above 0, or above a threshold
    (:func:`nullclass.rejection.with_threshold`).

    Args:
        body: Maps standardised images ``(N, C, H, W)`` to logits ``(N, K)`` or ``(N, K + 1)``: a
            module or a function on tensors, possibly compiled, traced or scripted, or
            :class:`nullclass.models.Imported`. It returns a tensor, a tuple that begins with it, or
            an entry or attribute ``logits``. Images are converted to the type of its parameters,
            and logits in half precision to float32.
        num_classes: K, the number of real classes, at least 2.
        has_null: Whether the body's last logit is null, or its score decides on null.
        num_nulls: Number of null logits of the body, if it has any.
        has_score: Whether the body returns logits ``(N, K)`` and a score ``(N,)``: a pair, or
            entries or attributes ``logits`` and ``score``.
        outputs: ``probabilities`` for a body that ends with a softmax. Their logarithm is taken, at
            least that of the smallest normal number. A probability that underflows has no gradient
            (float32: below 1e-38, float16: below 6e-8), so that attacks can fail for that reason
            alone: better remove the softmax.
        mean: Per-channel pixel mean to subtract, or one for all channels.
        std: Per-channel pixel standard deviation to divide by, or one for all channels.
        architecture: Key of :data:`nullclass.models.ARCHITECTURES`, or None for your own body.
        image_shape: ``(C, H, W)`` of one image, if known.

    Raises:
        UserError: If a setting is out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: Body | Imported,
        num_classes: int,
        *,
        has_null: bool = True,
        num_nulls: int = 1,
        has_score: bool = False,
        outputs: Outputs = "logits",
        mean: PerChannel = (0.0,),
        std: PerChannel = (1.0,),
        architecture: str | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.imported = body if isinstance(body, Imported) else None
        self.body = as_module(body.build() if isinstance(body, Imported) else body)
        self.num_classes = check_count("num_classes", num_classes, 2)
        self.has_null = has_null
        self.num_nulls = check_count("num_nulls", num_nulls) if has_null else 0
        self.has_score = has_score
        if has_score and self.num_nulls != 1:
            raise UserError("a model with a score has one null: leave out has_null and num_nulls")
        self.outputs: Outputs = check_choice("outputs", outputs, get_args(Outputs))  # type: ignore[assignment]
        self.architecture = architecture
        self.image_shape = image_shape
        device = device_of(self.body)
        self.register_buffer("mean", _per_channel("mean", mean, device))
        self.register_buffer("std", _per_channel("std", std, device, is_positive=True))

    @property
    def num_outputs(self) -> int:
        """K, or K + 1 with null."""
        return self.num_classes + int(self.has_null)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)`` or ``(N, K + 1)`` of images ``(N, C, H, W)`` in [0,1].

        Raises:
            UserError: If the images or the body's logits do not fit the model.
        """
        logits = self.all_logits(images)
        if self.num_nulls < 2:
            return logits
        real, nulls = logits.split([self.num_classes, self.num_nulls], dim=1)
        return torch.cat([real, nulls.amax(dim=1, keepdim=True)], dim=1)

    def all_logits(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K + num_nulls)``, for training: null logits are not merged.

        Raises:
            UserError: If the images or the body's logits do not fit the model.
        """
        return self.read_output(self.body(self.standardised(images)), images)

    def read_output(self, output: Any, images: Tensor) -> Tensor:
        """Return the logits ``(N, K + num_nulls)`` in an output of the body.

        Raises:
            UserError: As :meth:`all_logits`.
        """
        logits, score = split_output(output)
        expected = self.num_classes + (0 if self.has_score else self.num_nulls)
        if logits.ndim != 2 or logits.shape[0] != images.shape[0]:
            raise UserError(
                f"the network gives logits of shape {tuple(logits.shape)} for {images.shape[0]} "
                f"images: it must give one row per image, {(images.shape[0], expected)}"
            )
        if logits.shape[1] != expected:
            null = "a score" if self.has_score else "null"
            raise UserError(
                f"the network gives logits of shape {tuple(logits.shape)} for {images.shape[0]} "
                f"images, but {self.num_classes} classes {'with' if self.has_null else 'without'} "
                f"{null} need {(images.shape[0], expected)}: add a null logit by "
                "nullclass.with_null_class, or correct num_classes or has_null"
            )
        logits = at_least_float32(logits).to(images.device)
        if self.outputs == "probabilities":
            logits = logits.clamp(min=torch.finfo(logits.dtype).tiny).log()
        if not self.has_score:
            return logits
        if score is None or score.shape != logits.shape[:1]:
            found = "no score" if score is None else f"a score of shape {tuple(score.shape)}"
            raise UserError(
                f"the network returns {found}, but has_score needs one score per image, "
                f"{(images.shape[0],)}, after the logits"
            )
        return append_null(logits, at_least_float32(score).to(images.device))

    def standardised(self, images: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` in [0,1] as the body gets them.

        Raises:
            UserError: If the images have another shape than ``image_shape``, or the model has means
                or stds for another number of channels.
        """
        if self.image_shape is not None and images.shape[1:] != tuple(self.image_shape):
            raise UserError(
                f"the images have the shape {tuple(images.shape[1:])}, and the model takes "
                f"{tuple(self.image_shape)}: give images of that shape"
            )
        for name, values in (("means", self.mean), ("stds", self.std)):
            if values.shape[0] not in (1, images.shape[1]):
                channels = "channel" if images.shape[1] == 1 else "channels"
                raise UserError(
                    f"the model has {values.shape[0]} {name}, and the images have "
                    f"{images.shape[1]} {channels}: give one per channel, or one for all"
                )
        dtype = dtype_of(self.body)
        if dtype is None:
            return (images - self.mean) / self.std
        images = images.to(torch.promote_types(dtype, torch.float32))
        return ((images - self.mean) / self.std).to(dtype)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return labels ``(N,)`` of images ``(N, C, H, W)`` in [0,1]; -1 is null.

        Training or evaluation mode stays as it is.

        Raises:
            UserError: If the images are not floats in [0,1], or logits are not finite.
        """
        logits = self(checked_images(images))
        outcomes.check_finite(logits)
        return outcomes.predictions(logits, self.num_classes)


def append_null(real: Tensor, score: Tensor) -> Tensor:
    """Return logits of a model that answers null exactly if its score is above 0.

    They are ``z_k - max z`` and, for null, the score: the logits ``z_k`` and ``max z + score``
    less ``max z``. This shift per image changes no decision, softmax or gradient, and makes
    ``null logit > 0`` the same comparison as ``score > 0``, without another rounding.

    Args:
        real: ``(N, K)`` logits of the real classes, at least float32.
        score: ``(N,)``, larger for more null, at least float32.

    Returns:
        ``(N, K + 1)``, null last.
    """
    top = real.amax(dim=1, keepdim=True)
    relative = torch.cat([real - top, score[:, None]], dim=1)
    # Zero, but its gradient keeps each logit's own gradient as it is without the shift.
    return relative + (top - top.detach())


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in half precision, and integers, as float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _per_channel(
    name: str, values: PerChannel, device: torch.device | None, *, is_positive: bool = False
) -> Tensor:
    numbers = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    try:
        array = np.atleast_1d(np.asarray(numbers, dtype=np.float32))
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if array.size == 0 or array.size != max(array.shape) or not np.isfinite(array).all():
        raise UserError(f"{name} must be one number, or one per channel, not {values!r}")
    if is_positive and not (array > 0).all():
        raise UserError(f"{name} must be positive, not {array.flatten().tolist()}")
    return torch.tensor(array.reshape(-1, 1, 1), dtype=torch.float32, device=device)


def check_classifier(model: object) -> Classifier:
    """Return a :class:`Classifier` as it is.

    Raises:
        UserError: If the model is no Classifier.
    """
    if not isinstance(model, Classifier):
        raise UserError(
            f"the model must be a nullclass.Classifier, not a {type(model).__name__}: wrap your "
            "network, Classifier(network, num_classes=...)"
        )
    return model


def as_classifier(
    model: object,
    num_classes: int | None = None,
    images: Tensor | None = None,
    *,
    has_null: bool | None = None,
    has_score: bool = False,
    outputs: Outputs | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
) -> Classifier:
    """Return a :class:`Classifier` as it is, and any other network wrapped in one.

    Args:
        model: A Classifier, or what may be the body of one.
        num_classes: K, the number of real classes; needed for a network that is no Classifier.
        images: Images to count the logits with, and for :func:`check_network`; needed likewise.
        has_null: Whether the network's last logit is null. Default: if it has K + 1 logits.
        has_score: As for a Classifier.
        outputs: As for a Classifier; refused if the model is one, as are mean and std.
        mean: As for a Classifier.
        std: As for a Classifier.

    Raises:
        UserError: If the model is no network, an argument is missing or refused, its logits are not
            as many as ``num_classes`` and ``has_null`` say, or it cannot be evaluated.
    """
    if num_classes is not None:
        num_classes = check_count("num_classes", num_classes, 2)
    own: dict[str, Any] = {"outputs": outputs, "mean": mean, "std": std}
    own = {name: value for name, value in own.items() if value is not None}
    if isinstance(model, Classifier):
        if own:
            raise UserError(
                f"the model is a Classifier, which has its own {', '.join(own)}: leave that out, "
                "or pass the network inside it"
            )
        if num_classes not in (None, model.num_classes):
            raise UserError(f"the model has {model.num_classes} classes, not {num_classes}")
        return model
    module = model if isinstance(model, Imported) else as_module(model)
    if num_classes is None or images is None:
        raise UserError("give num_classes, the number of real classes: a plain network has none")
    classifier = Classifier(module, num_classes, has_score=has_score, **own)
    images = checked_images(images)[:NUM_TRIED]
    if device_of(classifier.body) is None:
        classifier = classifier.to(images.device)
    output = _try(classifier, images)
    logits, score = split_output(output)
    num_logits = logits.shape[-1] if logits.ndim else 0
    num_nulls = int(num_logits == num_classes + 1 if has_null is None else has_null)
    num_nulls *= not has_score
    if num_logits == num_classes < num_classes + num_nulls:
        is_scored = score is not None and score.shape == logits.shape[:1]
        raise UserError(
            f"the network has {num_logits} logits for num_classes={num_classes}, so none of them "
            f"is null: pass {'has_score=True if its score decides, ' if is_scored else ''}"
            f"has_null=False if it cannot refuse, num_classes={num_classes - 1} if its last logit "
            "is null, or add a null logit by nullclass.with_null_class"
        )
    if num_logits != num_classes + num_nulls:
        null = "has_score=True" if has_score else f"has_null={bool(num_nulls)}"
        raise UserError(
            f"the network has {num_logits} logits, but num_classes={num_classes} and {null} need "
            f"{num_classes + num_nulls}: correct num_classes or has_null (--num-classes, --null)"
        )
    if not has_score:
        classifier.has_null, classifier.num_nulls = bool(num_nulls), num_nulls
    _check_output(classifier, output, images)
    return classifier


def network_inside(model: Classifier) -> Classifier:
    """Return the classifier that a threshold, a detector or a proof is put around."""
    while isinstance(model.body, Classifier):
        model = model.body
    return model


def check_network(model: Classifier, images: Tensor) -> None:
    """Call the network of a model once, and refuse what cannot be evaluated.

    That is a network that raises an exception, changes its input in place, or returns something
    else than the model says: other shapes, or probabilities for logits. Attacks on probabilities
    fail where these are saturated, for lack of a gradient.

    Args:
        model: The model; its innermost network is tried, without a threshold or other wrapper.
        images: ``(N, C, H, W)`` in [0,1], some of the images; the first :data:`NUM_TRIED` are used.

    Raises:
        UserError: If it cannot be evaluated.
    """
    model = network_inside(model)
    if type(model).all_logits is not Classifier.all_logits:
        return  # it may call its body with something else
    images = checked_images(images)[:NUM_TRIED]
    _check_output(model, _try(model, images), images)
    one = images[:1].to(model.mean.device)  # a network may take a batch of one for something else
    model.read_output(_try(model, one), one)


def _check_output(model: Classifier, output: Any, images: Tensor) -> None:
    """Refuse an output of the model's network that is not what the model says."""
    model.read_output(output, images.to(model.mean.device))
    values, _ = split_output(output)
    if model.outputs == "logits" and are_probabilities(values):
        raise UserError(
            "the model's outputs are probabilities (none is negative, and those of an image sum to "
            "1), which hide its gradients from attacks: remove its softmax, or pass "
            'outputs="probabilities" to evaluate or Classifier (--outputs probabilities)'
        )
    if model.outputs == "probabilities" and not bool((values >= 0).all()):
        raise UserError(
            "some outputs of the model are negative, so they are no probabilities: leave out "
            'outputs="probabilities"'
        )


def _try(model: Classifier, images: Tensor) -> Any:
    """Return what the body of a model returns."""
    images = model.standardised(images.to(model.mean.device))
    before = images.clone()
    with frozen(model), torch.no_grad():
        try:
            output = model.body(images)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the model fails on images of shape {tuple(images.shape)} "
                f"({describe_error(error)})"
            ) from error
    if not torch.equal(images, before):
        raise UserError(
            "the model changes its input in place: write x = x - m for x -= m, and leave out "
            "inplace=True and functions whose names end in _ before its first layer"
        )
    return output

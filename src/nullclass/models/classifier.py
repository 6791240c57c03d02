"""The model that every other room uses: images in [0,1] in, K or K + 1 logits out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nullclass.core import outcomes
from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.data.arrays import checked_images

PerChannel = float | Sequence[float] | npt.NDArray[Any] | Tensor
"""One number per channel, or one for all."""


class Classifier(nn.Module):
    """A network on images in [0,1] that standardises its input itself.

    Budgets are therefore in pixel units everywhere, and the state dict holds mean and std. The last
    logit is null if ``has_null``. A body with several null logits, such as one per class, answers
    null if any of them is the largest: their maximum is the null logit of the model.

    Args:
        body: Maps standardised images ``(N, C, H, W)`` to logits ``(N, K)`` or ``(N, K + 1)``: a
            tensor, the first entry of a tuple, the entry or attribute ``logits``. Images are
            converted to the type of its parameters, and logits in half precision to float32.
        num_classes: K, the number of real classes, at least 2.
        has_null: Whether the body's last logit is null.
        num_nulls: Number of null logits of the body, if it has any.
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
        body: nn.Module,
        num_classes: int,
        *,
        has_null: bool = True,
        num_nulls: int = 1,
        mean: PerChannel = (0.0,),
        std: PerChannel = (1.0,),
        architecture: str | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.num_classes = check_count("num_classes", num_classes, 2)
        self.has_null = has_null
        self.num_nulls = check_count("num_nulls", num_nulls) if has_null else 0
        self.architecture = architecture
        self.image_shape = image_shape
        self.register_buffer("mean", _per_channel("mean", mean))
        self.register_buffer("std", _per_channel("std", std, is_positive=True))

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
        for name, values in (("means", self.mean), ("stds", self.std)):
            if values.shape[0] not in (1, images.shape[1]):
                channels = "channel" if images.shape[1] == 1 else "channels"
                raise UserError(
                    f"the model has {values.shape[0]} {name}, and the images have "
                    f"{images.shape[1]} {channels}: give one per channel, or one for all"
                )
        dtype = dtype_of(self.body)
        if dtype is None:
            logits = unwrap_logits(self.body((images - self.mean) / self.std))
        else:
            images = images.to(torch.promote_types(dtype, torch.float32))
            logits = unwrap_logits(self.body(((images - self.mean) / self.std).to(dtype)))
        expected = self.num_classes + self.num_nulls
        if logits.ndim != 2 or logits.shape[1] != expected or logits.shape[0] != images.shape[0]:
            raise UserError(
                f"the network gives logits of shape {tuple(logits.shape)} for {images.shape[0]} "
                f"images, but {self.num_classes} classes {'with' if self.has_null else 'without'} "
                f"null need {(images.shape[0], expected)}: add a null logit by "
                "nullclass.with_null_class, or correct num_classes or has_null"
            )
        return logits.float() if dtype in (torch.float16, torch.bfloat16) else logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return labels ``(N,)`` of images ``(N, C, H, W)`` in [0,1]; -1 is null.

        Training or evaluation mode stays as it is.

        Raises:
            UserError: If the images are not floats in [0,1].
        """
        return outcomes.predictions(self(checked_images(images)), self.num_classes)


def _per_channel(name: str, values: PerChannel, *, is_positive: bool = False) -> Tensor:
    numbers = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    try:
        array = np.atleast_1d(np.asarray(numbers, dtype=np.float32))
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if array.size == 0 or array.size != max(array.shape) or not np.isfinite(array).all():
        raise UserError(f"{name} must be one number, or one per channel, not {values!r}")
    if is_positive and not (array > 0).all():
        raise UserError(f"{name} must be positive, not {array.flatten().tolist()}")
    return torch.tensor(array.reshape(-1, 1, 1), dtype=torch.float32)


def unwrap_logits(output: Any) -> Tensor:
    """Return the logits of a module's output.

    Args:
        output: A tensor, a tuple or list that begins with it, or a mapping or object with an entry
            or attribute ``logits``.

    Raises:
        UserError: If the output is anything else.
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits")
    elif hasattr(output, "logits"):
        logits = output.logits
    elif isinstance(output, tuple | list) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise UserError(
            f"the network returns {type(output).__name__} without logits: return a tensor, a tuple "
            "that begins with the logits, or a dictionary or object with logits"
        )
    return logits


def dtype_of(module: nn.Module) -> torch.dtype | None:
    """Return the floating-point type of a module's first parameter, or None."""
    weight = next(module.parameters(), None)
    return weight.dtype if weight is not None and weight.is_floating_point() else None


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
) -> Classifier:
    """Return a :class:`Classifier` as it is, and any other module wrapped in one.

    Args:
        model: A Classifier, or a module from images ``(N, C, H, W)`` in [0,1] to logits.
        num_classes: K, the number of real classes; needed for a module that is no Classifier.
        images: Images to count the logits with; needed for a module that is no Classifier.
        has_null: Whether the module's last logit is null. Default: if it has K + 1 logits.

    Raises:
        UserError: If the model is no module, an argument is missing, or its logits are not as many
            as ``num_classes`` and ``has_null`` say.
    """
    if num_classes is not None:
        num_classes = check_count("num_classes", num_classes, 2)
    if isinstance(model, Classifier):
        if num_classes not in (None, model.num_classes):
            raise UserError(f"the model has {model.num_classes} classes, not {num_classes}")
        return model
    if not isinstance(model, nn.Module):
        kind = "function" if inspect.isroutine(model) else type(model).__name__
        raise UserError(f"the model must be a torch.nn.Module, not a {kind}: wrap it in a module")
    if num_classes is None or images is None:
        raise UserError("give num_classes, the number of real classes: a plain module has none")
    image = checked_images(images)[:1]
    weight = next(model.parameters(), None)
    device = image.device if weight is None else weight.device
    with frozen(model), torch.no_grad():
        num_logits = unwrap_logits(model(image.to(device, dtype_of(model)))).shape[-1]
    if has_null and num_logits == num_classes:
        raise UserError(
            f"the module has {num_logits} logits for num_classes={num_classes}, so none of them is "
            f"null: pass has_null=False if it cannot refuse, num_classes={num_classes - 1} if its "
            "last logit is null, or add a null logit by nullclass.with_null_class"
        )
    if has_null is None:
        has_null = num_logits == num_classes + 1
    if num_logits != num_classes + has_null:
        raise UserError(
            f"the module has {num_logits} logits, but num_classes={num_classes} and "
            f"has_null={has_null} need {num_classes + has_null}: correct num_classes or has_null"
        )
    return Classifier(model, num_classes, has_null=has_null).to(device)


def with_null_class(module: nn.Module) -> nn.Module:
    """Return a copy of a classifier whose last linear layer has one more output, null.

    The learned rows are kept. The null row is their mean, so that the null logit is the mean of the
    real logits: no prediction changes until the copy is trained.

    Args:
        module: A classifier; its logits come from the :class:`torch.nn.Linear` registered last.

    Raises:
        UserError: If the module has no linear layer, or a null class already.
    """
    if isinstance(module, Classifier) and module.has_null:
        raise UserError("the model has a null class already: train it as it is")
    widened = copy.deepcopy(module)
    if isinstance(widened, Classifier):
        widened.has_null, widened.num_nulls = True, 1
    linears = [(n, m) for n, m in widened.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise UserError("the model has no linear layer to widen: add the null logit by hand")
    name, last = linears[-1]
    if hasattr(last, "is_widened"):
        raise UserError("the model has a null class already: train it as it is")
    wider: nn.Linear = nn.utils.skip_init(  # every weight is set below, so none is drawn
        nn.Linear,
        last.in_features,
        last.out_features + 1,
        bias=last.bias is not None,
        device=last.weight.device,
        dtype=last.weight.dtype,
    )
    with torch.no_grad():
        for parameter, learned in zip(wider.parameters(), last.parameters(), strict=True):
            parameter.copy_(torch.cat([learned, learned.mean(dim=0, keepdim=True)]))
            parameter.requires_grad_(learned.requires_grad)
    wider.train(last.training)
    wider.is_widened = True  # type: ignore[assignment]
    if not name:  # the module is the linear layer itself
        return wider
    parent, _, attribute = name.rpartition(".")
    setattr(widened.get_submodule(parent), attribute, wider)
    return widened

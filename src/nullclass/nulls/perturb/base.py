"""What a perturbation maker is: from images, and a size for each, to perturbed images."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.models.classifier import Classifier


class Perturbation(Protocol):
    """Perturbs each image by a size of its own; a frozen dataclass of its settings.

    Unlike an attack it need not reach anything: what matters is how far it goes. The model is left
    as it was found, and so are the images; the same generator state gives the same images.
    """

    norms: ClassVar[tuple[str, ...]]
    """The norms (:data:`nullclass.core.norms.NORMS`) that it supports."""
    needs_gradient: ClassVar[bool]
    """Whether it begins with the gradient of the clean images, and takes it from the caller."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the images, besides the arguments of the call, as JSON values."""
        ...

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        sizes: Tensor,
        norm: str,
        generator: torch.Generator | None = None,
        *,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """Perturbed images.

        Args:
            model: The model the images are perturbed for.
            images: ``(N, C, H, W)`` in [0,1].
            labels: ``(N,)`` true labels.
            sizes: ``(N,)``, not negative, in units of the norm.
            norm: One of ``norms``.
            generator: Of what is drawn.
            gradient: ``(N, C, H, W)``, the gradient of the images' cross-entropy, up to one
                positive factor an image, if the caller has it already.

        Returns:
            ``(N, C, H, W)`` in [0,1], each at most its size from its image (up to float rounding);
            the very image at size 0.

        Raises:
            UserError: If it cannot be told a size in that norm.
        """
        ...


def gradient_of(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient ``(N, C, H, W)`` of the cross-entropy to the labels, in evaluation mode."""
    with frozen(model):
        start = images.detach().clone().requires_grad_()
        loss = cross_entropy(model(start), labels, reduction="sum")
        gradient: Tensor = torch.autograd.grad(loss, start)[0]
    return gradient


def check_maker(maker: Perturbation, norm: str) -> None:
    """Refuse a norm that a maker does not know.

    Raises:
        UserError: If it is so.
    """
    if norm not in maker.norms:
        raise UserError(
            f"{type(maker).__name__} cannot be told a size in {norm!r}: choose one of "
            f"{', '.join(maker.norms)}, or another perturbation"
        )


def check_asked(maker: Perturbation, images: Tensor, sizes: Tensor, norm: str) -> None:
    """Refuse a norm that a maker does not know, and sizes that are not one an image.

    Raises:
        UserError: If it is so.
    """
    check_maker(maker, norm)
    if sizes.shape != images.shape[:1]:
        raise UserError(
            f"there are {len(images)} images, but sizes of shape {tuple(sizes.shape)}: give one "
            "size an image"
        )

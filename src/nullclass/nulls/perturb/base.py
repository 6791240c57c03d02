"""The interface of perturbations, and the base class that checks their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from nullclass.attacks.steps import input_gradient
from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.modules import frozen
from nullclass.models.classifier import Classifier

Rng = torch.Generator | None
GradientAt = Callable[[Tensor], Tensor]


class Perturbation(Protocol):
    """Perturbs each image by a given size; its attributes are its settings.

    Unlike an attack it does not search for a success: it goes as far as the size says. It leaves
    the model and the images unchanged; the same generator state gives the same images.
    """

    norms: ClassVar[tuple[str, ...]]
    """The norms (:data:`nullclass.core.norms.NORMS`) that it supports."""
    needs_gradient: ClassVar[bool]
    """Whether it starts with the gradient at the clean images, which the caller may provide."""

    def settings(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
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
        """Return perturbed images.

        Args:
            model: The model under attack.
            images: ``(N, C, H, W)`` in [0,1].
            labels: ``(N,)`` true labels.
            sizes: ``(N,)``, not negative, in units of the norm.
            norm: One of ``norms``.
            generator: Source of random numbers.
            gradient: ``(N, C, H, W)``, the gradient of the cross-entropy at the images, up to one
                positive factor per image, if the caller has it.

        Returns:
            ``(N, C, H, W)`` in [0,1], each at most its size from its image up to rounding; the
            image itself at size 0.

        Raises:
            UserError: If it does not support the norm, or there is not one size per image.
        """
        ...


class BasePerturbation(ABC):
    """A perturbation as a frozen dataclass: subclasses define :meth:`perturb`."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, value in vars(self).items():
            check_count(name, value)

    def settings(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @abstractmethod
    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """Return perturbed images; ``gradient_at`` maps images to cross-entropy gradients."""

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
        """See :class:`Perturbation`."""
        check_support(self, norm)
        if sizes.shape != images.shape[:1]:
            raise UserError(
                f"there are {len(images)} images, but sizes of shape {tuple(sizes.shape)}: give "
                "one size per image"
            )
        images = images.detach()

        def gradient_at(perturbed: Tensor) -> Tensor:
            if gradient is not None and perturbed is images:
                return gradient
            return gradient_of(model, perturbed, labels)

        return self.perturb(images, sizes, norm, gradient_at, generator)


def gradient_of(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient ``(N, C, H, W)`` of the cross-entropy, in evaluation mode."""
    with frozen(model):
        gradient, _ = input_gradient(
            model, images, lambda logits: cross_entropy(logits, labels, reduction="none")
        )
    return gradient


def check_support(perturbation: Perturbation | type[Perturbation], norm: str) -> None:
    """Raise UserError unless the perturbation supports the norm."""
    if norm not in perturbation.norms:
        kind = perturbation if isinstance(perturbation, type) else type(perturbation)
        raise UserError(
            f"{kind.__name__} does not support {norm}: choose one of "
            f"{', '.join(perturbation.norms)}, or another perturbation"
        )

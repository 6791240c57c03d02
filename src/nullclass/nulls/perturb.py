"""Perturbations of a given size, along gradients and random: an open set.

    fgsm:    x' = clamp(x + size * steepest(g), 0, 1),    g = d CE(f(x), y) / dx
    pgd:     x <- project(x + 2.5 size / num_steps * step(g)), from the clean image
    sparse:  x'_i = [g_i > 0] for the most salient pixels (Hosseini et al. 2017 count pixels)
    noise:   random signs (linf), a random direction (l2), random pixels and values (l0)

FGSM is Goodfellow et al. 2015, with a random size in training; PGD is Madry et al. 2018, and takes
all its steps whether the model is fooled or not. To add one: a class and a line in PERTURBATIONS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.attacks.steps import ascend, input_gradient
from nullclass.core.checks import check_choice, check_count
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.modules import frozen
from nullclass.core.norms import find_ball, find_norm, step_along, top_pixels
from nullclass.models.classifier import Classifier

Rng = torch.Generator | None
GradientAt = Callable[[Tensor], Tensor]


class Perturbation(ABC):
    """Perturbs each image by a given size; a frozen dataclass, whose fields are its settings.

    Unlike an attack it does not search for a success: it goes as far as the size says. It leaves
    the model and the images unchanged; the same generator state gives the same images.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    """The norms (:data:`nullclass.core.norms.NORMS`) that it supports."""
    needs_gradient: ClassVar[bool] = True
    """Whether it starts with the gradient at the clean images, which the caller may provide."""

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


@dataclass(frozen=True)
class FGSMPerturbation(Perturbation):
    """One step from the clean image; deterministic."""

    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """See :class:`Perturbation`."""
        return step_along(
            find_ball(norm).steepest(gradient_at(images), images), images, sizes, norm
        )


@dataclass(frozen=True)
class PGDPerturbation(Perturbation):
    """Several steps within the ball; deterministic."""

    num_steps: int = 10
    """Gradient steps."""

    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """See :class:`Perturbation`."""
        ball, perturbed, step_size = find_ball(norm), images, 2.5 / self.num_steps * sizes
        for _ in range(self.num_steps):
            gradient = gradient_at(perturbed)
            perturbed = ascend(
                perturbed, gradient, images, eps=sizes, step_size=step_size, norm=ball
            )
        return perturbed


@dataclass(frozen=True)
class SparsePerturbation(Perturbation):
    """The most salient pixels at an end of [0,1]; deterministic.

    floor(size * H * W) pixels, an equal part of them per step. The saliency of a pixel is the gain
    of the linearised loss: the sum over its channels of |g_i| times the room in the gradient's
    direction. Saliency-map attacks (Papernot et al. 2016) compute a new gradient after each pixel
    or two. (With a single gradient a plain MNIST network is never fooled on more than four images
    in five, however many pixels change; with two, on all.)
    """

    num_steps: int = 2
    """Gradients."""
    norms: ClassVar[tuple[str, ...]] = ("l0",)

    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """See :class:`Perturbation`."""
        perturbed = images
        is_done = torch.zeros_like(images[:, :1], dtype=torch.bool)
        for step in range(1, self.num_steps + 1):
            gradient = gradient_at(perturbed)
            # Without a gradient there is no direction, and the pixel keeps its value.
            pushed = torch.where(gradient == 0, perturbed, (gradient > 0).to(images))
            saliency = (gradient * (pushed - perturbed)).sum(dim=1)
            # Changed pixels stay on top, so that the counts include all steps so far.
            saliency = saliency.masked_fill(is_done.squeeze(1), torch.inf)
            chosen = top_pixels(saliency, sizes * (step / self.num_steps))
            perturbed = torch.where(chosen & ~is_done, pushed, perturbed)
            is_done = is_done | chosen
        return perturbed


@dataclass(frozen=True)
class NoisePerturbation(Perturbation):
    """Random noise of the full size, clamped to [0,1]."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l0")
    needs_gradient: ClassVar[bool] = False

    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """See :class:`Perturbation`."""
        shape = images.shape
        if norm == "l0":
            # One draw per channel for the value, and one per pixel for its rank.
            values = torch.rand(shape, generator=generator, dtype=images.dtype).to(images.device)
            ranks = torch.rand((shape[0], *shape[2:]), generator=generator).to(images.device)
            return torch.where(top_pixels(ranks, sizes), values, images)
        noise = torch.randn(shape, generator=generator, dtype=images.dtype).to(images.device)
        return step_along(find_ball(norm).steepest(noise, images), images, sizes, norm)


PERTURBATIONS: dict[str, type[Perturbation]] = {
    "fgsm": FGSMPerturbation,
    "pgd": PGDPerturbation,
    "sparse": SparsePerturbation,
    "noise": NoisePerturbation,
}
"""Names to dataclasses of settings, which all have defaults."""


def make_perturbation(name: str, settings: Mapping[str, Any] | None = None) -> Perturbation:
    """Return the perturbation of that name with these settings.

    Raises:
        UserError: If it is unknown, or refuses the settings.
    """
    kind = PERTURBATIONS[check_choice("perturbation", name, PERTURBATIONS)]
    try:
        return kind(**(settings or {}))
    except TypeError as error:
        raise UserError(f"the perturbation {name!r} has no such settings: {error}") from None


def check_norm(name: str, norm: str) -> None:
    """Raise UserError unless the perturbation of that name supports the norm."""
    find_norm(norm)
    check_support(PERTURBATIONS[check_choice("perturbation", name, PERTURBATIONS)], norm)


def name_of(perturbation: Perturbation) -> str:
    """Return a perturbation's name in PERTURBATIONS, or its class name."""
    names = {kind: name for name, kind in PERTURBATIONS.items()}
    return names.get(type(perturbation), type(perturbation).__name__)


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

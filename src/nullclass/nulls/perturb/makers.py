"""Perturbations along gradients, and random ones.

    fgsm:    x' = clamp(x + size * steepest(g), 0, 1),    g = d CE(f(x), y) / dx
    pgd:     x <- project(x + 2.5 size / num_steps * step(g)), from the clean image
    sparse:  x'_i = [g_i > 0] for the most salient pixels (Hosseini et al. 2017 count pixels)
    noise:   random signs (linf), a random direction (l2), random pixels and values (l0)

FGSM is Goodfellow et al. 2015, with a random size in training; PGD is Madry et al. 2018, and takes
all its steps whether the model is fooled or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.steps import ascend
from nullclass.core.norms import find_ball, step_along, top_pixels
from nullclass.nulls.perturb.base import BasePerturbation, GradientAt, Rng


@dataclass(frozen=True)
class FGSMPerturbation(BasePerturbation):
    """One step from the clean image; deterministic."""

    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """See :class:`nullclass.nulls.perturb.base.BasePerturbation`."""
        return step_along(
            find_ball(norm).steepest(gradient_at(images), images), images, sizes, norm
        )


@dataclass(frozen=True)
class PGDPerturbation(BasePerturbation):
    """Several steps within the ball; deterministic."""

    num_steps: int = 10
    """Gradient steps."""

    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """See :class:`nullclass.nulls.perturb.base.BasePerturbation`."""
        ball, perturbed, step_size = find_ball(norm), images, 2.5 / self.num_steps * sizes
        for _ in range(self.num_steps):
            gradient = gradient_at(perturbed)
            perturbed = ascend(
                perturbed, gradient, images, eps=sizes, step_size=step_size, norm=ball
            )
        return perturbed


@dataclass(frozen=True)
class SparsePerturbation(BasePerturbation):
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
        """See :class:`nullclass.nulls.perturb.base.BasePerturbation`."""
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
class NoisePerturbation(BasePerturbation):
    """Random noise of the full size, clamped to [0,1]."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l0")
    needs_gradient: ClassVar[bool] = False

    def perturb(
        self, images: Tensor, sizes: Tensor, norm: str, gradient_at: GradientAt, generator: Rng
    ) -> Tensor:
        """See :class:`nullclass.nulls.perturb.base.BasePerturbation`."""
        shape = images.shape
        if norm == "l0":
            # One draw per channel for the value, and one per pixel for its rank.
            values = torch.rand(shape, generator=generator, dtype=images.dtype).to(images.device)
            ranks = torch.rand((shape[0], *shape[2:]), generator=generator).to(images.device)
            return torch.where(top_pixels(ranks, sizes), values, images)
        noise = torch.randn(shape, generator=generator, dtype=images.dtype).to(images.device)
        return step_along(find_ball(norm).steepest(noise, images), images, sizes, norm)

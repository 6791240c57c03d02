"""The most salient pixels pushed to an end of [0,1]: Hosseini et al. 2017 count changed pixels.

    x'_i = [g_i > 0] for the first pixels by saliency,    g = d CE(f(x), y) / dx

floor(size * H * W) pixels in all, an equal part of them at each step. Saliency is what the
linearised loss gains: the sum over a pixel's channels of |g_i| times the room in the gradient's
direction. Saliency-map attacks (Papernot et al. 2016) take a new gradient after each pixel or two;
here it is one a step. (From one gradient alone a plain MNIST network is never fooled on more than
four images in five, however many pixels change; from two, on all.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.norms import top_pixels
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb.base import check_asked, gradient_of


@dataclass(frozen=True)
class SparsePerturbation:
    """Few pixels, changed as far as they can be; deterministic."""

    num_steps: int = 2
    """Gradients; the first is the caller's if there is one."""
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        if self.num_steps < 1:
            raise UserError(f"the perturbation needs at least one step, not {self.num_steps}")

    def settings(self) -> dict[str, Any]:
        """The number of steps."""
        return asdict(self)

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
        """See :class:`nullclass.nulls.perturb.base.Perturbation`."""
        check_asked(self, images, sizes, norm)
        perturbed = images = images.detach()
        is_done = torch.zeros_like(images[:, :1], dtype=torch.bool)
        for step in range(1, self.num_steps + 1):
            if gradient is None or step > 1:
                gradient = gradient_of(model, perturbed, labels)
            # Without a gradient there is no direction, and the pixel stays.
            pushed = torch.where(gradient == 0, perturbed, (gradient > 0).to(images))
            saliency = (gradient * (pushed - perturbed)).sum(dim=1)
            # What is done stays foremost, so that the counts are those of all steps so far.
            saliency = saliency.masked_fill(is_done.squeeze(1), torch.inf)
            chosen = top_pixels(saliency, sizes * (step / self.num_steps))
            perturbed = torch.where(chosen & ~is_done, pushed, perturbed)
            is_done = is_done | chosen
        return perturbed

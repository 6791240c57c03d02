"""What an attack is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nullclass.attacks.losses import ObjectiveName
from nullclass.core.norms import BALLS, Eps
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier

Access = Literal["white-box", "scores", "labels", "none"]
"""What an attack takes from the model under attack: gradients too, only its logits (a black-box
attack with scores), only the labels it answers (a score-free, or hard-label, attack), or nothing at
all (a transfer, noise)."""


class Attack(Protocol):
    """Turns images into attacked images within a budget; a frozen dataclass of its settings.

    The model is left as it was found, and so are the images. Where an attack does not
    succeed it returns its best try. Whether it succeeded is never its own say: callers
    score what it returns (``nullclass.evaluation.run``).
    """

    @property
    def objective(self) -> ObjectiveName:
        """``fool``, ``force-null`` or ``untargeted`` (:mod:`nullclass.attacks.losses`)."""

    @property
    def is_iterative(self) -> bool:
        """Whether one success anywhere in the ball is looked for.

        Then what was found at a smaller eps counts at a larger one. A fixed recipe such as FGSM
        does not look.
        """

    @property
    def access(self) -> Access:
        """What it takes from the model; red flags compare it with what was really taken."""

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Attacked images ``(N, C, H, W)`` in [0,1], none further than eps (pixel units).

        ``eps`` is one budget for all images or ``(N,)``, one for each.

        ``batch_size`` is the number of images per forward and backward pass; ``None`` chooses one.
        """
        ...


def norms_of(attack: Attack) -> tuple[str, ...]:
    """The norms an attack knows: its ``norms`` if it names some, else all there are."""
    known: tuple[str, ...] = getattr(attack, "norms", tuple(BALLS))
    return known


@runtime_checkable
class LinearAttack(Protocol):
    """An attack whose images for all eps lie on one straight line from the clean image.

    ``direction`` is all it needs of the model: the image for eps is ``along(direction, …, eps)``.
    """

    def direction(self, model: Classifier, images: Tensor, labels: Tensor, *, norm: str) -> Tensor:
        """Where the images ``(N, C, H, W)`` go, of size 1 in the norm, or 0 without a gradient."""
        ...


@runtime_checkable
class TakesReferenceImages(Protocol):
    """An attack that draws on other images than those it attacks, and may be given them."""

    def with_reference_images(self, pool: LabelledImages) -> Attack:
        """The same attack with that pool, or itself if it has one."""
        ...


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside the block; as found after it."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, was_training in modes:
            module.training = was_training

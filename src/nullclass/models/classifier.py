"""The model every other part talks to: [0,1] images in, K or K + 1 logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nullclass.core import outcomes
from nullclass.core.errors import UserError


class Classifier(nn.Module):
    """A network on [0,1] images that standardises them itself.

    Budgets are therefore in pixel units everywhere. With ``has_null`` the body has
    ``num_classes + 1`` logits and the last one is null. With ``num_nulls`` null logits, such as one
    twin a class, any of them means null: the model's own null logit is the largest of them, so that
    the model says null exactly if one of them is the largest of all.

    Args:
        body: Maps standardised images ``(N, C, H, W)`` to logits ``(N, K)`` or ``(N, K + 1)``.
        num_classes: K, the number of real classes.
        has_null: Whether the body's last logit is null.
        num_nulls: How many null logits the body has, if it has any.
        mean: Per-channel pixel mean to subtract; one value serves all channels.
        std: Per-channel pixel standard deviation to divide by, positive.
        architecture: Name in :data:`nullclass.models.MODELS`, or None for a body of one's own.
        image_shape: ``(C, H, W)`` of one image, where it is known.

    Raises:
        ValueError: If a standard deviation is not positive, or there are fewer than two classes or
            null logits than one.
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
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        architecture: str | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least two classes, not {num_classes}")
        if num_nulls < 1:
            raise ValueError(f"a model with null needs a null logit at least, not {num_nulls}")
        if not all(value > 0 for value in std):
            raise ValueError(f"standard deviations must be positive, not {tuple(std)}")
        self.body = body
        self.num_classes = num_classes
        self.has_null = has_null
        self.num_nulls = num_nulls if has_null else 0
        self.architecture = architecture
        self.image_shape = image_shape
        # Not in the state dict: the card holds them, exactly as they were given.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def num_outputs(self) -> int:
        """K, or K + 1 with null."""
        return self.num_classes + int(self.has_null)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` or ``(N, K + 1)`` of images ``(N, C, H, W)`` in [0,1].

        Raises:
            UserError: If the body has another number of logits than it should.
        """
        logits = self.all_logits(images)
        if self.num_nulls < 2:
            return logits
        real, nulls = logits.split([self.num_classes, self.num_nulls], dim=1)
        return torch.cat([real, nulls.amax(dim=1, keepdim=True)], dim=1)

    def all_logits(self, images: Tensor) -> Tensor:
        """Logits ``(N, K + num_nulls)``, every null logit by itself: what training looks at.

        Raises:
            UserError: If the body has another number of logits than it should.
        """
        logits: Tensor = self.body((images - self.mean) / self.std)
        if logits.shape != (len(images), self.num_classes + self.num_nulls):
            raise UserError(
                f"the network gives logits of {tuple(logits.shape)}, but {self.num_classes} "
                f"classes {'with' if self.has_null else 'without'} null need "
                f"{(len(images), self.num_classes + self.num_nulls)}: widen it with "
                "nullclass.with_null_class, or give the right num_classes and has_null"
            )
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Labels ``(N,)`` of images ``(N, C, H, W)`` in [0,1]; -1 is null.

        The mode (training or evaluation) is left as it is, as ``forward`` does.
        """
        return outcomes.predictions(self(images), self.num_classes)

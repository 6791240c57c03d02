"""Recipes: batch size, epochs, learning rate, schedule and precision. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from nullclass.core.checks import check_choice, check_count, check_number, check_share
from nullclass.core.errors import UserError

Schedule = Literal["constant", "triangle", "late-cosine"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, besides its loss. The default is a neutral start for any network."""

    batch_size: int = 128
    """Clean images per step. A loader makes its own batches."""
    epochs: int = 10
    """Passes over the training images."""
    learning_rate: float = 1e-3
    """Adam's learning rate; the peak if the schedule changes it."""
    schedule: Schedule = "constant"
    """``triangle`` rises linearly for a fifth of all steps, then falls linearly to zero.
    ``late-cosine`` rises for a hundredth, is constant until two fifths, then falls to zero along a
    cosine: for losses that become harder as ε rises."""
    precision: Precision = "float32"
    """``bfloat16`` runs the layers under autocast where the hardware supports it. Weights, losses
    and optimizer state stay in float32."""
    nulls_per_image: float = 1.0
    """Null images per clean image of a batch, in (0, 1]. Not used with ``replace_rate``."""
    dropout: float = 1.0
    """Factor in [0, 1] on the drop rates of the network's dropout layers; short trainings need
    less."""
    jitter: float = 0.0
    """Strength of random affine augmentation: 1 rotates by up to 7 degrees, stretches and shears by
    up to 8 % and shifts by up to a pixel (:mod:`nullclass.data.augment`)."""
    flip: bool = False
    """Mirror half of the images left to right: for photographs, not for digits."""
    stem_epochs: int | None = None
    """Epochs after which the first layer is frozen (FreezeOut, Brock et al. 2017). This saves the
    gradient of its output, a third of the second layer's work. ``None`` never freezes it."""

    max_gradient: float | None = None
    """Gradients of a larger L2 norm, over all parameters together, are scaled down to it (Pascanu
    et al. 2013). ``None`` never clips. A batch of wrong labels then moves the weights no further
    than any other."""

    def __post_init__(self) -> None:
        """Check all values."""
        check_count("batch_size", self.batch_size)
        check_count("epochs", self.epochs)
        if not 0 < check_number("learning_rate", self.learning_rate) < 10:
            raise UserError(f"learning_rate must be in (0, 10), not {self.learning_rate}")
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_choice("precision", self.precision, get_args(Precision))
        if check_share("nulls_per_image", self.nulls_per_image) == 0:
            raise UserError(
                "nulls_per_image must be above 0: to train without, pass no null source"
            )
        check_share("dropout", self.dropout)
        if not 0 <= check_number("jitter", self.jitter) <= 10:
            raise UserError(f"jitter must be in [0, 10], not {self.jitter}")
        if self.max_gradient is not None and check_number("max_gradient", self.max_gradient) <= 0:
            raise UserError(f"max_gradient must be above 0, not {self.max_gradient}")
        if self.stem_epochs is not None:
            check_count("stem_epochs", self.stem_epochs)

    @property
    def selects_epoch(self) -> bool:
        """Whether every epoch is a candidate: if the learning rate falls, the last one alone is."""
        return self.schedule == "constant"

    def lr_factor(self, progress: float) -> float:
        """Return the factor on the learning rate at ``progress`` in [0, 1) of all steps."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "late-cosine":
            rise, phase = progress / 0.01, max(0.0, (progress - 0.4) / 0.6)
            fall = (1 + math.cos(math.pi * phase)) / 2
        else:
            rise, fall = progress / 0.2, (1 - progress) / 0.8
        return max(min(rise, fall), 1e-3)


FAITHFUL: dict[str, Recipe] = {
    "notebook": Recipe(batch_size=64, epochs=5, learning_rate=1e-3),
    "report": Recipe(batch_size=32, epochs=20, learning_rate=1e-3),
}
"""The published recipe of each architecture that has one (docs/reproduction.md)."""

CERTIFIED = Recipe(batch_size=128, epochs=8, learning_rate=2e-3, schedule="late-cosine")
"""For robust losses, whose ε rises in the first two fifths (:mod:`nullclass.training.robust`)."""

RESIDUAL = Recipe(
    epochs=14,
    learning_rate=3e-3,
    schedule="triangle",
    precision="bfloat16",
    nulls_per_image=0.25,
    jitter=1.0,
    flip=True,
)
"""For small photographs."""

FAST: dict[str, Recipe] = {
    "notebook": Recipe(
        batch_size=64,
        epochs=1,
        learning_rate=4e-3,
        schedule="triangle",
        precision="bfloat16",
        nulls_per_image=0.5,
    ),
    "report": Recipe(
        batch_size=64,
        epochs=4,
        learning_rate=3e-3,
        schedule="triangle",
        precision="bfloat16",
        dropout=0.5,
        stem_epochs=1,
        max_gradient=1.0,
    ),
    "residual": RESIDUAL,
    "residual-wide": replace(RESIDUAL, batch_size=256, epochs=40, learning_rate=2e-3),
    "certifiable": CERTIFIED,
    "certifiable-small": CERTIFIED,
    "certifiable-medium": CERTIFIED,
}
"""The same quality in a fraction of the time, measured in ``LOG.md``. One exception: FGSM null
images at the notebook's ε 0.01 need two epochs. ``residual-wide`` is for a GPU."""


def find_recipe(name: str, architecture: str) -> Recipe:
    """Return a named recipe for an architecture.

    Args:
        name: ``fast``, or ``faithful`` for the published recipe.
        architecture: A name in :data:`nullclass.models.ARCHITECTURES`; ``fast`` is the default
            :class:`Recipe` for those without one of their own.

    Raises:
        UserError: If the name is unknown, or no recipe was published for the architecture.
    """
    if check_choice("recipe", name, ("fast", "faithful")) == "fast":
        return FAST.get(architecture, Recipe())
    if architecture not in FAITHFUL:
        raise UserError(f"no published recipe for {architecture!r}: use --recipe fast")
    return FAITHFUL[architecture]

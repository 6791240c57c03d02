"""How training is run: batches, epochs, schedule, precision. Imports no torch.

``faithful`` is the source's own recipe, which depends on the network it was published with;
``fast`` reaches the same quality in a fraction of the time, with one exception: at the notebook's
null epsilon 0.01 it recognises about a point less of larger steps (measured: ``LOG.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nullclass.core.errors import UserError

Schedule = Literal["constant", "triangle", "late-cosine"]


@dataclass(frozen=True)
class Recipe:
    """Everything about training that is not the model, the data or the null images."""

    batch_size: int
    """Clean images a step."""
    epochs: int
    """Passes over the training images."""
    learning_rate: float
    """Adam's step size; the peak if the schedule changes it."""
    schedule: Schedule = "constant"
    """``triangle`` rises linearly for a fifth of all steps, then falls linearly to zero.
    ``late-cosine`` rises for a hundredth, stays for two fifths, then falls along a cosine to zero:
    for losses that get harder as ε rises."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16`` runs the layers under autocast where the machine has it natively; weights,
    losses and optimiser state stay in float32."""
    nulls_per_image: float = 1.0
    """Share of each batch from which null images are made beside it, in (0, 1]."""
    dropout: float = 1.0
    """Factor in [0, 1] on what the network's dropout layers drop: few epochs need less."""
    jitter: float = 0.0
    """How much images are moved at random before each step: at 1, turned by up to 7 degrees,
    stretched and sheared by up to 8 %, shifted by up to a pixel (:mod:`nullclass.data.augment`)."""
    stem_epochs: int | None = None
    """Epochs after which the first layer no longer learns, which saves the gradient of its output,
    a third of the second one's work (FreezeOut, Brock et al. 2017); ``None``: it learns to the end.
    """

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if self.batch_size < 1 or self.epochs < 1:
            raise UserError(
                f"batch size {self.batch_size} and epochs {self.epochs} must be at least 1"
            )
        if not 0 < self.learning_rate < 10:
            raise UserError(f"the learning rate must be in (0, 10), not {self.learning_rate}")
        if self.schedule not in get_args(Schedule):
            known = ", ".join(get_args(Schedule))
            raise UserError(f"no schedule {self.schedule!r}: choose one of {known}")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"no precision {self.precision!r}: choose float32 or bfloat16")
        if not 0 < self.nulls_per_image <= 1:
            raise UserError(f"nulls_per_image must be in (0, 1], not {self.nulls_per_image}")
        if not 0 <= self.dropout <= 1:
            raise UserError(f"the factor on dropout must be in [0, 1], not {self.dropout}")
        if not 0 <= self.jitter <= 10:
            raise UserError(f"jitter must be in [0, 10], not {self.jitter}")
        if self.stem_epochs is not None and self.stem_epochs < 1:
            raise UserError(f"the first layer must learn for an epoch at least: {self.stem_epochs}")


FAITHFUL: dict[str, Recipe] = {
    "notebook": Recipe(batch_size=64, epochs=5, learning_rate=1e-3),
    "report": Recipe(batch_size=32, epochs=20, learning_rate=1e-3),
}
"""The published recipe of each architecture that has one (study-facts)."""

CERTIFIED = Recipe(batch_size=128, epochs=8, learning_rate=2e-3, schedule="late-cosine")
"""For robust losses, whose ε rises in the first two fifths (:mod:`nullclass.training.robust`)."""

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
        epochs=3,
        learning_rate=3e-3,
        schedule="triangle",
        precision="bfloat16",
        dropout=0.5,
        stem_epochs=1,
    ),
    "certifiable": CERTIFIED,
    "certifiable-small": CERTIFIED,
}
"""The same quality in a fraction of the time, measured in ``LOG.md``."""


def find_recipe(name: str, architecture: str) -> Recipe:
    """The recipe of that name for an architecture.

    Raises:
        UserError: If the name is unknown, or nothing was published for the architecture.
    """
    if name == "fast":
        return FAST.get(architecture, FAST["notebook"])
    if name != "faithful":
        raise UserError(f"there is no recipe {name!r}: choose fast or faithful")
    if architecture not in FAITHFUL:
        raise UserError(f"no published recipe for {architecture!r}: use --recipe fast")
    return FAITHFUL[architecture]

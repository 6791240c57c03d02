"""The configuration of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from nullclass.core.checks import check_choice, check_number, check_seed
from nullclass.core.errors import UserError
from nullclass.training.recipes import Recipe
from nullclass.training.robust.base import RobustLoss

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class TrainConfig:
    """All settings that decide the trained weights, besides the initial weights and the data."""

    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen
    """Batch size, epochs, learning rate and precision."""
    seed: int = 0
    """Seed of the order of images, of dropout and of the null images."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient (Adam's ``weight_decay``)."""
    null_weight: float = 1 / 11
    """Weight of the null loss (alpha in the notebook), for null images appended to each batch."""
    replace_rate: float | None = None
    """With a number in [0, 1), null images replace Binomial(batch size, replace_rate) images of
    each batch instead; ``null_weight`` and ``nulls_per_image`` are not used (Roos 2020)."""
    robust: RobustLoss | None = None
    """A loss that replaces the clean loss; always computed in float32."""
    uniform_targets: bool = False
    """Trains a model without a null class on null images: null is a uniform target over the
    classes, for a threshold to refuse (:func:`nullclass.core.losses.null_targets`)."""
    optimizer: OptimizerFactory | None = None
    """Makes the optimizer from the parameters, such as ``lambda params: SGD(params, lr=0.1)``;
    ``None`` is Adam. ``learning_rate`` and ``weight_decay`` are then not used."""
    scheduler: SchedulerFactory | None = None
    """Makes a learning rate scheduler from the optimizer, such as
    ``lambda optimizer: StepLR(optimizer, 30)``; ``None`` is the schedule of the recipe."""
    scheduler_interval: Literal["epoch", "step"] = "epoch"
    """When to call ``scheduler.step()``: after every epoch or after every batch.
    ``ReduceLROnPlateau`` gets the training loss of the epoch."""

    def __post_init__(self) -> None:
        """Check all values."""
        if not isinstance(self.recipe, Recipe):
            raise UserError(f"recipe must be a Recipe, not {type(self.recipe).__name__}")
        check_seed(self.seed)
        for name in ("weight_decay", "null_weight"):
            if check_number(name, getattr(self, name)) < 0:
                raise UserError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= check_number("replace_rate", self.replace_rate or 0) < 1:
            raise UserError(f"replace_rate must be in [0, 1), not {self.replace_rate}")
        if self.robust is not None and not hasattr(self.robust, "bind"):
            raise UserError("robust must be a robust loss such as IntervalLoss(eps=0.1)")
        check_choice("scheduler_interval", self.scheduler_interval, ("epoch", "step"))
        for name, value, example in (
            ("optimizer", self.optimizer, "lambda parameters: torch.optim.SGD(parameters, lr=0.1)"),
            ("scheduler", self.scheduler, "lambda optimizer: StepLR(optimizer, 30)"),
        ):
            if value is not None and not callable(value):
                raise UserError(f"{name} must be a function such as {example}, not {value!r}")
        if self.optimizer is not None and self.weight_decay:
            raise UserError("weight_decay is for the default optimizer: pass it to your own")
        if self.scheduler is not None and self.recipe.schedule != "constant":
            raise UserError(
                f"the recipe has the schedule {self.recipe.schedule!r}: use it or a scheduler"
            )

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of the model's parameters."""
        if self.optimizer is None:
            rate, weight_decay = self.recipe.learning_rate, self.weight_decay
            return Adam(model.parameters(), rate, weight_decay=weight_decay, fused=True)
        optimizer = self.optimizer(model.parameters())
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"optimizer must return an Optimizer, not {type(optimizer).__name__}")
        own = {id(parameter) for parameter in model.parameters()}
        updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if not any(id(parameter) in own for parameter in updated):
            raise UserError(
                "the optimizer has no parameter of the model, so it would train nothing: make it "
                "from the parameters that the function receives"
            )
        return optimizer

    def make_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return the scheduler, if there is one."""
        if self.scheduler is None:
            return None
        scheduler = self.scheduler(optimizer)
        if not isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
            raise UserError(f"scheduler must return an LRScheduler, not {type(scheduler).__name__}")
        if isinstance(scheduler, ReduceLROnPlateau) and self.scheduler_interval == "step":
            raise UserError("ReduceLROnPlateau needs scheduler_interval='epoch'")
        return scheduler

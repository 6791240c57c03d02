"""The models that ``worst_case.py`` attacks: members of the zoo and three others.

python benchmarks/worst_case_models.py   # trains ``adversarial`` again, about 20 CPU minutes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from common import ROOT, mnist, say, train_and_save
from nullclass.models import Classifier
from nullclass.studies.provable_null.config import training
from nullclass.training.checkpoint import load_checkpoint
from nullclass.zoo import load_zoo

ADVERSARIAL = ROOT / "benchmarks" / "checkpoints" / "adversarial"

WITHOUT_NULL = ("adversarial",)
"""The models that never answer null."""


class Quantised(nn.Module):
    """A model of pixels rounded to a few levels: its gradient is zero everywhere.

    Args:
        model: The model.
        num_levels: Steps between 0 and 1.
    """

    def __init__(self, model: nn.Module, num_levels: int = 8) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("num_levels", torch.tensor(float(num_levels)))

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's logits of the rounded images."""
        return self.model((images * self.num_levels).round() / self.num_levels)


class Scaled(nn.Module):
    """A model with logits times a factor: softmax saturates in float32, and answers stay the same.

    Args:
        model: The model.
        factor: The factor.
    """

    def __init__(self, model: nn.Module, factor: float = 1000.0) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled logits."""
        return self.factor * self.model(images)


def of_module(module: type[nn.Module], member: str) -> Classifier:
    """Return a member of the zoo inside a module."""
    return Classifier(module(load_zoo(member)), 10, image_shape=(1, 28, 28)).eval()


def load_adversarial() -> Classifier:
    """Return the model of adversarial training without null.

    Raises:
        UserError: If its files are missing, damaged or changed.
    """
    return load_checkpoint(ADVERSARIAL)[0]


MODELS: dict[str, Callable[[], Classifier]] = {
    "notebook-null": partial(load_zoo, "notebook-null"),
    "report-usm": partial(load_zoo, "report-usm"),
    "null-probabilities": partial(load_zoo, "null-probabilities"),
    "adversarial-null": partial(load_zoo, "adversarial-null"),
    "abstain": partial(load_zoo, "abstain"),
    "provable-0.3": partial(load_zoo, "provable-0.3"),
    "adversarial": load_adversarial,
    "quantised": partial(of_module, Quantised, "adversarial-null"),
    "scaled": partial(of_module, Scaled, "notebook-null"),
}
"""Names to functions that return a model in evaluation mode."""


def train_adversarial() -> None:
    """Train ``adversarial`` as the zoo's adversarial-null, but without null; resumes."""
    with_null = training("adversarial-null", "mnist", 0, "quick")
    train_and_save(replace(with_null, name="adversarial", has_null=False), mnist(None), ADVERSARIAL)
    say(f"written to {ADVERSARIAL}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_adversarial()

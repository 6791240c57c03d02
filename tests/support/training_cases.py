"""Small trainings, made the same in every process, and what tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from nullclass.data import LabelledImages
from nullclass.models import Classifier, build_model
from nullclass.nulls import AdversarialNulls, NullImages, NullSource
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe

NUM_CLASSES = 3
RECIPE = Recipe(batch_size=16, epochs=3, learning_rate=2e-3, schedule="triangle")


def learnable_images(num: int = 80, size: int = 8, seed: int = 0) -> LabelledImages:
    """Noise with a bright band whose position is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % NUM_CLASSES
    images = 0.4 * torch.rand(num, 1, size, size, generator=generator)
    for index, label in enumerate(labels.tolist()):
        images[index, 0, 2 * label : 2 * label + 2] += 0.5
    return LabelledImages(images, labels, NUM_CLASSES)


def fresh_model(architecture: str = "notebook", **settings: Any) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build_model(
            architecture,
            image_shape=(1, 8, 8),
            num_classes=NUM_CLASSES,
            mean=(0.3,),
            std=(0.3,),
            **settings,
        )


def make_case(
    architecture: str,
    recipe: Recipe = RECIPE,
    seed: int = 5,
    *,
    has_nulls: bool = True,
    replace_rate: float | None = None,
) -> Callable[..., tuple[Classifier, list[Any]]]:
    """A training to call: it builds a new model and returns it with its history."""

    def run(**settings: Any) -> tuple[Classifier, list[Any]]:
        model = fresh_model(architecture, has_null=has_nulls)
        nulls = AdversarialNulls(model, 0.15) if has_nulls else None
        config = TrainConfig(
            recipe, seed, weight_decay=1e-4, null_weight=0.3, replace_rate=replace_rate
        )
        history = train(model, learnable_images(), config, nulls=nulls, **settings)
        return model, history

    return run


class MadeBy(NullSource):
    """Null images made by a function of the images; keeps what it was called with."""

    def __init__(
        self,
        make: Callable[[Tensor], Tensor] = torch.ones_like,
        null_probs: Callable[[Tensor], Tensor] | None = None,
        needs_image_gradient: bool = False,
    ) -> None:
        self.make, self.null_probs = make, null_probs
        self.is_soft = null_probs is not None
        self.needs_image_gradient = needs_image_gradient
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        assert generator is not None
        self.calls.append((images.clone(), labels.clone(), images.grad))
        null_probs = None if self.null_probs is None else self.null_probs(images)
        return NullImages(self.make(images.detach()), null_probs)


class Stopped(Exception):  # noqa: N818
    pass


def stop_at(step: int) -> Any:
    def on_step(done: int, steps: int, loss: float) -> None:
        if done == step:
            raise Stopped

    return on_step


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    others = other.state_dict()
    for key, value in one.state_dict().items():
        assert torch.equal(value, others[key]), key


def assert_same_history(one: list[Any], other: list[Any]) -> None:
    """All but the seconds; repr makes NaN equal to NaN and loses no bit."""
    left, right = ([asdict(r) | {"seconds": 0} for r in history] for history in (one, other))
    assert repr(left) == repr(right)

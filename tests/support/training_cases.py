"""One small training, made the same in this process and in another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nullclass.data import LabelledImages
from nullclass.models import Classifier, build_model
from nullclass.nulls import AdversarialNulls
from nullclass.training.loop import TrainConfig, train
from nullclass.training.recipes import Recipe

NUM_CLASSES = 3
RECIPE = Recipe(batch_size=16, epochs=3, learning_rate=2e-3, schedule="triangle")


def learnable_images(num: int = 80, size: int = 8, seed: int = 0) -> LabelledImages:
    """Noise with a bright band whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % NUM_CLASSES
    images = 0.4 * torch.rand(num, 1, size, size, generator=generator)
    for index, label in enumerate(labels.tolist()):
        images[index, 0, 2 * label : 2 * label + 2] += 0.5
    return LabelledImages(images, labels, NUM_CLASSES)


def fresh_model(
    architecture: str = "notebook", *, has_null: bool = True, size: int = 8
) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build_model(
            architecture,
            image_shape=(1, size, size),
            num_classes=NUM_CLASSES,
            has_null=has_null,
            mean=(0.3,),
            std=(0.3,),
        )


def make_case(
    architecture: str,
    recipe: Recipe = RECIPE,
    seed: int = 5,
    *,
    has_nulls: bool = True,
    replace_rate: float | None = None,
) -> Callable[..., tuple[Classifier, list[Any]]]:
    """A training to call: it builds the model anew and returns it with its history."""

    def run(**settings: Any) -> tuple[Classifier, list[Any]]:
        model = fresh_model(architecture, has_null=has_nulls)
        nulls = AdversarialNulls(model, 0.15) if has_nulls else None
        config = TrainConfig(
            recipe, seed, weight_decay=1e-4, null_weight=0.3, replace_rate=replace_rate
        )
        history = train(model, learnable_images(), config, nulls=nulls, **settings)
        return model, history

    return run

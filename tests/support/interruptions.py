"""Calls that are interrupted, and a model so small that they take milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from nullclass.attacks import FGSM, Attack, ensemble
from nullclass.attacks.base import BaseAttack
from nullclass.core import devices
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.scoring import parts, proofs

T = TypeVar("T")
NUM_CLASSES = 3
SPREAD = 5
"""Rank of the margin from one image to the next."""


class InterruptError(Exception):
    """What a test interrupts with."""


def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep also what takes no time, in batches of six images."""
    monkeypatch.setattr(parts, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(devices, "BATCH_SIZE", 6)
    monkeypatch.setattr(proofs, "BATCH_SIZE", 6)
    monkeypatch.setattr("os.fsync", lambda file: None)


def make_model(seed: int = 0, num_outputs: int = NUM_CLASSES + 1) -> Classifier:
    """A random network on 4x4 images."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, num_outputs))
    return Classifier(body, NUM_CLASSES, has_null=num_outputs > NUM_CLASSES, image_shape=(1, 4, 4))


def make_data(model: Classifier) -> LabelledImages:
    """Ten images of different margins; the model is right about all but one."""
    images = torch.rand((1000, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    predicted = model.predict(images)
    images, labels = images[predicted >= 0], predicted[predicted >= 0]
    with torch.no_grad():
        best = model(images)[:, :NUM_CLASSES].topk(2, dim=1).values
    chosen = (best[:, 0] - best[:, 1]).argsort()[: 10 * SPREAD : SPREAD]
    labels = labels[chosen]
    labels[3] = (labels[3] + 1) % NUM_CLASSES
    return LabelledImages(images[chosen], labels, NUM_CLASSES)


class Calls:
    """The attacks called, and the members of ensembles, in order: their classes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._names: list[str] = []
        call, direction, run_on = BaseAttack.__call__, FGSM.direction, ensemble.run_on

        def counted(attack: BaseAttack, *args: Any, **options: Any) -> Tensor:
            self._names.append(type(attack).__name__)
            return call(attack, *args, **options)

        def counted_member(attack: Attack, *args: Any) -> None:
            self._names.append(type(attack).__name__)
            run_on(attack, *args)

        def counted_direction(attack: FGSM, *args: Any, **options: Any) -> Tensor:
            self._names.append("direction")
            return direction(attack, *args, **options)

        monkeypatch.setattr(BaseAttack, "__call__", counted)
        monkeypatch.setattr(ensemble, "run_on", counted_member)
        monkeypatch.setattr(FGSM, "direction", counted_direction)

    def take(self) -> list[str]:
        """Return the calls since the last time."""
        names, self._names = self._names, []
        return names


def stop_at(call: int) -> Callable[[int], None]:
    """Return a progress callback that interrupts at one of its calls."""
    seen = 0

    def on_images(num_images: int) -> None:
        nonlocal seen
        seen += 1
        if seen == call:
            raise InterruptError

    return on_images


def until_done(call: Callable[[Callable[[int], None]], T], every: int = 1) -> tuple[T, int]:
    """Interrupt a call at a later step each time; return the result and how often it happened."""
    for interruption in count():
        with suppress(InterruptError):
            return call(stop_at(1 + every * interruption)), interruption
    raise AssertionError


@contextmanager
def passes(model: nn.Module, stop: int | None = None) -> Iterator[list[int]]:
    """Count the forward passes, and interrupt at one of them."""
    seen: list[int] = []

    def on_forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(len(output))
        if len(seen) == stop:
            raise InterruptError

    hook = model.register_forward_hook(on_forward)
    try:
        yield seen
    finally:
        hook.remove()

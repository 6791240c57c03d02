"""What one prediction costs: passes of the network inside a model, and processor time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.counters import count_passes
from nullclass.core.modules import frozen
from nullclass.models.classifier import Classifier
from nullclass.rejection import ThresholdedClassifier
from nullclass.rejection.fixed import FixedClassifier

NUM_IMAGES = 64
"""Images of the measurement, in one batch."""
NUM_REPEATS = 3


@dataclass(frozen=True)
class PredictionCost:
    """Cost of a prediction, per image."""

    num_forwards: float
    """Forward passes of the network inside; 0 where it is only read, as by bounds."""
    num_backwards: float
    cpu_ms: float
    """Processor time of all threads in milliseconds, the least of three repeats."""


@torch.no_grad()
def prediction_cost(model: Classifier, images: Tensor) -> PredictionCost:
    """Measure predictions of the first images ``(N, C, H, W)`` in [0,1], at least one."""
    images = images[:NUM_IMAGES].to(model.mean.device)
    seconds = []
    with frozen(model):
        with count_passes(network_inside(model)) as passes:
            model(images)
        for _ in range(NUM_REPEATS):
            started = time.process_time()
            model(images)
            seconds.append(time.process_time() - started)
    num = len(images)
    return PredictionCost(passes.forward / num, passes.backward / num, 1000 * min(seconds) / num)


def network_inside(model: Classifier) -> Classifier:
    """Return the classifier that a threshold, a detector or a proof is put around."""
    while isinstance(model, ThresholdedClassifier | FixedClassifier):
        model = model.model
    return model

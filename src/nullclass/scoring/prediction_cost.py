"""What one prediction costs: passes of the network inside a model, and processor time."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from nullclass.attacks.counters import count_passes
from nullclass.core.modules import frozen
from nullclass.models.classifier import Classifier, network_inside
from nullclass.results.info import CostInfo

NUM_IMAGES = 64
"""Images of the measurement, in one batch."""
NUM_REPEATS = 3


@torch.no_grad()
def prediction_cost(model: Classifier, images: Tensor) -> CostInfo:
    """Measure predictions of the first images ``(N, C, H, W)`` in [0,1], at least one.

    The processor time is that of all threads, the least of three repeats.
    """
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
    return CostInfo(passes.forward / num, passes.backward / num, 1000 * min(seconds) / num)

"""What predictions and the stages of a cascade cost: passes of the network, processor time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks.counters import count_passes
from nullclass.certify import STAGES, Settled
from nullclass.core.modules import frozen
from nullclass.models.classifier import Classifier, network_inside
from nullclass.results.info import CostInfo
from nullclass.scoring.batch_size import find_batch_size

NUM_IMAGES = 64
"""Images of the measurement, in one batch; fewer if they are large."""
NUM_REPEATS = 3


@torch.no_grad()
def prediction_cost(model: Classifier, images: Tensor) -> CostInfo:
    """Measure predictions of the first images ``(N, C, H, W)`` in [0,1], at least one.

    The processor time is that of all threads, the least of three repeats.
    """
    num = min(NUM_IMAGES, find_batch_size(model, images[:1]))
    images = images[:num].to(model.mean.device)
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


def stage_table(
    settled: Sequence[Settled], num_images: int, interval_seconds: float
) -> pd.DataFrame:
    """Return one row per stage of a cascade.

    Args:
        settled: What the later stages found out (:func:`nullclass.certify.record_stages`).
        num_images: Images of the first stage.
        interval_seconds: CPU seconds of the first stage, per image.

    Returns:
        Columns ``stage``; ``images`` that got there; ``proved``; ``refuted``, of which a
        counterexample was found; ``left`` for the next stage, or in the end; CPU ``seconds``, of
        branch and bound with those of its first part, the whole ball; their ``median`` and
        ``percentile_99`` per image, of the first stage the mean.
    """
    first = num_images * interval_seconds, interval_seconds, interval_seconds
    rows = [(STAGES[0], num_images, num_images - len(settled), 0, *first)]
    for stage in STAGES[1:]:
        here = [each for each in settled if stage in each.seconds]
        last = [each for each in here if each.stage == stage]
        proved, refuted = sum(e.is_proved for e in last), sum(e.is_refuted for e in last)
        seconds = [each.seconds[stage] for each in here]
        middle, most = np.percentile(seconds or [0.0], [50, 99])
        rows.append((stage, len(here), proved, refuted, sum(seconds), middle, most))
    spent = ["seconds", "median", "percentile_99"]
    table = pd.DataFrame(rows, columns=["stage", "images", "proved", "refuted", *spent])
    table.insert(4, "left", table["images"] - table["proved"] - table["refuted"])
    return table


def settled_rows(rows: pd.DataFrame, settled: Sequence[Settled], radius: float) -> pd.DataFrame:
    """Return one row per image: which stage of a cascade settled it within a radius, and how.

    Args:
        rows: From :func:`nullclass.scoring.proofs.prove`.
        settled: What the later stages found out within the radius.
        radius: In pixel units, as the rows name it.

    Returns:
        Columns ``image``, ``label``, ``prediction`` (-1: null), ``radius``, ``stage``; ``status``:
        ``proved``, ``refuted`` or ``open``; ``num_parts`` of branch and bound; CPU seconds of each
        later stage.
    """
    by_image = {each.index: each for each in settled}
    by_intervals = Settled(radius, STAGES[0], True, False, 0, {})
    found = []
    for image, label, prediction in (
        rows[["image", "label", "prediction"]].drop_duplicates().itertuples(index=False)
    ):
        each = by_image.get(image, by_intervals)
        seconds = (each.seconds.get(stage, 0.0) for stage in STAGES[1:])
        settled_by = each.stage, each.status, each.num_parts
        found.append((image, label, prediction, radius, *settled_by, *seconds))
    names = ["image", "label", "prediction", "radius", "stage", "status", "num_parts"]
    names += [f"{stage.replace('-', '_')}_seconds" for stage in STAGES[1:]]
    return pd.DataFrame(found, columns=names)


def seconds_per_image(
    settled: Sequence[Settled], num_images: int, interval_seconds: float
) -> npt.NDArray[np.float64]:
    """Return the CPU seconds of all stages per image, in no particular order."""
    later = [sum(each.seconds.values()) for each in settled]
    return interval_seconds + np.array(later + [0.0] * (num_images - len(settled)))

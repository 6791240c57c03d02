"""Measurements on the model that red flags need and rows do not contain.

Each probe is one function on a few images and returns JSON values. The images are spread evenly
over the test images, so that data sorted by class do not bias a probe.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd

from nullclass.attacks import Attack
from nullclass.attacks.counters import count_passes
from nullclass.data import LabelledImages
from nullclass.diagnostics import attack_probes, model_probes
from nullclass.diagnostics.evidence import CHECKS_NAME, Evidence
from nullclass.diagnostics.probe_context import ProbeContext, Result
from nullclass.metrics.rates import SELF
from nullclass.models.classifier import Classifier
from nullclass.results.schema import CLEAN, COST_COLUMNS
from nullclass.scoring.score import OnImages, ignore

ProbeLevel = Literal["none", "quick", "full"]
"""Which probes run: none, those of a few passes, or also those that repeat attacks."""

EXPECTED_IMAGES: dict[ProbeLevel, int] = {"none": 0, "quick": 328, "full": 642}
"""Images of all probes together, at most about this."""

QUICK_PROBES: dict[str, Callable[[ProbeContext], Result]] = {
    "forward": model_probes.forward,
    "gradients": model_probes.gradients,
    "noise": model_probes.noise,
}
"""Probes of a few passes."""

ATTACK_PROBES: dict[str, Callable[[ProbeContext], Result]] = {
    "largest_eps": attack_probes.largest_eps,
    "doubling": attack_probes.doubling,
    "rerun": attack_probes.rerun,
    "reference": attack_probes.reference,
}
"""Probes that repeat attacks."""


def probe(
    model: Classifier,
    data: LabelledImages,
    evidence: Evidence,
    attacks: Mapping[str, Attack],
    *,
    level: ProbeLevel = "full",
    seed: int,
    batch_size: int | None = None,
    on_images: OnImages = ignore,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run the probes.

    Args:
        model: The model under test.
        data: The test images.
        evidence: The evaluation's rows, costs and metadata.
        attacks: The attacks of the rows by name; those on other models are ignored.
        level: ``quick`` runs :data:`QUICK_PROBES`, ``full`` also :data:`ATTACK_PROBES`.
        seed: Seed of noise and random starts.
        batch_size: Images per forward and backward pass of an attack.
        on_images: Progress.

    Returns:
        The results: ``has_null`` and one entry per probe, None where it does not apply; without
        the attack probes also ``expected_seconds``, their estimated time. And their costs
        (:data:`nullclass.results.schema.COST_COLUMNS`).
    """
    context = ProbeContext(model, data, evidence, attacks, seed, batch_size)
    results: dict[str, Any] = {"has_null": model.has_null}
    costs = []
    for name, run in {**QUICK_PROBES, **(ATTACK_PROBES if level == "full" else {})}.items():
        started = time.perf_counter()
        with count_passes(model) as passes:
            results[name] = result = run(context)
        num_images = 0 if result is None else int(result["num_images"])
        costs.append(
            {
                "attack": CHECKS_NAME,
                "objective": CLEAN,
                "source": SELF,
                "norm": evidence.norm,
                "eps_pixels": math.nan,
                "access": "white-box",
                "is_iterative": name in ATTACK_PROBES,
                "status": "ran",
                "member": name,
                "num_images": num_images,
                "num_successes": 0,
                "num_forwards": passes.forward,
                "num_backwards": passes.backward,
                "seconds": time.perf_counter() - started,
            }
        )
        on_images(num_images)
    if level != "full":
        results["expected_seconds"] = round(attack_probes.expected_seconds(context), 1)
    return results, pd.DataFrame(costs).astype(COST_COLUMNS)

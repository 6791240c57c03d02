"""A made-up run of the study ``fgsm-null``: outcomes drawn from curves.

``python tests/support/fake_fgsm.py DIR NUM_SEEDS`` writes one to look at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from fake_run import examples_of, trial_folder
from fake_study import group, write_run, write_training, write_trial

from nullclass.results.schema import CLEAN, Flag
from nullclass.studies.fgsm_null.config import FGSM_NULL, TEST_EPS, VARIANTS, WHITE_BOX_EPS, pixels

MODELS = [trial.model for trial in FGSM_NULL.trials("quick", [0], list(VARIANTS))]
PLANS = [
    (CLEAN, CLEAN, 0.0),
    *(("fgsm", "untargeted", pixels(eps)) for eps in TEST_EPS),
    *(("worst-case", "fool", eps) for eps in WHITE_BOX_EPS),
]
"""Attack, objective and ε."""


def write_fake_fgsm(
    folder: Path,
    num_seeds: int = 1,
    *,
    models: Sequence[str] = MODELS,
    num_images: int = 60,
    num_epochs: int = 1,
    flags: Sequence[Flag] = (),
) -> Path:
    """Write a run folder; models of other names are like the first."""
    probes = {"has_null": True} if flags else {}
    for seed in range(num_seeds):
        for number, model in enumerate(models):
            rng = np.random.default_rng([seed, number])
            variant = model if model in MODELS else MODELS[0]
            (trial,) = FGSM_NULL.trials("quick", [seed], [variant])
            trial = replace(trial, training=replace(trial.training, name=model))
            epochs = np.arange(1, num_epochs + 1)
            history = {"epoch": epochs, "loss": 0.15 / epochs, "train_accuracy": 1 - 0.05 / epochs}
            write_training(folder, trial.training, history)
            rows = _rows(model, num_images, rng)
            shown = [
                examples_of(of.head(8), of["label"][:8], rng, of["eps_pixels"][0])
                for of in rows[1:]
            ]
            path = trial_folder(folder, model, seed)
            write_trial(path, trial, rows, shown, flags=list(flags), probes=probes)
    preset = "quick" if num_seeds == 1 else "full"
    return write_run(folder, FGSM_NULL, models, num_seeds, preset=preset)


def _rows(model: str, num_images: int, rng: np.random.Generator) -> list[pd.DataFrame]:
    luck = rng.random(num_images)  # one draw per image: a success at an ε is one at larger ones
    nums = {CLEAN: num_images, "fgsm": num_images // 2, "worst-case": num_images // 4}
    tables = []
    for attack, objective, eps in PLANS:
        num = nums[attack]
        fooled, null = _shares(model, attack, eps)
        edges = [luck[:num] < fooled, luck[:num] < fooled + null]
        outcomes = np.select(edges, ["fooled", "null"], "correct")
        losses = {
            "loss": rng.exponential(0.03 + 10 * fooled, num),
            "null_loss": rng.exponential(1e-7 + 17 * (1 - null), num),
        }
        if not model.startswith("null"):
            losses["null_loss"] = math.nan
        tables.append(group(attack, eps, outcomes, objective=objective, **losses))
    return tables


def _shares(model: str, attack: str, eps: float) -> tuple[float, float]:
    """Shares of fooled and null that look like the study's."""
    if attack == CLEAN:
        return 0.012, 0.0
    has_null = model.startswith("null")
    fooled = 1 / (1 + math.exp(-(eps - 0.1) * 40))
    if attack == "worst-case":
        return fooled, 0.02 * (1 - fooled) * has_null
    start = 0.06 if "0.5" in model else 0.0022
    null = has_null / (1 + (start / eps) ** 9)
    return (1 - null) * 0.8 * fooled, null


if __name__ == "__main__":
    write_fake_fgsm(Path(sys.argv[1]), int(sys.argv[2]), num_images=2_000)

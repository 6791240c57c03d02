"""A made-up run of the study ``provable-null``, with numbers that can be counted by hand.

``python tests/support/fake_provable.py DIR NUM_SEEDS`` writes one to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from fake_study import examples, group, predictions_of, write_run, write_training, write_trial

from nullclass.experiments.config import Trial
from nullclass.results import frames, schema
from nullclass.studies import find_study
from nullclass.studies.provable_null.config import EPS, EPS_PROVED, PROVABLE, VARIANTS

NUM_CLEAN, NUM_ATTACKED, NUM_SHOWN = 200, 40, 40
RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)

# Of 200 clean images: null, evenly spread from the fourth on, and fooled, the last.
CLEAN = {
    "provable-r0.15": (6, 1),
    "provable-r0.2": (10, 1),
    "adversarial-null": (4, 2),
    "abstain": (8, 2),
    "clean": (0, 2),
}
# Of 40 attacked images, from the last: fooled at each eps.
FOOLED = {
    "provable-r0.15": (0, 0, 0, 1),
    "provable-r0.2": (0, 0, 0, 0),
    "adversarial-null": (1, 2, 4, 20),
    "abstain": (1, 2, 3, 12),
    "clean": (20, 39, 40, 40),
}
# Of 200 images, from the last attacked one down and then from the last: not proved never to be
# fooled, at each eps of EPS_PROVED.
UNPROVED = {
    "provable-r0.15": (0, 0, 0, 0, 1, 1, 5, 9, 20, 60),
    "provable-r0.2": (0, 0, 0, 0, 0, 0, 2, 2, 8, 20),
    "adversarial-null": (180, *[200] * 9),
    "abstain": (4, 8, 12, 20, 30, 44, 90, 140, 180, 200),
    "clean": (190, *[200] * 9),
}


def write_fake_provable(
    folder: Path,
    num_seeds: int = 1,
    *,
    models: Sequence[str] = VARIANTS,
    lacking: Iterable[tuple[str, int]] = (),
    has_proofs: bool = True,
    has_radii: bool = True,
    is_broken: bool = False,
) -> Path:
    """Write a run folder.

    Args:
        folder: The run folder.
        num_seeds: Number of seeds; each has one image fooled more than the one before.
        models: Variants of the study.
        lacking: Model and seed of evaluations it lacks.
        has_proofs: Whether there are proofs.
        has_radii: Whether there are results at other radii.
        is_broken: Whether an image of the first model contradicts its proof.
    """
    study, left_out = find_study("provable-null"), set(lacking)
    for trial in study.trials("quick", range(num_seeds), models):
        num = trial.training.recipe.epochs
        epochs = np.arange(1, num + 1)
        losses = {"loss": 0.6 / epochs + 0.1, "train_accuracy": 0.99 - 0.1 * epochs / num}
        history = {"epoch": epochs, **losses, "seconds": 60.0 * (1 + trial.seed)}
        write_training(folder, trial.training, history, last=num)
        if (trial.model, trial.seed) not in left_out:
            path = folder / schema.TRIALS / f"{trial.model}-seed{trial.seed}"
            if has_radii and trial.radius is not None:
                path.mkdir(parents=True, exist_ok=True)
                frames.write_frame(path / schema.RADII, _radii(trial.model))
            breaks = is_broken and trial.model == models[0]
            _write_trial(path, trial, has_proofs, breaks)
    return write_run(folder, study, models, num_seeds)


def _write_trial(path: Path, trial: Trial, has_proofs: bool, breaks: bool) -> None:
    clean = _clean_outcomes(trial.model)
    tables = [group("clean", 0.0, clean)]
    for eps, num in zip(EPS, FOOLED[trial.model], strict=True):
        fooled = min(NUM_ATTACKED, num + (trial.seed if num else 0))
        outcomes = clean[:NUM_ATTACKED].copy()
        outcomes[NUM_ATTACKED - fooled :] = "fooled"
        if breaks and eps > 0.15:
            outcomes[20] = "fooled"
        tables.append(group("worst-case", eps, outcomes))
        if trial.model != "clean":
            forced = np.where(np.arange(NUM_ATTACKED) % 4 == 3, "correct", "null")
            tables.append(group("worst-case-force-null", eps, forced, objective="force-null"))
    for table in tables:
        is_null = table["outcome"] == "null"
        table["null_score"] = np.where(is_null, 0.25, -2.0 + table["eps_pixels"])
    rng = np.random.default_rng([trial.seed, VARIANTS.index(trial.model)])
    shown = NUM_SHOWN if trial.radius is not None else 8
    answers = tables[0]["prediction"][:shown]
    sets = [
        examples(
            table["attack"].iloc[0],
            float(table["eps_pixels"].iloc[0]),
            table["prediction"][:shown],
            rng,
            clean_predictions=answers,
        )
        for table in tables[1:]
    ]
    proofs = {"certified": _certified(trial, clean)} if has_proofs else {}
    write_trial(path, trial, tables, sets, **proofs)


def _clean_outcomes(model: str) -> np.ndarray:
    null, fooled = CLEAN[model]
    outcomes = np.array(["correct"] * NUM_CLEAN, dtype=object)
    if null:
        outcomes[3 :: NUM_CLEAN // null][:null] = "null"
    outcomes[NUM_CLEAN - fooled :] = "fooled"
    return outcomes


def _certified(trial: Trial, clean: np.ndarray) -> pd.DataFrame:
    images = np.arange(NUM_CLEAN)
    rank = (NUM_ATTACKED - 1 - images) % NUM_CLEAN
    tables = []
    for eps, num in zip(EPS_PROVED, UNPROVED[trial.model], strict=True):
        # what is wrong when clean can never be proved
        never = (rank >= num) & (clean != "fooled")
        # force-null succeeds from eps 0.1 on, so only 0.05 may be proved correct
        always = never & (clean == "correct") & (eps < 0.075) & (trial.model in PROVABLE)
        columns = {
            "image": images,
            "label": images % 10,
            "norm": "linf",
            "eps_pixels": eps,
            "verifier": "interval",
            "prediction": predictions_of(clean),
            "margin": np.where(never, 1.0, -1.0),
            "is_correct_proved": always,
            "is_rar_proved": never & (clean == "correct"),
            "is_never_fooled": never,
            "status": np.select([always, never], ["correct", "not-fooled"], "undecided"),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _radii(model: str) -> pd.DataFrame:
    """Of 200 images twice as many null as the radius is in hundredths, and wrong 4 and fewer."""
    tables = []
    for radius in RADII:
        outcomes = np.array(["correct"] * NUM_CLEAN, dtype=object)
        outcomes[: round(200 * radius) // (2 if model == "provable-r0.2" else 1)] = "null"
        outcomes[NUM_CLEAN - max(0, 4 - round(20 * radius)) :] = "fooled"
        columns = {
            "radius": radius,
            "image": np.arange(NUM_CLEAN),
            "prediction": predictions_of(outcomes),
            "outcome": outcomes,
            "margin": np.where(outcomes == "null", -0.5, 1.5),
        }
        tables.append(pd.DataFrame(columns)[list(schema.RADIUS_COLUMNS)])
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    write_fake_provable(Path(sys.argv[1]), int(sys.argv[2]))

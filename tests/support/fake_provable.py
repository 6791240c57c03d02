"""A run of the study ``provable-null`` that nobody trained, to be counted by hand.

``python tests/report/fake_provable.py DIR NUM_SEEDS`` writes one to look at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from fake_probabilities import Unscored
from fake_run import digit

from nullclass.core.files import write_json
from nullclass.experiments.config import Trial
from nullclass.results import frames, schema, store
from nullclass.results.schema import RADII, RADIUS_COLUMNS
from nullclass.studies import find_study
from nullclass.studies.provable_null.config import EPS, EPS_PROVED, PROVABLE, VARIANTS

NUM_CLEAN, NUM_ATTACKED, NUM_SHOWN = 200, 40, 40
RADII_ASKED = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)

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
    data: str = "made up",
) -> Path:
    """Write a run folder.

    Args:
        folder: Where.
        num_seeds: How many seeds; each has one image fooled more than the one before.
        models: Variants of the study.
        lacking: Model and seed of evaluations it lacks.
        has_proofs: Whether something was proved.
        has_radii: Whether other radii were asked.
        is_broken: Whether an image of the first model does what was proved impossible.
        data: Name of the dataset.
    """
    study, left_out = find_study("provable-null"), set(lacking)
    for trial in study.trials("quick", range(num_seeds), models):
        _write_training(folder, trial)
        if (trial.model, trial.seed) not in left_out:
            breaks = is_broken and trial.model == models[0]
            _write_trial(folder, trial, has_proofs, has_radii, breaks)
    write_json(
        folder / schema.RUN,
        {
            "study": study.name,
            "preset": "quick",
            "models": list(models),
            "seeds": list(range(num_seeds)),
            "selections": ["last"],
            "settings": {"attacks": [], "trainings": {}},
            "data": {"name": data, "num_training_images": 60_000},
            "versions": {"torch": "2.13.0"},
            "started": "2030-01-02T03:04:05+00:00",
        },
    )
    store.write_summary(folder, study.name, study.published)
    return folder


def _write_training(folder: Path, trial: Trial) -> None:
    place = folder / schema.MODELS / f"{trial.model}-seed{trial.seed}"
    num = trial.training.recipe.epochs
    epochs = np.arange(1, num + 1)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "loss": 0.6 / epochs + 0.1,
            "null_loss": math.nan,
            "train_accuracy": 0.99 - 0.1 * epochs / num,
            "validation_accuracy": math.nan,
            "seconds": 60.0 * (1 + trial.seed),
        }
    )
    frames.write_frame(place / schema.HISTORY, history)
    store.finalize(place, {"config": asdict(trial.training), "epochs": {"last": num}})


def _write_trial(
    folder: Path, trial: Trial, has_proofs: bool, has_radii: bool, breaks: bool
) -> None:
    model = trial.model
    place = folder / schema.TRIALS / f"{model}-seed{trial.seed}"
    clean = _clean_outcomes(model)
    tables = [_rows("clean", "clean", 0.0, clean)]
    for eps, num in zip(EPS, FOOLED[model], strict=True):
        fooled = min(NUM_ATTACKED, num + (trial.seed if num else 0))
        outcomes = np.where(clean[:NUM_ATTACKED] == "correct", "correct", clean[:NUM_ATTACKED])
        outcomes[NUM_ATTACKED - fooled :] = "fooled"
        tables.append(_rows("worst-case", "fool", eps, outcomes))
        if model != "clean":
            denied = np.where(np.arange(NUM_ATTACKED) % 4 == 3, "correct", "null")
            tables.append(_rows("pgd-force-null", "force-null", eps, denied))
    rows = pd.concat(tables, ignore_index=True)
    nothing = pd.DataFrame(columns=list(schema.CERTIFIED_COLUMNS))
    certified = _certified(trial, clean) if has_proofs else nothing
    if breaks:
        at = (rows["attack"] == "worst-case") & (rows["image"] == 20) & (rows["eps_pixels"] > 0.15)
        rows.loc[at, "outcome"] = "fooled"
        rows.loc[at, "prediction"] = (rows.loc[at, "label"] + 1) % 10
    if has_radii and trial.radius is not None:
        place.mkdir(parents=True, exist_ok=True)
        frames.write_frame(place / RADII, _radii(model))
    rng = np.random.default_rng([trial.seed, VARIANTS.index(model)])
    Unscored(
        rows=rows,
        costs=pd.DataFrame(columns=list(schema.COST_COLUMNS)),
        examples=_examples(trial, rows, rng),
        held_out=pd.DataFrame(columns=list(schema.ROW_COLUMNS)),
        ood=pd.DataFrame(columns=list(schema.OOD_COLUMNS)),
        certified=certified,
        threat={},
        probes={},
        flags=[],
    ).write(
        place,
        {
            "model": model,
            "seed": trial.seed,
            "selection": trial.selection,
            "config": asdict(trial),
            "trained_in": f"{schema.MODELS}/{model}-seed{trial.seed}",
        },
    )


def _clean_outcomes(model: str) -> np.ndarray:
    null, fooled = CLEAN[model]
    outcomes = np.array(["correct"] * NUM_CLEAN, dtype=object)
    if null:
        outcomes[3 :: NUM_CLEAN // null][:null] = "null"
    outcomes[NUM_CLEAN - fooled :] = "fooled"
    return outcomes


def _rows(attack: str, objective: str, eps: float, outcomes: np.ndarray) -> pd.DataFrame:
    num = len(outcomes)
    labels = np.arange(num) % 10
    predicted = np.select(
        [outcomes == "null", outcomes == "fooled"], [np.full(num, -1), (labels + 1) % 10], labels
    )
    return pd.DataFrame(
        {
            "image": np.arange(num),
            "label": labels,
            "attack": attack,
            "objective": objective,
            "source": "clean" if attack == "clean" else "self",
            "norm": "linf",
            "has_own_eps": False,
            "eps_pixels": eps,
            "member": "clean" if attack == "clean" else "no-success",
            "prediction": predicted,
            "outcome": outcomes,
            "confidence": 0.9,
            "loss": 0.5,
            "null_loss": 2.0,
            "real_prediction": np.where(predicted < 0, labels, predicted),
            "null_score": np.where(predicted < 0, 0.25, -2.0 + eps),
        }
    )


def _certified(trial: Trial, clean: np.ndarray) -> pd.DataFrame:
    labels = np.arange(NUM_CLEAN) % 10
    predicted = np.select(
        [clean == "null", clean == "fooled"], [np.full(NUM_CLEAN, -1), (labels + 1) % 10], labels
    )
    rank = (NUM_ATTACKED - 1 - np.arange(NUM_CLEAN)) % NUM_CLEAN
    tables = []
    for eps, num in zip(EPS_PROVED, UNPROVED[trial.model], strict=True):
        # What is answered wrongly when clean can never be proved.
        never = (rank >= num) & (clean != "fooled")
        always = never & (clean == "correct") & (eps < 0.075) & (trial.model in PROVABLE)
        tables.append(
            pd.DataFrame(
                {
                    "image": np.arange(NUM_CLEAN),
                    "label": labels,
                    "norm": "linf",
                    "eps_pixels": eps,
                    "verifier": "interval",
                    "prediction": predicted,
                    "margin": np.where(never, 1.0, -1.0),
                    # pgd-force-null makes images null from eps 0.1 on: 0.05 may be always right
                    "is_correct_proved": always,
                    "is_rar_proved": never & (clean == "correct"),
                    "is_never_fooled": never,
                    "status": np.where(
                        always, "correct", np.where(never, "not-fooled", "undecided")
                    ),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _radii(model: str) -> pd.DataFrame:
    """Of 200 images twice as many null as the radius is in hundredths, and wrong 4 and fewer."""
    tables = []
    for radius in RADII_ASKED:
        outcomes = np.array(["correct"] * NUM_CLEAN, dtype=object)
        null = round(200 * radius) // (2 if model == "provable-r0.2" else 1)
        outcomes[:null] = "null"
        outcomes[NUM_CLEAN - max(0, 4 - round(20 * radius)) :] = "fooled"
        labels = np.arange(NUM_CLEAN) % 10
        table = pd.DataFrame(
            {
                "radius": radius,
                "image": np.arange(NUM_CLEAN),
                "prediction": np.select(
                    [outcomes == "null", outcomes == "fooled"],
                    [np.full(NUM_CLEAN, -1), (labels + 1) % 10],
                    labels,
                ),
                "outcome": outcomes,
                "margin": np.where(outcomes == "null", -0.5, 1.5),
            }
        )
        tables.append(table[list(RADIUS_COLUMNS)])
    return pd.concat(tables, ignore_index=True)


def _examples(trial: Trial, rows: pd.DataFrame, rng: np.random.Generator) -> list[schema.Examples]:
    sets = []
    labels = [n % 10 for n in range(NUM_SHOWN)]
    pictures = np.stack([digit(label, rng) for label in labels])
    clean = rows[rows["attack"] == "clean"].set_index("image")["prediction"]
    attacked = rows[rows["attack"] != "clean"]
    for (attack, told), of in attacked.groupby(["attack", "eps_pixels"]):
        eps = float(str(told))
        num = min(NUM_SHOWN if trial.radius is not None else 8, len(of))
        noise = np.sign(rng.normal(size=pictures[:num].shape)).astype(np.float32)
        sets.append(
            schema.Examples(
                attack=str(attack),
                norm="linf",
                eps_pixels=eps,
                budgets=[eps] * num,
                labels=labels[:num],
                clean_predictions=clean.loc[: num - 1].tolist(),
                clean_confidences=[0.9] * num,
                predictions=of.set_index("image")["prediction"].loc[: num - 1].tolist(),
                confidences=[0.8] * num,
                clean=pictures[:num],
                adv_images=(pictures[:num] + np.float32(eps) * noise).clip(0, 1),
            )
        )
    return sets


if __name__ == "__main__":
    write_fake_provable(Path(sys.argv[1]), int(sys.argv[2]))

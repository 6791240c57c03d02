"""A run of the study ``null-samples`` that nobody trained, small enough to count by hand.

``python tests/report/fake_samples.py DIR NUM_SETS`` writes one to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from fake_run import build_evaluation, digit

from nullclass.core.files import write_json
from nullclass.results import frames, schema, store
from nullclass.studies import find_study
from nullclass.studies.null_samples.config import VARIANTS, WHITE_BOX_AT_THRESHOLD

NUM_CLEAN, NUM_ATTACKED, NUM_WHITE_BOX, NUM_SHOWN = 50, 20, 10, 30
CURVE_EPS = (0.0, 0.08, 0.2, 0.5, 0.8, 1.0)
WHITE_BOX_EPS = (0.1, 0.3)

# correct, null and fooled of 20 images at threshold: in even sets, in odd ones
AT_THRESHOLD = {
    "base": ((0, 0, 20), (0, 0, 20)),
    "u": ((15, 1, 4), (15, 0, 5)),
    "s": ((12, 6, 2), (10, 8, 2)),
    "m": ((2, 14, 4), (2, 14, 4)),
}
OTHERS = ((2, 18, 0), (1, 18, 1))
# of 10 images, white-box
WHITE_BOX = ((1, 0, 9), (2, 0, 8))


def write_fake_samples(
    folder: Path,
    num_sets: int = 2,
    *,
    models: Sequence[str] = VARIANTS,
    lacking: Iterable[tuple[str, int, str]] = (),
) -> Path:
    """Write a run folder; model, set and selection of evaluations it lacks may be given."""
    study, left_out = find_study("null-samples"), set(lacking)
    for seed in range(num_sets):
        for model in models:
            trained_in = f"{schema.MODELS}/{model}-seed{seed}"
            number = VARIANTS.index(model)
            history = _history(np.random.default_rng([seed, number]))
            frames.write_frame(folder / trained_in / schema.HISTORY, history)
            # the odd sets keep another epoch when they choose on held-out images
            epochs = {"test": 3, "held-out": 3 - seed % 2}
            store.finalize(folder / trained_in, {"epochs": epochs})
            for selection in ("test", "held-out"):
                if (model, seed, selection) in left_out:
                    continue
                place = folder / schema.TRIALS / f"{model}-seed{seed}-{selection}"
                rng = np.random.default_rng([seed, number, selection == "test"])
                if model == "base":
                    frames.write_frame(place / schema.THRESHOLDS, _thresholds(rng))
                build_evaluation(_rows(model, seed, selection), _examples(model, rng)).write(
                    place,
                    {
                        "model": model,
                        "seed": seed,
                        "selection": selection,
                        "trained_in": trained_in,
                    },
                )
    store.write_summary(folder, study.name, study.published)
    write_json(
        folder / schema.RUN,
        {
            "study": study.name,
            "preset": "full",
            "models": list(models),
            "seeds": list(range(num_sets)),
            "selections": ["test", "held-out"],
            "settings": {
                "trainings": {name: {"recipe": RECIPE} for name in models},
                "attacks": [],
            },
            "data": {"name": "made up", "num_training_images": 55_000},
            "started": "2030-01-02T03:04:05+00:00",
        },
    )
    return folder


RECIPE = {"batch_size": 32, "epochs": 20, "schedule": "constant"}


def _rows(model: str, seed: int, selection: str) -> pd.DataFrame:
    """Rows with the counts above; selected on held-out images one image more is fooled."""
    odd = seed % 2
    correct, null, fooled = AT_THRESHOLD.get(model, OTHERS)[odd]
    if selection == "held-out" and model != "base":
        correct, fooled = correct - 1, fooled + 1
    source_name = "self" if model == "base" else "base"
    clean = (49 - odd, 0, 1 + odd)
    tables = [_group("clean", "clean", "clean", 0.0, clean)]
    own = np.linspace(0.05, 0.4, NUM_ATTACKED)
    tables.append(_group("fgsm-threshold", "untargeted", source_name, own, (correct, null, fooled)))
    if selection == "test":
        for place, eps in enumerate(CURVE_EPS):
            share = round(place / (len(CURVE_EPS) - 1) * NUM_ATTACKED)
            counts = (NUM_ATTACKED - share, 0, share)
            if model != "base":
                counts = (NUM_ATTACKED - share, share, 0)
            tables.append(_group("fgsm", "untargeted", source_name, eps, counts))
        counts = WHITE_BOX[odd]
        own = own[:NUM_WHITE_BOX]
        tables.append(_group(WHITE_BOX_AT_THRESHOLD, "fool", "self", own, counts))
        for eps in WHITE_BOX_EPS:
            counts = (5, 0, 5) if eps < 0.2 else WHITE_BOX[odd]
            tables.append(_group("worst-case", "fool", "self", eps, counts))
    return pd.concat(tables, ignore_index=True)


def _group(
    attack: str, objective: str, source_name: str, eps: float | np.ndarray, counts: Sequence[int]
) -> pd.DataFrame:
    outcomes = np.repeat(["correct", "null", "fooled"], counts)
    num = len(outcomes)
    labels = np.arange(num) % 10
    predicted = {"correct": labels, "null": np.full(num, -1), "fooled": (labels + 1) % 10}
    return pd.DataFrame(
        {
            "image": np.arange(num),
            "label": labels,
            "attack": attack,
            "objective": objective,
            "source": source_name,
            "norm": "linf",
            "has_own_eps": isinstance(eps, np.ndarray),
            "eps_pixels": eps,
            "member": "clean" if attack == "clean" else "no-success",
            "prediction": np.select(
                [outcomes == word for word in predicted], list(predicted.values())
            ),
            "outcome": outcomes,
            "confidence": 0.9,
            "loss": 0.5,
            "null_loss": 2.0,
            "real_prediction": np.where(outcomes == "fooled", predicted["fooled"], labels),
            "null_score": np.where(outcomes == "null", 1.0, -1.0),
        }
    )


def _thresholds(rng: np.random.Generator) -> pd.DataFrame:
    thresholds = rng.beta(3, 10, NUM_ATTACKED)
    return pd.DataFrame({"image": np.arange(NUM_ATTACKED), "threshold": thresholds})


def _history(rng: np.random.Generator) -> pd.DataFrame:
    epochs = np.arange(1, 4)
    columns = ("loss", "test_loss", "held-out_loss")
    losses = {column: 0.3 / epochs * rng.uniform(0.8, 1.2, 3) for column in columns}
    rates = {"train_accuracy": 1 - 0.05 / epochs, "validation_accuracy": np.nan}
    return pd.DataFrame({"epoch": epochs, "null_loss": 0.1, **losses, **rates, "seconds": 9.0})


def _examples(model: str, rng: np.random.Generator) -> list[schema.Examples]:
    labels = [number % 10 for number in range(NUM_SHOWN)]
    clean = np.stack([digit(label, rng) for label in labels])
    noise = np.sign(rng.normal(size=clean.shape)).astype(np.float32)
    sets = []
    attacks = ["fgsm-threshold", *(["fgsm-1.5-thresholds"] if model == "base" else [])]
    for attack in attacks:
        answers = [
            (label + 1) % 10 if model == "base" else (label, -1, (label + 1) % 10)[number % 3]
            for number, label in enumerate(labels)
        ]
        sets.append(
            schema.Examples(
                attack=attack,
                norm="linf",
                eps_pixels=float("nan"),
                budgets=[0.2] * NUM_SHOWN,
                labels=labels,
                clean_predictions=labels,
                clean_confidences=[0.99] * NUM_SHOWN,
                predictions=answers,
                confidences=[float(c) for c in rng.uniform(0.3, 1, NUM_SHOWN)],
                clean=clean,
                adv_images=(clean + np.float32(0.2) * noise).clip(0, 1),
            )
        )
    return sets


if __name__ == "__main__":
    write_fake_samples(Path(sys.argv[1]), int(sys.argv[2]))

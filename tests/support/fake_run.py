"""A plausible run that nobody trained: rows drawn from curves, written by
``nullclass.results.store``.

``python tests/report/fake_run.py DIR NUM_SEEDS`` writes one to look at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nullclass.core.files import write_json
from nullclass.evaluation.result import Evaluation
from nullclass.results import frames, schema, store
from nullclass.results.schema import Flag
from nullclass.studies import find_study
from nullclass.studies.fgsm_null.config import PIXEL, TEST_EPS, VARIANTS, WHITE_BOX_EPS, pixels

MODELS = [variant.name for variant in VARIANTS]
OUTCOMES = np.array(["correct", "null", "fooled"])


def write_fake_run(
    folder: Path,
    num_seeds: int = 1,
    *,
    models: list[str] = MODELS,
    num_images: int = 200,
    num_attacked: int = 100,
    num_epochs: int = 1,
    study: str = "fgsm-null",
    flags: Sequence[Flag] = (),
) -> Path:
    """Write a run folder of made-up results; the same arguments give the same run."""
    for seed in range(num_seeds):
        for number, model in enumerate(models):
            rng = np.random.default_rng([seed, number])
            labels = rng.integers(0, 10, num_images)
            rows = _rows(model, labels, num_attacked, rng)
            trained_in = f"{schema.MODELS}/{model}-seed{seed}"
            history = _history(model, num_epochs, rng)
            frames.write_frame(folder / trained_in / schema.HISTORY, history)
            build_evaluation(rows, _examples(model, labels, rng), flags=flags).write(
                store.trial_folder(folder, model, seed),
                {"model": model, "seed": seed, "trained_in": trained_in},
            )
    published = {} if study == "evaluate" else {"published": find_study(study).published}
    store.write_summary(folder, study, **published)
    write_json(folder / schema.RUN, _info(study, models, num_seeds, num_images))
    return folder


def build_evaluation(
    rows: pd.DataFrame,
    examples: list[schema.Examples],
    *,
    flags: Sequence[Flag] = (),
    costs: pd.DataFrame | None = None,
) -> Evaluation:
    """Rows and images as an evaluation hands them over; nobody asked the model unless flagged."""
    return Evaluation(
        rows=rows,
        costs=pd.DataFrame(columns=list(schema.COST_COLUMNS)) if costs is None else costs,
        examples=examples,
        held_out=pd.DataFrame(columns=list(schema.ROW_COLUMNS)),
        ood=pd.DataFrame(columns=list(schema.OOD_COLUMNS)),
        threat={},
        probes={"has_null": True} if flags else {},
        flags=list(flags),
    )


def with_files(trial: store.Trial, **contents: Any) -> store.Trial:
    """A copy of a trial whose files hold something else."""
    copy = replace(trial)
    copy.__dict__.update(contents)  # where cached_property keeps what it read
    return copy


def _curves(model: str, attack: str, eps: float) -> tuple[float, float, float]:
    """Shares of correct, null and fooled that look like the study's."""
    has_null = model.startswith("null")
    if attack == "clean":
        return 0.988, 0.0, 0.012
    fooled = 1 / (1 + math.exp(-(eps - 0.1) * 40))
    if attack == "worst-case":
        return (1 - fooled) * 0.98, 0.02 * (1 - fooled) * has_null, fooled
    null = 0.0
    if has_null:
        start = 0.06 if "0.5" in model else 0.0022
        null = 1 / (1 + (start / eps) ** 9)
    return (1 - null) * (1 - 0.8 * fooled), null, (1 - null) * 0.8 * fooled


def _rows(
    model: str, labels: np.ndarray, num_attacked: int, rng: np.random.Generator
) -> pd.DataFrame:
    has_null = model.startswith("null")
    plans = [("clean", "clean", 0.0, len(labels))]
    plans += [("fgsm", "untargeted", pixels(eps), num_attacked) for eps in TEST_EPS]
    plans += [("worst-case", "fool", eps, num_attacked // 2) for eps in WHITE_BOX_EPS]
    luck = rng.random(len(labels))  # one draw an image: what falls at an eps falls at larger ones
    tables = []
    for attack, objective, eps, num in plans:
        correct, null, fooled = _curves(model, attack, eps)
        shares = np.array([fooled, null, max(0.0, correct)])
        edges = np.cumsum(shares / shares.sum())
        outcome = OUTCOMES[::-1][np.searchsorted(edges, luck[:num]).clip(0, 2)]
        predicted = np.where(
            outcome == "correct",
            labels[:num],
            np.where(outcome == "null", -1, (labels[:num] + 1) % 10),
        )
        tables.append(
            pd.DataFrame(
                {
                    "image": np.arange(num),
                    "label": labels[:num],
                    "attack": attack,
                    "objective": objective,
                    "source": "clean" if attack == "clean" else "self",
                    "norm": "linf",
                    "has_own_eps": False,
                    "eps_pixels": eps,
                    "member": "clean" if attack == "clean" else "no-success",
                    "prediction": predicted,
                    "outcome": outcome,
                    "confidence": rng.uniform(0.6, 1, num),
                    "loss": rng.exponential(0.03 + 10 * max(0, fooled - 0.011), num),
                    "null_loss": rng.exponential(1e-7 + 17 * (1 - null), num)
                    if has_null
                    else math.nan,
                    "real_prediction": np.where(predicted < 0, labels[:num], predicted),
                    "null_score": np.where(predicted < 0, 1, -1) * rng.exponential(5, num),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _history(model: str, num_epochs: int, rng: np.random.Generator) -> pd.DataFrame:
    epochs = np.arange(1, num_epochs + 1)
    noise = rng.uniform(0.9, 1.1, num_epochs)
    null_loss = (1.7 if "0.01" in model else 0.02) / epochs**1.5 * noise
    return pd.DataFrame(
        {
            "epoch": epochs,
            "loss": 0.15 / epochs * noise,
            "null_loss": null_loss if model.startswith("null") else math.nan,
            "train_accuracy": 1 - 0.045 / epochs * noise,
            "validation_accuracy": math.nan,
            "seconds": 10.0,
        }
    )


def digit(label: int, rng: np.random.Generator) -> np.ndarray:
    """Something like a handwritten digit: a bright stroke on black."""
    image = np.zeros((1, 28, 28), np.float32)
    for t in np.linspace(0, 1, 60):
        angle = (label + 1) * math.pi * t
        y, x = 14 + 8 * math.sin(angle) * (1 - t / 2), 14 + 8 * math.cos(angle + label)
        image[0, int(y) : int(y) + 2, int(x) : int(x) + 2] = rng.uniform(0.7, 1)
    return image


def _examples(model: str, labels: np.ndarray, rng: np.random.Generator) -> list[schema.Examples]:
    clean = np.stack([digit(int(label), rng) for label in labels[:8]])
    sets = []
    budgets = [("fgsm", pixels(eps)) for eps in TEST_EPS]
    for attack, eps in [*budgets, *(("worst-case", eps) for eps in WHITE_BOX_EPS)]:
        sign = np.sign(rng.normal(size=clean.shape)).astype(np.float32)
        shares = np.array(_curves(model, attack, eps))
        kinds = rng.choice(3, size=8, p=shares / shares.sum())
        told = [
            int(label) if kind == 0 else -1 if kind == 1 else (int(label) + 1) % 10
            for label, kind in zip(labels[:8], kinds, strict=True)
        ]
        sets.append(
            schema.Examples(
                attack=attack,
                norm="linf",
                eps_pixels=eps,
                budgets=[eps] * 8,
                labels=[int(label) for label in labels[:8]],
                clean_predictions=[int(label) for label in labels[:8]],
                clean_confidences=[float(c) for c in rng.uniform(0.9, 1, 8)],
                predictions=told,
                confidences=[float(c) for c in rng.uniform(0.5, 1, 8)],
                clean=clean,
                adv_images=(clean + np.float32(eps) * sign).clip(0, 1),
            )
        )
    return sets


def _info(study: str, models: list[str], num_seeds: int, num_images: int) -> dict[str, Any]:
    return {
        "study": study,
        "preset": "quick" if num_seeds == 1 else "full",
        "models": models,
        "seeds": list(range(num_seeds)),
        "settings": {
            "recipe": {"batch_size": 64, "epochs": 1, "learning_rate": 0.004},
            "attacks": [
                {"attack": "fgsm", "eps": [pixels(eps) for eps in TEST_EPS], "settings": {}},
                {
                    "attack": "worst-case",
                    "eps": list(WHITE_BOX_EPS),
                    "settings": {},
                },
            ],
            **({"pixel_per_notebook_eps": PIXEL} if study == "fgsm-null" else {}),
        },
        "data": {
            "name": "made up",
            "checksum": "0" * 64,
            "source": "tests/report/fake_run.py",
            "num_test_images": num_images,
        },
        "versions": {"nullclass": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "commit": "f" * 40,
        "machine": {"system": "Linux", "processor": "a processor", "num_cores": 2},
        "device": "cpu",
        "started": "2030-01-02T03:04:05+00:00",
        "seconds": 300.5,
    }


if __name__ == "__main__":
    write_fake_run(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        num_images=10_000,
        num_attacked=2_000 if sys.argv[2] == "1" else 10_000,
        num_epochs=1 if sys.argv[2] == "1" else 5,
    )

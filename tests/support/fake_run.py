"""A plausible run without training: rows drawn from curves, written by the store.

``python tests/support/fake_run.py DIR NUM_SEEDS`` writes one to look at.
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
from nullclass.results.schema import CLEAN, NO_MEMBER, Flag
from nullclass.studies import find_study
from nullclass.studies.fgsm_null.config import PIXEL, TEST_EPS, VARIANTS, WHITE_BOX_EPS, pixels

MODELS = list(VARIANTS)
BUDGETS = [
    *(("fgsm", "untargeted", pixels(eps)) for eps in TEST_EPS),
    *(("worst-case", "fool", eps) for eps in WHITE_BOX_EPS),
]
"""Attack, objective and ε."""


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
    """An evaluation with these rows and images; it has probes only if it has flags."""
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
    """A copy of a trial whose files have other contents."""
    copy = replace(trial)
    copy.__dict__.update(contents)  # where cached_property stores what it read
    return copy


def rows_table(labels: np.ndarray, predicted: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Rows of one attack (:data:`nullclass.results.schema.ROW_COLUMNS`).

    Args:
        labels: ``(N,)`` true classes.
        predicted: ``(N,)`` predictions, -1 for null.
        columns: The other columns, of those that have no default.
    """
    outcome = np.where(predicted == labels, "correct", np.where(predicted < 0, "null", "fooled"))
    defaults = {
        "image": np.arange(len(labels)),
        "label": labels,
        "attack": CLEAN,
        "objective": CLEAN,
        "source": CLEAN if columns.get("attack", CLEAN) == CLEAN else "self",
        "norm": "linf",
        "has_own_eps": False,
        "eps_pixels": 0.0,
        "member": CLEAN if columns.get("attack", CLEAN) == CLEAN else NO_MEMBER,
        "prediction": predicted,
        "outcome": outcome,
        "confidence": 0.9,
        "loss": 0.1,
        "null_loss": 2.0,
        "real_prediction": np.where(predicted < 0, labels, predicted),
        "null_score": -1.0,
    }
    return pd.DataFrame(defaults | columns)[list(schema.ROW_COLUMNS)]


def _curves(model: str, attack: str, eps: float) -> tuple[float, float, float]:
    """Shares of correct, null and fooled that look like the study's."""
    has_null = model.startswith("null")
    if attack == CLEAN:
        return 0.988, 0.0, 0.012
    fooled = 1 / (1 + math.exp(-(eps - 0.1) * 40))
    if attack == "worst-case":
        return (1 - fooled) * 0.98, 0.02 * (1 - fooled) * has_null, fooled
    start = 0.06 if "0.5" in model else 0.0022
    null = 1 / (1 + (start / eps) ** 9) if has_null else 0.0
    return (1 - null) * (1 - 0.8 * fooled), null, (1 - null) * 0.8 * fooled


def _rows(
    model: str, labels: np.ndarray, num_attacked: int, rng: np.random.Generator
) -> pd.DataFrame:
    luck = rng.random(len(labels))  # one draw per image: a success at an ε is one at larger ones
    nums = {CLEAN: len(labels), "fgsm": num_attacked, "worst-case": num_attacked // 2}
    tables = []
    for attack, objective, eps in [(CLEAN, CLEAN, 0.0), *BUDGETS]:
        num = nums[attack]
        correct, null, fooled = _curves(model, attack, eps)
        edges = np.cumsum([fooled, null, max(0.0, correct)]) / (fooled + null + max(0.0, correct))
        kind = np.searchsorted(edges, luck[:num])
        wrong = (labels[:num] + 1) % 10
        predicted = np.where(kind == 0, wrong, np.where(kind == 1, -1, labels[:num]))
        tables.append(
            rows_table(
                labels[:num],
                predicted,
                attack=attack,
                objective=objective,
                eps_pixels=eps,
                confidence=rng.uniform(0.6, 1, num),
                loss=rng.exponential(0.03 + 10 * max(0, fooled - 0.011), num),
                null_loss=rng.exponential(1e-7 + 17 * (1 - null), num)
                if model.startswith("null")
                else math.nan,
                null_score=np.where(predicted < 0, 1, -1) * rng.exponential(5, num),
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


def examples_of(
    rows: pd.DataFrame, clean_predictions: np.ndarray, rng: np.random.Generator, eps: float
) -> schema.Examples:
    """Example images of some rows of one attack; every pixel changes by the row's ε."""
    clean = np.stack([digit(int(label) % 10, rng) for label in rows["label"]])
    sign = np.sign(rng.normal(size=clean.shape)).astype(np.float32)
    step = rows["eps_pixels"].to_numpy(np.float32)[:, None, None, None]
    return schema.Examples(
        attack=str(rows["attack"].iloc[0]),
        norm=str(rows["norm"].iloc[0]),
        eps_pixels=eps,
        budgets=[float(size) for size in rows["eps_pixels"]],
        labels=[int(label) for label in rows["label"]],
        clean_predictions=[int(answer) for answer in clean_predictions],
        clean_confidences=[0.95] * len(rows),
        predictions=[int(answer) for answer in rows["prediction"]],
        confidences=[0.7] * len(rows),
        clean=clean,
        adv_images=(clean + step * sign).clip(0, 1),
    )


def _examples(model: str, labels: np.ndarray, rng: np.random.Generator) -> list[schema.Examples]:
    labels = labels[:8]
    sets = []
    for attack, objective, eps in BUDGETS:
        shares = np.array(_curves(model, attack, eps))
        kinds = rng.choice(3, size=8, p=shares / shares.sum())
        predicted = np.choose(kinds, [labels, np.full(8, -1), (labels + 1) % 10])
        rows = rows_table(labels, predicted, attack=attack, objective=objective, eps_pixels=eps)
        sets.append(examples_of(rows, labels, rng, eps))
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
                {"attack": "worst-case", "eps": list(WHITE_BOX_EPS), "settings": {}},
            ],
            **({"pixel_per_notebook_eps": PIXEL} if study == "fgsm-null" else {}),
        },
        "data": {"name": "made up", "checksum": "0" * 64, "num_test_images": num_images},
        "versions": {"nullclass": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "commit": "f" * 40,
        "machine": {"system": "Linux", "processor": "a processor", "num_cores": 2},
        "device": "cpu",
        "started": "2030-01-02T03:04:05+00:00",
        "seconds": 300.5,
    }


if __name__ == "__main__":
    is_one = sys.argv[2] == "1"
    write_fake_run(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        num_images=10_000,
        num_attacked=2_000 if is_one else 10_000,
        num_epochs=1 if is_one else 5,
    )

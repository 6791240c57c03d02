"""A study of three tiny models that still has everything: transfers, thresholds, selections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nullclass.data import Dataset, load_dataset
from nullclass.experiments.config import AttackPlan, NullPlan, ThresholdPlan, Training, Trial
from nullclass.experiments.engines import DataSource
from nullclass.experiments.engines.serial import SerialEngine
from nullclass.experiments.runner import RunResult, plan_trials, run_study
from nullclass.experiments.study import Preset, Study
from nullclass.results import schema
from nullclass.training.recipes import Recipe

VALIDATION = 16
CPU = torch.device("cpu")


def trials(preset: Preset, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    """``base`` searches the images that all are attacked on; ``grown`` starts from its weights."""
    planned = []
    for seed in seeds:
        base = Training(
            name="base",
            architecture="small",
            dataset="letters",
            validation=VALIDATION,
            seed=seed,
            weight_decay=0.0,
            nulls=None,
            recipe=Recipe(batch_size=16, epochs=5, learning_rate=3e-3),
        )
        nulls = NullPlan("uniform", {}, replace_rate=0.3)
        grown = Training(**vars(base) | {"name": "grown", "nulls": nulls, "start": base})
        noisy = Training(
            **vars(base)
            | {
                "name": "noisy",
                "architecture": "report",
                "nulls": nulls,
                "selections": ("test", "held-out"),
            }
        )
        at_threshold = AttackPlan("fgsm", (), 4, label="at-threshold", num_examples=2)
        beyond = AttackPlan("fgsm", (), 4, label="beyond", factor=1.5)
        transfer = AttackPlan("fgsm", (), 4, label="at-threshold", is_transfer=True, num_examples=2)
        grid = AttackPlan("fgsm", (0.05, 0.2), 3, is_transfer=True)
        pgd = AttackPlan("pgd", (0.1,), 3, settings={"num_steps": 2})
        source = Trial(base, (at_threshold, beyond), 20, thresholds=ThresholdPlan(30, 4))
        every = {
            "base": source,
            "grown": Trial(grown, (transfer, grid), 20, source=source),
            "noisy": Trial(noisy, (transfer, pgd), 40, selection="test", source=source),
        }
        planned += [every[name] for name in every if name in variants]
    return planned


TINY = Study(
    name="tiny",
    claim="It runs.",
    dataset="letters",
    validation=VALIDATION,
    variants=("base", "grown", "noisy"),
    num_seeds={"quick": 2, "full": 2},
    trials=trials,
    published=lambda model, attack, eps, metric: 0.5 if metric == "correct_rate" else None,
)
NUM_JOBS = 12


def source_of(folder: Path) -> DataSource:
    return DataSource(str(folder), VALIDATION)


def load(folder: Path) -> Dataset:
    return load_dataset(folder, validation=VALIDATION, progress=lambda _: None)


def run_here(
    dataset: Dataset,
    out: Path,
    preset: Preset = "quick",
    *,
    trials: Sequence[Trial] | None = None,
    **chosen: Any,
) -> RunResult:
    """Run the tiny study, or chosen seeds and variants of it, in this process, on one thread."""
    with one_thread():
        trials = plan_trials(TINY, preset, **chosen) if trials is None else trials
        engine = SerialEngine(dataset, CPU)
        return run_study(
            TINY, dataset, out, engine=engine, device=CPU, preset=preset, trials=trials
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """The same sums every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def results(out: Path) -> dict[str, bytes]:
    """All bytes that must not depend on interruptions."""
    names = {schema.ROWS, schema.THRESHOLDS, "model.safetensors", schema.SUMMARY}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.name in names
    }


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

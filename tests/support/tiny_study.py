"""A study of four tiny models that still has everything: transfers, thresholds, selections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nullclass.data import Dataset, load_dataset
from nullclass.experiments.config import (
    AttackPlan,
    NullPlan,
    Preset,
    Study,
    ThresholdPlan,
    Training,
    Trial,
)
from nullclass.experiments.engines import DataSource
from nullclass.results import schema
from nullclass.training.recipes import Recipe

VALIDATION = 16


def trials(preset: Preset, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    planned = []
    for seed in seeds:
        base = Trial(
            _training("base", seed),
            (AttackPlan("fgsm", (), 6, label="at-threshold", num_examples=2),),
            num_clean=40,
            selection="test",
            thresholds=ThresholdPlan(5, 6),
        )
        noisy = Trial(
            _training("noisy", seed),
            (
                AttackPlan("fgsm", (), 6, label="at-threshold", is_transfer=True),
                AttackPlan("fgsm", (0.0, 0.5), 6, is_transfer=True),
                AttackPlan("pgd", (0.1,), 4, settings={"num_steps": 2}),
            ),
            num_clean=40,
            selection="test",
            source=base,
        )
        planned += [trial for trial in (base, noisy) if trial.model in variants]
    return planned


def _training(name: str, seed: int) -> Training:
    nulls = NullPlan("uniform", {}, share=0.4) if name == "noisy" else None
    return Training(
        name=name,
        architecture="report",
        dataset="idx",
        validation=VALIDATION,
        seed=seed,
        weight_decay=0.0,
        nulls=nulls,
        recipe=Recipe(batch_size=8, epochs=5, learning_rate=3e-3),
        selections=("test", "held-out"),
    )


TINY = Study(
    name="tiny",
    claim="It runs.",
    dataset="idx",
    validation=VALIDATION,
    variants=("base", "noisy"),
    seeds=lambda preset: range(2),
    trials=trials,
)


def source_of(folder: Path) -> DataSource:
    return DataSource("idx", str(folder), VALIDATION)


def load(folder: Path) -> Dataset:
    return load_dataset("idx", data_dir=folder, validation=VALIDATION, progress=lambda _: None)


def results(out: Path) -> dict[str, bytes]:
    """Everything that must not depend on who was killed when."""
    names = {schema.ROWS, schema.THRESHOLDS, "model.safetensors", schema.SUMMARY}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.name in names
    }

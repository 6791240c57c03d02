"""The study ``provable-null``: radii, proofs wherever it attacks, and the same on other data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nullclass.core.errors import UserError
from nullclass.experiments.config import Training
from nullclass.studies import find_study
from nullclass.studies.provable_null.config import (
    CLEAN,
    DATASETS,
    LEARNED,
    PROVABLE,
    VARIANTS,
    training,
    trials,
)

PRESETS = ("quick", "full")


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_attacked_is_also_proved(preset: Any) -> None:
    for trial in trials("mnist", preset, [0], VARIANTS):
        (plan,) = trial.proofs
        assert plan.num_images == trial.num_clean == 10_000, "all test images"
        for attack in trial.attacks:
            assert set(attack.eps) <= set(plan.eps), "each mark has a bound beside it"
        denies = [
            a
            for a in trial.attacks
            if a.settings.get("objective") == "force-null" or "force-null" in a.name
        ]
        assert len(denies) == (trial.model != CLEAN), "null-DoS, of whoever can say null"
        seen = {attack.num_images for attack in trial.attacks}
        assert len(seen) == 1, "the union is over images that every attack saw"


@pytest.mark.parametrize("preset", PRESETS)
def test_provable_models_are_proved_at_twice_their_radius(preset: Any) -> None:
    for trial in trials("mnist", preset, [0], VARIANTS):
        assert trial.radius == PROVABLE.get(trial.model)
        assert trial.training.has_null == (trial.model in LEARNED)
        if trial.radius is not None:
            assert trial.model == f"provable-r{trial.radius:g}"
            assert any(abs(eps - 2 * trial.radius) < 1e-9 for eps in trial.proofs[0].eps)
            robust = trial.training.robust
            assert robust is not None
            assert abs(robust.settings["eps"] - trial.radius) < 0.03
            assert (trial.training.start is not None) == (preset == "full"), "full has two stages"


def test_other_data_change_nothing_else() -> None:
    for preset in PRESETS:
        by = [trials(data, preset, [0, 3], VARIANTS) for data in DATASETS]  # type: ignore[arg-type]
        for ours, theirs in zip(*by, strict=True):
            assert _on(theirs.training, ours.training.dataset) == ours.training
            assert replace(theirs, training=ours.training) == ours
            assert theirs.training.dataset == "fashion-mnist"


def test_the_data_choose_the_study() -> None:
    fashion = find_study("provable-null-fashion-mnist")
    assert find_study("provable-null", "fashion-mnist") is fashion
    assert find_study("provable-null-fashion-mnist", "fashion-mnist") is fashion
    assert find_study("provable-null", "mnist") is find_study("provable-null")
    with pytest.raises(UserError, match="the study ramps uses ramps, not fashion-mnist"):
        find_study("ramps", "fashion-mnist")


def test_only_models_with_a_null_class_have_one() -> None:
    assert not training("provable-r0.15", "mnist", 0, "full").has_null
    assert training("abstain", "mnist", 0, "full").has_null


def _on(training: Training, dataset: str) -> Training:
    """The same training on other data, the one it goes on from too."""
    start = None if training.start is None else _on(training.start, dataset)
    return replace(training, dataset=dataset, start=start)

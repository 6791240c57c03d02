"""The study ``provable-null``: radii, proofs wherever it attacks, and the same on other data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nullclass.core.errors import UserError
from nullclass.experiments.config import Training
from nullclass.studies import find_study
from nullclass.studies.provable_null.config import (
    BASE,
    DATASETS,
    LEARNED,
    PROVABLE,
    VARIANTS,
    trials,
)

PRESETS = ("quick", "full")


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_attacked_is_also_proved(preset: Any) -> None:
    for trial in trials("mnist", preset, [0], VARIANTS):
        (plan,) = trial.proofs
        assert plan.num_images == trial.num_clean == 10_000, "all test images"
        assert all(set(attack.eps) <= set(plan.eps) for attack in trial.attacks)
        forcing = [attack for attack in trial.attacks if "force-null" in attack.name]
        assert len(forcing) == (trial.model != BASE), "null-DoS of every model with null"
        num_images = {attack.num_images for attack in trial.attacks}
        assert len(num_images) == 1, "the union is over images that every attack was run on"
        assert trial.radius == PROVABLE.get(trial.model)
        assert trial.training.has_null == (trial.model in LEARNED)
        if trial.radius is not None:
            assert any(abs(eps - 2 * trial.radius) < 1e-9 for eps in plan.eps)
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


def _on(training: Training, dataset: str) -> Training:
    """The same training on other data, the one it goes on from too."""
    start = None if training.start is None else _on(training.start, dataset)
    return replace(training, dataset=dataset, start=start)

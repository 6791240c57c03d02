"""Recipes and configurations: their values, their limits, and the learning rate over time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from training_cases import RECIPE, fresh_model, learnable_images

from nullclass.core.errors import UserError
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.recipes import FAITHFUL, FAST, Recipe, find_recipe
from nullclass.training.selection import BestCheckpoints


def test_recipes() -> None:
    assert FAITHFUL["notebook"] == Recipe(64, 5, 1e-3, "constant", "float32", 1.0, 1.0)
    assert FAITHFUL["report"] == Recipe(32, 20, 1e-3, "constant", "float32", 1.0, 1.0)
    assert find_recipe("faithful", "notebook") is FAITHFUL["notebook"]
    assert find_recipe("fast", "report") is FAST["report"]
    assert find_recipe("fast", "anything") == Recipe() == TrainConfig().recipe
    with pytest.raises(UserError, match="recipe must be one of fast, faithful, not 'slow'"):
        find_recipe("slow", "notebook")
    with pytest.raises(UserError, match="no published recipe for 'own'"):
        find_recipe("faithful", "own")


@pytest.mark.parametrize("schedule", ["constant", "triangle", "late-cosine"])
def test_the_learning_rate_follows_the_schedule(
    schedule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    original = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    recipe = Recipe(batch_size=16, epochs=4, learning_rate=0.01, schedule=schedule)
    selections = BestCheckpoints({"test": learnable_images(30, seed=1)}, None)
    history = train(fresh_model(has_null=False), learnable_images(), recipe, selections=selections)
    factors = [rate / 0.01 for rate in rates]
    if schedule == "constant":
        assert factors == [1.0] * 20
    elif schedule == "late-cosine":
        late = [(1 + math.cos(math.pi * (i / 20 - 0.4) / 0.6)) / 2 for i in range(8, 20)]
        assert factors == pytest.approx([1e-3, *[1.0] * 7, *late])
    else:
        expected = [min(i / 4, (20 - i) / 16) for i in range(20)]
        assert factors == pytest.approx([max(factor, 1e-3) for factor in expected])
    # Where the learning rate falls to zero, only the last epoch can be selected.
    candidates = [bool(record.selection_losses) for record in history]
    assert candidates == [schedule == "constant"] * 3 + [True]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"epochs": 0}, "epochs must be a whole number"),
        *(({"learning_rate": rate}, "learning_rate must be") for rate in (0.0, 1e3, math.nan, "x")),
        *(
            ({"nulls_per_image": share}, "nulls_per_image must be")
            for share in (0.0, 1.5, math.nan)
        ),
        ({"schedule": "cosine"}, "schedule must be one of constant, triangle, late-cosine"),
        ({"precision": "float16"}, "precision must be one of"),
        *(({"dropout": factor}, "dropout must be") for factor in (-0.1, 1.5, math.nan)),
        ({"jitter": -1.0}, "jitter must be in"),
        ({"stem_epochs": 0}, "stem_epochs must be"),
        ({"max_gradient": 0}, "max_gradient must be above 0"),
    ],
)
def test_recipes_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        replace(RECIPE, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"recipe": "fast"}, "recipe must be a Recipe, not str"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        *(({"null_weight": w}, "null_weight must be a finite") for w in (math.nan, math.inf, "a")),
        *(({"replace_rate": r}, "replace_rate must be") for r in (-0.1, 1.0, math.nan, "x")),
        *(({"seed": seed}, "seed must be a whole number") for seed in (-1, 2**63, True, 0.5)),
        ({"robust": "interval"}, "robust must be a robust loss"),
        (
            {"optimizer": SGD([nn.Parameter(torch.zeros(1))], lr=0.1)},
            r"optimizer must be a function such as lambda parameters: torch\.optim\.SGD",
        ),
        ({"optimizer": SGD, "weight_decay": 0.1}, "weight_decay is for the default optimizer"),
        ({"scheduler": 3}, "scheduler must be a function"),
        ({"scheduler": StepLR, "recipe": RECIPE}, "the recipe has the schedule 'triangle'"),
        ({"scheduler_interval": "batch"}, "scheduler_interval must be one of epoch, step"),
    ],
)
def test_configs_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        TrainConfig(**settings)

"""One contract for every study, and the notebook's figures against study-facts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nullclass.attacks import ATTACKS
from nullclass.data import DATASETS
from nullclass.errors import UserError
from nullclass.models import MODELS
from nullclass.nulls import check_settings
from nullclass.records import trial_folder
from nullclass.studies import STUDIES, find_study
from nullclass.studies.fgsm_null import PIXEL, TEST_EPS, WHITE_BOX_EPS, pixels, published, trials

PRESETS = ("quick", "full")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", STUDIES)
def test_contract(name: str, preset: str) -> None:
    study = find_study(name)
    assert study.name == name
    assert study.claim.endswith(".")
    assert study.dataset in DATASETS
    planned = study.trials(preset)  # type: ignore[arg-type]
    assert planned
    assert planned == study.trials(preset), "a function of the preset alone"  # type: ignore[arg-type]
    folders = [trial_folder(Path("run"), trial.model, trial.seed) for trial in planned]
    assert len(set(folders)) == len(planned), "no trial overwrites another"
    for trial in planned:
        training = trial.training
        assert training.architecture in MODELS
        assert training.dataset == study.dataset
        assert training.validation == study.validation
        if training.nulls is not None:
            check_settings(training.nulls.source, training.nulls.settings)
            assert training.nulls.weight > 0
        names = [plan.attack for plan in trial.attacks]
        assert len(set(names)) == len(names), "rows know an attack by its name"
        assert len({plan.norm for plan in trial.attacks}) == 1
        for plan in trial.attacks:
            ATTACKS[plan.attack](**plan.settings)
            assert all(0 < eps <= 1 for eps in plan.eps)
            assert len(set(plan.eps)) == len(plan.eps)
            assert 0 < plan.num_images <= trial.num_clean


def test_importing_the_studies_does_not_import_torch() -> None:
    code = (
        "import sys, nullclass.studies as s;"
        "[study.trials(p) for study in s.STUDIES.values() for p in ('quick', 'full')];"
        "assert 'torch' not in sys.modules, 'torch'; assert 'pandas' not in sys.modules, 'pandas'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(UserError, match="no study 'fgsm': choose one of fgsm-null"):
        find_study("fgsm")


# The notebook's study, as study-facts has it


def test_units() -> None:
    assert pytest.approx(0.3081) == PIXEL
    assert [round(pixels(eps), 4) for eps in (3, 1, 0.5, 0.1, 0.01)] == [
        0.9243, 0.3081, 0.154, 0.0308, 0.0031
    ]  # fmt: skip
    assert TEST_EPS == (3, 2, 1, 0.5, 0.1, 0.01, 0.001)
    assert WHITE_BOX_EPS == (0.05, 0.1, 0.154, 0.2, 0.3)


FACTS = [
    ("clean-wd", "none", None, "correct", 0.9885),
    ("null-0.5", "none", None, "not_null", 0.9999),
    ("null-0.5", "fgsm", 0.5, "null", 1.0),
    ("null-0.5-wd", "none", None, "correct", 0.9883),
    ("null-0.5-wd", "none", None, "not_null", 1.0),
    ("null-0.5-wd", "fgsm", 0.01, "null", 0.0),
    ("null-0.5-wd", "fgsm", 0.1, "null", 0.0021),
    ("null-0.5-wd", "fgsm", 0.5, "null", 0.9999),
    ("null-0.5-wd", "fgsm", 1, "null", 1.0),
    ("null-0.01-wd", "none", None, "correct", 0.9897),
    ("null-0.01-wd", "none", None, "not_null", 1.0),
    ("null-0.01-wd", "fgsm", 3, "null", 0.9994),
    ("null-0.01-wd", "fgsm", 2, "null", 1.0),
    ("null-0.01-wd", "fgsm", 1, "null", 1.0),
    ("null-0.01-wd", "fgsm", 0.5, "null", 1.0),
    ("null-0.01-wd", "fgsm", 0.1, "null", 1.0),
    ("null-0.01-wd", "fgsm", 0.01, "null", 0.9421),
    ("null-0.01-wd", "fgsm", 0.001, "null", 0.0001),
]


@pytest.mark.parametrize(("model", "attack", "eps", "metric", "value"), FACTS)
def test_published_figures(
    model: str, attack: str, eps: float | None, metric: str, value: float
) -> None:
    eps_pixels = 0.0 if eps is None else 0.3081 * eps
    assert published(model, attack, eps_pixels, metric) == value


def test_nothing_is_published_that_the_notebook_does_not_say() -> None:
    low, high = 0.9871, 0.9880
    value = published("null-0.5", "none", 0.0, "correct")
    assert value is not None
    assert low <= value <= high
    assert published("null-0.01", "fgsm", 0.3081 * 0.01, "null") is None
    assert published("null-0.5-wd", "null-aware-pgd", 0.154, "null") is None
    assert published("null-0.5-wd", "fgsm", 0.2, "null") is None
    assert published("clean-wd", "fgsm", 0.154, "null") is None


def test_the_protocol() -> None:
    full, quick = trials("full"), trials("quick")
    assert {trial.seed for trial in full} == set(range(5))
    assert {trial.seed for trial in quick} == {0}
    models = {trial.model: trial.training for trial in quick}
    assert set(models) >= {"clean-wd", "null-0.5", "null-0.5-wd", "null-0.01-wd"}
    assert models["clean-wd"].nulls is None
    for name, training in models.items():
        assert training.weight_decay == (1e-4 if name.endswith("wd") else 0.0)
        if training.nulls is not None:
            notebook_eps = float(name.split("-")[1])
            assert training.nulls.settings["num_steps"] == 1
            assert training.nulls.settings["eps"] == pytest.approx(0.3081 * notebook_eps, abs=1e-6)
            assert training.nulls.weight == pytest.approx(1 / 11)
    recipe = full[0].training.recipe
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (64, 5, 1e-3)
    assert (recipe.schedule, recipe.precision, recipe.null_fraction) == ("constant", "float32", 1)
    assert [plan.attack for plan in full[0].attacks] == ["fgsm", "null-aware-pgd"]
    assert full[0].attacks[0].eps == tuple(pixels(eps) for eps in TEST_EPS)
    assert full[0].num_clean == full[0].attacks[0].num_images == 10_000


def test_pixels_and_standard_deviations_agree_in_a_model() -> None:
    # A step of the notebook's eps on standardised images is a step of pixels(eps) on images.
    image = torch.tensor(0.5)
    standardised = (image - 0.1307) / 0.3081 + 0.5
    assert float(standardised * 0.3081 + 0.1307 - image) == pytest.approx(pixels(0.5), abs=1e-6)

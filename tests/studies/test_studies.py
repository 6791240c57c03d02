"""One contract for every study, and published figures against a second copy of them."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch

from nullclass.attacks import ATTACKS
from nullclass.core.errors import UserError
from nullclass.data import DATASETS, RAMPS
from nullclass.experiments.config import Trial
from nullclass.experiments.jobs import folder_of, jobs_of
from nullclass.experiments.run_info import settings_of
from nullclass.experiments.runner import plan_trials
from nullclass.experiments.study import Study
from nullclass.models import ARCHITECTURES
from nullclass.nulls import make_nulls
from nullclass.nulls.perturb import check_norm, make_perturbation
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import CLEAN, LAST
from nullclass.studies import STUDIES, find_study
from nullclass.studies.fgsm_null.config import (
    FGSM_NULL,
    PIXEL,
    TEST_EPS,
    WHITE_BOX_EPS,
    pixels,
    published,
)
from nullclass.studies.null_samples import config as null_samples
from nullclass.studies.ramps import config as ramps
from nullclass.studies.reports import page_module
from nullclass.training.batches import steps_per_epoch


def plan_all(study: Study, preset: Any) -> list[Trial]:
    return plan_trials(study, preset)


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in STUDIES for preset in STUDIES[name].num_seeds]
)
def test_contract(name: str, preset: Any) -> None:
    study = find_study(name)
    assert study.name == name
    assert study.claim.endswith(".")
    assert study.dataset in (*DATASETS, RAMPS)
    planned = plan_all(study, preset)
    assert planned
    assert planned == plan_all(study, preset), "a function of its arguments alone"
    models = {trial.model for trial in planned}
    assert models <= set(study.variants) if preset == "quick" else models == set(study.variants)
    assert {trial.seed for trial in planned} == set(range(study.num_seeds[preset]))
    folders = [folder_of(trial, "data") for trial in planned]
    assert len(set(folders)) == len(planned), "no trial overwrites another"
    settings: dict[tuple[str, str], Any] = {}
    for trial in planned:
        known = settings.setdefault((trial.model, trial.selection), settings_of(trial))
        assert known == settings_of(trial), "the same for all seeds: one report describes them"
    for trial in planned:
        training = trial.training
        assert training.architecture in ARCHITECTURES
        assert training.dataset == study.dataset
        assert training.validation == study.validation
        assert trial.selection in (training.selections or (LAST,)), "its weights are kept"
        assert "held-out" not in training.selections or training.validation > 0
        if training.start is not None:
            assert training.start.architecture == training.architecture
            assert training.start.has_null == training.has_null
            assert not training.start.selections, "its last weights are kept"
        if training.nulls is not None:
            assert training.has_null != training.uniform_targets
            settings, estimate = training.nulls.settings, training.nulls.estimate
            if estimate is not None:
                check_norm(estimate.perturbation, estimate.norm)
                assert 0 < estimate.num_images <= study.validation, "of held-out images"
                assert settings["perturbation"] == estimate.perturbation, "f is about what is made"
                assert settings["perturbation_settings"] == estimate.settings
                curve = NullCurve(estimate.norm, (0.1,), (1.0,))
                settings = settings | {"curve": curve.to_dict()}
            make_nulls(training.nulls.source, settings, None)
            if training.nulls.weight is not None:
                assert training.nulls.weight > 0
            else:
                assert training.nulls.replace_rate is not None
                assert 0 < training.nulls.replace_rate < 1
        names = [plan.name for plan in trial.attacks]
        assert len(set(names)) == len(names), "rows know an attack by its name"
        assert len({plan.norm for plan in trial.attacks}) <= 1
        for plan in trial.attacks:
            ATTACKS[plan.attack](**plan.settings)
            assert all(0 <= eps <= 1 for eps in plan.eps)
            assert list(plan.eps) == sorted(set(plan.eps)), "rising"
            assert 0 < plan.num_images <= trial.num_clean, "clean rows of all that is attacked"
            assert plan.num_examples <= plan.num_images
            assert not plan.is_transfer or trial.source is not None
            assert plan.eps or trial.images_from is not None
        for craft in trial.crafted:
            attack = ATTACKS[craft.plan.attack](**craft.plan.settings)
            assert attack.objective == "fool", "a source's null is no success"
            assert craft.plan.num_images <= trial.num_clean
            assert craft.seed % 1000 == trial.seed, "of the same seed, or a substitute for it"
        for plan in trial.sizes:
            check_norm(plan.perturbation, plan.norm)
            make_perturbation(plan.perturbation, plan.settings)
            assert list(plan.sizes) == sorted(set(plan.sizes)), "rising"
            assert plan.num_images <= trial.num_clean
        if trial.images_from is not None:
            assert trial.images_from.thresholds is not None
            assert trial.num_clean >= 10_000, "any test image may be among those found"


@pytest.mark.parametrize("name", STUDIES)
def test_every_job_reaches_a_worker_as_it_was_planned(name: str) -> None:
    study = find_study(name)
    for job in jobs_of(study.trials("quick", [0], study.variants), "data"):
        arrived = pickle.loads(pickle.dumps(job))
        assert arrived == job
        assert folder_of(arrived.config, "data") == job.folder


@pytest.mark.parametrize("name", STUDIES)
def test_some_seeds_and_variants_are_a_subset(name: str) -> None:
    study = find_study(name)
    for preset in study.num_seeds:
        every = study.trials(preset, [0, 4], study.variants)
        for variant in study.variants:
            part = study.trials(preset, [4], [variant])
            assert part == [t for t in every if (t.model, t.seed) == (variant, 4)]
        assert study.trials(preset, [], study.variants) == []


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_brings_a_page_and_tables_for_the_terminal(name: str) -> None:
    module = page_module(name)
    assert callable(module.page)
    assert callable(module.summary_tables)


def test_importing_the_studies_does_not_import_torch() -> None:
    code = (
        "import sys, nullclass.studies as s;"
        "[study.trials(p, range(study.num_seeds[p]), study.variants)"
        " for study in s.STUDIES.values() for p in study.num_seeds];"
        "assert 'torch' not in sys.modules, 'torch'; assert 'pandas' not in sys.modules, 'pandas'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_preset_that_the_study_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="ramps has no preset 'source': choose from quick, full"):
        plan_trials(find_study("ramps"), "source")
    assert {t.seed for t in plan_trials(find_study("null-samples"), "source")} == {0}


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(UserError, match="no study 'fgsm': choose one of fgsm-null"):
        find_study("fgsm")


# The notebook's study


def test_units() -> None:
    assert pytest.approx(0.3081) == PIXEL
    assert [round(pixels(eps), 4) for eps in (3, 1, 0.5, 0.1, 0.01)] == [
        0.9243, 0.3081, 0.154, 0.0308, 0.0031
    ]  # fmt: skip
    assert TEST_EPS == (3, 2, 1, 0.5, 0.1, 0.01, 0.001)
    assert WHITE_BOX_EPS == (0.1, 0.154, 0.2, 0.3)


FACTS = [
    ("clean-wd", CLEAN, None, "correct_rate", 0.9885),
    ("null-0.5", CLEAN, None, "not_null_rate", 0.9999),
    ("null-0.5", "fgsm", 0.5, "null_rate", 1.0),
    ("null-0.5-wd", CLEAN, None, "correct_rate", 0.9883),
    ("null-0.5-wd", CLEAN, None, "not_null_rate", 1.0),
    ("null-0.5-wd", "fgsm", 0.01, "null_rate", 0.0),
    ("null-0.5-wd", "fgsm", 0.1, "null_rate", 0.0021),
    ("null-0.5-wd", "fgsm", 0.5, "null_rate", 0.9999),
    ("null-0.5-wd", "fgsm", 1, "null_rate", 1.0),
    ("null-0.01-wd", CLEAN, None, "correct_rate", 0.9897),
    ("null-0.01-wd", CLEAN, None, "not_null_rate", 1.0),
    ("null-0.01-wd", "fgsm", 3, "null_rate", 0.9994),
    ("null-0.01-wd", "fgsm", 2, "null_rate", 1.0),
    ("null-0.01-wd", "fgsm", 1, "null_rate", 1.0),
    ("null-0.01-wd", "fgsm", 0.5, "null_rate", 1.0),
    ("null-0.01-wd", "fgsm", 0.1, "null_rate", 1.0),
    ("null-0.01-wd", "fgsm", 0.01, "null_rate", 0.9421),
    ("null-0.01-wd", "fgsm", 0.001, "null_rate", 0.0001),
]


def test_published_figures() -> None:
    for model, attack, eps, metric, value in FACTS:
        eps_pixels = 0.0 if eps is None else 0.3081 * eps
        assert published(model, attack, eps_pixels, metric) == value, (model, attack, eps, metric)
    middle = published("null-0.5", CLEAN, 0.0, "correct_rate")
    assert middle is not None
    assert 0.9871 <= middle <= 0.9880
    for model, attack, eps_pixels, metric in (
        ("null-0.01", "fgsm", 0.3081 * 0.01, "null_rate"),
        ("null-0.5-wd", "worst-case", 0.154, "null_rate"),
        ("null-0.5-wd", "fgsm", 0.2, "null_rate"),
        ("clean-wd", "fgsm", 0.154, "null_rate"),
    ):
        assert published(model, attack, eps_pixels, metric) is None


def test_the_protocol() -> None:
    full, quick = (plan_all(FGSM_NULL, preset) for preset in ("full", "quick"))
    for trial in quick:
        training = trial.training
        assert training.weight_decay == (1e-4 if trial.model.endswith("wd") else 0.0)
        assert training.has_null == (training.nulls is not None) == ("null" in trial.model)
        if training.nulls is not None:
            notebook_eps = float(trial.model.split("-")[1])
            assert training.nulls.settings["num_steps"] == 1
            assert training.nulls.settings["eps"] == pytest.approx(0.3081 * notebook_eps, abs=1e-6)
            assert training.nulls.weight == pytest.approx(1 / 11)
    assert {t.model for t in full} - {t.model for t in quick} == {"null-0.01"}
    with pytest.raises(UserError, match=r"quick of fgsm-null has no null-0\.01"):
        plan_trials(FGSM_NULL, "quick", variants=["clean-wd", "null-0.01"])
    recipe = full[0].training.recipe
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (64, 5, 1e-3)
    assert (recipe.schedule, recipe.precision, recipe.nulls_per_image) == ("constant", "float32", 1)
    assert [plan.attack for plan in full[0].attacks] == ["fgsm", "worst-case"]
    assert full[0].attacks[0].eps == tuple(pixels(eps) for eps in sorted(TEST_EPS))
    assert full[0].num_clean == full[0].attacks[0].num_images == 10_000


def test_pixels_and_standard_deviations_agree_in_a_model() -> None:
    # A step of the notebook's eps on standardised images is a step of pixels(eps) on images.
    image = torch.tensor(0.5)
    standardised = (image - 0.1307) / 0.3081 + 0.5
    assert float(standardised * 0.3081 + 0.1307 - image) == pytest.approx(pixels(0.5), abs=1e-6)


# The report's study

# correct, misclassified and unclassified at threshold, in %
AT_THRESHOLD = {
    "base": (0.0, 100.0, 0.0),
    "u": (78.8, 19.1, 2.0),
    "s": (60.0, 9.7, 30.3),
    "us": (54.4, 9.5, 36.1),
    "m": (4.3, 3.0, 92.7),
    "um": (5.2, 2.6, 92.2),
    "sm": (7.8, 1.3, 90.9),
    "usm": (7.2, 1.2, 91.7),
}


def test_the_reports_published_figures() -> None:
    source, attack = null_samples.published, null_samples.TRANSFER_AT_THRESHOLD
    for model, values in AT_THRESHOLD.items():
        for metric, value in zip(("correct_rate", "fooled_rate", "null_rate"), values, strict=True):
            assert source(model, attack, math.nan, metric) == pytest.approx(value / 100)
            assert source(model, attack, 0.1, metric) is None, "at thresholds only"
            assert source(model, "worst-case-threshold", math.nan, metric) is None
        assert source(model, CLEAN, 0.0, "correct_rate") == (0.992 if model == "base" else 0.99)
        assert source(model, attack, math.nan, "loss") is None
    assert source("nobody", attack, math.nan, "null_rate") is None


def test_the_reports_protocol() -> None:
    study = null_samples.NULL_SAMPLES
    assert study.variants == ("base", "u", "s", "m", "us", "um", "sm", "usm")
    sets = range(30)
    full = {(t.model, t.seed, t.selection): t for t in study.trials("source", sets, study.variants)}
    assert len(full) == 8 * 30 * 2, "selected as published and honestly"
    kinds = {"u": ("uniform", {}), "s": ("tile-shuffle", {"faithful": True}), "m": ("mixed", {})}
    for (model, seed, selection), trial in full.items():
        training = trial.training
        assert training == full[model, seed, "test"].training, "trained once, selected twice"
        assert training.has_null, "all variants have 11 outputs, base included"
        assert (training.architecture, training.weight_decay) == ("report", 0.0)
        assert training.selections == ("test", "held-out")
        recipe = training.recipe
        assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (32, 20, 1e-3)
        assert (recipe.schedule, recipe.precision, recipe.dropout, recipe.stem_epochs) == (
            "constant", "float32", 1.0, None
        )  # fmt: skip
        base = full["base", seed, selection]
        if model == "base":
            assert training.nulls is None
            assert trial.source is None
            assert trial.thresholds is not None
            assert trial.thresholds.num_images == 1000
            assert trial.thresholds.first_image == 1000 * seed % 10_000
        else:
            assert training.nulls is not None
            assert training.nulls.replace_rate == 0.5
            assert training.nulls.source == "any-of"
            assert training.nulls.settings == {"sources": dict(kinds[letter] for letter in model)}
            assert trial.source == base, "made on the base model of the same set"
            assert trial.thresholds is None
        plans = {plan.name: plan for plan in trial.attacks}
        at_threshold = plans["fgsm-threshold"]
        assert (at_threshold.attack, at_threshold.eps, at_threshold.factor) == ("fgsm", (), 1.0)
        assert at_threshold.num_images == 1000
        transfers = [plan for plan in plans.values() if plan.name.startswith("fgsm")]
        assert all(plan.is_transfer is (model != "base") for plan in transfers)
        if selection == "test":
            assert plans["fgsm"].num_images == 1000
            expected = [0.02 * step for step in range(51)]
            assert plans["fgsm"].eps == pytest.approx(expected)
            own = [plan for plan in plans.values() if plan.attack == "worst-case"]
            assert {plan.eps for plan in own} == {(), null_samples.WHITE_BOX_EPS}
            assert not any(plan.is_transfer for plan in own), "on the model itself"
    beyond = {plan.name: plan for plan in full["base", 0, "test"].attacks}["fgsm-1.5-thresholds"]
    assert (beyond.factor, beyond.eps) == (1.5, ())


def test_full_is_the_reports_240_models() -> None:
    planned = plan_all(null_samples.NULL_SAMPLES, "full")
    assert len({(t.model, t.seed) for t in planned}) == len(planned) == 8 * 30


@pytest.mark.parametrize("preset", ["quick", "full"])
def test_the_presets_of_the_reports_study_differ_in_effort_only(preset: Any) -> None:
    study = null_samples.NULL_SAMPLES
    quick, full = (
        {(t.model, t.selection): t for t in study.trials(of, [0], study.variants)}
        for of in (preset, "source")
    )
    assert {(name, "test") for name in study.variants} <= quick.keys() <= full.keys()
    for key, trial in quick.items():
        other = full[key]
        assert [p.name for p in trial.attacks] == [p.name for p in other.attacks]
        assert [p.eps for p in trial.attacks] == [p.eps for p in other.attacks]
        assert trial.thresholds == other.thresholds
        one, two = trial.training, other.training
        assert (one.architecture, one.has_null) == (two.architecture, two.has_null)
        assert set(one.selections) <= set(two.selections)
        assert (one.nulls is None) == (two.nulls is None)
        if one.nulls is not None and two.nulls is not None:
            assert one.nulls.settings == two.nulls.settings


# The ramps


def test_the_ramps_protocol() -> None:
    study = ramps.RAMPS
    full = {trial.model: trial for trial in study.trials("full", [0], study.variants)}
    base, recipe = full["base"].training, full["base"].training.recipe
    assert (base.architecture, base.nulls, base.has_null) == ("ramp", None, True)
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (32, 20, 1e-3)
    assert recipe.schedule == "constant"
    shuffle = {"sides": [1], "faithful": True}
    for name, source, settings in (
        ("uniform", "uniform", {}),
        ("shuffled", "tile-shuffle", shuffle),
    ):
        training = full[name].training
        assert training.start == base, "goes on from base"
        assert training.recipe.epochs == 30
        assert training.nulls is not None
        assert (training.nulls.source, training.nulls.settings) == (source, settings)
        assert training.nulls.replace_rate == 0.5
    # 32,000 ramps are an epoch of 1000 steps.
    assert steps_per_epoch(32_000, recipe.batch_size) == 1000

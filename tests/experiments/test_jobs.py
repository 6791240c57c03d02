from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nullclass.core.errors import UserError
from nullclass.experiments import jobs
from nullclass.experiments.config import (
    LAST,
    AttackPlan,
    Config,
    Craft,
    Estimate,
    ModelSpec,
    NullPlan,
    ProofPlan,
    Queries,
    RobustPlan,
    SizePlan,
    ThresholdPlan,
    Training,
    Trial,
)
from nullclass.experiments.jobs import evaluation_cost, jobs_of, place_of, training_cost
from nullclass.studies import STUDIES
from nullclass.training.queries import QueryPlan
from nullclass.training.recipes import Recipe

DATA = "c" * 64
RECIPE = Recipe(batch_size=32, epochs=2, learning_rate=1e-3)
TRAINING = Training(
    name="m",
    architecture="report",
    dataset="mnist",
    validation=100,
    seed=3,
    weight_decay=0.0,
    nulls=NullPlan("any-of", {"sources": {"uniform": {}}}, share=0.5),
    recipe=RECIPE,
    selections=("test", "held-out"),
)
TRIAL = Trial(TRAINING, (AttackPlan("fgsm", (0.1, 0.2), 50),), num_clean=100, selection="test")
SEEDLING = replace(TRAINING, name="seedling", selections=())
CLEAN = replace(SEEDLING, name="clean", nulls=None, has_null=False)
ESTIMATE = Estimate(ModelSpec(CLEAN), "pgd", "linf", 100, {"num_steps": 2})
CRAFT = Craft(ModelSpec(CLEAN), AttackPlan("mi-fgsm", (0.1, 0.2), 50))
QUERIES = Queries(ModelSpec(CLEAN))
ASKING = replace(CLEAN, name="asking", queries=QUERIES)


def placed(config: Config, data: str = DATA) -> str:
    return place_of(config, data)


def test_a_folder_is_named_after_the_model_its_seed_and_a_hash() -> None:
    assert re.fullmatch(r"models/m-seed3-[0-9a-f]{10}", placed(TRAINING))
    assert re.fullmatch(r"trials/m-seed3-[0-9a-f]{10}", placed(TRIAL))
    assert re.fullmatch(r"estimates/clean-pgd-linf-seed3-[0-9a-f]{10}", placed(ESTIMATE))
    assert re.fullmatch(r"crafted/clean-mi-fgsm-seed3-[0-9a-f]{10}", placed(CRAFT))
    assert placed(TRAINING)[-10:] != placed(TRIAL)[-10:]


def test_the_same_config_has_the_same_folder_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_jobs as t;"
        "print(t.placed(t.TRAINING), t.placed(t.TRIAL))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.split() == [placed(TRAINING), placed(TRIAL)]


OTHER_VALUES: dict[str, Any] = {
    "architecture": "notebook",
    "dataset": "idx",
    "name": "other",
    "nulls": NullPlan("mixed", {}, share=0.5),
    "start": SEEDLING,
    "selections": ("test",),
    "schedule": "triangle",
    "stem_epochs": 1,
    "precision": "bfloat16",
    "attack": "pgd",
    "label": "again",
    "norm": "l2",
    "selection": "held-out",
    "thresholds": ThresholdPlan(0, 10),
    "source": TRIAL,
    "training": replace(TRAINING, weight_decay=0.5),
    "attacks": (),
    "settings": {"sources": {"mixed": {}}},
    "eps": (0.1,),
    "is_transfer": True,
    "has_null": False,
    "recipe": replace(RECIPE, epochs=9),
    "estimate": ESTIMATE,
    "crafted": (CRAFT,),
    "sizes": (SizePlan("fgsm", "linf", (0.1,), 10),),
    "null_rate": 0.01,
    "proofs": (ProofPlan((0.1,), 10),),
    "model": ModelSpec(CLEAN, null_rate=0.1),
    "perturbation": "fgsm",
    "always": 0.5,
    "target": ModelSpec(CLEAN, null_rate=0.1),
    "plan": QueryPlan(budget=200),
}


def another(name: str, value: Any) -> Any:
    """Another value than that of a field."""
    return OTHER_VALUES[name] if name in OTHER_VALUES else value + 1


def variations(config: Any) -> list[tuple[str, Any]]:
    """The config with each field of it, and of what is in it, changed in turn."""
    found = []
    for f in fields(config):
        value = getattr(config, f.name)
        if f.name in ("queries", "robust", "radius", "radii"):  # without null only: below
            continue
        if f.name not in ("weight", "share", "nulls_per_image", "dropout", "learning_rate"):
            found.append((f.name, {f.name: another(f.name, value)}))
        elif value is not None:
            found.append((f.name, {f.name: value / 2}))
    return found


def changed_trainings() -> dict[str, Training]:
    told = {name: replace(TRAINING, **change) for name, change in variations(TRAINING)}
    for name, change in variations(RECIPE):
        told[f"recipe.{name}"] = replace(TRAINING, recipe=replace(RECIPE, **change))
    assert TRAINING.nulls is not None
    for name, change in variations(TRAINING.nulls):
        if name != "source":
            told[f"nulls.{name}"] = replace(TRAINING, nulls=replace(TRAINING.nulls, **change))
    told["nulls.source"] = replace(TRAINING, nulls=replace(TRAINING.nulls, source="mixed"))
    told["nulls.weight"] = replace(TRAINING, nulls=replace(TRAINING.nulls, weight=0.5, share=None))
    told["nulls.none"] = replace(TRAINING, nulls=None)
    told["queries"] = ASKING
    plain = replace(TRAINING, nulls=None)
    told["robust"] = replace(plain, robust=RobustPlan("adversarial", {"eps": 0.1}))
    for loss, eps in (("interval", 0.1), ("interval", 0.2), ("abstain", 0.1)):
        plan = RobustPlan(loss, {"eps": eps})
        told[f"robust.{loss}.{eps}"] = replace(plain, robust=plan)
    for name, change in variations(QUERIES):
        told[f"queries.{name}"] = replace(ASKING, queries=replace(QUERIES, **change))
    return told


def changed_estimates() -> dict[str, Estimate]:
    told = {name: replace(ESTIMATE, **change) for name, change in variations(ESTIMATE)}
    told["model.training"] = replace(ESTIMATE, model=ModelSpec(SEEDLING))
    return told


def changed_crafts() -> dict[str, Craft]:
    told = {
        f"plan.{name}": replace(CRAFT, plan=replace(CRAFT.plan, **change))
        for name, change in variations(CRAFT.plan)
        if name != "is_transfer"
    }
    told["source"] = replace(CRAFT, source=ModelSpec(SEEDLING))
    told["source.null_rate"] = replace(CRAFT, source=ModelSpec(CLEAN, null_rate=0.1))
    told["source.radius"] = replace(CRAFT, source=ModelSpec(CLEAN, radius=0.1))
    return told


def changed_trials() -> dict[str, Trial]:
    told = {name: replace(TRIAL, **change) for name, change in variations(TRIAL)}
    told["radius"] = Trial(CLEAN, TRIAL.attacks, num_clean=100, radius=0.1)
    told["radius.other"] = replace(told["radius"], radius=0.2)
    told["radii"] = replace(told["radius"], radii=(0.1, 0.2))
    told["radii.other"] = replace(told["radius"], radii=(0.1, 0.3))
    told["threshold.first"] = replace(TRIAL, thresholds=ThresholdPlan(1, 10))
    told["threshold.num"] = replace(TRIAL, thresholds=ThresholdPlan(0, 11))
    for name, change in variations(TRIAL.attacks[0]):
        base = replace(TRIAL, source=TRIAL) if name == "is_transfer" else TRIAL
        plan = replace(TRIAL.attacks[0], **change)
        told[f"attacks.{name}"] = replace(base, attacks=(plan,))
    for name, training in changed_trainings().items():
        kept = (*training.selections, LAST)[0]
        told[f"training.{name}"] = replace(TRIAL, training=training, selection=kept)
        told[f"source.{name}"] = replace(TRIAL, source=told[f"training.{name}"])
    return told


def test_any_other_setting_is_another_folder() -> None:
    everything: list[tuple[Config, dict[str, Any], int]] = [
        (TRAINING, changed_trainings(), 20),
        (TRIAL, changed_trials(), 20),
        (ESTIMATE, changed_estimates(), 6),
        (CRAFT, changed_crafts(), 6),
    ]
    for original, changed, least in everything:
        folders = {name: placed(config) for name, config in changed.items()}
        assert placed(original) not in folders.values()
        by_hash: dict[str, set[str]] = {}
        for name, config in changed.items():
            by_hash.setdefault(folders[name][-10:], set()).add(repr(config))
        assert all(len(configs) == 1 for configs in by_hash.values()), "no two share a hash"
        assert len(by_hash) > least


def test_every_field_is_varied() -> None:
    assert {f.name for f in fields(Training)} <= set(changed_trainings())
    assert {f.name for f in fields(Trial)} <= set(changed_trials())
    assert {f.name for f in fields(Estimate)} <= set(changed_estimates())


def test_other_data_are_another_folder_and_so_is_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for config in (TRAINING, TRIAL, ESTIMATE, CRAFT):
        before = placed(config)
        assert placed(config, "d" * 64) != before
        with monkeypatch.context() as patched:
            patched.setattr(jobs, "VERSION", jobs.VERSION + 1)
            assert placed(config) != before


def told_in_full(config: Any) -> Any:
    """A config as JSON values, defaults included: what the folders must not hang on."""
    if is_dataclass(config):
        return {f.name: told_in_full(getattr(config, f.name)) for f in fields(config)}
    return [told_in_full(item) for item in config] if isinstance(config, tuple) else config


def test_fields_at_their_default_are_not_part_of_the_hash() -> None:
    @dataclass(frozen=True)
    class Grown(Training):
        """A later version's config, with one more field."""

        colour: str = "none"

    values = {f.name: getattr(TRAINING, f.name) for f in fields(TRAINING)}
    assert placed(Grown(**values)) == placed(TRAINING)
    assert placed(Grown(**values, colour="red")) != placed(TRAINING)
    told = json.dumps(jobs._telling(TRIAL))
    for absent in ("decision_grid", "thresholds", "factor", "norm", "label", "start", "dropout"):
        assert absent not in told
        assert absent in json.dumps(told_in_full(TRIAL))
    assert "batch_size" in told


# Which jobs there are


BASE = replace(TRIAL, training=replace(TRAINING, name="base"), thresholds=ThresholdPlan(0, 5))


def test_every_job_once_and_none_before_what_it_needs() -> None:
    grown = replace(TRAINING, name="grown", start=SEEDLING)
    transfer = (AttackPlan("fgsm", (), 5, is_transfer=True),)
    other = Trial(grown, transfer, 10, selection="test", source=BASE)
    again = replace(other, selection="held-out")
    found = jobs_of([other, again, BASE, other], DATA)
    places = [job.place for job in found]
    assert len(set(places)) == len(places) == 6
    for position, job in enumerate(found):
        assert set(job.needs) <= set(places[:position]), job.title
        assert job.place == placed(job.config)
        assert job.cost > 0
    needs = {job.title: {n.split("-seed")[0] for n in job.needs} for job in found}
    assert needs == {
        "training seedling, seed 3": set(),
        "training grown, seed 3": {"models/seedling"},
        "training base, seed 3": set(),
        "attacking base, seed 3, selected on test": {"models/base"},
        "attacking grown, seed 3, selected on test": {"models/grown", "trials/base"},
        "attacking grown, seed 3, selected on held-out": {"models/grown", "trials/base"},
    }


def test_curves_and_crafted_images_come_before_what_needs_them() -> None:
    soft = replace(
        SEEDLING, name="soft", nulls=NullPlan("null-probabilities", {}, 1.0, estimate=ESTIMATE)
    )
    own = Craft(ModelSpec(ASKING), CRAFT.plan)
    trial = Trial(soft, TRIAL.attacks, 10, crafted=(CRAFT, own))
    found = jobs_of([trial], DATA)
    places = [job.place for job in found]
    for position, job in enumerate(found):
        assert set(job.needs) <= set(places[:position]), job.title
        assert job.cost > 0
    needs = {job.title: {n.split("-seed")[0] for n in job.needs} for job in found}
    assert needs == {
        "training clean, seed 3": set(),
        "estimating clean-pgd-linf, seed 3": {"models/clean"},
        "training soft, seed 3": {"estimates/clean-pgd-linf"},
        "crafting clean-mi-fgsm, seed 3": {"models/clean"},
        "training asking, seed 3": {"models/clean"},
        "crafting asking-mi-fgsm, seed 3": {"models/asking"},
        "attacking soft, seed 3": {
            "models/soft",
            "crafted/clean-mi-fgsm",
            "crafted/asking-mi-fgsm",
        },
    }


def test_plans_that_cannot_be_are_refused() -> None:
    for wrong, told in (
        (lambda: Craft(ModelSpec(CLEAN), AttackPlan("fgsm", (), 5)), "need budgets"),
        (lambda: replace(TRAINING, queries=QUERIES), "takes no null images"),
        (lambda: ModelSpec(TRAINING), "keeps test, held-out"),
        (lambda: replace(TRIAL, crafted=(CRAFT, CRAFT)), "label of its own"),
        (lambda: ModelSpec(SEEDLING, radius=0.1), "no null class"),
        (lambda: ModelSpec(CLEAN, null_rate=0.1, radius=0.1), "no threshold"),
        (lambda: replace(TRIAL, radius=0.1), "no null class"),
        (lambda: ProofPlan((), 10), "at least one eps"),
        (lambda: Trial(CLEAN, (), 10, radii=(0.1,)), "asks with other radii"),
    ):
        with pytest.raises(UserError, match=told):
            wrong()


def test_a_training_shared_by_two_trials_is_one_job() -> None:
    found = jobs_of([TRIAL, replace(TRIAL, num_clean=7)], DATA)
    assert [type(job.config).__name__ for job in found] == ["Training", "Trial", "Trial"]
    assert {job.needs for job in found[1:]} == {(found[0].place,)}


def test_jobs_come_in_the_order_of_the_trials() -> None:
    trials = [replace(TRIAL, training=replace(TRAINING, seed=seed)) for seed in (5, 1, 3)]
    found = [job.config for job in jobs_of(trials, DATA) if isinstance(job.config, Trial)]
    assert [trial.seed for trial in found] == [5, 1, 3]
    assert jobs_of([], DATA) == []


@pytest.mark.parametrize("preset", ["quick", "full"])
@pytest.mark.parametrize("name", STUDIES)
def test_jobs_of_the_studies(name: str, preset: Any) -> None:
    study = STUDIES[name]
    trials = study.trials(preset, study.seeds(preset), study.variants)
    found = jobs_of(trials, DATA)
    places = [job.place for job in found]
    assert len(set(places)) == len(places)
    trainings = [job for job in found if isinstance(job.config, Training)]
    assert {repr(trial.training) for trial in trials} <= {repr(job.config) for job in trainings}
    tried = [job for job in found if isinstance(job.config, Trial)]
    assert len(tried) == len(trials), "no trial beside the study's own"
    for position, job in enumerate(found):
        assert set(job.needs) <= set(places[:position])


def test_what_takes_longer_costs_more() -> None:
    longer = replace(TRAINING, recipe=replace(RECIPE, epochs=4))
    unlooked = replace(TRAINING, selections=())
    beside = replace(TRAINING, nulls=NullPlan("uniform", {}, weight=1.0))
    half = replace(beside, recipe=replace(RECIPE, nulls_per_image=0.5))
    assert training_cost(longer) == 2 * training_cost(TRAINING)
    assert training_cost(unlooked) < training_cost(TRAINING)
    assert training_cost(beside) > training_cost(half) > training_cost(TRAINING)
    reduced = replace(TRAINING, recipe=replace(RECIPE, precision="bfloat16"))
    assert training_cost(reduced) < training_cost(TRAINING)
    plain = Trial(CLEAN, TRIAL.attacks, num_clean=100)
    assert evaluation_cost(replace(plain, radius=0.1)) > evaluation_cost(plain)
    for more in (
        replace(TRIAL, proofs=(ProofPlan((0.1,), 100),)),
        replace(TRIAL, num_clean=1000),
        replace(TRIAL, thresholds=ThresholdPlan(0, 10)),
        replace(TRIAL, decision_grid=49),
        replace(TRIAL, attacks=(replace(TRIAL.attacks[0], eps=(0.1, 0.2, 0.3)),)),
        replace(TRIAL, attacks=(replace(TRIAL.attacks[0], settings={"num_steps": 40}),)),
    ):
        assert evaluation_cost(more) > evaluation_cost(TRIAL)


def test_the_steps_of_attacks_cost_what_the_losses_make() -> None:
    """By default as many as the loss itself says; none where it attacks nothing."""
    from nullclass.training.robust import ROBUST_LOSSES, make_robust

    assert set(jobs.ROBUST_STEPS) == set(ROBUST_LOSSES)

    def cost(loss: str, settings: dict[str, Any]) -> float:
        plan = RobustPlan(loss, {"eps": 0.1, **settings})
        return training_cost(replace(CLEAN, robust=plan))

    without = cost("interval", {})
    step = cost("mtl-ibp", {}) - without
    assert step > 0
    cases: list[tuple[str, dict[str, Any]]] = [
        ("interval", {}),
        ("interval", {"num_steps": 4}),
        ("interval", {"bound_weight": 0.5}),
        ("interval", {"bound_weight": 0.5, "num_steps": 4}),
        ("mtl-ibp", {}),
        ("mtl-ibp", {"num_steps": 4}),
        ("mtl-ibp", {"bound_weight": 1.0, "num_steps": 4}),
        ("adversarial", {}),
        ("adversarial", {"num_steps": 4}),
        ("abstain", {}),
    ]
    for loss, settings in cases:
        told = make_robust(loss, {"eps": 0.1, **settings}).settings()
        attacks = loss == "adversarial" or told.get("bound_weight", 1) < 1
        num_steps = told["num_steps"] if attacks else 0
        assert cost(loss, settings) == pytest.approx(without + num_steps * step), (loss, settings)


def test_planning_does_not_wait_for_torch() -> None:
    code = "import sys, nullclass.experiments.jobs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Jobs, their order, and the folders that their configs decide."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nullclass.core.errors import UserError
from nullclass.experiments import jobs
from nullclass.experiments.config import (
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
from nullclass.experiments.jobs import folder_of, jobs_of
from nullclass.studies import STUDIES
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
    nulls=NullPlan("any-of", {"sources": {"uniform": {}}}, replace_rate=0.5),
    recipe=RECIPE,
    selections=("test", "held-out"),
)
FGSM = AttackPlan("fgsm", (0.1, 0.2), 50)
TRIAL = Trial(TRAINING, (FGSM,), num_clean=100, selection="test")
START = replace(TRAINING, name="start", selections=())
CLEAN = replace(START, name="clean", nulls=None, has_null=False)
ESTIMATE = Estimate(ModelSpec(CLEAN), "pgd", "linf", 100, {"num_steps": 2})
SOFT = replace(START, name="soft", nulls=NullPlan("null-probabilities", {}, 1.0, estimate=ESTIMATE))
SUBSTITUTE = replace(CLEAN, name="substitute", queries=Queries(ModelSpec(CLEAN)))
ROBUST = replace(CLEAN, name="robust", robust=RobustPlan("interval", {"eps": 0.1}))
CRAFT = Craft(ModelSpec(CLEAN), AttackPlan("mi-fgsm", (0.1, 0.2), 50))
BASE = replace(TRIAL, training=replace(TRAINING, name="base"), thresholds=ThresholdPlan(0, 5))
FULL = Trial(
    replace(START, name="grown", start=START),
    (replace(FGSM, is_transfer=True), AttackPlan("pgd", (), 5, {"num_steps": 2})),
    10,
    source=BASE,
    crafted=(CRAFT,),
    sizes=(SizePlan("fgsm", "linf", (0.1,), 10),),
    proofs=(ProofPlan((0.1,), 10),),
)
PROVABLE = Trial(ROBUST, (FGSM,), 10, radius=0.1, radii=(0.2,))


def variations(config: Any) -> Iterator[tuple[str, Any]]:
    """The config with every field of it, and of what is in it, changed in turn."""
    for field in fields(config):
        value = getattr(config, field.name)
        inner: list[tuple[str, Any]] = []
        if is_dataclass(value):
            inner = list(variations(value))
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            inner = [(name, (other, *value[1:])) for name, other in variations(value[0])]
        for name, other in inner:
            yield f"{field.name}.{name}", changed(config, field.name, other)
        if not is_dataclass(value):
            yield field.name, changed(config, field.name, another(value))


def changed(config: Any, name: str, value: Any) -> Any:
    """A copy with one other field; no check runs, so that every field can be varied alone."""
    other = copy.copy(config)
    object.__setattr__(other, name, value)
    return other


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 0.25
    if isinstance(value, str | tuple):
        return value + type(value)("x")
    return {**value, "x": 1} if isinstance(value, dict) else 0.75


@pytest.mark.parametrize(
    "config",
    [TRAINING, SOFT, SUBSTITUTE, ROBUST, TRIAL, FULL, PROVABLE, ESTIMATE, CRAFT],
    ids=lambda config: f"{type(config).__name__}-{getattr(config, 'name', 'trial')}",
)
def test_every_other_setting_is_another_folder(config: Config) -> None:
    found = dict(variations(config))
    assert {field.name for field in fields(config)} == {name.split(".")[0] for name in found}
    folders = {folder_of(other, DATA) for other in found.values()}
    assert len(folders) == len(found) > 6, "no two share a folder"
    assert folder_of(config, DATA) not in folders
    assert folder_of(config, "d" * 64) != folder_of(config, DATA)
    assert folder_of(copy.deepcopy(config), DATA) == folder_of(config, DATA)


def test_folder_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for config, name in (
        (TRAINING, "models/m"),
        (TRIAL, "trials/m"),
        (ESTIMATE, "estimates/clean-pgd-linf"),
        (CRAFT, "crafted/clean-mi-fgsm"),
    ):
        folder = folder_of(config, DATA)
        assert re.fullmatch(rf"{name}-seed3-[0-9a-f]{{10}}", folder)
        with monkeypatch.context() as patched:
            patched.setattr(jobs, "VERSION", jobs.VERSION + 1)
            assert folder_of(config, DATA) != folder
    assert folder_of(TRAINING, DATA)[-10:] != folder_of(TRIAL, DATA)[-10:]
    assert folder_of(replace(TRAINING, weight_decay=0), DATA) == folder_of(TRAINING, DATA)


def test_fields_at_their_default_are_not_part_of_the_hash() -> None:
    hashed = json.dumps(jobs.as_json(TRIAL))
    for absent in ("decision_grid", "thresholds", "factor", "norm", "label", "start", "dropout"):
        assert f'"{absent}"' not in hashed
    assert '"batch_size"' in hashed


def test_another_process_plans_the_same_folders_without_torch() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/experiments'); import test_jobs as t;"
        "print(t.folder_of(t.FULL, t.DATA), 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.split() == [folder_of(FULL, DATA), "False"]


def test_every_job_once_and_after_what_it_needs() -> None:
    again = replace(FULL, crafted=(Craft(ModelSpec(SUBSTITUTE), CRAFT.plan),))
    soft = Trial(SOFT, TRIAL.attacks, 10)
    found = jobs_of([FULL, again, BASE, soft, FULL], DATA)
    folders = [job.folder for job in found]
    assert len(set(folders)) == len(folders)
    for index, job in enumerate(found):
        assert set(job.needs) <= set(folders[:index]), job.title
        assert job.folder == folder_of(job.config, DATA)
    needs = [(job.title, {need.split("-seed")[0] for need in job.needs}) for job in found]
    assert needs == [
        ("training start, seed 3", set()),
        ("training grown, seed 3", {"models/start"}),
        ("training base, seed 3", set()),
        ("attacking base, seed 3, selected on test", {"models/base"}),
        ("training clean, seed 3", set()),
        ("crafting clean-mi-fgsm, seed 3", {"models/clean"}),
        (
            "attacking grown, seed 3",
            {"models/grown", "models/base", "trials/base", "crafted/clean-mi-fgsm"},
        ),
        ("training substitute, seed 3", {"models/clean"}),
        ("crafting substitute-mi-fgsm, seed 3", {"models/substitute"}),
        (
            "attacking grown, seed 3",
            {"models/grown", "models/base", "trials/base", "crafted/substitute-mi-fgsm"},
        ),
        ("estimating clean-pgd-linf, seed 3", {"models/clean"}),
        ("training soft, seed 3", {"estimates/clean-pgd-linf"}),
        ("attacking soft, seed 3", {"models/soft"}),
    ]
    assert jobs_of([], DATA) == []


@pytest.mark.parametrize("name", STUDIES)
def test_jobs_of_the_studies(name: str) -> None:
    from nullclass.experiments.runner import plan_trials  # imports torch

    study = STUDIES[name]
    for preset in ("quick", "full"):
        trials = plan_trials(study, preset)
        found = jobs_of(trials, DATA)
        folders = [job.folder for job in found]
        assert len(set(folders)) == len(folders)
        assert {folder_of(trial, DATA) for trial in trials} == {
            job.folder for job in found if isinstance(job.config, Trial)
        }, "no trial beside the study's own"
        for index, job in enumerate(found):
            assert set(job.needs) <= set(folders[:index])


IMPOSSIBLE: dict[str, Callable[[], object]] = {
    "need budgets": lambda: Craft(ModelSpec(CLEAN), AttackPlan("fgsm", (), 5)),
    "takes no null images": lambda: replace(TRAINING, queries=SUBSTITUTE.queries),
    "robust loss, so it takes no null": lambda: replace(TRAINING, robust=ROBUST.robust),
    "starts from a training that keeps no last": lambda: replace(TRAINING, start=TRAINING),
    "no checkpoint 'last': its training keeps test, held-out": lambda: ModelSpec(TRAINING),
    "no checkpoint 'test': its training keeps last": lambda: Trial(START, (), 9, selection="test"),
    "no null class": lambda: ModelSpec(START, radius=0.1),
    "no threshold": lambda: ModelSpec(CLEAN, null_rate=0.1, radius=0.1),
    "refuses what is not proved": lambda: replace(TRIAL, radius=0.1),
    "at least one eps": lambda: ProofPlan((), 10),
    "has other radii": lambda: Trial(CLEAN, (), 10, radii=(0.1,)),
    "names two attacks alike": lambda: replace(TRIAL, attacks=(FGSM, replace(FGSM, eps=(0.3,)))),
    "on clean.*own label": lambda: replace(TRIAL, crafted=(CRAFT, CRAFT)),
    "two norms": lambda: replace(TRIAL, attacks=(FGSM, AttackPlan("pgd", (0.1,), 5, norm="l2"))),
    "no source": lambda: replace(TRIAL, attacks=(replace(FGSM, is_transfer=True),)),
    "thresholds that no trial": lambda: replace(TRIAL, attacks=(AttackPlan("fgsm", (), 5),)),
    "'pgd' must rise": lambda: AttackPlan("pgd", (0.2, 0.1), 5),
    "'fgsm' must rise": lambda: AttackPlan("fgsm", (0.1, 0.1), 5),
    "either a weight": lambda: NullPlan("uniform", {}),
    "weight or a replace_rate": lambda: NullPlan("uniform", {}, weight=0.1, replace_rate=0.5),
}


def test_images_crafted_elsewhere_give_a_trial_its_norm() -> None:
    crafted = Craft(ModelSpec(CLEAN), AttackPlan("pgd", (0.5,), 5, norm="l2"))
    assert Trial(CLEAN, (), 10, crafted=(crafted,)).norm == "l2"
    assert Trial(CLEAN, (), 10).norm == "linf"


@pytest.mark.parametrize("says", IMPOSSIBLE)
def test_impossible_plans_are_refused(says: str) -> None:
    with pytest.raises(UserError, match=says):
        IMPOSSIBLE[says]()


def test_labels_tell_attacks_apart() -> None:
    plans = (FGSM, replace(FGSM, eps=(0.2,), label="again"))
    assert [plan.name for plan in replace(TRIAL, attacks=plans).attacks] == ["fgsm", "again"]

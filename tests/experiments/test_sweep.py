"""A study end to end on a few hundred real images: run, stopped, resumed, reported."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import learnable_dataset

from nullclass import load_checkpoint
from nullclass.attacks import FGSM
from nullclass.cli.main import main
from nullclass.core.errors import CannotWriteError, UserError
from nullclass.data import Dataset, load_dataset
from nullclass.experiments import runner as sweep
from nullclass.experiments import tasks as work
from nullclass.experiments import trained
from nullclass.experiments.config import ThresholdPlan
from nullclass.experiments.engines.base import Task, Tell
from nullclass.experiments.engines.here import SerialEngine
from nullclass.experiments.jobs import jobs_of, place_of
from nullclass.experiments.runner import Outcome, locked, run_study
from nullclass.results import frames, store
from nullclass.results.schema import (
    COSTS,
    EXAMPLES,
    HISTORY,
    MODELS,
    RESULT,
    ROWS,
    RUN,
    SCORES,
    STATE,
    SUMMARY,
    SUMMARY_COLUMNS,
    TRIALS,
)
from nullclass.results.store import is_complete, read_run
from nullclass.studies import AttackPlan, NullPlan, Study, Training, Trial, find_study
from nullclass.training.checkpoint import CARD, WEIGHTS
from nullclass.training.recipes import Recipe

STUDY = find_study("fgsm-null")
VARIANTS = ("clean-wd", "null-0.5-wd")
CPU = torch.device("cpu")
NUM_TRAIN, NUM_TEST, NUM_FGSM, NUM_ATTACKED = 400, 150, 40, 12


@pytest.fixture(scope="module")
def few(mnist: Dataset) -> Dataset:
    return replace(mnist, train=mnist.train.first(NUM_TRAIN), test=mnist.test.first(NUM_TEST))


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    """Two models of the study, with fewer and smaller attacks."""
    shrunk = []
    for trial in STUDY.trials("quick", [0], VARIANTS):
        fgsm, pgd = trial.attacks
        attacks = (
            replace(fgsm, num_images=NUM_FGSM, num_examples=2),
            replace(pgd, attack="null-aware-pgd", num_images=NUM_ATTACKED, eps=(0.1, 0.3),
                    num_examples=2, settings={"num_steps": 5, "num_target_steps": 2}),
        )  # fmt: skip
        recipe = replace(trial.training.recipe, batch_size=32, epochs=2)
        training = replace(trial.training, recipe=recipe)
        shrunk.append(
            replace(
                trial,
                training=training,
                attacks=attacks,
                num_clean=NUM_TEST,
                is_checked=trial.model == VARIANTS[0],  # once is enough
            )
        )
    return shrunk


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(few: Dataset, trials: list[Trial], folder: Path) -> Outcome:
    return run_study(STUDY, few, folder, engine=SerialEngine(few, CPU), device=CPU, trials=trials)


def place(folder: Path, model: str, parent: str = TRIALS, seed: int = 0) -> Path:
    """The one folder of a model's training or trial."""
    (found,) = (folder / parent).glob(f"{model}-seed{seed}-*")
    return found


@pytest.fixture(scope="module")
def finished(
    one_thread: None, few: Dataset, trials: list[Trial], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("study") / "run"
    outcome = run(few, trials, folder)
    assert (outcome.num_done, outcome.num_recorded, outcome.failed) == (4, 0, {})
    return folder


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != sweep.LOCK
    }


def test_a_run_is_whole(finished: Path, few: Dataset) -> None:
    info = json.loads((finished / RUN).read_text())
    assert info["study"] == "fgsm-null"
    assert info["models"] == list(VARIANTS)
    assert info["seeds"] == [0]
    assert info["data"]["checksum"] == few.checksum
    assert info["data"]["num_training_images"] == NUM_TRAIN
    assert {"versions", "commit", "machine", "device", "started", "seconds"} <= set(info)
    for model in VARIANTS:
        trial, trained = place(finished, model), place(finished, model, MODELS)
        assert {path.name for path in trial.iterdir()} == {
            ROWS, COSTS, RESULT, SUMMARY, SCORES, EXAMPLES,
        }  # fmt: skip
        assert {path.name for path in trained.iterdir()} == {"last", HISTORY, RESULT}
        assert {path.name for path in (trained / "last").iterdir()} == {WEIGHTS, CARD}
        assert is_complete(trial)
        assert is_complete(trained)
        loaded, card = load_checkpoint(trained / "last")
        assert loaded.has_null is (model != "clean-wd")
        assert card["data_checksum"] == few.checksum
        assert card["epoch"] == 2
        assert pd.read_csv(trained / HISTORY)["epoch"].tolist() == [1, 2]
        told = json.loads((trial / RESULT).read_text())
        assert told["trained_in"] == f"{MODELS}/{trained.name}"
    for trial in read_run(finished).trials:
        assert bool(trial.result["probes"]) is (trial.model == VARIANTS[0])
        assert trial.history["epoch"].tolist() == [1, 2]
        shown = {(example.attack, example.eps_pixels) for example in trial.examples}
        assert {("null-aware-pgd", 0.1), ("null-aware-pgd", 0.3)} <= shown
        assert all(len(example.labels) == 2 for example in trial.examples)


def test_rows_are_what_the_checkpoint_says(finished: Path, few: Dataset) -> None:
    for trial in read_run(finished).trials:
        model, _ = load_checkpoint(place(finished, trial.model, MODELS) / "last")
        images, labels = few.test.batch(slice(0, NUM_TEST))
        clean = trial.rows[trial.rows["attack"] == "none"].sort_values("image")
        assert clean["image"].tolist() == list(range(NUM_TEST))
        assert clean["label"].tolist() == labels.tolist()
        assert clean["prediction"].tolist() == model.predict(images).tolist()
        counts = trial.rows.groupby(["attack", "eps_pixels"]).size()
        assert set(counts["fgsm"]) == {NUM_FGSM}
        assert len(counts["fgsm"]) == 7
        assert counts["null-aware-pgd"].to_dict() == {0.1: NUM_ATTACKED, 0.3: NUM_ATTACKED}
        told = {outcome: set(part["prediction"]) for outcome, part in trial.rows.groupby("outcome")}
        assert told.get("null", {-1}) == {-1}
        real = trial.rows[trial.rows["outcome"] != "null"]
        assert ((real["prediction"] == real["label"]) == (real["outcome"] == "correct")).all()


def test_the_summary_is_recomputed_from_the_rows(finished: Path) -> None:
    summary = pd.read_csv(finished / SUMMARY, keep_default_na=False, na_values=[""])
    assert list(summary.columns) == SUMMARY_COLUMNS
    assert set(summary["study"]) == {"fgsm-null"}
    assert set(summary["model"]) == set(VARIANTS)
    assert set(summary["selection"]) == {"last"}
    assert set(summary["source"]) == {"none", "self", "any"}
    key = SUMMARY_COLUMNS[: SUMMARY_COLUMNS.index("metric") + 1]
    assert not summary.duplicated(key).any()
    checked = 0
    for trial in read_run(finished).trials:
        told = trial.rows[["attack", "eps_pixels", "outcome", "image", "loss"]]
        rows = [tuple(row) for row in told.itertuples(index=False)]
        correct = {i for a, _, o, i, _ in rows if a == "none" and o == "correct"}
        for line in summary[summary["model"] == trial.model].to_dict("records"):
            attack, eps, metric = line["attack"], line["eps_pixels"], line["metric"]
            group = [row for row in rows if row[0] == attack and abs(row[1] - eps) < 1e-9]
            if metric in ("correct", "null", "fooled"):
                expected = sum(row[2] == metric for row in group) / len(group)
            elif metric == "not_null":
                expected = sum(row[2] != "null" for row in group) / len(group)
            elif metric == "loss":
                expected = sum(row[4] for row in group) / len(group)
            elif metric in ("aer", "rar"):
                fooled = {i for _, e, o, i, _ in rows if e <= eps + 1e-9 and o == "fooled"}
                judged = set(range(NUM_ATTACKED))
                hits = judged & (fooled if metric == "aer" else correct - fooled)
                expected = len(hits) / len(judged)
                assert line["num_images"] == NUM_ATTACKED
            else:
                continue
            assert line["value"] == pytest.approx(expected, abs=1e-5), line
            checked += 1
    assert checked > 50


def test_published_figures_stand_beside(finished: Path) -> None:
    summary = pd.read_csv(finished / SUMMARY, keep_default_na=False, na_values=[""])

    def figure(model: str, attack: str, eps: float, metric: str) -> float:
        found = summary[
            (summary["model"] == model)
            & (summary["attack"] == attack)
            & (abs(summary["eps_pixels"] - eps) < 1e-6)
            & (summary["metric"] == metric)
        ]
        return float(found["published"].item())

    assert figure("clean-wd", "none", 0, "correct") == 0.9885
    assert figure("null-0.5-wd", "fgsm", 0.15405, "null") == 0.9999
    assert figure("null-0.5-wd", "fgsm", 0.03081, "null") == 0.0021


def test_the_second_call_skips_everything(
    finished: Path, few: Dataset, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(finished)
    monkeypatch.setattr(trained, "train", None)  # nobody may call it
    monkeypatch.setattr(work, "score_clean", None)
    started = time.monotonic()
    outcome = run(few, trials, finished)
    assert time.monotonic() - started < 5
    assert (outcome.num_done, outcome.num_recorded, outcome.failed) == (0, 4, {})
    assert str(outcome) == ""
    jobs = {name: stamp for name, stamp in before.items() if name.startswith((TRIALS, MODELS))}
    after = stamps(finished)
    assert {n: s for n, s in after.items() if n.startswith((TRIALS, MODELS))} == jobs


def lose(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    changed = bytes([content[middle] ^ 1])
    path.write_bytes(content[:middle] + changed + content[middle + 1 :])


@pytest.mark.parametrize(
    ("name", "harm"), [(ROWS, lose), (ROWS, flip), (SUMMARY, flip), (EXAMPLES, lose)]
)
def test_only_what_is_lacking_is_redone(
    name: str,
    harm: Callable[[Path], None],
    finished: Path,
    few: Dataset,
    trials: list[Trial],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trained, "train", None)  # the checkpoint is there
    trial = place(finished, VARIANTS[1])
    contents = {path.name: path.read_bytes() for path in trial.iterdir()}
    before = stamps(finished)
    harm(trial / name)
    outcome = run(few, trials, finished)
    assert (outcome.num_done, outcome.num_recorded, outcome.failed) == (1, 3, {})
    after = stamps(finished)
    changed = {name for name in before if after.get(name) != before[name]}
    assert {n for n in changed if n.startswith((TRIALS, MODELS))} == {
        f"{TRIALS}/{trial.name}/{name}" for name in (ROWS, COSTS, SUMMARY, SCORES, RESULT, EXAMPLES)
    }
    for again in (ROWS, SUMMARY, SCORES, EXAMPLES):
        assert (trial / again).read_bytes() == contents[again], "the same checkpoint, the same rows"


def test_a_trial_without_its_result_is_redone(
    finished: Path, few: Dataset, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "train", None)
    trial = place(finished, VARIANTS[0])
    rows = (trial / ROWS).read_bytes()
    (trial / RESULT).unlink()
    assert run(few, trials, finished).num_done == 1
    assert (trial / ROWS).read_bytes() == rows
    assert is_complete(trial)


def test_rows_lost_in_every_trial(finished: Path, few: Dataset, trials: list[Trial]) -> None:
    before = {}
    for model in VARIANTS:
        path = place(finished, model) / ROWS
        before[path] = path.read_bytes()
        path.unlink()
    run(few, trials, finished)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", [f"last/{WEIGHTS}", f"last/{CARD}", HISTORY, RESULT])
def test_a_damaged_training_is_trained_again_to_the_same_bits(
    name: str, finished: Path, few: Dataset, trials: list[Trial]
) -> None:
    trained = place(finished, VARIANTS[0], MODELS)
    weights = (trained / "last" / WEIGHTS).read_bytes()
    trial_files = stamps(finished / TRIALS)
    flip(trained / name) if name != RESULT else lose(trained / name)
    outcome = run(few, trials, finished)
    assert (outcome.num_done, outcome.num_recorded, outcome.failed) == (1, 3, {})
    assert is_complete(trained)
    assert (trained / "last" / WEIGHTS).read_bytes() == weights
    assert stamps(finished / TRIALS) == trial_files, "what was made of it is whole all the same"


def test_interrupted_in_the_middle_of_a_training(
    finished: Path,
    few: Dataset,
    trials: list[Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, stopped = finished, tmp_path / "stopped"
    asked: list[str] = []

    class Interrupting:
        """Stops the second training in its second epoch."""

        def __init__(self) -> None:
            self.train = trained.train

        def __call__(self, *args: object, **settings: object) -> object:
            asked.append("train")
            on_step = settings["on_step"]

            def stop(done: int, steps: int, loss: float) -> None:
                on_step(done, steps, loss)  # type: ignore[operator]
                if len(asked) == 2 and done == steps - 3:
                    raise KeyboardInterrupt

            return self.train(*args, **(settings | {"on_step": stop}))  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(trained, "train", Interrupting())
        with pytest.raises(KeyboardInterrupt):
            run(few, trials, stopped)
    second = place(stopped, VARIANTS[1], MODELS)
    assert [path.name for path in second.iterdir()] == [STATE]
    run(few, trials, stopped)
    assert not (second / STATE).exists()
    for model in VARIANTS:
        for parent, name in ((MODELS, f"last/{WEIGHTS}"), (TRIALS, ROWS), (TRIALS, SUMMARY)):
            one, other = place(whole, model, parent), place(stopped, model, parent)
            assert one.name == other.name
            assert (one / name).read_bytes() == (other / name).read_bytes(), (model, name)
    assert (whole / SUMMARY).read_bytes() == (stopped / SUMMARY).read_bytes()


def test_attacks_with_any_settings_have_a_cost(
    few: Dataset, trials: list[Trial], tmp_path: Path
) -> None:
    plans = (
        AttackPlan("pgd", (0.1,), 5, settings={"num_steps": 2}),
        AttackPlan("multi-targeted-pgd", (0.1,), 5, settings={"num_targets": 1, "num_steps": 2}),
        AttackPlan("null-aware-pgd", (0.1,), 5, settings={"num_target_steps": 1}),
    )
    run(few, [replace(trials[0], attacks=plans, num_clean=20)], tmp_path)
    rows = read_run(tmp_path).trials[0].rows
    assert set(rows["attack"]) == {"none", *(plan.attack for plan in plans)}


def test_two_plans_that_rows_could_not_tell_apart_are_refused(trials: list[Trial]) -> None:
    fgsm = AttackPlan("fgsm", (0.1,), 5)
    for plans in (
        (fgsm, replace(fgsm, eps=(0.2,))),
        (fgsm, AttackPlan("pgd", (0.1,), 5, label="fgsm")),
        (fgsm, AttackPlan("pgd", (0.1,), 5, norm="l2")),
    ):
        with pytest.raises(UserError, match="attack"):
            replace(trials[0], attacks=plans)
    labelled = (fgsm, replace(fgsm, eps=(0.2,), label="fgsm-again"))
    assert [plan.name for plan in replace(trials[0], attacks=labelled).attacks] == [
        "fgsm", "fgsm-again"
    ]  # fmt: skip


def test_plans_without_what_they_need_are_refused(trials: list[Trial]) -> None:
    with pytest.raises(UserError, match="transfers attacks from no source"):
        replace(trials[0], attacks=(AttackPlan("fgsm", (0.1,), 5, is_transfer=True),))
    with pytest.raises(UserError, match="at thresholds it does not have"):
        replace(trials[0], attacks=(AttackPlan("fgsm", (), 5),))
    with pytest.raises(UserError, match=r"'test' of .* wanted, its training keeps last"):
        replace(trials[0], selection="test")
    selected = replace(trials[0].training, selections=("test",))
    with pytest.raises(UserError, match=r"'last' of .* wanted, its training keeps test"):
        replace(trials[0], training=selected)
    with pytest.raises(UserError, match="goes on from a training that keeps no last epoch"):
        replace(trials[0].training, start=selected)
    for eps in ((0.2, 0.1), (0.1, 0.1)):
        with pytest.raises(UserError, match="the budgets of 'pgd' must rise"):
            AttackPlan("pgd", eps, 5)
    for weight, share in ((None, None), (0.1, 0.5)):
        with pytest.raises(UserError, match="either a weight"):
            NullPlan("uniform", {}, weight=weight, share=share)


def test_a_trial_in_l2_has_its_worst_case_in_l2(
    finished: Path, few: Dataset, trials: list[Trial], tmp_path: Path
) -> None:
    plan = AttackPlan("pgd", (0.2,), 10, settings={"num_steps": 2}, norm="l2")
    run(few, [replace(trials[0], attacks=(plan,))], tmp_path)
    (trial,) = read_run(tmp_path).trials
    assert set(trial.rows["norm"]) == {"l2"}
    worst = trial.summary[trial.summary["attack"] == "union"].set_index("metric")["value"]
    rows = trial.rows[trial.rows["image"] < 10]
    clean = rows[rows["attack"] == "none"].set_index("image")["outcome"] == "correct"
    robust = rows[rows["attack"] == "pgd"].set_index("image")["outcome"] != "fooled"
    assert worst["rar"] == pytest.approx((clean & robust).mean())
    assert worst["rar"] > 0


def test_a_folder_of_other_settings_or_data_is_refused(
    finished: Path, few: Dataset, trials: list[Trial]
) -> None:
    before = stamps(finished)
    slower = [replace(t, training=replace(t.training, weight_decay=0.5)) for t in trials]
    recipe = replace(trials[0].training.recipe, epochs=3)
    longer = [replace(t, training=replace(t.training, recipe=recipe)) for t in trials]
    for other in (slower, longer, slower[1:]):
        with pytest.raises(UserError, match="other settings or data: choose another --out"):
            run(few, other, finished)
    with pytest.raises(UserError, match="other settings or data"):
        run(replace(few, checksum="0" * 64), trials, finished)
    assert stamps(finished) == before
    with pytest.raises(UserError, match="other settings or data"):
        run_study(STUDY, few, finished, engine=SerialEngine(few, CPU), device=CPU, preset="full",
                  trials=trials)  # fmt: skip
    assert stamps(finished) == before


def test_the_report_is_drawn_from_the_rows_alone(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "report.html").unlink(missing_ok=True)
    assert main(["report", str(finished)]) == 0
    told = capsys.readouterr().out
    assert "report.html" in told
    page = (finished / "report.html").read_text(encoding="utf-8")
    for model in VARIANTS:
        assert model in page
    assert "<script src" not in page
    assert "<link" not in page
    assert 'src="http' not in page


def test_a_study_of_the_command_line_refuses_this_folder(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(finished)
    assert main(["study", "fgsm-null", "--out", str(finished), "--device", "cpu"]) == 2
    assert "other settings or data" in capsys.readouterr().err.splitlines()[-1]
    assert stamps(finished) == before


# Scheduling, on a study so small that all of it is done in a second


TINY_RECIPE = Recipe(batch_size=16, epochs=1, learning_rate=3e-3)
TINY_VARIANTS = ("base", "grown", "u")


def tiny_trials(preset: str, seeds: object, variants: object) -> list[Trial]:
    """A base whose thresholds the others are attacked at; one goes on from its weights."""
    planned = []
    for seed in seeds:  # type: ignore[attr-defined]
        training = Training(
            "base", "notebook", "idx", 0, seed, 0.0, None, replace(TINY_RECIPE, epochs=4)
        )
        at_threshold = AttackPlan("fgsm", (), 4, label="at-threshold", num_examples=2)
        transfer = replace(at_threshold, is_transfer=True)
        grid = AttackPlan("fgsm", (0.05, 0.2), 3, is_transfer=True)
        beyond = replace(at_threshold, label="beyond", factor=1.5)
        base = Trial(training, (at_threshold, beyond), 20, thresholds=ThresholdPlan(30, 4))
        nulls = NullPlan("uniform", {}, share=0.3)
        grown = replace(training, name="grown", nulls=nulls, recipe=TINY_RECIPE, start=training)
        own = replace(training, name="u", nulls=nulls, selections=("test",))
        every = {
            "base": base,
            "grown": Trial(grown, (transfer, grid), 20, source=base),
            "u": Trial(own, (transfer,), 20, selection="test", source=base),
        }
        planned += [every[name] for name in variants]  # type: ignore[attr-defined]
    return planned


TINY = Study(
    name="tiny",
    claim="It runs.",
    dataset="idx",
    validation=0,
    variants=TINY_VARIANTS,
    seeds=lambda preset: [0],
    trials=tiny_trials,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = learnable_dataset(tmp_path_factory.mktemp("data"))
    return load_dataset("idx", data_dir=folder, validation=0, progress=lambda _: None)


class Watched(SerialEngine):
    """Tells in which order jobs are started, and fails those it is told to."""

    def __init__(self, dataset: Dataset, fails: Callable[[str], bool] = lambda _: False) -> None:
        super().__init__(dataset, CPU)
        self.fails = fails
        self.started: list[str] = []
        self.num_closed = 0

    def start(self, task: Task) -> None:
        (place,) = task.places
        self.started.append(place)
        if self.fails(place):
            (config,) = task.configs
            training = config if isinstance(config, Training) else config.training
            broken = replace(training, architecture="broken")
            config = broken if isinstance(config, Training) else replace(config, training=broken)
            task = replace(task, configs=(config,))
        super().start(task)

    def close(self) -> None:
        self.num_closed += 1


def names(places: list[str]) -> list[str]:
    """Without the hashes."""
    return [place.rsplit("-", 1)[0] for place in places]


def run_tiny(tiny: Dataset, folder: Path, engine: Watched | None = None, **more: object) -> Outcome:
    engine = Watched(tiny) if engine is None else engine
    outcome = run_study(TINY, tiny, folder, engine=engine, device=CPU, **more)  # type: ignore[arg-type]
    assert engine.num_closed == 1
    return outcome


@pytest.fixture(scope="module")
def tiny_run(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "run"
    engine = Watched(tiny)
    assert run_tiny(tiny, folder, engine).num_done == 6
    assert names(engine.started) == [
        "models/base-seed0", "trials/base-seed0", "models/grown-seed0", "trials/grown-seed0",
        "models/u-seed0", "trials/u-seed0",
    ]  # fmt: skip
    return folder


def test_a_training_that_goes_on_from_another_begins_with_its_weights(
    tiny_run: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    original = trained.train

    def watch(model: torch.nn.Module, *args: object, **settings: object) -> object:
        seen.append({k: v.detach().clone() for k, v in model.state_dict().items()})
        return original(model, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(trained, "train", watch)
    lose(place(tiny_run, "grown", MODELS) / RESULT)
    assert run_tiny(tiny, tiny_run).num_done == 1
    base, _ = load_checkpoint(place(tiny_run, "base", MODELS) / "last")
    assert len(seen) == 1
    for key, value in base.state_dict().items():
        assert torch.equal(seen[0][key], value), key


def test_what_is_attacked_at_thresholds_is_what_the_source_found(
    tiny_run: Path, tiny: Dataset
) -> None:
    trials = {trial.model: trial for trial in read_run(tiny_run).trials}
    told = trials["base"].thresholds
    assert len(told) == 4
    assert trials["u"].thresholds.empty, "kept once, with the trial that looked for them"
    base, _ = load_checkpoint(place(tiny_run, "base", MODELS) / "last")
    images, labels = tiny.test.batch(torch.tensor(told["image"].to_numpy()))
    thresholds = torch.tensor(told["threshold"].to_numpy(), dtype=torch.float32)
    attacked = FGSM("untargeted")(base, images, labels, eps=thresholds)
    expected = {
        "base": (base, "self"),
        "u": (load_checkpoint(place(tiny_run, "u", MODELS) / "test")[0], "base"),
        "grown": (load_checkpoint(place(tiny_run, "grown", MODELS) / "last")[0], "base"),
    }
    for name, (model, source_name) in expected.items():
        rows = trials[name].rows
        rows = rows[rows["attack"] == "at-threshold"].set_index("image").loc[told["image"]]
        assert set(rows["source"]) == {source_name}
        assert set(rows["budget"]) == {"threshold"}
        np.testing.assert_allclose(rows["eps_pixels"], told["threshold"], rtol=1e-6)
        assert rows["prediction"].tolist() == model.predict(attacked).tolist(), name
        (example,) = (e for e in trials[name].examples if e.attack == "at-threshold")
        np.testing.assert_allclose(example.budgets, thresholds[:2], rtol=1e-6)
        np.testing.assert_allclose(example.adv_images, attacked[:2], atol=1e-6)
    fallen = trials["base"].rows
    fallen = fallen[fallen["attack"] == "at-threshold"]
    assert (fallen["prediction"] != fallen["label"]).all(), "that is what a threshold is"
    beyond = trials["base"].rows.query("attack == 'beyond'").set_index("image").loc[told["image"]]
    np.testing.assert_allclose(
        beyond["eps_pixels"], np.minimum(1.5 * told["threshold"], 1), rtol=1e-6
    )
    grid = trials["grown"].rows.query("attack == 'fgsm'")
    assert set(grid["image"]) == set(told["image"][:3]), "the images found, not the first ones"
    assert set(grid["eps_pixels"]) == {0.05, 0.2}


def test_the_selected_weights_are_the_ones_attacked(tiny_run: Path) -> None:
    run_of = {trial.model: trial for trial in read_run(tiny_run).trials}
    assert [run_of[name].selection for name in TINY_VARIANTS] == ["last", "last", "test"]
    trained = place(tiny_run, "u", MODELS)
    told = json.loads((trained / RESULT).read_text())
    losses = pd.read_csv(trained / HISTORY)["test_loss"]
    assert told["epochs"] == {"test": int(losses.argmin()) + 1}
    _, card = load_checkpoint(trained / "test")
    assert card["epoch"] == told["epochs"]["test"]


def test_more_seeds_and_variants_may_join_a_run(tiny: Dataset, tmp_path: Path) -> None:
    engine = Watched(tiny)
    run_tiny(tiny, tmp_path, engine, variants=["u"])
    assert set(names(engine.started)) == {
        "models/base-seed0", "trials/base-seed0", "models/u-seed0", "trials/u-seed0"
    }, "what it is attacked from is done all the same"  # fmt: skip
    before = stamps(tmp_path)
    info = store.read_info(tmp_path)
    assert (info["models"], info["seeds"]) == (["u"], [0])
    outcome = run_tiny(tiny, tmp_path, variants=["base", "u"], seeds=[2, 0])
    assert (outcome.num_done, outcome.num_recorded) == (4, 4)
    info = store.read_info(tmp_path)
    assert (info["models"], info["seeds"]) == (["base", "u"], [0, 2])
    assert set(info["settings"]["trainings"]) == {"base", "u"}
    assert [plan["label"] for plan in info["settings"]["attacks"]].count("at-threshold") == 2
    after = stamps(tmp_path)
    for name, stamp in before.items():
        if name.startswith((TRIALS, MODELS)):
            assert after[name] == stamp, name
    told = {(trial.model, trial.seed) for trial in read_run(tmp_path).trials}
    assert told == {(name, seed) for name in ("base", "u") for seed in (0, 2)}
    summary = pd.read_csv(tmp_path / SUMMARY, keep_default_na=False, na_values=[""])
    assert set(zip(summary["model"], summary["seed"], strict=True)) == told
    with pytest.raises(UserError, match="no variant 'x': choose from base, grown, u"):
        run_tiny_and_refuse(tiny, tmp_path)


def run_tiny_and_refuse(tiny: Dataset, folder: Path) -> None:
    run_study(TINY, tiny, folder, engine=SerialEngine(tiny, CPU), device=CPU, variants=["x"])


def test_a_trial_planned_otherwise_takes_the_place_of_the_one_before(
    tiny: Dataset, tmp_path: Path
) -> None:
    run_tiny(tiny, tmp_path, variants=["base"])
    (before,) = (tmp_path / TRIALS).iterdir()
    (base,) = tiny_trials("quick", [0], ["base"])
    outcome = run_tiny(tiny, tmp_path, trials=[replace(base, num_clean=30)])
    assert (outcome.num_done, outcome.num_recorded) == (1, 1), "the training is the same"
    (trial,) = read_run(tmp_path).trials
    assert trial.folder != before
    assert (trial.rows["attack"] == "none").sum() == 30
    assert is_complete(before), "left where it was"
    summary = frames.read_frame(tmp_path / SUMMARY)
    assert set(summary.loc[summary["attack"] == "none", "num_images"]) == {30}


def test_a_training_whose_state_cannot_be_used_is_begun_again(
    tiny_run: Path, tiny: Dataset, tmp_path: Path
) -> None:
    whole = place(tiny_run, "base", MODELS)
    begun = tmp_path / MODELS / whole.name
    begun.mkdir(parents=True)
    (begun / STATE).write_bytes(b"cut short")
    outcome = run_tiny(tiny, tmp_path, variants=["base"])
    assert (outcome.num_done, outcome.failed) == (2, {})
    assert not (begun / STATE).exists()
    weights = f"last/{WEIGHTS}"
    assert (begun / weights).read_bytes() == (whole / weights).read_bytes()


def test_nothing_to_do_is_told(tiny: Dataset, tmp_path: Path) -> None:
    for nothing in ({"seeds": []}, {"variants": []}, {"trials": []}):
        with pytest.raises(UserError, match="nothing to do: name seeds and variants of tiny"):
            run_study(TINY, tiny, tmp_path, engine=SerialEngine(tiny, CPU), device=CPU, **nothing)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_whose_results_do_not_arrive_has_failed(tiny: Dataset, tmp_path: Path) -> None:
    class Elsewhere(Watched):
        """Works in a folder that nobody sees."""

        def start(self, task: Task) -> None:
            super().start(replace(task, run_folder=tmp_path / "elsewhere"))

    outcome = run_tiny(tiny, tmp_path / "run", Elsewhere(tiny), variants=["base"])
    assert outcome.num_done == 0
    assert outcome.failed["training base, seed 0"].startswith("its result is not in the run folder")


def test_what_fails_three_times_is_given_up_with_what_needs_it_and_the_rest_goes_on(
    tiny: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Watched(tiny, fails=lambda place: place.startswith("models/base-seed1"))
    outcome = run_tiny(tiny, tmp_path, engine, seeds=[1, 0])
    started = names(engine.started)
    assert started.count("models/base-seed1") == sweep.NUM_ATTEMPTS == 3
    assert not any(name.startswith(("trials/base-seed1", "models/grown-seed1")) for name in started)
    # u's training needs nothing of base, its trial does.
    assert "models/u-seed1" in started
    assert "trials/u-seed1" not in started
    assert outcome.num_done == 6 + 1
    given_up = "training base, seed 1"
    assert set(outcome.failed) == {
        given_up, "attacking base, seed 1", "training grown, seed 1", "attacking grown, seed 1",
        "attacking u, seed 1, selected on test",
    }  # fmt: skip
    assert "no model 'broken'" in outcome.failed[given_up]
    for title, reason in outcome.failed.items():
        assert title == given_up or reason == f"it needs what failed: {given_up}"
    assert f"{given_up} was given up: there is no model 'broken'" in str(outcome)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("trying again") == 2
    assert f"{given_up}: given up after 3 attempts, and with it 4 jobs that need it" in told
    assert {trial.seed for trial in read_run(tmp_path).trials} == {0}
    # The same call tries again, and nothing else.
    again = Watched(tiny)
    outcome = run_tiny(tiny, tmp_path, again, seeds=[1, 0])
    assert (outcome.num_done, outcome.num_recorded, outcome.failed) == (5, 7, {})
    assert names(again.started)[0] == "models/base-seed1"


def test_what_fails_once_or_twice_is_done_in_the_end(tiny: Dataset, tmp_path: Path) -> None:
    engine = Watched(tiny)
    engine.fails = lambda place: (
        place.startswith("trials/u-seed0")
        and names(engine.started).count("trials/u-seed0") < sweep.NUM_ATTEMPTS
    )
    outcome = run_tiny(tiny, tmp_path, engine)
    assert names(engine.started).count("trials/u-seed0") == 3
    assert (outcome.num_done, outcome.failed) == (6, {})


def test_any_exception_of_a_job_costs_that_job_only(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = work.score_attack

    def breaks(model: object, data: object, chosen: object, name: str, *args: object,
               **more: object) -> object:  # fmt: skip
        if name == "fgsm":
            raise ZeroDivisionError("a bug")
        return original(model, data, chosen, name, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "score_attack", breaks)
    outcome = run_tiny(tiny, tmp_path)
    assert outcome.failed == {"attacking grown, seed 0": "ZeroDivisionError: a bug"}
    assert outcome.num_done == 5


def test_a_disk_that_refuses_ends_the_run_at_once(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise CannotWriteError("cannot write: disk full")

    monkeypatch.setattr(work, "write_training", full)
    engine = Watched(tiny)
    with pytest.raises(CannotWriteError, match="disk full"):
        run_tiny(tiny, tmp_path, engine)
    assert len(engine.started) == 1, "no use in trying again"
    assert engine.num_closed == 1


def test_a_run_in_use_is_refused_and_left_alone(tiny_run: Path, tiny: Dataset) -> None:
    before = stamps(tiny_run)
    with locked(tiny_run):
        with pytest.raises(UserError, match="another process is running a study"):
            run_study(TINY, tiny, tiny_run, engine=SerialEngine(tiny, CPU), device=CPU)
        assert stamps(tiny_run) == before
    with locked(tiny_run):
        pass  # free again


def test_two_engines_do_not_start_what_waits(tiny: Dataset, tmp_path: Path) -> None:
    """An engine with much room is never given a job before what it needs is whole."""

    class Roomy(Watched):
        """Takes on tasks at once, does the last first."""

        def __init__(self) -> None:
            super().__init__(tiny)
            self.tasks: list[Task] = []
            self.most = 0

        def has_room(self) -> bool:
            return True

        def start(self, task: Task) -> None:
            for config in task.configs:
                needs = {job.place: job.needs for job in jobs}[place_of(config, tiny.checksum)]
                assert all(is_complete(tmp_path / need) for need in needs)
            self.started += task.places
            self.tasks.append(task)
            self.most = max(self.most, len(self.tasks))

        def wait(self, tell: Tell) -> None:
            self._task = self.tasks.pop()
            super().wait(tell)

    jobs = jobs_of(tiny_trials("quick", [0, 1], TINY_VARIANTS), tiny.checksum)
    engine = Roomy()
    outcome = run_tiny(tiny, tmp_path, engine, seeds=[0, 1])
    assert outcome.num_done == len(jobs) == 12
    assert sorted(engine.started) == sorted(job.place for job in jobs), "each once"
    assert engine.most >= 4

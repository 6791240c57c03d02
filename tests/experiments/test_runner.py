"""A study of tiny models: run, interrupted, damaged, resumed, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import PROVENANCE
from msgspec import structs
from pandas_defaults import check_tables
from tiny_study import CPU, NUM_JOBS, TINY, VALIDATION, results, run_here, trials

from nullclass import load_checkpoint
from nullclass.attacks import FGSM
from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import locked, make_folder
from nullclass.data import Dataset
from nullclass.experiments import runner, trainings
from nullclass.experiments import trials as trial_jobs
from nullclass.experiments.config import AttackPlan, Config
from nullclass.experiments.engines import serial
from nullclass.experiments.engines.base import Report, Task
from nullclass.experiments.engines.serial import SerialEngine
from nullclass.experiments.jobs import folder_of, jobs_of
from nullclass.experiments.runner import NUM_ATTEMPTS, RunResult, plan_trials, run_study
from nullclass.results import schema, store
from nullclass.results.info import TrainingResult
from nullclass.results.run import read_run
from nullclass.results.schema import CLEAN, MODELS, RESULT, ROWS, STATE, SUMMARY, TRIALS
from nullclass.results.store import is_complete
from nullclass.training.checkpoint import CARD, WEIGHTS


def folder_in(run: Path, model: str, parent: str = TRIALS, seed: int = 0) -> Path:
    (found,) = (run / parent).glob(f"{model}-seed{seed}-*")
    return found


def stamps(run: Path) -> dict[str, int]:
    """When each file of a job was written."""
    return {
        path.relative_to(run).as_posix(): path.stat().st_mtime_ns
        for parent in (MODELS, TRIALS)
        for path in sorted((run / parent).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run to damage."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


# What a run holds


def test_run_folder(finished: Path, dataset: Dataset) -> None:
    assert check_tables(finished) >= {ROWS, SUMMARY, schema.HISTORY, schema.THRESHOLDS}
    info = store.read_info(finished)
    assert (info.study, info.models, info.seeds) == ("tiny", list(TINY.variants), [0, 1])
    assert info.data.checksum == dataset.checksum
    assert info.data.num_training_images == len(dataset.train)
    assert set(info.results) == set(info.trials.values())
    assert set(info.settings.trainings) == set(TINY.variants)
    for trial in read_run(finished).trials:
        trained = finished / str(trial.result.trained_in)
        assert is_complete(trained)
        assert is_complete(trial.folder)
        model, card = load_checkpoint(trained / trial.selection)
        assert card.origin.data_checksum == dataset.checksum
        assert trial.history["epoch"].tolist() == [1, 2, 3, 4, 5]
        images, labels = dataset.test.batch(slice(None))
        clean = trial.rows[trial.rows["attack"] == CLEAN]
        assert clean["label"].tolist() == labels[: len(clean)].tolist()
        assert clean["prediction"].tolist() == model.predict(images)[: len(clean)].tolist()
        is_null = trial.rows["prediction"] == -1
        assert (trial.rows["outcome"].eq("null") == is_null).all()


def test_selected_weights_are_those_attacked(finished: Path) -> None:
    selections = {trial.model: trial.selection for trial in read_run(finished).trials}
    assert selections == {"base": "last", "grown": "last", "noisy": "test"}
    trained = folder_in(finished, "noisy", MODELS)
    epochs = json.loads((trained / RESULT).read_text())["epochs"]
    losses = pd.read_csv(trained / schema.HISTORY)
    assert epochs == {
        "test": int(losses["test_loss"].argmin()) + 1,
        "held-out": int(losses["held-out_loss"].argmin()) + 1,
    }
    origin = load_checkpoint(trained / "test")[1].origin
    assert (origin.epoch, origin.selected_on) == (epochs["test"], "test")
    threats = {trial.model: trial.result.threat for trial in read_run(finished).trials}
    assert threats["noisy"].selected_on == "test"
    assert threats["base"].selected_on == "nothing"


def test_the_last_epoch_is_no_selection() -> None:
    noisy = next(trial.training for trial in trials("quick", [0], ["noisy"]))
    falling = replace(noisy, recipe=replace(noisy.recipe, schedule="triangle"))
    found = [each.selected_on(name) for each in (noisy, falling) for name in ("test", "last")]
    assert found == ["test", None, None, None]


def test_rates_are_those_of_the_rows(finished: Path) -> None:
    """AER and RAR by brute force, and the published figure beside each rate."""
    summary = pd.read_csv(finished / SUMMARY)
    assert set(summary["study"]) == {"tiny"}
    checked = 0
    for trial in read_run(finished).trials:
        rows = list(
            trial.rows[["attack", "eps_pixels", "outcome", "image"]].itertuples(index=False)
        )
        correct = {i for a, _, o, i in rows if a == CLEAN and o == "correct"}
        of = summary[(summary["model"] == trial.model) & (summary["seed"] == trial.seed)]
        for line in of[of["metric"].isin(["aer", "rar"])].to_dict("records"):
            eps = line["eps_pixels"]
            attacked = {i for a, e, _, i in rows if a != CLEAN and abs(e - eps) < 1e-6}
            fooled = {i for _, e, o, i in rows if e <= eps + 1e-6 and o == "fooled"}
            hits = attacked & (fooled if line["metric"] == "aer" else correct - fooled)
            if line["num_images"] == len(attacked):
                assert line["value"] == pytest.approx(len(hits) / len(attacked), abs=1e-5), line
                checked += 1
    assert checked == 4
    published = summary[summary["published"].notna()]
    assert set(published["metric"]) == {"correct_rate"}


def test_attacks_at_thresholds_are_made_on_the_source(finished: Path, dataset: Dataset) -> None:
    found = {trial.model: trial for trial in read_run(finished).trials if trial.seed == 0}
    table = found["base"].thresholds
    assert len(table) == 4
    assert found["noisy"].thresholds.empty, "kept once, with the trial that searched them"
    base, _ = load_checkpoint(folder_in(finished, "base", MODELS) / "last")
    images, labels = dataset.test.batch(torch.tensor(table["image"].to_numpy()))
    thresholds = torch.tensor(table["threshold"].to_numpy(), dtype=torch.float32)
    adv_images = FGSM()(base, images, labels, eps=thresholds)
    for name, trial in found.items():
        model, _ = load_checkpoint(finished / str(trial.result.trained_in) / trial.selection)
        rows = trial.rows.query("attack == 'at-threshold'").set_index("image").loc[table["image"]]
        assert set(rows["source"]) == {"self" if name == "base" else "base"}
        assert rows["has_own_eps"].all()
        np.testing.assert_allclose(rows["eps_pixels"], table["threshold"], rtol=1e-6)
        assert rows["prediction"].tolist() == model.predict(adv_images).tolist()
        (example,) = (e for e in trial.examples if e.attack == "at-threshold")
        np.testing.assert_allclose(example.budgets, thresholds[:2], rtol=1e-6)
        np.testing.assert_allclose(example.adv_images, adv_images[:2], atol=1e-6)
    at_threshold = found["base"].rows.query("attack == 'at-threshold'")
    assert (at_threshold["prediction"] != at_threshold["label"]).all()
    beyond = found["base"].rows.query("attack == 'beyond'").set_index("image").loc[table["image"]]
    expected = np.minimum(1.5 * table["threshold"], 1)
    np.testing.assert_allclose(beyond["eps_pixels"], expected, rtol=1e-6)
    grid = found["grown"].rows.query("attack == 'fgsm'")
    assert set(grid["image"]) == set(table["image"][:3]), "the images found, not the first ones"


def test_a_start_gives_the_initial_weights(
    copy: Path, finished: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial: list[dict[str, torch.Tensor]] = []
    train = trainings.train

    def watch(model: torch.nn.Module, *args: object, **settings: object) -> object:
        initial.append({k: v.detach().clone() for k, v in model.state_dict().items()})
        return train(model, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(trainings, "train", watch)
    (folder_in(copy, "grown", MODELS) / RESULT).unlink()
    assert run_here(dataset, copy).num_done == 1
    base, _ = load_checkpoint(folder_in(copy, "base", MODELS) / "last")
    (found,) = initial
    assert all(torch.equal(found[key], value) for key, value in base.state_dict().items())
    assert results(copy) == results(finished)


# Resuming


def lose(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("parent", "name", "harm"),
    [
        (TRIALS, ROWS, lose),
        (TRIALS, SUMMARY, flip),
        (TRIALS, schema.EXAMPLES, cut),
        (TRIALS, RESULT, cut),
        (MODELS, f"test/{WEIGHTS}", flip),
        (MODELS, f"held-out/{CARD}", lose),
        (MODELS, RESULT, lose),
    ],
)
def test_only_damaged_jobs_are_done_again(
    parent: str, name: str, harm: Callable[[Path], None], copy: Path, dataset: Dataset
) -> None:
    damaged = folder_in(copy, "noisy", parent)
    before, bytes_before = stamps(copy), results(copy)
    harm(damaged / name)
    result = run_here(dataset, copy)
    assert (result.num_done, result.num_skipped, result.failed) == (1, NUM_JOBS - 1, {})
    assert results(copy) == bytes_before, "to the byte"
    after = stamps(copy)
    changed = {path for path in before if after.get(path) != before[path]}
    assert {path.split("/")[1] for path in changed} == {damaged.name}
    assert str(result) == ""
    assert run_here(dataset, copy).num_skipped == NUM_JOBS


def test_a_damaged_trial_of_another_seed_does_not_stop_a_run(
    copy: Path, finished: Path, dataset: Dataset
) -> None:
    cut(folder_in(copy, "noisy", seed=1) / ROWS)
    assert run_here(dataset, copy, seeds=[0]).num_skipped == NUM_JOBS // 2
    run = read_run(copy)
    assert [damaged.title for damaged in run.damaged] == ["noisy, seed 1, test"]
    assert ("noisy", 1) not in {(trial.model, trial.seed) for trial in run.trials}
    assert run_here(dataset, copy, seeds=[1]).num_done == 1
    assert read_run(copy).damaged == []
    assert results(copy) == results(finished)


def test_interrupted_in_the_middle_of_a_training(
    finished: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = trainings.train

    def interrupt(*args: object, on_step: Callable[..., None], **settings: object) -> object:
        def stop(step: int, num_steps: int, loss: float) -> None:
            on_step(step, num_steps, loss)
            if step == num_steps - 3:
                raise KeyboardInterrupt

        return train(*args, on_step=stop, **settings)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(trainings, "train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_here(dataset, tmp_path, seeds=[0], variants=["noisy"])
    stopped = folder_in(tmp_path, "noisy", MODELS)
    assert [path.name for path in stopped.iterdir()] == [STATE]
    run_here(dataset, tmp_path, seeds=[0], variants=["noisy"])
    assert not (stopped / STATE).exists()
    whole = results(finished)
    found = {path: content for path, content in results(tmp_path).items() if path != SUMMARY}
    assert len(found) == 8, "three checkpoints, two trials with rows and summary, thresholds"
    assert found.items() <= whole.items()


def test_a_damaged_state_starts_the_training_again(
    finished: Path, dataset: Dataset, tmp_path: Path
) -> None:
    whole = folder_in(finished, "base", MODELS)
    begun = tmp_path / MODELS / whole.name
    begun.mkdir(parents=True)
    store.write_info(tmp_path, store.read_info(finished))
    (begun / STATE).write_bytes(b"cut short")
    assert run_here(dataset, tmp_path, variants=["base"], seeds=[0]).num_done == 2
    assert not (begun / STATE).exists()
    assert (begun / "last" / WEIGHTS).read_bytes() == (whole / "last" / WEIGHTS).read_bytes()


def test_more_seeds_and_variants_join_a_run(dataset: Dataset, tmp_path: Path) -> None:
    result = run_here(dataset, tmp_path, variants=["grown"], seeds=[0])
    assert result.num_done == 4, "with the trial of its source"
    before, info = stamps(tmp_path), store.read_info(tmp_path)
    assert (info.models, info.seeds, info.selections) == (["grown"], [0], ["last"])
    result = run_here(dataset, tmp_path, variants=["base", "grown"], seeds=[2, 0])
    assert (result.num_done, result.num_skipped) == (4, 4)
    info = store.read_info(tmp_path)
    assert (info.models, info.seeds) == (["base", "grown"], [0, 2])
    assert set(info.settings.trainings) == {"base", "grown"}
    labels = [plan["label"] for plan in info.settings.attacks]
    assert labels.count("at-threshold") == 2, "own and transferred, each once"
    assert stamps(tmp_path).items() >= before.items()
    found = {(trial.model, trial.seed) for trial in read_run(tmp_path).trials}
    assert found == {(name, seed) for name in ("base", "grown") for seed in (0, 2)}
    # One report cannot describe models that are evaluated with other settings.
    (base,) = trials("quick", [1], ["base"])
    before = stamps(tmp_path)
    for changed in (replace(base, num_clean=30), replace(base, null_rate=0.1)):
        with pytest.raises(UserError, match="holds base, last with other settings or data"):
            run_here(dataset, tmp_path, trials=[changed])
    assert stamps(tmp_path) == before


def test_results_of_another_device_are_noted(dataset: Dataset, tmp_path: Path) -> None:
    run_here(dataset, tmp_path, variants=["base"], seeds=[0])
    store.write_info(tmp_path, structs.replace(store.read_info(tmp_path), device="cuda:0"))
    run_here(dataset, tmp_path, variants=["base"], seeds=[0])
    assert store.read_info(tmp_path).notes == [], "nothing was computed here"
    for _ in range(2):
        run_here(dataset, tmp_path, variants=["base"], seeds=[1])
    (note,) = store.read_info(tmp_path).notes
    assert ", cpu, " in note


def test_a_report_being_drawn_is_waited_for(finished: Path, dataset: Dataset) -> None:
    with ThreadPoolExecutor() as pool:
        with store.drawing(finished):
            again = pool.submit(run_here, dataset, finished)
            assert not wait([again], timeout=2).done
        assert again.result(timeout=60).num_skipped == NUM_JOBS


def test_a_new_field_with_a_default_changes_no_run(dataset: Dataset, tmp_path: Path) -> None:
    """What a run records for comparison leaves out fields at their default."""
    run_here(dataset, tmp_path, variants=["base"], seeds=[0])
    recorded = store.read_info(tmp_path).settings.trials["base, last"]
    assert "is_checked" not in recorded
    assert "max_gradient" not in recorded["training"]["recipe"]


def test_a_trial_waits_for_the_weights_of_its_source(dataset: Dataset) -> None:
    """The source's own trial may be finished while its weights are gone."""
    (noisy,) = trials("quick", [0], ["noisy"])
    assert noisy.source is not None
    needs = {job.folder: job.needs for job in jobs_of([noisy], dataset.checksum)}
    weights = folder_of(noisy.source.training, dataset.checksum)
    assert weights in needs[folder_of(noisy, dataset.checksum)]


def test_the_folder_is_locked_until_the_workers_have_stopped(
    dataset: Dataset, tmp_path: Path
) -> None:
    refusals = []

    class Interrupted(SerialEngine):
        def start(self, task: Task) -> None:
            raise KeyboardInterrupt

        def close(self) -> None:
            with pytest.raises(UserError, match="another process is writing"), locked(tmp_path):
                pass
            refusals.append(True)

    engine = Interrupted(dataset, CPU)
    with pytest.raises(KeyboardInterrupt):
        run_study(TINY, dataset, tmp_path, engine=engine, device=CPU)
    assert refusals == [True]
    with locked(tmp_path):
        pass  # free again


def test_a_trial_in_l2(dataset: Dataset, tmp_path: Path) -> None:
    plan = AttackPlan("pgd", (0.2,), 10, settings={"num_steps": 2}, norm="l2")
    (base,) = trials("quick", [0], ["base"])
    run_here(dataset, tmp_path, trials=[replace(base, attacks=(plan,), is_checked=True)])
    (trial,) = read_run(tmp_path).trials
    assert set(trial.rows["norm"]) == {"l2"}
    assert trial.result.probes, "the probes ran"


# Refusals


def test_another_run_in_the_folder_is_refused(finished: Path, dataset: Dataset) -> None:
    before = stamps(finished)
    planned = trials("quick", [0], TINY.variants)
    slower = [replace(t, training=replace(t.training, weight_decay=0.5)) for t in planned[:1]]
    for data, settings in (
        (dataset, {"trials": slower}),
        (replace(dataset, checksum="0" * 64), {}),
        (dataset, {"preset": "full"}),
    ):
        with pytest.raises(UserError, match="other settings or data: choose another --out"):
            run_here(data, finished, **settings)
    assert stamps(finished) == before


def test_a_run_in_use_is_refused(finished: Path, dataset: Dataset) -> None:
    before = stamps(finished)
    with locked(finished), pytest.raises(UserError, match="another process is writing to"):
        run_here(dataset, finished)
    assert stamps(finished) == before
    with locked(finished):
        pass  # free again


def test_nothing_to_do_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    for nothing in ({"seeds": []}, {"variants": []}, {"trials": []}):
        with pytest.raises(UserError, match="nothing to do: name seeds and variants of tiny"):
            run_here(dataset, tmp_path, **nothing)
    with pytest.raises(UserError, match="no variant 'x': choose from base, grown, noisy"):
        run_here(dataset, tmp_path, variants=["x"])
    assert list(tmp_path.iterdir()) == []
    assert dataset.validation is not None
    less = replace(dataset, validation=dataset.validation.first(VALIDATION - 1))
    result = run_here(less, tmp_path, variants=["base"], seeds=[0])
    assert "with 16 images held out, but the dataset is letters with 15" in str(result)


# Scheduling


class WatchedEngine(SerialEngine):
    """Records the order of jobs, and fails some."""

    def __init__(self, dataset: Dataset, fails: Callable[[str], bool] = lambda _: False) -> None:
        super().__init__(dataset, CPU)
        self.fails = fails
        self.started: list[str] = []
        self.num_closed = 0

    def start(self, task: Task) -> None:
        name = task.job.folder.rsplit("-", 1)[0]  # without the hash
        self.started.append(name)
        if self.fails(name):
            task = replace(task, data_checksum="broken")
        super().start(task)

    def close(self) -> None:
        self.num_closed += 1


def run_watched(engine: WatchedEngine, folder: Path, **chosen: Any) -> RunResult:
    trials = plan_trials(TINY, "quick", **chosen)
    result = run_study(TINY, engine.dataset, folder, engine=engine, device=CPU, trials=trials)
    assert engine.num_closed == 1
    return result


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs write nothing but their result."""

    def run_task(config: Config, run_folder: Path, dataset: Dataset, **_: object) -> None:
        result = TrainingResult(name="x", seed=0, epochs={}, provenance=PROVENANCE)
        store.finalize(make_folder(run_folder / folder_of(config, dataset.checksum)), result)

    monkeypatch.setattr(serial, "run_task", run_task)
    monkeypatch.setattr(runner, "write_summary", lambda *_: None)
    monkeypatch.setattr(runner, "read_run", lambda *_: None)


@pytest.mark.usefixtures("pretend")
def test_a_job_that_fails_three_times_is_given_up_with_what_needs_it(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = WatchedEngine(dataset, lambda name: name == "models/base-seed1")
    result = run_watched(engine, tmp_path, seeds=[1, 0])
    assert NUM_ATTEMPTS == 3
    # Of seed 1 only the training of noisy needs nothing of base.
    assert engine.started == [
        *["models/base-seed1"] * 3, "models/noisy-seed1",
        "models/base-seed0", "trials/base-seed0", "models/grown-seed0", "trials/grown-seed0",
        "models/noisy-seed0", "trials/noisy-seed0",
    ]  # fmt: skip
    assert result.num_done == 7
    title = "training base, seed 1"
    assert "the checksums differ" in result.failed[title]
    needed = f"it needs what failed: {title}"
    assert result.failed == {
        title: result.failed[title],
        "attacking base, seed 1": needed,
        "training grown, seed 1": needed,
        "attacking grown, seed 1": needed,
        "attacking noisy, seed 1, selected on test": needed,
    }
    lines = " ".join(capsys.readouterr().err.split())
    assert lines.count("trying again") == 2
    assert f"{title}: given up after 3 attempts, and with it 4 jobs that need it" in lines
    assert f"{title}: given up (the worker's letters is not the data of this run" in str(result)
    # The same call tries again, and nothing else.
    again = WatchedEngine(dataset)
    result = run_watched(again, tmp_path, seeds=[1, 0])
    assert (result.num_done, result.num_skipped, result.failed) == (5, 7, {})
    assert again.started[0] == "models/base-seed1"


@pytest.mark.usefixtures("pretend")
def test_a_job_that_fails_twice_is_done_in_the_end(dataset: Dataset, tmp_path: Path) -> None:
    engine = WatchedEngine(dataset)
    engine.fails = lambda name: (
        name == "trials/base-seed0" and engine.started.count(name) < NUM_ATTEMPTS
    )
    result = run_watched(engine, tmp_path)
    assert engine.started.count("trials/base-seed0") == 3
    assert (result.num_done, result.failed) == (NUM_JOBS, {})


@pytest.mark.usefixtures("pretend")
def test_no_job_starts_before_what_it_needs(dataset: Dataset, tmp_path: Path) -> None:
    """An engine with room for all jobs, which does the last first."""
    planned = jobs_of(trials("quick", [0, 1], TINY.variants), dataset.checksum)
    jobs = {job.folder: job for job in planned}

    class Roomy(WatchedEngine):
        def __init__(self) -> None:
            super().__init__(dataset)
            self.tasks: list[Task] = []
            self.most = 0

        def has_room(self) -> bool:
            return True

        def start(self, task: Task) -> None:
            assert all(is_complete(tmp_path / need) for need in jobs[task.job.folder].needs)
            self.started.append(task.job.folder)
            self.tasks.append(task)
            self.most = max(self.most, len(self.tasks))

        def wait(self, report: Report) -> None:
            self._task = self.tasks.pop()
            super().wait(report)

    engine = Roomy()
    assert run_watched(engine, tmp_path).num_done == len(jobs) == NUM_JOBS
    assert sorted(engine.started) == sorted(jobs), "each once"
    assert engine.most >= 4


@pytest.mark.usefixtures("pretend")
def test_results_that_do_not_arrive_have_failed(dataset: Dataset, tmp_path: Path) -> None:
    class Elsewhere(WatchedEngine):
        def start(self, task: Task) -> None:
            super().start(replace(task, run_folder=tmp_path / "elsewhere"))

    result = run_watched(Elsewhere(dataset), tmp_path / "run")
    assert result.num_done == 0
    reason = result.failed["training base, seed 0"]
    assert reason.startswith("its result is not in the run folder")


def test_an_exception_fails_its_own_job_only(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_attack = trial_jobs.score_attack

    def breaks(model: object, data: object, indices: object, name: str, *args: object,
               **settings: object) -> object:  # fmt: skip
        if name == "fgsm":
            raise ZeroDivisionError("a bug")
        return score_attack(model, data, indices, name, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(trial_jobs, "score_attack", breaks)
    result = run_here(dataset, tmp_path, seeds=[0], variants=["grown"])
    assert result.failed == {"attacking grown, seed 0": "ZeroDivisionError: a bug"}
    assert result.num_done == 3


def test_a_full_disk_ends_the_run_at_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise CannotWriteError("cannot write: disk full")

    monkeypatch.setattr(serial, "run_task", full)
    engine = WatchedEngine(dataset)
    with pytest.raises(CannotWriteError, match="disk full"):
        run_study(TINY, dataset, tmp_path, engine=engine, device=CPU)
    assert len(engine.started) == engine.num_closed == 1, "retrying is useless"

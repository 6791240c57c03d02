"""A study end to end on a few hundred real images: run, stopped, resumed, reported."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from nullclass import load_checkpoint, sweep
from nullclass.cli import main
from nullclass.data import Dataset
from nullclass.errors import UserError
from nullclass.models.checkpoint import CARD, WEIGHTS
from nullclass.records import (
    HISTORY,
    RESULT,
    ROWS,
    RUN,
    SUMMARY,
    SUMMARY_COLUMNS,
    read_run,
    trial_folder,
)
from nullclass.studies import AttackPlan, Trial, find_study
from nullclass.sweep import run_study
from nullclass.train import STATE

STUDY = find_study("fgsm-null")
MODELS = ("clean-wd", "null-0.5-wd")
NUM_TRAIN, NUM_TEST, NUM_ATTACKED = 600, 300, 20


@pytest.fixture(scope="module")
def few(mnist: Dataset) -> Dataset:
    return replace(mnist, train=mnist.train.first(NUM_TRAIN), test=mnist.test.first(NUM_TEST))


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    """Two models of the study, with fewer and smaller attacks."""
    shrunk = []
    for trial in STUDY.trials("quick"):
        if trial.model not in MODELS:
            continue
        fgsm, pgd = trial.attacks
        attacks = (
            replace(fgsm, num_images=60),
            replace(pgd, num_images=NUM_ATTACKED, eps=(0.1, 0.3),
                    settings={"num_steps": 5, "num_target_steps": 3}),
        )  # fmt: skip
        recipe = replace(trial.training.recipe, batch_size=32, epochs=2)
        training = replace(trial.training, recipe=recipe)
        shrunk.append(
            replace(trial, training=training, attacks=attacks, num_clean=NUM_TEST, num_examples=2)
        )
    return shrunk


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(few: Dataset, trials: list[Trial], folder: Path) -> None:
    run_study(STUDY, few, folder, preset="quick", device=torch.device("cpu"), trials=trials)


@pytest.fixture(scope="module")
def finished(few: Dataset, trials: list[Trial], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "run"
    run(few, trials, folder)
    return folder


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_is_whole(finished: Path, few: Dataset) -> None:
    info = json.loads((finished / RUN).read_text())
    assert info["study"] == "fgsm-null"
    assert info["models"] == list(MODELS)
    assert info["seeds"] == [0]
    assert info["data"]["checksum"] == few.checksum
    assert info["data"]["num_training_images"] == NUM_TRAIN
    assert {"versions", "commit", "machine", "device", "started", "seconds"} <= set(info)
    for model in MODELS:
        place = trial_folder(finished, model, 0)
        names = {path.name for path in place.iterdir()}
        assert {WEIGHTS, CARD, HISTORY, ROWS, RESULT, "examples.safetensors"} == names
        loaded, card = load_checkpoint(place)
        assert loaded.has_null is (model != "clean-wd")
        assert card["data_checksum"] == few.checksum
        assert pd.read_csv(place / HISTORY)["epoch"].tolist() == [1, 2]
        assert not (place / STATE).exists()


def test_rows_are_what_the_checkpoint_says(finished: Path, few: Dataset) -> None:
    for trial in read_run(finished).trials:
        model, _ = load_checkpoint(trial_folder(finished, trial.model, trial.seed))
        images, labels = few.test.batch(slice(0, NUM_TEST))
        clean = trial.rows[trial.rows["attack"] == "none"].sort_values("image")
        assert clean["image"].tolist() == list(range(NUM_TEST))
        assert clean["label"].tolist() == labels.tolist()
        assert clean["prediction"].tolist() == model.predict(images).tolist()
        counts = trial.rows.groupby(["attack", "eps_pixels"]).size()
        assert set(counts["fgsm"]) == {60}
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
    assert set(summary["model"]) == set(MODELS)
    assert not summary.duplicated(SUMMARY_COLUMNS[:8]).any()
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
    for name in ("train", "evaluate"):
        monkeypatch.setattr(sweep, name, None)  # nobody may call it
    started = time.monotonic()
    run(few, trials, finished)
    assert time.monotonic() - started < 5
    trial_files = {name: stamp for name, stamp in before.items() if name.startswith("trials")}
    assert {n: s for n, s in stamps(finished).items() if n.startswith("trials")} == trial_files


@pytest.mark.parametrize("lost", [RESULT, ROWS])
def test_only_what_is_lacking_is_redone(
    lost: str, finished: Path, few: Dataset, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", None)  # the checkpoint is there
    place = trial_folder(finished, MODELS[1], 0)
    rows, before = (place / ROWS).read_bytes(), stamps(finished)
    (place / lost).unlink()
    run(few, trials, finished)
    after = stamps(finished)
    changed = {name for name in before if after.get(name) != before[name]}
    trial = f"trials/{place.name}"
    assert {n for n in changed if n.startswith("trials")} == {
        f"{trial}/{name}" for name in (HISTORY, ROWS, RESULT, "examples.safetensors")
    }
    assert (place / ROWS).read_bytes() == rows, "the same checkpoint, the same rows"


def test_rows_lost_in_every_trial(finished: Path, few: Dataset, trials: list[Trial]) -> None:
    before = {}
    for model in MODELS:
        path = trial_folder(finished, model, 0) / ROWS
        before[path] = path.read_bytes()
        path.unlink()
    run(few, trials, finished)
    assert {path: path.read_bytes() for path in before} == before


def test_interrupted_in_the_middle_of_a_trial(
    finished: Path,
    few: Dataset,
    trials: list[Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(few, trials, whole)
    asked: list[str] = []

    class Interrupting:
        """Stops the second training in its second epoch."""

        def __init__(self) -> None:
            self.train = sweep.train

        def __call__(self, *args: object, **settings: object) -> object:
            asked.append("train")
            on_step = settings["on_step"]

            def stop(done: int, steps: int, loss: float) -> None:
                on_step(done, steps, loss)  # type: ignore[operator]
                if len(asked) == 2 and done == steps - 3:
                    raise KeyboardInterrupt

            return self.train(*args, **(settings | {"on_step": stop}))  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "train", Interrupting())
        with pytest.raises(KeyboardInterrupt):
            run(few, trials, stopped)
    second = trial_folder(stopped, MODELS[1], 0)
    assert [path.name for path in second.iterdir()] == [STATE]
    run(few, trials, stopped)
    for model in MODELS:
        one, other = trial_folder(whole, model, 0), trial_folder(stopped, model, 0)
        for name in (WEIGHTS, ROWS):
            assert (one / name).read_bytes() == (other / name).read_bytes(), (model, name)
    assert (whole / SUMMARY).read_bytes() == (stopped / SUMMARY).read_bytes()


def test_attacks_with_any_settings_have_a_cost(
    few: Dataset, trials: list[Trial], tmp_path: Path
) -> None:
    plans = (
        AttackPlan("pgd", (0.1,), 5, settings={"num_steps": 2}),
        AttackPlan("pgd-targeted", (0.1,), 5, settings={"num_targets": 1, "num_steps": 2}),
        AttackPlan("null-aware-pgd", (0.1,), 5, settings={"num_target_steps": 1}),
    )
    run(few, [replace(trials[0], attacks=plans, num_clean=20)], tmp_path)
    rows = read_run(tmp_path).trials[0].rows
    assert set(rows["attack"]) == {"none", *(plan.attack for plan in plans)}


def test_two_plans_that_rows_could_not_tell_apart_are_refused(
    few: Dataset, trials: list[Trial], tmp_path: Path
) -> None:
    fgsm = AttackPlan("fgsm", (0.1,), 5)
    for plans in (
        (fgsm, replace(fgsm, eps=(0.2,))),
        (fgsm, AttackPlan("pgd", (0.1,), 5, norm="l2")),
    ):
        with pytest.raises(UserError, match="attack"):
            run(few, [replace(trials[0], attacks=plans)], tmp_path / "run")


def test_a_folder_of_other_settings_or_data_is_refused(
    finished: Path, few: Dataset, trials: list[Trial]
) -> None:
    before = stamps(finished)
    fewer = [replace(trials[0], num_clean=100)]
    slower = [replace(t, training=replace(t.training, weight_decay=0.5)) for t in trials]
    for other in (fewer, slower, trials[:1]):
        with pytest.raises(UserError, match="other settings or data: choose another --out"):
            run(few, other, finished)
    with pytest.raises(UserError, match="other settings or data"):
        run(replace(few, checksum="0" * 64), trials, finished)
    assert stamps(finished) == before


def test_the_report_is_drawn_from_the_rows_alone(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "report.html").unlink(missing_ok=True)
    assert main(["report", str(finished)]) == 0
    told = capsys.readouterr().out
    assert "report.html" in told
    page = (finished / "report.html").read_text(encoding="utf-8")
    for model in MODELS:
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

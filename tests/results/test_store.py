from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import PROVENANCE, run_info, trial_folder
from few_resamples import few_resamples
from msgspec import structs
from pandas_defaults import check_tables

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import make_folder, remove
from nullclass.core.tensor_files import save_tensors
from nullclass.evaluation.result import Evaluation
from nullclass.results import frames, schema, store
from nullclass.results import run as runs
from nullclass.results.frames import empty_table, read_frame, write_frame
from nullclass.results.info import CraftResult, EstimateResult, TrainingResult
from nullclass.results.null_curve import NullCurve
from nullclass.results.run import read_run, read_trial, write_summary
from nullclass.results.schema import ROW_COLUMNS, SUMMARY_COLUMNS, Examples
from nullclass.results.store import finalize, invalidate, is_complete, write_info

ROWS = pd.DataFrame(
    {
        "image": [0, 1, 0],
        "label": [3, 4, 3],
        "attack": ["clean", "clean", "pgd"],
        "objective": ["clean", "clean", "fool"],
        "source": ["clean", "clean", "self"],
        "norm": "linf",
        "has_own_eps": False,
        "eps_pixels": [0.0, 0.0, 0.154],
        "attacked_eps_pixels": [float("nan"), float("nan"), 0.154],
        "member": ["clean", "clean", "targets"],
        "prediction": [3, -1, 5],
        "outcome": ["correct", "null", "fooled"],
        "confidence": [0.9999999, 0.5, 0.25],
        "loss": [1e-7, 12.5, 1 / 3],
        "null_loss": [float("nan")] * 3,
        "real_prediction": [3, 4, 5],
        "null_score": [-4.5, 0.25, -0.125],
    }
)
COST = {
    "attack": "pgd", "objective": "fool", "source": "self", "norm": "linf", "eps_pixels": 0.154,
    "access": "none", "is_iterative": True, "status": "ran", "member": "targets", "num_images": 1,
    "num_successes": 1, "num_forwards": 21, "num_backwards": 20, "seconds": 0.5,
}  # fmt: skip


THREAT = {"norm": "linf", "num_classes": 10}


def evaluation(rows: pd.DataFrame, examples: list[Examples]) -> Evaluation:
    held_out, ood = empty_table(schema.HELD_OUT), empty_table(schema.OOD)
    return Evaluation(rows, pd.DataFrame([COST]), examples, held_out, ood, THREAT, {}, [])


def example(seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(
        attack="pgd",
        norm="linf",
        eps_pixels=0.154,
        budgets=[0.154, 0.154],
        labels=[3, 4],
        clean_predictions=[3, -1],
        clean_confidences=[0.9, 0.8],
        predictions=[5, 4],
        confidences=[0.7, 0.6],
        clean=rng.random((2, 1, 3, 3), dtype=np.float32),
        adv_images=rng.random((2, 1, 3, 3), dtype=np.float32),
    )


def write_run(folder: Path, *models: tuple[str, int]) -> None:
    for model, seed in models:
        trained_in = f"{schema.MODELS}/{model}-seed{seed}"
        history = pd.DataFrame({"epoch": [1], "seconds": [2.0], "test_loss": [0.25]})
        write_frame(folder / trained_in / schema.HISTORY, history)
        training = TrainingResult(name=model, seed=seed, epochs={}, provenance=PROVENANCE)
        finalize(folder / trained_in, training)
        write_trial(folder, model, seed, [example(0), example(1)], trained_in=trained_in)
    write_info(folder, run_info(folder, study="x", models=["b", "a"]))


def write_trial(
    folder: Path,
    model: str,
    seed: int,
    examples: Sequence[Examples] = (),
    rows: pd.DataFrame = ROWS,
    **values: str,
) -> None:
    values |= {"model": model, "seed": seed, "provenance": PROVENANCE}
    evaluation(rows, [*examples]).write(trial_folder(folder, model, seed), **values)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three trials. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("written") / "run"
    write_run(folder, ("a", 0), ("b", 1), ("b", 0))
    return folder


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "run"))


@pytest.fixture
def trial(run: Path) -> Path:
    """The folder of a trial in that copy."""
    return trial_folder(run, "a", 0)


@pytest.fixture(autouse=True, scope="module")
def quick_intervals() -> Iterator[None]:
    with few_resamples():
        yield


# Tables


def test_tables_survive_writing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / schema.ROWS
    write_frame(path, ROWS)
    found = read_frame(path)
    pd.testing.assert_frame_equal(found, ROWS, check_dtype=False, check_exact=True)
    assert found.dtypes.astype(str).to_dict() == ROW_COLUMNS
    first = path.read_bytes()
    for same in (ROWS[::-1][::-1], ROWS.astype({"attack": object}), ROWS.assign(more=1)):
        write_frame(path, same)
        assert path.read_bytes() == first, "equal rows, equal bytes"
    for name in schema.TABLES:
        write_frame(tmp_path / name, empty_table(name))
        found = read_frame(tmp_path / name)
        assert found.empty
        assert found.dtypes.astype(str).to_dict() == schema.TABLES[name]


def test_pandas_reads_every_table_with_its_defaults(written: Path, run: Path) -> None:
    names = check_tables(written)
    assert names == {schema.ROWS, schema.COSTS, schema.SUMMARY, schema.SCORES, schema.HISTORY}
    write_summary(read_run(run))
    assert schema.SUMMARY in check_tables(run)
    costs = pd.read_csv(trial_folder(written, "a", 0) / schema.COSTS)
    assert costs["access"].tolist() == ["none"]
    summary = pd.read_csv(run / schema.SUMMARY)
    assert {"correct_rate", "null_rate", "fooled_rate"} <= set(summary["metric"])


@pytest.mark.parametrize("word", ["null", "None", "NA", "nan", ""])
def test_words_that_pandas_reads_as_missing_are_refused(tmp_path: Path, word: str) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(UserError, match=f"pandas reads the model {word!r} in t.csv as missing"):
        write_frame(path, pd.DataFrame({"model": ["a", word]}))
    assert not path.exists()
    assert pd.Series([word]).isin(frames.READ_AS_MISSING).all()


# Runs and trials


def test_a_run_in_the_order_of_its_models(written: Path) -> None:
    run = read_run(written)
    assert [(trial.model, trial.seed) for trial in run.trials] == [("b", 0), ("b", 1), ("a", 0)]
    assert run.info.study == "x"
    trial = run.trials[0]
    assert trial.selection == "last", "unless the result says otherwise"
    assert trial.history["seconds"].tolist() == [2.0]
    assert trial.history["test_loss"].tolist() == [0.25]
    assert trial.summary["metric"].tolist().count("fooled_rate") == 2
    assert trial.decisions is None
    for table in (trial.thresholds, trial.sizes, trial.radii, trial.certified, trial.ood):
        assert table.empty
    assert len(trial.examples) == 2
    for found, wanted in zip(trial.examples, (example(0), example(1)), strict=True):
        np.testing.assert_array_equal(found.clean, wanted.clean)
        np.testing.assert_array_equal(found.adv_images, wanted.adv_images)
        assert (found.labels, found.predictions) == (wanted.labels, wanted.predictions)
        assert (found.budgets, found.eps_pixels) == (wanted.budgets, wanted.eps_pixels)


def test_a_trial_with_thresholds_decisions_and_own_budgets(tmp_path: Path) -> None:
    folder = tmp_path / schema.TRIALS / "a-seed3-0123456789"
    thresholds = pd.DataFrame({"image": [4, 9], "threshold": [1 / 3, 0.9876543]})
    write_frame(folder / schema.THRESHOLDS, thresholds)
    cube = (np.arange(27, dtype=np.int8) % 4 - 1).reshape(3, 3, 3)
    save_tensors(folder / schema.DECISIONS, {"predictions": torch.from_numpy(cube)})
    own = dataclasses.replace(example(), eps_pixels=float("nan"), budgets=[0.125, 0.75])
    values = {"model": "a", "seed": 3, "selection": "test", "provenance": PROVENANCE}
    evaluation(ROWS, [own]).write(folder, **values)
    trial = read_trial(folder)
    assert (trial.model, trial.seed, trial.selection) == ("a", 3, "test")
    pd.testing.assert_frame_equal(trial.thresholds, thresholds, check_exact=True)
    assert trial.decisions is not None
    np.testing.assert_array_equal(trial.decisions, cube)
    assert trial.history.empty
    (found,) = trial.examples
    assert np.isnan(found.eps_pixels)
    assert found.budgets == [0.125, 0.75]
    (folder / schema.DECISIONS).write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"decisions\.safetensors is damaged"):
        _ = dataclasses.replace(trial).decisions


def test_tables_are_read_on_first_use(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []
    original = frames.read_frame

    def counting(path: Path, *columns: Mapping[str, str]) -> pd.DataFrame:
        paths.append(path)
        return original(path, *columns)

    monkeypatch.setattr(runs, "read_frame", counting)
    run = read_run(written)
    assert {path.name for path in paths} == {schema.HISTORY}, "small, and shows damage"
    paths.clear()
    _ = run.trials[0].rows, run.trials[0].rows
    assert [path.name for path in paths] == [schema.ROWS], "once"


def test_the_summary_joins_the_trials_with_published_figures(tmp_path: Path) -> None:
    own = ROWS.assign(has_own_eps=[False, False, True], source=["clean", "clean", "base"])
    write_trial(tmp_path, "a", 2)
    write_trial(tmp_path, "b", 2, rows=own, selection="held-out")
    write_info(tmp_path, run_info(tmp_path, study="x"))
    calls: list[tuple[str, str, float, str]] = []

    def published(model: str, attack: str, eps: float, metric: str) -> float | None:
        calls.append((model, attack, eps, metric))
        is_own = np.isnan(eps) and (model, attack, metric) == ("b", "pgd", "fooled_rate")
        return 0.75 if is_own else None

    write_summary(read_run(tmp_path, published))
    summary = read_frame(tmp_path / schema.SUMMARY)
    assert list(summary.columns) == list(SUMMARY_COLUMNS)
    assert set(summary["study"]) == {"x"}
    assert set(summary["seed"]) == {2}
    selections = dict(zip(summary["model"], summary["selection"], strict=True))
    assert selections == {"a": "last", "b": "held-out"}
    (found,) = summary[summary["published"].notna()].to_dict("records")
    assert (found["model"], found["attack"], found["source"]) == ("b", "pgd", "base")
    assert found["metric"] == "fooled_rate"
    assert np.isnan(found["eps_pixels"])
    assert len(calls) == len(summary)
    write_info(tmp_path, run_info(tmp_path, trials={}))
    assert read_run(tmp_path).summary.dtypes.astype(str).to_dict() == SUMMARY_COLUMNS


# Completeness and damage


def test_unfinished_trials_and_trials_of_other_settings_do_not_count(run: Path) -> None:
    write_trial(run, "b", 7)
    folders = {path.name: f"trials/{path.name}" for path in (run / schema.TRIALS).iterdir()}
    info = structs.replace(store.read_info(run), trials=folders | {"c": "trials/c-seed0"})
    invalidate(trial_folder(run, "b", 1))
    write_info(run, info)
    assert [(t.model, t.seed) for t in read_run(run).trials] == [("b", 0), ("b", 7), ("a", 0)]
    write_info(run, structs.replace(info, trials={"a": "trials/a-seed0"}))
    (trial_folder(run, "b", 0) / schema.ROWS).write_bytes(b"garbage")
    assert [trial.model for trial in read_run(run).trials] == ["a"]
    store.remove_others(run)
    assert [path.name for path in (run / schema.TRIALS).iterdir()] == ["a-seed0"]
    with pytest.raises(CannotWriteError, match="cannot write"):
        invalidate(run / schema.RUN)


def test_run_and_results_cover_each_other(run: Path, trial: Path) -> None:
    older = (trial / schema.RESULT).read_bytes()
    write_trial(run, "a", 0)
    (damaged,) = read_run(run).damaged
    assert "a-seed0/result.json is not the one" in damaged.reason
    write_info(run, store.read_info(run))
    assert (len(read_run(run).trials), read_run(run).damaged) == (3, [])
    (trial / schema.RESULT).write_bytes(older)
    (damaged,) = read_run(run).damaged
    assert "is not the one" in damaged.reason
    shutil.rmtree(trial)
    (damaged,) = read_run(run).damaged
    assert "result.json is missing" in damaged.reason


@pytest.mark.parametrize("name", ["../../victim", "/etc", "trials/../../victim", "trials/\0"])
def test_a_run_refers_to_its_own_folders_only(run: Path, name: str) -> None:
    info = structs.replace(store.read_info(run), trials={"a": name})
    store.write_document(run / schema.RUN, info)
    with pytest.raises(UserError, match="is not the name of a file in"):
        read_run(run)


def test_a_folder_of_something_else_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="thesis"), store.writing(folder):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_whose_description_was_removed_goes_on(run: Path, tmp_path: Path) -> None:
    (run / schema.RUN).unlink()
    with store.writing(run):
        pass
    (run / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="thesis"), store.writing(run):
        pass
    figures = tmp_path / "mine" / schema.FIGURES
    figures.mkdir(parents=True)
    with pytest.raises(UserError, match="'figures' but no"), store.writing(figures.parent):
        pass


def test_the_result_is_written_last(
    run: Path, trial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, examples: list[Examples]) -> None:
        raise UserError("disk full")

    monkeypatch.setattr(store, "write_examples", full)
    with pytest.raises(UserError, match="disk full"):
        write_run(run, ("a", 0))
    assert not (trial / schema.RESULT).exists(), "the old result does not cover new rows"


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        flipped = bytearray(content)
        flipped[20::7] = bytes(byte ^ 0xFF for byte in flipped[20::7])
        path.write_bytes(bytes(flipped))
    else:
        damaged = {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"garbage"}
        path.write_bytes(damaged[how])


DAMAGES = ["missing", "truncated", "empty", "garbage", "flipped"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_trial_costs_itself(written: Path, tmp_path: Path, how: str) -> None:
    expected = read_run(written)
    assert [(trial.model, trial.seed) for trial in expected.trials] == [
        ("b", 0),
        ("b", 1),
        ("a", 0),
    ]
    assert not expected.damaged
    for name in (schema.ROWS, schema.EXAMPLES, schema.SUMMARY, schema.RESULT, schema.HISTORY):
        run = Path(shutil.copytree(written, tmp_path / name))
        folder = trial_folder(run, "b", 0)
        if name == schema.HISTORY:
            folder = run / str(read_trial(folder).result.trained_in)
        damage(folder / name, how)
        found = read_run(run)
        assert [(trial.model, trial.seed) for trial in found.trials] == [("b", 1), ("a", 0)]
        (damaged,) = found.damaged
        assert damaged.title == "b-seed0"
        assert str(folder / name) in damaged.reason
        assert "\n" not in damaged.reason
        left = expected.summary.query("not (model == 'b' and seed == 0)").reset_index(drop=True)
        pd.testing.assert_frame_equal(found.summary, left)
        for other in (("a", 0), ("b", 1)):
            damage(trial_folder(run, *other) / schema.ROWS, how)
        with pytest.raises(UserError, match=r"rows\.parquet has changed since it was written"):
            read_run(run)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_curve_or_substitute_costs_itself(run: Path, how: str) -> None:
    for name in ("x", "y"):
        values = {"seed": 0, "provenance": PROVENANCE}
        curve = NullCurve("linf", (0.1, 0.2), (0.5, 1.0)).to_dict()
        estimate = EstimateResult(model=name, curve=curve, **values)
        finalize(make_folder(run / schema.ESTIMATES / name), estimate)
        rounds = pd.DataFrame({"num_queries": range(9)})
        write_frame(run / schema.MODELS / name / schema.QUERIES, rounds)
        finalize(run / schema.MODELS / name, TrainingResult(name=name, epochs={}, **values))
        write_frame(run / schema.CRAFTED / name / schema.ROWS, ROWS)
        craft = CraftResult(model=name, attack="fgsm", **values)
        finalize(run / schema.CRAFTED / name, craft)
    found = read_run(run)
    assert [curve.model for curve in found.curves] == ["x", "y"]
    assert [source.model for source in found.sources] == ["x", "y"]
    assert list(found.queried) == [("x", 0), ("y", 0)]
    damage(run / schema.ESTIMATES / "x" / schema.RESULT, how)
    damage(run / schema.MODELS / "x" / schema.QUERIES, how)
    damage(run / schema.CRAFTED / "x" / schema.ROWS, how)
    found = read_run(run)
    assert len(found.trials) == 3
    assert [curve.model for curve in found.curves] == ["y"]
    assert [source.model for source in found.sources] == ["y"]
    assert list(found.queried) == [("y", 0)]
    titles = [damaged.title for damaged in found.damaged]
    # without result.json an estimate counts as unfinished
    assert titles == ["estimates/x", "crafted/x", "models/x"][how == "missing" :]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_description_is_reported_in_one_sentence(run: Path, how: str) -> None:
    damage(run / schema.RUN, how)
    says = "is no run folder" if how == "missing" else schema.RUN
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        read_run(run)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("number", [None, 0, "1", 2])
def test_a_run_of_another_format_is_refused(run: Path, number: object) -> None:
    values = {"study": "x"} | ({} if number is None else {"format": number})
    (run / schema.RUN).write_text(json.dumps(values))
    with pytest.raises(UserError, match="another version"):
        read_run(run)


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_after_the_check_is_reported_on_reading(trial: Path, how: str) -> None:
    stored = read_trial(trial)
    for name in (schema.ROWS, schema.EXAMPLES, schema.COSTS):
        damage(trial / name, how)
    with pytest.raises(UserError, match=r"rows\.parquet is (damaged|missing)"):
        _ = stored.rows
    if how == "missing":
        assert stored.examples == [], "examples are optional"
        return
    with pytest.raises(UserError, match=r"examples\.safetensors is damaged"):
        _ = stored.examples
    with pytest.raises(UserError, match=r"costs\.csv (is damaged|lacks the column)"):
        _ = stored.costs


def test_rows_that_do_not_fit_the_result_are_damaged(trial: Path) -> None:
    stored = read_trial(trial)
    for table, message in (
        (ROWS.iloc[:2], "is damaged"),
        (ROWS.assign(outcome=["correct", "null", "misread"]), "is damaged"),
        (ROWS.drop(columns="attack"), "lacks the column 'attack'"),
    ):
        table.to_parquet(trial / schema.ROWS)
        with pytest.raises(UserError, match=rf"rows\.parquet {message}"):
            _ = dataclasses.replace(stored).rows


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is no run folder, since it has no run\.json"):
        read_run(tmp_path)
    training = TrainingResult(name="a", seed=0, epochs={}, provenance=PROVENANCE)
    finalize(make_folder(tmp_path / "trial"), training)
    with pytest.raises(UserError, match=r"result\.json .* Invalid value 'training'"):
        read_trial(tmp_path / "trial")


def test_any_changed_or_lost_file_makes_a_folder_incomplete(trial: Path) -> None:
    (trial / "last").mkdir()
    (trial / "last" / "model.bin").write_bytes(b"weights")
    finalize(trial, read_trial(trial).result)
    assert is_complete(trial)
    written = {path: path.read_bytes() for path in trial.rglob("*") if path.is_file()}
    assert {path.name for path in written} == {
        schema.ROWS, schema.COSTS, schema.SUMMARY, schema.SCORES, schema.EXAMPLES, schema.RESULT,
        "model.bin",
    }  # fmt: skip
    for path, content in written.items():
        if path.name != schema.RESULT:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            assert not is_complete(trial), path.name
            with pytest.raises(UserError, match="has changed since it was written"):
                read_trial(trial)
        path.unlink()
        assert not is_complete(trial), path.name
        path.write_bytes(content)
        assert is_complete(trial), "the same bytes again"
    for name in (schema.STATE, ".rows-x1.parquet", "more.csv"):
        (trial / name).write_text("1")
    assert is_complete(trial), "other files do not matter"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": null}', '{"files": ["rows"]}'])
def test_a_result_without_digests_completes_nothing(content: str, trial: Path) -> None:
    (trial / schema.RESULT).write_text(content)
    assert not is_complete(trial)
    assert not is_complete(trial / "nowhere")


def test_leftovers_of_a_killed_report_do_not_keep_a_run_from_recovering(run: Path) -> None:
    (run / ".report.lock").touch()
    (run / ".report.tmp").mkdir()
    remove(run / schema.RUN)
    store.check_free(run)
    (run / ".other").touch()
    with pytest.raises(UserError, match=r"holds '\.other' but no run\.json"):
        store.check_free(run)


@pytest.mark.parametrize("eps", [4 / 255, 0.1 * 3, 1e-9 / 3, 0.1])
def test_csv_keeps_eps_to_the_last_bit(tmp_path: Path, eps: float) -> None:
    path = tmp_path / "made-up.csv"
    write_frame(path, pd.DataFrame({"eps_pixels": [eps, math.nan], "value": [1 / 3, 2 / 3]}))
    found = pd.read_csv(path)
    assert found["eps_pixels"][0] == eps
    assert math.isnan(found["eps_pixels"][1])
    assert found["value"].tolist() == [0.3333333, 0.6666667]

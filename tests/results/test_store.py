from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import write_json
from nullclass.core.tensor_files import save_tensors
from nullclass.evaluation.result import Evaluation
from nullclass.results import frames, schema, store
from nullclass.results.frames import read_frame, write_frame
from nullclass.results.schema import ROW_COLUMNS, SUMMARY_COLUMNS, Examples
from nullclass.results.store import (
    finalize,
    invalidate,
    is_complete,
    read_run,
    read_trial,
    recorded_trials,
    write_summary,
)

ROWS = pd.DataFrame(
    {
        "image": [0, 1, 0],
        "label": [3, 4, 3],
        "attack": ["none", "none", "pgd"],
        "objective": ["none", "none", "fool"],
        "source": ["none", "none", "self"],
        "norm": "linf",
        "budget": "given",
        "eps_pixels": [0.0, 0.0, 0.154],
        "member": ["none", "none", "targets"],
        "prediction": [3, -1, 5],
        "outcome": ["correct", "null", "fooled"],
        "confidence": [0.9999999, 0.5, 0.25],
        "loss": [1e-7, 12.5, 3.25],
        "null_loss": [float("nan")] * 3,
        "real_prediction": [3, 4, 5],
        "null_score": [-4.5, 0.25, -0.125],
    }
)


def findings(rows: pd.DataFrame, examples: list[Examples]) -> Evaluation:
    costs = pd.DataFrame(
        {
            "attack": ["pgd"],
            "objective": ["fool"],
            "source": ["self"],
            "norm": ["linf"],
            "eps_pixels": [0.154],
            "access": ["white-box"],
            "is_iterative": [True],
            "member": ["targets"],
            "num_images": [1],
            "num_successes": [1],
            "num_forward": [21],
            "num_backward": [20],
            "seconds": [0.5],
        }
    )
    empty = pd.DataFrame()
    return Evaluation(rows, costs, examples, empty, empty, {"norm": "linf"}, {}, [])


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


def write_run(folder: Path, models: list[tuple[str, int]]) -> None:
    for model, seed in models:
        trained_in = f"{schema.MODELS}/{model}-seed{seed}"
        history = pd.DataFrame({"epoch": [1], "seconds": [2.0], "test_loss": [0.25]})
        write_frame(folder / trained_in / schema.HISTORY, history)
        findings(ROWS, [example(0), example(1)]).write(
            store.trial_folder(folder, model, seed),
            {"model": model, "seed": seed, "trained_in": trained_in},
        )
    write_frame(folder / schema.SUMMARY, pd.DataFrame(columns=schema.SUMMARY_COLUMNS))
    write_json(folder / schema.RUN, {"study": "x", "models": ["b", "a"]})


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    write_frame(path, ROWS)
    found = read_frame(path, ROW_COLUMNS)
    pd.testing.assert_frame_equal(found, ROWS, check_dtype=False, rtol=1e-6)
    assert found["attack"].tolist() == ["none", "none", "pgd"], "'none' is no missing value"
    for column, kind in ROW_COLUMNS.items():
        if kind != "str":
            assert found[column].dtype == kind, column
    first = path.read_bytes()
    write_frame(path, ROWS)
    assert path.read_bytes() == first, "the same rows, the same bytes"


def test_a_run_comes_back_in_the_order_of_its_models(tmp_path: Path) -> None:
    write_run(tmp_path, [("a", 0), ("b", 1), ("b", 0)])
    run = read_run(tmp_path)
    assert [(trial.model, trial.seed) for trial in run.trials] == [("b", 0), ("b", 1), ("a", 0)]
    assert run.info["study"] == "x"
    trial = run.trials[0]
    assert trial.selection == "last", "unless the result says otherwise"
    assert trial.history["seconds"].tolist() == [2.0]
    assert trial.history["test_loss"].tolist() == [0.25]
    assert trial.summary["metric"].tolist().count("fooled") == 2
    assert len(trial.examples) == 2
    for found, wanted in zip(trial.examples, (example(0), example(1)), strict=True):
        np.testing.assert_array_equal(found.clean, wanted.clean)
        np.testing.assert_array_equal(found.adv_images, wanted.adv_images)
        assert (found.labels, found.predictions) == (wanted.labels, wanted.predictions)
        assert (found.budgets, found.eps_pixels) == (wanted.budgets, wanted.eps_pixels)


def test_a_trial_counts_only_with_its_result(tmp_path: Path) -> None:
    write_run(tmp_path, [("a", 0), ("b", 0)])
    (store.trial_folder(tmp_path, "a", 0) / schema.RESULT).unlink()
    assert [trial.model for trial in read_run(tmp_path).trials] == ["b"]


def test_the_result_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = store.trial_folder(tmp_path, "a", 0)
    write_run(tmp_path, [("a", 0)])

    def full(path: Path, examples: list[Examples]) -> None:
        raise UserError("disk full")

    monkeypatch.setattr(store, "write_examples", full)
    with pytest.raises(UserError, match="disk full"):
        write_run(tmp_path, [("a", 0)])
    assert not (place / schema.RESULT).exists(), "old rows must not vouch for new ones"


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(b"not what it was")


DAMAGES = ["missing", "truncated", "empty", "garbage"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "name", [schema.ROWS, schema.EXAMPLES, schema.SUMMARY, schema.RESULT, schema.RUN]
)
def test_damage_is_told_in_one_sentence(tmp_path: Path, name: str, how: str) -> None:
    write_run(tmp_path, [("a", 0)])
    place = tmp_path if name == schema.RUN else store.trial_folder(tmp_path, "a", 0)
    damage(place / name, how)
    if (name, how) == (schema.RESULT, "missing"):
        assert read_run(tmp_path).trials == [], "to be done again"
        return
    sentence = name if name in (schema.RUN, schema.RESULT) else "trials/a-seed0 is damaged"
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")) as told:
        read_run(tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_after_the_look_is_told_by_whoever_reads_the_file(tmp_path: Path, how: str) -> None:
    write_run(tmp_path, [("a", 0)])
    (trial,) = read_run(tmp_path).trials
    for name in (schema.ROWS, schema.EXAMPLES):
        damage(trial.folder / name, how)
    with pytest.raises(UserError, match=r"rows\.csv\.gz is (damaged|missing)"):
        _ = trial.rows
    if how == "missing":
        assert trial.examples == [], "nothing to show is no mistake"
    else:
        with pytest.raises(UserError, match=r"examples\.safetensors is damaged"):
            _ = trial.examples


def test_rows_that_are_fewer_than_the_result_says_or_hold_another_word_are_damaged(
    tmp_path: Path,
) -> None:
    for changed in (ROWS.iloc[:2], ROWS.assign(outcome=["correct", "null", "misread"])):
        write_run(tmp_path, [("a", 0)])
        (trial,) = read_run(tmp_path).trials
        write_frame(trial.folder / schema.ROWS, changed)
        with pytest.raises(UserError, match=r"rows\.csv\.gz is damaged"):
            _ = trial.rows


def test_flipped_bits_inside_the_gzip_stream(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    write_frame(path, pd.concat([ROWS] * 50))
    content = bytearray(path.read_bytes())
    for position in range(20, len(content), 7):
        content[position] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="is damaged"):
        read_frame(path, ROW_COLUMNS)


def test_a_table_that_lacks_a_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"image,label\n0,1\n"))
    with pytest.raises(UserError, match="lacks the column 'attack'"):
        read_frame(path, ROW_COLUMNS)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"run\.json is missing"):
        read_run(tmp_path)


# What vouches for a folder


def test_any_changed_or_lost_file_makes_a_folder_not_whole(tmp_path: Path) -> None:
    write_run(tmp_path, [("a", 0)])
    place = store.trial_folder(tmp_path, "a", 0)
    assert is_complete(place)
    written = {path: path.read_bytes() for path in place.iterdir()}
    assert {path.name for path in written} == {
        schema.ROWS, schema.COSTS, schema.SUMMARY, schema.SCORES, schema.EXAMPLES,
        schema.RESULT,
    }  # fmt: skip
    for path, content in written.items():
        if path.name != schema.RESULT:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            assert not is_complete(place), path.name
            with pytest.raises(UserError, match="a file is not the one that was written"):
                read_trial(place)
        path.unlink()
        assert not is_complete(place), path.name
        path.write_bytes(content)
        assert is_complete(place), "the same bytes again"
    (place / "more.csv").write_text("1")
    assert is_complete(place), "what others put there is theirs"


def test_a_trial_that_is_no_longer_planned_stays_where_it_is_but_is_not_of_the_run(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, [("a", 0), ("b", 0)])
    assert [trial.model for trial in read_run(tmp_path).trials] == ["b", "a"]
    write_json(tmp_path / schema.RUN, {"study": "x", "trials": {"a, seed 0": "trials/a-seed0"}})
    damage(store.trial_folder(tmp_path, "b", 0) / schema.ROWS, "garbage")
    assert [trial.model for trial in read_run(tmp_path).trials] == ["a"]
    write_summary(tmp_path, "x")
    assert set(read_frame(tmp_path / schema.SUMMARY)["model"]) == {"a"}


def test_files_in_the_making_do_not_count(tmp_path: Path) -> None:
    write_run(tmp_path, [("a", 0)])
    place = store.trial_folder(tmp_path, "a", 0)
    for name in (schema.STATE, ".rows-x1.gz"):
        (place / name).write_text("half")
    assert is_complete(place)


def test_files_deeper_in_the_folder_are_vouched_for_too(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "model.bin").write_bytes(b"weights")
    finalize(tmp_path, {"model": "a"})
    assert is_complete(tmp_path)
    (tmp_path / "last" / "model.bin").write_bytes(b"weightz")
    assert not is_complete(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": null}', '{"files": ["rows"]}'])
def test_a_result_that_vouches_for_nothing_makes_nothing_whole(
    content: str, tmp_path: Path
) -> None:
    write_run(tmp_path, [("a", 0)])
    place = store.trial_folder(tmp_path, "a", 0)
    (place / schema.RESULT).write_text(content)
    assert not is_complete(place)
    assert not is_complete(tmp_path / "nowhere")


def test_an_unsealed_folder_is_not_whole_and_unsealing_twice_is_no_mistake(tmp_path: Path) -> None:
    write_run(tmp_path, [("a", 0)])
    place = store.trial_folder(tmp_path, "a", 0)
    invalidate(place)
    assert not is_complete(place)
    assert list(recorded_trials(tmp_path)) == []
    invalidate(place)
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match="cannot write to"):
        invalidate(tmp_path / "file")


def test_a_result_that_does_not_say_whose_it_is(tmp_path: Path) -> None:
    findings(ROWS, []).write(tmp_path / "trial", {"seed": 0})
    with pytest.raises(UserError, match=r"result\.json does not say its 'model'"):
        read_trial(tmp_path / "trial")


def test_a_trial_tells_its_selection_thresholds_and_decisions(tmp_path: Path) -> None:
    place = tmp_path / schema.TRIALS / "a-seed3-0123456789"
    thresholds = pd.DataFrame({"image": [4, 9], "threshold": [0.1234567, 0.9876543]})
    write_frame(place / schema.THRESHOLDS, thresholds, float_format="%.9g")
    cube = (np.arange(27, dtype=np.int8) % 4 - 1).reshape(3, 3, 3)
    save_tensors(place / schema.DECISIONS, {"predictions": torch.from_numpy(cube)})
    findings(ROWS, []).write(place, {"model": "a", "seed": 3, "selection": "test"})
    trial = read_trial(place)
    assert (trial.model, trial.seed, trial.selection) == ("a", 3, "test")
    pd.testing.assert_frame_equal(trial.thresholds, thresholds)
    assert trial.decisions is not None
    np.testing.assert_array_equal(trial.decisions, cube)
    assert trial.history.empty
    assert trial.examples == []
    (place / schema.DECISIONS).write_bytes(b"not what it was")
    with pytest.raises(UserError, match=r"decisions\.safetensors is damaged"):
        _ = read_again(trial).decisions


def read_again(trial: store.Trial) -> store.Trial:
    """The same trial with nothing read yet."""
    return dataclasses.replace(trial)


def test_without_a_search_or_a_grid_a_trial_has_neither(tmp_path: Path) -> None:
    write_run(tmp_path, [("a", 0)])
    (trial,) = read_run(tmp_path).trials
    assert trial.decisions is None
    assert list(trial.thresholds.columns) == ["image", "threshold"]
    assert len(trial.thresholds) == 0


def test_reading_a_run_reads_no_rows_until_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, [("a", 0), ("b", 0)])
    asked: list[Path] = []
    original = frames.read_frame

    def counting(path: Path, dtypes: dict[str, str] | None = None) -> pd.DataFrame:
        asked.append(path)
        return original(path, dtypes)

    monkeypatch.setattr(store, "read_frame", counting)
    run = read_run(tmp_path)
    assert [path.name for path in asked] == [schema.SUMMARY]
    _ = run.trials[0].rows, run.trials[0].rows
    assert [path.name for path in asked[1:]] == [schema.ROWS], "read once"


def test_examples_at_budgets_of_their_own_come_back(tmp_path: Path) -> None:
    own = dataclasses.replace(example(), eps_pixels=float("nan"), budgets=[0.125, 0.75])
    findings(ROWS, [own]).write(tmp_path / "t", {"model": "a", "seed": 0})
    (found,) = read_trial(tmp_path / "t").examples
    assert np.isnan(found.eps_pixels)
    assert found.budgets == [0.125, 0.75]


def test_the_summary_joins_the_trials_and_asks_what_was_published(tmp_path: Path) -> None:
    own = ROWS.assign(budget=["given", "given", "threshold"], source_name=["none", "none", "base"])
    for model, rows, told in (
        ("a", ROWS, {}),
        ("b", own, {"selection": "held-out"}),
    ):
        place = store.trial_folder(tmp_path, model, 2)
        findings(rows, []).write(place, {"model": model, "seed": 2, **told})
    asked: list[tuple[str, str, float, str]] = []

    def published(model: str, attack: str, eps: float, metric: str) -> float | None:
        asked.append((model, attack, eps, metric))
        is_own = np.isnan(eps) and (model, attack, metric) == ("b", "pgd", "fooled")
        return 0.75 if is_own else None

    write_summary(tmp_path, "x", published)
    summary = read_frame(tmp_path / schema.SUMMARY)
    assert list(summary.columns) == SUMMARY_COLUMNS
    assert set(summary["study"]) == {"x"}
    assert set(summary["seed"]) == {2}
    assert dict(zip(summary["model"], summary["selection"], strict=True)) == {
        "a": "last", "b": "held-out"
    }  # fmt: skip
    found = summary[summary["published"].notna()]
    assert len(found) == 1
    assert found.iloc[0][["model", "attack", "source", "metric"]].tolist() == [
        "b", "pgd", "base", "fooled"
    ]  # fmt: skip
    assert np.isnan(found.iloc[0]["eps_pixels"])
    assert len(asked) == len(summary)


def test_the_summary_of_no_trials_has_its_columns(tmp_path: Path) -> None:
    write_summary(tmp_path, "x")
    assert list(read_frame(tmp_path / schema.SUMMARY).columns) == SUMMARY_COLUMNS

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nullclass import records
from nullclass.errors import UserError
from nullclass.files import write_json
from nullclass.records import ROW_COLUMNS, Examples, read_frame, read_run, write_frame, write_trial

ROWS = pd.DataFrame(
    {
        "image": [0, 1, 0],
        "label": [3, 4, 3],
        "attack": ["none", "none", "pgd"],
        "objective": ["none", "none", "fool"],
        "norm": "linf",
        "eps_pixels": [0.0, 0.0, 0.154],
        "prediction": [3, -1, 5],
        "outcome": ["correct", "null", "fooled"],
        "confidence": [0.9999999, 0.5, 0.25],
        "loss": [1e-7, 12.5, 3.25],
        "null_loss": [float("nan")] * 3,
    }
)


def example(seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(
        attack="pgd",
        norm="linf",
        eps_pixels=0.154,
        labels=[3, 4],
        clean_predictions=[3, -1],
        clean_confidences=[0.9, 0.8],
        predictions=[5, 4],
        confidences=[0.7, 0.6],
        clean=rng.random((2, 1, 3, 3), dtype=np.float32),
        attacked=rng.random((2, 1, 3, 3), dtype=np.float32),
    )


def write_run(folder: Path, models: list[tuple[str, int]]) -> None:
    for model, seed in models:
        write_trial(
            records.trial_folder(folder, model, seed),
            ROWS,
            pd.DataFrame({"epoch": [1], "seconds": [2.0]}),
            [example(0), example(1)],
            {"model": model, "seed": seed},
        )
    write_frame(folder / records.SUMMARY, pd.DataFrame(columns=records.SUMMARY_COLUMNS))
    write_json(folder / records.RUN, {"study": "x", "models": ["b", "a"]})


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
    assert trial.history["seconds"].tolist() == [2.0]
    assert len(trial.examples) == 2
    for found, wanted in zip(trial.examples, (example(0), example(1)), strict=True):
        np.testing.assert_array_equal(found.clean, wanted.clean)
        np.testing.assert_array_equal(found.attacked, wanted.attacked)
        assert (found.labels, found.predictions) == (wanted.labels, wanted.predictions)


def test_a_trial_counts_only_with_its_result(tmp_path: Path) -> None:
    write_run(tmp_path, [("a", 0), ("b", 0)])
    (records.trial_folder(tmp_path, "a", 0) / records.RESULT).unlink()
    assert [trial.model for trial in read_run(tmp_path).trials] == ["b"]


def test_the_result_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = records.trial_folder(tmp_path, "a", 0)
    write_run(tmp_path, [("a", 0)])

    def full(path: Path, examples: list[Examples]) -> None:
        raise UserError("disk full")

    monkeypatch.setattr(records, "write_examples", full)
    with pytest.raises(UserError, match="disk full"):
        write_run(tmp_path, [("a", 0)])
    assert not (place / records.RESULT).exists(), "old rows must not vouch for new ones"


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


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "garbage"])
@pytest.mark.parametrize("name", [records.ROWS, records.RUN])
def test_damage_is_told_in_one_sentence(tmp_path: Path, name: str, how: str) -> None:
    write_run(tmp_path, [("a", 0)])
    place = tmp_path if name == records.RUN else records.trial_folder(tmp_path, "a", 0)
    damage(place / name, how)
    if (name, how) == (records.ROWS, "missing"):
        assert read_run(tmp_path).trials == [], "to be done again, like one without a result"
        return
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_run(tmp_path)


@pytest.mark.parametrize("how", ["truncated", "empty", "garbage"])
def test_damaged_examples(tmp_path: Path, how: str) -> None:
    write_run(tmp_path, [("a", 0)])
    damage(records.trial_folder(tmp_path, "a", 0) / records.EXAMPLES, how)
    with pytest.raises(UserError, match=r"examples\.safetensors is damaged"):
        read_run(tmp_path)


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

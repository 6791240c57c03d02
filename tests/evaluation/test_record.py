"""Evaluations written to a run folder: what is refused before any work, and a kill."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from idx_files import tiny_arrays, write_dataset

from nullclass import UserError, load_dataset, save_checkpoint
from nullclass.core.files import LOCK
from nullclass.data import FILE_NAMES
from nullclass.evaluation import Evaluation
from nullclass.evaluation import record as record_module
from nullclass.evaluation.record import load_with_data, record_evaluation
from nullclass.models import build_model
from nullclass.results import schema, store
from nullclass.results.run import read_run
from nullclass.training.card import Origin

CPU = torch.device("cpu")


def test_labels_that_are_not_classes_of_the_model(tmp_path: Path) -> None:
    """Also if the first images, which are attacked, have valid labels."""
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    good = load_dataset(write_dataset(tmp_path / "good", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    save_checkpoint(model, tmp_path / "model", origin=Origin(data="letters"))
    arrays[FILE_NAMES[3]][20:] = np.arange(190, 200)
    folder = write_dataset(tmp_path / "bad", arrays)
    with pytest.raises(UserError, match="labels run from 0 to 199; the model has the classes 0 to"):
        load_with_data(tmp_path / "model", str(folder), CPU)
    bad = load_dataset(folder, validation=0)
    settings: dict[str, Any] = {"name": "m", "attacks": ["fgsm"], "eps": [0.1], "norm": "linf"}
    settings |= {"num_images": 10, "seed": 0}
    out = tmp_path / "run"
    for dataset, changed, says in (
        (bad, {}, "labels run from 0 to 199"),
        (good, {"seed": -1}, "seed must be a whole number"),
        (good, {"name": "null"}, "pandas reads the name 'null' in a table as missing"),
        (good, {"attacks": []}, "at least one --attack"),
        (good, {"radius": 0.1, "clean_null_rate": 0.1}, "either a radius or a threshold"),
        (good, {"clean_null_rate": 0.1}, "no held-out images are known"),
        (good, {"ood": ["tiles"], "num_images": 1}, "at least two test images"),
    ):
        with pytest.raises(UserError, match=says):
            record_evaluation(model, None, dataset, out, **(settings | changed))
    assert not out.exists()


def test_an_interrupted_evaluation_leaves_the_earlier_one_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    data = load_dataset(write_dataset(tmp_path / "data", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    out = tmp_path / "run"

    def record(eps: float, folder: Path = out) -> Evaluation:
        return record_evaluation(
            model, None, data, folder, name="m", attacks=["fgsm"], eps=[eps], norm="linf",
            num_images=10, checks=False, seed=0,
        )  # fmt: skip

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    first = record(0.1)
    (out / schema.REPORT).write_text("the page of the first evaluation")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for broken in ((Evaluation, "write"), (store, "remove_views"), (store, "write_info")):
        with monkeypatch.context() as patch:
            patch.setattr(*broken, killed)
            with pytest.raises(KeyboardInterrupt):
                record(0.2)
        if broken[1] != "write_info":
            assert before.items() <= {p: p.read_bytes() for p in before if p.exists()}.items()
        (trial,) = read_run(out).trials
        pd.testing.assert_frame_equal(Evaluation.read(trial).rows, first.rows)
    second = record(0.2)
    (trial,) = read_run(out).trials
    assert [path.name for path in (out / schema.TRIALS).iterdir()] == [trial.folder.name]
    assert sorted(path.name for path in out.iterdir()) == [
        LOCK,
        "run.json",
        "summary.csv",
        "trials",
    ]
    pd.testing.assert_frame_equal(second.rows, record(0.2, tmp_path / "fresh").rows)
    monkeypatch.setattr(record_module, "evaluate", killed)
    pd.testing.assert_frame_equal(record(0.2).rows, second.rows)


def test_other_held_out_images_are_another_evaluation(tmp_path: Path) -> None:
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    data = load_dataset(write_dataset(tmp_path / "data", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    settings: dict[str, Any] = {"attacks": ["fgsm"], "eps": [0.1], "norm": "linf", "num_images": 4}
    tables = []
    for part in (slice(0, 20), slice(20, 40)):  # as many images of the same data
        given = replace(data, validation=data.training_images().subset(part))
        found = record_evaluation(
            model, None, given, tmp_path / "run", name="m", seed=0, checks=False, **settings
        )
        tables.append(found.held_out)
    assert not tables[0]["null_score"].equals(tables[1]["null_score"])


def test_a_refusal_keeps_the_trials_of_a_run_whose_list_is_lost(tmp_path: Path) -> None:
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    data = load_dataset(write_dataset(tmp_path / "data", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    settings: dict[str, Any] = {"attacks": ["fgsm"], "eps": [0.1], "norm": "linf", "num_images": 4}
    settings |= {"name": "m", "seed": 0, "checks": False}
    out = tmp_path / "run"
    record_evaluation(model, None, data, out, **settings)
    (out / schema.RUN).unlink()
    with pytest.raises(UserError, match="norm"):
        record_evaluation(
            model, None, data, out, **(settings | {"attacks": ["square"], "norm": "l1"})
        )
    assert len(list((out / schema.TRIALS).iterdir())) == 1
    record_evaluation(model, None, data, out, **settings)


def test_a_long_name(tmp_path: Path) -> None:
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    data = load_dataset(write_dataset(tmp_path / "data", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    name, out = "n" * 120, tmp_path / "run"
    settings: dict[str, Any] = {"attacks": ["fgsm"], "eps": [0.1], "norm": "linf", "num_images": 4}
    record_evaluation(model, None, data, out, name=name, seed=0, checks=False, **settings)
    assert read_run(out).trials[0].model == name


def test_a_folder_that_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    data = load_dataset(write_dataset(tmp_path / "data", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    with pytest.raises(UserError, match="so it is no run folder: choose another --out"):
        record_evaluation(
            model, None, data, tmp_path / "data", name="m", attacks=["fgsm"], eps=[0.1],
            norm="linf", num_images=10, seed=0,
        )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names


def test_a_report_being_drawn_is_waited_for(tmp_path: Path) -> None:
    """Else it would describe the earlier evaluation beside the new one."""
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    data = load_dataset(write_dataset(tmp_path / "data", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    out = tmp_path / "run"

    def record(eps: float) -> Evaluation:
        return record_evaluation(
            model, None, data, out, name="m", attacks=["fgsm"], eps=[eps], norm="linf",
            num_images=10, checks=False, seed=0,
        )  # fmt: skip

    record(0.1)
    (before,) = read_run(out).trials
    with ThreadPoolExecutor() as pool:
        with store.drawing(out):
            later = pool.submit(record, 0.2)
            while not any(
                store.is_complete(path)
                for path in (out / schema.TRIALS).iterdir()
                if path != before.folder
            ):
                assert not later.done()
                time.sleep(0.01)
            assert not wait([later], timeout=0.3).done
            assert [trial.folder for trial in read_run(out).trials] == [before.folder]
            (out / schema.REPORT).write_text("the page of the earlier evaluation")
        later.result(timeout=60)
    assert not (out / schema.REPORT).exists()
    (after,) = read_run(out).trials
    assert after.folder != before.folder


def test_a_folder_that_lacks_classes_is_refused(tmp_path: Path) -> None:
    """Its labels would be numbered otherwise than the model's."""
    from pictures import write_images

    model = build_model("small", image_shape=(3, 28, 28), num_classes=4)
    origin = Origin(data="photos")
    save_checkpoint(model, tmp_path / "model", origin=origin)
    folder = write_images(tmp_path / "photos", shape=(28, 28, 3))
    with pytest.raises(UserError, match="photos has 3 classes, the model 4: give data with all"):
        load_with_data(tmp_path / "model", str(folder), CPU)

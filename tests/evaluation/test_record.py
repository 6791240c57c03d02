"""Evaluations written to a run folder: what is refused before any work, and a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from idx_files import tiny_arrays, write_dataset

from nullclass import UserError, load_dataset, save_checkpoint
from nullclass.data import FILE_NAMES
from nullclass.evaluation import Evaluation
from nullclass.evaluation.record import load_with_data, record_evaluation
from nullclass.models import build_model
from nullclass.results import schema
from nullclass.studies.reports import write_report
from nullclass.training.card import Origin

CPU = torch.device("cpu")


def test_labels_that_are_not_classes_of_the_model(tmp_path: Path) -> None:
    """Also if the first images, which are attacked, have valid labels."""
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    good = load_dataset("idx", data_dir=write_dataset(tmp_path / "good", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    save_checkpoint(model, tmp_path / "model", origin=Origin(data="idx"))
    arrays[FILE_NAMES[3]][20:] = np.arange(190, 200)
    folder = write_dataset(tmp_path / "bad", arrays)
    with pytest.raises(UserError, match="labels run from 0 to 199; the model has the classes 0 to"):
        load_with_data(tmp_path / "model", None, folder, CPU)
    bad = load_dataset("idx", data_dir=folder, validation=0)
    settings: dict[str, Any] = {"name": "m", "attacks": ["fgsm"], "eps": [0.1], "norm": "linf"}
    settings |= {"num_images": 10, "seed": 0}
    out = tmp_path / "run"
    for dataset, changed, says in (
        (bad, {}, "labels run from 0 to 199"),
        (good, {"seed": -1}, "seed must be a whole number"),
        (good, {"attacks": []}, "at least one --attack"),
        (good, {"radius": 0.1, "clean_null_rate": 0.1}, "either a radius or a threshold"),
        (good, {"clean_null_rate": 0.1}, "no held-out images are known"),
    ):
        with pytest.raises(UserError, match=says):
            record_evaluation(model, None, dataset, out, **(settings | changed))
    assert not out.exists()


def test_a_kill_before_the_rows_are_written_leaves_no_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    data = load_dataset("idx", data_dir=write_dataset(tmp_path / "data", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    out = tmp_path / "run"

    def record(eps: float) -> None:
        record_evaluation(
            model, None, data, out, name="m", attacks=["fgsm"], eps=[eps], norm="linf",
            num_images=10, checks="none", seed=0,
        )  # fmt: skip

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    record(0.1)
    (out / schema.REPORT).write_text("the page of the first evaluation")
    monkeypatch.setattr(Evaluation, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        record(0.2)
    assert not (out / schema.REPORT).exists()
    assert not (out / schema.SUMMARY).exists()
    with pytest.raises(UserError, match="no finished evaluation"):
        write_report(out)

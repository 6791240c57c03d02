"""Evaluations written to a run folder: what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from idx_files import tiny_arrays, write_dataset

from nullclass import UserError, load_dataset, save_checkpoint
from nullclass.data import FILE_NAMES
from nullclass.evaluation.record import load_with_data, record_evaluation
from nullclass.models import build_model

CPU = torch.device("cpu")


def test_labels_that_are_not_classes_of_the_model(tmp_path: Path) -> None:
    """Also if the first images, which are attacked, have valid labels."""
    arrays = tiny_arrays(40, 30, 4, 28, seed=0)
    good = load_dataset("idx", data_dir=write_dataset(tmp_path / "good", arrays), validation=0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    save_checkpoint(model, tmp_path / "model", metadata={"data": "idx"})
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
            record_evaluation(model, {}, dataset, out, **(settings | changed))
    assert not out.exists()

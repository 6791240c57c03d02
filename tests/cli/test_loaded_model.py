"""A model with data whose labels lack the last class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from idx_files import tiny_arrays, write_dataset

from nullclass.cli.models import LoadedModel
from nullclass.data import load_dataset
from nullclass.models import build_model


def test_the_classes_are_the_models_where_the_data_only_number_them(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", tiny_arrays(40, 30, 3, 28, seed=0))
    dataset = load_dataset(folder, validation=0)
    assert dataset.class_names == ("0", "1", "2")
    model = build_model("small", image_shape=(1, 28, 28), num_classes=4)
    loaded = LoadedModel("m", model, None, dataset, None, "")
    assert loaded.class_names == ("0", "1", "2", "3")
    named = replace(dataset, class_names=("a", "b", "c"))
    assert replace(loaded, dataset=named).class_names == ("a", "b", "c")

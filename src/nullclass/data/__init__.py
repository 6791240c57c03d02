"""Labelled images in [0,1]: datasets by name or from a folder, tensors, loaders.

To add a dataset, add an entry to :data:`DATASETS` in ``known.py``. Importing this package does not
load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nullclass.data.fetching import absolute_source, fetch
from nullclass.data.idx import FILE_NAMES
from nullclass.data.known import DATASETS, RAMPS, known_names

if TYPE_CHECKING:
    from nullclass.data.arrays import LabelledImages, tensors_or_loader
    from nullclass.data.dataset import Dataset
    from nullclass.data.loading import load_dataset

__all__ = [
    "DATASETS",
    "FILE_NAMES",
    "RAMPS",
    "Dataset",
    "LabelledImages",
    "absolute_source",
    "fetch",
    "known_names",
    "load_dataset",
    "tensors_or_loader",
]

_NEEDS_TORCH = {
    "Dataset": "nullclass.data.dataset",
    "LabelledImages": "nullclass.data.arrays",
    "load_dataset": "nullclass.data.loading",
    "tensors_or_loader": "nullclass.data.arrays",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEEDS_TORCH[name]), name)

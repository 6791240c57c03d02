"""Labelled images in [0,1]: datasets by name or from a folder, tensors, loaders.

To add a dataset, add an entry to :data:`DATASETS` in ``known.py``. Importing this package does not
load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nullclass.data.fetching import fetch
from nullclass.data.known import DATASETS, FILE_NAMES

if TYPE_CHECKING:
    from nullclass.data.arrays import LabelledImages, tensors_or_loader
    from nullclass.data.loading import RAMPS, Dataset, load_dataset

__all__ = [
    "DATASETS",
    "FILE_NAMES",
    "RAMPS",
    "Dataset",
    "LabelledImages",
    "fetch",
    "load_dataset",
    "tensors_or_loader",
]

_NEEDS_TORCH = {
    "Dataset": "nullclass.data.loading",
    "LabelledImages": "nullclass.data.arrays",
    "RAMPS": "nullclass.data.loading",
    "load_dataset": "nullclass.data.loading",
    "tensors_or_loader": "nullclass.data.arrays",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEEDS_TORCH[name]), name)

"""Labelled images in [0,1]: IDX datasets by name or from a folder, tensors, loaders.

Adding a dataset: a file with its :class:`KnownDataset` (see ``mnist.py``) and one line in
:data:`DATASETS`, in ``fetching.py``.

``DATASETS``, ``fetch`` and what else needs no tensors is here at once; the rest imports torch
on first use, so that the command line can list the datasets without that wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nullclass.data.fetching import ANY_IDX, DATASETS, cache_folder, fetch
from nullclass.data.known import FILE_NAMES, KnownDataset

if TYPE_CHECKING:
    from nullclass.data.arrays import LabelledImages, tensors_or_loader
    from nullclass.data.loading import Dataset, load_dataset

__all__ = [
    "ANY_IDX",
    "DATASETS",
    "FILE_NAMES",
    "Dataset",
    "KnownDataset",
    "LabelledImages",
    "cache_folder",
    "fetch",
    "load_dataset",
    "tensors_or_loader",
]

_NEEDS_TORCH = {
    "Dataset": "nullclass.data.loading",
    "load_dataset": "nullclass.data.loading",
    "LabelledImages": "nullclass.data.arrays",
    "tensors_or_loader": "nullclass.data.arrays",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_NEEDS_TORCH[name]), name)

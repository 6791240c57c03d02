"""Image classifiers with one more answer, null, and the truth about how well it works.

K classes, K + 1 logits, null is the last; outside the logits null is the label -1. Images are in
[0,1] and every eps is in pixel units.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nullclass.core.errors import UserError
    from nullclass.data import load_dataset
    from nullclass.evaluation.run import evaluate
    from nullclass.models import Classifier, with_null_class
    from nullclass.rejection import ProvableNull
    from nullclass.training.checkpoint import load_checkpoint, save_checkpoint
    from nullclass.training.loop import train

_HOMES = {
    "Classifier": "nullclass.models",
    "ProvableNull": "nullclass.rejection",
    "UserError": "nullclass.core.errors",
    "evaluate": "nullclass.evaluation.run",
    "load_checkpoint": "nullclass.training.checkpoint",
    "load_dataset": "nullclass.data",
    "save_checkpoint": "nullclass.training.checkpoint",
    "train": "nullclass.training.loop",
    "with_null_class": "nullclass.models",
}

__all__ = [
    "Classifier",
    "ProvableNull",
    "UserError",
    "evaluate",
    "load_checkpoint",
    "load_dataset",
    "save_checkpoint",
    "train",
    "with_null_class",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that the command line answers --help before torch is loaded.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nullclass' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps ``nullclass.training.loop`` and ``nullclass.evaluation.run`` the functions that they
    are above.

    Importing a submodule binds it on its package, where it would hide a function of its name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

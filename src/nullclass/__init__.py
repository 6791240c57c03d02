"""Image classifiers with one more answer, null: training, attacks, proofs and honest evaluation.

A model of K classes has K + 1 logits, null last; as a label, null is -1. Images are in [0,1], and
every eps is in pixel units. docs/api.md lists the public names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nullclass import attacks, certify, nulls, rejection
    from nullclass.core.errors import UserError
    from nullclass.core.outcomes import Outcome
    from nullclass.data import LabelledImages, load_dataset
    from nullclass.evaluation import Evaluation, compare, evaluate, transfer_matrix
    from nullclass.models import Classifier, with_null_class
    from nullclass.rejection import ProvableNull, check_certificates
    from nullclass.scoring.proofs import prove
    from nullclass.serving import Guard, export_model
    from nullclass.training.checkpoint import load_checkpoint, save_checkpoint
    from nullclass.training.config import TrainConfig
    from nullclass.training.loop import train
    from nullclass.training.recipes import Recipe
    from nullclass.zoo import load_zoo

__version__ = "0.1.0"

_EXPORTS = {
    "Classifier": "nullclass.models",
    "Evaluation": "nullclass.evaluation",
    "Guard": "nullclass.serving",
    "LabelledImages": "nullclass.data",
    "Outcome": "nullclass.core.outcomes",
    "ProvableNull": "nullclass.rejection",
    "Recipe": "nullclass.training.recipes",
    "TrainConfig": "nullclass.training.config",
    "UserError": "nullclass.core.errors",
    "check_certificates": "nullclass.rejection",
    "compare": "nullclass.evaluation",
    "evaluate": "nullclass.evaluation",
    "export_model": "nullclass.serving",
    "load_checkpoint": "nullclass.training.checkpoint",
    "load_dataset": "nullclass.data",
    "load_zoo": "nullclass.zoo",
    "prove": "nullclass.scoring.proofs",
    "save_checkpoint": "nullclass.training.checkpoint",
    "train": "nullclass.training.loop",
    "transfer_matrix": "nullclass.evaluation",
    "with_null_class": "nullclass.models",
}
_MODULES = ("attacks", "certify", "nulls", "rejection")

__all__ = [
    "Classifier",
    "Evaluation",
    "Guard",
    "LabelledImages",
    "Outcome",
    "ProvableNull",
    "Recipe",
    "TrainConfig",
    "UserError",
    "__version__",
    "attacks",
    "certify",
    "check_certificates",
    "compare",
    "evaluate",
    "export_model",
    "load_checkpoint",
    "load_dataset",
    "load_zoo",
    "nulls",
    "prove",
    "rejection",
    "save_checkpoint",
    "train",
    "transfer_matrix",
    "with_null_class",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that the command line answers --help without loading torch.
    if name in _MODULES:
        return import_module(f"nullclass.{name}")
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'nullclass' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

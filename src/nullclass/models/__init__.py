"""Networks with K or K + 1 logits.

An open set: a new architecture is a function in ``architectures.py`` and a line in
:data:`ARCHITECTURES`. Any other module or function becomes a model by
``Classifier(body, ...)``.
"""

from nullclass.models.architectures import ARCHITECTURES, Architecture, build_model
from nullclass.models.classifier import Classifier, as_classifier
from nullclass.models.network import Imported
from nullclass.models.widen import with_null_class

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Classifier",
    "Imported",
    "as_classifier",
    "build_model",
    "with_null_class",
]

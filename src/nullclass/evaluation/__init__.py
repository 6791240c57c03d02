"""A sequence of steps: model, attacks and eps -> rows, rates, transfers and red flags."""

from __future__ import annotations

from nullclass.evaluation.comparison import Comparison, compare
from nullclass.evaluation.result import Evaluation
from nullclass.evaluation.run import evaluate
from nullclass.evaluation.transfers import transfer_matrix

__all__ = ["Comparison", "Evaluation", "compare", "evaluate", "transfer_matrix"]

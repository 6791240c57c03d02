"""A sequence of steps: the trials of a study become jobs, an engine does them, a runner keeps count.

``config`` describes (no torch), ``jobs`` orders and names folders (no torch), ``runner`` assigns,
``engines`` execute, ``tasks`` and ``trainings`` do one job.
"""

from nullclass.experiments.config import (
    AttackPlan,
    Craft,
    Estimate,
    ModelSpec,
    NullPlan,
    ProofPlan,
    Queries,
    RobustPlan,
    SizePlan,
    Study,
    ThresholdPlan,
    Training,
    Trial,
)

__all__ = [
    "AttackPlan",
    "Craft",
    "Estimate",
    "ModelSpec",
    "NullPlan",
    "ProofPlan",
    "Queries",
    "RobustPlan",
    "SizePlan",
    "Study",
    "ThresholdPlan",
    "Training",
    "Trial",
]

"""A sequence of steps: trials become jobs, an engine does them, a runner assigns and retries.

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

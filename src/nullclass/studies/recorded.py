"""The configs that a run's results record. Imports no torch."""

from __future__ import annotations

import msgspec

from nullclass.core.errors import UserError
from nullclass.experiments.config import Trial
from nullclass.results import run


def trial_config(trial: run.Trial) -> Trial:
    """Return the config of an evaluated model of a study.

    Raises:
        UserError: If the result records no such config.
    """
    try:
        return msgspec.convert(trial.result.config, Trial)
    except msgspec.ValidationError as error:
        raise UserError(f"the config in {trial.folder} is not that of a trial: {error}") from None

"""Tasks one after another in this very process: for notebooks, tests and the debugger."""

from __future__ import annotations

import torch

from nullclass.data import Dataset
from nullclass.experiments.engines.base import Task, Tell
from nullclass.experiments.engines.performing import perform


class SerialEngine:
    """An engine without workers; a crash of a task is a crash of everything.

    Args:
        dataset: The data.
        device: Where to compute.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        self._task: Task | None = None

    def has_room(self) -> bool:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        return self._task is None

    def start(self, task: Task) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        self._task = task

    def wait(self, tell: Tell) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        task, self._task = self._task, None
        if task is not None:
            perform(task, lambda: self.dataset, self.device, tell)

    def close(self) -> None:
        """Nothing runs beside us."""

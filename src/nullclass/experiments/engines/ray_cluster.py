"""Tasks on a Ray cluster: the same folders, on storage that all nodes share.

A lost worker or node costs its own task, which the sweep gives to another. Nothing is retried by
Ray itself, so that a task is never done twice at once.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from nullclass.core.errors import UserError
from nullclass.experiments.engines.base import DataSource, Event, Failed, Task, Tell
from nullclass.experiments.engines.messages import from_line, to_line


class RayCluster:
    """An engine on Ray.

    Args:
        num_workers: Tasks at once; 0 is as many as the cluster has room for.
        num_threads: Threads, and so CPUs, of each.
        source: How workers come to the data.
        device: Where they compute; ``cuda`` asks for one GPU a task.
        address: Of the cluster; ``None`` makes one of this machine.

    Raises:
        UserError: If Ray is not installed, or the cluster does not answer.
    """

    def __init__(
        self,
        num_workers: int,
        num_threads: int,
        source: DataSource,
        device: str,
        address: str | None,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise UserError(
                "Ray is not installed: pip install 'nullclass[ray]', or use --engine local"
            ) from None
        self._ray: Any = ray
        _check_reachable(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"no Ray cluster answers at {address}: {reason}") from None
        self.num_workers = num_workers
        self.num_threads = num_threads
        gpus = 1 if device.startswith("cuda") else 0
        self._run = ray.remote(
            num_cpus=num_threads,
            num_gpus=gpus,
            max_retries=0,
        )(_perform_remotely)
        self._settings = (source, device, num_threads)
        self._running: dict[Any, Task] = {}

    def has_room(self) -> bool:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        # Nodes come and go, so the room is counted afresh; Ray keeps a task until there is room.
        cpus = self._ray.cluster_resources().get("CPU", 0) if not self.num_workers else 0
        return len(self._running) < (self.num_workers or max(1, int(cpus) // self.num_threads))

    def start(self, task: Task) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        self._running[self._run.remote(to_line(task), *self._settings)] = task

    def wait(self, tell: Tell) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        ended, _ = self._ray.wait(list(self._running), timeout=0.5)
        for reference in ended:
            task = self._running.pop(reference)
            tell(self._event(reference, task))

    def close(self) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()

    def _event(self, reference: Any, task: Task) -> Event:
        try:
            event = from_line(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            return Failed(task.places, f"its worker was lost: {reason}")
        assert not isinstance(event, Task)
        return event


def _check_reachable(address: str | None) -> None:
    """Ask the port at once: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from None


def _perform_remotely(line: str, source: DataSource, device: str, num_threads: int) -> str:
    """Do a task on some node; the last event is the answer."""
    from nullclass.core.process import tune_process

    tune_process()
    import torch

    from nullclass.experiments.engines.performing import load, perform

    torch.set_num_threads(num_threads)
    task = from_line(line)
    assert isinstance(task, Task)
    events: list[Event] = []
    perform(task, lambda: load(source), torch.device(device), events.append)
    return to_line(events[-1])

"""Where a sweep's tasks are done. A new engine: one file, one line in :data:`ENGINES`."""

from __future__ import annotations

import os
from collections.abc import Callable

from nullclass.experiments.engines.base import (
    DataSource,
    Done,
    Engine,
    Event,
    Failed,
    Progress,
    Task,
)

__all__ = [
    "ENGINES",
    "DataSource",
    "Done",
    "Engine",
    "Event",
    "Failed",
    "Progress",
    "Task",
    "make_engine",
]


def _local(
    source: DataSource, device: str, num_workers: int, num_threads: int, address: str | None
) -> Engine:
    from nullclass.experiments.engines.processes import Processes

    return Processes(num_workers, num_threads, source, device)


def _ray(
    source: DataSource, device: str, num_workers: int, num_threads: int, address: str | None
) -> Engine:
    from nullclass.experiments.engines.ray_cluster import RayCluster

    return RayCluster(num_workers, num_threads, source, device, address)


ENGINES: dict[str, Callable[[DataSource, str, int, int, str | None], Engine]] = {
    "local": _local,
    "ray": _ray,
}
"""Names on the command line: processes on this machine, or a Ray cluster."""


def make_engine(
    name: str,
    source: DataSource,
    *,
    device: str,
    num_workers: int | None = None,
    num_threads: int | None = None,
    address: str | None = None,
) -> Engine:
    """The engine of that name, with a sensible number of workers and threads.

    Args:
        name: A name in :data:`ENGINES`.
        source: How workers come to the data.
        device: Where they compute.
        num_workers: Tasks at once. Unless given: on this machine one a core, or one on a GPU; on a
            cluster as many as find room.
        num_threads: Threads of a worker; the cores divided by the workers unless given, 1 on a
            cluster.
        address: Of the cluster.

    Raises:
        UserError: If the engine is not installed or the cluster does not answer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if name == "ray":
        return ENGINES[name](source, device, num_workers or 0, num_threads or 1, address)
    num_workers = num_workers or (1 if device.startswith("cuda") else cores or 1)
    num_threads = num_threads or max(1, (cores or 1) // num_workers)
    return ENGINES[name](source, device, num_workers, num_threads, address)

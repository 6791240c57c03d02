"""Engines that do the jobs of a run: in this process, in local workers, or on a Ray cluster."""

from __future__ import annotations

import os

from nullclass.core.checks import check_choice
from nullclass.experiments.engines.base import DataSource, Engine

__all__ = ["ENGINES", "DataSource", "Engine", "make_engine"]

ENGINES = ("local", "ray")
"""Names for :func:`make_engine`."""


def make_engine(
    name: str,
    source: DataSource,
    *,
    device: str,
    num_workers: int | None = None,
    num_threads: int | None = None,
    address: str | None = None,
) -> Engine:
    """Return an engine.

    Args:
        name: ``local`` (worker processes on this machine) or ``ray`` (a cluster).
        source: The run's data.
        device: Device to compute on.
        num_workers: Jobs at once. By default one per core, or one on a GPU; on a cluster as many
            as its CPUs allow.
        num_threads: Threads per worker. By default the cores divided by the workers; 1 on a
            cluster.
        address: Address of the cluster.

    Raises:
        UserError: If the engine is not installed or the cluster does not answer.
    """
    if check_choice("engine", name, ENGINES) == "ray":
        from nullclass.experiments.engines.ray_cluster import RayEngine

        return RayEngine(num_workers or 0, num_threads or 1, source, device, address)
    from nullclass.experiments.engines.local import LocalEngine

    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    num_cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    num_workers = num_workers or (1 if device.startswith("cuda") else num_cores)
    return LocalEngine(num_workers, num_threads or max(1, num_cores // num_workers), source, device)

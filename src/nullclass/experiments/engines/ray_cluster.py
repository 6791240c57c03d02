"""Jobs on a Ray cluster, with the run folder on storage that all nodes share.

A lost node and a worker that is lost or hangs fail their own jobs, which the runner starts again.
Ray itself retries nothing, so that no job runs twice at once.

A cluster of this machine, started here, listens on loopback only, and its processes do not outlive
this one.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from ipaddress import ip_address
from typing import Any

from nullclass.core.errors import UserError
from nullclass.experiments.engines.base import DataSource, Event, Failed, Report, Task
from nullclass.experiments.engines.guard import descendants, start_guard
from nullclass.experiments.engines.watchdog import HANG_SECONDS, watchdog

LOCAL = "local"
"""Address that starts a cluster on this machine."""

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment for Ray to use 127.0.0.1 as the address of this machine, as it does on macOS, and to
send no statistics. Read when Ray is imported, and by its processes."""


class RayEngine:
    """An engine on Ray.

    Args:
        num_workers: Jobs at once; 0 uses all CPUs of the cluster.
        num_threads: Threads, and so CPUs, per job.
        source: The run's data.
        device: Device to compute on; ``cuda`` takes one GPU per job.
        address: Address of the cluster; ``None`` starts one on this machine, on loopback only.

    Raises:
        UserError: If Ray is not installed or the cluster does not answer, or if Ray was imported
            before so that it would listen on all interfaces.
    """

    def __init__(
        self,
        num_workers: int,
        num_threads: int,
        source: DataSource,
        device: str,
        address: str | None,
    ) -> None:
        address = LOCAL if address is None else address
        if address == LOCAL:
            os.environ.update(LOOPBACK_ONLY)
        try:
            import ray
        except ImportError:
            raise UserError(
                "Ray is not installed: pip install 'nullclass[ray]', or use --engine local"
            ) from None
        self._ray: Any = ray
        self._guard: subprocess.Popen[bytes] | None = None
        self._running: dict[Any, Task] = {}
        if address == LOCAL:
            self._start_cluster()
        else:
            _check_reachable(address)
            self._init(address, f"no Ray cluster answers at {address}")
        self.num_workers = num_workers
        self.num_threads = num_threads
        self._run = ray.remote(
            num_cpus=num_threads, num_gpus=int(device.startswith("cuda")), max_retries=0
        )(_execute_remotely)
        self._settings = (source, device, num_threads)

    def _start_cluster(self) -> None:
        before = set(descendants(os.getpid()))
        self._init(LOCAL, "Ray cannot start", include_dashboard=False)
        self._guard = start_guard(set(descendants(os.getpid())) - before)
        if not ip_address(self._ray.util.get_node_ip_address()).is_loopback:
            self.close()
            raise UserError(
                "Ray was imported before its cluster could be limited to loopback: make the engine "
                "before importing ray, or give the address of a cluster"
            )

    def _init(self, address: str, failure: str, **options: Any) -> None:
        try:
            self._ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, **options
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{failure}: {reason}") from None

    def has_room(self) -> bool:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        # Nodes come and go, so this counts again; Ray queues a job until there is room.
        cpus = self._ray.cluster_resources().get("CPU", 0) if not self.num_workers else 0
        return len(self._running) < (self.num_workers or max(1, int(cpus) // self.num_threads))

    def start(self, task: Task) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        self._running[self._run.remote(task, *self._settings)] = task

    def wait(self, report: Report) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        ended, _ = self._ray.wait(list(self._running), timeout=0.5)
        for reference in ended:
            task = self._running.pop(reference)
            try:
                event = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                event = Failed(task.job.folder, f"its worker was lost: {reason}")
            report(event)

    def close(self) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()
        if self._guard is not None:
            self._guard.communicate()


def _check_reachable(address: str) -> None:
    """Connect to the port once: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from None


def _execute_remotely(task: Task, source: DataSource, device: str, num_threads: int) -> Event:
    """Run a task on some node and return its last event."""
    from nullclass.core.process import tune_process

    tune_process()
    import torch

    from nullclass.experiments.engines.serial import execute

    torch.set_num_threads(num_threads)
    events: list[Event] = []
    with watchdog(events.append, HANG_SECONDS) as report:
        execute(task, source, torch.device(device), report)
    return events[-1]

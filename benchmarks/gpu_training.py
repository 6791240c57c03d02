"""Part ``training`` of ``gpu.py``: throughput of one process and of several that share a device."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from common import mnist, training_of
from gpu_options import Items, Options, Row
from nullclass.core.devices import find_device
from nullclass.experiments.config import Training
from nullclass.experiments.trainings import Trainer
from nullclass.studies.null_samples import config as null_samples
from nullclass.training.loop import train
from nullclass.training.recipes import find_recipe

NETWORKS = ("report", "notebook")


def report_training(index: int) -> Training:
    """Return the training of one of the report's eight variants, without held-out images."""
    variant = null_samples.VARIANTS[::-1][index % 8]
    recipe = replace(find_recipe("fast", "report"), epochs=1, stem_epochs=None)
    training = null_samples.training(variant, index, "quick")
    return replace(training, validation=0, recipe=recipe, selections=())


class StopError(Exception):
    """Ends a training that has nothing left to measure."""


def train_forever(
    index: int, o: Options, num_active: Any, network: Any, steps: Any, networks_seen: Any
) -> None:
    """Train in a process, counting steps, as long as the parent wants it to."""
    torch.set_num_threads(1)
    device, dataset = find_device(o.device), mnist(o.data)
    while (now := network.value) >= 0:
        is_report = NETWORKS[now] == "report"
        training = report_training(index) if is_report else training_of("null-0.5-wd")
        training = replace(training, recipe=replace(training.recipe, epochs=1000))

        def on_step(done: int, total: int, loss: float, now: int = now) -> None:
            steps[index] += 1
            networks_seen[index] = now
            while index >= num_active.value and network.value == now:
                time.sleep(0.005)
            if network.value != now:
                raise StopError

        trained = Trainer(training, dataset, device=device)
        with suppress(StopError):
            train(
                trained.model,
                dataset.training_images(),
                trained.config,
                nulls=trained.nulls,
                on_step=on_step,
            )


class Pool:
    """Processes that train on one device, of which the first few are active."""

    def __init__(self, o: Options, size: int) -> None:
        self.o = o
        context = multiprocessing.get_context("spawn")
        self.num_active, self.network = (context.Value("i", 0, lock=False) for _ in range(2))
        self.steps = context.Array("l", size, lock=False)
        self.networks_seen = context.Array("i", [-1] * size, lock=False)
        shared = o, self.num_active, self.network, self.steps, self.networks_seen
        self.processes = [
            context.Process(target=train_forever, args=(index, *shared), daemon=True)
            for index in range(size)
        ]
        for process in self.processes:
            process.start()

    def wait(self, is_ready: Callable[[], bool]) -> None:
        """Wait until a condition holds, as long as all processes run."""
        while not is_ready():
            if not all(process.is_alive() for process in self.processes):
                codes = [process.exitcode for process in self.processes]
                raise RuntimeError(f"a process has ended, exit codes {codes}")
            time.sleep(0.02)

    def measure(self, network: str, num: int) -> Row:
        """Return the training steps per second of ``num`` processes in a common window."""
        index, active = NETWORKS.index(network), range(num)
        self.num_active.value, self.network.value = num, index
        self.wait(lambda: all(seen == index for seen in self.networks_seen))
        before, warm_up = list(self.steps), 2 if self.o.tiny else 20
        self.wait(lambda: all(self.steps[n] > before[n] + warm_up for n in active))
        started, before = time.perf_counter(), list(self.steps)
        time.sleep(1.0 if self.o.tiny else 5.0)
        seconds, after = time.perf_counter() - started, list(self.steps)
        each = [(after[n] - before[n]) / seconds for n in active]
        return {"models": num, "steps_per_second": sum(each), "slowest": min(each)}

    def close(self) -> None:
        """End the processes."""
        self.network.value = -1
        for process in self.processes:
            process.join(timeout=5)
            process.kill()


def training_items(o: Options) -> Items:
    """One and several processes, started once; then the same under a Multi-Process Service."""
    nums = (1, 2) if o.tiny else (1, 8, 16)
    pools: list[Pool] = []

    def measure(network: str, num: int) -> Row:
        if not pools:
            pools.append(Pool(o, nums[-1]))
        return pools[0].measure(network, num)

    def close() -> Row:
        for pool in pools:
            pool.close()
        return {}

    plan = [(network, num) for network in NETWORKS for num in nums]
    items: Items = {f"{network}, {num} processes": partial(measure, network, num)
                    for network, num in plan}  # fmt: skip
    items["end of the processes"] = close
    items[f"report, {nums[-1]} processes under MPS"] = partial(measure_under_mps, o, nums)
    return items


def measure_under_mps(o: Options, nums: tuple[int, ...]) -> Row:
    """Measure processes under CUDA's Multi-Process Service, which needs no setting of the card."""
    server = shutil.which("nvidia-cuda-mps-control")
    if server is None:
        return {"note": "nvidia-cuda-mps-control is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        subprocess.run([server, "-d"], check=True, timeout=20)
        try:
            pool = Pool(o, nums[-1])
            rows = {num: pool.measure("report", num) for num in nums}
            pool.close()
        finally:
            subprocess.run([server], input="quit\n", text=True, timeout=20)
    return rows[nums[-1]] | {"all": {num: row["steps_per_second"] for num, row in rows.items()}}

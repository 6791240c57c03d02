"""How a sweep grows with workers and nodes: the same trainings and trials, in turns in one run.

One worker, two workers, each with one thread; one worker with all cores; and a Ray cluster of one
and of two local nodes, each with one CPU. Starting workers and the cluster counts, as it does in a
real sweep; there it is a smaller part.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from common import in_turns, median_seconds, table, verdict
from nullclass.data import load_dataset
from nullclass.experiments.engines import DataSource, make_engine
from nullclass.experiments.engines.base import Engine
from nullclass.experiments.runner import RunResult, plan_trials, run_study
from nullclass.studies.ramps.config import RAMPS

FACTOR = 1.7
"""How many times faster two workers have to be than one."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    rounds: int = 2
    """Times each way of running it is measured, in turns."""
    num_models: int = 12
    """Models of the sweep."""
    all_ways: bool = True
    """Whether to measure one worker with all cores and Ray too."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    source = DataSource("ramps", 0)
    dataset = load_dataset("ramps", validation=0)
    cores = os.cpu_count() or 1

    def run(engine: Engine) -> RunResult:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_study(
                RAMPS,
                dataset,
                Path(folder),
                engine=engine,
                device=torch.device("cpu"),
                trials=plan_trials(RAMPS, "quick", range(options.num_models), ["base"]),
            )
        if outcome.failed:
            raise RuntimeError(str(outcome))
        return outcome

    def local(workers: int, threads: int) -> RunResult:
        engine = make_engine(
            "local", source, device="cpu", num_workers=workers, num_threads=threads
        )
        return run(engine)

    def on_ray(nodes: int) -> RunResult:
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        try:
            return run(make_engine("ray", source, device="cpu", address=cluster.address))
        finally:
            cluster.shutdown()

    contenders: dict[str, Callable[[int], RunResult]] = {
        "1 worker, 1 thread": lambda _: local(1, 1),
        "2 workers, 1 thread each": lambda _: local(2, 1),
    }
    if options.all_ways:
        contenders[f"1 worker, {cores} threads"] = lambda _: local(1, cores)
        contenders["Ray, 1 node"] = lambda _: on_ray(1)
        contenders["Ray, 2 nodes"] = lambda _: on_ray(2)
    measured = in_turns(contenders, options.rounds)
    alone = median_seconds(measured["1 worker, 1 thread"])
    lines = []
    for name, runs in measured.items():
        seconds = median_seconds(runs)
        peak = max(outcome.peak_mb for _, outcome in runs)
        lines.append((name, f"{seconds:.1f}", f"{alone / seconds:.2f}", f"{peak:.0f}"))
    ratio = alone / median_seconds(measured["2 workers, 1 thread each"])
    return "\n\n".join(
        [
            "## Sweeps",
            f"{options.num_models} base models of the study `ramps`, quick; everything from the "
            "start of the workers, or of the cluster, to the tables. Medians of "
            f"{options.rounds} rounds in turns.",
            table(["engine", "seconds", "times one worker", "peak MB of a worker"], lines),
            verdict(ratio >= FACTOR, f"two workers {ratio:.2f} times as fast as one, of {FACTOR}"),
        ]
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

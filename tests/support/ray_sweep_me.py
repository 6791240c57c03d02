"""Runs the tiny study on a Ray cluster of local nodes that die: ray_sweep_me.py DATA OUT KILLS.

KILLS nodes, one after another, are killed at random moments and replaced by fresh ones.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ray.cluster_utils import Cluster
from tiny_study import CPU, TINY, load, source_of

from nullclass.experiments.engines.ray_cluster import RayEngine
from nullclass.experiments.runner import run_study


def main(data: Path, out: Path, kills: int) -> int:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    chance, is_over, killed = random.Random(5), threading.Event(), []

    def kill() -> None:
        while len(killed) < kills and not is_over.is_set():
            files = len(list(out.rglob("*")))
            while len(list(out.rglob("*"))) == files and not is_over.is_set():
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            if is_over.is_set():
                return
            victim = nodes.pop(chance.randrange(len(nodes)))
            cluster.remove_node(victim, allow_graceful=False)
            killed.append(victim)
            nodes.append(cluster.add_node(num_cpus=1))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while True:  # the same command again, where a job was given up
            engine = RayEngine(2, 1, source_of(data), "cpu", cluster.address)
            result = run_study(TINY, load(data), out, engine=engine, device=CPU)
            if not result.failed:
                break
    finally:
        is_over.set()
        killer.join()
        cluster.shutdown()
    print(f"killed {len(killed)} nodes")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))

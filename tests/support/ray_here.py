"""Starts a Ray cluster on this machine, gives it a task without end, and prints its processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_study import source_of

from nullclass.experiments.engines.guard import descendants
from nullclass.experiments.engines.ray_cluster import RayEngine


def endless(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        pass


if __name__ == "__main__":
    engine = RayEngine(1, 1, source_of(Path("nowhere")), "cpu", None)
    engine._ray.remote(endless).remote(sys.argv[1])
    while not Path(sys.argv[1]).exists():
        time.sleep(0.05)
    print(os.getpid(), *descendants(os.getpid()), flush=True)
    if sys.argv[2] == "close":
        engine.close()
    else:
        time.sleep(60)

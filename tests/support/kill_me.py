"""Train until a step, then die as the kernel kills: ``kill_me.py FOLDER ARCHITECTURE STEP``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from training_cases import make_case


def main(folder: str, architecture: str, step: str) -> None:
    torch.set_num_threads(1)

    def on_step(done: int, steps: int, loss: float) -> None:
        if done == int(step):
            os.kill(os.getpid(), signal.SIGKILL)

    make_case(architecture)(state_folder=Path(folder), on_step=on_step)


if __name__ == "__main__":
    main(*sys.argv[1:])

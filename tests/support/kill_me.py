"""Trainings that SIGKILL themselves at a step: ``kill_me.py FOLDER STEP ARCHITECTURE...``.

One process imports torch and forks one child per architecture.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from training_cases import make_case


def train_and_die(folder: Path, step: int, architecture: str) -> None:
    def on_step(done: int, steps: int, loss: float) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    make_case(architecture)(state_folder=folder / architecture, on_step=on_step)


def main(folder: str, step: str, *architectures: str) -> None:
    torch.set_num_threads(1)
    for architecture in architectures:
        child = os.fork()
        if child == 0:
            train_and_die(Path(folder), int(step), architecture)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(architecture, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(*sys.argv[1:])

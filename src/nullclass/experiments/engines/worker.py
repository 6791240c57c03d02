"""A worker process: tasks come in on standard input, events go out on standard output.

It dies with its parent: when its standard input ends, so does it, whatever it is doing.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading

from nullclass.core.process import trim_memory, tune_process


def main() -> None:
    """Do tasks until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=json.loads)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    told = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed must not get among the answers
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    tune_process()

    import torch

    from nullclass.experiments.engines.base import DataSource, Event, Task
    from nullclass.experiments.engines.messages import from_line, to_line
    from nullclass.experiments.engines.performing import load, perform

    torch.set_num_threads(told.threads)
    source = DataSource(**told.data)

    def tell(event: Event) -> None:
        answers.write(to_line(event) + "\n")
        answers.flush()

    while True:
        task = from_line(lines.get())
        assert isinstance(task, Task)
        perform(task, lambda: load(source), torch.device(told.device), tell)
        trim_memory()


if __name__ == "__main__":
    main()

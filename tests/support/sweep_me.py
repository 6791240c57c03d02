"""Runs the tiny study in two worker processes: python sweep_me.py DATA OUT. Made to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from nullclass.core.errors import UserError
from nullclass.core.process import tune_process

tune_process()

import torch  # noqa: E402
from tiny_study import TINY, load, source_of  # noqa: E402

from nullclass.experiments.engines.processes import Processes  # noqa: E402
from nullclass.experiments.runner import run_study  # noqa: E402

if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:3])
    device = torch.device("cpu")
    engine = Processes(2, 1, source_of(data), "cpu")
    try:
        outcome = run_study(TINY, load(data), out, engine=engine, device=device)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(outcome)
    sys.exit(1 if outcome.failed else 0)

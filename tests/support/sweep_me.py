"""Runs the tiny study in workers, to be killed: python sweep_me.py DATA OUT NUM_WORKERS."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_study import CPU, TINY, load, source_of

from nullclass.core.errors import UserError
from nullclass.experiments.engines.local import LocalEngine
from nullclass.experiments.runner import run_study

if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:3])
    engine = LocalEngine(int(sys.argv[3]), 1, source_of(data), "cpu")
    try:
        result = run_study(TINY, load(data), out, engine=engine, device=CPU)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(result)
    sys.exit(1 if result.failed else 0)

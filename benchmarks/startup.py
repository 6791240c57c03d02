"""How long ``nullclass --help`` takes, whole process, cold interpreter and warm disk."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import in_turns, median_seconds, table, verdict

LIMIT = 0.2
"""Seconds that ``--help`` must stay under."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    rounds: int = 9
    """Runs of each command."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "nullclass --help": [str(Path(sys.executable).parent / "nullclass"), "--help"],
    }

    def run(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    for command in commands.values():  # fill the disk cache and write the .pyc files
        run(command)
    measured = in_turns(
        {name: lambda _, command=command: run(command) for name, command in commands.items()},
        options.rounds,
    )
    lines = []
    for name, runs in measured.items():
        times = [seconds for seconds, _ in runs]
        middle = f"{median_seconds(runs):.3f}"
        lines.append((f"`{name}`", middle, f"{min(times):.3f} – {max(times):.3f}"))
    ours = median_seconds(measured["nullclass --help"])
    return "\n\n".join(
        [
            "## Start-up",
            table(["command", f"median of {options.rounds} [s]", "range [s]"], lines),
            verdict(ours < LIMIT, f"`nullclass --help` in {ours:.2f} s, limit {LIMIT} s"),
        ]
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

"""The entry point of the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from nullclass.cli import COMMANDS
from nullclass.cli.study import StudyCommand
from nullclass.cli.train import TrainCommand
from nullclass.core.errors import UserError
from nullclass.core.process import tune_process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name. Default: those of ``sys.argv``.

    Returns:
        Exit status: 0; 1 if jobs of a study failed or ``--strict`` found a red flag; 2 for bad
        input; 130 if interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        from importlib.metadata import version

        print(f"nullclass {version('nullclass')}")
        return 0
    tune_process()
    command: Any = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="nullclass",
        description="Image classifiers that may answer null: train, attack, evaluate, prove. "
        "nullclass --version prints the version.",
        args=arguments,
    )
    try:
        return int(command.run() or 0)
    except UserError as error:
        print(f"nullclass: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        is_resumed = isinstance(command, TrainCommand | StudyCommand)
        later = "the same command resumes it" if is_resumed else "run it again"
        print(f"nullclass: interrupted; {later}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())

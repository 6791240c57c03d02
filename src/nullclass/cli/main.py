"""The command line, thin: arguments in, one clear sentence out. Imports torch only to work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import tyro

from nullclass.cli import COMMANDS, Command
from nullclass.cli.evaluate import RedFlagsError
from nullclass.cli.study import IncompleteError, Study
from nullclass.cli.train import Train
from nullclass.core.errors import UserError
from nullclass.core.process import tune_process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; ``sys.argv`` unless given.

    Returns:
        Exit status: 0, 1 if part of a sweep was given up or --strict found a red flag, 2 for a
        mistake the user can put right, 130 when stopped.
    """
    tune_process()
    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="nullclass",
        description="Image classifiers with one more answer, null, and the truth about how well "
        "it works.",
        args=arguments,
    )
    try:
        command.run()
    except UserError as error:
        print(f"nullclass: {error}", file=sys.stderr)
        return 2
    except RedFlagsError:  # told already
        return 1
    except IncompleteError as error:
        print(
            f"nullclass: {error.num_failed} jobs were given up, the rest is done; the same command "
            f"tries them again: {error}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        is_resumed = isinstance(command, Train | Study)
        later = (
            "the same command goes on from the last whole epoch" if is_resumed else "run it again"
        )
        print(f"nullclass: stopped; {later}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())

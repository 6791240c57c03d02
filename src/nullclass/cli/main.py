"""The entry point of the command line."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO, cast

from nullclass.cli import COMMANDS
from nullclass.cli.streams import Output
from nullclass.core.checks import shown
from nullclass.core.errors import UserError
from nullclass.core.process import tune_process

HELP = """usage: nullclass COMMAND [OPTIONS]

Image classifiers that may answer null: train, attack, evaluate, prove.

commands:
{commands}

nullclass COMMAND --help explains the options; nullclass --version prints the version."""


RESUMED = ("train", "substitute", "evaluate", "study")
"""Commands that continue where they were interrupted."""

OUTPUT_LOST = 3
"""Exit status of a command that did its work, but could not print all of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name. Default: those of ``sys.argv``.

    Returns:
        Exit status: 0; 1 if jobs of a study failed or ``--strict`` found a red flag; 2 for bad
        input; 3 if standard output was full; 130 if interrupted; 141 if its reader is gone.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    before = sys.stdout, sys.stderr
    output, errors = Output(sys.stdout, is_piped=True), Output(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
    try:
        status = _run(words or ["--help"])
        output.flush()
    except BrokenPipeError:  # the reader of the output is gone
        output.discard()
        return 141
    finally:
        if output.error is not None:
            reason = output.error.strerror
            print(f"nullclass: standard output could not be written: {reason}", file=sys.stderr)
        errors.flush()
        sys.stdout, sys.stderr = before
    return OUTPUT_LOST if status == 0 and output.error is not None else status


def _run(words: list[str]) -> int:
    """Run a command and return its exit status."""
    name, *options = words
    if name in ("-h", "--help"):
        lines = (f"  {command:<12}{summary}" for command, summary in COMMANDS.items())
        print(HELP.format(commands="\n".join(lines)))
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"nullclass {version('nullclass')}")
        return 0
    if name not in COMMANDS:
        return _refuse(f"there is no command {shown(name)}: choose one of {', '.join(COMMANDS)}")
    tune_process()
    try:
        return int(_parse(name, options).run() or 0)
    except UserError as error:
        return _refuse(str(error))
    except RecursionError:
        return _refuse("the input is nested too deeply")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _refuse("out of memory: give fewer or smaller images")
    except SystemExit as stopped:  # --help, or options that do not exist
        return int(stopped.code or 0)
    except KeyboardInterrupt:
        later = "the same command resumes it" if name in RESUMED else "run it again"
        print(f"nullclass: interrupted; {later}", file=sys.stderr)
        return 130


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, or torch on the CPU or on a GPU, has found no memory."""
    is_gpu = type(error).__name__ == "OutOfMemoryError"  # torch may not be imported yet
    return isinstance(error, MemoryError) or is_gpu or "can't allocate memory" in str(error)


def _refuse(reason: str) -> int:
    """Print one sentence and return the exit status of bad input."""
    print(f"nullclass: {reason}", file=sys.stderr)
    return 2


def _parse(name: str, options: list[str]) -> Any:
    """Return a command with its options; exits for ``--help`` and options that do not exist."""
    for word in options:
        option, is_equation, value = word.partition("=")
        if not word or (is_equation and not value and option.startswith("--")):
            raise UserError(f"{option or 'an option'} has no value")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in word):
            raise UserError(f"{shown(word)} holds a control character or is not UTF-8")
    import tyro

    from nullclass.cli.common import expand_paths

    command = import_module(f"nullclass.cli.{name}").Command
    return expand_paths(tyro.cli(command, prog=f"nullclass {name}", args=options))


if __name__ == "__main__":
    sys.exit(main())

"""The entry point of the command line."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from nullclass.cli import COMMANDS
from nullclass.core.checks import shown
from nullclass.core.errors import UserError
from nullclass.core.process import tune_process

HELP = """usage: nullclass COMMAND [OPTIONS]

Image classifiers that may answer null: train, attack, evaluate, prove.

commands:
{commands}

nullclass COMMAND --help explains the options; nullclass --version prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name. Default: those of ``sys.argv``.

    Returns:
        Exit status: 0; 1 if jobs of a study failed or ``--strict`` found a red flag; 2 for bad
        input; 130 if interrupted.
    """
    name, *options = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if name in ("-h", "--help"):
        lines = (f"  {command:<12}{summary}" for command, summary in COMMANDS.items())
        print(HELP.format(commands="\n".join(lines)))
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"nullclass {version('nullclass')}")
        return 0
    if name not in COMMANDS:
        print(
            f"nullclass: there is no command {shown(name)}: choose one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    tune_process()
    try:
        return int(_parse(name, options).run() or 0)
    except UserError as error:
        print(f"nullclass: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except MemoryError:
        print("nullclass: out of memory: give fewer or smaller images", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        later = "the same command resumes it" if name in ("train", "study") else "run it again"
        print(f"nullclass: interrupted; {later}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


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


def _one_line(text: str) -> str:
    """Return a text with control characters and lone surrogates escaped, and a long name cut."""
    bad = ("Cc", "Cs")
    text = "".join(ascii(c)[1:-1] if unicodedata.category(c) in bad else c for c in text)
    return text if len(text) < 1000 else f"{text[:400]} … {text[-400:]}"


if __name__ == "__main__":
    sys.exit(main())

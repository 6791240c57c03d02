"""What several commands share: options, progress, tables. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from nullclass.core.checks import check_path

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nullclass.results.run import Run
    from nullclass.results.schema import Flag

Options = TypeVar("Options", bound=Any)

Data = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="DATA",
        help="Images with labels: a known name, a folder, a file or a function that "
        "returns them, PACKAGE.MODULE:FUNCTION, whose code is run (docs/data.md). Default: the "
        "data of the checkpoint.",
    ),
]
HeldOut = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="DATA",
        help="Images with labels that the model was not trained on and is not tested on: the test "
        "images of DATA, as for --data. Default: those that the card of the checkpoint names.",
    ),
]
Resize = Annotated[
    tuple[int, ...] | None,
    tyro.conf.arg(
        help="Side, or height and width, to which the images of an image folder are scaled and "
        "cropped."
    ),
]
Eps = Annotated[tuple[float, ...], tyro.conf.arg(help="Budgets in pixel units, pixels in [0,1].")]
NullRate = Annotated[
    float | None,
    tyro.conf.arg(
        help="Answer null by a threshold on the null score that refuses this share of clean "
        "held-out images. Default: the largest logit decides."
    ),
]
AttackNorm = Annotated[str, tyro.conf.arg(help="linf, l2 or l1.")]
AttackSeed = Annotated[int, tyro.conf.arg(help="Seed of the attacks' random starts.")]
Checks = Annotated[
    bool,
    tyro.conf.arg(help="Look for red flags; adds at most a quarter to the cost of the attacks."),
]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, cuda:N or mps.")]


def subcommand(name: str) -> object:
    """Mark a dataclass as a subcommand whose options have no prefix."""
    return tyro.conf.subcommand(name=name, prefix_name=False)


def expand_paths(options: Options) -> Options:
    """Return options with ``~`` replaced by the home folder in all paths."""
    changes: dict[str, Any] = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if isinstance(value, Path):
            changes[item.name] = check_path(f"--{item.name.replace('_', '-')}", value)
        elif is_dataclass(value):
            changes[item.name] = expand_paths(value)
    return replace(options, **changes)


@contextmanager
def progress(title: str, units: float) -> Iterator[Callable[[float], None]]:
    """Show one progress bar; call the result with the units done since the last call."""
    from nullclass.core.progress import Stages

    with Stages(title, units) as stages, stages.stage(title, units=units, cost=units) as advance:
        yield advance


def print_rich(renderable: RenderableType, width: int = 140) -> None:
    """Print a table; a pipe has no width, so it gets one at which no column is cut."""
    from rich.console import Console

    (Console() if sys.stdout.isatty() else Console(width=width)).print(renderable)


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    caption: str | None = None,
    num_left: int = 0,
    width: int = 140,
) -> None:
    """Print a table whose first ``num_left`` columns are text and the others numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1))
    for index, heading in enumerate(headings):
        is_text = index < num_left
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text)
    for row in rows:
        table.add_row(*map(Text, row))  # a name may look like markup
    print_rich(table, width)


def print_damaged(run: Run) -> None:
    """Print what is damaged in a run folder."""
    for each in run.damaged:
        print(f"damaged: {each.title}: {each.reason}")


def print_report(folder: Path) -> bool:
    """Draw the report of a run folder; print its table, what is damaged, and its path.

    Returns:
        Whether nothing is damaged.
    """
    from nullclass.studies.reports import read_run, summary_table, write_report

    path = write_report(folder)
    run = read_run(folder)
    print_rich(summary_table(run))
    print_damaged(run)
    print(f"report: {path}")
    return not run.damaged


def print_flags(flags: Sequence[Flag]) -> None:
    """Print the red flags of an evaluation."""
    print(f"{len(flags)} red flag{'s' * (len(flags) != 1)}:" if flags else "no red flags")
    for flag in flags:
        print(f"  {flag.name}: {flag.message} ({flag.page})")

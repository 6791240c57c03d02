"""``nullclass data``: fetch datasets, and show what is in some images with labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nullclass.cli.common import Resize, subcommand
from nullclass.cli.outputs import output_file
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Fetch:
    """Fetch known datasets into the cache, and verify their checksums."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """mnist, fashion-mnist, cifar10, cifar100 or svhn; or several."""

    def run(self) -> None:
        """Run the action."""
        from nullclass.data.fetching import fetch, find_dataset
        from nullclass.data.known import DATASETS

        if not self.names:
            raise UserError(f"name a dataset to fetch: {', '.join(DATASETS)}")
        for name in self.names:  # before the first download
            find_dataset(name)
        for name in self.names:
            print(f"{name}: {fetch(name)[1]}")


@dataclass(frozen=True)
class Show:
    """Print counts, classes, shape, range and checksum of images; draw a contact sheet."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A known name, a folder, a file or a function that returns images and labels,
    PACKAGE.MODULE:FUNCTION, whose code is run (docs/data.md)."""
    resize: Resize = None
    out: Path | None = None
    """PNG file for a contact sheet: the first images of each class."""

    def run(self) -> None:
        """Run the action."""
        from nullclass.core.files import write_bytes
        from nullclass.data import load_dataset
        from nullclass.data.summary import contact_sheet, summary

        with output_file(self.out):
            if self.out is not None and self.out.suffix.lower() != ".png":
                raise UserError(f"--out must end in .png, not {self.out}")
            dataset = load_dataset(self.data, validation=0, resize=self.resize)
            lines = list(summary(dataset))
            if self.out is not None:
                write_bytes(self.out, contact_sheet(dataset))
        print("\n".join(lines))
        if self.out is not None:
            print(f"contact sheet: {self.out}")


Action = Annotated[Fetch, subcommand("fetch")] | Annotated[Show, subcommand("show")]


@dataclass(frozen=True)
class Command:
    """Fetch datasets; show what is in some images with labels."""

    action: tyro.conf.OmitArgPrefixes[Action]

    def run(self) -> None:
        """Run the command."""
        self.action.run()

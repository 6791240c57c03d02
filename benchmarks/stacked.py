"""Trainings stacked against the same one by one, in turns: models x epochs per minute.

    python benchmarks/stacked.py                                   # on the GPU if there is one
    python benchmarks/stacked.py --device cpu --models 1 2 --images 640 --rounds 1   # does it run?

The models are the report's: its network and its eight variants, base, u, s … usm, each with a seed
of its own. Every number of models is trained stacked in one process, and then one by one in the
same process, round by round; the round decides the seeds. What is timed is training alone, with
all that is drawn for it: the ``seconds`` of the histories, without measuring, selecting and
writing. Before the first round both sides train a few steps that are not counted.

Images are the first of MNIST's training images; without MNIST, learnable noise of that size,
which costs the same. A stack of one is trained alone, so that the first line shows what the
ratios of this machine are worth. One by one is not all a GPU can do without stacking: several
processes may share it.

The table goes to stdout; times, settings and machine also to a JSON file.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from common import SCRATCH, in_turns, say, table
from nullclass.core.devices import find_device
from nullclass.core.errors import UserError
from nullclass.core.files import write_json
from nullclass.core.process import tune_process
from nullclass.core.provenance import provenance
from nullclass.data import Dataset, LabelledImages, load_dataset
from nullclass.experiments.config import Training
from nullclass.experiments.jobs import place_of
from nullclass.experiments.stacked import do_stacked
from nullclass.experiments.tasks import do
from nullclass.results import frames, schema
from nullclass.studies.null_samples import config as null_samples
from nullclass.training.recipes import find_recipe

STACKED, ALONE = "stacked", "one by one"

WARM_UP = 5
"""Steps that are not counted."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    models: tuple[int, ...] = (1, 2, 4, 8, 16)
    """How many models are trained together."""
    images: int = 6400
    """Training images of an epoch."""
    epochs: int = 1
    """Epochs of a round."""
    rounds: int = 3
    """Times each side trains, in turns."""
    recipe: Literal["faithful", "fast"] = "faithful"
    """The report's own (batches of 32, float32) or the fast one (64, bfloat16)."""
    data_dir: Path | None = None
    """Folder of MNIST's IDX files; without it the cache, then the mirrors."""
    noise: bool = False
    """Do not look for MNIST."""
    out: Path = SCRATCH / "stacked.json"
    """File for the times."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.rounds, self.epochs, self.images, *self.models) < 1:
            raise SystemExit("rounds, epochs, images and models must be at least 1")


@dataclass(frozen=True)
class Turn:
    """What one side did in one round."""

    seconds: float
    """Of training."""
    peak_mb: float | None
    """The most memory its tensors took on the GPU, in MB; None elsewhere."""


def images_of(options: Options) -> Dataset:
    """MNIST's first images, or noise with a pattern a class."""
    if not options.noise:
        try:
            mnist = load_dataset("mnist", data_dir=options.data_dir, validation=0)
        except UserError as error:
            say(f"no MNIST ({error}); noise instead")
        else:
            return replace(mnist, train=mnist.train.first(min(options.images, len(mnist.train))))
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 128, (10, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(options.images) % 10
    drawn = torch.randint(
        0, 128, (options.images, 1, 28, 28), generator=generator, dtype=torch.uint8
    )
    images = LabelledImages(patterns[labels] + drawn, labels, 10)
    names = tuple(map(str, range(10)))
    return Dataset("noise", 10, names, 0.5, 0.2, images, None, images, "noise", "made up here")


def trainings_of(num: int, round_: int, options: Options, dataset: Dataset) -> list[Training]:
    """Some of the report's variants in their order, seeds of the round."""
    recipe = replace(find_recipe(options.recipe, "report"), epochs=options.epochs)
    variants = null_samples.VARIANTS
    return [
        replace(
            null_samples.training(variants[place % len(variants)], 1000 * round_ + place, "quick"),
            dataset=dataset.name,
            validation=0,
            recipe=recipe,
            selections=(),
        )
        for place in range(num)
    ]


def train(
    is_stacked: bool,
    num: int,
    options: Options,
    dataset: Dataset,
    device: torch.device,
    round_: int,
) -> Turn:
    """Train the models of a round, one way or the other."""
    trainings = trainings_of(num, round_, options, dataset)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if is_stacked:
            do_stacked(trainings, folder, dataset, device=device)
        else:
            for training in trainings:
                do(training, folder, dataset, device=device)
        histories = [
            frames.read_frame(folder / place_of(training, dataset.checksum) / schema.HISTORY)
            for training in trainings
        ]
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    return Turn(float(sum(history["seconds"].sum() for history in histories)), peak)


def measure(options: Options) -> tuple[str, dict[str, Any]]:
    """Run it; gives the table and what goes into the file."""
    device = find_device(options.device)
    dataset = images_of(options)
    recipe = replace(find_recipe(options.recipe, "report"), epochs=options.epochs)
    few = replace(dataset, train=dataset.train.first(min(options.images, WARM_UP * 32)))
    lines, told = [], []
    for num in options.models:
        say(f"{num} models")
        sides = {STACKED: True, ALONE: False}
        for is_stacked in sides.values():
            train(is_stacked, num, replace(options, epochs=1), few, device, 0)
        contenders: dict[str, Callable[[int], Turn]] = {
            name: partial(train, is_stacked, num, options, dataset, device)
            for name, is_stacked in sides.items()
        }
        turns = {
            name: [turn for _, turn in measured]
            for name, measured in in_turns(contenders, options.rounds).items()
        }
        lines.append(line_of(num, options, turns))
        told.append(
            {"models": num} | {name: [asdict(turn) for turn in of] for name, of in turns.items()}
        )
    header = ["models", "stacked", "one by one", "ratio", "round by round", "GPU MB stacked"]
    images = len(dataset.train)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    section = "\n\n".join(
        [
            "## Models trained together",
            f"Models x epochs per minute on {card or device}, medians of {options.rounds} rounds. "
            f"An epoch is {images} images of {dataset.name} in batches of {recipe.batch_size}, "
            f"{recipe.precision}.",
            table(header, lines),
        ]
    )
    about = {
        "options": {
            key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()
        },
        "data": dataset.name,
        "num_images": images,
        "recipe": asdict(recipe),
        "device": str(device),
        "gpu": card,
        "measured": told,
        **provenance(),
    }
    return section, about


def line_of(num: int, options: Options, turns: dict[str, list[Turn]]) -> Sequence[object]:
    """A line of the table: rates, and how many times as fast the stack is."""
    rates = {
        name: [60 * num * options.epochs / turn.seconds for turn in of]
        for name, of in turns.items()
    }
    ratios = [a / b for a, b in zip(rates[STACKED], rates[ALONE], strict=True)]
    peaks = [turn.peak_mb for turn in turns[STACKED] if turn.peak_mb is not None]
    return (
        num,
        f"{statistics.median(rates[STACKED]):.2f}",
        f"{statistics.median(rates[ALONE]):.2f}",
        f"{statistics.median(ratios):.2f}",
        ", ".join(f"{ratio:.2f}" for ratio in ratios),
        f"{max(peaks):.0f}" if peaks else "–",
    )


if __name__ == "__main__":
    tune_process()
    chosen = tyro.cli(Options, description=__doc__)
    section, about = measure(chosen)
    print(section)
    write_json(chosen.out, about)
    say(f"\nwritten to {chosen.out}")

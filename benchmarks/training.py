"""Time to quality: the ``fast`` recipe against the notebook's own loop, in turns in one run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

import notebook_loop
from common import (
    WANTED,
    figures,
    in_turns,
    is_reached,
    median_seconds,
    mnist,
    percent,
    quality_of,
    table,
    train_and_save,
    training_of,
    verdict,
)
from nullclass.core.rng import fork_rng
from nullclass.models import Classifier

FACTOR = 10
"""How many times faster than the notebook's loop ``fast`` has to be."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    rounds: int = 2
    """Times each side trains, in turns; the round is the seed."""
    notebook_epochs: int = notebook_loop.EPOCHS
    """Fewer than 5: the notebook's time is EXTRAPOLATED from so many epochs (its quality is not).
    For a quick look only."""
    data: str = "mnist"
    """mnist, or a folder with its files."""
    num_train: int | None = None
    """Only the first so many training images, for trying this out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be extrapolated."""
        if not 1 <= self.notebook_epochs <= notebook_loop.EPOCHS or self.rounds < 1:
            raise SystemExit("notebook-epochs must be 1 to 5, rounds at least 1")


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    dataset = mnist(options.data, options.num_train)
    images = notebook_loop.standardised(dataset.training_images().images)
    labels = dataset.training_images().labels

    def fast(seed: int) -> Classifier:
        with tempfile.TemporaryDirectory() as folder:
            return train_and_save(training_of("null-0.5-wd", seed), dataset, Path(folder))

    def notebook(seed: int) -> Classifier:
        with fork_rng(seed):
            body = notebook_loop.new_model(11)
            notebook_loop.train_model_null(
                body, images, labels, options.notebook_epochs, weight_decay=1e-4
            )
        return Classifier(
            body, 10, mean=(notebook_loop.MEAN,), std=(notebook_loop.STD,), image_shape=(1, 28, 28)
        )

    measured = in_turns({"fast": fast, "notebook loop": notebook}, options.rounds)
    scale = {"fast": 1.0, "notebook loop": notebook_loop.EPOCHS / options.notebook_epochs}
    qualities = {
        name: [quality_of(model, dataset.test) for _, model in runs]
        for name, runs in measured.items()
    }
    lines = [
        (name, done + 1, f"{scale[name] * seconds:.1f}", *map(percent, figures(quality)))
        for name, runs in measured.items()
        for done, ((seconds, _), quality) in enumerate(zip(runs, qualities[name], strict=True))
    ]
    ours, theirs = (scale[name] * median_seconds(runs) for name, runs in measured.items())
    worst = [min(column) for column in zip(*map(figures, qualities["fast"]), strict=True)]
    by_round = [
        scale["notebook loop"] * b / a
        for (a, _), (b, _) in zip(measured["fast"], measured["notebook loop"], strict=True)
    ]
    notes = [
        f"{len(dataset.training_images())} training images, {len(dataset.test)} test images, FGSM "
        "nulls at epsilon 0.5 in the notebook's units, weight decay 1e-4. `fast` is "
        "`nullclass.experiments.trainings.Trainer`, checkpoint written and all; the notebook "
        "loop is "
        f"{notebook_loop.EPOCHS} epochs of `benchmarks/notebook_loop.py`."
    ]
    if scale["notebook loop"] != 1:
        notes.append(
            f"**EXTRAPOLATED**: the notebook loop ran {options.notebook_epochs} of "
            f"{notebook_loop.EPOCHS} epochs; its times are multiplied by "
            f"{scale['notebook loop']:g}, its quality is that after {options.notebook_epochs}."
        )
    header = ["training", "round", "time [s]", "clean correct", "clean not null", "null under FGSM"]
    return "\n\n".join(
        [
            "## Time to quality",
            *notes,
            table(header, lines),
            f"Medians: `fast` {ours:.1f} s, notebook loop {theirs:.1f} s, "
            f"**ratio {theirs / ours:.1f}** "
            f"(round by round {', '.join(f'{ratio:.1f}' for ratio in by_round)}).",
            "\n".join(
                [
                    verdict(theirs / ours >= FACTOR, f"{theirs / ours:.1f} times, of {FACTOR}"),
                    verdict(
                        all(map(is_reached, qualities["fast"])),
                        f"`fast`, worst of {options.rounds}: {', '.join(map(percent, worst))} "
                        f"(wanted {', '.join(map(percent, figures(WANTED)))})",
                    ),
                ]
            ),
        ]
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

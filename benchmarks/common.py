"""What the benchmarks share: turns, tables, the study's models, and one way to score them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from nullclass.attacks import FGSM
from nullclass.core.errors import UserError
from nullclass.core.outcomes import NULL_LABEL
from nullclass.data import Dataset, LabelledImages, load_dataset
from nullclass.evaluation.run import evaluate
from nullclass.experiments.config import Training
from nullclass.experiments.trainings import Trainer
from nullclass.models import Classifier
from nullclass.results.schema import CLEAN
from nullclass.studies.fgsm_null import config as fgsm_null
from nullclass.training.card import CARD, read_card
from nullclass.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".benchmarks"
"""Cached models and quick results; git ignores it."""

NULL_EPS = fgsm_null.pixels(0.5)
"""The notebook's training epsilon, in pixel units."""

Result = TypeVar("Result")


def say(line: str) -> None:
    """Print at once: the benchmarks are long."""
    print(line, flush=True)


def in_turns(
    contenders: Mapping[str, Callable[[int], Result]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[tuple[float, Result]]]:
    """Run A B A B …, each with the number of its round; return ``[(seconds, result), …]`` of each.

    A machine's speed drifts from minute to minute; in turns the drift affects all alike.
    """
    measured: dict[str, list[tuple[float, Result]]] = {name: [] for name in contenders}
    for done in range(rounds):
        for name, run in contenders.items():
            started = clock()
            result = run(done)
            measured[name].append((clock() - started, result))
            say(f"  round {done + 1}, {name}: {measured[name][-1][0]:.2f} s")
    return measured


def median_seconds(measured: Iterable[tuple[float, object]]) -> float:
    """The middle of the times that :func:`in_turns` took."""
    return statistics.median(seconds for seconds, _ in measured)


def table(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in cells)


def verdict(is_met: bool, what: str) -> str:
    """Return one line that says whether a number was reached."""
    return f"- **{'reached' if is_met else 'MISSED'}**: {what}"


def percent(share: float) -> str:
    """A share, to a hundredth of a percent."""
    return f"{100 * share:.2f} %"


@dataclass(frozen=True)
class Quality:
    """What a null model is worth, as shares of the test images."""

    correct: float
    """Clean images answered with their label."""
    not_null: float
    """Clean images answered at all."""
    null: float
    """FGSM images at the training epsilon that were refused."""


WANTED = Quality(correct=0.988, not_null=0.999, null=0.999)
"""The quality that counts as the notebook's."""


def is_reached(quality: Quality) -> bool:
    """Whether no figure is below :data:`WANTED`."""
    return all(got >= least for got, least in zip(figures(quality), figures(WANTED), strict=True))


def figures(quality: Quality) -> tuple[float, float, float]:
    """The three shares."""
    return quality.correct, quality.not_null, quality.null


def quality_of(model: Classifier, images: LabelledImages) -> Quality:
    """Score a model, clean and under FGSM at the training epsilon."""
    rows = evaluate(model, images, attacks={"fgsm": FGSM("untargeted")}, eps=[NULL_EPS]).rows
    clean, adv_images = rows[rows.attack == CLEAN], rows[rows.attack == "fgsm"]
    return Quality(
        correct=float((clean.outcome == "correct").mean()),
        not_null=float((clean.prediction != NULL_LABEL).mean()),
        null=float((adv_images.outcome == "null").mean()),
    )


def mnist(data: str, num_train: int | None = None) -> Dataset:
    """MNIST as the notebook has it, nothing held out; ``num_train`` cuts it, for trying out."""
    dataset = load_dataset(data, validation=0)
    if dataset.name != "mnist":
        raise UserError(f"{data} is not MNIST")
    if num_train is None:
        return dataset
    return replace(dataset, train=dataset.training_images().first(num_train))


def training_of(variant: str, seed: int = 0) -> Training:
    """The fast training of one of the study's models."""
    (trial,) = fgsm_null.trials("quick", [seed], [variant])
    return trial.training


CPU = torch.device("cpu")


def train_and_save(
    training: Training,
    dataset: Dataset,
    folder: Path,
    device: torch.device = CPU,
    start: Classifier | None = None,
) -> Classifier:
    """Train a model and write its checkpoint, as the command line does."""
    trainer = Trainer(training, dataset, device=device, start=start)
    trainer.write(trainer.train(folder), folder)
    return trainer.model


def cached_model(
    training: Training,
    dataset: Dataset,
    folder: Path,
    device: torch.device = CPU,
    start: Classifier | None = None,
) -> Classifier:
    """The model of that training on that data from a folder; trained first if need be."""
    wanted = json.loads(json.dumps(asdict(training)))
    if (folder / CARD).exists():
        origin = read_card(folder).origin
        if (origin.training, origin.data_checksum) == (wanted, dataset.checksum):
            return load_checkpoint(folder, device=device)[0]
    say(f"training {training.name} once; it stays in {folder}")
    return train_and_save(training, dataset, folder, device, start)

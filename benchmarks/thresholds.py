"""The threshold search: all images at once against the published loop, one image at a time.

The loop asks about one image and one eps after another, with torch; and, as the source had it, with
Keras's ``model.predict`` (``keras_thresholds.py``, in an environment of its own), the ten values of
a round in one call. All with the same weights, and all must find the same thresholds.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from common import in_turns, median_seconds, mnist, table, verdict
from nullclass.attacks import FGSM
from nullclass.core.modules import frozen
from nullclass.core.norms import step_along
from nullclass.data import Dataset
from nullclass.models import Classifier
from nullclass.scoring.fgsm_thresholds import GRID, TOLERANCE, find_thresholds
from report_training import Options as TrainingOptions
from report_training import idx_folder, keras_model

FACTOR = 50
"""How many times faster than the loop we want to be."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    rounds: int = 3
    """Times each side searches, in turns."""
    num_batched: int = 1000
    """Images of the batched search."""
    num_looped: int = 50
    """Images of the torch loop."""
    num_keras: int = 20
    """Images of the Keras loop."""
    keras: Path = TrainingOptions.keras
    """A Python that has TensorFlow."""
    keras_run: Path = TrainingOptions.keras_run
    """Beside it, as ``.best.npz``, are the weights to search on (``report_training.py``)."""
    data: str = "mnist"
    """mnist, or a folder with its files."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    weights = options.keras_run.with_suffix(".best.npz")
    if not options.keras.exists() or not weights.exists():
        return "## The threshold search\n\n**not run**: it needs what report_training.py makes"
    dataset, model = mnist(options.data), keras_model(weights)
    folder = idx_folder(options.data)
    contenders: dict[str, Callable[[int], list[float]]] = {
        "batched": lambda _: batched(model, dataset, options.num_batched),
        "torch, one by one": lambda _: loop(model, dataset, options.num_looped),
        "Keras, one by one": lambda _: keras_loop(options, weights, folder),
    }
    measured = in_turns(contenders, options.rounds)
    found = {name: runs[0][1] for name, runs in measured.items()}
    # Keras says how long its loop took, without the start of TensorFlow.
    each = {
        "batched": median_seconds(measured["batched"]) / options.num_batched,
        "torch, one by one": median_seconds(measured["torch, one by one"]) / options.num_looped,
        "Keras, one by one": sorted(run[-1] for _, run in measured["Keras, one by one"])[
            options.rounds // 2
        ],
    }
    found["Keras, one by one"] = found["Keras, one by one"][:-1]
    apart = {
        name: max(abs(a - b) for a, b in zip(values, found["batched"], strict=False))
        for name, values in found.items()
    }
    lines = [
        (
            name,
            len(found[name]),
            f"{1e3 * seconds:.2f}",
            f"{seconds / each['batched']:.1f}",
            f"{apart[name]:.1g}",
        )
        for name, seconds in each.items()
    ]
    header = ["search", "images", "ms an image", "times batched", "largest difference of eps"]
    return "\n\n".join(
        [
            "## The threshold search",
            f"First test images of MNIST, {torch.get_num_threads()} threads, medians of "
            f"{options.rounds} rounds in turns, the same weights.",
            table(header, lines),
            "\n".join(
                verdict(
                    each[name] / each["batched"] >= FACTOR,
                    f"{each[name] / each['batched']:.1f} times as fast as the loop, {name}",
                )
                for name in ("torch, one by one", "Keras, one by one")
            ),
        ]
    )


def batched(model: Classifier, dataset: Dataset, num: int) -> list[float]:
    """Thresholds of the first images that have one."""
    _, thresholds = find_thresholds(model, dataset.test, first_image=0, num_images=num)
    return [float(value) for value in thresholds]


def loop(model: Classifier, dataset: Dataset, num: int) -> list[float]:
    """The same, asking about one image at one eps at a time."""
    found: list[float] = []
    index = 0
    with frozen(model):
        while len(found) < num:
            image, label = dataset.test.batch([index])
            index += 1
            direction = FGSM("untargeted").direction(model, image, label, norm="linf")

            def is_right(
                eps: float,
                image: torch.Tensor = image,
                label: torch.Tensor = label,
                direction: torch.Tensor = direction,
            ) -> bool:
                return bool(model.predict(step_along(direction, image, eps, "linf")) == label)

            threshold = _search(is_right)
            if not math.isnan(threshold):
                found.append(threshold)
    return found


def _search(is_right: Callable[[float], bool]) -> float:
    values = list(GRID)
    while True:
        place = next((k for k, eps in enumerate(values) if not is_right(eps)), None)
        if not place:
            return math.nan
        low, high = values[place - 1], values[place]
        if high - low <= TOLERANCE:
            return high
        values = [low * (high / low) ** (k / 9) for k in range(9)] + [high]


def keras_loop(options: Options, weights: Path, folder: Path) -> list[float]:
    """The source's way; its thresholds, and last the seconds an image."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "thresholds.json"
        script = Path(__file__).with_name("keras_thresholds.py")
        command = [str(options.keras), str(script), "--images", str(folder)]
        command += ["--weights", str(weights), "--num", str(options.num_keras)]
        command += ["--threads", str(torch.get_num_threads()), "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        told = json.loads(out.read_text())
    return [*told["thresholds"], told["seconds"] / len(told["thresholds"])]


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

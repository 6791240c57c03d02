"""The report's network with null images: our training against Keras, in turns in one run.

Throughput: images a second (real and null) of the ``fast`` recipe, and of Keras running the
published generator and ``fit`` (``keras_report.py``, in an environment of its own), with one thread
each, and with the whole machine: two of our workers, as a sweep has them, against Keras with all
cores. Time to quality: Keras's published 20 epochs against one ``fast`` training, both scored by us
on the same validation images.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from common import ROOT, SCRATCH, in_turns, mnist, say, table, verdict
from nullclass.data import Dataset, fetch
from nullclass.data.fetching import find_known
from nullclass.experiments.trainings import Trainer
from nullclass.models import Classifier, build_model
from nullclass.nulls import make_nulls
from nullclass.studies.null_samples import config as null_samples
from nullclass.training.selection import BestCheckpoints
from nullclass.training.steps import autocast_of

THROUGHPUT_FACTOR = 5
QUALITY_FACTOR = 10
"""How many times faster than Keras we want to be."""

VARIANT = "usm"
OUR_IMAGES = 16_000
KERAS_STEPS = 250


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    keras: Path = ROOT / ".venv-keras" / "bin" / "python"
    """A Python that has TensorFlow (``make bench`` sets it up)."""
    rounds: int = 3
    """Times each side trains a little, in turns, for the throughput."""
    keras_run: Path = SCRATCH / "keras_usm.json"
    """What a former run of ``keras_report.py --nulls usm --threads 1`` over 20 epochs wrote, with
    the weights beside it; made first if it is not there (about half an hour)."""
    data: str = "mnist"
    """mnist, or a folder with its files."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    if not options.keras.exists():
        return (
            "## The report's training\n\n**not run**: there is no Python with TensorFlow (--keras)"
        )
    dataset = mnist(options.data)
    folder = idx_folder(options.data)
    cores = os.cpu_count() or 1
    contenders = {
        "ours, 1 thread": lambda _: ours(1),
        "Keras, 1 thread": lambda _: keras(options, folder, 1),
        "Keras as compile() sets it (XLA), 1 thread": lambda _: keras(options, folder, 1, jit=True),
        f"ours, {cores} workers": lambda _: ours(cores),
        f"Keras, {cores} threads": lambda _: keras(options, folder, cores),
    }
    measured = in_turns(contenders, options.rounds)
    for name, runs in measured.items():
        say(f"  {name}: {', '.join(f'{rate:.0f}' for _, rate in runs)} images/s")
    speed = {name: [rate for _, rate in runs] for name, runs in measured.items()}
    middle = {name: statistics.median(rates) for name, rates in speed.items()}
    lines = [
        (name, f"{middle[name]:.0f}", ", ".join(f"{rate:.0f}" for rate in speed[name]))
        for name in contenders
    ]
    one = middle["ours, 1 thread"] / middle["Keras, 1 thread"]
    xla = middle["ours, 1 thread"] / middle["Keras as compile() sets it (XLA), 1 thread"]
    whole = middle[f"ours, {cores} workers"] / middle[f"Keras, {cores} threads"]
    return "\n\n".join(
        [
            "## The report's training",
            f"The report's network, variant {VARIANT}, real and null images counted alike. Ours: "
            f"the `fast` recipe over {OUR_IMAGES} images. Keras: the published generator and "
            f"`fit`, {KERAS_STEPS} steps of 32 after a warm-up, XLA off where not said.",
            table(["training", "images/s, median", "rounds"], lines),
            "\n".join(
                [
                    verdict(one >= THROUGHPUT_FACTOR, f"{one:.1f} times, one thread each"),
                    verdict(whole >= THROUGHPUT_FACTOR, f"{whole:.1f} times, the whole machine"),
                    verdict(xla >= THROUGHPUT_FACTOR, f"{xla:.1f} times Keras's default, XLA on"),
                ]
            ),
            _quality(options, dataset, folder, middle),
        ]
    )


def ours(num_workers: int) -> float:
    """Images a second of so many one-thread trainings at once, each in a process of its own."""
    command = [sys.executable, __file__, "--worker"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        for _ in range(num_workers)
    ]
    return sum(float(process.communicate()[0]) for process in running)


def worker() -> None:
    """Train a little and print the images a second, the first steps not counted."""
    from nullclass.core.process import tune_process

    tune_process()
    torch.set_num_threads(1)
    dataset = mnist(None, OUR_IMAGES)
    training = null_samples.training(VARIANT, 0, "quick")
    training = replace(
        training, validation=0, selections=(), recipe=replace(training.recipe, epochs=2)
    )
    with tempfile.TemporaryDirectory() as folder:
        history = Trainer(training, dataset, device=torch.device("cpu")).train(Path(folder))
    print(OUR_IMAGES / float(history["seconds"].iloc[-1]))


def keras(options: Options, folder: Path, threads: int, jit: bool = False) -> float:
    """Images a second of Keras."""
    with tempfile.TemporaryDirectory() as out:
        path = Path(out) / "speed.json"
        steps = KERAS_STEPS // 4 if jit else KERAS_STEPS
        _run_keras(
            options,
            folder,
            ["--epochs", "1", "--steps", str(steps), "--no-validation", "--threads", str(threads)]
            + (["--jit"] if jit else []),
            path,
        )
        (epoch,) = json.loads(path.read_text())["epochs"]
    return float(epoch["images"] / epoch["seconds"])


def _run_keras(options: Options, folder: Path, arguments: list[str], out: Path) -> None:
    script = Path(__file__).with_name("keras_report.py")
    command = [str(options.keras), str(script), "--images", str(folder), "--nulls", VARIANT]
    subprocess.run([*command, *arguments, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)


def idx_folder(data: str) -> Path:
    """Where the four files are."""
    found = None if data == "mnist" else find_known(Path(data))
    paths = fetch("mnist")[0] if found is None else found[1]
    return next(iter(paths.values())).parent


def _quality(options: Options, dataset: Dataset, folder: Path, speed: dict[str, float]) -> str:
    """Time and validation loss of both."""
    if not options.keras_run.exists():
        say("Keras trains its 20 epochs, about half an hour")
        options.keras_run.parent.mkdir(exist_ok=True)
        _run_keras(options, folder, ["--threads", "1"], options.keras_run)
    told = json.loads(options.keras_run.read_text())
    best = next(e for e in told["epochs"] if e["epoch"] == told["best_epoch"])
    their_seconds = sum(epoch["seconds"] for epoch in told["epochs"])
    # The same run at the speed measured here, in turns with ours.
    theirs_now = sum(epoch["images"] for epoch in told["epochs"]) / speed["Keras, 1 thread"]
    training = null_samples.training(VARIANT, 0, "quick")
    training = replace(training, validation=0, selections=())
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        trained = Trainer(training, dataset, device=torch.device("cpu"))
        trained.train(Path(place))
    our_seconds = time.perf_counter() - started
    losses = {
        "Keras, best of 20 epochs": validation_losses(
            keras_model(options.keras_run.with_suffix(".best.npz")), dataset
        ),
        "ours": validation_losses(trained.model.eval(), dataset),
    }
    lines = [
        (
            "Keras, best of 20 epochs",
            f"{theirs_now:.0f} ({their_seconds:.0f} when it ran)",
            _spread(losses["Keras, best of 20 epochs"]),
        ),
        ("ours, `fast`", f"{our_seconds:.0f}", _spread(losses["ours"])),
    ]
    ratio = theirs_now / our_seconds
    means = [statistics.fmean(values) for values in losses.values()]
    return "\n\n".join(
        [
            "Time to quality, one thread each. Validation loss: all test images and as many null "
            f"images, mean over {len(losses['ours'])} draws of the null images (± sd), the same "
            f"for both. Keras kept epoch {best['epoch']}, the lowest on its own draw "
            f"({best['validation_loss']:.4f}).",
            table(["training", "seconds", "validation loss"], lines),
            verdict(
                ratio >= QUALITY_FACTOR and means[1] <= means[0],
                f"{ratio:.1f} times as fast, of {QUALITY_FACTOR}; loss {means[1]:.4f} against "
                f"{means[0]:.4f}",
            ),
        ]
    )


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"


def validation_losses(model: Classifier, dataset: Dataset, num_draws: int = 5) -> list[float]:
    """Losses on the test images with null images, drawn so many times.

    One permutation an image and never the one that leaves it as it is: the source's own null images
    are real ones now and then, a whole batch at once, and that noise hides the models.
    """
    kinds: dict[str, dict[str, object]] = {"uniform": {}, "tile-shuffle": {}, "mixed": {}}
    nulls = make_nulls("any-of", {"sources": kinds}, None)
    exact = autocast_of(null_samples.training("base", 0, "source").recipe, model.mean.device)
    return [
        BestCheckpoints({}, nulls, stream=draw).loss(model, dataset.test, exact)
        for draw in range(num_draws)
    ]


def keras_model(path: Path) -> Classifier:
    """Keras's weights in our network: kernels turned, and the flattened axes put in our order."""
    model = build_model("report", image_shape=(1, 28, 28), num_classes=10).eval()
    with np.load(path) as arrays:
        kernels = [torch.from_numpy(arrays[name]) for name in arrays.files]
    body = model.body
    with torch.no_grad():
        for layer, (kernel, bias) in zip(
            (body.conv1, body.conv2), (kernels[0:2], kernels[2:4]), strict=True
        ):
            layer.weight.copy_(kernel.permute(3, 2, 0, 1))
            layer.bias.copy_(bias)
        hidden = kernels[4].view(12, 12, 64, 128).permute(3, 2, 0, 1)
        body.hidden.weight.copy_(hidden.reshape(128, -1))
        body.hidden.bias.copy_(kernels[5])
        body.output.weight.copy_(kernels[6].T)
        body.output.bias.copy_(kernels[7])
    return model


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        worker()
    else:
        print(measure(tyro.cli(Options, description=__doc__)))

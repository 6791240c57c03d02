"""The report's network trained the source's way: Keras, a NumPy generator, ``model.fit``.

The slow side of a comparison, with the protocol of Roos 2020 (arXiv 2002.10084). It needs
TensorFlow and NumPy and nothing of ours, so that it can run in an environment of its own.

Training: every batch of 32 has Binomial(32, 0.5) null images (none for ``--nulls base``); the rest
are real training images, drawn at random, without replacement inside the batch. Each null image
picks its kind uniformly among those asked for:

- ``u`` uniform: every pixel U[0, 1];
- ``s`` shuffled: a real image cut into square tiles and the tiles permuted, with one side from
  {2, 4, 7, 14} and one permutation for the whole batch;
- ``m`` mixed: the mean of two real images of different classes.

Pixels are in [0, 1]. The network has 11 outputs, null last, Glorot-uniform weights; Adam with
learning rate 1e-3 and epsilon 1e-8; 20 epochs of 1875 steps. Validation is the *test* set and as
many null images made from it, fixed once from the seed. The weights with the lowest validation loss
are kept, which is selection on the test set: as published.

What differs, all of it kind to the source or without effect: batches are drawn with NumPy's newer
``Generator``; the softmax is inside the loss; no accuracy is computed while training; validation is
one pass after each epoch, outside the time that is taken; and XLA is off unless ``--jit`` asks for
it: today's Keras would turn it on, but on a CPU it made this training five times slower.

The results are written after every epoch, so a run that is stopped keeps what it has. ``seconds``
is the wall time of the epoch's training steps. The first epoch's includes building the graph,
unless steps are run beforehand (``--warm-up``). To measure throughput alone::

    python keras_report.py --images FOLDER --epochs 1 --steps 300 --no-validation
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np

SIDE = 28
NULL = 10
BATCH_SIZE = 32
NULL_SHARE = 0.5
TILE_SIDES = (2, 4, 7, 14)
WARM_UP = 20
"""Steps run beforehand, and not counted, when only throughput is measured."""

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LabelledImages:
    """Images ``(N, 28, 28, 1)`` float32 in [0, 1] and their labels ``(N,)``."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def read_images(folder: Path, name: str) -> LabelledImages:
    """One half of a folder of uncompressed IDX files; ``name`` is ``train`` or ``t10k``."""
    pixels = np.fromfile(folder / f"{name}-images-idx3-ubyte", np.uint8)[16:]
    labels = np.fromfile(folder / f"{name}-labels-idx1-ubyte", np.uint8)[8:]
    if len(pixels) != len(labels) * SIDE * SIDE or not len(labels):
        raise SystemExit(f"{folder}: the {name} files are not {SIDE} x {SIDE} images and labels")
    images = pixels.reshape(-1, SIDE, SIDE, 1).astype(np.float32) / np.float32(255)
    return LabelledImages(images, labels.astype(np.int64))


def uniform(num: int, real: LabelledImages, rng: np.random.Generator) -> np.ndarray:
    """Every pixel U[0, 1]."""
    return rng.random((num, *real.images.shape[1:]), dtype=np.float32)


def shuffled(num: int, real: LabelledImages, rng: np.random.Generator) -> np.ndarray:
    """Real images with their tiles permuted: one side and one permutation for all of them."""
    images = real.images[rng.choice(len(real), num, replace=False)]
    side = int(rng.choice(TILE_SIDES))
    across = SIDE // side
    tiles = images.reshape(num, across, side, across, side).transpose(0, 1, 3, 2, 4)
    tiles = tiles.reshape(num, across * across, side, side)[:, rng.permutation(across * across)]
    tiles = tiles.reshape(num, across, across, side, side).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(images.shape)


def mixed(num: int, real: LabelledImages, rng: np.random.Generator) -> np.ndarray:
    """The mean of two real images of different classes."""
    first, second = rng.integers(len(real), size=(2, num))
    while (same := real.labels[first] == real.labels[second]).any():
        second[same] = rng.integers(len(real), size=int(same.sum()))
    return (real.images[first] + real.images[second]) / 2


KINDS = {"u": uniform, "s": shuffled, "m": mixed}


def null_images(
    num: int, nulls: str, real: LabelledImages, rng: np.random.Generator
) -> list[np.ndarray]:
    """The null images of one batch, kind by kind; each of them picks its kind uniformly."""
    counts = np.bincount(rng.integers(len(nulls), size=num), minlength=len(nulls))
    return [
        KINDS[kind](int(count), real, rng)
        for kind, count in zip(nulls, counts, strict=True)
        if count
    ]


def batches(
    real: LabelledImages, nulls: str, rng: np.random.Generator, null_counts: list[int]
) -> Iterator[Batch]:
    """Training batches without end; how many nulls each has is appended to ``null_counts``."""
    while True:
        num_null = int(rng.binomial(BATCH_SIZE, NULL_SHARE)) if nulls else 0
        chosen = rng.choice(len(real), BATCH_SIZE - num_null, replace=False)
        images = [real.images[chosen]]
        if num_null:
            images += null_images(num_null, nulls, real, rng)
        labels = np.full(BATCH_SIZE, NULL, np.int64)
        labels[: len(chosen)] = real.labels[chosen]
        null_counts.append(num_null)
        yield np.concatenate(images), labels


def validation_nulls(real: LabelledImages, nulls: str, rng: np.random.Generator) -> np.ndarray:
    """As many null images as there are real ones, made batch by batch as in training."""
    made: list[np.ndarray] = []
    for start in range(0, len(real), BATCH_SIZE):
        made += null_images(min(BATCH_SIZE, len(real) - start), nulls, real, rng)
    return np.concatenate(made)


def new_model(jit_compile: bool) -> Any:
    """The report's network, compiled."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(NULL + 1),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-3, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss of each image."""
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


@dataclass
class Validation:
    """The test images and their null companions, scored after every epoch."""

    real: LabelledImages
    nulls: np.ndarray | None
    """None if the model trains without null images; then the real images are all there is."""

    def score(self, model: Any) -> dict[str, float | None]:
        """Loss on everything, accuracy on the real images, share of the nulls called null."""
        logits = model.predict(self.real.images, batch_size=500, verbose=0)
        losses = cross_entropy(logits, self.real.labels)
        null_share = None
        if self.nulls is not None:
            null_logits = model.predict(self.nulls, batch_size=500, verbose=0)
            labels = np.full(len(self.nulls), NULL)
            losses = np.concatenate([losses, cross_entropy(null_logits, labels)])
            null_share = float((null_logits.argmax(axis=1) == NULL).mean())
        return {
            "validation_loss": float(losses.mean()),
            "clean_accuracy": float((logits.argmax(axis=1) == self.real.labels).mean()),
            "null_share": null_share,
        }


@dataclass
class Record:
    """What a run has measured so far, and the file it is in."""

    settings: dict[str, Any]
    path: Path | None
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def best(self) -> dict[str, Any] | None:
        """The epoch with the lowest validation loss."""
        scored = [epoch for epoch in self.epochs if "validation_loss" in epoch]
        return min(scored, key=lambda epoch: epoch["validation_loss"], default=None)

    def text(self) -> str:
        """All of it, as JSON."""
        best = self.best()
        content = {
            "settings": self.settings,
            "epochs": self.epochs,
            "best_epoch": None if best is None else best["epoch"],
        }
        return json.dumps(content, indent=2) + "\n"

    def add(self, epoch: dict[str, Any], model: Any) -> None:
        """Take in an epoch; write everything, and the weights if they are the best so far."""
        self.epochs.append(epoch)
        print(json.dumps(epoch), flush=True)
        if self.path is None:
            return
        if self.best() is epoch:
            partial = self.path.with_name(self.path.stem + ".partial.npz")
            arrays = {weight.path: np.asarray(weight) for weight in model.weights}
            np.savez(partial, **arrays)
            partial.replace(self.path.with_suffix(".best.npz"))
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(self.text(), encoding="utf-8")
        partial.replace(self.path)


def train(
    model: Any,
    generator: Iterator[Batch],
    null_counts: list[int],
    validation: Validation | None,
    record: Record,
    options: argparse.Namespace,
) -> None:
    """``model.fit`` on the generator, timed and scored epoch by epoch."""
    import keras

    class Timer(keras.callbacks.Callback):
        """Stops the clock at the end of an epoch's steps, then scores the model."""

        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.started, self.cpu_started = time.perf_counter(), time.process_time()

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            seconds = time.perf_counter() - self.started
            cpu_seconds = time.process_time() - self.cpu_started
            steps = options.steps
            num_null = sum(null_counts[epoch * steps : (epoch + 1) * steps])
            measured: dict[str, Any] = {
                "epoch": epoch + 1,
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "steps": steps,
                "images": steps * BATCH_SIZE,
                "real_images": steps * BATCH_SIZE - num_null,
                "null_images": num_null,
                "train_loss": float((logs or {})["loss"]),
            }
            if validation is not None:
                started = time.perf_counter()
                measured |= validation.score(self.model)
                measured["validation_seconds"] = time.perf_counter() - started
            record.add(measured, self.model)

    model.fit(
        generator,
        steps_per_epoch=options.steps,
        epochs=options.epochs,
        verbose=0,
        shuffle=False,
        callbacks=[Timer()],
    )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of the four uncompressed IDX files")
    add("--nulls", default="usm", help="kinds of null images, of u, s and m; base: none")
    add("--epochs", type=int, default=20)
    add("--steps", type=int, default=1875, help="batches an epoch")
    add("--threads", type=int, help="threads TensorFlow may use; without it, its own choice")
    add("--seed", type=int, default=0)
    add("--jit", action="store_true", help="compile the training step with XLA")
    add("--no-validation", action="store_true", help="train only: to measure throughput")
    add(
        "--warm-up",
        type=int,
        metavar="STEPS",
        help="training steps beforehand, not counted; without it "
        f"{WARM_UP} with --no-validation, else none",
    )
    add("--out", type=Path, help="JSON file; the best weights go beside it, as .best.npz")
    options = parser.parse_args()
    if options.nulls == "base":
        options.nulls = ""
    if not set(options.nulls) <= set(KINDS) or len(set(options.nulls)) < len(options.nulls):
        parser.error("--nulls: some of u, s and m, each once, or base")
    if options.warm_up is None:
        options.warm_up = WARM_UP if options.no_validation else 0
    if min(options.epochs, options.steps) < 1 or options.warm_up < 0:
        parser.error("--epochs and --steps must be at least 1, --warm-up at least 0")
    if options.threads is not None and options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


def main() -> None:
    options = parsed()
    import keras
    import tensorflow as tf

    if options.threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    keras.utils.set_random_seed(options.seed)

    real = read_images(options.images, "train")
    validation = None
    if not options.no_validation:
        test = read_images(options.images, "t10k")
        rng = np.random.default_rng([options.seed, 1])
        validation = Validation(
            test, validation_nulls(test, options.nulls, rng) if options.nulls else None
        )
    settings = {
        "nulls": options.nulls or "base",
        "batch_size": BATCH_SIZE,
        "steps": options.steps,
        "epochs": options.epochs,
        "warm_up": options.warm_up,
        "threads": options.threads,
        "jit": options.jit,
        "seed": options.seed,
        "num_train": len(real),
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }
    record = Record(settings, options.out)
    model = new_model(options.jit)
    if options.warm_up:
        before = batches(real, options.nulls, np.random.default_rng([options.seed, 2]), [])
        model.fit(before, steps_per_epoch=options.warm_up, epochs=1, shuffle=False, verbose=0)
    null_counts: list[int] = []
    generator = batches(real, options.nulls, np.random.default_rng(options.seed), null_counts)
    train(model, generator, null_counts, validation, record, options)
    print(record.text(), end="", flush=True)


if __name__ == "__main__":
    main()

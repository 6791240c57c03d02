"""The report's threshold search, one image at a time, with Keras's ``model.predict``.

Runs where TensorFlow is and nothing of ours. For each image: one gradient of cross-entropy, then
the ten eps values of a round in one call of ``predict``, until the last right and the first wrong
one are within 1e-3 (Roos 2020, arXiv 2002.10084).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from keras_report import new_model, read_images  # sets TensorFlow's environment

GRID = np.concatenate([[0.0], np.logspace(-3, 0, 9)])


def threshold(model: object, image: np.ndarray, label: int) -> float | None:
    """The threshold of one image; None if it is wrong at 0 or right at 1."""
    import tensorflow as tf

    inputs = tf.convert_to_tensor(image[None])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        logits = model(inputs, training=False)  # type: ignore[operator]
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([label], logits)
    direction = np.sign(tape.gradient(loss, inputs).numpy())
    values = GRID
    while True:
        moved = np.clip(image + values[:, None, None, None].astype(np.float32) * direction, 0, 1)
        answers = model.predict(moved, verbose=0).argmax(axis=1)  # type: ignore[attr-defined]
        wrong = np.flatnonzero(answers != label)
        if not len(wrong) or wrong[0] == 0:
            return None
        low, high = values[wrong[0] - 1], values[wrong[0]]
        if high - low <= 1e-3:
            return float(high)
        values = low * (high / low) ** np.linspace(0, 1, 10)


def main() -> None:
    """Search and write the thresholds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--num", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    test = read_images(options.images, "t10k")
    model = new_model(jit_compile=False)
    with np.load(options.weights) as arrays:
        model.set_weights([arrays[name] for name in arrays.files])
    threshold(model, test.images[0], int(test.labels[0]))  # builds the graphs, not counted
    found: list[float] = []
    started, index = time.perf_counter(), 0
    while len(found) < options.num:
        value = threshold(model, test.images[index], int(test.labels[index]))
        index += 1
        if value is not None:
            found.append(value)
    seconds = time.perf_counter() - started
    options.out.write_text(json.dumps({"thresholds": found, "seconds": seconds}))


if __name__ == "__main__":
    main()

"""Peak memory of scoring and training on images that stay on the disk.

The file is sparse: 100,000 images of 224 x 224 take 15 GB by name and almost nothing on the disk.
The network is trivial, so that the time is that of reading.
"""

from __future__ import annotations

import json
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn

from common import say, table
from nullclass import Classifier, LabelledImages, TrainConfig, load_dataset, train
from nullclass.experiments.engines.serial import peak_memory_mb
from nullclass.scoring.score import score_clean
from nullclass.training.recipes import Recipe

LIMIT_MB = 1024
"""Most memory of the process, in MB."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    num_images: int = 100_000
    side: int = 224
    num_classes: int = 1000
    num_trained: int = 5_000
    """Images of the epoch of training."""


def write_sparse(path: Path, options: Options) -> None:
    """Write byte images, all zero but the first pixel of every thousandth, with labels."""
    num, side = options.num_images, options.side
    size, labels = num * 3 * side * side, (torch.arange(num) % options.num_classes).numpy()
    tensors = {
        "images": {"dtype": "U8", "shape": [num, 3, side, side], "data_offsets": [0, size]},
        "labels": {"dtype": "I64", "shape": [num], "data_offsets": [size, size + 8 * num]},
    }
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        start = file.tell()
        for number in range(0, num, 1000):
            file.seek(start + number * 3 * side * side)
            file.write(b"\xff")
        file.seek(start + size)
        file.write(labels.tobytes())


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, options.num_classes))
    model = Classifier(body, options.num_classes, has_null=False)
    lines = [("start", "", f"{peak_memory_mb():.0f}")]

    def step(name: str, since: float) -> None:
        lines.append((name, f"{time.process_time() - since:.0f}", f"{peak_memory_mb():.0f}"))
        say(" ".join(lines[-1]))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.safetensors"
        write_sparse(path, options)
        started = time.process_time()
        data = load_dataset(path, validation=0).test
        step("load_dataset, with the checksum", started)
        started = time.process_time()
        rows = score_clean(model, data)
        step(f"score_clean, {len(rows):,} images", started)
        started = time.process_time()
        part = data.first(options.num_trained)
        part = LabelledImages(part.images, part.labels * 0, options.num_classes)  # learnable
        train(model, part, TrainConfig(Recipe(batch_size=64, epochs=1, learning_rate=0.1)))
        step(f"train, an epoch of {options.num_trained:,} images", started)
    peak = peak_memory_mb()
    verdict = "reached" if peak <= LIMIT_MB else "MISSED"
    shape = f"{options.num_images:,} images of 3 x {options.side} x {options.side} as bytes"
    return "\n\n".join(
        [
            f"{shape}, in a .safetensors file",
            table(["step", "CPU seconds", "peak MB of the process"], lines),
            f"**{verdict}**: at most {LIMIT_MB:,} MB.",
        ]
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

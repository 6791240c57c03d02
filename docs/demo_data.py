"""Writes the data of the demo: ``python docs/demo_data.py``.

``digits.png`` holds the first ten MNIST test images of every digit, one row per digit.
``cubes.npz`` holds the answers of three networks to every image of three pixels, as in the notebook
*Decision spaces*: trained on ramps alone, with uniform noise as null, with shuffled ramps as null.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import nullclass
from nullclass.models import build_model
from nullclass.nulls import TileShuffleNulls
from nullclass.studies.ramps.cube import optimal

FOLDER = Path(nullclass.__file__).parent / "demo"
SIDE = 49
NUM = 10


def write_digits() -> None:
    """Write the sheet of test images."""
    test = nullclass.load_dataset("mnist", validation=0).test
    rows = []
    for digit in range(10):
        indices = torch.nonzero(test.labels == digit).flatten()[:NUM]
        images = test.batch(indices)[0][:, 0]
        rows.append(torch.cat(list(images), dim=1))
    sheet = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).save(FOLDER / "digits.png", optimize=True)


def cube_of(model: nullclass.Classifier) -> np.ndarray:
    """The model's answer to every image of the grid, -1 for null."""
    axis = torch.linspace(0, 1, SIDE)
    images = torch.cartesian_prod(axis, axis, axis).view(-1, 1, 1, 3)
    answers = torch.cat([model.predict(part) for part in images.split(8192)])
    return answers.view(SIDE, SIDE, SIDE).to(torch.int8).numpy()


def write_cubes() -> None:
    """Train the three networks and write their answers."""
    ramps = nullclass.load_dataset("ramps", validation=0)
    assert ramps.train is not None
    recipe = nullclass.Recipe(batch_size=128, epochs=6, learning_rate=4e-3, schedule="triangle")
    torch.manual_seed(0)
    base = build_model("ramp", image_shape=ramps.image_shape, num_classes=2)
    nullclass.train(base, ramps.train, recipe)
    cubes = {"optimal": optimal(SIDE), "base": cube_of(base)}
    shuffled = TileShuffleNulls(sides=[1], faithful=True)
    for name, nulls in {"uniform": "uniform", "shuffled": shuffled}.items():
        torch.manual_seed(0)
        model = build_model("ramp", image_shape=ramps.image_shape, num_classes=2)
        model.load_state_dict(base.state_dict())
        config = nullclass.TrainConfig(recipe, replace_rate=0.5)
        nullclass.train(model, ramps.train, config, nulls=nulls)
        cubes[name] = cube_of(model)
    np.savez_compressed(FOLDER / "cubes.npz", **cubes)


if __name__ == "__main__":
    write_digits()
    write_cubes()

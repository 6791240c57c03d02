"""A zoo of two small models of the tiny data: one that learned null, one that proves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tiny import learnable_dataset
from torch.nn import functional as F

from nullclass import load_dataset, save_checkpoint
from nullclass.data import Dataset
from nullclass.models import Classifier, build_model
from nullclass.zoo.about import About
from nullclass.zoo.adopt import adopt

RADIUS = 0.02
EPS = (0.02, 0.04)


@dataclass(frozen=True)
class TinyZoo:
    """Where everything is."""

    folder: Path
    data_dir: Path
    dataset: Dataset


def about(radius: float | None = None) -> About:
    return About(
        title="a tiny one",
        recipe="in a moment",
        claims="little",
        limits="much",
        source="a test",
        eps=EPS,
        radius=radius,
    )


def trained(dataset: Dataset, has_null: bool) -> Classifier:
    """Right about nearly all images; noise is null."""
    generator = torch.Generator().manual_seed(0)
    images, labels = dataset.train.batch(slice(None))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small", image_shape=(1, 8, 8), num_classes=3, has_null=has_null)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        if has_null:
            noise = torch.rand(images.shape, generator=generator)
            loss = loss + F.cross_entropy(model(noise), torch.full_like(labels, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def make_zoo(place: Path) -> TinyZoo:
    """Two members, ``learned`` and ``proved``, never evaluated."""
    data_dir = learnable_dataset(place / "data")
    dataset = load_dataset("idx", data_dir=data_dir, validation=0)
    folder = place / "zoo"
    for name, has_null in (("learned", True), ("proved", False)):
        told = {
            "data": "idx",
            "data_checksum": dataset.checksum,
            "training": {"name": name, "seed": 0},
            "training_seconds": 90.0,
        }
        save_checkpoint(trained(dataset, has_null), place / name, about=told)
        adopt(
            place / name,
            name,
            about=about(None if has_null else RADIUS),
            stored="exact" if has_null else "float16",
            zoo=folder,
        )
    return TinyZoo(folder, data_dir, dataset)

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
from nullclass.rejection import ProvableNull
from nullclass.training.card import Origin
from nullclass.zoo import Description
from nullclass.zoo.adopt import adopt

RADIUS = 0.02
EPS = (0.02, 0.04)
CARD_OF_TINY = {
    "title": "a tiny one",
    "recipe": "in a moment",
    "claims": "little",
    "limits": "much",
    "source": "a test",
}


@dataclass(frozen=True)
class TinyZoo:
    """Folders of a tiny zoo, its data and its run folders."""

    folder: Path
    data_folder: Path
    out: Path
    dataset: Dataset


def trained(dataset: Dataset, has_null: bool) -> Classifier:
    """A model that is correct on nearly all images; noise is null."""
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


def make_zoo(path: Path) -> TinyZoo:
    """Two members, ``learned`` and ``proved``, without results."""
    data_folder = learnable_dataset(path / "letters")
    dataset = load_dataset(data_folder, validation=0)
    for order, (name, has_null) in enumerate((("learned", True), ("proved", False))):
        origin = Origin(
            data=dataset.name,
            data_checksum=dataset.checksum,
            training={"name": name, "seed": 0},
            training_seconds=90.0,
        )
        model = trained(dataset, has_null)
        if not has_null:
            model = ProvableNull(model, RADIUS)
        save_checkpoint(model, path / name, origin=origin)
        adopt(
            path / name,
            name,
            Description(**CARD_OF_TINY, order=order, eps=EPS),
            stored="exact" if has_null else "float16",
            zoo=path / "zoo",
        )
    return TinyZoo(path / "zoo", data_folder, path / "out", dataset)

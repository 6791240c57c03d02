"""What is in a dataset: counts, shape, range, and a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw

from nullclass.data.arrays import LabelledImages
from nullclass.data.dataset import Dataset, pixel_statistics
from nullclass.data.streamed import IN_MEMORY

MAX_CLASSES = 20
"""Most classes that are listed and shown."""

NUM_COLUMNS = 10
"""Images of each class on a contact sheet."""

SAMPLE = 1000
"""Images, at equal distances, of which the pixels of a large set are summarised."""

_SIDE, _MARGIN, _TEXT = 64, 4, 110
"""Pixels of an image, between images, and for the name of a class."""


def summary(dataset: Dataset) -> Iterator[str]:
    """Yield lines of text: source, counts, classes, shape, pixels and checksum."""
    num_train = sum(len(part) for part in (dataset.train, dataset.validation) if part is not None)
    shape = " x ".join(map(str, dataset.image_shape))
    yield f"{dataset.name}: {dataset.source}"
    yield f"{num_train:,} training and {len(dataset.test):,} test images of {shape}, " + (
        f"{dataset.num_classes} classes"
    )
    parts = [part for part in (dataset.train, dataset.test) if part is not None]
    counts = [_counts(part, dataset.num_classes) for part in parts]
    classes = [
        f"{name} {' + '.join(f'{count[label]:,}' for count in counts)}"
        for label, name in enumerate(dataset.class_names[:MAX_CLASSES])
    ]
    more = "" if dataset.num_classes <= MAX_CLASSES else ", …"
    nulls = " + ".join(f"{int((part.labels < 0).sum()):,}" for part in parts)
    more += f", null {nulls}" if any((part.labels < 0).any() for part in parts) else ""
    meaning = "training + test images" if len(parts) == 2 else "test images"
    yield f"classes ({meaning}): {', '.join(classes)}{more}"
    data = parts[0]
    what = "training" if data is dataset.train else "test"
    if data.images.shape.numel() > IN_MEMORY:
        data = data.subset(torch.linspace(0, len(data) - 1, SAMPLE).long().unique())
        what = f"{len(data):,} {what}"
    low, high = _range(data)
    mean, std = pixel_statistics([data])
    yield f"pixels of the {what} images: from {low:.3g} to {high:.3g}, mean {_listed(mean)}, " + (
        f"standard deviation {_listed(std)}"
    )
    yield f"sha256: {dataset.checksum}"


def contact_sheet(dataset: Dataset) -> bytes:
    """Return a PNG: the first images of each class, one class per row."""
    data = dataset.test if dataset.train is None else dataset.train
    names = dataset.class_names[:MAX_CLASSES]
    step = _SIDE + _MARGIN
    size = (_TEXT + NUM_COLUMNS * step, len(names) * step + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        top = _MARGIN + row * step
        text = name[:16].encode("ascii", "replace").decode()  # all that Pillow's font surely has
        draw.text((_MARGIN, top + _SIDE // 2 - 6), text, "black")
        chosen = (data.labels == row).nonzero().flatten()[:NUM_COLUMNS]
        images = data.batch(chosen)[0] if len(chosen) else torch.empty(0)
        for column, image in enumerate(images):
            sheet.paste(_picture(image), (_TEXT + column * step, top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _picture(image: torch.Tensor) -> Image.Image:
    """Return an image ``(C, H, W)`` in [0,1], scaled; if it is not RGB, its first channel."""
    pixels = (image if len(image) == 3 else image[[0, 0, 0]]).mul(255).round().byte().numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    scale = _SIDE / max(picture.size)
    sides = tuple(max(1, round(scale * side)) for side in picture.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return picture.resize((sides[0], sides[1]), how)


def _counts(data: LabelledImages, num_classes: int) -> list[int]:
    counts: list[int] = data.labels[data.labels >= 0].bincount(minlength=num_classes).tolist()
    return counts


def _range(data: LabelledImages) -> tuple[float, float]:
    """Return the lowest and highest pixel, in [0,1]."""
    low, high = 1.0, 0.0
    for images, _ in data.batches():
        low, high = min(low, float(images.min())), max(high, float(images.max()))
    return low, high


def _listed(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)

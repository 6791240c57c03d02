"""Small pictures inside a page, as PNGs without any text or date; nothing needs matplotlib."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from nullclass.core.outcomes import NULL_LABEL
from nullclass.report.style import LESS, MORE
from nullclass.results.schema import Examples

LARGEST_SIDE = 96
"""Pixels; larger images are averaged down to this."""


def card(examples: Examples, index: int, scale: float, caption: Markup) -> Markup:
    """A clean image, what an attack made of it and the difference, with a caption under them.

    Args:
        examples: The images.
        index: Which of them.
        scale: The difference that has the full colour, in pixel units.
        caption: What stands under them.
    """
    label = examples.labels[index]
    before, after = examples.clean_predictions[index], examples.predictions[index]
    return Markup(
        '<figure class="card"><div><img class="{}" src="{}" alt="clean image, true label {}">'
        '<img class="{}" src="{}" alt="attacked image, answered {}">'
        '<img src="{}" alt="difference"></div><figcaption>{}</figcaption></figure>'
    ).format(
        _outcome(before, label),
        _png(_colours(examples.clean[index])),
        label,
        _outcome(after, label),
        _png(_colours(examples.adv_images[index])),
        answer_text(after),
        _png(_diverging(change_in(examples, index), scale)),
        caption,
    )


def change_in(examples: Examples, index: int) -> npt.NDArray[np.float64]:
    """``(H, W)``: attacked minus clean image, mean over colour channels."""
    change = examples.adv_images[index].astype(float) - examples.clean[index].astype(float)
    return np.asarray(change.mean(axis=0))


def answer_text(prediction: int) -> str:
    """A prediction as it is written."""
    return "null" if prediction == NULL_LABEL else str(prediction)


def shrinking(examples: Sequence[Examples]) -> str:
    """A sentence for the caption if images are shown smaller than they are; else nothing."""
    sides = [max(example.clean.shape[2:]) for example in examples]
    is_smaller = max(sides, default=0) > LARGEST_SIDE
    return f" Images are averaged down to {LARGEST_SIDE} pixels." if is_smaller else ""


def _outcome(prediction: int, label: int) -> str:
    if prediction == NULL_LABEL:
        return "null"
    return "correct" if prediction == label else "fooled"


def _colours(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``(C, H, W)`` in [0,1] to ``(H, W, 3)``; one channel is grey, a fourth is left out."""
    shown = _shrunk(image.astype(float))
    shown = np.repeat(shown[:1], 3, axis=0) if shown.shape[0] < 3 else shown[:3]
    return (shown.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)


def _diverging(change: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.uint8]:
    """``(H, W)`` in [-scale, scale] to colours: purple through white to orange."""
    level = (_shrunk(change[None])[0] / scale).clip(-1, 1)[..., None]
    less, more = (
        np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
        for colour in (LESS, MORE)
    )
    ends = np.where(level < 0, less, more)
    colours: npt.NDArray[np.uint8] = (255 + np.abs(level) * (ends - 255)).round().astype(np.uint8)
    return colours


def _shrunk(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average square blocks of ``(C, H, W)`` until no side is above :data:`LARGEST_SIDE`."""
    block = -(-max(image.shape[1:]) // LARGEST_SIDE)
    if block == 1:
        return image
    channels, height, width = image.shape
    down, across = min(block, height), min(block, width)
    rows, columns = height // down, width // across
    blocks = image[:, : rows * down, : columns * across].reshape(
        channels, rows, down, columns, across
    )
    return np.asarray(blocks.mean(axis=(2, 4)))


def _png(pixels: npt.NDArray[np.uint8]) -> str:
    """A data URI of ``(H, W, 3)`` pixels: a PNG without any text or date in it."""
    height, width, _ = pixels.shape
    lines = np.concatenate(
        [np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1
    )

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()

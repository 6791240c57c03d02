"""Example images inside a page, as PNG without metadata; matplotlib is not needed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image, ImageColor

from nullclass.core.outcomes import NULL_LABEL, outcome_name
from nullclass.results.schema import Examples

LARGEST_SIDE = 96
"""Pixels; larger images are averaged down."""
LESS, MORE = "#5E3C99", "#E66101"
"""Ends of the colour scale of differences, through white: ColorBrewer's PuOr."""


def card(examples: Examples, index: int, scale: float, caption: Markup) -> Markup:
    """A clean image, the attacked image and their difference, with a caption.

    Args:
        examples: The images.
        index: Index of the image.
        scale: Difference with the full colour, in pixel units.
        caption: Text below.
    """
    label = examples.labels[index]
    before, after = examples.clean_predictions[index], examples.predictions[index]
    return Markup(
        '<figure class="card"><div><img class="{}" src="{}" alt="clean image, true label {}">'
        '<img class="{}" src="{}" alt="attacked image, prediction {}">'
        '<img src="{}" alt="difference"></div><figcaption>{}</figcaption></figure>'
    ).format(
        outcome_name(before, label),
        data_uri(_colours(examples.clean[index])),
        label,
        outcome_name(after, label),
        data_uri(_colours(examples.adv_images[index])),
        answer_text(after),
        data_uri(diverging(change_in(examples, index), scale)),
        caption,
    )


def change_in(examples: Examples, index: int) -> npt.NDArray[np.float32]:
    """``(H, W)``: attacked minus clean image, mean over channels."""
    change = examples.adv_images[index] - examples.clean[index]
    return np.asarray(change.mean(axis=0, dtype=np.float64), np.float32)


def answer_text(prediction: int) -> str:
    """A prediction as text."""
    return "null" if prediction == NULL_LABEL else str(prediction)


def shrink_note(examples: Sequence[Examples]) -> str:
    """A sentence for the caption if images are shown smaller than they are; else empty."""
    is_smaller = any(max(e.clean.shape[2:]) > LARGEST_SIDE for e in examples)
    return f" Images are averaged down to {LARGEST_SIDE} pixels." if is_smaller else ""


def _colours(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``(C, H, W)`` in [0, 1] to ``(H, W, 3)``; one channel is grey, a fourth is ignored."""
    channels = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    shown = np.stack([_shrunk(channel) for channel in channels], axis=-1)
    return (shown.clip(0, 1) * 255).round().astype(np.uint8)


def diverging(change: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.uint8]:
    """``(H, W)`` in [-scale, scale] to colours: purple through white to orange."""
    level = (_shrunk(change) / scale).clip(-1, 1)[..., None]
    less, more = (np.array(ImageColor.getrgb(colour)) for colour in (LESS, MORE))
    colours = 255 + np.abs(level) * (np.where(level < 0, less, more) - 255)
    return np.asarray(colours.round(), np.uint8)


def _shrunk(channel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``(H, W)`` with square blocks averaged until no side is above :data:`LARGEST_SIDE`."""
    block = -(-max(channel.shape) // LARGEST_SIDE)
    return np.asarray(Image.fromarray(channel.astype(np.float32)).reduce(block))


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """A PNG of ``(H, W)`` or ``(H, W, 3)`` pixels as an address."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

"""Clean, attacked, and the difference: images of one seed, with what the model said.

The pictures are small PNGs inside the page; nothing here needs matplotlib.
"""

from __future__ import annotations

import base64
import struct
import zlib
from itertools import groupby

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from nullclass.records import Examples, Run, Trial
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import FGSM, NORMS, attack_name, eps_text, pixel_per_unit
from nullclass.report.style import LESS, MORE, OUTCOME_COLOURS, OUTCOMES

NUM_BUDGETS = 3
"""Budgets shown of each attack."""
NUM_IMAGES = 6
"""Images shown of each budget."""
LARGEST_SIDE = 96
"""Pixels; larger images are averaged down to this."""
MAX_BYTES = 2_000_000
"""All pictures together; a page should open on a phone."""

NULL_LABEL = -1


def gallery(run: Run) -> Drawing | None:
    """Example images of the first seed, a folded panel a model."""
    seeds = [trial.seed for trial in run.trials if trial.examples]
    if not seeds:
        return None
    seed = min(seeds)
    unit = pixel_per_unit(run.info)
    left = MAX_BYTES
    panels = []
    for trial in run.trials:
        if trial.seed != seed or not trial.examples:
            continue
        html = Markup("").join(_example_set(examples, unit) for examples in _chosen(trial))
        if len(html) > left:
            break
        left -= len(html)
        panels.append(Panel(html, trial.model))
    if not panels:
        return None
    shrunk = max(trial.examples[0].clean.shape[-1] for trial in run.trials if trial.examples)
    is_smaller = shrunk > LARGEST_SIDE
    smaller = f" Images are averaged down to {LARGEST_SIDE} pixels." if is_smaller else ""
    return Drawing(
        "Gallery",
        "Clean, attacked and difference images: the first test images, not chosen by outcome, seed "
        f"{seed}, up to {NUM_BUDGETS} budgets an attack. The border says what the model made of "
        "the image; under it the prediction and its probability. In the difference (attacked minus "
        "clean, mean over colour channels) purple is darker, orange brighter, white unchanged; "
        f"its scale is given with each attack. A search keeps what fooled the model at a "
        f"smaller ε.{smaller}",
        panels,
        [(word, OUTCOME_COLOURS[word]) for word in OUTCOMES],
        is_folded=True,
    )


def _chosen(trial: Trial) -> list[Examples]:
    """Up to :data:`NUM_BUDGETS` budgets of each attack, where images can still be recognised."""
    chosen: list[Examples] = []
    key = lambda e: (e.attack != FGSM, e.attack, e.norm)  # noqa: E731
    for _, group in groupby(sorted(trial.examples, key=key), key=key):
        of = sorted(group, key=lambda e: e.eps_pixels)
        of = [e for e in of if e.norm != "linf" or 0.02 <= e.eps_pixels <= 0.35] or of
        places = np.linspace(0, len(of) - 1, min(NUM_BUDGETS, len(of))).round().astype(int)
        chosen += [of[place] for place in places]
    return chosen


def _example_set(examples: Examples, unit: float | None) -> Markup:
    eps = f"{eps_text(examples.eps_pixels)} in pixel units"
    if unit is not None and examples.attack == FGSM:
        eps = f"{eps_text(examples.eps_pixels / unit)}, {eps}"
    count = min(NUM_IMAGES, len(examples.labels))
    clean, attacked = examples.clean[:count], examples.attacked[:count]
    change = (attacked.astype(float) - clean.astype(float)).mean(axis=1)
    scale = examples.eps_pixels
    if examples.norm != "linf" or scale <= 0:
        scale = float(np.abs(change).max()) or 1.0
    cards = Markup("").join(
        _card(
            examples,
            index,
            _png(_bytes(clean[index])),
            _png(_bytes(attacked[index])),
            _png(_diverging(change[index], scale)),
        )
        for index in range(count)
    )
    heading = f"{attack_name(examples.attack)}, {NORMS.get(examples.norm, examples.norm)}, ε {eps}"
    return Markup(
        '<h4>{} <small>difference from −{} to +{}</small></h4><div class="cards">{}</div>'
    ).format(heading, eps_text(scale), eps_text(scale), cards)


def _card(examples: Examples, index: int, clean: str, attacked: str, change: str) -> Markup:
    label = examples.labels[index]
    before, after = examples.clean_predictions[index], examples.predictions[index]
    return Markup(
        '<figure class="card"><div><img class="{}" src="{}" alt="clean image, true label {}">'
        '<img class="{}" src="{}" alt="attacked image, answered {}">'
        '<img src="{}" alt="difference"></div>'
        "<figcaption>true {} <span>{} <small>{}</small> → {} <small>{}</small></span></figcaption>"
        "</figure>"
    ).format(
        _outcome(before, label),
        clean,
        label,
        _outcome(after, label),
        attacked,
        _word(after),
        change,
        label,
        _word(before),
        _probability(examples.clean_confidences[index]),
        _word(after),
        _probability(examples.confidences[index]),
    )


def _outcome(prediction: int, label: int) -> str:
    if prediction == NULL_LABEL:
        return "null"
    return "correct" if prediction == label else "fooled"


def _word(prediction: int) -> str:
    return "null" if prediction == NULL_LABEL else str(prediction)


def _probability(value: float) -> str:
    return ">0.99" if value > 0.99 else f"{value:.2f}"


def _bytes(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
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

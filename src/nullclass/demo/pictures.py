"""The demo's pictures as HTML and SVG, in colours of the page: light or dark."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path

import numpy as np
from PIL.ImageColor import getrgb

from nullclass.demo.images import Pixels
from nullclass.demo.play import Proof, Result
from nullclass.report.pictures import data_uri, diverging
from nullclass.report.style import OUTCOME_COLOURS
from nullclass.studies.ramps.cube import Space

CSS = """
.nc-verdict { font-size: 1.35rem; font-weight: 600; margin: .2rem 0 .6rem; padding: .5rem .7rem;
  border-left: .5rem solid var(--nc); }
.nc-row { display: flex; flex-wrap: wrap; gap: .9rem; }
.nc-row figure { margin: 0; }
.nc-row img { width: 8.5rem; height: 8.5rem; image-rendering: pixelated; display: block;
  border: 1px solid #888; }
.nc-row figcaption { font-size: .85rem; max-width: 8.5rem; }
.nc-bars { display: grid; grid-template-columns: 2.6rem 1fr 4.4rem; gap: .15rem .5rem;
  max-width: 30rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
.nc-bars .nc-name, .nc-bars .nc-number { text-align: right; }
.nc-bars .nc-bar { align-self: center; height: .8rem; background: #8884; }
.nc-bars .nc-bar i { display: block; height: 100%; background: var(--nc); }
.nc-number { white-space: nowrap; }
.nc-best { font-weight: 700; }
.nc-path { width: 100%; max-width: 34rem; height: auto; }
.nc-path text { fill: currentColor; font-size: 12px; }
.nc-note { font-size: .95rem; max-width: 40rem; margin: .4rem 0; }
"""

BLUE, GREY, VERMILLION = OUTCOME_COLOURS["correct"], "#8A9099", OUTCOME_COLOURS["fooled"]
COLOURS = {"correct": BLUE, "null": GREY, "fooled": VERMILLION}

NAMES = (*map(str, range(10)), "null")


def verdict(result: Result, is_attacked: bool) -> str:
    """Return the sentence about a result; words say what the colours say."""
    found = NAMES[result.prediction]
    if result.label < 0:
        text = "Null: the model refuses this drawing, so there is no answer to attack."
    elif not is_attacked:
        text = f"The answer is {found}." if result.prediction >= 0 else "The answer is null."
    else:
        text = {
            "correct": f"Not fooled: the answer is still {found}.",
            "null": "Detected! The answer is null.",
            "fooled": f"Fooled: the answer is {found}, and it was {result.label}.",
        }[result.outcome]
    colour = COLOURS["null" if result.label < 0 else result.outcome]
    return f'<p class="nc-verdict" role="status" style="--nc:{colour}">{escape(text)}</p>'


def images(result: Result) -> str:
    """Return the image, the attacked image and their difference."""
    change = result.image - result.clean
    size = float(np.abs(change).max())
    figures = [_figure(_grey(result.clean), "the image")]
    if size > 0:
        figures.append(_figure(_grey(result.image), "after the attack"))
        figures.append(
            _figure(
                data_uri(diverging(change, size)),
                f"difference, at most {size:.3f}: orange lighter, purple darker",
            )
        )
    return f'<div class="nc-row">{"".join(figures)}</div>'


def bars(result: Result) -> str:
    """Return the probabilities as bars, null last."""
    rows = []
    best = int(result.probabilities.argmax())
    for index, share in enumerate(result.probabilities):
        colour = BLUE if index == result.label else GREY if index == 10 else VERMILLION
        mark = " nc-best" if index == best else ""
        rows.append(
            f'<span class="nc-name{mark}">{NAMES[index]}</span>'
            f'<span class="nc-bar" style="--nc:{colour}"><i style="width:{100 * share:.1f}%"></i>'
            f'</span><span class="nc-number{mark}">{100 * share:.1f} %</span>'
        )
    title = "Probabilities: " + ", ".join(
        f"{name} {100 * share:.0f} %"
        for name, share in zip(NAMES, result.probabilities, strict=True)
        if share >= 0.005
    )
    return f'<div class="nc-bars" role="img" aria-label="{title}">{"".join(rows)}</div>'


def path(result: Result) -> str:
    """Return the probabilities along the attack: true label, best other class, null."""
    if len(result.path) < 2:
        return ""
    others = result.path[:, :10].copy()
    others[:, result.label] = 0
    rival = int(others[-1].argmax())
    lines = (
        (f"{result.label}, the label", result.path[:, result.label], BLUE, ""),
        (f"{rival}, another class", result.path[:, rival], VERMILLION, "6 3"),
        ("null", result.path[:, 10], GREY, "2 3"),
    )
    width, height, left, top = 300, 110, 34, 10
    parts = []
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        parts.append(
            f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#8886"/>'
            f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{share:g}</text>'
        )
    last_y: list[float] = []
    for name, values, colour, dash in sorted(lines, key=lambda line: -float(line[1][-1])):
        places = np.linspace(left, left + width, len(values))
        points = " ".join(
            f"{x:.1f},{top + height * (1 - float(v)):.1f}"
            for x, v in zip(places, values, strict=True)
        )
        y = top + height * (1 - float(values[-1])) + 4
        y = max(y, last_y[-1] + 14) if last_y else y
        last_y.append(y)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5" '
            f'stroke-dasharray="{dash}"/>'
            f'<text x="{left + width + 6}" y="{y:.1f}">{name}</text>'
        )
    parts.append(f'<text x="{left}" y="{top + height + 18}">the image</text>')
    parts.append(
        f'<text x="{left + width}" y="{top + height + 18}" text-anchor="end">attacked</text>'
    )
    return (
        f'<svg class="nc-path" viewBox="0 0 450 {top + height + 40}" role="img" '
        f'aria-label="Probabilities along the attack">{"".join(parts)}</svg>'
    )


def proofs(clean: Proof, attacked: Proof, eps: float, radius: float, label: int) -> str:
    """Return what the proved model says, and what that means for every attack within eps."""
    lines = [
        f"The proved model on the image: {_proved(clean, radius)}",
        f"On the image of an attacker who knows its bounds: {_proved(attacked, radius)}",
    ]
    needed = max(radius, eps - radius)
    if clean.prediction == label >= 0 and clean.proved >= needed:
        lines.append(
            f"So no attack within ε {eps:.2f} makes it answer anything but {label} or null: proved."
        )
    elif clean.prediction >= 0:
        lines.append(
            f"A promise at ε {eps:.2f} would need a proof within {needed:.2f}, which there is not."
        )
    return "".join(f'<p class="nc-note">{escape(line)}</p>' for line in lines)


def _proved(proof: Proof, radius: float) -> str:
    reach = f"proved within {proof.proved:.3f}" if proof.proved else "nothing is proved"
    if proof.prediction >= 0:
        return f"{proof.prediction}, {reach}."
    return f"null. Its network says {proof.network}, {reach}, and it answers only from {radius:g}."


def cube(spaces: dict[str, Space], point: tuple[float, float, float]) -> str:
    """Return a slice of each decision space through a point, with the answers there."""
    figures = []
    for name, space in spaces.items():
        side = len(space)
        first, second, third = (round(value * (side - 1)) for value in point)
        colours = np.array([getrgb(BLUE), getrgb(VERMILLION), (222, 224, 227)], np.uint8)
        picture = colours[space[:, :, third].astype(int)].copy()  # -1 is the last one
        for row, column in ((first, slice(None)), (slice(None), second)):
            picture[row, column] = picture[row, column] // 2
        said = ("down", "up", "null")[int(space[first, second, third])]
        figures.append(_figure(data_uri(picture), f"{name}: {said}"))
    pixels = np.array(point, np.float32)[None]
    shown = _figure(_grey(np.repeat(pixels, 3, axis=0)), "the image of three pixels")
    return f'<div class="nc-row">{shown}{"".join(figures)}</div>'


@cache
def ramp_spaces() -> dict[str, Space]:
    """Return the decision spaces in the package by the name of their network."""
    names = {
        "optimal": "what would be right",
        "base": "trained on ramps alone",
        "uniform": "noise as null",
        "shuffled": "shuffled ramps as null",
    }
    with np.load(Path(__file__).parent / "cubes.npz", allow_pickle=False) as found:
        return {text: found[name] for name, text in names.items()}


def _figure(uri: str, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _grey(image: Pixels) -> str:
    return data_uri((255 * image).round().astype(np.uint8))

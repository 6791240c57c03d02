"""Example images: clean, attacked, and the difference."""

from __future__ import annotations

import math
from itertools import groupby

from markupsafe import Markup

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import FGSM, NORMS, attack_name, eps_text
from nullclass.report.pictures import answer_text, card, change_in, shrink_note
from nullclass.report.style import OUTCOME_LEGEND
from nullclass.report.worst_case import subsample
from nullclass.results.run import Run, Trial
from nullclass.results.schema import Examples

NUM_BUDGETS = 3
"""Budgets shown per attack."""
NUM_IMAGES = 6
"""Images shown per budget."""
MAX_BYTES = 2_000_000
"""Limit for all images together."""


def gallery(run: Run, unit: float | None = None) -> Drawing | None:
    """Example images of the first seed, one collapsed panel per model.

    Args:
        run: The run.
        unit: Pixel units per unit of FGSM's ε in the source, if it has units of its own.
    """
    seed = min((trial.seed for trial in run.trials if trial.examples), default=None)
    trials = [trial for trial in run.trials if trial.seed == seed]
    num_left = MAX_BYTES
    panels = []
    for trial in trials:
        html = Markup("").join(_example_set(examples, unit) for examples in _chosen(trial))
        num_left -= len(html)
        if num_left < 0:
            break
        if html:
            panels.append(Panel(html, trial.model))
    if not panels:
        return None
    return Drawing(
        "Gallery",
        "Clean, attacked and difference images: the first test images, not selected by outcome "
        "(of a search for the smallest ε, those with the smallest), "
        f"seed {seed}, up to {NUM_BUDGETS} budgets per attack. Borders: outcome. Below: prediction "
        "and its probability. Difference: attacked minus clean, mean over channels; purple is "
        "darker, orange brighter, white unchanged, with the scale given per attack. An iterative "
        "attack keeps an image that succeeded at a smaller ε; the worst case may show one made at "
        "a larger ε, projected. Images that are proved never to be fooled are shown as they are."
        + shrink_note([e for trial in trials for e in trial.examples[:1]]),
        panels,
        OUTCOME_LEGEND,
        is_folded=True,
    )


def _chosen(trial: Trial) -> list[Examples]:
    """Up to :data:`NUM_BUDGETS` budgets per attack at which the image is recognisable."""
    chosen: list[Examples] = []

    def order(examples: Examples) -> tuple[bool, str, str]:
        return examples.attack != FGSM, examples.attack, examples.norm

    for _, group in groupby(sorted(trial.examples, key=order), key=order):
        of = sorted(group, key=lambda e: e.eps_pixels)
        of = [e for e in of if e.norm != "linf" or 0.02 <= e.eps_pixels <= 0.35] or of
        chosen += subsample(of, NUM_BUDGETS)
    return chosen


def _example_set(examples: Examples, unit: float | None) -> Markup:
    """Heading and cards; where each image has its own ε, each has its own scale too."""
    name = f"{attack_name(examples.attack)}, {NORMS.get(examples.norm, examples.norm)}"
    indices = range(min(NUM_IMAGES, len(examples.labels)))
    largest = [_largest_change(examples, index) for index in indices]
    if math.isnan(examples.eps_pixels):
        heading = f"{name}, each image's ε in pixel units"
        scales, note = largest, "difference scaled per image"
    else:
        eps = f"{eps_text(examples.eps_pixels)} in pixel units"
        if unit is not None and examples.attack == FGSM:
            eps = f"{eps_text(examples.eps_pixels / unit)}, {eps}"
        is_exact = examples.norm == "linf" and examples.eps_pixels > 0
        scale = examples.eps_pixels if is_exact else max(largest)
        heading, scales = f"{name}, ε {eps}", [scale for _ in indices]
        note = f"difference from −{eps_text(scale)} to +{eps_text(scale)}"
    cards = Markup("").join(
        card(examples, index, scales[index], _caption(examples, index)) for index in indices
    )
    return Markup('<h4>{} <small>{}</small></h4><div class="cards">{}</div>').format(
        heading, note, cards
    )


def _largest_change(examples: Examples, index: int) -> float:
    return float(abs(change_in(examples, index)).max()) or 1.0


def _caption(examples: Examples, index: int) -> Markup:
    pairs = (
        (examples.clean_predictions[index], examples.clean_confidences[index]),
        (examples.predictions[index], examples.confidences[index]),
    )
    answers = Markup(" → ").join(
        Markup("{} <small>{}</small>").format(
            answer_text(prediction), ">0.99" if probability > 0.99 else f"{probability:.2f}"
        )
        for prediction, probability in pairs
    )
    if math.isnan(examples.eps_pixels):
        answers += f" at ε {eps_text(examples.budgets[index])}"
    return Markup("true {} <span>{}</span>").format(examples.labels[index], answers)

"""Clean, attacked, and the difference: images of one seed, with what the model said."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from markupsafe import Markup

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import (
    FGSM,
    NORMS,
    SMALLEST,
    attack_name,
    eps_text,
    pixel_per_unit,
)
from nullclass.report.pictures import answer_text, card, change_in, shrinking
from nullclass.report.style import OUTCOME_COLOURS, OUTCOMES
from nullclass.results.schema import Examples
from nullclass.results.store import Run, Trial

NUM_BUDGETS = 3
"""Budgets shown of each attack."""
NUM_IMAGES = 6
"""Images shown of each budget."""
MAX_BYTES = 2_000_000
"""All pictures together; a page should open on a phone."""


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
        if not html:
            continue
        if len(html) > left:
            break
        left -= len(html)
        panels.append(Panel(html, trial.model))
    if not panels:
        return None
    smaller = shrinking([e for trial in run.trials for e in trial.examples[:1]])
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
    examples = [e for e in trial.examples if e.attack != SMALLEST]
    key = lambda e: (e.attack != FGSM, e.attack, e.norm)  # noqa: E731
    for _, group in groupby(sorted(examples, key=key), key=key):
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
    scale = examples.eps_pixels
    if examples.norm != "linf" or scale <= 0:
        changes = [abs(change_in(examples, index)).max() for index in range(count)]
        scale = float(max(changes)) or 1.0
    cards = Markup("").join(
        card(examples, index, scale, _caption(examples, index)) for index in range(count)
    )
    heading = f"{attack_name(examples.attack)}, {NORMS.get(examples.norm, examples.norm)}, ε {eps}"
    return Markup(
        '<h4>{} <small>difference from −{} to +{}</small></h4><div class="cards">{}</div>'
    ).format(heading, eps_text(scale), eps_text(scale), cards)


def _caption(examples: Examples, index: int) -> Markup:
    return Markup("true {} <span>{} <small>{}</small> → {} <small>{}</small></span>").format(
        examples.labels[index],
        answer_text(examples.clean_predictions[index]),
        _probability(examples.clean_confidences[index]),
        answer_text(examples.predictions[index]),
        _probability(examples.confidences[index]),
    )


def _probability(value: float) -> str:
    return ">0.99" if value > 0.99 else f"{value:.2f}"

"""Example images: clean, attacked, and the difference."""

from __future__ import annotations

from itertools import groupby

from markupsafe import Markup

from nullclass.core.outcomes import NULL_LABEL
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import FGSM, NORMS, SMALLEST, attack_name, eps_text
from nullclass.report.measures import Measures, pixel_per_unit
from nullclass.report.pictures import answer_text, card, change_in, shrink_note
from nullclass.report.style import OUTCOME_LEGEND
from nullclass.report.worst_case import only_trial, subsample
from nullclass.results.schema import Examples
from nullclass.results.store import Run, Trial

NUM_BUDGETS = 3
"""Budgets shown per attack."""
NUM_IMAGES = 6
"""Images shown per budget."""
MAX_BYTES = 2_000_000
"""Limit for all images together."""


def gallery(run: Run) -> Drawing | None:
    """Example images of the first seed, one collapsed panel per model."""
    seed = min((trial.seed for trial in run.trials if trial.examples), default=None)
    trials = [trial for trial in run.trials if trial.seed == seed]
    unit = pixel_per_unit(run.info)
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
        "Clean, attacked and difference images: the first test images, not selected by outcome, "
        f"seed {seed}, up to {NUM_BUDGETS} budgets per attack. Borders: outcome. Below: prediction "
        "and its probability. Difference: attacked minus clean, mean over channels; purple is "
        "darker, orange brighter, white unchanged, with the scale given per attack. An iterative "
        "attack keeps an image that succeeded at a smaller ε."
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

    shown = sorted((e for e in trial.examples if e.attack != SMALLEST), key=order)
    for _, group in groupby(shown, key=order):
        of = sorted(group, key=lambda e: e.eps_pixels)
        of = [e for e in of if e.norm != "linf" or 0.02 <= e.eps_pixels <= 0.35] or of
        chosen += subsample(of, NUM_BUDGETS)
    return chosen


def _example_set(examples: Examples, unit: float | None) -> Markup:
    eps = f"{eps_text(examples.eps_pixels)} in pixel units"
    if unit is not None and examples.attack == FGSM:
        eps = f"{eps_text(examples.eps_pixels / unit)}, {eps}"
    count = min(NUM_IMAGES, len(examples.labels))
    scale = examples.eps_pixels
    if examples.norm != "linf" or not scale > 0:
        scale = max(_largest_change(examples, index) for index in range(count))
    cards = Markup("").join(
        card(examples, index, scale, _caption(examples, index)) for index in range(count)
    )
    heading = f"{attack_name(examples.attack)}, {NORMS.get(examples.norm, examples.norm)}, ε {eps}"
    return Markup(
        '<h4>{} <small>difference from −{} to +{}</small></h4><div class="cards">{}</div>'
    ).format(heading, eps_text(scale), eps_text(scale), cards)


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
    return Markup("true {} <span>{}</span>").format(examples.labels[index], answers)


def smallest_eps_images(run: Run) -> Drawing | None:
    """The images that the smallest ε fools, ascending; without those wrong when clean."""
    trial = only_trial(run)
    examples = next((e for e in trial.examples if e.attack == SMALLEST), None) if trial else None
    if examples is None:
        return None
    results = zip(examples.labels, examples.predictions, examples.budgets, strict=True)
    fooled = [
        index
        for index, (label, answer, eps) in enumerate(results)
        if eps > 0 and answer not in (label, NULL_LABEL)
    ]
    if not fooled:
        return None
    cards = []
    for index in sorted(fooled, key=lambda index: examples.budgets[index]):
        largest = _largest_change(examples, index)
        caption = Markup("{} → {} at ε {} <span>difference × {}</span>").format(
            examples.labels[index],
            answer_text(examples.predictions[index]),
            eps_text(examples.budgets[index]),
            f"{1 / largest:.3g}",
        )
        cards.append(card(examples, index, largest, caption))
    return Drawing(
        "Images with the smallest ε",
        "Clean image, the image that fools the model at the smallest ε found, and their difference "
        "(purple is darker, orange brighter), scaled so that the largest change has the full "
        f"colour; the number is the factor. {NORMS.get(examples.norm, examples.norm)}, ε in pixel "
        f"units, {Measures(run).seeds_text()}. Images that the model gets wrong when clean are "
        f"left out.{shrink_note([examples])}",
        [Panel(Markup('<div class="cards">{}</div>').format(Markup("").join(cards)))],
        OUTCOME_LEGEND,
        is_large=True,
    )

"""The images that the smallest eps fools, with the difference made visible."""

from __future__ import annotations

from markupsafe import Markup

from nullclass.core.outcomes import NULL_LABEL
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.judged import only_trial
from nullclass.report.measures import NORMS, SMALLEST, Measures, eps_text
from nullclass.report.pictures import answer_text, card, change_in, shrinking
from nullclass.report.style import OUTCOME_COLOURS, OUTCOMES
from nullclass.results.schema import Examples
from nullclass.results.store import Run


def first_to_fall(run: Run) -> Drawing | None:
    """A card an image, the smallest eps first; those that are wrong when clean are left out."""
    trial = only_trial(run)
    if trial is None:
        return None
    examples = next((e for e in trial.examples if e.attack == SMALLEST), None)
    fallen = [] if examples is None else _fallen(examples)
    if examples is None or not fallen:
        return None
    cards = Markup("").join(_card(examples, index) for index in fallen)
    return Drawing(
        "The images that fall first",
        "Clean image, the image that fools the model at the smallest ε found, and their difference "
        "(purple is darker, orange brighter), stretched until its largest change has the full "
        f"colour: the number says how many times. {NORMS.get(examples.norm, examples.norm)}, ε in "
        f"pixel units, {Measures(run).seeds_text()}. Images that the model gets wrong unattacked "
        f"are left out.{shrinking([examples])}",
        [Panel(Markup('<div class="cards">{}</div>').format(cards))],
        [(word, OUTCOME_COLOURS[word]) for word in OUTCOMES],
        is_large=True,
    )


def _fallen(examples: Examples) -> list[int]:
    """Places of the images that an eps above 0 fools, nearest first."""
    told = zip(examples.labels, examples.predictions, examples.budgets, strict=True)
    places = [
        place
        for place, (label, answer, eps) in enumerate(told)
        if eps > 0 and answer not in (label, NULL_LABEL)
    ]
    return sorted(places, key=lambda place: examples.budgets[place])


def _card(examples: Examples, index: int) -> Markup:
    largest = float(abs(change_in(examples, index)).max()) or 1.0
    caption = Markup("{} → {} at ε {} <span>difference × {}</span>").format(
        examples.labels[index],
        answer_text(examples.predictions[index]),
        eps_text(examples.budgets[index]),
        f"{1 / largest:.3g}",
    )
    return card(examples, index, largest, caption)

"""Sections every page has: figures, settings, definitions, how to redraw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Block, Section, Terms, Text
from nullclass.report.figures import Figure
from nullclass.report.measures import CLEAN, GOALS, Measures, attack_name, eps_text
from nullclass.results.store import Run

MANY = 12
"""More budgets than this are not listed one by one."""

FOLDED = {"crafted": "Images made on other models", "sizes": "Perturbations by size"}
"""Plans of a run that are folded away in one list each, and its heading."""

NULL_AWARE_TEXT = (
    "a fixed sequence of attacks, each on what still stands, for which null is a defence to get "
    "past and not a success."
)
"""What sets the attacks apart that know of null."""

DEFINITIONS = [
    (
        "ε",
        "The budget: how far the attacker may move an image, in pixel units, where a pixel runs "
        "from 0 (black) to 1 (white). L∞: no pixel moves by more than ε.",
    ),
    ("correct", "The model answered the true class."),
    ("null", "The model refused to answer."),
    ("fooled", "The model answered another real class. Correct, null and fooled sum to 1."),
    (
        "AER(ε)",
        "Accepted-error rate: share of images on which the model is fooled by some attack at "
        "ε or below, or already when they are clean. One minus “robustness with reject”.",
    ),
    (
        "RAR(ε)",
        "Robust accuracy with rejection: share of images that are correct when clean and "
        "that no attack fooled at ε or below. Answering null to an attacked image counts as good, "
        "answering null to a clean one does not: a model that always says null scores 0.",
    ),
    (
        "strict robust accuracy(ε)",
        "Share of images that are correct when clean and under every attack at ε or below: here "
        "null counts as a failure. It is what attack libraries print.",
    ),
    (
        "null-DoS(ε)",
        "Share of images that are correct when clean and that some attack at ε or below gets "
        "answered null: the price of refusing.",
    ),
    ("null loss", "Mean cross-entropy between the model's output and the answer null."),
    (
        "95 % Wilson interval",
        "Range of shares that the number of test images leaves plausible "
        "for this one trained model; how much training again would change is a matter of seeds.",
    ),
]


def figure_sections(
    run: Run,
    figures: Mapping[str, Figure],
    last: tuple[str, ...] = ("gallery", "training"),
) -> list[Section]:
    """A section with the drawings of a run, then one each for those in ``last``."""
    drawings = {name: draw(run) for name, draw in figures.items()}
    first: list[Block] = [d for name, d in drawings.items() if d is not None and name not in last]
    sections = [Section("Figures", first)] if first else []
    for name in last:
        drawing = drawings.get(name)
        if drawing is not None:
            sections.append(Section(drawing.title, [drawing]))
    return sections


def settings_section(run: Run) -> Section:
    """Everything ``run.json`` says, the settings first."""
    info = {key: value for key, value in run.info.items() if key not in ("settings", "notes")}
    settings = run.info.get("settings")
    settings = dict(settings) if isinstance(settings, dict) else {}
    trainings, card = settings.pop("trainings", None), settings.pop("card", None)
    attacks = settings.pop("attacks", None)
    others = {name: settings.pop(key, None) for key, name in FOLDED.items()}
    blocks: list[Block] = [
        Text("Everything that decides the numbers above, as the run recorded it."),
        Terms(flat(settings)),
    ]
    if isinstance(attacks, list):
        blocks += [Terms(flat(told), f"Attack {_name(told)}") for told in attacks]
    blocks += [Terms(flat(told, "plan"), name) for name, told in others.items() if told]
    if isinstance(trainings, dict):
        blocks += [Terms(flat(told), f"Training of {model}") for model, told in trainings.items()]
    if isinstance(card, dict):
        blocks.append(Terms(flat(card), "The checkpoint's card"))
    return Section(
        "Settings in full", [*blocks, Text("Data, code and machine:"), Terms(flat(info))]
    )


def _name(attack: Any) -> str:
    """An attack's name in rows: its label, or its own."""
    told = attack if isinstance(attack, dict) else {}
    return attack_name(str(told.get("label") or told.get("attack") or "without a name"))


def definitions_section(further: Sequence[tuple[str, str]] = ()) -> Section:
    """What the words mean, those of a study last."""
    return Section("What the words mean", [Terms([*DEFINITIONS, *further])])


def redraw_section() -> Section:
    """How to draw the page again."""
    return Section(
        "How to draw this again",
        [
            Text(
                "This page is drawn from the rows in its folder alone; no model is loaded. "
                "“nullclass report DIR”, with that folder for DIR, draws it again. summary.csv "
                "there holds every number, trials/*/rows.csv.gz every image."
            )
        ],
    )


def budgets_text(measures: Measures, attack: str) -> str:
    """Budgets of an attack, with their unit."""
    budgets = measures.budgets(attack)
    told = ", ".join(eps_text(eps) for eps in budgets)
    if any(map(math.isnan, budgets)):
        return "ε in pixel units and each image's own"
    if len(budgets) > MANY:
        told = f"{eps_text(budgets[0])} to {eps_text(budgets[-1])} ({len(budgets)} values)"
    return f"ε {told} in pixel units"


def subtitle(run: Run, measures: Measures, word: str = "seed") -> str:
    """Preset, seeds, images, data and date of a run, as far as it says."""
    data = run.info.get("data")
    told = [
        f"preset {run.info['preset']}" if run.info.get("preset") else "",
        measures.seeds_text(word),
        f"data {data['name']}" if isinstance(data, dict) and data.get("name") else "",
        f"{measures.num_images(CLEAN)} test images" if measures.budgets(CLEAN) else "",
        str(run.info.get("started", ""))[:10],
    ]
    return " · ".join(word for word in told if word)


def attack_terms(measures: Measures) -> list[tuple[str, str]]:
    """Name, goal, norm, budgets and images of every attack of a run."""
    pairs = []
    for attack in measures.attacks():
        goals = sorted({m.objective for m in measures.all if m.attack == attack} - {"none"})
        pairs.append(
            (
                attack_name(attack),
                f"{measures.norm(attack)}, {budgets_text(measures, attack)}, "
                f"{measures.num_images(attack)} test images a seed; it goes for "
                f"{', or '.join(GOALS.get(goal, goal) for goal in goals) or 'an unnamed goal'}"
                f"{f'; {source}' if (source := measures.source_name(attack)) else ''}",
            )
        )
    if measures.budgets(UNION):
        pairs.append(
            (
                "union",
                "AER and RAR take the worst, image by image, of all these attacks at that ε or "
                "below and of the clean image, over the images that every attack saw: "
                f"{measures.num_images(UNION)} a seed",
            )
        )
    return pairs


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value)."""
    if isinstance(value, dict) and value:
        return [pair for key in value for pair in flat(value[key], f"{name}.{key}".strip("."))]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [pair for n, item in enumerate(value, 1) for pair in flat(item, f"{name}.{n}")]
    if isinstance(value, list):
        return [(name, ", ".join(_plain(item) for item in value))]
    return [(name, _plain(value))] if name else []


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

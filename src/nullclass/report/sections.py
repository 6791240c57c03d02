"""Sections that pages share: findings, figures, red flags, settings, definitions, redrawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from string import Formatter
from typing import Any

from nullclass.core.documents import json_values
from nullclass.diagnostics.red_flags import CHECKS
from nullclass.metrics.rates import preview_note
from nullclass.report.blocks import (
    Block,
    Bullets,
    Cell,
    Drawing,
    FlagItem,
    FlagList,
    Page,
    Section,
    Table,
    Terms,
    Text,
    section,
)
from nullclass.report.formatting import SUCCESS_TEXTS, attack_name, eps_text
from nullclass.report.measures import Measures
from nullclass.results.run import Run, Trial
from nullclass.results.schema import CLEAN, UNION

Figure = Callable[[Measures], Drawing | None]
"""Draws a run from its measures; ``None`` if it has nothing to show."""

LAST_FIGURES = ("gallery", "training")
"""Figures with a section of their own."""
MOST_LISTED = 12
"""More budgets than this are given as a range."""
FLAGS_TITLE = "Red flags"

NULL_AWARE_TEXT = (
    "a fixed sequence of attacks, each run on the images that are still active. Null does not "
    "count as success."
)
SCORED_TEXT = (
    "Images stay in [0, 1] and within ε of the clean image. Both are checked, and every image is "
    "scored again outside the attack. A stronger attack may succeed more often: AER is a lower "
    "bound, RAR an upper bound."
)

DEFINITIONS = [
    (
        "ε",
        "The attack budget in pixel units, where a pixel is in [0, 1]. L∞: no pixel changes by "
        "more than ε.",
    ),
    ("correct", "The model answers the true class."),
    ("null", "The model answers null."),
    ("fooled", "The model answers another real class. Correct, null and fooled sum to 1."),
    (
        "AER(ε)",
        "Accepted-error rate: share of images on which the model is fooled, clean or by some "
        "attack at ε or below. One minus “robustness with reject”.",
    ),
    (
        "RAR(ε)",
        "Robust accuracy with rejection: share of images that are correct when clean and on which "
        "no attack at ε or below fools the model. Null is allowed under attack, but not on the "
        "clean image: a model that always answers null scores 0.",
    ),
    (
        "strict robust accuracy(ε)",
        "Share of images that are correct when clean and under every attack at ε or below. Null "
        "counts as an error, as in attack libraries.",
    ),
    (
        "null-DoS(ε)",
        "Share of images that are correct when clean and that some attack at ε or below turns into "
        "null: the price of rejection.",
    ),
    ("null loss", "Mean cross-entropy between the model's output and the answer null."),
    (
        "95 % Wilson interval",
        "Range of the true rate given the number of test images, for this trained model. "
        "Variation between trainings shows only across seeds.",
    ),
]


def fill(templates: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """The templates whose fields all have a value, filled in.

    Args:
        templates: Sentences with ``{name}`` fields.
        values: Values by name; a missing one or ``None`` drops the sentences that use it.
    """

    def is_known(template: str) -> bool:
        fields = (name for _, name, _, _ in Formatter().parse(template) if name)
        return all(values.get(name) is not None for name in fields)

    return [template.format_map(values) for template in filter(is_known, templates)]


def unfinished(measures: Measures, variants: Sequence[str] = ()) -> list[str]:
    """Sentences about models that were left out and evaluations that are missing.

    Args:
        measures: Of the run.
        variants: All models of the study.
    """
    known = [*measures.models, *measures.missing]
    left_out = [name for name in variants if name not in known]
    wanted = len(measures.run.info.trials)
    return fill(
        [
            "This run leaves out {left_out}.",
            "This run is not finished: {missing} of {wanted} evaluations are missing{models}.",
        ],
        {
            "left_out": ", ".join(left_out) or None,
            "missing": wanted - len(measures.run.trials) or None,
            "wanted": wanted,
            "models": f", all of {', '.join(measures.missing)}" if measures.missing else " so far",
        },
    )


def previews(measures: Measures) -> list[str]:
    """The sentence that rates under attack are a preview, if they are."""
    note = preview_note(m.num_images for m in measures.all if m.attack == UNION)
    return [note] if note else []


def with_damage(page: Page, run: Run) -> Page:
    """Return a page that begins with what is damaged, if anything is."""
    if not run.damaged:
        return page
    num = len(run.damaged)
    finding = f"{num} damaged result{'s' * (num > 1)} {'are' if num > 1 else 'is'} left out."
    rows = [
        [Cell(f"damaged: {each.title}"), Cell(each.reason.replace(f"{run.folder}/", ""))]
        for each in run.damaged
    ]
    columns = [Cell("result"), Cell("what is wrong")]
    table = Table("Left out everywhere else", columns, rows, holds_words=True)
    sections = [*section("Damaged results", table), *page.sections]
    return replace(page, findings=[finding, *page.findings], sections=sections)


def notes_of(run: Run) -> Block | None:
    """Notes in ``run.json``, if there are any."""
    return Bullets(run.info.notes) if run.info.notes else None


def figure_sections(
    measures: Measures, figures: Mapping[str, Figure], last: tuple[str, ...] = LAST_FIGURES
) -> list[Section]:
    """A section with the figures of a run, then one section each for those in ``last``."""
    drawings = {name: draw(measures) for name, draw in figures.items()}
    sections = section("Figures", *(d for name, d in drawings.items() if name not in last))
    for name in last:
        drawing = drawings.get(name)
        if drawing is not None:
            sections.append(Section(drawing.title, [drawing]))
    return sections


def closing_sections(
    run: Run,
    terms: Sequence[tuple[str, str]] = (),
    definitions: Sequence[tuple[str, str]] = DEFINITIONS,
) -> list[Section]:
    """Settings, definitions and how to redraw: the end of every page."""
    info = json_values(run.info)
    settings = {key: value for key, value in info.pop("settings").items() if value}
    listed = {*settings, "training"}  # beside what is listed anyway
    trials = {
        title: {key: value for key, value in of.items() if key not in listed}
        for title, of in settings.get("trials", {}).items()
    }
    settings |= {"trials": trials} if trials else {}
    for name in ("notes", "results", "checksum"):
        del info[name]
    nested = {key: value for key, value in settings.items() if _is_nested(value)}
    plain = {key: value for key, value in settings.items() if key not in nested}
    redraw = (
        "This page is drawn from the rows in its folder; no model is loaded. “nullclass report "
        "DIR” draws it again, where DIR is that folder. summary.csv there holds every number, "
        "trials/*/rows.parquet every image."
    )
    return [
        *section(
            "Settings in full",
            Text("The settings that determine the numbers above, as recorded by the run."),
            Terms(flat(plain)),
            *(Terms(flat(value), key) for key, value in nested.items()),
            Text("Data, code and machine:"),
            Terms(flat(info)),
        ),
        *section("Definitions", Terms([*definitions, *terms])),
        *section("How to draw this again", Text(redraw)),
    ]


def _is_nested(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) for item in items)


def study_page(
    measures: Measures,
    title: str,
    findings: Sequence[str],
    sections: Sequence[Section],
    *,
    figures: Mapping[str, Figure],
    last: tuple[str, ...] = LAST_FIGURES,
    threat_model: Sequence[str] = (),
    terms: Sequence[tuple[str, str]] = (),
    definitions: Sequence[tuple[str, str]] = DEFINITIONS,
    variants: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    word: str = "seed",
) -> Page:
    """The page of a study: findings, its sections, then what all studies have.

    Args:
        measures: Of the run.
        title: The study's question.
        findings: Sentences of the first paragraph, after those on an unfinished run.
        sections: Sections of results.
        figures: Figures by name.
        last: Names of figures that get a section of their own.
        threat_model: Paragraphs before the list of attacks; no section without any.
        terms: Definitions of the study.
        definitions: Definitions of all studies.
        variants: All models of the study, to name those that the run leaves out.
        files: Further files for the run's ``figures`` folder.
        word: The source's name for a seed.
    """
    run, attacks = measures.run, Terms(attack_terms(measures))
    return Page(
        title,
        f"Study {run.info.study} · {subtitle(measures, word)}",
        [*unfinished(measures, variants), *findings, *previews(measures)],
        [
            *sections,
            *figure_sections(measures, figures, last),
            *flags_section(run),
            *(section("Threat model", *map(Text, threat_model), attacks) if threat_model else []),
            *closing_sections(run, terms, definitions),
        ],
        dict(files or {}),
    )


def trial_flags(trial: Trial) -> list[Block]:
    """Red flags of one evaluation, or that none were found or looked for."""
    if trial.flags:
        return [
            Text("Reasons not to trust the numbers below until each is explained:"),
            FlagList([FlagItem(flag) for flag in trial.flags]),
        ]
    if not trial.result.probes:
        return [
            Text(
                "Not checked: the checks were switched off, so nothing is known about whether the "
                "attacks worked as intended."
            )
        ]
    return [
        Text(
            f"None of the {len(CHECKS)} automatic checks found a reason to distrust this "
            "evaluation. That does not prove it right; docs/red-flags.md lists the checks."
        )
    ]


def flags_section(run: Run) -> list[Section]:
    """Red flags of a study, one per model and check; no section if no trial was checked."""
    checked = [trial for trial in run.trials if trial.result.probes or trial.flags]
    which = f"{len(checked)} of {len(run.trials)} evaluations were checked"
    found: dict[tuple[str, str], list[FlagItem]] = {}
    for trial in checked:
        for flag in trial.flags:
            item = FlagItem(flag, f"{trial.model}, seed {trial.seed}")
            found.setdefault((trial.model, flag.name), []).append(item)
    items = []
    for first, *more in found.values():  # messages of other seeds differ by a number
        others = f" and {len(more)} more evaluation{'s' * (len(more) > 1)}" if more else ""
        items.append(FlagItem(first.flag, first.model + others))
    if not checked:
        return []
    if not items:
        return section(FLAGS_TITLE, Text(f"{which}; no red flags were found."))
    text = Text(f"Reasons not to trust a number until each is explained; {which}.")
    return section(FLAGS_TITLE, text, FlagList(items))


def subtitle(measures: Measures, word: str = "seed") -> str:
    """Preset, seeds, images, data and date of a run, as far as known."""
    parts = [
        f"preset {measures.run.info.preset}" if measures.run.info.preset else "",
        measures.seeds_text(word),
        f"data {measures.run.info.data.name}",
        f"{measures.num_images(CLEAN)} test images" if measures.budgets(CLEAN) else "",
        measures.run.info.started[:10],
    ]
    return " · ".join(filter(None, parts))


def budgets_text(measures: Measures, attack: str) -> str:
    """Budgets of an attack, with their unit."""
    budgets = measures.budgets(attack)
    if any(map(math.isnan, budgets)):
        return "ε in pixel units, each image's own"
    text = ", ".join(map(eps_text, budgets))
    if len(budgets) > MOST_LISTED:
        text = f"{eps_text(budgets[0])} to {eps_text(budgets[-1])} ({len(budgets)} values)"
    return f"ε {text} in pixel units"


def attack_terms(measures: Measures) -> list[tuple[str, str]]:
    """Norm, budgets, images and objective of every attack of a run."""
    pairs = []
    for attack in measures.attacks():
        objectives = sorted({m.objective for m in measures.all if m.attack == attack} - {CLEAN})
        success = (
            ", or ".join(SUCCESS_TEXTS.get(each, each) for each in objectives) or "not recorded"
        )
        parts = [
            measures.norm(attack),
            budgets_text(measures, attack),
            f"{measures.num_images(attack)} test images per seed; success: {success}",
        ]
        source = measures.source_name(attack)
        pairs.append((attack_name(attack), ", ".join(parts) + (f"; {source}" if source else "")))
    if measures.budgets(UNION):
        pairs.append(
            (
                "union",
                "AER and RAR: the worst case per image over all these attacks at that ε or below "
                "and the clean image, over the images that every attack was run on: "
                f"{measures.num_images(UNION)} per seed",
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
        return [(name, ", ".join(map(_plain, value)))]
    return [(name, _plain(value))] if name else []


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

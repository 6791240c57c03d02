"""The notebook's study: what it published, beside what we find, and what it left open."""

from __future__ import annotations

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Block, Bullets, Page, Section, Terms, Text
from nullclass.report.common import (
    NULL_AWARE_TEXT,
    attack_terms,
    definitions_section,
    figure_sections,
    redraw_section,
    settings_section,
    subtitle,
)
from nullclass.report.flags import flags_section
from nullclass.report.measures import (
    FGSM,
    Measure,
    Measures,
    attack_name,
    eps_text,
    percent,
    pixel_per_unit,
)
from nullclass.report.tables import (
    Comparison,
    clean_table,
    compare,
    fgsm_table,
    name_of,
    published_text,
    rule,
    unnoticed,
    unnoticed_table,
    white_box_table,
    with_unit,
)
from nullclass.results.store import Run
from nullclass.studies.fgsm_null.figures import FIGURES

HEADLINE_EPS = 0.3
"""Pixel units; the budget MNIST defences are usually quoted at."""
TOO_WEAK = 0.01
"""An attack that turns fewer images than this from right to wrong is called too weak to matter."""


def fgsm_null(run: Run) -> Page:
    """The page of the study ``fgsm-null``."""
    measures = Measures(run)
    unit = pixel_per_unit(run.info)
    comparison = compare(measures)
    tables: list[Block] = [
        Text(
            "A number in a model's name is its training ε in the notebook's units, “wd” is weight "
            "decay 1e-4; clean has no null class."
        ),
        Text(rule(len(measures.seeds))),
        clean_table(measures),
    ]
    if measures.budgets(FGSM):
        tables += [
            fgsm_table(measures, "null", unit),
            fgsm_table(measures, "null_loss", unit),
        ]
    tables += _differences(comparison, unit)
    notes = run.info.get("notes")
    if isinstance(notes, list) and notes:
        tables.append(Bullets([str(note) for note in notes]))
    open_questions: list[Block] = []
    if measures.union_budgets():
        open_questions += [white_box_table(measures, metric) for metric in ("aer", "rar")]
    counts = unnoticed(run)
    if len(counts):
        open_questions.append(unnoticed_table(measures, counts, unit))
    sections = [Section("Measured and published", tables)]
    if open_questions:
        asked = Text(
            "The notebook leaves two questions open. How does the null class fare against an "
            "attacker who knows about it (AER and RAR)? And are the FGSM images that go "
            "unnoticed too weak to matter, as it concludes (the last table)?"
        )
        sections.append(Section("The two questions left open", [asked, *open_questions]))
    sections += figure_sections(run, FIGURES)
    sections += [
        *flags_section(run),
        _threat_model(measures, unit),
        settings_section(run),
        definitions_section(),
        redraw_section(),
    ]
    return Page(
        "Does a null class recognise attacked images?",
        f"Study fgsm-null · {subtitle(run, measures)}",
        findings(run, measures, comparison),
        sections,
    )


def findings(run: Run, measures: Measures, comparison: Comparison) -> list[str]:
    """What was found, in sentences with numbers from the rows."""
    unit = pixel_per_unit(run.info)
    nulls = [model for model in measures.models if measures.has_null(model)]
    lacking = f"This run is not finished: nothing yet of {', '.join(measures.missing)}."
    return [
        *([lacking] if measures.missing else []),
        *_detection(measures, nulls, unit),
        *_white_box(measures, nulls),
        *_conclusion(run, nulls, unit),
        *_reproduction(run, measures, comparison),
    ]


def _reproduction(run: Run, measures: Measures, comparison: Comparison) -> list[str]:
    within, num = comparison.rates
    if not num:
        return []
    recipe = ""
    if run.info.get("preset") == "quick":
        recipe = (
            " The quick preset trains with the fast recipe, not the notebook's own, which the full "
            "preset uses."
        )
    how = (
        "within 0.3 points, one seed"
        if len(measures.seeds) == 1
        else f"mean of {len(measures.seeds)} seeds, within 2 sd or 0.3 points"
    )
    near, judged = comparison.losses
    losses = f", and {near} of its {judged} losses" if judged else ""
    return [
        f"Of the notebook's published rates {num} were judged and {within} are reproduced "
        f"({how}){losses}.{recipe}"
    ]


def _detection(measures: Measures, nulls: list[str], unit: float | None) -> list[str]:
    """The best claim FGSM alone supports, and what it is worth at the same budget."""
    found = [
        measure
        for measure in measures.all
        if (measure.attack, measure.metric) == (FGSM, "null") and measure.model in nulls
    ]
    if not found:
        return []
    white_box = measures.union_budgets()

    def same_budget(measure: Measure) -> float | None:
        near = [eps for eps in white_box if abs(eps / measure.eps - 1) < 0.05]
        return near[0] if near else None

    # of equally good claims, one that the notebook makes itself and that the white-box attack
    # can be set beside, at the smallest eps
    def claim(m: Measure) -> tuple[float, bool, bool, float]:
        has_rival = same_budget(m) is not None
        return round(m.mean, 3), m.published is not None and has_rival, has_rival, -m.eps

    best = max(found, key=claim)
    where = f"ε {eps_text(best.eps)}"
    if unit:
        where += f" ({eps_text(best.eps / unit)} in the notebook's units)"
    told = (
        f"Judged by FGSM alone the null class looks like a detector: {best.model} answers null to "
        f"{_with_n(best)} at {where}"
    )
    eps = same_budget(best)
    aer = None if eps is None else measures.find(best.model, UNION, "aer", eps)
    if aer is None:
        return [f"{told}."]
    return [
        f"{told}. At the same ε an attacker who knows about null fools that model on "
        f"{_with_n(aer)}."
    ]


def _with_n(measure: Measure) -> str:
    images = "FGSM images" if measure.attack == FGSM else "images"
    return f"{with_unit(measure)} of {measure.num_images:,} {images}"


def _white_box(measures: Measures, nulls: list[str]) -> list[str]:
    """Whether null helped against who knows of it, where the models can be told apart."""
    budgets = measures.union_budgets()
    if not budgets or not nulls:
        return []
    told = []
    without = [model for model in measures.models if model not in nulls]
    pairs = [
        (null, clean)
        for eps in budgets
        for clean in _of(measures, without, "aer", eps)
        for null in _of(measures, nulls, "aer", eps)
    ]
    if pairs:
        null, clean = max(pairs, key=lambda pair: abs(pair[0].mean - pair[1].mean))
        seeds = "; with one seed this may be chance of training" if len(measures.seeds) == 1 else ""
        told.append(
            f"The models differ most at ε {eps_text(null.eps)}: {null.model} is fooled on "
            f"{with_unit(null)}, {clean.model}, which has no null class, on {with_unit(clean)} "
            f"(AER{seeds})."
        )
    eps = min(budgets, key=lambda budget: abs(budget - HEADLINE_EPS))
    aers = _of(measures, nulls, "aer", eps)
    rars = _of(measures, nulls, "rar", eps)
    if aers and rars:
        told.append(
            f"At ε {eps_text(eps)} the null models are fooled on {_range(aers)} % of the images; "
            f"their robust accuracy with rejection (RAR) is {_range(rars)} %."
        )
    return told


def _conclusion(run: Run, nulls: list[str], unit: float | None) -> list[str]:
    """Whether FGSM images that pass unnoticed are too weak to matter."""
    counts = unnoticed(run)
    counts = counts[counts["model"].isin(nulls)]
    if counts.empty:
        return []
    by_model = counts.groupby(["model", "eps_pixels"], as_index=False).sum(numeric_only=True)
    share = by_model["num_turned"] / by_model["num_images"]
    worst = by_model.iloc[int(share.to_numpy().argmax())]
    eps = float(worst["eps_pixels"])
    where = f"ε {eps_text(eps)}"
    peak = (
        f"at worst, {worst['model']} at {where}, FGSM turned {percent(share.max())} % of the "
        "images from right to wrong without being called null"
    )
    verdict = "does not hold even for FGSM" if share.max() >= TOO_WEAK else "holds for FGSM"
    return [
        "The notebook's conclusion, that attacks which go unrecognised are too weak to influence "
        f"the model, {verdict}: {peak} (we draw the line at {percent(TOO_WEAK, 0)} %)."
    ]


def _differences(comparison: Comparison, unit: float | None) -> list[Block]:
    if not comparison.outside:
        num = len(comparison.within)
        told = f"All {num} published figures that were judged are reproduced."
        return [Text(told)] if num else []
    items = [
        f"{name_of(measure, unit)}: measured {with_unit(measure)}, published "
        f"{published_text(measure)}{' %' if measure.is_rate else ''}"
        for measure in comparison.outside
    ]
    one = len(items) == 1
    return [
        Text(
            f"Not reproduced ({'one figure' if one else f'{len(items)} figures'}; ε in the "
            "notebook's units):"
        ),
        Bullets(items),
    ]


def _threat_model(measures: Measures, unit: float | None) -> Section:
    inside = (
        f"The notebook adds its ε to standardised images; one of its units is {unit:g} pixel units."
        if unit
        else ""
    )
    return Section(
        "Threat model",
        [
            Text(
                "The attacker is white-box: knows the model's weights, its null class and how it "
                "was trained, and takes gradients through it. The attack is made on the very "
                "model that is scored, afresh for every seed. The attacker wins if the model "
                "answers a wrong class; being answered null is a failure for the attacker. "
                "Images stay in [0, 1] and within ε of the clean image; both are checked, and "
                "every image is scored again outside the attack."
            ),
            Text(
                "FGSM is the notebook's attack: one gradient-sign step on cross-entropy, which "
                f"knows nothing of null and so often walks into it. {_who_knows(measures)}AER and "
                "RAR take the worst, image by image, of all attacks and the clean image. "
                f"{inside}".strip()
            ),
            Terms(attack_terms(measures)),
        ],
    )


def _who_knows(measures: Measures) -> str:
    attack = measures.null_aware()
    if attack is None:
        return ""
    return f"The {attack_name(attack)} knows of null: it is {NULL_AWARE_TEXT} "


def _of(measures: Measures, models: list[str], metric: str, eps: float) -> list[Measure]:
    found = (measures.find(model, UNION, metric, eps) for model in models)
    return [measure for measure in found if measure is not None]


def _range(found: list[Measure]) -> str:
    low, high = (percent(end(m.mean for m in found), 1) for end in (min, max))
    return low if low == high else f"{low} to {high}"

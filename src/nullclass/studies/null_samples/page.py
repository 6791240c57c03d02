"""Page of the study ``null-samples``: the published scores, then white-box attacks."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nullclass.report.blocks import Block, Bullets, Page, Table, Text, section
from nullclass.report.formatting import (
    WORST_CASE,
    attack_name,
    eps_text,
    percent,
    range_text,
    signed,
    spread_text,
)
from nullclass.report.measures import Measure, Measures, differ, on_common_seeds
from nullclass.report.sections import NULL_AWARE_TEXT, SCORED_TEXT, fill, notes_of, study_page
from nullclass.report.tables import white_box_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, UNION
from nullclass.studies.null_samples.config import (
    AT_THRESHOLD,
    BASE,
    NUM_IMAGES,
    TRANSFER_AT_THRESHOLD,
    VARIANTS,
    WHITE_BOX_AT_THRESHOLD,
)
from nullclass.studies.null_samples.figures import FIGURES
from nullclass.studies.null_samples.tables import (
    READ_OFF,
    SELECTED,
    SOURCE_SETS,
    accuracies,
    accuracy_table,
    at_threshold,
    difference_table,
    kept_epochs,
    landmark_table,
    measures_of,
    published_text,
    rule,
    scores,
    scores_csv,
    selection_table,
    summary_table,
    threshold_table,
    training_differences,
    within_errors,
)

SOURCE_IMAGES = 60_000
"""Training of the report."""

TABLE_FILE = "table_scores.csv"

REASONS = (
    "Recipe, the report's in brackets: {recipe}.",
    "Null images: {shares}.",
    "Training images: {num_images:,}, because some are held out; the report has 60,000.",
    "Sets: {num_sets}; the report has 30. The sd over sets is large, so the mean of a few sets is "
    "uncertain.",
    "Attacked images: {fewest} per set; the report has 1,000.",
    "Set k attacks test images from number 1,000 k, and neighbouring sets share some; in the "
    "report each set continues where the previous one stopped.",
)

SENTENCES = (
    f"FGSM on {BASE} at each image's threshold (L∞, the smallest ε that fools {BASE}), transferred "
    "to the models trained with null images, fools them on {fooled}; they answer null to {null} "
    "(n = {num_transfer} per set).",
    "A null-aware white-box attack on the models themselves, the worst-case ensemble, fools them "
    "on {own}, at the same ε on the first of the same images (n = {num_white_box} per set).{gap}",
    "At the same ε {eps} (L∞) for every image {attacker} fools {aers} (AER, n = {num_union} per "
    "set).",
    "{within} of {num} published scores at threshold of the models with null images are reproduced "
    "({sets}, within 2 of the report's sd){furthest}, and {near} of {judged} test accuracies."
    "{recipe}",
    "The stricter test, means within 2 standard errors of their difference, holds for {close} of "
    "{compared} of these scores.",
    "Selecting the epoch on {other} instead of {first} images changes mean test accuracies by at "
    "most {clean_change} points and mean scores at threshold by at most {change} ({changed}).",
    "Both selections keep the same epoch in {same} of {trainings} trainings.{no_effect}",
)

TERMS = [
    ("set", f"One model per variant, trained with one seed; the report has {SOURCE_SETS}."),
    (
        "null image",
        "A training image with the label null. The letters of a model's name say which kinds it "
        "was trained on: u uniform noise, s shuffled tiles of an image, m the mean of two images "
        f"of different classes. {BASE} has no null images; its null output is untrained.",
    ),
    (
        "threshold",
        f"The smallest ε at which one FGSM step fools {BASE} of the same set, for each image that "
        "it classifies correctly when clean.",
    ),
    ("transfer", "An attack on another model than the scored one."),
    ("white-box", "An attack on the scored model, with its gradients."),
    (
        "selection",
        "The images by which the epoch is chosen: the test images, as in the report, or images "
        "held out from training.",
    ),
]


INTRODUCTION = (
    "u, s and m are kinds of null images: uniform noise, shuffled tiles, mixed pairs of images. A "
    "set is one model per variant, trained with one seed. The published scores are about attacks "
    f"on {BASE}, transferred to the other models; the white-box columns are about attacks on the "
    "models themselves."
)
SELECTION = (
    "The report keeps the epoch with the lowest loss on the test images and as many null images, "
    "so the test set influences the model that it scores. Below: the same trainings with the epoch "
    "chosen on held-out training images."
)
THREAT_MODEL = (
    f"As published: the attacker has {BASE} of the same set, trained without null images, but not "
    f"the scored model. FGSM takes one step along the sign of the gradient of {BASE}'s "
    "cross-entropy at the clean image; every model of the set is scored on the same adversarial "
    f"image. At threshold each image has the smallest ε that fools {BASE}; against ε all images "
    "have the same ε.",
    "White-box: the attacker knows the model's weights and its null class, and takes gradients "
    f"through it. The attack is the {attack_name(WORST_CASE)}, {NULL_AWARE_TEXT} Success is a "
    f"wrong digit. {SCORED_TEXT} Dropout is off.",
)


def page(run: Run) -> Page:
    """The page of the study."""
    measures = measures_of(run)
    kept = kept_epochs(measures)
    white_box: list[Block] = []
    if measures.union_budgets():
        attacked = (
            "AER and RAR are rates of the attacked images, not of all test images: each set's "
            f"first {measures.num_images(UNION)} that {BASE} classifies correctly when clean and "
            f"that FGSM on {BASE} fools. They include the transferred attack."
        )
        white_box = [*(white_box_table(measures, m) for m in ("aer", "rar")), Text(attacked)]
    selections: list[Block] = []
    if len(measures.selections) > 1 and len(kept):
        selections = [Text(SELECTION), selection_table(measures, kept)]
    return study_page(
        measures,
        "Do null images in training defend against adversarial images?",
        findings(measures, kept),
        [
            *section(
                "Measured and published",
                Text(INTRODUCTION),
                Text(rule()),
                threshold_table(measures),
                difference_table(measures),
                accuracy_table(measures),
                landmark_table(measures),
                *_differences(measures),
                notes_of(run),
            ),
            *section("The same ε for all images", *white_box),
            *section("Selection on the test set", *selections),
        ],
        figures=FIGURES,
        last=("adversarial-samples", "training-histories"),
        threat_model=THREAT_MODEL,
        terms=TERMS,
        variants=VARIANTS,
        files={TABLE_FILE: scores_csv(measures)},
        word="set",
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    return [summary_table(measures_of(run))]


def findings(measures: Measures, kept: pd.DataFrame) -> list[str]:
    """Sentences of the first paragraph."""
    values = _attacks(measures) | _reproduction(measures) | _selection(measures, kept)
    return fill(SENTENCES, values)


def _attacks(measures: Measures) -> dict[str, Any]:
    """Rates of the models with null images, transferred and white-box."""
    nulls = [model for model in measures.models if model != BASE]

    def find(outcome: str, attack: str) -> dict[str, Measure]:
        found = {model: at_threshold(measures, model, outcome, attack) for model in nulls}
        return {model: measure for model, measure in found.items() if measure is not None}

    fooled = find("fooled", TRANSFER_AT_THRESHOLD)
    own = find("fooled", WHITE_BOX_AT_THRESHOLD)
    values: dict[str, Any] = {
        "fooled": range_text([*fooled.values()]),
        "null": range_text([*find("null", TRANSFER_AT_THRESHOLD).values()]),
        "num_transfer": measures.num_images(TRANSFER_AT_THRESHOLD),
        "own": range_text([*own.values()]),
        "num_white_box": measures.num_images(WHITE_BOX_AT_THRESHOLD),
        "gap": "",
        "attacker": measures.attacker(),
    }
    pairs = [(fooled[m], own[m]) for m in own if m in fooled and differ(fooled[m], own[m])]
    if pairs:
        transfer, white_box = max(pairs, key=lambda pair: pair[1].mean - pair[0].mean)
        values["gap"] = (
            f" The largest difference is that of {white_box.model}: "
            f"{spread_text(transfer.mean, transfer.sd)} % transferred, "
            f"{spread_text(white_box.mean, white_box.sd)} % white-box. So the published scores "
            "show how an attack transfers, not how robust the models are."
        )
    for eps in measures.union_budgets()[:1]:
        base = measures.find(BASE, UNION, "aer", eps)
        others = range_text(measures.find_all(nulls, UNION, "aer", eps))
        values |= {"eps": eps_text(eps), "num_union": measures.num_images(UNION)}
        if base is not None and others:
            values["aers"] = (
                f"{BASE} on {spread_text(base.mean, base.sd)} % and the others on {others}"
            )
    return values


def _reproduction(measures: Measures) -> dict[str, Any]:
    """Number of reproduced scores and accuracies."""
    judged = [m for m in scores(measures) if m.verdict and m.model != BASE]
    clean = [m for m in accuracies(measures) if m.verdict]
    if not judged:
        return {}
    outside = [m for m in judged if m.verdict == "outside"]
    furthest = max(outside, key=lambda m: abs(m.mean - (m.published or 0)), default=None)
    is_fast = training_differences(measures.run)["recipe"] is not None
    num_sets = len(measures.seeds)
    return {
        "within": len(judged) - len(outside),
        "num": len(judged),
        "sets": f"means of {num_sets} sets" if num_sets > 1 else "one set",
        **_closeness(measures),
        "furthest": f"; the furthest is {_difference(furthest)}" if furthest else "",
        "near": sum(m.verdict == "within" for m in clean),
        "judged": f"{len(clean)} (within {percent(READ_OFF)} points)",
        "recipe": " The models are trained by the fast recipe, not the report's." * is_fast,
    }


def _closeness(measures: Measures) -> dict[str, int]:
    close, compared = within_errors(measures)
    return {"close": close, "compared": compared} if compared else {}


def _selection(measures: Measures, kept: pd.DataFrame) -> dict[str, Any]:
    """What changes if the epoch is chosen on other images than the test set."""
    if len(measures.selections) < 2 or kept.empty:
        return {}
    first, second = measures.selections
    same = int((kept[first] == kept[second]).sum())
    values: dict[str, Any] = {"same": same, "trainings": len(kept), "no_effect": ""}
    if same == len(kept):
        return values | {"no_effect": " So this run cannot show an effect of selection."}
    other = measures_of(measures.run, second)
    changes = []
    for attack, outcome, eps in SELECTED:
        for model in measures.models:
            pair = [m.find(model, attack, outcome, eps) for m in (measures, other)]
            before, after = on_common_seeds(pair)
            if before is not None and after is not None:
                change = abs(after.mean - before.mean)
                changes.append((attack == CLEAN, change, f"{model}, {outcome}"))
    table = pd.DataFrame(changes, columns=["is_clean", "change", "name"])
    clean, attacked = table[table["is_clean"]], table[~table["is_clean"]]
    if len(clean) and len(attacked):
        largest = attacked.nlargest(1, "change").iloc[0]
        values |= {
            "other": second,
            "first": first,
            "clean_change": percent(clean["change"].max()),
            "change": percent(largest["change"], 1),
            "changed": largest["name"],
        }
    return values


def _difference(measure: Measure) -> str:
    """A rate that is not reproduced, with its distance."""
    published, is_clean = measure.published or 0.0, measure.attack == CLEAN
    points = 100 * (measure.mean - published)
    digits = 2 if is_clean else 1
    name = "test accuracy" if is_clean else measure.name
    text = f"about {percent(published, 1)}" if is_clean else published_text(measure.model, name)
    _, sd = (0.0, 0.0) if is_clean else AT_THRESHOLD[measure.model][measure.name]
    in_sd = f", {abs(points) / (100 * sd):.1f} of its sd" if sd > 0 else ""
    return (
        f"{measure.model}, {name}: measured {spread_text(measure.mean, measure.sd, digits)} % (n = "
        f"{measure.num_images:,} per set), published {text} %, "
        f"{signed(points, digits)} points{in_sd}"
    )


def _differences(measures: Measures) -> list[Block]:
    """Rates that are not reproduced, and what this run does differently."""
    outside = [m for m in (*scores(measures), *accuracies(measures)) if m.verdict == "outside"]
    if not outside:
        return []
    num_images = measures.run.info.data.num_training_images
    fewest = min((m.num_images for m in scores(measures)), default=NUM_IMAGES)
    num_sets = len(measures.seeds)
    reasons = {
        **training_differences(measures.run),
        "num_images": num_images if num_images != SOURCE_IMAGES else None,
        "num_sets": num_sets if num_sets < SOURCE_SETS else None,
        "fewest": fewest if fewest < NUM_IMAGES else None,
    }
    return [
        Text(f"Not reproduced: {len(outside)}."),
        Bullets([_difference(measure) for measure in outside]),
        Text("Differences to the report that may explain it:"),
        Bullets(fill(REASONS, reasons)),
    ]

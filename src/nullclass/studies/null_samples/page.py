"""The report's study: its scores beside ours, and what an attack on the models themselves does."""

from __future__ import annotations

from typing import Any

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Block, Bullets, Cell, Page, Section, Table, Terms, Text
from nullclass.report.measures import (
    WORST_CASE,
    Measure,
    Measures,
    attack_name,
    eps_text,
    on_common_seeds,
    percent,
)
from nullclass.report.render import MARKS
from nullclass.report.sections import (
    NULL_AWARE_TEXT,
    attack_terms,
    definitions_section,
    figure_sections,
    flags_section,
    redraw_section,
    settings_section,
    subtitle,
)
from nullclass.report.tables import white_box_table
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.null_samples.config import (
    AT_THRESHOLD,
    BASE,
    HELD_OUT,
    TEST,
    TRANSFER_AT_THRESHOLD,
    VARIANTS,
    WHITE_BOX_AT_THRESHOLD,
)
from nullclass.studies.null_samples.figures import FIGURES as NULL_SAMPLES
from nullclass.studies.null_samples.sample_tables import (
    READ_OFF,
    SELECTED,
    SOURCE_SETS,
    Kept,
    accuracies,
    accuracy_table,
    at_threshold,
    kept_epochs,
    landmark_table,
    landmarks,
    measures_of,
    num_images,
    published_text,
    rule,
    scores,
    scores_csv,
    selection_table,
    threshold_table,
    which_images,
    white_box,
    white_box_at_threshold_table,
    with_spread,
)

SOURCE_RECIPE = {"batch_size": 32, "epochs": 20}
SOURCE_IMAGES = 60_000
"""How the source trained, and on how many images of MNIST."""

LOOKS_SAFE = 0.5
"""Models fooled on fewer images than this look defended, where the base model is fooled on all."""
TELLING = 0.05
"""A white-box attack that fools more than this beyond the transferred one is called stronger."""

TABLE_FILE = "table_scores.csv"

TERMS = [
    ("set", "One model of each variant, all trained with the same seed; the source has 30."),
    (
        "null image",
        "A training image whose right answer is null. The letters of a model's name say which "
        "kinds it saw: u uniform noise, s shuffled tiles of real images, m the mean of two real "
        f"images of different classes. {BASE} saw none; its null output is untrained.",
    ),
    (
        "threshold",
        f"The smallest ε at which one FGSM step makes {BASE} of the same set err, for each image "
        "that it gets right when clean.",
    ),
    ("transferred", "Made on another model than the one that is scored."),
    ("white-box", "Made on the model that is scored, with its gradients."),
    (
        "selection",
        "The images on which the epoch to keep was chosen: the test images, as the source did, or "
        "images held out of the training set.",
    ),
]


def page(run: Run) -> Page:
    """The page of the study ``null-samples``."""
    measures = measures_of(run)
    kept = kept_epochs(run, measures)
    told: list[Block] = [
        Text(
            "u, s and m are the kinds of null images a model was trained with: uniform noise, "
            "shuffled tiles, mixed pairs of images. A set is one model of each variant, trained "
            "with one seed."
        ),
        Text(rule()),
        threshold_table(measures),
        accuracy_table(measures),
    ]
    if landmarks(measures):
        told.append(landmark_table(measures))
    told += _differences(run, measures)
    notes = run.info.get("notes")
    if isinstance(notes, list) and notes:
        told.append(Bullets([str(note) for note in notes]))
    beyond: list[Block] = []
    if measures.budgets(WHITE_BOX_AT_THRESHOLD):
        beyond.append(
            Text(
                f"The published scores tell how attacks made on {BASE} transfer to the other "
                "models. They do not tell what an attacker can do who has the model itself and "
                "knows of its null class. Here is the same budget for the same images, both ways."
            )
        )
        beyond.append(white_box_at_threshold_table(measures))
    if measures.union_budgets():
        beyond += [white_box_table(measures, metric) for metric in ("aer", "rar")]
        beyond.append(Text(which_images(measures)))
    sections = [Section("Measured and published", told)]
    if beyond:
        sections.append(Section("What the published scores leave open", beyond))
    if len(measures.selections) > 1:
        sections.append(
            Section("What selecting on the test set did", _selection_blocks(run, measures, kept))
        )
    sections += figure_sections(run, NULL_SAMPLES, ("adversarial-samples", "training-histories"))
    sections += [
        *flags_section(run),
        _threat_model(measures),
        settings_section(run),
        definitions_section(TERMS),
        redraw_section(),
    ]
    return Page(
        "Do null images in training defend against adversarial images?",
        f"Study null-samples · {subtitle(run, measures, 'set')}",
        findings(run, measures, kept),
        sections,
        {TABLE_FILE: scores_csv(measures)},
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal: scores at threshold with the published ones, and white-box."""
    measures = measures_of(run)
    verdicts = {
        "scores": [m.verdict for m in scores(measures) if m.verdict and m.model != BASE],
        "accuracies": [m.verdict for m in accuracies(measures) if m.verdict],
    }
    counts = ", ".join(f"{v.count('within')} of {len(v)} {what}" for what, v in verdicts.items())
    attacks = {
        CLEAN: "clean",
        TRANSFER_AT_THRESHOLD: "transferred",
        WHITE_BOX_AT_THRESHOLD: "white-box",
    }
    images = [f"{num_images(measures, attack)} {what}" for attack, what in attacks.items()]
    rows = []
    for model in measures.models:
        triple = [at_threshold(measures, model, word) for word in ("correct", "null", "fooled")]
        known = [measure for measure in triple if measure is not None]
        marks = [measure.verdict for measure in known]
        mark = MARKS[
            "" if "" in marks or not marks else max(marks, key=("within", "outside").index)
        ]
        accuracy = measures.find(model, CLEAN, "correct")
        published = [percent(m.published, 1) for m in known if m.published is not None]
        texts = [
            model,
            "–" if accuracy is None else percent(accuracy.mean),
            "/".join(percent(m.mean, 1) for m in known) or "–",
            "/".join(published) or "–",
            mark,
            with_spread(white_box(measures, model, "fooled")).split(" ")[0],
        ]
        rows.append([*map(Cell, texts)])
    headings = ["model", "clean", "transfer c/n/f", "published c/n/f", "", "white-box fooled"]
    return [
        Table(
            f"Measured and published: reproduced {counts}",
            [Cell(heading) for heading in headings],
            rows,
            f"%, {measures.seeds_text('set')}; images per set: {', '.join(images)}. c/n/f: "
            f"correct, null, fooled at the thresholds of {BASE}",
        )
    ]


def findings(run: Run, measures: Measures, kept: list[Kept]) -> list[str]:
    """What was found, in sentences with numbers from the rows."""
    return [
        *_lacking(run, measures),
        *_transfer(measures),
        *_attacked_itself(measures),
        *_reproduction(run, measures),
        *_selection(run, measures, kept),
    ]


def _lacking(run: Run, measures: Measures) -> list[str]:
    """What a partial run does not have."""
    told = []
    not_asked = [name for name in VARIANTS if name not in (*measures.models, *measures.missing)]
    if not_asked:
        told.append(f"This run has not all variants: {', '.join(not_asked)} were left out.")
    seeds = run.info.get("seeds")
    wanted = {
        (model, int(seed), selection)
        for selection in run.info.get("selections", measures.selections)
        for model in (*measures.models, *measures.missing)
        for seed in (seeds if isinstance(seeds, list) else measures.seeds)
    }
    columns = zip(*(run.summary[name] for name in ("model", "seed", "selection")), strict=True)
    lacking = wanted - {(str(model), int(seed), str(of)) for model, seed, of in columns}
    if lacking:
        by_set = sorted({seed for _, seed, _ in lacking})
        nothing = f"; nothing yet of {', '.join(measures.missing)}" if measures.missing else ""
        told.append(
            f"This run is not finished: {len(lacking)} of {len(wanted)} evaluations are lacking "
            f"(set{'s' if len(by_set) > 1 else ''} {', '.join(map(str, by_set))}{nothing})."
        )
    return told


def _transfer(measures: Measures) -> list[str]:
    nulls = [m for m in _nulls(measures) if at_threshold(measures, m, "fooled") is not None]
    if not nulls:
        return []
    fooled, null = (
        [m for m in (at_threshold(measures, model, word) for model in nulls) if m is not None]
        for word in ("fooled", "null")
    )
    is_better = max(measure.mean for measure in fooled) < LOOKS_SAFE
    return [
        f"Judged by the published attack, FGSM made on {BASE} and transferred, null images in "
        f"training {'look like' if is_better else 'are not always'} a defence: at the thresholds "
        f"where {BASE} errs, the models that saw them are fooled on {_range(fooled)} and answer "
        f"null to {_range(null)} of {num_images(measures, TRANSFER_AT_THRESHOLD)} images a set."
    ]


def _attacked_itself(measures: Measures) -> list[str]:
    """What happens to the same images once the attacker has the model."""
    pairs = [
        (transferred, own)
        for model in _nulls(measures)
        if (transferred := at_threshold(measures, model, "fooled")) is not None
        and (own := white_box(measures, model, "fooled")) is not None
    ]
    told = []
    if pairs:
        most = max(pairs, key=lambda pair: pair[1].mean - pair[0].mean)
        verdict = (
            "the published table tells how an attack on another model transfers, not how robust "
            "these models are"
            if most[1].mean - most[0].mean > TELLING
            else "here the transferred attack is about as strong as one on the model itself"
        )
        told.append(
            "An attacker who has the model and knows of null, on the same images at the same "
            f"thresholds, fools them on {_range([own for _, own in pairs])} "
            f"({num_images(measures, WHITE_BOX_AT_THRESHOLD)} images a set); the largest gap is "
            f"{most[0].model}'s, {with_spread(most[0])} % transferred and "
            f"{with_spread(most[1])} % white-box. So {verdict}."
        )
    for eps in measures.union_budgets()[:1]:
        base = measures.find(BASE, UNION, "aer", eps)
        found = (measures.find(model, UNION, "aer", eps) for model in _nulls(measures))
        aers = [measure for measure in found if measure is not None]
        if base is not None and aers:
            told.append(
                f"With ε {eps_text(eps)} for every image {measures.attacker()} fools {BASE} on "
                f"{with_spread(base)} % and the other models on {_range(aers)} (AER)."
            )
    return told


def _reproduction(run: Run, measures: Measures) -> list[str]:
    judged = [m for m in scores(measures) if m.verdict and m.model != BASE]
    clean = [m for m in accuracies(measures) if m.verdict]
    if not judged and not clean:
        return []
    num_sets = len(measures.seeds)
    mean = f"means of {num_sets} sets" if num_sets > 1 else "one set"
    outside = sorted((m for m in judged if m.verdict == "outside"), key=_distance)
    far = f"; furthest off is {_difference(outside[-1])}" if outside else ""
    near = sum(m.verdict == "within" for m in clean)
    return [
        f"Of the {len(judged)} published scores at threshold of the models with null images "
        f"{len(judged) - len(outside)} are reproduced ({mean}, within 2 of the source's sd)"
        f"{far}. {near} of {len(clean)} test accuracies are within "
        f"{percent(READ_OFF)} points of the source's plot.{_recipe(run)}"
    ]


def _recipe(run: Run) -> str:
    if run.info.get("preset") != "quick":
        return ""
    return " The quick preset trains with the fast recipe, not the source's own."


def _distance(measure: Measure) -> float:
    return abs(measure.mean - (measure.published or 0.0))


def _difference(measure: Measure) -> str:
    """A score that is not reproduced, with how far off it is."""
    published = measure.published or 0.0
    points = 100 * (measure.mean - published)
    told = f"{points:+.{2 if measure.attack == CLEAN else 1}f} points".replace("-", "−")
    if measure.attack == CLEAN:
        return (
            f"{measure.model}, test accuracy: measured {with_spread(measure, 2)} %, published "
            f"about {percent(published, 1)} %, {told}"
        )
    _, sd = AT_THRESHOLD[measure.model][measure.name]
    in_sd = f", {abs(points) / (100 * sd):.1f} of its sd" if sd > 0 else ""
    return (
        f"{measure.model}, {measure.name}: measured {with_spread(measure)} %, published "
        f"{published_text(measure.model, measure.name)} %, {told}{in_sd}"
    )


def _differences(run: Run, measures: Measures) -> list[Block]:
    """Every cell that is not reproduced, and what was done otherwise than by the source."""
    outside = [m for m in (*scores(measures), *accuracies(measures)) if m.verdict == "outside"]
    if not outside:
        return []
    blocks: list[Block] = [
        Text(f"Not reproduced ({len(outside)}):"),
        Bullets([_difference(measure) for measure in outside]),
    ]
    reasons = _reasons(run, measures)
    if reasons:
        blocks += [Text("What this run did otherwise than the source, and may be why:")]
        blocks += [Bullets(reasons)]
    return blocks


def _trained_with(run: Run) -> dict[str, Any] | None:
    """The recipe of the models, which is the same for all."""
    try:
        recipe = next(iter(run.info["settings"]["trainings"].values()))["recipe"]
    except (KeyError, TypeError, AttributeError, StopIteration):
        return None
    return recipe if isinstance(recipe, dict) else None


def _reasons(run: Run, measures: Measures) -> list[str]:
    told = []
    recipe = _trained_with(run)
    if isinstance(recipe, dict):
        ours = {key: recipe.get(key) for key in SOURCE_RECIPE}
        if ours != SOURCE_RECIPE:
            told.append(
                f"Recipe: {ours['epochs']} epochs in batches of {ours['batch_size']}; the source "
                f"{SOURCE_RECIPE['epochs']} in batches of {SOURCE_RECIPE['batch_size']}."
            )
    data = run.info.get("data")
    count = data.get("num_training_images") if isinstance(data, dict) else None
    if isinstance(count, int) and count != SOURCE_IMAGES:
        told.append(
            f"Training images: {count:,}, as some are held out to select on; the source "
            f"{SOURCE_IMAGES:,}."
        )
    if len(measures.seeds) < SOURCE_SETS:
        told.append(
            f"Sets: {len(measures.seeds)}; the source {SOURCE_SETS}. Sets differ widely (see the "
            "sd), so that a mean of few is uncertain itself."
        )
    fewer = {m.num_images for m in scores(measures) if m.num_images < 1_000}
    if fewer:
        told.append(f"Attacked images: {min(fewer):,} a set; the source 1,000.")
    told.append(
        "Attacked images: set k begins at test image 1,000 k; in the source each set goes on where "
        "the last one stopped."
    )
    return told


def _selection(run: Run, measures: Measures, kept: list[Kept]) -> list[str]:
    """How much it mattered that the epoch was chosen on the test set."""
    if not {TEST, HELD_OUT} <= set(measures.selections):
        return []
    epochs_of = [k.epochs for k in kept if {TEST, HELD_OUT} <= set(k.epochs)]
    same = sum(epochs[TEST] == epochs[HELD_OUT] for epochs in epochs_of)
    if epochs_of and same == len(epochs_of):
        return [
            f"Test and held-out images chose the same epoch in all {same} trainings: this run "
            "cannot say what selecting on the test set does."
        ]
    other = measures_of(run, HELD_OUT if measures.selection == TEST else TEST)
    changes = []
    for attack, outcome, eps in SELECTED:
        for model in measures.models:
            both = [m.find(model, attack, outcome, eps) for m in (measures, other)]
            before, after = on_common_seeds(both)
            if before is not None and after is not None:
                changes.append((after.mean - before.mean, before))
    clean = [change for change in changes if change[1].attack == CLEAN]
    attacked = [change for change in changes if change[1].attack != CLEAN]
    told = []
    if clean and attacked:
        change, measure = max(attacked, key=lambda pair: abs(pair[0]))
        told.append(
            f"Choosing the epoch on {other.selection} instead of {measures.selection} images moves "
            f"mean test accuracy by at most {100 * max(abs(c) for c, _ in clean):.2f} points and "
            f"mean scores at threshold by at most {100 * abs(change):.1f} ({measure.model}, "
            f"{measure.name})."
        )
    if epochs_of:
        told.append(f"Both choose the same epoch in {same} of {len(epochs_of)} trainings.")
    return told


def _selection_blocks(run: Run, measures: Measures, kept: list[Kept]) -> list[Block]:
    blocks: list[Block] = [
        Text(
            "The source keeps the epoch whose loss on the test images, mixed with null images, is "
            "lowest. That tells the test set something about the model it then scores. Here is the "
            "same training with the epoch chosen on images held out of the training set."
        ),
        selection_table(run, measures, kept),
    ]
    recipe = _trained_with(run)
    if isinstance(recipe, dict) and recipe.get("schedule") == "triangle":
        blocks.append(
            Text(
                "The fast recipe lowers its learning rate to zero, which makes the last epoch the "
                "one to keep, whatever it is chosen on. The source's recipe, of the full preset, "
                "does not."
            )
        )
    return blocks


def _threat_model(measures: Measures) -> Section:
    return Section(
        "Threat model",
        [
            Text(
                f"As published: the attacker has {BASE} of the same set, a model that was trained "
                "without null images, and not the model under attack. FGSM takes one step along "
                f"the sign of the gradient of {BASE}'s cross-entropy at the clean image; the same "
                "attacked image is then shown to every model of the set. At threshold, each image "
                f"has the smallest ε that makes {BASE} err; against ε, all have the same."
            ),
            Text(
                "White-box: the attacker has the model's weights, knows its null class and takes "
                f"gradients through it. The attack is the {attack_name(WORST_CASE)}, "
                f"{NULL_AWARE_TEXT} The attacker wins with a wrong digit; being answered null is a "
                "failure."
            ),
            Text(
                "Images stay in [0, 1] and within ε of the clean image; both are checked, and "
                "every image is scored again outside the attack. Dropout is off while a model is "
                "attacked or scored. What stronger attacks would do these numbers do not say: AER "
                "is a lower bound, RAR an upper one."
            ),
            Terms(attack_terms(measures)),
        ],
    )


def _nulls(measures: Measures) -> list[str]:
    return [model for model in measures.models if model != BASE]


def _range(found: list[Measure]) -> str:
    """Lowest and highest mean, with the models they are of."""
    low, high = min(found, key=lambda m: m.mean), max(found, key=lambda m: m.mean)
    if low is high:
        return f"{percent(low.mean, 1)} % ({low.model})"
    return f"{percent(low.mean, 1)} % ({low.model}) to {percent(high.mean, 1)} % ({high.model})"

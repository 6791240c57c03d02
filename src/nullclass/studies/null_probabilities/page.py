"""The study of NULL probabilities: what transfers, what follows f, what survives a white box."""

from __future__ import annotations

from collections.abc import Sequence

from nullclass.metrics.rates import UNION, wilson_of
from nullclass.report.blocks import Block, Bullets, Cell, Page, Section, Table, Terms, Text
from nullclass.report.measures import (
    GOALS,
    OUTCOMES,
    WORST_CASE,
    Measure,
    Measures,
    attack_name,
    eps_text,
    percent,
)
from nullclass.report.sections import (
    NULL_AWARE_TEXT,
    budgets_text,
    definitions_section,
    figure_sections,
    flags_section,
    redraw_section,
    settings_section,
    subtitle,
)
from nullclass.report.tables import union_table, white_box_table
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.by_size import Following, by_size, followings
from nullclass.studies.null_probabilities.config import CLEAN as BASE
from nullclass.studies.null_probabilities.config import (
    PROBABILITIES,
    QUERIED,
    TRANSFERS,
    VARIANTS,
    from_substitute,
)
from nullclass.studies.null_probabilities.defences import (
    MEANINGS,
    defences,
    model_cell,
    named,
    short,
)
from nullclass.studies.null_probabilities.figures import FIGURES as NULL_PROBABILITIES
from nullclass.studies.null_probabilities.transfer_tables import (
    MOST_CLEAN_NULL,
    MOST_DISTANCE,
    MOST_LOST,
    MOST_TRANSFERRED,
    QUERY_ATTACK,
    SUBSTITUTE,
    Asked,
    asked,
    asked_table,
    clean_triple_table,
    follow_table,
    matrix_table,
    num_moved,
    queries_table,
    query_attack_table,
    range_of,
    size_text,
    strict_table,
    substitute_table,
    with_spread,
)
from nullclass.studies.null_probabilities.transferred import Transfers, table_of

SURVIVES = 0.9
"""A defence is said to survive where it keeps this robust accuracy with rejection."""
SURVIVED, FALLS, OPEN = "survives", "does not survive", "cannot be told"

TABLE_FILE = "table_transfers.csv"

TERMS = [
    (
        "f, the null curve",
        "The probability of null that a model is trained to give to an image by the size of its "
        "perturbation: how often perturbations of that size fool the clean model.",
    ),
    (
        "ε_max, N_max",
        "The smallest size where f is 1; models are trained on perturbations up to it.",
    ),
    (
        "size",
        "L∞: the largest change of a pixel; L2: the Euclidean length of the change, both in pixel "
        "units; L0: the share of pixels changed.",
    ),
    ("source, target", "The model an attack was made on, and the model it is shown to."),
    (
        "transfer rate",
        "Of the images that fool the source and that the target gets right when clean, the share "
        "that fools the target.",
    ),
    (
        "substitute",
        "A model that the attacker trains for want of the target: on the same data (clean, or with "
        "null), or on the target's answers to its questions.",
    ),
]


OWN_ATTACKS = {
    QUERY_ATTACK: "fool",
    WORST_CASE: "fool",
    "pgd-force-null": "force-null",
    f"{WORST_CASE}-force-null": "force-null",
}
"""Attacks made on each model itself, and what they go for."""


def page(run: Run) -> Page:
    """The page of the study ``null-probabilities``."""
    measures = Measures(run)
    transfers = Transfers(run, measures)
    following = followings(run, by_size(run))
    told = asked(measures, transfers, following)
    sections = [
        *_asked_section(run, measures, transfers, following, told),
        *_white_box_section(measures),
        *_black_box_section(run, measures, transfers),
        *figure_sections(run, NULL_PROBABILITIES),
        *_matrices_section(measures, transfers),
        *flags_section(run),
        _threat_model(run, measures, transfers),
        settings_section(run),
        definitions_section(TERMS),
        redraw_section(),
    ]
    moved = table_of(transfers)
    content = moved.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode()
    return Page(
        "Do NULL probabilities refuse what an attacker makes on a substitute?",
        f"Study null-probabilities · {subtitle(run, measures)}",
        findings(run, measures, transfers, told, following),
        sections,
        {TABLE_FILE: content} if len(moved) else {},
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal: clean outcomes, transfers from the clean substitute, the union."""
    measures = Measures(run)
    transfers = [attack for attack in map(from_substitute, TRANSFERS) if measures.budgets(attack)]
    places = [(attack, eps) for attack in transfers for eps in measures.budgets(attack)]
    rows = []
    for model in measures.models:
        found = [measures.find(model, CLEAN, outcome) for outcome in OUTCOMES]
        found += [measures.find(model, attack, "fooled", eps) for attack, eps in places]
        rates = ("–" if rate is None else percent(rate.mean) for rate in found)
        rows.append([Cell(model), *map(Cell, rates)])
    sent = f", {measures.num_images(transfers[0])} transferred" if transfers else ""
    headings = [f"{attack_name(attack.split(' on ')[0])} {eps_text(eps)}" for attack, eps in places]
    table = Table(
        "Clean images, and fooled by attacks on a clean substitute",
        [Cell("model"), *map(Cell, (*OUTCOMES, *headings))],
        rows,
        f"%, images per seed: {measures.num_images(CLEAN)} clean{sent}; ε in pixel units",
    )
    union = union_table(measures) if measures.union_budgets() else None
    return [table, *([union] if union else [])]


def findings(
    run: Run,
    measures: Measures,
    transfers: Transfers,
    told: dict[str, list[Asked]],
    following: Sequence[Following],
) -> list[str]:
    """What was found, in sentences with numbers from the rows."""
    return [
        *_lacking(run, measures),
        *_survivors(measures),
        *_transferred(transfers, told),
        *_worst_source(transfers),
        *_label_only(measures),
        *_follow(told, following),
        *_clean(measures, told),
    ]


def _lacking(run: Run, measures: Measures) -> list[str]:
    """What a partial run does not have."""
    found = []
    left_out = [name for name in VARIANTS if name not in (*measures.models, *measures.missing)]
    if left_out:
        found.append(f"This run has not all models: {_list(left_out)} were left out.")
    seeds = run.info.get("seeds")
    wanted = {
        (model, int(seed))
        for model in (*measures.models, *measures.missing)
        for seed in (seeds if isinstance(seeds, list) else measures.seeds)
    }
    lacking = wanted - {(trial.model, trial.seed) for trial in run.trials}
    if lacking:
        nothing = f"; nothing yet of {_list(measures.missing)}" if measures.missing else ""
        found.append(
            f"This run is not finished: {len(lacking)} of {len(wanted)} evaluations are lacking"
            f"{nothing}."
        )
    return found


def _survivors(measures: Measures) -> list[str]:
    """Who keeps its robust accuracy with rejection under the worst of all attacks."""
    models, budgets = defences(measures.models), measures.union_budgets("rar")
    of = {eps: _union(measures, models, "rar", eps) for eps in budgets}
    of = {eps: found for eps, found in of.items() if found}
    if not of:
        return []
    who = measures.attacker().replace("an attacker", "a white-box attacker")
    line = f"{percent(SURVIVES, 0)} % robust accuracy with rejection (RAR)"
    if all(standing(rar) == FALLS for found in of.values() for rar in found):
        told = [
            f"None of the {_defences(models)} survives {who}: none keeps {line} at ε "
            f"{_joined(budgets, 'or')}."
        ]
    else:
        counts = (f"at ε {eps_text(eps)} {_stand(found)}" for eps, found in of.items())
        told = [
            f"Of the {_defences(models)} these survive {who}, keeping {line}: {'; '.join(counts)}."
        ]
    for eps in dict.fromkeys((min(of), max(of))):
        aers = _union(measures, models, "aer", eps)
        base = measures.find(BASE, UNION, "aer", eps)
        beside = "" if base is None else f", the clean model on {with_spread(base)} %"
        told.append(
            f"At ε {eps_text(eps)} they are fooled on {range_of(aers)}{beside} (AER), and their "
            f"RAR is {range_of(of[eps])} ({measures.num_images(UNION)} images)."
        )
    return told


def standing(rar: Measure) -> str:
    """Whether a model survives, as far as its images can tell.

    The interval is over images, also of a mean over seeds, which see the same images.
    """
    low, high = wilson_of(rar.mean, rar.num_images)
    return SURVIVED if low >= SURVIVES else FALLS if high < SURVIVES else OPEN


def _stand(found: Sequence[Measure]) -> str:
    kept, unsure = (
        [rar.model for rar in found if standing(rar) == word] for word in (SURVIVED, OPEN)
    )
    told = _list(kept) if kept else "none"
    if not unsure:
        return told
    num = min(rar.num_images for rar in found)
    return f"{told} for sure, perhaps {_list(unsure)} ({num:,} images cannot tell)"


def _defences(models: list[str]) -> str:
    if len(models) == 1:
        return f"one defence ({_list(models)})"
    return f"{len(models)} defences ({_list(models)})"


def _joined(budgets: Sequence[float], word: str) -> str:
    *most, last = map(eps_text, budgets)
    return f"{', '.join(most)} {word} {last}" if most else last


def _transferred(transfers: Transfers, told: dict[str, list[Asked]]) -> list[str]:
    """What the clean substitute does to models with NULL probabilities, and to the clean one."""
    of = {model: [a for a in found if a.what == "transferred"] for model, found in told.items()}
    of = {model: found for model, found in of.items() if found}
    if not of:
        return []
    base = [transfers.strongest(SUBSTITUTE, BASE, eps) for eps in transfers.budgets]
    parts = [
        f"{short(model)} on {' / '.join(a.text(1) for a in found)} % ({_verdicts(found)})"
        for model, found in of.items()
    ]
    if any(base):
        rates = " / ".join("–" if m is None else with_spread(m) for m in base)
        parts.insert(0, f"the clean model on {rates} %")
    eps = " / ".join(map(eps_text, transfers.budgets))
    attacks = " and ".join(map(attack_name, transfers.attacks))
    stronger = f"the stronger of {attacks}" if len(transfers.attacks) > 1 else attacks
    return [
        f"Transferred from the clean substitute, of another architecture, ε {eps} fools "
        f"{'; '.join(parts)} ({stronger}, {num_moved(transfers)} images; asked: at most "
        f"{percent(MOST_TRANSFERRED, 0)} %)."
    ]


def _verdicts(found: Sequence[Asked]) -> str:
    missed = [a.eps for a in found if not a.is_reached]
    if not missed:
        return "reached"
    if len(missed) == len(found):
        return "missed"
    return f"missed at ε {_joined(missed, 'and')}"


def _worst_source(transfers: Transfers) -> list[str]:
    """From which other model most transfers to those with NULL probabilities."""
    if not transfers.budgets:
        return []
    parts = []
    eps = transfers.budgets[-1]
    for target in transfers.targets:
        if target not in PROBABILITIES:
            continue
        found = [
            (measure.mean, source, measure)
            for source in transfers.sources
            if source != target
            and (measure := transfers.strongest(source, target, eps)) is not None
        ]
        if found:
            _, source, measure = max(found, key=lambda one: one[0])
            origin = "its own substitute by queries" if source == QUERIED else short(source)
            parts.append(f"{short(target)} on {with_spread(measure)} % (from {origin})")
    if not parts:
        return []
    return [
        f"From the worst of all other models and substitutes ε {eps_text(eps)} fools "
        f"{'; '.join(parts)}."
    ]


def _label_only(measures: Measures) -> list[str]:
    budgets = measures.budgets(QUERY_ATTACK)
    if not budgets:
        return []
    eps = budgets[-1]
    models = defences(measures.models)
    found = [measures.find(model, QUERY_ATTACK, "fooled", eps) for model in models]
    known = [measure for measure in found if measure is not None]
    if not known:
        return []
    return [
        f"{attack_name(QUERY_ATTACK)}, which sees the target's labels alone, fools the defences on "
        f"{range_of(known)} at ε {eps_text(eps)} ({measures.num_images(QUERY_ATTACK)} images)."
    ]


def _follow(told: dict[str, list[Asked]], following: Sequence[Following]) -> list[str]:
    """Whether probability moves to null as f asks."""
    parts, falling = [], []
    for model, found in told.items():
        by = {a.what: a for a in found}
        if "distance" not in by:
            continue
        distance, fall = by["distance"], by["fall"]
        worst = max((f for f in following if f.model == model), key=lambda f: f.distance)
        where = f"at size {size_text(worst.size, worst.norm)}"
        verdict = "reached" if distance.is_reached else "missed"
        parts.append(f"{short(model)} {distance.text()} ({where}; {verdict})")
        if not fall.is_reached:
            falling.append(f"{short(model)}, which falls back by {fall.text(1)} points")
    if not parts:
        return []
    monotone = (
        f"It grows with the size but for {' and '.join(falling)} (missed)."
        if falling
        else "It never falls as the size grows."
    )
    return [
        "Over the sizes trained on, the mean probability of null strays from f by at most "
        f"{'; '.join(parts)} (asked: {MOST_DISTANCE:g}). {monotone}"
    ]


def _clean(measures: Measures, told: dict[str, list[Asked]]) -> list[str]:
    """What NULL probabilities cost on clean images."""
    parts = []
    for model, found in told.items():
        accuracy = measures.find(model, CLEAN, "correct")
        of = [a for a in found if a.what in ("lost", "clean null")]
        if accuracy is None or not of:
            continue
        null = "".join(f", null {a.text()} %" for a in of if a.what == "clean null")
        missed = " and ".join(
            f"{a.text()} points lost" if a.what == "lost" else "null"
            for a in of
            if not a.is_reached
        )
        verdict = f"missed: {missed}" if missed else "reached"
        parts.append(f"{short(model)} {with_spread(accuracy, 2)} %{null} ({verdict})")
    if not parts:
        return []
    base = measures.find(BASE, CLEAN, "correct")
    beside = "" if base is None else f"the clean model {with_spread(base, 2)} %; "
    return [
        f"Right on {measures.num_images(CLEAN)} clean images: {beside}{'; '.join(parts)} (asked: "
        f"at most {100 * MOST_LOST:g} points lost and {100 * MOST_CLEAN_NULL:g} % null)."
    ]


def _asked_section(
    run: Run,
    measures: Measures,
    transfers: Transfers,
    following: Sequence[Following],
    told: dict[str, list[Asked]],
) -> list[Section]:
    models = [(short(model), MEANINGS[model]) for model in measures.models if model in MEANINGS]
    blocks: list[Block] = [Terms(models)] if models else []
    blocks += _epochs(run)
    if told:
        blocks.append(asked_table(measures, told, transfers))
    if following:
        blocks.append(follow_table(following))
    if measures.budgets(CLEAN):
        blocks.append(clean_triple_table(measures))
    return [Section("Models, and what was asked of them", blocks)]


def _epochs(run: Run) -> list[Block]:
    """How long models were trained, if not all alike."""
    by: dict[int, list[str]] = {}
    for trial in run.trials:
        of = by.setdefault(len(trial.history), [])
        if trial.model not in of:
            of.append(trial.model)
    by.pop(0, None)
    if len(by) < 2:
        return []
    told = "; ".join(
        f"{num} epoch{'s' if num > 1 else ''}: {_list(models)}"
        for num, models in sorted(by.items())
    )
    return [Text(f"They were not all trained alike, which also moves clean accuracy. {told}.")]


def _white_box_section(measures: Measures) -> list[Section]:
    budgets = measures.union_budgets("rar")
    if not budgets:
        return []
    items = [
        told for model in measures.models if (told := _survival(measures, model, budgets)) != ""
    ]
    return [
        Section(
            "Which survive an attacker who has the model and knows of null",
            [
                Text(
                    f"The attacker takes gradients through the model, null included; the attack is "
                    f"the {attack_name(WORST_CASE)}, {NULL_AWARE_TEXT} Counted with it, image by "
                    "image, are all transferred and label-only attacks and the clean image. We say "
                    f"that a model survives an ε where its RAR is {percent(SURVIVES, 0)} % or more "
                    "by the whole of its 95 % Wilson interval over the images, that it does not "
                    "where the whole interval is below, and else that the images cannot tell."
                ),
                Bullets(items),
                *(named(white_box_table(measures, metric)) for metric in ("aer", "rar")),
                strict_table(measures),
            ],
        )
    ]


def _survival(measures: Measures, model: str, budgets: Sequence[float]) -> str:
    """AER and RAR of one model at every eps, and what that means."""
    known = [
        (eps, aer, rar)
        for eps in budgets
        if (aer := measures.find(model, UNION, "aer", eps)) is not None
        and (rar := measures.find(model, UNION, "rar", eps)) is not None
    ]
    if not known:
        return ""
    of = {
        word: [eps for eps, _, rar in known if standing(rar) == word]
        for word in (SURVIVED, OPEN, FALLS)
    }
    if len(of[FALLS]) == len(known):
        verdict = FALLS
    else:
        told = (f"ε {_joined(eps, 'and')}: {word}" for word, eps in of.items() if eps)
        verdict = "; ".join(told)
    eps = " / ".join(eps_text(eps) for eps, *_ in known)
    aers = " / ".join(percent(aer.mean, 1) for _, aer, _ in known)
    rars = " / ".join(percent(rar.mean, 1) for *_, rar in known)
    num = known[0][1].num_images
    name = f"{cell.text} ({cell.small})" if (cell := model_cell(model)).small else cell.text
    return f"{name}: {verdict}. AER {aers} %, RAR {rars} % at ε {eps} ({num:,} images)."


def _black_box_section(run: Run, measures: Measures, transfers: Transfers) -> list[Section]:
    blocks: list[Block] = []
    if SUBSTITUTE in transfers.sources:
        blocks.append(substitute_table(transfers, measures))
    if measures.budgets(QUERY_ATTACK):
        blocks.append(query_attack_table(measures))
    queries = queries_table(run, measures)
    if queries is not None:
        blocks.append(queries)
    return [Section("Attackers who do not have the model", blocks)] if blocks else []


def _matrices_section(measures: Measures, transfers: Transfers) -> list[Section]:
    tables: list[Block] = [
        matrix_table(transfers, measures, attack, eps)
        for attack in transfers.attacks[::-1]
        for eps in transfers.budgets
    ]
    if not tables:
        return []
    told = Text(
        f"The numbers behind the heat maps, with transfer rates; {TABLE_FILE} among the run's "
        "figures has them with intervals."
    )
    return [Section("Transfers in full", [told, *tables])]


def _threat_model(run: Run, measures: Measures, transfers: Transfers) -> Section:
    pairs = []
    if transfers.attacks:
        for attack in transfers.attacks:
            eps = ", ".join(map(eps_text, transfers.budgets))
            pairs.append(
                (
                    f"{attack_name(attack)}, transferred",
                    f"made on {len(transfers.sources)} sources (figures above), L∞, ε {eps} in "
                    f"pixel units, {num_moved(transfers)} test images a seed; it goes for a wrong "
                    "class, and null on the source is no success",
                )
            )
    for attack, goal in OWN_ATTACKS.items():
        if measures.budgets(attack):
            pairs.append(
                (
                    attack_name(attack),
                    f"made on the model that is scored, {measures.norm(attack)}, "
                    f"{budgets_text(measures, attack)}, {measures.num_images(attack)} test images "
                    f"a seed; it goes for {GOALS[goal]}",
                )
            )
    if measures.budgets(UNION):
        pairs.append(
            (
                "union",
                "AER, RAR, strict and null-DoS take the worst, image by image, of all these "
                "attacks at that ε or below and of the clean image, over the images that every "
                f"attack saw: {measures.num_images(UNION)} a seed",
            )
        )
    return Section(
        "Threat model",
        [
            Text(
                "Four attackers, who differ in what they have. One has the training data and "
                "trains substitutes of another architecture on it, without null and with it; also, "
                "as if it had them, every other model of this study is a source. One asks the "
                "target for labels, trains a substitute on its answers and attacks that. One asks "
                "for labels while attacking. And one has the target itself: weights, null class, "
                "gradients. All win with a wrong class; being answered null is a failure."
            ),
            Text(
                "NULL probabilities were made against the first two. Images stay in [0, 1] and "
                "within ε of the clean image; both are checked, and every image is scored again "
                "outside the attack. What stronger attacks would do these numbers do not say: AER "
                "is a lower bound, RAR an upper one."
            ),
            Terms(pairs),
        ],
    )


def _union(measures: Measures, models: list[str], metric: str, eps: float) -> list[Measure]:
    found = (measures.find(model, UNION, metric, eps) for model in models)
    return [measure for measure in found if measure is not None]


def _list(models: Sequence[str]) -> str:
    return ", ".join(map(short, models))

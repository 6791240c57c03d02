"""The study of proved null: what no attack can take away, what attacks left, and the price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import (
    Block,
    Cell,
    FlagItem,
    FlagList,
    Page,
    Section,
    Table,
    Terms,
    Text,
)
from nullclass.report.measures import (
    WORST_CASE,
    Measure,
    Measures,
    attack_name,
    eps_text,
    percent,
    rate_text,
)
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
from nullclass.results.schema import CLEAN, Flag
from nullclass.results.store import Run
from nullclass.studies.provable_null.config import LEARNED, PROVABLE, VARIANTS
from nullclass.studies.provable_null.figures import FIGURES as PROVABLE_NULL
from nullclass.studies.provable_null.proof_tables import (
    bracket_table,
    radius_table,
    rates_table,
    shown_budgets,
    spread_text,
)
from nullclass.studies.provable_null.proved import (
    Checked,
    checked,
    clean_triple,
    proved_where_attacked,
    radii,
    trained_for,
    training_of,
)

MEANINGS = {
    **{
        name: (
            f"Certified-trained, without a null class. It answers what interval bounds prove "
            f"within {radius:g} of the image, and null elsewhere; made for ε {2 * radius:g}."
        )
        for name, radius in PROVABLE.items()
    },
    "adversarial-null": (
        "Learned a null class by adversarial training: an attacked image may be answered rightly "
        "or null, −log(p_label + p_null), under an attack that knows so."
    ),
    "abstain": (
        "Learned a null class as the abstain class of Sheikholeslami et al. 2021: trained so that "
        "bounds prove that attacked images are not answered wrongly."
    ),
    "clean": "Trained on clean images; always answers.",
}
"""The models, in a sentence."""

TERMS = [
    (
        "radius, r",
        "A model that proves its answers answers y only if its network is proved to say y on every "
        "image within r.",
    ),
    (
        "proved",
        "Holds against every attack there is, by bounds that are rounded outward. RAR, "
        "strict robust accuracy: at least this. What is not proved may be true all the same.",
    ),
    (
        "certified accuracy at r",
        "Share of images of which the true label is proved within r; for a model that answers what "
        "it proves it is the RAR proved at ε = 2r.",
    ),
    (
        "margin",
        "A lower bound of the logit of one class minus the largest other, on all images within the "
        "radius.",
    ),
]


def page(run: Run) -> Page:
    """The page of the study ``provable-null``."""
    measures = Measures(run)
    held = checked(run)
    sections = [
        *_broken_section(held),
        *_models_section(run, measures),
        *figure_sections(run, PROVABLE_NULL, ("answered-refused", "training", "gallery")),
        *flags_section(run),
        _threat_model(measures, held),
        settings_section(run),
        definitions_section(TERMS),
        redraw_section(),
    ]
    return Page(
        "Is a null that is proved worth more than one that is learned?",
        f"Study {run.info.get('study', 'provable-null')} · {subtitle(run, measures)}",
        findings(run, measures, held),
        sections,
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal: clean outcomes, then RAR proved and under attack."""
    measures, own = Measures(run), radii(run)
    rows = []
    for model in measures.models:
        radius = f" (r {eps_text(own[model])})" if model in own else ""
        triple = "/".join(_percent(measure, 2) for measure in clean_triple(measures, model))
        for index, eps in enumerate(
            measures.union_budgets("rar") or measures.budgets(PROOF) or [0]
        ):
            rates = [_percent(measures.find(model, PROOF, "rar_proved", eps), 2)]
            for metric in ("rar", "aer", "null_dos"):
                rates.append(_percent(measures.find(model, UNION, metric, eps)))
            names = ["", ""] if index else [model + radius, triple]
            rows.append([Cell(text) for text in (*names, eps_text(eps), *rates)])
    attacked = f", {measures.num_images(UNION)} attacked" if measures.budgets(UNION) else ""
    proved = f", {measures.num_images(PROOF)} for proofs" if measures.budgets(PROOF) else ""
    headings = ["model", "clean c/n/f", "ε", "RAR proved", "RAR", "AER", "null-DoS"]
    return [
        Table(
            "Proved, and under attack",
            [Cell(heading) for heading in headings],
            rows,
            f"%, images per seed: {measures.num_images(CLEAN)} clean{attacked}{proved}; "
            f"{measures.seeds_text()}; ε in pixel units. RAR: correct when clean, never fooled; "
            "proved against every attack. c/n/f: clean correct, null, fooled",
        )
    ]


def _percent(measure: Measure | None, digits: int = 1) -> str:
    return "–" if measure is None else percent(measure.mean, digits)


def findings(run: Run, measures: Measures, held: Checked) -> list[str]:
    """What was found, in sentences with numbers from the rows."""
    return [
        *_broken(held),
        *_lacking(run, measures),
        *_proved(run, measures),
        *_learned(run, measures),
        *_never_below(held),
        *_price(run, measures),
    ]


def _broken(held: Checked) -> list[str]:
    if held.broken.empty:
        return []
    first = held.broken.iloc[0]
    num = held.broken[["model", "seed", "image"]].drop_duplicates().shape[0]
    return [
        f"A PROOF IS BROKEN: {num} image{'s' if num > 1 else ''} did what had been proved "
        f"impossible, such as test image {first['image']} of {first['model']}, seed "
        f"{first['seed']}, proved {first['claim']} at ε {eps_text(first['proved'])} and "
        f"{first['outcome']} at ε {eps_text(first['eps_pixels'])} "
        f"({_by(str(first['attack']))}). Bounds, model or attack are wrong: believe no number here."
    ]


def _by(attack: str) -> str:
    return "without any attack" if attack == CLEAN else f"by the {attack_name(attack)}"


def _lacking(run: Run, measures: Measures) -> list[str]:
    """What a partial run does not have."""
    found = []
    left_out = [name for name in VARIANTS if name not in (*measures.models, *measures.missing)]
    if left_out:
        found.append(f"This run has not all models: {', '.join(left_out)} were left out.")
    seeds = run.info.get("seeds")
    wanted = {
        (model, int(seed))
        for model in (*measures.models, *measures.missing)
        for seed in (seeds if isinstance(seeds, list) else measures.seeds)
    }
    lacking = wanted - {(trial.model, trial.seed) for trial in run.trials}
    if lacking:
        nothing = f"; nothing yet of {', '.join(measures.missing)}" if measures.missing else ""
        found.append(
            f"This run is not finished: {len(lacking)} of {len(wanted)} evaluations are lacking"
            f"{nothing}."
        )
    return found


def _own(run: Run, measures: Measures) -> list[tuple[str, float, Measure]]:
    """The models that prove their answers, the ε each is for, and the RAR proved there."""
    found = []
    for model, radius in radii(run).items():
        measure = measures.find(model, PROOF, "rar_proved", 2 * radius)
        if measure is not None:
            found.append((model, 2 * radius, measure))
    return found


def _proved(run: Run, measures: Measures) -> list[str]:
    own = _own(run, measures)
    if not own:
        return []
    told = "; ".join(
        f"{model} on {rate_text(rar, False)} at ε {eps_text(eps)}" for model, eps, rar in own
    )
    return [
        "Answering only what is proved keeps, against every attack there is, a robust accuracy "
        f"with rejection (RAR) of: {told} ({measures.norm(PROOF)}, "
        f"{measures.num_images(PROOF)} test images)."
    ]


def _learned(run: Run, measures: Measures) -> list[str]:
    """What attacks left to the models that learned to refuse, beside what is proved there."""
    left, proved = [], []
    shown: dict[str, float] = {}
    for model, eps, everywhere in _own(run, measures):
        found = [(name, measures.find(name, UNION, "rar", eps)) for name in LEARNED]
        known = {name: rar for name, rar in found if rar is not None}
        if not known:
            continue
        text = ", ".join(f"{name} {rate_text(rar, False)}" for name, rar in known.items())
        left.append(f"at ε {eps_text(eps)} {text}")
        shown |= dict.fromkeys(known, eps)
        best = max(known, key=lambda name: known[name].mean)
        here = proved_where_attacked(run, everywhere, best)
        if here is not None:
            spread = rate_text(here, False)
            counted = f"{spread[:-1]}, " if spread.endswith(")") else f"{spread} ("
            proved.append(
                f"at ε {eps_text(eps)} of {model} {counted}{here.num_images:,} images), "
                f"{_compared(here, known[best], best)}"
            )
    if not left:
        return []
    told = [
        f"What {measures.attacker()} left to the models that learned to refuse is, at most: "
        f"{'; '.join(dict.fromkeys(left))} ({measures.num_images(UNION)} images)."
    ]
    if proved:
        told.append(
            f"Of the same images is proved, against every attack there is: {'; '.join(proved)}."
        )
    return [" ".join([*told, *_trained_for(run, shown)]), *_made_otherwise(run, measures)]


def _compared(proved: Measure, left: Measure, name: str) -> str:
    """More or less only where the intervals, or all seeds, are apart."""
    (low, high), (least, most) = proved.interval, left.interval
    if low > most:
        return f"more than is left to {name}"
    if high < least:
        return f"less than is left to {name}"
    return f"which the intervals do not tell from {name}"


def _trained_for(run: Run, shown: dict[str, float]) -> list[str]:
    """The ε the learned models are for; ``shown``: the largest they are told of at."""
    made_for = {name: trained_for(run, name) for name in shown}
    known = {name: eps for name, eps in made_for.items() if eps is not None}
    if not known:
        return []
    told = ", ".join(f"{name} {eps_text(eps)}" for name, eps in known.items())
    most = max(shown.values())
    is_beyond = any(eps < most - 1e-9 for eps in known.values())
    beyond = f"; ε {eps_text(most)} is beyond what they were trained for" if is_beyond else ""
    return [f"The ε that these were trained for: {told}{beyond}."]


def _made_otherwise(run: Run, measures: Measures) -> list[str]:
    """What else than the loss is not the same in all models."""
    configs = {model: training_of(run, model) for model in measures.models}
    words: dict[str, list[str]] = {model: [] for model, config in configs.items() if config}
    for told in (_network, _epochs, _jitter):
        found = {model: told(configs[model]) for model in words}
        if len(set(found.values())) > 1:
            for model, word in found.items():
                words[model].append(word)
    alike: dict[str, list[str]] = {}
    for model, said in words.items():
        if said:
            alike.setdefault(", ".join(said), []).append(model)
    if not alike:
        return []
    text = "; ".join(f"{' and '.join(models)} with {said}" for said, models in alike.items())
    return [f"Not the loss alone differs between the models: {text}."]


def _network(training: dict[str, Any]) -> str:
    return f"the network {training['architecture']}"


def _epochs(training: dict[str, Any]) -> str:
    return f"{training['recipe']['epochs']} epochs"


def _jitter(training: dict[str, Any]) -> str:
    return "jittered images" if training["recipe"].get("jitter") else "images as they are"


def _never_below(held: Checked) -> list[str]:
    if not held.num_pairs:
        return ["Nothing was proved of any attacked image, so no attack could break a proof."]
    if len(held.broken):
        return []
    return [
        "RAR under attack is never below the proved RAR: none of "
        f"{held.num_pairs:,} images, clean or attacked, of which something was proved did what had "
        "been proved impossible."
    ]


def _price(run: Run, measures: Measures) -> list[str]:
    told = []
    for model, eps, _ in _own(run, measures):
        _, null, fooled = clean_triple(measures, model)
        if null is None or fooled is None:
            continue
        dos = measures.find(model, UNION, "null_dos", eps)
        denied = (
            ""
            if dos is None
            else f", and an attacker within ε {eps_text(eps)} silences it on "
            f"{rate_text(dos, False)}"
        )
        told.append(
            f"{model} refuses {rate_text(null, False)} of clean images and answers "
            f"{rate_text(fooled, False)} wrongly{denied}"
        )
    if not told:
        return []
    return [f"The price: {'; '.join(told)} (null-DoS, of which nothing is promised)."]


def _broken_section(held: Checked) -> list[Section]:
    if held.broken.empty:
        return []
    items = []
    for (model, seed, claim), of in held.broken.groupby(["model", "seed", "claim"], sort=False):
        first = of.iloc[0]
        message = (
            f"{of['image'].nunique()} images proved {claim} were not: image {first['image']}, "
            f"proved at ε {eps_text(first['proved'])}, is {first['outcome']} at ε "
            f"{eps_text(first['eps_pixels'])} ({_by(str(first['attack']))})."
        )
        items.append(FlagItem(Flag("proof-broken", message), f"{model}, seed {seed}"))
    told = Text("One image is enough: a proof has no exceptions. Nothing below can be believed.")
    return [Section("A proof is broken", [told, FlagList(items)])]


def _models_section(run: Run, measures: Measures) -> list[Section]:
    models = [(model, MEANINGS[model]) for model in measures.models if model in MEANINGS]
    blocks: list[Block] = [Terms(models)] if models else []
    blocks += [rates_table(run, measures, eps) for eps in _main(run, measures)]
    if measures.budgets(PROOF):
        blocks.append(bracket_table(run, measures))
    by_radius = radius_table(run)
    if by_radius is not None:
        blocks.append(by_radius)
    return [Section("Models, and what holds of them", blocks)] if blocks else []


def _main(run: Run, measures: Measures) -> Sequence[float]:
    """The ε that models are made for, where they were attacked; all, if at none of these."""
    budgets = shown_budgets(measures)
    made_for = {round(2 * radius, 9) for radius in radii(run).values()}
    return [eps for eps in budgets if round(eps, 9) in made_for] or budgets


def _threat_model(measures: Measures, held: Checked) -> Section:
    attacks = [(name, told) for name, told in attack_terms(measures) if name != PROOF]
    return Section(
        "Threat model",
        [
            Text(
                "The attacker has the model: weights, null, gradients, and where a model answers "
                f"what it proves, gradients through the bounds. The {attack_name(WORST_CASE)} is "
                f"{NULL_AWARE_TEXT} It wins with a wrong class; what is denied, answered null, is "
                "counted apart (null-DoS). Images stay in [0, 1] and within ε of the clean image, "
                "L∞; every image is scored again outside the attack."
            ),
            Text(
                "What attacks left is an upper bound: a stronger attack may leave less. What is "
                "proved is a lower bound, for these test images: no attack leaves less. Between "
                f"the two nobody knows. {held.num_pairs:,} images, clean or attacked, were held "
                "against a proof. Not promised: that images of other kinds are refused, other "
                "norms, larger ε, and that the network is right."
            ),
            Terms(attacks),
            Text(spread_text(measures)),
        ],
    )

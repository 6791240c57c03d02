"""One evaluated model of one's own: whether to believe the numbers, then the numbers."""

from __future__ import annotations

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Block, Drawing, Page, Section, Text
from nullclass.report.common import (
    definitions_section,
    redraw_section,
    settings_section,
    subtitle,
)
from nullclass.report.evaluation_tables import (
    clean_table,
    cost_table,
    ood_table,
    selective_table,
    separation_table,
    union_table,
)
from nullclass.report.figures import EVALUATED
from nullclass.report.figures.confusion import MOST_CLASSES, num_classes_of
from nullclass.report.flags import TITLE, flags_of
from nullclass.report.judged import only_trial
from nullclass.report.measures import CLEAN, Measures, attack_name, eps_text, value_cell
from nullclass.report.tables import outcome_table, with_unit
from nullclass.report.threat import threat_card
from nullclass.results.store import Run, Trial

TERMS = [
    (
        "null score",
        "How near the model is to answering null; larger is nearer. It ranks images where the "
        "answer itself only sorts them in two.",
    ),
    (
        "ensemble",
        "A fixed sequence of attacks with one aim, each on what the ones before it left standing. "
        "An image counts as felled if any of them felled it.",
    ),
    (
        "inputs of no class",
        "Images that show nothing the model knows (out of distribution). Null is the only right "
        "answer to them.",
    ),
]


def evaluated(run: Run) -> Page:
    """The page of an evaluation: red flags and threat model first."""
    measures = Measures(run)
    drawings = {name: draw(run) for name, draw in EVALUATED.items()}
    trial = only_trial(run)
    sections: list[Section] = []
    if trial is not None:
        sections = _sections(run, trial, measures, drawings)
    return Page(
        f"Evaluation of {', '.join(measures.models)}",
        subtitle(run, measures),
        findings(measures),
        [
            *sections,
            settings_section(run),
            definitions_section(TERMS),
            redraw_section(),
        ],
    )


def _sections(
    run: Run, trial: Trial, measures: Measures, drawings: dict[str, Drawing | None]
) -> list[Section]:
    model = trial.model
    told: list[tuple[str, list[Block | None]]] = [
        (TITLE, [*flags_of(trial)]),
        ("Threat model", [*threat_card(trial)]),
        (
            "What holds",
            [
                clean_table(measures, model),
                union_table(measures, model),
                drawings["security-curves"],
                outcome_table(measures, model),
                drawings["outcomes"],
            ],
        ),
        ("What each attack did", [drawings["contribution"], cost_table(trial)]),
        ("Who is taken for whom", [drawings["confusion"] or _no_matrix(run)]),
        (
            "Telling by the null score",
            [
                drawings["null-scores"],
                separation_table(trial),
                ood_table(trial),
                drawings["roc"],
                selective_table(trial),
                drawings["risk-coverage"] or _no_risk(),
            ],
        ),
        ("The smallest ε that fools", [drawings["smallest-eps"], drawings["first-to-fall"]]),
        ("Gallery", [drawings["gallery"]]),
    ]
    sections = []
    for title, blocks in told:
        shown = [block for block in blocks if block is not None]
        if shown:
            sections.append(Section(title, shown))
    return sections


def _no_matrix(run: Run) -> Text | None:
    num_classes = num_classes_of(run)
    if num_classes <= MOST_CLASSES:
        return None
    return Text(
        f"Of {num_classes:,} classes no matrix is drawn: with more than {MOST_CLASSES} it cannot "
        "be read. trials/*/rows.csv.gz holds every answer."
    )


def _no_risk() -> Text:
    return Text(
        "The best real class of every clean image is the true one: there is no risk to draw "
        "against coverage."
    )


def findings(measures: Measures) -> list[str]:
    """The clean triple, then the union at the largest budget; without one, each attack."""
    told = []
    for model in measures.models:
        triple = [measures.find(model, CLEAN, word) for word in ("correct", "null", "fooled")]
        shares = ", ".join(f"{with_unit(m)} {m.metric}" for m in triple if m is not None)
        told.append(f"Unattacked, {model} is {shares}." if shares else "")
        budgets = measures.union_budgets()
        told += _worst(measures, model, budgets[-1]) if budgets else _each(measures, model)
    return [sentence for sentence in told if sentence]


def _worst(measures: Measures, model: str, eps: float) -> list[str]:
    rates = {name: measures.find(model, UNION, name, eps) for name in ("aer", "rar", "null_dos")}
    aer, rar, dos = rates.values()
    if aer is None or rar is None:
        return []
    told = [
        f"At ε {eps_text(eps)} ({measures.norm(UNION)}, pixel units) it is fooled on "
        f"{with_unit(aer)} of {measures.num_images(UNION)} images by at least one attack (AER); "
        f"robust accuracy with rejection (RAR) is {with_unit(rar)}."
    ]
    if dos is not None and measures.has_null(model):
        told.append(
            f"On {with_unit(dos)} it is right when clean, but some attack gets it to answer null "
            "(null-DoS)."
        )
    proved = measures.find(model, PROOF, "rar_proved", eps)
    if proved is not None:
        told.append(
            f"Proved, whatever the attack: at that ε RAR is at least {with_unit(proved)} "
            f"({measures.num_images(PROOF)} images)."
        )
    return told


def _each(measures: Measures, model: str) -> list[str]:
    told = []
    for attack in measures.attacks():
        eps = measures.budgets(attack)[-1]
        fooled = measures.find(model, attack, "fooled", eps)
        if fooled is not None:
            told.append(
                f"{attack_name(attack)} at ε {eps_text(eps)} (pixel units) fools it on "
                f"{with_unit(fooled)}; "
                f"{value_cell(measures.find(model, attack, 'null', eps)).text} % become null."
            )
    return told

"""One evaluated model of one's own."""

from __future__ import annotations

from nullclass.records import Run
from nullclass.report.blocks import Block, Page, Section, Terms, Text
from nullclass.report.measures import CLEAN, Measures, attack_name, eps_text, value_cell
from nullclass.report.pages.common import (
    attack_terms,
    definitions_section,
    figure_sections,
    redraw_section,
    settings_section,
    subtitle,
)
from nullclass.report.tables import outcome_table, white_box_table, with_unit
from nullclass.summary import WORST_CASE


def evaluated(run: Run) -> Page:
    """The page of an evaluation."""
    measures = Measures(run)
    blocks: list[Block] = []
    if measures.worst_case_budgets():
        blocks += [white_box_table(measures, metric) for metric in ("aer", "rar")]
    blocks += [outcome_table(measures, model) for model in measures.models]
    return Page(
        f"Evaluation of {', '.join(measures.models)}",
        subtitle(run, measures),
        findings(measures),
        [
            Section("Tables", blocks),
            *figure_sections(run),
            Section(
                "Threat model",
                [
                    Text(
                        "The attacker knows the model's weights and its null class and attacks the "
                        "very model that is scored. Images stay in [0, 1] and within ε of the "
                        "clean image, and every image is scored again outside the attack. What "
                        "other attacks would do, these numbers do not say: AER is a lower bound, "
                        "RAR an upper one."
                    ),
                    Terms(attack_terms(measures)),
                ],
            ),
            settings_section(run),
            definitions_section(),
            redraw_section(),
        ],
    )


def findings(measures: Measures) -> list[str]:
    """The clean triple, then the worst case at the largest budget; without one, each attack."""
    told = []
    for model in measures.models:
        triple = [measures.find(model, CLEAN, word) for word in ("correct", "null", "fooled")]
        shares = ", ".join(f"{with_unit(m)} {m.metric}" for m in triple if m is not None)
        told.append(f"Unattacked, {model} is {shares}." if shares else "")
        budgets = measures.worst_case_budgets()
        if budgets:
            aer = measures.find(model, WORST_CASE, "aer", budgets[-1])
            rar = measures.find(model, WORST_CASE, "rar", budgets[-1])
            if aer is not None and rar is not None:
                told.append(
                    f"At ε {eps_text(budgets[-1])} ({measures.norm(WORST_CASE)}, pixel units) it "
                    f"is fooled on {with_unit(aer)} of the images by at least one attack (AER); "
                    f"robust accuracy with rejection (RAR) is {with_unit(rar)}."
                )
            continue
        for attack in measures.attacks():
            eps = measures.budgets(attack)[-1]
            fooled = measures.find(model, attack, "fooled", eps)
            if fooled is not None:
                told.append(
                    f"{attack_name(attack)} at ε {eps_text(eps)} (pixel units) fools it on "
                    f"{with_unit(fooled)}; "
                    f"{value_cell(measures.find(model, attack, 'null', eps)).text} % become null."
                )
    return [sentence for sentence in told if sentence]

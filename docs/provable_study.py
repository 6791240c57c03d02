"""Write the results in docs/provable-null.md: python docs/provable_study.py runs/provable-null."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from marks import bullets, facts, replace_results

from nullclass.report.formatting import attack_name, eps_text, percent
from nullclass.report.measures import Measure, Measures
from nullclass.report.render import markdown_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, PROOF, UNION
from nullclass.studies.provable_null.config import VARIANTS
from nullclass.studies.provable_null.measured import run_violations, training_minutes
from nullclass.studies.provable_null.page import findings
from nullclass.studies.provable_null.tables import (
    clean_outcomes,
    minutes_text,
    num_images,
    radius_table,
    shown_budgets,
    verifiers_text,
)
from nullclass.studies.reports import read_run

PAGE = Path(__file__).with_name("provable-null.md")

HEAD = """`nullclass study {study} --preset {preset}`: seed {seeds}, {data}, torch {torch}. In %,
with 95 % Wilson intervals over the images. Proved: {verifiers}. Attacked: the worst case per
image over {attacks}, version {version}, at
that ε or below; {norm}, ε in pixel units.
AER and null-DoS are lower bounds, attacked RAR and strict are upper bounds.
"""

RATES = {
    "AER, attacked": (UNION, "aer"),
    "RAR, attacked": (UNION, "rar"),
    "RAR, proved": (PROOF, "rar_proved"),
    "strict, attacked": (UNION, "strict"),
    "null-DoS, attacked": (UNION, "null_dos"),
}


def results(run: Run) -> str:
    """The text between the two marks."""
    measures = Measures(run)
    known = facts(measures) | {"seeds": ", ".join(map(str, measures.seeds))}
    head = HEAD.format(
        **known,
        study=run.info.study,
        verifiers=verifiers_text(run),
        attacks=" and ".join(map(attack_name, measures.attacks())),
        norm=measures.norm(UNION),
    )
    sentences = bullets(measures, VARIANTS, findings(measures, *run_violations(run)))
    return "\n".join([head, sentences, *_rates(measures), *_radii(run)])


def _rates(measures: Measures) -> Iterator[str]:
    """One table per ε."""
    names = (f"{name}, {num_images(measures, attack)}" for name, (attack, _) in RATES.items())
    clean = f"clean: correct / null / fooled, {num_images(measures, CLEAN)}"
    headings, minutes = [clean, *names, "minutes"], training_minutes(measures.run)
    for eps in shown_budgets(measures):
        rows = []
        for model in measures.models:
            outcomes = clean_outcomes(measures, model)
            triple = " / ".join("–" if m is None else percent(m.mean) for m in outcomes)
            rates = [_rate(measures.find(model, *what, eps)) for what in RATES.values()]
            rows.append([f"`{model}`", triple, *rates, minutes_text(minutes.get(model))])
        yield markdown_table([f"ε {eps_text(eps)}", *headings], rows)


def _rate(measure: Measure | None) -> str:
    if measure is None:
        return "–"
    if len(measure.values) > 1:
        return f"{percent(measure.mean)} ± {percent(measure.sd)}"
    return f"{percent(measure.mean)} ({percent(measure.low, 1)} – {percent(measure.high, 1)})"


def _radii(run: Run) -> Iterator[str]:
    table = radius_table(run)
    if not table.rows:
        return
    n = table.caption.split(" test images")[0].removeprefix("%, ")
    yield (
        f"Clean images by radius, {n}, no attack: correct (the proved RAR at ε = 2r) / null / "
        "fooled.\n"
    )
    rows = [
        [f"`{name.text}`", *(" / ".join(filter(None, (c.text, c.small))) for c in cells)]
        for name, *cells in table.rows
    ]
    yield markdown_table([cell.text for cell in table.columns], rows)


if __name__ == "__main__":
    replace_results(PAGE, __file__, results(read_run(Path(sys.argv[1]))))

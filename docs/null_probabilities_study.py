"""Write the results in docs/null-probabilities.md and results/null-probabilities from a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from marks import bullets, facts, replace_results, setting

from nullclass.attacks import MIFGSM
from nullclass.core.files import make_folder
from nullclass.report.formatting import attack_name, eps_text, percent
from nullclass.report.measures import Measures
from nullclass.report.render import markdown_table
from nullclass.results.frames import write_frame
from nullclass.results.schema import CLEAN, SUMMARY, UNION
from nullclass.studies.null_probabilities.config import (
    ON,
    QUERIED,
    SUBSTITUTES,
    TRANSFERS,
    VARIANTS,
)
from nullclass.studies.null_probabilities.measured import (
    by_size,
    criteria,
    curve_fits,
    transfer_budgets,
    transfer_table,
)
from nullclass.studies.null_probabilities.page import findings
from nullclass.studies.null_probabilities.tables import LABEL_ATTACK
from nullclass.studies.reports import read_run

PAGE = Path(__file__).with_name("null-probabilities.md")
RESULTS = PAGE.parents[1] / "results" / "null-probabilities"

HEAD = """`nullclass study null-probabilities --preset {preset}`: {seeds}, {data}, torch {torch}.
In %, L∞, ε {eps} in pixel units. Clean: {clean} test images. Transfer: {transfer},
{num_steps} steps, crafted to fool its source, n = {num_transferred}, a preview too. {label_attack}
({queries} queries per image), RAR (an upper bound) and null-DoS (a lower bound): n = {num}; RAR and
null-DoS under the worst case (version {version}) and all other attacks.
"""

HEADINGS = [
    "model",
    "clean: correct / null",
    "from a clean substitute",
    "from a substitute with null",
    "from a substitute by queries",
    "labels alone, fooled",
    "RAR",
    "null-DoS",
]


def results(measures: Measures) -> str:
    """The text between the two marks."""
    transfer = TRANSFERS[-1]
    head = HEAD.format(
        **facts(measures),
        eps=" / ".join(map(eps_text, transfer_budgets(measures))),
        clean=measures.num_images(CLEAN),
        transfer=attack_name(transfer),
        num_steps=MIFGSM().num_steps,
        num_transferred=measures.num_images(transfer + ON + SUBSTITUTES[0]),
        label_attack=attack_name(LABEL_ATTACK),
        queries=setting(measures, LABEL_ATTACK, "num_queries"),
        num=measures.num_images(UNION),
    )
    found = criteria(measures, curve_fits(by_size(measures.run)))
    sentences = findings(measures, transfer_table(measures), found)
    table = markdown_table(HEADINGS, list(_rows(measures)))
    return "\n".join([head, table, bullets(measures, VARIANTS, sentences)])


def _rows(measures: Measures) -> Iterator[list[str]]:
    """One row per model."""
    for model in measures.models:
        sources = (*SUBSTITUTES, f"{QUERIED}-{model}")
        rates = [(TRANSFERS[-1] + ON + source, "fooled") for source in sources]
        rates += [(LABEL_ATTACK, "fooled"), (UNION, "rar"), (UNION, "null_dos")]
        clean = [measures.find(model, CLEAN, outcome) for outcome in ("correct", "null")]
        texts = [" / ".join(percent(each.mean) for each in clean if each)]
        texts += [" / ".join(percent(m.mean, 1) for m in measures.curve(model, *r)) for r in rates]
        yield [f"`{model}`", *(text or "–" for text in texts)]


if __name__ == "__main__":
    measures = Measures(read_run(Path(sys.argv[1])))
    make_folder(RESULTS)
    write_frame(RESULTS / SUMMARY, measures.run.summary)
    replace_results(PAGE, __file__, results(measures))

"""Write the results in docs/provable-null.md: python docs/provable_study.py runs/provable-null."""

from __future__ import annotations

import sys
from pathlib import Path

from nullclass.core.files import write_text
from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.measures import Measure, Measures, attack_name, eps_text, percent
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run, read_run
from nullclass.studies.provable_null.page import findings
from nullclass.studies.provable_null.proof_tables import minutes_text, shown_budgets, verifiers_text
from nullclass.studies.provable_null.proved import by_radius, checked, clean_triple, minutes

PAGE = Path(__file__).with_name("provable-null.md")
BEGIN = "<!-- results: written by docs/provable_study.py, do not edit -->"
END = "<!-- end of results -->"

HEAD = """`{command}`: seed {seeds}, {data}, torch {torch}. In %, 95 % Wilson
intervals over the images. Clean: {num_clean} test images. Proved: {verifiers}, {num_proved}
test images. Attacks: the worst, image by image, of {attacks} at that ε or
below, {num_attacked} test images; {norm}, ε in pixel units. AER and null-DoS are at least, RAR and
strict under attack at most what is written.
"""

RATES = ("aer", "rar", "rar_proved", "strict", "null_dos")
HEADINGS = ("AER", "RAR, attacks", "RAR, proved", "strict, attacks", "null-DoS")


def results(run: Run) -> str:
    """What stands between the two marks."""
    measures = Measures(run)
    study, preset = run.info["study"], run.info["preset"]
    attacks = " and ".join(map(attack_name, sorted(set(measures.attacks()) - {PROOF})))
    head = HEAD.format(
        command=f"nullclass study {study} --preset {preset}",
        seeds=", ".join(map(str, measures.seeds)),
        data=run.info["data"]["name"],
        torch=run.info["versions"]["torch"],
        num_clean=measures.num_images(CLEAN),
        verifiers=verifiers_text(run),
        num_proved=measures.num_images(PROOF),
        attacks=attacks,
        num_attacked=measures.num_images(UNION),
        norm=measures.norm(UNION),
    )
    told = [f"- {sentence}" for sentence in findings(run, measures, checked(run))]
    parts = [head, *told, "", *_rates(run, measures), *_radii(run)]
    return "\n".join(parts)


def _rates(run: Run, measures: Measures) -> list[str]:
    """One table an eps."""
    lines = []
    for eps in shown_budgets(measures):
        names = ["clean: correct / null / fooled", *HEADINGS, "minutes"]
        lines += [f"| ε {eps_text(eps)} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for model in measures.models:
            triple = " / ".join(_short(measure) for measure in clean_triple(measures, model))
            rates = [
                _full(measures.find(model, PROOF if rate == "rar_proved" else UNION, rate, eps))
                for rate in RATES
            ]
            took = minutes_text(minutes(run, model))
            lines.append(f"| `{model}` | {triple} | {' | '.join(rates)} | {took} |")
        lines.append("")
    return lines


def _radii(run: Run) -> list[str]:
    table = by_radius(run)
    if table.empty:
        return []
    lines = [
        f"Clean images by radius, {int(table['num_images'].min()):,} of them, no attack: answered "
        "rightly, which is the RAR proved at ε = 2r, / refused / answered wrongly.",
        "",
    ]
    at = sorted(table["radius"].unique())
    lines += [
        f"| model | {' | '.join(f'r {eps_text(radius)}' for radius in at)} |",
        "|---" * (len(at) + 1) + "|",
    ]
    for model, of in table.groupby("model", sort=False):
        shares = of.set_index("radius")
        cells = [
            " / ".join(percent(shares.loc[radius, word]) for word in ("correct", "null", "fooled"))
            if radius in shares.index
            else "–"
            for radius in at
        ]
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    return [*lines, ""]


def _short(measure: Measure | None) -> str:
    return "–" if measure is None else percent(measure.mean)


def _full(measure: Measure | None) -> str:
    if measure is None:
        return "–"
    if len(measure.values) > 1:
        return f"{percent(measure.mean)} ± {percent(measure.sd)}"
    return f"{percent(measure.mean)} ({percent(measure.low, 1)} – {percent(measure.high, 1)})"


def page(text: str, run: Run) -> str:
    """The page with its results replaced."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{results(run)}\n{END}{after}"


if __name__ == "__main__":
    told = page(PAGE.read_text(encoding="utf-8"), read_run(Path(sys.argv[1])))
    write_text(PAGE, told)

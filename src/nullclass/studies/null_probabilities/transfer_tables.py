"""Tables of the study ``null-probabilities``: what was asked, who survives what, who fools whom."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Cell, Table
from nullclass.report.measures import (
    Measure,
    Measures,
    attack_name,
    eps_text,
    on_common_seeds,
    percent,
    value_cell,
)
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.by_size import Following
from nullclass.studies.null_probabilities.config import CLEAN as BASE
from nullclass.studies.null_probabilities.config import PROBABILITIES, QUERIED, SUBSTITUTES
from nullclass.studies.null_probabilities.defences import model_cell, short
from nullclass.studies.null_probabilities.transferred import Rate, Transfers

QUERY_ATTACK = "rays"
"""The attack that sees labels alone."""

MOST_LOST = 0.003
MOST_CLEAN_NULL = 0.005
MOST_TRANSFERRED = 0.02
MOST_DISTANCE = 0.1
MOST_FALL = 0.005
"""What NULL probabilities are asked for, in shares; falls of the mean that are smaller than the
last are called none."""

ROUNDING = 1e-9
SUBSTITUTE = SUBSTITUTES[0]


@dataclass(frozen=True)
class Asked:
    """One number that a model was asked for, over seeds."""

    model: str
    what: str
    values: tuple[float, ...]
    limit: float
    """The most it may be."""
    eps: float = 0.0
    """In pixel units, of a transferred attack."""
    attack: str = ""
    """The stronger attack, of a transferred one."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def is_reached(self) -> bool:
        """Whether the mean is within the limit."""
        return self.mean <= self.limit + ROUNDING

    def text(self, digits: int = 2) -> str:
        """The number, with its spread over seeds."""
        return _with_sd(self.values, digits, 1 if self.what == "distance" else 100)


def asked(
    measures: Measures, transfers: Transfers, following: Sequence[Following]
) -> dict[str, list[Asked]]:
    """What there is, by model with NULL probabilities."""
    return {
        model: [
            *_clean_asked(measures, model),
            *_transfer_asked(transfers, model),
            *_following_asked(following, model),
        ]
        for model in measures.models
        if model in PROBABILITIES
    }


def _clean_asked(measures: Measures, model: str) -> list[Asked]:
    found = []
    pair = [measures.find(name, CLEAN, "correct") for name in (BASE, model)]
    before, after = on_common_seeds(pair)
    if before is not None and after is not None:
        lost = tuple(b - a for b, a in zip(before.values, after.values, strict=True))
        found.append(Asked(model, "lost", lost, MOST_LOST))
    null = measures.find(model, CLEAN, "null")
    if null is not None:
        found.append(Asked(model, "clean null", null.values, MOST_CLEAN_NULL))
    return found


def _transfer_asked(transfers: Transfers, model: str) -> list[Asked]:
    strongest = (transfers.strongest(SUBSTITUTE, model, eps) for eps in transfers.budgets)
    return [
        Asked(
            model,
            "transferred",
            measure.values,
            MOST_TRANSFERRED,
            measure.eps,
            measure.attack.removesuffix(f" on {SUBSTITUTE}"),
        )
        for measure in strongest
        if measure is not None
    ]


def _following_asked(following: Sequence[Following], model: str) -> list[Asked]:
    of = [f for f in following if f.model == model]
    if not of:
        return []
    return [
        Asked(model, "distance", tuple(f.distance for f in of), MOST_DISTANCE),
        Asked(model, "fall", tuple(f.fall for f in of), MOST_FALL),
    ]


def asked_table(measures: Measures, told: dict[str, list[Asked]], transfers: Transfers) -> Table:
    """Every number asked for, with whether it was reached."""
    columns = [("lost", 0.0), ("clean null", 0.0)]
    columns += [("transferred", eps) for eps in transfers.budgets]
    columns += [("distance", 0.0), ("fall", 0.0)]
    rows = []
    for model, found in told.items():
        by = {(a.what, round(a.eps, 6)): a for a in found}
        rows.append([model_cell(model), *(_asked_cell(by.get(column)) for column in columns)])
    if rows and BASE in measures.models:
        rates = (transfers.strongest(SUBSTITUTE, BASE, eps) for eps in transfers.budgets)
        null = value_cell(measures.find(BASE, CLEAN, "null"))
        cells = [Cell("–"), Cell(null.text), *(Cell(value_cell(m).text) for m in rates)]
        rows.append([model_cell(BASE), *cells, Cell("–"), Cell("–")])
    num = measures.num_images(CLEAN) if measures.budgets(CLEAN) else "no"
    return Table(
        "The numbers asked of NULL probabilities",
        [
            Cell("model"),
            Cell("accuracy lost", f"points, ≤ {100 * MOST_LOST:g}"),
            Cell("clean null", f"%, ≤ {100 * MOST_CLEAN_NULL:g}"),
            *(
                Cell(f"fooled, ε {eps_text(eps)}", f"%, ≤ {100 * MOST_TRANSFERRED:g}")
                for eps in transfers.budgets
            ),
            Cell("from f", f"≤ {MOST_DISTANCE:g}"),
            Cell("falls", f"points, ≤ {100 * MOST_FALL:g}"),
        ],
        rows,
        f"Accuracy lost: clean accuracy of the clean model minus the model's own, {num} test "
        "images. Fooled: by what was made on the clean substitute, of another architecture; the "
        f"stronger of {_attacks_text(transfers)}, L∞, ε in pixel units, {num_moved(transfers)} "
        "test images. From f: largest distance of the mean probability of null from f over the "
        "sizes looked at within the trained range. Falls: by how much it falls back at most as the "
        f"size grows; up to {100 * MOST_FALL:g} points count as monotone. "
        f"{measures.seeds_text()}{_sd(measures)}. The last line is the clean model, for "
        "comparison.",
    )


def _asked_cell(told: Asked | None) -> Cell:
    if told is None:
        return Cell("–")
    return Cell(told.text(), "✓ reached" if told.is_reached else "✗ missed")


def clean_triple_table(measures: Measures) -> Table:
    """Correct, null and fooled of clean images."""
    words = ("correct", "null", "fooled")
    rows = [
        [model_cell(m), *(value_cell(measures.find(m, CLEAN, word)) for word in words)]
        for m in measures.models
    ]
    return Table(
        "Clean images",
        [Cell("model"), *(Cell(word, "%") for word in words)],
        rows,
        f"No attack, {measures.num_images(CLEAN)} test images, {measures.seeds_text()}. "
        f"{spread(measures)}",
    )


def strict_table(measures: Measures) -> Table:
    """Strict robust accuracy and null-DoS of the union."""
    metrics = {"strict": "strict", "null_dos": "null-DoS"}
    columns = [(metric, eps) for metric in metrics for eps in measures.union_budgets(metric)]
    denying = sorted({attack_name(m.attack) for m in measures.all if m.objective == "force-null"})
    tries = f"{' and '.join(denying)} tries to be refused" if denying else "no attack tries to be"
    rows = []
    for model in measures.models:
        cells = (value_cell(measures.find(model, UNION, *column)) for column in columns)
        rows.append([model_cell(model), *cells])
    return Table(
        "Strict robust accuracy and null-DoS, %",
        [
            Cell("model"),
            *(Cell(metrics[metric], f"ε {eps_text(eps)} px") for metric, eps in columns),
        ],
        rows,
        "Strict: right when clean and under every attack. Null-DoS: right when clean and refused "
        f"under some attack ({tries}): a lower bound. "
        f"{measures.norm(UNION)}, ε in pixel units (px), {measures.num_images(UNION)} test images, "
        f"{measures.seeds_text()}. {spread(measures)}",
    )


def substitute_table(transfers: Transfers, measures: Measures) -> Table:
    """Fooled by what was made on the clean substitute."""
    columns = [(attack, eps) for attack in transfers.attacks for eps in transfers.budgets]
    rows = []
    for target in transfers.targets:
        found = (transfers.find(attack, SUBSTITUTE, target, eps) for attack, eps in columns)
        rows.append([model_cell(target), *map(value_cell, found)])
    return Table(
        "Fooled by transfer from the clean substitute, %",
        [
            Cell("target"),
            *(Cell(attack_name(attack), f"ε {eps_text(eps)} px") for attack, eps in columns),
        ],
        rows,
        "Made on a clean model of another architecture that the attacker trained on the same data, "
        f"then shown to every target; L∞, ε in pixel units (px), {num_moved(transfers)} test "
        f"images, {measures.seeds_text()}. {spread(measures)}",
    )


def query_attack_table(measures: Measures) -> Table:
    """Fooled by the attack that sees labels alone."""
    budgets = measures.budgets(QUERY_ATTACK)
    words = [(word, eps) for word in ("fooled", "null") for eps in budgets]
    rows = []
    for model in measures.models:
        found = (measures.find(model, QUERY_ATTACK, word, eps) for word, eps in words)
        rows.append([model_cell(model), *map(value_cell, found)])
    return Table(
        f"{attack_name(QUERY_ATTACK)}: an attack that sees labels alone, %",
        [Cell("model"), *(Cell(word, f"ε {eps_text(eps)} px") for word, eps in words)],
        rows,
        f"Made on the target itself by asking for labels, null being no success; L∞, ε in pixel "
        f"units (px), {measures.num_images(QUERY_ATTACK)} test images, {measures.seeds_text()}. "
        f"{spread(measures)}",
    )


def queries_table(run: Run, measures: Measures) -> Table | None:
    """What substitutes learnt by asking their targets, round by round."""
    rows = []
    for target in measures.models:
        of = [log for (name, _), log in run.queried.items() if name == f"{QUERIED}-{target}"]
        if not of:
            continue
        num_rounds = {len(log) for log in of}
        queries = {int(log["num_queries"].sum()) for log in of}
        last = [log.iloc[-1] for log in of]
        null = tuple(
            float((log["null"] * log["num_queries"]).sum() / log["num_queries"].sum()) for log in of
        )
        rows.append(
            [
                model_cell(target),
                Cell(_some(num_rounds)),
                Cell(_some(queries)),
                Cell(_with_sd(null, 1)),
                *(
                    Cell(_with_sd(tuple(float(line[f"agreement_{when}"]) for line in last), 1))
                    for when in ("before", "after")
                ),
            ]
        )
    if not rows:
        return None
    return Table(
        "Substitutes by queries",
        [
            Cell("target"),
            Cell("rounds"),
            Cell("queries"),
            Cell("answered null", "%"),
            Cell("agreement", "new images, %"),
            Cell("agreement", "own images, %"),
        ],
        rows,
        "A small network trained on the target's answers alone (null among them), its training "
        "images grown each round along its own gradients (Papernot et al. 2017). Agreement: share "
        "of images it answers as the target does, in the last round: on that round's new images "
        "before it learnt them, and on all it has learnt; both lie near the first images it asked "
        "about, so they do not tell how alike the two are elsewhere. "
        f"{measures.seeds_text()}{_sd(measures)}.",
    )


def matrix_table(transfers: Transfers, measures: Measures, attack: str, eps: float) -> Table:
    """Who fools whom, with transfer rates."""
    rows = []
    for source in transfers.sources:
        row = [model_cell(source)]
        for target in transfers.targets:
            fooled = transfers.find(attack, source, target, eps)
            rate = transfers.rate(attack, source, target, eps)
            small = "white-box" if source == target else _rate_text(rate)
            row.append(Cell("–") if fooled is None else Cell(_with_sd(fooled.values, 1), small))
        rows.append(row)
    return Table(
        f"{attack_name(attack)}, ε {eps_text(eps)}",
        [Cell("made on"), *(Cell(short(target)) for target in transfers.targets)],
        rows,
        f"Share of {num_moved(transfers)} test images that fool the target, %; below it the "
        "transfer rate: of the images that fool the source and that the target gets right when "
        "clean, the share that fools the target, and how many there are (–: none). L∞, ε in pixel "
        f"units, {measures.seeds_text()}{_sd(measures)}.",
    )


def _rate_text(rate: Rate | None) -> str:
    return "–" if rate is None else f"{_with_sd(rate.values, 1)} % of {rate.num_images}"


def num_moved(transfers: Transfers) -> str:
    """How many images were transferred, as it is written."""
    counts = sorted(
        {
            found.num_images
            for attack in transfers.attacks
            for source in transfers.sources
            for target in transfers.targets
            for eps in transfers.budgets
            if (found := transfers.find(attack, source, target, eps)) is not None
        }
    )
    return " to ".join(f"{count:,}" for count in sorted({counts[0], counts[-1]})) if counts else "0"


def follow_table(following: Sequence[Following]) -> Table:
    """How mean p_NULL follows f, one line a model and seed."""
    several = len({f.seed for f in following}) > 1
    rows = [
        [
            Cell(cell.text, f"seed {f.seed}" if several else cell.small),
            Cell(f"{f.distance:.3f}", _limit(f.distance, MOST_DISTANCE)),
            Cell(size_text(f.size, f.norm)),
            Cell(f"{100 * f.fall:.2f}", _limit(f.fall, MOST_FALL)),
            Cell(size_text(f.largest, f.norm)),
            Cell(str(f.num_sizes)),
        ]
        for f in following
        for cell in [model_cell(f.model)]
    ]
    nums = " to ".join(f"{n:,}" for n in sorted({f.num_images for f in following}))
    return Table(
        "Does probability follow f?",
        [
            Cell("model"),
            Cell("distance from f", "largest"),
            Cell("at size"),
            Cell("p_NULL falls", "points at most"),
            Cell("trained up to"),
            Cell("sizes"),
        ],
        rows,
        "Mean probability of null against f, at sizes from 0 to the end of the trained range "
        f"(ε_max, N_max), on {nums} test images a seed; perturbed on the model itself by the maker "
        f"it was trained with. Asked: at most {MOST_DISTANCE:g} from f, and never falling (up to "
        f"{100 * MOST_FALL:g} points pass). f is read at the size that came out.",
    )


def _limit(value: float, limit: float) -> str:
    return "✓ reached" if value <= limit + ROUNDING else "✗ missed"


def size_text(size: float, norm: str) -> str:
    """A size with its unit."""
    return f"{100 * size:.3g} % of pixels" if norm == "l0" else f"{size:.3g}"


def spread(measures: Measures) -> str:
    """What stands below a share."""
    if len(measures.seeds) == 1:
        return "Below each share: its 95 % Wilson interval over the images."
    return "Mean over seeds ± their standard deviation."


def _sd(measures: Measures) -> str:
    return "" if len(measures.seeds) == 1 else ", mean ± standard deviation"


def _attacks_text(transfers: Transfers) -> str:
    return " and ".join(map(attack_name, transfers.attacks)) or "no attacks"


def _with_sd(values: Sequence[float], digits: int = 2, factor: float = 100) -> str:
    told = [value for value in values if not math.isnan(value)]
    if not told:
        return "–"
    text = f"{factor * statistics.fmean(told):.{digits}f}"
    if len(told) > 1:
        text += f" ± {factor * statistics.stdev(told):.{digits}f}"
    return text.replace("-", "−")


def _some(counts: set[int]) -> str:
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def with_spread(measure: Measure, digits: int = 1) -> str:
    """A rate in percent with its spread over seeds, without the sign."""
    return _with_sd(measure.values, digits)


def range_of(found: Sequence[Measure], digits: int = 1) -> str:
    """Lowest and highest mean, with the models they are of."""
    by: dict[float, list[str]] = {}
    for measure in found:
        by.setdefault(round(measure.mean, digits + 2), []).append(short(measure.model))
    if len(by) == 1:
        return f"{percent(min(by), digits)} %"
    ends = ((share, by[share]) for share in (min(by), max(by)))
    return " to ".join(
        f"{percent(share, digits)} % ({of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''})"
        for share, of in ends
    )

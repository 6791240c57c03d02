"""Tables of one evaluation: rates of the union, costs of the attacks, metrics of the null score."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from nullclass.metrics.rates import PROOF, UNION, wilson
from nullclass.report.blocks import Cell, Table
from nullclass.report.measures import (
    CLEAN,
    Measures,
    attack_name,
    eps_text,
    percent,
    value_cell,
)
from nullclass.results.schema import COST_COUNTS
from nullclass.results.store import Trial

RATES = {"aer": "AER", "rar": "RAR", "strict": "strict", "null_dos": "null-DoS"}
"""Metrics of the union, in the order of tables."""

MEANINGS = {
    "aer": "AER: fooled",
    "rar": "RAR: right when clean, never fooled",
    "strict": "strict: right when clean and attacked",
    "null_dos": "null-DoS: right when clean, null under attack",
}
"""The rates in a few words."""

PROVED = {"aer": "aer_bound", "rar": "rar_proved", "strict": "strict_proved"}
"""Beside which rate of the union which one of the proofs stands."""

OOD = "ood:"
"""Before the name of a source of inputs of no class, in ``scores.csv``."""

INTERVAL = "Below each rate: its 95 % Wilson interval over the images."


def clean_table(measures: Measures, model: str) -> Table:
    """Correct, null and fooled of the images as they are."""
    words = ("correct", "null", "fooled")
    cells = [value_cell(measures.find(model, CLEAN, word)) for word in words]
    return Table(
        "Clean images",
        [Cell(""), *(Cell(word, "%") for word in words), Cell("n")],
        [[Cell("not attacked"), *cells, Cell(measures.num_images(CLEAN))]],
        INTERVAL,
    )


def union_table(measures: Measures, model: str) -> Table | None:
    """AER, RAR, strict and null-DoS at every eps; those there are."""
    budgets = sorted({*measures.budgets(UNION), *measures.budgets(PROOF)})
    shown = columns_of(measures)
    if not budgets:
        return None
    is_proved = bool(measures.budgets(PROOF))
    rows = [
        [
            Cell(f"ε {eps_text(eps)}"),
            *(value_cell(measures.find(model, attack, metric, eps)) for attack, metric in shown),
            *([value_cell(measures.find(model, CLEAN, "null"))] if is_proved else []),
            Cell(_num_images(measures)),
        ]
        for eps in budgets
    ]
    meanings = [MEANINGS[metric] for attack, metric in shown if attack == UNION]
    told = (
        "Image by image the worst of all attacks at that ε or below, the search for the smallest ε "
        "too if there was one, and of the clean image; "
        f"{measures.norm(UNION) or measures.norm(PROOF)}, ε in pixel units. "
        f"{'. '.join(meanings)}. "
    )
    if is_proved:
        told += (
            "Proved: what holds against every attack there is (no attack fools more, or leaves "
            "less), so the truth lies between the two. Nothing is proved of null-DoS; clean null "
            "is what the model refuses unattacked. "
        )
    return Table(
        "Under all attacks together, and proved" if is_proved else "Under all attacks together",
        [
            Cell("budget"),
            *(rate_heading(attack, metric) for attack, metric in shown),
            *([Cell("clean null", "%")] if is_proved else []),
            Cell("n"),
        ],
        rows,
        told + INTERVAL,
    )


def columns_of(measures: Measures) -> list[tuple[str, str]]:
    """Rates of the union and, beside each, of the proofs: attack name and metric; those there are.

    The attack's rate bounds the true one from one side, the proof's from the other.
    """
    columns = []
    proved = {m.metric for m in measures.all if m.attack == PROOF}
    for metric in RATES:
        if measures.union_budgets(metric):
            columns.append((UNION, metric))
        if PROVED.get(metric) in proved:
            columns.append((PROOF, PROVED[metric]))
    return columns


def rate_heading(attack: str, metric: str) -> Cell:
    """The heading of a rate of the union, or of the proofs."""
    if attack == UNION:
        return Cell(RATES[metric], "%")
    (rate,) = (rate for rate, proved in PROVED.items() if proved == metric)
    return Cell(f"{RATES[rate]} {'≤' if rate == 'aer' else '≥'}", "proved, %")


def _num_images(measures: Measures) -> str:
    """How many images were attacked and, if others were proved, how many those were."""
    counts = {name: measures.num_images(name) for name in (UNION, PROOF) if measures.budgets(name)}
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return ", ".join(
        f"{count} {'attacked' if name == UNION else 'proved'}" for name, count in counts.items()
    )


def cost_table(trial: Trial) -> Table | None:
    """What each attack, and each member of an ensemble, felled and cost."""
    costs = trial.costs
    if costs.empty:
        return None
    budgets = sorted(costs["eps_pixels"].dropna().unique())
    has_own = bool(costs["eps_pixels"].isna().any())
    num_seen = trial.rows.groupby("attack")["image"].nunique()
    rows = []
    for attack, of_attack in costs.groupby("attack", sort=False):
        num = int(num_seen[attack])
        members = list(dict.fromkeys(of_attack["member"]))
        name = attack_name(str(attack))
        if len(members) == 1:
            rows.append(_cost_row(name, of_attack, budgets, has_own, num))
            continue
        by_eps = of_attack.groupby("eps_pixels", dropna=False, sort=False)
        whole = by_eps[COST_COUNTS].sum().reset_index()
        # Who comes first is given all that stands; the others what is left of it.
        whole["num_images"] = by_eps["num_images"].first().to_numpy()
        rows.append(_cost_row(name, whole, budgets, has_own, num))
        for member in members:
            own = of_attack[of_attack["member"] == member]
            rows.append(_cost_row(f"· {member}", own, budgets, has_own, num))
    return Table(
        "What each attack felled, and what it cost",
        [
            Cell("attack", "· member"),
            *(Cell(f"ε {eps_text(eps)}", "felled") for eps in budgets),
            *([Cell("ε its own", "felled")] if has_own else []),
            Cell("forward", "passes an image"),
            Cell("backward", "passes an image"),
            Cell("time", "seconds"),
        ],
        rows,
        "Felled: images that became what the attack wants, and below, of how many. An attack that "
        "searches is given only what still stands, none (–) if nothing does: not what is wrong "
        "when clean, nor what it felled at a smaller ε, and a member of an ensemble not what a "
        "member before it felled. "
        "Passes are images through the model attacked, all ε together, divided by the images the "
        "attack was asked about, so that members add up to their ensemble.",
    )


def _cost_row(
    name: str, costs: pd.DataFrame, budgets: list[float], has_own: bool, num_seen: int
) -> list[Cell]:
    felled = []
    for eps in [*budgets, *([math.nan] if has_own else [])]:
        is_here = costs["eps_pixels"].isna() if math.isnan(eps) else costs["eps_pixels"] == eps
        of = costs[is_here]
        num_given, num_successes = int(of["num_images"].sum()), int(of["num_successes"].sum())
        felled.append(Cell(f"{num_successes:,}", f"of {num_given:,}") if num_given else Cell("–"))
    passes = (costs[column].sum() / num_seen for column in ("num_forward", "num_backward"))
    return [
        Cell(name),
        *felled,
        *(Cell(f"{each:,.1f}") for each in passes),
        Cell(f"{costs['seconds'].sum():,.1f}"),
    ]


def separation_table(trial: Trial) -> Table | None:
    """How well the null score tells each attack's images from clean ones."""
    scores = trial.scores
    is_outside = scores["attack"].astype(str).str.startswith(OOD)
    attacked = scores[~is_outside & ~scores["attack"].isin([CLEAN, UNION])]
    rows = []
    for (attack, eps), lines in attacked.groupby(["attack", "eps_pixels"], sort=True):
        name = f"{attack_name(str(attack))}, ε {eps_text(float(str(eps)))}"
        rows.append([Cell(name), *_metrics(lines, "auroc", "fpr95")])
    if not rows:
        return None
    return Table(
        "Attacked images told from clean ones by the null score",
        [Cell("images"), Cell("AUROC", "%"), Cell("FPR95", "%"), Cell("n")],
        rows,
        "AUROC: how often an attacked image has a higher null score than a clean one; 50 % is "
        "chance, and less means that attacked images look surer than clean ones. FPR95: share of "
        "clean images refused by the threshold that refuses 95 % of the attacked ones. "
        f"{_SCORED}",
    )


def selective_table(trial: Trial) -> Table | None:
    """Risk against coverage of clean images, and the error among what is accepted."""
    names = {"aurc": "AURC", "augrc": "AUGRC", "rerr99": "RErr at 99 % TPR"}
    rows = []
    for metric, name in names.items():
        for _, line in trial.scores[trial.scores["metric"] == metric].iterrows():
            where = "clean" if line["attack"] == CLEAN else f"ε {eps_text(line['eps_pixels'])}"
            value = _scored(line, 2 if metric == "rerr99" else 3)
            rows.append([Cell(f"{name}, {where}"), value, Cell(f"{line['num_images']:,}")])
    if not rows:
        return None
    told = (
        "AURC and AUGRC: areas under the curves of risk, and of risk times coverage, against "
        "coverage; an error is a wrong best real class, and smaller is better."
    )
    if (trial.scores["metric"] == "rerr99").any():
        told += (
            " RErr: error among the images accepted, clean or under any attack up to ε, at the "
            "threshold that accepts 99 % of the right held-out clean images."
        )
    return Table(
        "Refusing by the null score",
        [Cell("metric"), Cell("value", "%"), Cell("n")],
        rows,
        f"{told} {_SCORED}",
    )


def ood_table(trial: Trial) -> Table | None:
    """Inputs of no class: how many are answered null, and how well the score tells them."""
    scores = trial.scores
    outside = scores[scores["attack"].astype(str).str.startswith(OOD)]
    rows = [
        [Cell(str(source).removeprefix(OOD)), *_metrics(lines, "null", "auroc", "fpr95")]
        for source, lines in outside.groupby("attack", sort=False)
    ]
    if not rows:
        return None
    return Table(
        "Inputs of no class",
        [Cell("source"), Cell("null", "%"), Cell("AUROC", "%"), Cell("FPR95", "%"), Cell("n")],
        rows,
        "Null: share answered null, which is the only right answer. AUROC and FPR95: how well the "
        "null score tells them from clean test images (FPR95: share of clean images refused by "
        f"the threshold that refuses 95 % of these). {_SCORED}",
    )


_SCORED = "Below each value: its 95 % interval over the images."


def _metrics(lines: pd.DataFrame, *metrics: str) -> Iterator[Cell]:
    """A cell a metric, then the number of images."""
    for metric in metrics:
        of = lines[lines["metric"] == metric]
        yield _scored(of.iloc[0]) if len(of) else Cell("–")
    yield Cell(f"{int(lines['num_images'].max()):,}")


def _scored(line: pd.Series, digits: int = 2) -> Cell:
    value, low, high = (float(line[column]) for column in ("value", "low", "high"))
    if math.isnan(value):
        return Cell("–")
    small = "" if math.isnan(low) else f"{percent(low, digits)} to {percent(high, digits)}"
    return Cell(percent(value, digits), small)


def share_with_interval(num: int, total: int) -> str:
    """A share of images in a sentence: percent and its 95 % Wilson interval."""
    low, high = wilson(num, total)
    return f"{percent(num / total)} % ({percent(low)} to {percent(high)})"

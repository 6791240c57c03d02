"""Tables of one evaluation: threat model, costs of the attacks, metrics of the null score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from nullclass.diagnostics.evidence import CHECKS_NAME
from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Block, Cell, Table, Terms, Text
from nullclass.report.formatting import GOALS, NORMS, attack_name, eps_text, percent
from nullclass.report.sections import SCORED_TEXT
from nullclass.report.worst_case import OOD, can_refuse
from nullclass.results.schema import CLEAN, COST_COUNTS
from nullclass.results.store import Trial

ACCESS = {
    "white-box": "gradients and scores",
    "scores": "scores only",
    "labels": "labels only",
    "none": "none",
    "unknown": "not recorded",
}
"""Access of an attack to the model."""
WITHIN = {
    "linf": "no pixel changes by more than ε",
    "l2": "the Euclidean length of the change is at most ε",
    "l1": "the sum of the absolute changes is at most ε",
}
SELECTED_ON = {
    "test": "the test images, so every rate below is optimistic",
    "held-out": "held-out images",
}
OPTIMISTIC = "optimistic: the attacker did not know this threshold"
"""Below the name of a metric that depends on a threshold the attack was not made against."""
INTERVAL = "Below each value: its 95 % interval over the images."


def threat_model(trial: Trial) -> list[Block]:
    """The threat model of one evaluation; empty if it is not recorded."""
    threat = trial.result.get("threat")
    if not threat:
        return []
    norm = str(threat["norm"])
    terms = [
        (
            "budget",
            f"{NORMS.get(norm, norm)}: {WITHIN.get(norm, 'within ε of the clean image')}; ε in "
            f"pixel units ({threat['units']}); attacked images stay in [0, 1]",
        ),
        ("null", _null_rule(threat["threshold"], can_refuse(trial.rows))),
        ("data", f"{threat['data'] or 'not named'}, {threat['num_classes']} classes"),
        ("weights selected on", SELECTED_ON.get(threat["selected_on"], "nothing, as recorded")),
    ]
    attacks = [_attacks_table(threat["attacks"])] if threat["attacks"] else []
    return [*attacks, Terms(terms), Text(SCORED_TEXT)]


def _attacks_table(attacks: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, info in attacks.items():
        version = (info["settings"] or {}).get("version")
        eps = ", ".join(map(eps_text, info["eps"])) if info["eps"] else "each image's own"
        is_own = info["source"] == "self"
        rows.append(
            [
                Cell(attack_name(name), str(version or "")),
                Cell(GOALS.get(info["objective"], info["objective"])),
                Cell(ACCESS.get(info["access"], info["access"])),
                Cell("the model itself" if is_own else f"another model ({info['source_name']})"),
                Cell(eps),
                Cell(f"{info['num_images']:,}"),
            ]
        )
    headings = ["attack", "success", "access", "made on", "ε", "test images"]
    return Table("The attacks", [Cell(heading) for heading in headings], rows, holds_words=True)


def _null_rule(threshold: Mapping[str, Any] | None, has_null: bool) -> str:
    """When the model answers null."""
    if threshold is None:
        return "whenever it is the largest logit" if has_null else "never: the model has no null"
    rule = f"null score above {threshold['value']:.4g}"
    if threshold["origin"] != "held-out" or not threshold["num_images"]:
        return f"{rule}; the images it was calibrated on are not recorded"
    rule += (
        f", calibrated on {threshold['num_images']:,} held-out clean images for a null rate of at "
        f"most {percent(threshold['clean_null_rate'])} %; on these images it is "
        f"{percent(threshold['held_out_null_rate'])} %"
    )
    overlap = threshold["num_overlapping"]
    return f"{rule}; {overlap:,} of them are also test images" if overlap else rule


def cost_table(trial: Trial) -> Table | None:
    """Successes and cost of each attack and of each member of an ensemble."""
    is_check = trial.costs["attack"] == CHECKS_NAME
    costs, check_seconds = trial.costs[~is_check], trial.costs.loc[is_check, "seconds"].sum()
    if costs.empty:
        return None
    budgets = sorted(costs["eps_pixels"].dropna().unique())
    budgets += [math.nan] * bool(costs["eps_pixels"].isna().any())
    num_images = trial.rows.groupby("attack")["image"].nunique()
    rows = []
    for attack, of_attack in costs.groupby("attack", sort=False):
        num, name = int(num_images[attack]), attack_name(str(attack))
        members = of_attack.groupby("member", sort=False)
        by_eps = of_attack.groupby("eps_pixels", dropna=False, sort=False)
        total = by_eps[COST_COUNTS].sum().reset_index()
        # the first member gets all active images, the others those that remain
        total["num_images"] = by_eps["num_images"].first().to_numpy()
        rows.append(_cost_row(name, total, budgets, num))
        if len(members) > 1:
            rows += [_cost_row(f"· {member}", of, budgets, num) for member, of in members]
    return Table(
        "Successes and cost of each attack",
        [
            Cell("attack", "· member"),
            *(
                Cell("own ε" if math.isnan(eps) else f"ε {eps_text(eps)}", "successes")
                for eps in budgets
            ),
            Cell("forward", "passes per image"),
            Cell("backward", "passes per image"),
            Cell("time", "seconds"),
        ],
        rows,
        "Successes: images that become what the attack aims at; below, the number of images given. "
        "An iterative attack gets only active images: not those that already count when clean or "
        "at a smaller ε, and as a member of an ensemble not those of an earlier member. A dash: no "
        "image was active. Passes: images through the attacked model, over all ε, per image of the "
        "attack, so that members add up to their ensemble. The red-flag checks took "
        f"{check_seconds:,.1f} seconds.",
    )


def _cost_row(name: str, costs: pd.DataFrame, budgets: Sequence[float], num: int) -> list[Cell]:
    cells = []
    for eps in budgets:
        is_eps = costs["eps_pixels"].isna() if math.isnan(eps) else costs["eps_pixels"] == eps
        given, successes = costs.loc[is_eps, ["num_images", "num_successes"]].sum().astype(int)
        cells.append(Cell(f"{successes:,}", f"of {given:,}") if given else Cell("–"))
    passes = (costs[column].sum() / num for column in ("num_forwards", "num_backwards"))
    seconds = Cell(f"{costs['seconds'].sum():,.1f}")
    return [Cell(name), *cells, *(Cell(f"{each:,.1f}") for each in passes), seconds]


def separation_table(trial: Trial) -> Table | None:
    """AUROC and FPR95 of the null score, attacked against clean images."""
    scores = trial.scores
    is_ood = scores["attack"].astype(str).str.startswith(OOD)
    attacked = scores[~is_ood & ~scores["attack"].isin([CLEAN, UNION])]
    rows = [
        [
            Cell(f"{attack_name(str(attack))}, ε {eps_text(float(str(eps)))}", _optimism(lines)),
            *_metrics(lines, "auroc", "fpr95"),
        ]
        for (attack, eps), lines in attacked.groupby(["attack", "eps_pixels"], sort=True)
    ]
    if not rows:
        return None
    return Table(
        "Attacked against clean images by the null score",
        [Cell("images"), Cell("AUROC", "%"), Cell("FPR95", "%"), Cell("n")],
        rows,
        "AUROC: probability that an attacked image has a higher null score than a clean one. 50 % "
        "is chance; below, attacked images get lower null scores than clean ones. FPR95: share of "
        f"clean images rejected at the threshold that rejects 95 % of attacked ones. {INTERVAL}",
    )


def selective_table(trial: Trial) -> Table | None:
    """Areas under risk against coverage, and the robust error among accepted images."""
    names = {"aurc": "AURC", "augrc": "AUGRC", "rerr": "RErr", "rerr99": "RErr at 99 % TPR"}
    rows = []
    for metric, name in names.items():
        for _, line in trial.scores[trial.scores["metric"] == metric].iterrows():
            where = "clean" if line["attack"] == CLEAN else f"ε {eps_text(line['eps_pixels'])}"
            value = _score_cell(line, 2 if metric.startswith("rerr") else 3)
            small = _optimism(line.to_frame().T) if metric.startswith("rerr") else ""
            rows.append([Cell(f"{name}, {where}", small), value, Cell(f"{line['num_images']:,}")])
    if not rows:
        return None
    robust = (
        " RErr: error among the accepted images, clean or under any attack up to ε, by the model's "
        "own decision, or at the threshold that accepts 99 % of the correct held-out images."
    )
    has_robust = bool(trial.scores["metric"].str.startswith("rerr").any())
    return Table(
        "Rejection by the null score",
        [Cell("metric"), Cell("value", "%"), Cell("n")],
        rows,
        "AURC and AUGRC: areas under the curves of risk, and of risk times coverage, against "
        "coverage. An error is a wrong best real class; smaller is better."
        f"{robust if has_robust else ''} {INTERVAL}",
    )


def ood_table(trial: Trial) -> Table | None:
    """Inputs of no class: null rate, AUROC and FPR95."""
    scores = trial.scores
    ood = scores[scores["attack"].astype(str).str.startswith(OOD)]
    rows = [
        [Cell(str(source).removeprefix(OOD)), *_metrics(lines, "null_rate", "auroc", "fpr95")]
        for source, lines in ood.groupby("attack", sort=False)
    ]
    if not rows:
        return None
    return Table(
        "Inputs of no class",
        [Cell("source"), Cell("null", "%"), Cell("AUROC", "%"), Cell("FPR95", "%"), Cell("n")],
        rows,
        "Null: share answered null, the only correct answer. AUROC and FPR95: the null score "
        "against clean test images (FPR95: share of clean images rejected at the threshold that "
        f"rejects 95 % of these). {INTERVAL}",
    )


def _optimism(lines: pd.DataFrame) -> str:
    """:data:`OPTIMISTIC`, unless the attacks were made against the threshold."""
    return OPTIMISTIC if lines.get("is_optimistic", pd.Series([True])).any() else ""


def _metrics(lines: pd.DataFrame, *metrics: str) -> Iterator[Cell]:
    """One cell per metric, then the number of images."""
    for metric in metrics:
        of = lines[lines["metric"] == metric]
        yield _score_cell(of.iloc[0]) if len(of) else Cell("–")
    yield Cell(f"{int(lines['num_images'].max()):,}")


def _score_cell(line: pd.Series, digits: int = 2) -> Cell:
    value, low, high = (float(line[column]) for column in ("value", "low", "high"))
    if math.isnan(value):
        return Cell("–")
    small = "" if math.isnan(low) else f"{percent(low, digits)} to {percent(high, digits)}"
    return Cell(percent(value, digits), small)

"""Tables of one evaluation: threat model, costs of the attacks, metrics of the null score."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.diagnostics.evidence import CHECKS_NAME
from nullclass.metrics.rates import num_left_out
from nullclass.report.blocks import Block, Cell, Table, Terms, Text
from nullclass.report.formatting import NORMS, SUCCESS_TEXTS, attack_name, eps_text, percent
from nullclass.report.measures import Measures
from nullclass.report.sections import SCORED_TEXT
from nullclass.report.tables import make_table
from nullclass.results.info import AttackInfo, ThreatModel
from nullclass.results.run import Trial
from nullclass.results.schema import CLEAN, COST_COUNTS, MAX_TARGETS, OOD_PREFIX, SELF, UNION

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
    "nothing": "nothing: the last epoch; on which images the recipe was chosen is not recorded",
}
OPTIMISTIC = "optimistic: the attacker did not know this threshold"
"""Below the name of a metric that depends on a threshold the attack was not made against."""
SELECTIVE = {"aurc": "AURC", "augrc": "AUGRC", "rerr": "RErr", "rerr99": "RErr at 99 % TPR"}
INTERVAL = "Below each value: its 95 % interval over the images."


def threat_model(trial: Trial, measures: Measures) -> list[Block]:
    """The threat model of one evaluation."""
    threat = trial.result.threat
    norm = threat.norm
    terms = [
        (
            "budget",
            f"{NORMS.get(norm, norm)}: {WITHIN.get(norm, 'within ε of the clean image')}; ε in "
            f"pixel units ({threat.units}); attacked images stay in [0, 1]",
        ),
        ("null", _null_rule(threat, measures.has_null(trial.model))),
        ("data", f"{threat.data or 'not named'}, {threat.num_classes} classes"),
        ("weights selected on", SELECTED_ON.get(threat.selected_on or "", "unknown")),
    ]
    left_out = num_left_out(trial.rows)
    if left_out:
        counts = ", ".join(f"{num:,} at ε {eps_text(eps)}" for eps, num in left_out.items())
        text = f"left out by iterative attacks, except a few as an audit: {counts}"
        terms.append(("proved images", text))
    if threat.num_classes > MAX_TARGETS + 1:
        terms.append(
            (
                "targets",
                "attacks towards one answer after another take those with the largest clean "
                f"logits, {MAX_TARGETS} at most, unless their settings say otherwise",
            )
        )
    rows = [_attack_row(name, info) for name, info in threat.attacks.items()]
    headings = ["attack", "success", "access", "made on", "ε", "test images"]
    attacks = make_table("The attacks", headings, rows, holds_words=True)
    return [attacks, Terms(terms), Text(SCORED_TEXT)]


def _attack_row(name: str, info: AttackInfo) -> list[Any]:
    is_own = info.source == SELF
    return [
        (attack_name(name), str((info.settings or {}).get("version") or "")),
        SUCCESS_TEXTS.get(info.objective, info.objective),
        ACCESS.get(info.access, info.access),
        "the model itself" if is_own else f"another model ({info.source})",
        ", ".join(map(eps_text, info.eps)) if info.eps else "each image's own",
        info.num_images,
    ]


def _null_rule(threat: ThreatModel, has_null: bool) -> str:
    """When the model answers null."""
    threshold, proof = threat.threshold, threat.proof
    if threshold is None and proof is not None:
        budget = "" if proof.budget is None else f" with {proof.budget:,} parts per image"
        rule = (
            f"unless the verifier {proof.verifier}{budget} proves one class within "
            f"{proof.radius:g} ({NORMS.get(proof.norm, proof.norm)})"
        )
        if proof.verifier != "cascade":
            return f"{rule}; attacks know its bounds, and use their gradient"
        return (
            f"{rule}; attacks search through its first stage alone, the margins of interval "
            "bounds, and the whole cascade answers what they find"
        )
    if threshold is None:
        return "whenever it is the largest logit" if has_null else "never: the model has no null"
    rule = f"null score above {threshold.value:.4g}"
    rates = threshold.clean_null_rate, threshold.held_out_null_rate
    if threshold.origin != "held-out" or rates[0] is None or rates[1] is None:
        return f"{rule}; the images it was calibrated on are not recorded"
    rule += (
        f", calibrated on {threshold.num_images:,} held-out clean images for a null rate of at "
        f"most {percent(rates[0])} %; on these images it is "
        f"{percent(rates[1])} %"
    )
    overlap = threshold.num_overlapping
    return f"{rule}; {overlap:,} of them are also test images" if overlap else rule


def cost_table(trial: Trial) -> Table:
    """Successes and cost of each attack and of each member of an ensemble.

    Raises:
        UserError: If an attack has costs, but no rows.
    """
    is_check = trial.costs["attack"] == CHECKS_NAME
    costs, check_seconds = trial.costs[~is_check], trial.costs.loc[is_check, "seconds"].sum()
    eps = costs["eps_pixels"].drop_duplicates().sort_values().tolist()  # NaN last
    num_images = trial.rows.groupby("attack")["image"].nunique()
    rows = []
    for attack, of_attack in costs.groupby("attack", sort=False):
        if attack not in num_images:
            raise UserError(
                f"the tables in {trial.folder} do not belong together ({attack} has costs, but no "
                "rows): evaluate again"
            )
        num = int(num_images[attack])
        by_eps = of_attack.groupby("eps_pixels", dropna=False, sort=False)
        total = by_eps[COST_COUNTS].sum()
        # the first member gets all active images, the others those that remain
        total["num_images"] = by_eps["num_images"].first()
        rows.append(_cost_row(attack_name(str(attack)), total.reset_index(), eps, num))
        members = of_attack.groupby("member", sort=False)
        if len(members) > 1:
            rows += [_cost_row(f"· {member}", of, eps, num) for member, of in members]
    return make_table(
        "Successes and cost of each attack",
        [
            ("attack", "· member"),
            *(("own ε" if math.isnan(e) else f"ε {eps_text(e)}", "successes") for e in eps),
            ("forward", "passes per image"),
            ("backward", "passes per image"),
            ("time", "seconds"),
        ],
        rows,
        "Successes: images that become what the attack aims at; below, the number of images given. "
        "An iterative attack gets only active images: not those that already count when clean or "
        "at a smaller ε, and as a member of an ensemble not those of an earlier member. The worst "
        "case starts with the largest ε; at a smaller one it gets only images that succeeded, and "
        "no longer do when projected. Images proved never to be fooled are left out, except a few. "
        "A dash: no image was active. Passes: images through the attacked model, over all ε, per "
        "image of the attack, so that members add up to their ensemble. The red-flag checks took "
        f"{check_seconds:,.1f} seconds.",
    )


def _cost_row(name: str, costs: pd.DataFrame, eps: list[float], num: int) -> list[Any]:
    at_eps = costs.groupby("eps_pixels", dropna=False)[["num_images", "num_successes"]].sum()
    given = at_eps.reindex(eps, fill_value=0).astype(int).itertuples(index=False)
    counts = [(f"{successes:,}", f"of {n:,}") if n else None for n, successes in given]
    passes = (costs[column].sum() / num for column in ("num_forwards", "num_backwards"))
    return [name, *counts, *(f"{each:,.1f}" for each in (*passes, costs["seconds"].sum()))]


def separation_table(trial: Trial) -> Table:
    """AUROC and FPR95 of the null score, attacked against clean images."""
    scores = trial.scores
    is_ood = scores["attack"].astype(str).str.startswith(OOD_PREFIX)
    attacked = scores[~is_ood & ~scores["attack"].isin([CLEAN, UNION])]
    return make_table(
        "Attacked against clean images by the null score",
        ["images", ("AUROC", "%"), ("FPR95", "%"), "n"],
        [
            [
                (f"{attack_name(str(attack))}, ε {eps_text(float(str(eps)))}", _optimism(lines)),
                *_metrics(lines, "auroc", "fpr95"),
            ]
            for (attack, eps), lines in attacked.groupby(["attack", "eps_pixels"], sort=True)
        ],
        "AUROC: probability that an attacked image has a higher null score than a clean one. 50 % "
        "is chance; below, attacked images get lower null scores than clean ones. FPR95: share of "
        f"clean images rejected at the threshold that rejects 95 % of attacked ones. {INTERVAL}",
    )


def selective_table(trial: Trial) -> Table:
    """Areas under risk against coverage, and the robust error among accepted images."""
    rows = []
    for metric, name in SELECTIVE.items():
        is_robust = metric.startswith("rerr")
        for _, line in trial.scores[trial.scores["metric"] == metric].iterrows():
            where = "clean" if line["attack"] == CLEAN else f"ε {eps_text(line['eps_pixels'])}"
            small = _optimism(line.to_frame().T) if is_robust else ""
            value = _score_cell(line, 2 if is_robust else 3)
            rows.append([(f"{name}, {where}", small), value, int(line["num_images"])])
    return make_table(
        "Rejection by the null score",
        ["metric", ("value", "%"), "n"],
        rows,
        "AURC and AUGRC: areas under the curves of risk, and of risk times coverage, against "
        "coverage. An error is a wrong best real class; smaller is better. RErr: error among the "
        "accepted images, clean or under any attack up to ε, by the model's own decision, or at "
        f"the threshold that accepts 99 % of the correct held-out images. {INTERVAL}",
    )


def ood_table(trial: Trial) -> Table:
    """Inputs of no class: null rate, AUROC and FPR95."""
    scores = trial.scores
    ood = scores[scores["attack"].astype(str).str.startswith(OOD_PREFIX)]
    return make_table(
        "Inputs of no class",
        ["source", ("null", "%"), ("AUROC", "%"), ("FPR95", "%"), "n"],
        [
            [str(source).removeprefix(OOD_PREFIX), *_metrics(lines, "null_rate", "auroc", "fpr95")]
            for source, lines in ood.groupby("attack", sort=False)
        ],
        "Null: share answered null, the only correct answer. AUROC and FPR95: the null score "
        "against clean test images (FPR95: share of clean images rejected at the threshold that "
        f"rejects 95 % of these). {INTERVAL}",
    )


def _optimism(lines: pd.DataFrame) -> str:
    """:data:`OPTIMISTIC`, unless the attacks were made against the threshold."""
    return OPTIMISTIC if lines.get("is_optimistic", pd.Series([True])).any() else ""


def _metrics(lines: pd.DataFrame, *metrics: str) -> Iterator[Cell | int]:
    """One cell per metric, then the number of images."""
    for metric in metrics:
        of = lines[lines["metric"] == metric]
        yield _score_cell(of.iloc[0]) if len(of) else Cell("–")
    yield int(lines["num_images"].max())


def _score_cell(line: pd.Series, digits: int = 2) -> Cell:
    value, low, high = (float(line[column]) for column in ("value", "low", "high"))
    if math.isnan(value):
        return Cell("–")
    small = "" if math.isnan(low) else f"{percent(low, digits)} to {percent(high, digits)}"
    return Cell(percent(value, digits), small)

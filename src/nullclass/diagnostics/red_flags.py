"""Reasons to doubt an evaluation, each an automatic check; explained in docs/red-flags.md.

A check reads :class:`nullclass.diagnostics.evidence.Evidence` and returns one sentence with the
numbers, or None. It never needs the model, so stored results can be checked again. A flag is not a
proof of error, and an evaluation without flags may still be wrong. After Athalye et al. 2018,
Carlini et al. 2019 and Croce & Hein 2020, with checks that are specific to models with null.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from nullclass.diagnostics import probe_flags
from nullclass.diagnostics.evidence import (
    ALL,
    GREY,
    MIN_FAILURES,
    MIN_IMAGES,
    AttackRun,
    Evidence,
    is_many,
    names_of,
)
from nullclass.metrics.claims import find_violations
from nullclass.metrics.rates import wilson
from nullclass.results.schema import CLEAN, SELF, Flag

GREY_LEVEL = 1 / 255
"""One step of an 8-bit pixel, in pixel units: an image file cannot hold a smaller change."""

SAME = 1e-6
"""Largest difference of two losses that can be rounding in differently composed batches."""

ABOVE_CHANCE = 0.1
"""Accuracy has to be above chance by this share of the rest: 19 % for ten balanced classes."""

MIN_ANSWERED = 10
"""Answers needed to compare clean accuracy with chance: a useful model is far above it."""

HIGH_CLEAN_NULL = 0.05
"""Null rate of clean images: 95 % acceptance is the laxest operating point in use (FPR95)."""

BEST_KNOWN: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {
    # Gowal et al. 2020, "Uncovering the limits": 99.26 clean, 96.34 under AutoAttack at 0.3. In
    # between the model was not attacked, so its clean accuracy is the upper bound.
    ("mnist", "linf"): ((0.0, 0.9926), (0.3, 0.9634)),
}
"""By dataset and norm: increasing eps, and the best known robust accuracy from that eps on."""


def find_flags(evidence: Evidence) -> list[Flag]:
    """Return all red flags, in the order of :data:`CHECKS`."""
    messages = ((name, check(evidence)) for name, check in CHECKS.items())
    return [Flag(name=name, message=message) for name, message in messages if message is not None]


# The threat model


def _no_threat_model(evidence: Evidence) -> str | None:
    if not evidence.attacks:
        return "No attack was made within a stated budget, so nothing is known about robustness."
    unknown = [run for run in evidence.attacks if run.access == "unknown"]
    return f"The access of {names_of(unknown)} to the model is not declared." if unknown else None


def _eps_units(evidence: Evidence) -> str | None:
    largest = max(evidence.budgets, default=math.inf)
    if largest == 0 or largest >= GREY_LEVEL:
        return None
    return (
        f"The largest eps is {largest:.2g} in pixel units of [0,1], less than one grey level "
        f"(1/255 = {GREY_LEVEL:.4f}): it was probably divided by 255 once too often."
    )


def _no_null_aware_attack(evidence: Evidence) -> str | None:
    if not evidence.has_null or any(run.is_fooling for run in evidence.attacks):
        return None
    if not evidence.attacks:
        return None
    names = names_of(evidence.attacks)
    if any(run.objective == "fool" for run in evidence.attacks):
        return f"Every attack ({names}) aims at one chosen class only, or counts null as a success."
    return f"The model can answer null, but for every attack ({names}) null is a success."


def _transfer_as_white_box(evidence: Evidence) -> str | None:
    """Over all eps and members together, since one gradient may serve several eps."""
    columns = {"white-box": "num_backwards", "scores": "num_forwards", "labels": "num_forwards"}
    for (attack, access), costs in evidence.own_costs.groupby(["attack", "access"], sort=False):
        by_eps = costs.groupby("eps_pixels", dropna=False)
        num_images = int(by_eps["num_images"].max().sum())
        num_active = num_images - int(by_eps["num_successes"].sum().sum())
        column = columns.get(str(access))
        if column and num_active > 0 and not costs[column].sum():
            return (
                f"{attack} declares {access} access, but made no such pass through the model on "
                f"{num_images} images, {num_active} of which it did not fool."
            )
    return None


# The model


def _clean_near_chance(evidence: Evidence) -> str | None:
    answered = evidence.clean[evidence.clean["outcome"] != "null"]
    if len(answered) < MIN_ANSWERED:
        return None
    chance = evidence.clean["label"].value_counts(normalize=True).max()
    if chance == 1:
        return (
            f"All {len(evidence.clean)} images have the same label, so that a constant answer "
            "would be correct: take images of all classes."
        )
    num = int((answered["outcome"] == "correct").sum())
    if num / len(answered) > chance + ABOVE_CHANCE * (1 - chance):
        return None
    return (
        f"Only {num} of the {len(answered)} clean images that the model answers are correct, about "
        "chance: check the weights, the order of the classes, and that images are divided by 255 "
        "only once."
    )


# Attacks that are weaker than they could be


def _attack_moves_nothing(evidence: Evidence) -> str | None:
    for run in evidence.attacks:
        eps = run.rows["eps_pixels"].max()
        if run.access not in ("white-box", "unknown") or eps == 0:
            continue  # without gradients the clean image may well be the best one found
        attacked = run.at(eps).drop(index=list(run.left_out(eps)))
        clean = evidence.clean.reindex(attacked.index)
        # An image that is a success when clean is left alone.
        failed = ~(attacked["outcome"].isin(run.successes) | clean["outcome"].isin(run.successes))
        columns = ["loss", "null_loss", "confidence"]
        change = (attacked[columns] - clean[columns]).abs()[failed]
        is_same = ~(change > SAME).any(axis=1)  # a null loss of NaN is no change
        if len(is_same) >= MIN_FAILURES and is_same.mean() >= ALL:
            return (
                f"{run.name} at eps {eps:g} did not change the model's answer at all on "
                f"{int(is_same.sum())} of the {len(is_same)} images that it did not fool."
            )
    return None


def _single_step_beats_iterative(evidence: Evidence) -> str | None:
    white_box = [run for run in evidence.attacks if run.is_white_box]
    iterative = [run for run in white_box if run.is_iterative]
    return _only_found_by(
        evidence,
        [run for run in white_box if not run.is_iterative],
        [run for run in iterative if run.is_fooling] or iterative,
        "{name}, which does not search, fooled {num} of {total} images at eps {eps:g} that "
        "iterative attacks ({others}) did not fool.",
    )


def _black_box_beats_white_box(evidence: Evidence) -> str | None:
    white_box = [run for run in evidence.attacks if run.is_white_box]
    others = [run for run in evidence.attacks if not run.is_white_box and run.access != "unknown"]
    message = _only_found_by(
        evidence,
        others,
        [run for run in white_box if run.is_fooling] or white_box,
        "{name}, which uses no gradient of the model, fooled {num} of {total} images at eps "
        "{eps:g} that no gradient attack ({others}) fooled.",
    )
    return message or _black_box_member(evidence, white_box)


def _black_box_member(evidence: Evidence, white_box: list[AttackRun]) -> str | None:
    """The same inside an ensemble, whose members attack only what the earlier ones did not fool."""
    for run in white_box:
        costs = evidence.own_costs[evidence.own_costs["attack"] == run.name]
        for eps in sorted(costs["eps_pixels"].unique()):
            members = costs[(costs["eps_pixels"] == eps) & (costs["num_images"] > 0)]
            used_gradients = members["access"] == "white-box"
            is_after = used_gradients.cumsum() > 0
            total = len(run.images(eps))
            for member in members[is_after & ~used_gradients].to_dict("records"):
                if is_many(int(member["num_successes"]), total):
                    return (
                        f"In {run.name} at eps {eps:g} the member {member['member']} fooled "
                        f"{member['num_successes']} of {total} images without a gradient, after "
                        "the gradient attacks before it had failed."
                    )
    return None


def _aer_falls(evidence: Evidence) -> str | None:
    for run in (r for r in evidence.attacks if r.is_iterative and r.source == SELF):
        success = "fooled" if "fooled" in run.successes else "null"
        for small, large in pairwise(sorted(run.rows["eps_pixels"].unique())):
            at_small, at_large = run.at(small), run.at(large)
            both = at_small.index.intersection(at_large.index)
            before = int((at_small.loc[both, "outcome"] == success).sum())
            after = int((at_large.loc[both, "outcome"] == success).sum())
            if is_many(before - after, len(both)):
                did = "fooled" if success == "fooled" else "forced null on"
                return (
                    f"{run.name} {did} {before} of {len(both)} images at eps {small:g}, but only "
                    f"{after} at the larger {large:g}."
                )
    return probe_flags.rerun_differs(evidence)


def _strict_above_chance(evidence: Evidence) -> str | None:
    for eps in (eps for eps in evidence.budgets if eps >= GREY and evidence.norm == "linf"):
        judged = evidence.judged(eps)
        always_correct = judged & evidence.clean_with("correct") - evidence.fooled(eps)
        for run in evidence.attacks:
            within = run.rows[run.rows["eps_pixels"] <= eps]
            always_correct -= set(within.loc[within["outcome"] != "correct", "image"])
        labels = evidence.clean.loc[sorted(judged), "label"]
        chance = int(labels.value_counts().max()) if judged else 0
        if is_many(len(always_correct) - chance, len(judged)):
            return (
                f"At eps {eps:g}, where any image can be made grey, {len(always_correct)} of "
                f"{len(judged)} images stay correct under every attack; only the {chance} of one "
                "class can."
            )
    return None


def _proof_broken(evidence: Evidence) -> str | None:
    """One image is enough: a proof has no exceptions."""
    if evidence.certified.empty:
        return None
    checked = find_violations(evidence.rows, evidence.certified)
    if checked.violations.empty:
        return None
    first = checked.violations.iloc[0]
    claim = str(first["claim"])
    num = checked.violations.loc[checked.violations["claim"] == claim, "image"].nunique()
    by = "without any attack" if first["attack"] == CLEAN else f"by {first['attack']}"
    return (
        f"{num} of {checked.num_images[claim]} images proved to be {claim} were not: image "
        f"{first['image']}, proved at eps {first['proved']:g}, became {first['outcome']} at eps "
        f"{first['eps_pixels']:g} {by}."
    )


def _better_than_known(evidence: Evidence) -> str | None:
    known = BEST_KNOWN.get((str(evidence.info.get("data")), evidence.norm), ())
    for eps in (eps for eps in evidence.budgets if eps > 0 and known):
        judged = evidence.judged(eps)
        num = len((judged & evidence.clean_with("correct")) - evidence.fooled(eps))
        best = [accuracy for least, accuracy in known if least <= eps / 2][-1]
        if judged and wilson(num, len(judged))[0] > best:
            return (
                f"RAR at eps {eps:g} is {_percent(num, len(judged))}, above {100 * best:.2f} %, "
                "the best robust accuracy known at half that eps: a model that refuses so well "
                "could be turned into a classifier that robust."
            )
    return None


# How null is used


def _failures_all_null(evidence: Evidence) -> str | None:
    """Of the attack that fools most; weaker ones may well end in null.

    Only of images attacked at that eps: an image found at a larger one and projected may well end
    elsewhere than an attack would.
    """
    for eps in evidence.budgets:
        runs = [run for run in evidence.fooling_attacks if run.images(eps)]
        if not runs:
            continue
        strongest = max(runs, key=lambda run: len(run.fooled(eps)))
        rows = strongest.at(eps)
        outcomes = rows.loc[rows["attacked_eps_pixels"] == eps, "outcome"]
        failed = outcomes[outcomes.index.isin(evidence.judged(eps) - evidence.fooled(eps))]
        num = int((failed == "null").sum())
        if len(failed) >= MIN_FAILURES and num / len(failed) >= ALL:
            return (
                f"Of the {len(failed)} images that {strongest.name} could not fool at eps {eps:g}, "
                f"{num} ended in null: the attack may be stuck there."
            )
    return None


def _null_on_clean(evidence: Evidence) -> str | None:
    num, total = len(evidence.clean_with("null")), len(evidence.clean)
    if num < MIN_IMAGES or wilson(num, total)[0] <= HIGH_CLEAN_NULL:
        return None
    return f"The model answers null on {num} of {total} clean images ({_percent(num, total)})."


# Choices made on the test images


def _threshold_on_test(evidence: Evidence) -> str | None:
    num = (evidence.info.get("threshold") or {}).get("num_overlapping") or 0
    if num < MIN_IMAGES:
        return None
    return f"The null threshold was calibrated on {num} of the test images."


def _threshold_unknown(evidence: Evidence) -> str | None:
    threshold = evidence.info.get("threshold")
    if not threshold or threshold.get("origin") != "unknown":
        return None
    return (
        f"It is not recorded on which images the null threshold {threshold.get('value'):g} was "
        "chosen: if on the test images, the rates are too good."
    )


def _weights_on_test(evidence: Evidence) -> str | None:
    if evidence.info.get("selected_on") != "test":
        return None
    return "The weights were selected on the test images, so the rates are too good."


CHECKS: dict[str, Callable[[Evidence], str | None]] = {
    "no-threat-model": _no_threat_model,
    "eps-units": _eps_units,
    "clean-near-chance": _clean_near_chance,
    "no-null-aware-attack": _no_null_aware_attack,
    "transfer-as-white-box": _transfer_as_white_box,
    "attack-moves-nothing": _attack_moves_nothing,
    "single-step-beats-iterative": _single_step_beats_iterative,
    "black-box-beats-white-box": _black_box_beats_white_box,
    "doubling-finds-more": probe_flags.doubling_finds_more,
    "reference-finds-more": probe_flags.reference_finds_more,
    "aer-falls": _aer_falls,
    "largest-budget-survived": probe_flags.largest_budget_survived,
    "strict-above-chance": _strict_above_chance,
    "proof-broken": _proof_broken,
    "better-than-known": _better_than_known,
    "no-gradients": probe_flags.no_gradients,
    "zero-gradients": probe_flags.zero_gradients,
    "hidden-null-score": probe_flags.hidden_null_score,
    "misleading-null-gradient": probe_flags.misleading_null_gradient,
    "non-finite-gradients": probe_flags.non_finite_gradients,
    "random-gradients": probe_flags.random_gradients,
    "random-forward": probe_flags.random_forward,
    "failures-all-null": _failures_all_null,
    "null-on-noise": probe_flags.null_on_noise,
    "null-on-clean": _null_on_clean,
    "threshold-on-test": _threshold_on_test,
    "threshold-unknown": _threshold_unknown,
    "weights-on-test": _weights_on_test,
}
"""By name of the flag, which is also its heading in docs/red-flags.md."""


def _only_found_by(
    evidence: Evidence, runs: list[AttackRun], others: list[AttackRun], message: str
) -> str | None:
    """Return the message, if one of the runs fools images that none of the others fools."""
    for run in runs:
        for eps in sorted(run.rows["eps_pixels"].unique()):
            at_eps = [other for other in others if other.images(eps)]
            if not at_eps:
                continue
            common = run.images(eps).intersection(
                *(other.images(eps) - other.left_out(eps) for other in at_eps)
            )
            outcomes = run.at(eps)["outcome"]
            found = set(outcomes.index[outcomes == "fooled"]) & common
            found -= evidence.clean_with("fooled").union(*(o.fooled(eps) for o in others))
            if is_many(len(found), len(common)):
                return message.format(
                    num=len(found),
                    total=len(common),
                    eps=eps,
                    name=run.name,
                    others=names_of(at_eps),
                )
    return None


def _percent(num: int, total: int) -> str:
    return f"{100 * num / total:.1f} %"

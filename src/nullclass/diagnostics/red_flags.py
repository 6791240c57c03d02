"""Reasons not to believe an evaluation, each an automatic check; explained in docs/red-flags.md.

A check looks at the evidence and returns one sentence with the numbers, or None. It sees rows,
costs and probes (:mod:`nullclass.diagnostics.probes`) only, never a model, so that a report can be
checked
again long after. A flag is a reason to look again, not a proof of error; an evaluation without
flags may still be wrong. After Athalye et al. 2018, Carlini et al. 2019 and Croce & Hein 2020, with
what is peculiar to models that may refuse.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import pandas as pd

from nullclass.metrics.claims import hold
from nullclass.metrics.rates import GIVEN, wilson
from nullclass.results.schema import Flag

MIN_POINTS = 0.005
"""A difference worth a flag, as a share of images: half a point, the spread of a good attack over
its own random starts."""

MIN_IMAGES = 3
"""Images that must differ at least: one or two of a small probe can be chance."""

MIN_FAILURES = 20
"""Failed attacks needed before "all of them" says anything: the upper end of 0 of 20 is 16 %."""

ALL = 0.99
"""Share that counts as all, so that one odd image hides nothing."""

HIGH_ZERO_GRADIENTS = 0.05
"""Share of images without any gradient: trained networks have none, masked ones mostly all."""

HIGH_CLEAN_NULL = 0.05
"""Clean null rate: 95 % acceptance is the laxest operating point in common use (FPR95)."""

HIGH_NOISE_NULL = 0.1
"""Null rate on noise: twice the laxest clean null rate. Whoever refuses harmless noise that often
has traded answers for robustness, and an attack's random start begins inside null."""

GREY = 0.5
"""L-infinity eps from which any image can be made plain grey."""

GREY_LEVEL = 1 / 255
"""One step of an 8-bit pixel, in pixel units: no image file can hold a smaller change."""

SAME = 1e-6
"""Up to this two losses are the same: rounding of a batch put together differently."""

RANDOM_LOGITS = 1e-4
"""Difference of two passes, as a share of the largest logit; a GPU's rounding is below 1e-5."""

RANDOM_GRADIENTS = 1e-2
"""The same for gradients, as a share of their own size; sums of rounding cancel less well."""

BEST_KNOWN: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {
    # Gowal et al. 2020, "Uncovering the limits": 99.26 clean, 96.34 under AutoAttack at 0.3. In
    # between, where that model was not scored, its clean accuracy is an upper end.
    ("mnist", "linf"): ((0.0, 0.9926), (0.3, 0.9634)),
}
"""By data and norm: rising eps and the best robust accuracy known from that eps on."""


@dataclass(frozen=True, eq=False)
class AttackRun:
    """An attack as it was made: on one model, with its rows of budgets given."""

    name: str
    objective: str
    source_name: str
    """``self``, or the model it is transferred from."""
    access: str
    """The most that it or a member takes (``_NEEDS``); untold if one is silent."""
    is_iterative: bool
    """Whether it looks for one success in the ball; a single step does not."""
    aims: bool
    """Whether it is after another real class, not content with null."""
    rows: pd.DataFrame = field(repr=False)

    @property
    def is_white_box(self) -> bool:
        """Whether it takes the gradients of the very model it is scored on."""
        return self.source_name == "self" and self.access == "white-box"

    def at(self, eps: float) -> pd.DataFrame:
        """Its rows at one eps, by image."""
        return self.rows[self.rows["eps_pixels"] == eps].set_index("image")

    def seen(self, eps: float) -> set[int]:
        """Images that it attacked at an eps."""
        return set(self.rows.loc[self.rows["eps_pixels"] == eps, "image"])

    @cached_property
    def _first(self) -> pd.Series[float]:
        fooled = self.rows[self.rows["outcome"] == "fooled"]
        return fooled.groupby("image")["eps_pixels"].min()

    def fooled(self, eps: float) -> set[int]:
        """Images that it fooled at an eps or below."""
        return set(self._first.index[self._first <= eps])


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that checks look at."""

    rows: pd.DataFrame = field(repr=False)
    """One attacked image a line (:data:`nullclass.results.schema.ROW_COLUMNS`)."""
    costs: pd.DataFrame = field(repr=False)
    """One attack, or member of a cascade, at one eps a line: what it needs, found and cost
    (:data:`nullclass.results.schema.COST_COLUMNS`)."""
    probes: Mapping[str, Any]
    """What :func:`nullclass.diagnostics.probes.probe` found; empty if the model was not asked."""
    about: Mapping[str, Any]
    """``norm``, ``num_classes``; ``data``, the dataset's name; ``threshold``, None or a mapping
    with ``value``, ``origin`` (``held-out`` or ``untold``) and ``num_overlapping``, the test images
    it was calibrated on; ``selected_on``, None or the images that chose the weights."""
    certified: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    """What is proved of each image (:data:`nullclass.results.schema.CERTIFIED_COLUMNS`); empty if
    nothing
    was asked."""

    @property
    def norm(self) -> str:
        """The norm of the budgets."""
        return str(self.about.get("norm"))

    @cached_property
    def clean(self) -> pd.DataFrame:
        """Rows of the clean images, by image."""
        rows = self.rows.reindex(columns=_ROWS)
        return rows[rows["attack"] == "none"].drop_duplicates("image").set_index("image")

    def clean_with(self, outcome: str) -> set[int]:
        """Images with an outcome when clean."""
        return set(self.clean.index[self.clean["outcome"] == outcome])

    @cached_property
    def has_null(self) -> bool:
        """Whether the model can refuse."""
        if "has_null" in self.probes:
            return bool(self.probes["has_null"])
        rows = self.rows.reindex(columns=_ROWS)
        return bool((rows["prediction"] == -1).any() or rows["null_loss"].notna().any())

    @cached_property
    def spent(self) -> pd.DataFrame:
        """The costs, whatever columns there are."""
        return self.costs.reindex(columns=_COSTS)

    @cached_property
    def attacks(self) -> list[AttackRun]:
        """The attacks with one budget for all images, in the norm."""
        rows = self.rows.reindex(columns=_ROWS)
        is_given = (rows["attack"] != "none") & (rows["budget"] == GIVEN)
        made = []
        for (name, source_name), own in rows[is_given & (rows["norm"] == self.norm)].groupby(
            ["attack", "source"], sort=False
        ):
            told = self.spent[
                (self.spent["attack"] == name) & (self.spent["source"] == source_name)
            ]
            access = set(told["access"]) or {"unknown"}
            objective = str(own["objective"].iloc[0])
            made.append(
                AttackRun(
                    name=str(name),
                    objective=objective,
                    source_name=str(source_name),
                    access=next((need for need in _NEEDS if need in access), "unknown"),
                    is_iterative=bool(told["is_iterative"].eq(True).any()),
                    aims=objective == "fool" or (objective == "untargeted" and not self.has_null),
                    rows=own,
                )
            )
        return made

    @cached_property
    def aiming(self) -> list[AttackRun]:
        """The attacks that are after another real class; if there is none, all."""
        return [made for made in self.attacks if made.aims] or self.attacks

    @cached_property
    def budgets(self) -> list[float]:
        """Eps of the attacks, rising."""
        return sorted({float(eps) for made in self.attacks for eps in made.rows["eps_pixels"]})

    def judged(self, eps: float) -> set[int]:
        """Images scored clean and seen at an eps by all attacks that aim and were made there.

        None, if there is no such attack: an image that nobody attacked tells nothing.
        """
        images = [seen for seen in (made.seen(eps) for made in self.aiming) if seen]
        return set.intersection(set(self.clean.index), *images) if images else set()

    def fooled(self, eps: float) -> set[int]:
        """Images fooled by any attack at an eps or below, or when clean."""
        return self.clean_with("fooled").union(*(made.fooled(eps) for made in self.attacks))


_NEEDS = ("unknown", "white-box", "scores", "labels", "none")
_ROWS = ["image", "label", "attack", "objective", "source", "norm", "budget", "eps_pixels"]
_ROWS += ["prediction", "outcome", "confidence", "loss", "null_loss"]
_COSTS = ["attack", "source", "norm", "eps_pixels", "member", "access", "is_iterative"]
_COSTS += ["num_images", "num_successes", "num_forward", "num_backward"]


def find_flags(evidence: Evidence) -> list[Flag]:
    """All reasons for doubt, in the order of :data:`CHECKS`."""
    told = ((name, check(evidence)) for name, check in CHECKS.items())
    return [Flag(name, message) for name, message in told if message is not None]


# Who attacks, and with what


def _no_threat_model(evidence: Evidence) -> str | None:
    if not evidence.attacks:
        return "No attack was made within a stated budget, so nothing is known of robustness."
    unknown = [made.name for made in evidence.attacks if made.access == "unknown"]
    return f"Nothing says what {_list(unknown)} may take from the model." if unknown else None


def _eps_units(evidence: Evidence) -> str | None:
    largest = max(evidence.budgets, default=math.inf)
    if largest >= GREY_LEVEL:
        return None
    return (
        f"The largest eps is {largest:.2g} in pixel units of [0,1], less than one grey level "
        f"(1/255 = {GREY_LEVEL:.4f}): it was probably divided once too often."
    )


def _no_null_aware_attack(evidence: Evidence) -> str | None:
    if not evidence.has_null or not evidence.attacks or any(m.aims for m in evidence.attacks):
        return None
    names = _list([made.name for made in evidence.attacks])
    return f"The model may refuse, but no attack ({names}) is after another real class."


def _transfer_as_white_box(evidence: Evidence) -> str | None:
    """Over all eps and members together: one gradient may serve several eps."""
    own = evidence.spent[evidence.spent["source"] == "self"]
    for (attack, access), costs in own.groupby(["attack", "access"], sort=False):
        taken = {
            "white-box": "num_backward",
            "scores": "num_forward",
            "labels": "num_forward",
        }.get(str(access))
        by_eps = costs.groupby("eps_pixels", dropna=False)
        num_images = int(by_eps["num_images"].max().sum())
        num_stood = num_images - int(by_eps["num_successes"].sum().sum())
        if taken and num_stood > 0 and not costs[taken].sum():
            return (
                f"{attack} is said to use the model's {access}, but took none of them on "
                f"{num_images} images, {num_stood} of which stood."
            )
    return None


# Attacks that are weaker than they could be


def _attack_moves_nothing(evidence: Evidence) -> str | None:
    for made in evidence.attacks:
        eps = made.rows["eps_pixels"].max()
        if made.access not in ("white-box", "unknown") or eps == 0:
            continue  # what looks for no way up may well find that the clean image is its best
        tried = made.at(eps)
        clean = evidence.clean.reindex(tried.index)
        stood = tried["outcome"] == clean["outcome"]
        columns = ["loss", "null_loss", "confidence"]
        change = (tried[columns] - clean[columns]).abs()[stood]
        is_same = ~(change > SAME).any(axis=1)  # without null its loss is NaN: no change
        if len(is_same) >= MIN_FAILURES and is_same.mean() >= ALL:
            return (
                f"{made.name} at eps {eps:g} left the model's answer exactly as it was on "
                f"{int(is_same.sum())} of the {len(is_same)} images that stood."
            )
    return None


def _single_step_beats_iterative(evidence: Evidence) -> str | None:
    white = [made for made in evidence.attacks if made.is_white_box]
    iterative = [made for made in white if made.is_iterative]
    iterative = [made for made in iterative if made.aims] or iterative
    return _only_found_by(
        evidence,
        [made for made in white if not made.is_iterative],
        iterative,
        "{num} of {total} images at eps {eps:g} fell to a single step ({name}) that iterative "
        "attacks ({others}) could not fool.",
    )


def _black_box_beats_white_box(evidence: Evidence) -> str | None:
    white = [made for made in evidence.attacks if made.is_white_box]
    across = _only_found_by(
        evidence,
        [m for m in evidence.attacks if not m.is_white_box and m.access != "unknown"],
        [made for made in white if made.aims] or white,
        "{num} of {total} images at eps {eps:g} fell to {name}, which takes no gradient of the "
        "model, but to no attack that does ({others}).",
    )
    return across or _black_box_member(evidence)


def _black_box_member(evidence: Evidence) -> str | None:
    """The same inside a cascade, where each member is given what stands; by what it really took."""
    for made in (made for made in evidence.attacks if made.is_white_box):
        own = evidence.spent[
            (evidence.spent["attack"] == made.name) & (evidence.spent["source"] == "self")
        ]
        for eps, members in own.groupby("eps_pixels", sort=True):
            took_gradients = members["num_backward"] > 0
            is_after = took_gradients.cumsum() > 0
            total = len(made.seen(float(str(eps))))
            for _, member in members[is_after & ~took_gradients].iterrows():
                num = int(member["num_successes"])
                if is_many(num, total):
                    return (
                        f"In {made.name} at eps {eps:g} the member {member['member']} took no "
                        f"gradient, yet fooled {num} of {total} images after the gradient attacks "
                        "before it had failed."
                    )
    return None


def _doubling_finds_more(evidence: Evidence) -> str | None:
    told = evidence.probes.get("doubling") or {}
    for what in ("steps", "restarts"):
        of_it = told.get(what)
        if not of_it or of_it["num_successes"] < MIN_IMAGES:
            continue
        share = of_it["num_successes"] / of_it["num_images"]
        change = share * told["num_standing"] / told["num_judged"]
        if change > MIN_POINTS:
            return (
                f"With twice the {what}, {told['attack']} at eps {told['eps']:g} fooled "
                f"{of_it['num_successes']} of {of_it['num_images']} images that had stood: AER "
                f"would "
                f"rise by {100 * change:.1f} points."
            )
    return None


def _reference_finds_more(evidence: Evidence) -> str | None:
    told = evidence.probes.get("reference")
    if not told or not is_many(told["num_more"], told["num_images"]):
        return None
    return (
        f"At eps {told['eps']:g} a null-aware reference fooled {told['num_more']} of "
        f"{told['num_images']} images that the evaluation's attacks had not, beside the "
        f"{told['num_fooled']} that they had; a stock attack breaks {told['num_broken_by_stock']}, "
        f"{told['num_null_by_stock']} of them by null."
    )


def _aer_falls(evidence: Evidence) -> str | None:
    for made in (m for m in evidence.attacks if m.is_iterative and m.source_name == "self"):
        for small, large in pairwise(sorted(made.rows["eps_pixels"].unique())):
            at_small, at_large = made.at(small), made.at(large)
            both = at_small.index.intersection(at_large.index)
            was = int((at_small.loc[both, "outcome"] == "fooled").sum())
            now = int((at_large.loc[both, "outcome"] == "fooled").sum())
            if is_many(was - now, len(both)):
                return (
                    f"{made.name} fooled {was} of {len(both)} images at eps {small:g}, but only "
                    f"{now} at the larger {large:g}."
                )
    told = evidence.probes.get("anew")
    if not told or not told["num_images"]:
        return None
    num = told["num_images"] - told["num_fooled"]
    share = num / told["num_images"] * told["num_successes"] / told["num_judged"]
    if num < MIN_IMAGES or share <= MIN_POINTS:
        return None
    return (
        f"{told['attack']}, begun anew at eps {told['eps']:g}, did not fool {num} of "
        f"{told['num_images']} images that it had fooled at a smaller eps."
    )


def _largest_budget_survived(evidence: Evidence) -> str | None:
    told = evidence.probes.get("reach")
    if not told or not is_many(told["num_accepted"] - told["num_fooled"], told["num_images"]):
        return None
    return (
        f"At eps {told['eps']:g}, where any image can become any other, the attacks fooled "
        f"{told['num_fooled']} of {told['num_images']} images, although the model answers "
        f"{told['num_accepted']} clean ones with a real class."
    )


def _strict_above_chance(evidence: Evidence) -> str | None:
    for eps in (eps for eps in evidence.budgets if eps >= GREY and evidence.norm == "linf"):
        judged = evidence.judged(eps)
        standing = judged & evidence.clean_with("correct")
        for made in evidence.attacks:
            within = made.rows[made.rows["eps_pixels"] <= eps]
            standing -= set(within.loc[within["outcome"] != "correct", "image"])
        labels = evidence.clean.loc[sorted(judged), "label"]
        chance = int(labels.value_counts().max()) if judged else 0
        if is_many(len(standing) - chance, len(judged)):
            return (
                f"At eps {eps:g}, where any image can be made grey, {len(standing)} of "
                f"{len(judged)} images count as correct whatever is done; only {chance}, those "
                "of one class, can be."
            )
    return None


def _proof_broken(evidence: Evidence) -> str | None:
    """One image is enough: a proof has no exceptions."""
    if evidence.certified.empty:
        return None
    held = hold(evidence.rows, evidence.certified)
    if held.broken.empty:
        return None
    worst = held.broken.iloc[0]
    promise = str(worst["what"])
    num = held.broken.loc[held.broken["what"] == promise, "image"].nunique()
    by = "without any attack" if worst["attack"] == "none" else f"by {worst['attack']}"
    return (
        f"{num} of {held.num_images[promise]} images proved to be {promise} were not: image "
        f"{worst['image']}, proved at eps {worst['proved']:g}, became {worst['outcome']} at eps "
        f"{worst['eps_pixels']:g} {by}."
    )


def _better_than_known(evidence: Evidence) -> str | None:
    known = BEST_KNOWN.get((str(evidence.about.get("data")), evidence.norm), ())
    for eps in (eps for eps in evidence.budgets if eps > 0 and known):
        judged = evidence.judged(eps)
        num = len((judged & evidence.clean_with("correct")) - evidence.fooled(eps))
        best = [accuracy for least, accuracy in known if least <= eps / 2][-1]
        if judged and wilson(num, len(judged))[0] > best:
            return (
                f"RAR at eps {eps:g} is {_percent(num, len(judged))}, above {100 * best:.2f} %, "
                "the best robust accuracy known at half that eps: a model that refuses so well "
                "would make a classifier that robust."
            )
    return None


# Gradients and passes


def _zero_gradients(evidence: Evidence) -> str | None:
    told = evidence.probes.get("gradients")
    if not told:
        return None
    for key, what in (("margin", "the null-aware margin"), ("cross_entropy", "cross-entropy")):
        num, total = told[f"num_zero_{key}"], told["num_images"]
        if is_many(num, total, HIGH_ZERO_GRADIENTS):
            return f"The gradient of {what} is exactly zero on {num} of {total} images."
    return None


def _non_finite_gradients(evidence: Evidence) -> str | None:
    told = evidence.probes.get("gradients")
    if not told or not told["num_non_finite"]:
        return None
    return f"The gradient is not finite on {told['num_non_finite']} of {told['num_images']} images."


def _random_gradients(evidence: Evidence) -> str | None:
    told = evidence.probes.get("gradients")
    if not told or told["largest_difference"] <= RANDOM_GRADIENTS:
        return None
    return (
        "Two gradients of the same image differ by up to "
        f"{100 * told['largest_difference']:.2g} % of their size."
    )


def _random_forward(evidence: Evidence) -> str | None:
    told = evidence.probes.get("repeated")
    if not told or told["largest_difference"] <= RANDOM_LOGITS:
        return None
    return (
        "Two passes of the same image differ by up to "
        f"{100 * told['largest_difference']:.2g} % of the largest logit, and "
        f"{told['num_predictions']} of {told['num_images']} predictions change."
    )


def _softmax_as_logits(evidence: Evidence) -> str | None:
    told = evidence.probes.get("repeated")
    if not told or not told["are_probabilities"]:
        return None
    return (
        f"The outputs of {told['num_images']} images all lie in [0,1] and sum to 1: probabilities "
        "where logits are expected."
    )


# What null is used for


def _failures_all_null(evidence: Evidence) -> str | None:
    """Judged on the attack that fools most, as weaker ones may well end in null."""
    for eps in evidence.budgets:
        tried = [made for made in evidence.aiming if made.seen(eps)]
        if not tried:
            continue
        strongest = max(tried, key=lambda made: len(made.fooled(eps)))
        outcomes = strongest.at(eps)["outcome"]
        failed = outcomes[outcomes.index.isin(evidence.judged(eps) - evidence.fooled(eps))]
        num = int((failed == "null").sum())
        if len(failed) >= MIN_FAILURES and num / len(failed) >= ALL:
            return (
                f"Of the {len(failed)} images that {strongest.name} could not fool at eps {eps:g}, "
                f"{num} ended in null: it may have walked into it."
            )
    return None


def _null_on_noise(evidence: Evidence) -> str | None:
    told = evidence.probes.get("noise")
    if not told:
        return None
    for kind in ("uniform", "signs"):
        num, total = told[f"num_null_{kind}"], told["num_images"]
        if num >= MIN_IMAGES and wilson(num, total)[0] > HIGH_NOISE_NULL:
            return (
                f"Plain random noise ({kind}) of eps {told['eps']:g} turns {num} of {total} "
                "correct images to null."
            )
    return None


def _null_on_clean(evidence: Evidence) -> str | None:
    num, total = len(evidence.clean_with("null")), len(evidence.clean)
    if num < MIN_IMAGES or wilson(num, total)[0] <= HIGH_CLEAN_NULL:
        return None
    return f"The model refuses {num} of {total} clean images ({_percent(num, total)})."


# What was chosen by looking at the test images


def _threshold_on_test(evidence: Evidence) -> str | None:
    told = evidence.about.get("threshold")
    num = (told or {}).get("num_overlapping") or 0
    if num < MIN_IMAGES:
        return None
    return (
        f"{num} of the images on which the null threshold was calibrated are among the test images."
    )


def _threshold_untold(evidence: Evidence) -> str | None:
    told = evidence.about.get("threshold")
    if not told or told.get("origin") != "unknown":
        return None
    return (
        f"Nothing says on which images the null threshold {told.get('value'):g} was chosen: if on "
        "the test images, the rates flatter the model."
    )


def _weights_on_test(evidence: Evidence) -> str | None:
    if evidence.about.get("selected_on") != "test":
        return None
    return "The epoch of the weights was chosen on the test images, so the rates flatter the model."


CHECKS: dict[str, Callable[[Evidence], str | None]] = {
    "no-threat-model": _no_threat_model,
    "eps-units": _eps_units,
    "no-null-aware-attack": _no_null_aware_attack,
    "transfer-as-white-box": _transfer_as_white_box,
    "attack-moves-nothing": _attack_moves_nothing,
    "single-step-beats-iterative": _single_step_beats_iterative,
    "black-box-beats-white-box": _black_box_beats_white_box,
    "doubling-finds-more": _doubling_finds_more,
    "reference-finds-more": _reference_finds_more,
    "aer-falls": _aer_falls,
    "largest-budget-survived": _largest_budget_survived,
    "strict-above-chance": _strict_above_chance,
    "proof-broken": _proof_broken,
    "better-than-known": _better_than_known,
    "zero-gradients": _zero_gradients,
    "non-finite-gradients": _non_finite_gradients,
    "random-gradients": _random_gradients,
    "random-forward": _random_forward,
    "softmax-as-logits": _softmax_as_logits,
    "failures-all-null": _failures_all_null,
    "null-on-noise": _null_on_noise,
    "null-on-clean": _null_on_clean,
    "threshold-on-test": _threshold_on_test,
    "threshold-unknown": _threshold_untold,
    "weights-on-test": _weights_on_test,
}
"""Name of a flag, and of its paragraph in docs/red-flags.md, to its check."""


def is_many(num: int, total: int, share: float = MIN_POINTS) -> bool:
    """Whether a number of images is more than chance and more than a share."""
    return num >= MIN_IMAGES and num > share * total


def _only_found_by(
    evidence: Evidence, some: list[AttackRun], others: list[AttackRun], sentence: str
) -> str | None:
    """The sentence, if one of some attacks fools images that none of the others fools."""
    for made in some:
        for eps in sorted(made.rows["eps_pixels"].unique()):
            beside = [other for other in others if other.seen(eps)]
            if not beside:
                continue
            common = made.seen(eps).intersection(*(other.seen(eps) for other in beside))
            outcomes = made.at(eps)["outcome"]
            found = set(outcomes.index[outcomes == "fooled"]) & common
            found -= evidence.clean_with("fooled").union(*(o.fooled(eps) for o in others))
            if is_many(len(found), len(common)):
                return sentence.format(
                    num=len(found),
                    total=len(common),
                    eps=eps,
                    name=made.name,
                    others=_list([other.name for other in beside]),
                )
    return None


def _list(names: list[str]) -> str:
    return ", ".join(sorted(set(names)))


def _percent(num: int, total: int) -> str:
    return f"{100 * num / total:.1f} %"

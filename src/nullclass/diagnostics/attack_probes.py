"""Probes that repeat attacks, with more effort or in another way, within a budget of passes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nullclass.attacks import Attack, MultiTargetedPGD
from nullclass.core.norms import find_norm
from nullclass.core.outcomes import Outcome
from nullclass.core.sampling import evenly
from nullclass.diagnostics.evidence import BACKWARD, is_many
from nullclass.diagnostics.probe_context import ProbeContext, Result
from nullclass.models.classifier import Classifier
from nullclass.rejection.gates import NUM_DIRECTIONS, EstimatedGate

NUM_LARGEST = (4, 50)
"""Images attacked at the largest eps, where most are fooled quickly: in the first part, and in all.
Each part is twice as large as the one before."""

NUM_REPEATED = 100
"""Images attacked again that were fooled at a smaller eps, at most."""

REFERENCE = MultiTargetedPGD(num_steps=20, num_targets=3)
"""The null-aware reference attack, the same for every evaluation."""

REFERENCE_COST = 3 * (20 * (1 + BACKWARD) + 1) + 2
"""Cost of an image that it does not fool (:func:`nullclass.diagnostics.evidence.cost_of`)."""

ESTIMATED_COST = REFERENCE_COST + 3 * 20 * 2 * NUM_DIRECTIONS
"""The same with estimated gradients of the null score."""

STEPS = ("num_steps", "num_queries", "num_draws")
RESTARTS = ("num_restarts",)
"""Settings of attacks that are doubled."""


def largest_eps(context: ProbeContext) -> Result:
    """Run all attacks at the largest eps there is, where any image can become any other.

    Stops as soon as the attacks fail on many images, or the rest may cost more than is left.
    """
    evidence = context.evidence
    rest = evenly(evidence.clean.index, NUM_LARGEST[1])
    if not rest or not context.attacks:
        return None
    eps = find_norm(context.norm).largest(math.prod(context.data.images.shape[1:]))
    chosen = evenly(rest, NUM_LARGEST[0])
    num_images = num_accepted = num_fooled = 0
    while chosen:
        active = [image for image in chosen if image not in evidence.clean_with("fooled")]
        for attack in context.attacks.values():
            fooled = context.attack(attack, active, eps) == Outcome.FOOLED
            active = [image for image, success in zip(active, fooled, strict=True) if not success]
        num_images += len(chosen)
        num_accepted += len(set(chosen) - evidence.clean_with("null"))
        num_fooled += len(chosen) - len(active)
        rest = [image for image in rest if image not in chosen]
        chosen = evenly(rest, 2 * len(chosen))
        is_too_much = context.cost * (1 + len(chosen) / num_images) > context.left
        if is_many(num_accepted - num_fooled, num_images) or is_too_much:
            break
    return {
        "eps": eps,
        "num_images": num_images,
        "num_accepted": num_accepted,
        "num_fooled": num_fooled,
    }


def rerun(context: ProbeContext) -> Result:
    """Run the strongest attack at an eps at which its outcomes follow from another eps.

    Either it did not attack what it had not fooled at a larger eps, of which a part of it might
    fool some; or it counts as fooled what it had fooled at a smaller one.
    """
    budgets = sorted({float(eps) for run in context.runs for eps in run.rows["eps_pixels"]} - {0.0})
    run = context.strongest(budgets[-1]) if len(budgets) > 1 else None
    if run is None:
        return None
    eps, rows = budgets[-2], run.at(budgets[-2])
    survived = set(rows.index[rows["attacked_eps_pixels"] > eps])
    images = [image for image in context.survivors(eps) if image in survived]
    name, attack, cost = context.last_success(run)
    if not images:
        eps, rows = budgets[-1], run.at(budgets[-1])
        is_carried = (rows["attacked_eps_pixels"] < eps) & (rows["outcome"] == "fooled")
        images = evenly(rows.index[is_carried], NUM_REPEATED)
        name, attack, cost = run.name, context.attacks[run.name], context.cost_of_failure(run)
    num_judged, num_images, num_fooled = len(context.evidence.judged(eps)), 0, 0
    for chosen in context.rounds(images, cost):
        num_images += len(chosen)
        num_fooled += context.num_fooled(attack, chosen, eps)
        num_changed = num_fooled if eps < budgets[-1] else num_images - num_fooled
        if is_many(num_changed, num_judged):
            break
    return {
        "attack": name,
        "eps": eps,
        "follows_from": "larger" if eps < budgets[-1] else "smaller",
        "num_judged": num_judged,
        "num_images": num_images,
        "num_fooled": num_fooled,
    }


def reference(context: ProbeContext) -> Result:
    """Run a null-aware attack on images that the evaluation's attacks did not fool."""
    eps = context.middle_eps()
    return None if eps is None else attack_survivors(context, REFERENCE, eps, REFERENCE_COST)


def doubled(context: ProbeContext, settings: Sequence[str]) -> Result:
    """Run a part of the strongest attack with twice the steps, or restarts, on its failures."""
    eps = context.middle_eps()
    run = context.strongest(eps)
    if eps is None or run is None:
        return None
    name, attack, cost = context.last_success(run)
    stronger = double(attack, settings)
    if stronger is None:
        return None
    return {"attack": name, **attack_survivors(context, stronger, eps, 2 * cost)}


def gate(context: ProbeContext) -> Result:
    """Repeat an attack that went through a gate on the model as given, on images that it fooled."""
    eps = context.middle_eps()
    run = context.strongest(eps)
    if context.given is context.model or eps is None or run is None:
        return None
    name, attack, cost = context.last_success(run)
    fooled = context.evidence.clean_with("correct") & run.fooled(eps)
    num_images = num_fooled = 0
    for chosen in context.rounds(evenly(sorted(fooled), NUM_REPEATED), cost):
        num_images += len(chosen)
        num_fooled += context.num_fooled(attack, chosen, eps, context.given)
        if is_many(num_images - num_fooled, num_images):
            break
    return {"attack": name, "eps": eps, "num_images": num_images, "num_fooled": num_fooled}


def estimated_gate(context: ProbeContext) -> Result:
    """Run the reference on survivors of a model whose null score hides from gradients.

    With estimated gradients: what its gate compares is not known.
    """
    eps, gradients = context.middle_eps(), context.results.get("gradients")
    if eps is None or not context.model.has_null or not gradients:
        return None
    is_hidden = gradients["num_zero_null_score"] == gradients["num_images"]
    if (
        context.given is not context.model
        or not is_hidden
        or gradients["num_zero_margin"] == gradients["num_images"]
    ):
        return None
    estimated = partial(EstimatedGate, context.given, eps / 3, context.seed)
    return attack_survivors(context, REFERENCE, eps, ESTIMATED_COST, estimated)


ATTACK_PROBES: dict[str, Callable[[ProbeContext], Result]] = {
    "gate": gate,
    "estimated_gate": estimated_gate,
    "largest_eps": largest_eps,
    "rerun": rerun,
    "reference": reference,
    "doubled_steps": partial(doubled, settings=STEPS),
    "doubled_restarts": partial(doubled, settings=RESTARTS),
}
"""In the order in which they take their share of the budget."""


def attack_survivors(
    context: ProbeContext,
    attack: Attack,
    eps: float,
    cost: float,
    make_model: Callable[[], Classifier] | None = None,
) -> dict[str, Any]:
    """Attack images that no attack of the evaluation fooled, the most nearly fooled first.

    So the share of successes among all images is a lower bound, from however few survivors. Stops
    as soon as there are enough for a red flag.

    Args:
        context: The evaluation.
        attack: The attack.
        eps: The budget in pixel units.
        cost: Cost of an image on which the attack fails.
        make_model: Returns the model to attack, anew for each part of the images, so that what is
            finished does not change the rest. Default: the model whose gate attacks see through.
    """
    num_judged, survivors = len(context.evidence.judged(eps)), context.survivors(eps)
    num_images = num_fooled = 0
    for chosen in context.rounds(survivors, cost):
        num_images += len(chosen)
        model = None if make_model is None else make_model()
        num_fooled += context.num_fooled(attack, chosen, eps, model)
        if is_many(num_fooled, num_judged):
            break
    return {
        "eps": eps,
        "num_judged": num_judged,
        "num_survivors": len(survivors),
        "num_images": num_images,
        "num_fooled": num_fooled,
    }


def double(attack: Any, settings: Sequence[str]) -> Any:
    """Return an attack with these settings doubled, in its members too; None if it has none.

    Args:
        attack: An attack, or any dataclass inside of one.
        settings: Names of whole numbers.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(attack) if dataclasses.is_dataclass(attack) else ():
        value = getattr(attack, field.name)
        if field.name in settings and isinstance(value, int):
            changes[field.name] = 2 * value
        elif isinstance(value, tuple):
            parts = [double(part, settings) for part in value]
            if any(part is not None for part in parts):
                pairs = zip(parts, value, strict=True)
                changes[field.name] = tuple(old if new is None else new for new, old in pairs)
        elif (part := double(value, settings)) is not None:
            changes[field.name] = part
    return dataclasses.replace(attack, **changes) if changes else None

"""Probes that repeat attacks, with more effort or in another way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from nullclass.attacks import PGD, Attack, AttackEnsemble, MultiTargetedPGD
from nullclass.attacks.steps import NoGradientError
from nullclass.core.norms import find_norm
from nullclass.core.outcomes import Outcome
from nullclass.core.sampling import evenly
from nullclass.diagnostics.evidence import MIN_IMAGES
from nullclass.diagnostics.probe_context import ProbeContext, Result

NUM_LARGEST = 50
"""Images attacked at the largest eps: most are fooled quickly."""

NUM_REPEATED = 100
"""Images attacked again, by the reference or at a larger eps."""

NUM_DOUBLED = (64, 200)
"""Images attacked with twice the effort; the second number if the successes among the first are too
few to count. Each image costs about four times what it cost in the evaluation."""

REFERENCE = AttackEnsemble((PGD(num_steps=40), MultiTargetedPGD(num_steps=20)), ("pgd", "targets"))
"""The null-aware reference attack, the same for every evaluation."""

STOCK = PGD(objective="untargeted", num_steps=40)
"""What attack libraries do: any answer but the true label counts as success, null included."""

EFFORTS = {"steps": ("num_steps", "num_queries", "num_draws"), "restarts": ("num_restarts",)}
"""Settings of attacks that are doubled together."""


def expected_seconds(context: ProbeContext) -> float:
    """Return the estimated time of these probes, from the costs of the evaluation's own attacks."""
    eps, costs = context.middle_eps(), context.evidence.own_costs
    run = context.strongest(eps)
    num_passes = costs["num_forwards"].sum() + costs["num_backwards"].sum()
    if eps is None or run is None or not num_passes:
        return 0.0
    of_run = costs[(costs["attack"] == run.name) & (costs["eps_pixels"] == eps)]
    per_image = of_run["seconds"].sum() / max(of_run["num_images"].max(), 1)
    num_active = len(context.evidence.judged(eps) - context.evidence.fooled(eps))
    num_repeats = 4 * min(num_active, NUM_DOUBLED[0]) + NUM_LARGEST + NUM_REPEATED
    num_reference = NUM_REPEATED * 40 * (4 + context.model.num_classes - 1)
    per_pass = costs["seconds"].sum() / num_passes
    return float(per_image * num_repeats + per_pass * num_reference)


def largest_eps(context: ProbeContext) -> Result:
    """Run all attacks at the largest eps there is, where any image can become any other."""
    evidence = context.evidence
    indices = evenly(evidence.clean.index, NUM_LARGEST)
    if not indices or not context.attacks:
        return None
    eps = find_norm(context.norm).largest(math.prod(context.data.images.shape[1:]))
    active = [image for image in indices if image not in evidence.clean_with("fooled")]
    for attack in context.attacks.values():
        fooled = context.attack(attack, active, eps) == Outcome.FOOLED
        active = [image for image, success in zip(active, fooled, strict=True) if not success]
    return {
        "eps": eps,
        "num_images": len(indices),
        "num_accepted": len(set(indices) - evidence.clean_with("null")),
        "num_fooled": len(indices) - len(active),
    }


def doubling(context: ProbeContext) -> Result:
    """Run the strongest attack with twice the steps, then twice the restarts, on its failures."""
    eps = context.middle_eps()
    run = context.strongest(eps)
    if eps is None or run is None:
        return None
    judged = context.evidence.judged(eps)
    active = judged - context.evidence.fooled(eps)
    results: dict[str, Any] = {
        "attack": run.name,
        "eps": eps,
        "num_judged": len(judged),
        "num_active": len(active),
        "num_images": 0,
    }
    for effort, settings in EFFORTS.items():
        stronger = double(context.attacks[run.name], settings)
        if stronger is None:
            results[effort] = None
            continue
        indices = evenly(active, NUM_DOUBLED[0])
        num_successes = context.num_fooled(stronger, indices, eps)
        if 0 < num_successes < MIN_IMAGES:  # too few to count: attack more
            more = evenly(active.difference(indices), NUM_DOUBLED[1] - len(indices))
            num_successes += context.num_fooled(stronger, more, eps)
            indices += more
        results[effort] = {"num_images": len(indices), "num_successes": num_successes}
        results["num_images"] += len(indices)
    return results


def double(attack: Attack, settings: Sequence[str]) -> Attack | None:
    """Return the attack with these settings doubled, in members too; None if it has none."""
    changes: dict[str, Any] = {}
    config: Any = attack
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        value = getattr(attack, field.name)
        if field.name in settings and isinstance(value, int):
            changes[field.name] = 2 * value
        elif field.name == "members" and isinstance(value, tuple):
            members = [double(member, settings) for member in value]
            if any(member is not None for member in members):
                pairs = zip(members, value, strict=True)
                changes["members"] = tuple(new or old for new, old in pairs)
    return dataclasses.replace(config, **changes) if changes else None


def rerun(context: ProbeContext) -> Result:
    """Run the strongest attack again at the largest eps, on images it fooled at a smaller one."""
    budgets = sorted({float(eps) for run in context.runs for eps in run.rows["eps_pixels"]} - {0.0})
    run = context.strongest(budgets[-1]) if len(budgets) > 1 else None
    if run is None:
        return None
    eps, judged = budgets[-1], context.evidence.judged(budgets[-1])
    successes = (run.fooled(budgets[-2]) & judged) - context.evidence.clean_with("fooled")
    indices = evenly(successes, NUM_REPEATED)
    return {
        "attack": run.name,
        "eps": eps,
        "num_judged": len(judged),
        "num_successes": len(successes),
        "num_images": len(indices),
        "num_fooled": context.num_fooled(context.attacks[run.name], indices, eps),
    }


def reference(context: ProbeContext) -> Result:
    """Run a null-aware and a stock attack on the images of the evaluation's attacks."""
    eps = context.middle_eps()
    if eps is None:
        return None
    indices = evenly(context.evidence.judged(eps), NUM_REPEATED)
    fooled = context.evidence.fooled(eps)
    active = [image for image in indices if image not in fooled]
    is_active = torch.tensor([image not in fooled for image in indices])
    try:
        by_stock = context.attack(STOCK, indices, eps)
    except NoGradientError:
        return None
    by_reference = context.attack(REFERENCE, active, eps)
    is_new = (by_stock[is_active] == Outcome.FOOLED) | (by_reference == Outcome.FOOLED)
    return {
        "eps": eps,
        "num_images": len(indices),
        "num_fooled": len(indices) - len(active),
        "num_more": int(is_new.sum()),
        "num_broken_by_stock": int((by_stock != Outcome.CORRECT).sum()),
        "num_null_by_stock": int((by_stock == Outcome.NULL).sum()),
    }

"""Questions to the model that red flags need and rows do not answer
(:mod:`nullclass.diagnostics.red_flags`).

Each probe is a function of its own on few images, and returns numbers that go into JSON as they
are. They are taken evenly from all images, so that data sorted by class do not mislead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import PGD, Attack, AttackEnsemble, MultiTargetedPGD
from nullclass.attacks.base import TakesReferenceImages, frozen
from nullclass.attacks.losses import find_objective
from nullclass.attacks.state import logits_of
from nullclass.core.losses import cross_entropy
from nullclass.core.norms import find_ball, is_allowed
from nullclass.core.outcomes import NULL_LABEL, Outcome, outcomes, predictions
from nullclass.data import LabelledImages
from nullclass.diagnostics.red_flags import GREY, MIN_IMAGES, AttackRun, Evidence
from nullclass.models.classifier import Classifier

NUM_ASKED = 64
"""Images of a probe that asks for a few passes."""

NUM_REACHED = 50
"""Images attacked at the largest budget: most fall at once."""

NUM_AGAIN = 100
"""Images attacked once more: by the reference, and anew at a larger eps."""

NUM_DOUBLED = (64, 200)
"""Images attacked with twice the effort: the second number only if so few of the first fall that it
could be chance. An image costs four times here what it costs in the evaluation."""

NUM_NOISY = 200
"""Images shown with noise: one pass each."""

REFERENCE = AttackEnsemble((PGD(num_steps=40), MultiTargetedPGD(num_steps=20)), ("pgd", "targets"))
"""The null-aware reference: fixed, so that evaluations are held against the same attack."""

STOCK = PGD(objective="untargeted", num_steps=40)
"""What attack libraries do: whatever is not the true label counts as success, null too."""

EFFORTS = {"steps": ("num_steps", "num_queries", "num_draws"), "restarts": ("num_restarts",)}
"""Settings of attacks that are doubled."""

OnImages = Callable[[int], None]


def probe(
    model: Classifier,
    data: LabelledImages,
    rows: pd.DataFrame,
    attacks: Mapping[str, Attack],
    *,
    norm: str,
    seed: int,
    on_images: OnImages | None = None,
) -> dict[str, Any]:
    """Ask the model all that red flags need.

    Args:
        model: The model under test.
        data: The test images the rows are about.
        rows: One attacked image a line (:data:`nullclass.results.schema.ROW_COLUMNS`), clean ones
        too.
        attacks: The attacks of the rows by name; those made on another model are passed over.
        norm: Of the budgets.
        seed: Of noise and random starts.
        on_images: Progress: called with the number of images just dealt with.

    Returns:
        ``has_null``, and one dictionary a probe, None where there is nothing to ask:
        ``repeated``, ``gradients``, ``noise``, ``reach``, ``doubling``, ``anew``, ``reference``.
    """
    asked = _Asked(model, data, rows, attacks, norm, seed)
    told: dict[str, Any] = {"has_null": model.has_null}
    for name, question in PROBES.items():
        told[name] = question(asked)
        if on_images is not None:
            on_images(0 if told[name] is None else told[name]["num_images"])
    return told


class _Asked:
    """What all probes look at."""

    def __init__(
        self,
        model: Classifier,
        data: LabelledImages,
        rows: pd.DataFrame,
        attacks: Mapping[str, Attack],
        norm: str,
        seed: int,
    ) -> None:
        self.model, self.data, self.norm, self.seed = model, data, norm, seed
        self.rows = Evidence(rows, pd.DataFrame(), {"has_null": model.has_null}, {"norm": norm})
        """The rows, as red flags see them."""
        made_here = (m for m in self.rows.attacks if m.source_name == "self" and m.name in attacks)
        self.own = [made for made in made_here if made.aims]
        """The attacks on this model that are after another real class."""
        self.attacks = {made.name: _prepared(attacks[made.name], data) for made in self.own}

    def generator(self) -> torch.Generator:
        """A fresh one for every probe, so that none hangs on another."""
        return torch.Generator().manual_seed(self.seed)

    def images(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Some images and labels, where the model is."""
        images, labels = self.data.batch(list(positions))
        device = self.model.mean.device
        return images.to(device), labels.to(device)

    def lets_gradients_through(self) -> bool:
        """Whether the logits hang on the pixels, as far as autograd can see."""
        images, _ = self.images([0])
        with frozen(self.model):
            return bool(self.model(images.clone().requires_grad_()).requires_grad)

    def contested_eps(self) -> float | None:
        """The eps whose AER is nearest to one half, the larger of equals: there is most to find."""
        distances = {}
        for eps in reversed(self.rows.budgets):
            judged = self.rows.judged(eps)
            if eps > 0 and judged:
                distances[eps] = abs(len(judged & self.rows.fooled(eps)) / len(judged) - 0.5)
        return min(distances, key=lambda eps: distances[eps], default=None)

    def strongest(self, eps: float) -> AttackRun | None:
        """The attack that fools most at eps, of those that search."""
        searching = [made for made in self.own if self.attacks[made.name].is_iterative]
        tried = [made for made in searching if made.seen(eps)]
        return max(tried, key=lambda made: len(made.fooled(eps)), default=None)

    def attack(self, attack: Attack, positions: Sequence[int], eps: float) -> Tensor:
        """``(N,)`` outcomes under an attack, scored outside it; out of budget counts as clean."""
        if not len(positions):
            return torch.zeros(0, dtype=torch.int64)
        images, labels = self.images(positions)
        tried = attack(
            self.model, images, labels, eps=eps, norm=self.norm, generator=self.generator()
        )
        allowed = is_allowed(tried, images, eps, self.norm).view(-1, 1, 1, 1)
        with frozen(self.model):
            logits = logits_of(self.model, torch.where(allowed, tried, images))
        return outcomes(predictions(logits, self.model.num_classes), labels).cpu()


def _prepared(attack: Attack, data: LabelledImages) -> Attack:
    return (
        attack.with_reference_images(data) if isinstance(attack, TakesReferenceImages) else attack
    )


def evenly(images: Iterable[int], num: int) -> list[int]:
    """At most `num` of some positions, evenly from first to last."""
    positions = sorted({int(image) for image in images})
    if len(positions) <= num:
        return positions
    return [positions[(2 * n + 1) * len(positions) // (2 * num)] for n in range(num)]


def _repeated(asked: _Asked) -> dict[str, Any] | None:
    """The same images twice: is the forward pass random, and are its outputs logits?"""
    positions = evenly(asked.rows.clean.index, NUM_ASKED)
    if not positions:
        return None
    images, _ = asked.images(positions)
    with frozen(asked.model), torch.no_grad():
        first, second = asked.model(images), asked.model(images)
    size = first.abs().amax().clamp(min=torch.finfo(first.dtype).tiny)
    sums_to_one = (first.sum(dim=1) - 1).abs() < 1e-4
    in_range = (first >= 0).all(dim=1) & (first <= 1).all(dim=1)
    changed = first.argmax(dim=1) != second.argmax(dim=1)
    return {
        "num_images": len(positions),
        "num_predictions": int(changed.sum()),
        "largest_difference": float((first - second).abs().amax() / size),
        "are_probabilities": bool((sums_to_one & in_range).all()),
    }


def _gradients(asked: _Asked) -> dict[str, Any] | None:
    """Gradients at clean images that the model gets right."""
    positions = evenly(asked.rows.clean_with("correct"), NUM_ASKED)
    if not positions:
        return None
    model, (images, labels) = asked.model, asked.images(positions)
    margin = find_objective("fool").loss

    def of_cross_entropy(logits: Tensor) -> Tensor:
        return cross_entropy(logits, labels, reduction="sum")

    def of_margin(logits: Tensor) -> Tensor:
        return margin(logits, labels, model.num_classes, "logsumexp-margin").sum()

    is_open = asked.lets_gradients_through()

    def gradient(climbed: Callable[[Tensor], Tensor]) -> Tensor:
        if not is_open:
            return torch.zeros_like(images).flatten(1)
        start = images.clone().requires_grad_()
        with frozen(model):
            (found,) = torch.autograd.grad(climbed(model(start)), start)
        return found.flatten(1)

    by_entropy, by_margin, again = map(gradient, (of_cross_entropy, of_margin, of_margin))
    is_finite = (by_entropy.isfinite() & by_margin.isfinite()).all(dim=1)
    size = torch.maximum(by_margin.norm(dim=1), again.norm(dim=1))
    differences = (by_margin - again).norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny)
    return {
        "num_images": len(positions),
        "num_zero_cross_entropy": int((by_entropy == 0).all(dim=1).sum()),
        "num_zero_margin": int((by_margin == 0).all(dim=1).sum()),
        "num_non_finite": int((~is_finite).sum()),
        "largest_difference": float(differences[is_finite].amax()) if is_finite.any() else 0.0,
    }


def _noise(asked: _Asked) -> dict[str, Any] | None:
    """Null rate of right answers under noise of the largest eps that leaves an image visible."""
    visible = GREY if asked.norm == "linf" else math.inf
    budgets = [eps for eps in asked.rows.budgets if 0 < eps < visible]
    positions = evenly(asked.rows.clean_with("correct"), NUM_NOISY)
    if not budgets or not positions or not asked.model.has_null:
        return None
    eps, norm, generator = max(budgets), find_ball(asked.norm), asked.generator()
    images, _ = asked.images(positions)
    uniform = norm.random(images, eps, generator)
    signs = eps * norm.steepest(uniform, images)  # the corners of the ball
    counts = {}
    for kind, delta in (("uniform", uniform), ("signs", signs)):
        noisy = norm.project(images + delta, images, eps)
        with frozen(asked.model):
            predicted = predictions(logits_of(asked.model, noisy), asked.model.num_classes)
        counts[f"num_null_{kind}"] = int((predicted == NULL_LABEL).sum())
    return {"eps": eps, "num_images": len(positions), **counts}


def _reach(asked: _Asked) -> dict[str, Any] | None:
    """All attacks together at the largest budget there is, where any image can become any other."""
    positions = evenly(asked.rows.clean.index, NUM_REACHED)
    if not positions or not asked.attacks:
        return None
    eps = find_ball(asked.norm).largest(math.prod(asked.data.images.shape[1:]))
    is_null, is_fooled = (asked.rows.clean_with(outcome) for outcome in ("null", "fooled"))
    standing = [image for image in positions if image not in is_fooled]
    num_fooled = len(positions) - len(standing)
    for attack in asked.attacks.values():
        fell = asked.attack(attack, standing, eps) == Outcome.FOOLED
        standing = [image for image, succeeded in zip(standing, fell, strict=True) if not succeeded]
        num_fooled += int(fell.sum())
    return {
        "eps": eps,
        "num_images": len(positions),
        "num_accepted": sum(image not in is_null for image in positions),
        "num_fooled": num_fooled,
    }


def _doubling(asked: _Asked) -> dict[str, Any] | None:
    """The strongest attack with twice the steps, then twice the restarts, on what stands."""
    eps = asked.contested_eps()
    made = None if eps is None else asked.strongest(eps)
    if eps is None or made is None:
        return None
    judged = asked.rows.judged(eps)
    standing = judged - asked.rows.fooled(eps)
    told: dict[str, Any] = {
        "attack": made.name,
        "eps": eps,
        "num_judged": len(judged),
        "num_standing": len(standing),
        "num_images": 0,
    }
    for effort, settings in EFFORTS.items():
        stronger = doubled(asked.attacks[made.name], settings)
        told[effort] = None if stronger is None else _fallen(asked, stronger, standing, eps)
        told["num_images"] += told[effort]["num_images"] if told[effort] else 0
    return told


def _fallen(asked: _Asked, attack: Attack, standing: set[int], eps: float) -> dict[str, int]:
    """How many of a few images fall; of more, if that leaves it open."""
    few = evenly(standing, NUM_DOUBLED[0])
    num_successes = _num_fooled(asked.attack(attack, few, eps))
    if not 0 < num_successes < MIN_IMAGES:
        return {"num_images": len(few), "num_successes": num_successes}
    more = evenly(standing.difference(few), NUM_DOUBLED[1] - len(few))
    num_successes += _num_fooled(asked.attack(attack, more, eps))
    return {"num_images": len(few) + len(more), "num_successes": num_successes}


def doubled(attack: Attack, settings: Sequence[str]) -> Attack | None:
    """The attack with these settings doubled, in members too; None if it has none of them."""
    changes: dict[str, Any] = {}
    settled: Any = attack
    for field in dataclasses.fields(settled) if dataclasses.is_dataclass(settled) else ():
        value = getattr(attack, field.name)
        if field.name in settings and isinstance(value, int):
            changes[field.name] = 2 * value
        elif field.name == "members" and isinstance(value, tuple):
            members = [doubled(member, settings) for member in value]
            if any(member is not None for member in members):
                pairs = zip(members, value, strict=True)
                changes["members"] = tuple(new or old for new, old in pairs)
    return dataclasses.replace(settled, **changes) if changes else None


def _anew(asked: _Asked) -> dict[str, Any] | None:
    """The strongest attack anew at the largest eps, on images that it fooled at a smaller one."""
    budgets = sorted({float(eps) for made in asked.own for eps in made.rows["eps_pixels"]} - {0.0})
    made = asked.strongest(budgets[-1]) if len(budgets) > 1 else None
    if made is None:
        return None
    eps = budgets[-1]
    judged = asked.rows.judged(eps)
    fallen = (made.fooled(budgets[-2]) & judged) - asked.rows.clean_with("fooled")
    positions = evenly(fallen, NUM_AGAIN)
    return {
        "attack": made.name,
        "eps": eps,
        "num_judged": len(judged),
        "num_successes": len(fallen),
        "num_images": len(positions),
        "num_fooled": _num_fooled(asked.attack(asked.attacks[made.name], positions, eps)),
    }


def _reference(asked: _Asked) -> dict[str, Any] | None:
    """A null-aware and a stock attack beside the evaluation's own, on the same images."""
    eps = asked.contested_eps()
    if eps is None or not asked.lets_gradients_through():
        return None
    positions = evenly(asked.rows.judged(eps), NUM_AGAIN)
    fooled = asked.rows.fooled(eps)
    stands = torch.tensor([image not in fooled for image in positions])
    standing = [image for image in positions if image not in fooled]
    by_stock = asked.attack(STOCK, positions, eps)
    by_reference = asked.attack(REFERENCE, standing, eps)
    more = (by_stock[stands] == Outcome.FOOLED) | (by_reference == Outcome.FOOLED)
    return {
        "eps": eps,
        "num_images": len(positions),
        "num_fooled": len(positions) - len(standing),
        "num_more": int(more.sum()),
        "num_broken_by_stock": int((by_stock != Outcome.CORRECT).sum()),
        "num_null_by_stock": int((by_stock == Outcome.NULL).sum()),
    }


def _num_fooled(scored: Tensor) -> int:
    return int((scored == Outcome.FOOLED).sum())


PROBES: dict[str, Callable[[_Asked], dict[str, Any] | None]] = {
    "repeated": _repeated,
    "gradients": _gradients,
    "noise": _noise,
    "reach": _reach,
    "doubling": _doubling,
    "anew": _anew,
    "reference": _reference,
}
"""Name of a probe to the function that asks."""

"""What all probes share: the model, its data and its evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack, AttackEnsemble
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.counters import Passes, count_passes
from nullclass.attacks.state import logits_of
from nullclass.core.modules import frozen
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.data import LabelledImages
from nullclass.diagnostics.evidence import BACKWARD, MIN_IMAGES, AttackRun, Evidence, cost_of
from nullclass.models.classifier import Classifier
from nullclass.rejection import ThroughGate
from nullclass.results.schema import LEFT_OUT, SELF
from nullclass.scoring.parts import NOTHING, Parts
from nullclass.scoring.score import batch_of

Result = dict[str, Any] | None
"""Of a probe: JSON values, or None where it does not apply."""

BATCH_COST = 5
"""Cost of a batch of any size, in images: 2 to 13 for the networks of the zoo on a processor."""


class ProbeContext:
    """The model, its evaluation and its attacks, as all probes use them."""

    def __init__(
        self,
        model: Classifier,
        data: LabelledImages,
        evidence: Evidence,
        attacks: Mapping[str, Attack],
        seed: int,
        batch_size: int | None,
    ) -> None:
        self.model, self.data, self.evidence, self.seed = model, data, evidence, seed
        self.given = model.model if isinstance(model, ThroughGate) else model
        """The model as given, whose gate may hide the null score from gradients."""
        self.results: dict[str, Any] = {}
        """Of the probes before."""
        self.batch_size = batch_size
        self.norm = evidence.norm
        self.runs = [
            run
            for run in evidence.attacks
            if run.source == SELF and run.is_fooling and run.name in attacks
        ]
        """The fooling attacks on this model."""
        self.begin(NOTHING, 0, 0)
        self.attacks = {
            run.name: with_reference_images(attacks[run.name], data) for run in self.runs
        }

    def begin(self, parts: Parts, left: float, share: float) -> None:
        """Start a probe, which keeps its finished attacks in ``parts`` and has cost nothing yet.

        Args:
            parts: Of this probe.
            left: Cost (:func:`nullclass.diagnostics.evidence.cost_of`) of this and later probes.
            share: What this probe should cost.
        """
        self.parts, self.left, self.share, self.num_attacks = parts, left, share, 0
        self.passes, self.seconds_before = Passes(), 0.0

    @property
    def cost(self) -> int:
        """What the probe has cost so far."""
        num_batches = self.passes.forward_batches + BACKWARD * self.passes.backward_batches
        return self.passes.forward + BACKWARD * self.passes.backward + BATCH_COST * num_batches

    def generator(self) -> torch.Generator:
        """Return a new one for every probe, so that probes do not depend on each other."""
        return torch.Generator().manual_seed(self.seed)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images and labels on the model's device."""
        return batch_of(self.model, self.data, torch.tensor(indices, dtype=torch.int64))

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels in parts of the batch size."""
        images, labels = self.batch(indices)
        size = self.batch_size or len(indices)
        yield from zip(images.split(size), labels.split(size), strict=True)

    def middle_eps(self) -> float | None:
        """The eps whose AER is nearest to one half (the larger of ties)."""
        distances = {}
        for eps in reversed(self.evidence.budgets):
            judged = self.evidence.judged(eps)
            if eps > 0 and judged:
                distances[eps] = abs(len(judged & self.evidence.fooled(eps)) / len(judged) - 0.5)
        return min(distances, key=lambda eps: distances[eps], default=None)

    def strongest(self, eps: float | None) -> AttackRun | None:
        """Return the iterative attack that fools most images at eps."""
        runs = [
            run
            for run in self.runs
            if eps is not None and self.attacks[run.name].is_iterative and run.images(eps)
        ]
        return max(runs, key=lambda run: len(run.fooled(eps or 0.0)), default=None)

    def survivors(self, eps: float) -> list[int]:
        """Return the images that were attacked but not fooled at eps, the most nearly fooled first.

        Near is a large probability of all wrong real classes together, under any attack at eps.
        """
        rows = pd.concat([run.at(eps) for run in self.evidence.fooling_attacks])
        survivors = self.evidence.judged(eps) - self.evidence.fooled(eps)
        rows = rows[rows.index.isin(survivors) & (rows["member"] != LEFT_OUT)]
        losses = rows[["loss", "null_loss"]].fillna(np.inf).to_numpy()
        wrong = pd.Series(1 - np.exp(-losses).sum(axis=1), rows.index).groupby(level=0).max()
        return sorted(wrong.index, key=lambda image: (-wrong[image], image))

    def cost_of_failure(self, run: AttackRun, member: str | None = None) -> float:
        """Estimate the cost of an image that an attack, or one of its members, does not fool.

        Rather too high: as if successes had cost nothing.
        """
        costs = self.evidence.own_costs
        costs = costs[(costs["attack"] == run.name) & (costs["num_images"] > 0)]
        if member is not None:
            costs = costs[costs["member"] == member]
        num_failures = (costs["num_images"] - costs["num_successes"]).clip(lower=1)
        by_eps = (cost_of(costs) / num_failures).groupby(costs["eps_pixels"]).sum()
        return float(by_eps.max()) if len(by_eps) else 0.0

    def last_success(self, run: AttackRun) -> tuple[str, Attack, float]:
        """Return an attack to repeat, with its name and the cost of an image that it does not fool.

        Of an ensemble, most of whose cost is that of members that find nothing, it is the last
        member that used gradients and fooled an image; if none did, the first that used gradients.
        """
        attack, costs = self.attacks[run.name], self.evidence.own_costs
        if isinstance(attack, AttackEnsemble):
            costs = costs[(costs["attack"] == run.name) & (costs["access"] == "white-box")]
            num_successes = costs.groupby("member")["num_successes"].sum()
            used = [member for member in attack.names if member in num_successes]
            if used:
                member = [*used[:1], *(name for name in used if num_successes[name] > 0)][-1]
                repeated = attack.members[attack.names.index(member)]
                return f"{run.name} ({member})", repeated, self.cost_of_failure(run, member)
        return run.name, attack, self.cost_of_failure(run)

    def rounds(self, images: Sequence[int], cost: float) -> Iterator[list[int]]:
        """Yield images in parts, each as large as the rest of the share pays for.

        What successes have saved pays for the next part. Fewer than :data:`MIN_IMAGES` would decide
        nothing; so many may cost more than the share, if enough is left.

        Args:
            images: Which images, the most important first.
            cost: Cost of an image on which the attack fails.
        """
        images = list(images)
        while images:
            needed = min(MIN_IMAGES, len(images))
            num = _num_affordable(self.share - self.cost, cost, len(images))
            if num < needed and not self.cost:
                num = min(needed, _num_affordable(self.left, cost, len(images)))
            if num < needed:
                return
            yield images[:num]
            images = images[num:]

    def attack(
        self,
        attack: Attack,
        indices: Sequence[int],
        eps: float,
        model: Classifier | None = None,
    ) -> Tensor:
        """Return ``(N,)`` outcomes under an attack; out of budget counts as clean.

        Args:
            attack: The attack.
            indices: Which images.
            eps: The budget in pixel units.
            model: Default: the model whose gate attacks see through.
        """
        if not len(indices):
            return torch.zeros(0, dtype=torch.int64)
        parts = self.parts.of(str(self.num_attacks), attack=attack, chosen=list(indices), eps=eps)
        self.num_attacks += 1
        before = asdict(self.passes)
        started = time.perf_counter()
        done = parts.keep(partial(self._attack, attack, indices, eps, model or self.model))
        # kept or computed now, its cost counts once
        for name, num in done["passes"].items():
            setattr(self.passes, name, before[name] + num)
        self.seconds_before += done["seconds"] - (time.perf_counter() - started)
        found: Tensor = done["outcomes"]
        return found

    def _attack(
        self, attack: Attack, indices: Sequence[int], eps: float, model: Classifier
    ) -> dict[str, Any]:
        started = time.perf_counter()
        images, labels = self.batch(indices)
        with count_passes(self.given) as passes:
            adv_images = attack(
                model,
                images,
                labels,
                eps=eps,
                norm=self.norm,
                generator=self.generator(),
                batch_size=self.batch_size,
            )
            is_kept = is_allowed(adv_images, images, eps, self.norm).view(-1, 1, 1, 1)
            with frozen(model):
                kept = torch.where(is_kept, adv_images, images)
                logits = logits_of(model, kept, self.batch_size)
        return {
            "outcomes": outcomes(predictions(logits, model.num_classes), labels).cpu(),
            "passes": asdict(passes),
            "seconds": time.perf_counter() - started,
        }

    def num_fooled(
        self,
        attack: Attack,
        indices: Sequence[int],
        eps: float,
        model: Classifier | None = None,
    ) -> int:
        """Return how many images an attack fools; arguments as for :meth:`attack`."""
        return int((self.attack(attack, indices, eps, model) == Outcome.FOOLED).sum())


def _num_affordable(budget: float, cost: float, num_images: int) -> int:
    """Return how many of the images, in one batch, a budget pays for."""
    return min(num_images, int(budget // cost) - BATCH_COST) if cost else num_images

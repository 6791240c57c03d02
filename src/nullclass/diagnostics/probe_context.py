"""What all probes share: the model, its data and its evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.counters import Passes, count_passes
from nullclass.attacks.state import logits_of
from nullclass.core.modules import frozen
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.data import LabelledImages
from nullclass.diagnostics.evidence import AttackRun, Evidence
from nullclass.models.classifier import Classifier
from nullclass.results.schema import SELF
from nullclass.scoring.parts import NOTHING, Parts
from nullclass.scoring.score import batch_of

Result = dict[str, Any] | None
"""Of a probe: JSON values, or None where it does not apply."""


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
        self.batch_size = batch_size
        self.norm = evidence.norm
        self.runs = [
            run
            for run in evidence.attacks
            if run.source == SELF and run.is_fooling and run.name in attacks
        ]
        """The fooling attacks on this model."""
        self.begin(NOTHING)
        self.attacks = {
            run.name: with_reference_images(attacks[run.name], data) for run in self.runs
        }

    def begin(self, parts: Parts) -> None:
        """Start a probe, which keeps its finished attacks in ``parts`` and has cost nothing yet."""
        self.parts, self.num_attacks = parts, 0
        self.passes, self.seconds_before = Passes(), 0.0

    def generator(self) -> torch.Generator:
        """Return a new one for every probe, so that probes do not depend on each other."""
        return torch.Generator().manual_seed(self.seed)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images and labels on the model's device."""
        return batch_of(self.model, self.data, torch.tensor(indices, dtype=torch.int64))

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

    def attack(self, attack: Attack, indices: Sequence[int], eps: float) -> Tensor:
        """Return ``(N,)`` outcomes under an attack; out of budget counts as clean."""
        if not len(indices):
            return torch.zeros(0, dtype=torch.int64)
        parts = self.parts.of(str(self.num_attacks), attack=attack, chosen=list(indices), eps=eps)
        self.num_attacks += 1
        passes, forward, backward = self.passes, self.passes.forward, self.passes.backward
        started = time.perf_counter()
        done = parts.keep(partial(self._attack, attack, indices, eps))
        # kept or computed now, its cost counts once
        passes.forward = forward + done["num_forwards"]
        passes.backward = backward + done["num_backwards"]
        self.seconds_before += done["seconds"] - (time.perf_counter() - started)
        found: Tensor = done["outcomes"]
        return found

    def _attack(self, attack: Attack, indices: Sequence[int], eps: float) -> dict[str, Any]:
        started = time.perf_counter()
        images, labels = self.batch(indices)
        with count_passes(self.model) as passes:
            adv_images = attack(
                self.model,
                images,
                labels,
                eps=eps,
                norm=self.norm,
                generator=self.generator(),
                batch_size=self.batch_size,
            )
            is_kept = is_allowed(adv_images, images, eps, self.norm).view(-1, 1, 1, 1)
            with frozen(self.model):
                logits = logits_of(self.model, torch.where(is_kept, adv_images, images))
        return {
            "outcomes": outcomes(predictions(logits, self.model.num_classes), labels).cpu(),
            "num_forwards": passes.forward,
            "num_backwards": passes.backward,
            "seconds": time.perf_counter() - started,
        }

    def num_fooled(self, attack: Attack, indices: Sequence[int], eps: float) -> int:
        """Return how many images an attack fools."""
        return int((self.attack(attack, indices, eps) == Outcome.FOOLED).sum())

"""What stands around an attack of another library so that it can be aimed at a null-class model.

Other libraries know no null and call every change of the answer a success. So the attack is handed
an ordinary network: a K-class view of images of one true class, or the model itself with one wrong
class after another as the target. Libraries take one budget, so images are parted by budget too.
What comes back is put into ball and box and scored by its outcome; the library's own word on its
success counts for nothing.
"""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.external.loading import Library
from nullclass.attacks.external.view import Form, KClassView
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps
from nullclass.core.outcomes import predictions
from nullclass.models.classifier import Classifier

View = Literal["grouped", "targeted", "plain"]


@dataclass(frozen=True)
class Task:
    """What a library is given at a time: an ordinary network and images with one budget."""

    network: nn.Module
    """From images in [0,1] to logits ``(N, num_logits)``."""
    num_logits: int
    images: Tensor
    """``(N, C, H, W)`` in [0,1], in none of which the attacker has what he wants."""
    labels: Tensor
    """``(N,)``: the classes to leave, or those to reach."""
    is_targeted: bool
    """Whether the labels are to be reached."""
    eps: float
    """In pixel units, positive."""
    norm: str
    """A name in :data:`nullclass.core.norms.BALLS`."""
    known: tuple[Tensor, Tensor]
    """All the clean images there are, ``(M, C, H, W)``, and what the model answers, ``(M,)`` with
    -1 for null: for attacks that start from an image of another class."""


@dataclass(frozen=True, kw_only=True)
class Adapter(ABC):
    """An attack of another library as one of ours (:class:`nullclass.attacks.base.Attack`)."""

    view: View = "grouped"
    """What the library sees. ``grouped``: a K-class view, the images grouped by their true class.
    ``targeted``: all logits, and every wrong real class as the target in turn, the nearest first,
    on what still stands. ``plain``: all logits and no target, as if null were any other class; the
    objective is then ``untargeted``."""
    form: Form = "max"
    """How the K-class view merges the true and the null logit."""
    access: Access = "white-box"
    """What the attack takes from the model."""
    batch_size: int = 250
    """How many images the library gets at once, at most."""
    library: ClassVar[Library]
    is_iterative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that do not exist, and a library that is not there or broken."""
        for name, kinds in (("view", View), ("form", Form), ("access", Access)):
            chosen, known = getattr(self, name), get_args(kinds)
            if chosen not in known:
                raise UserError(f"there is no {name} {chosen!r}: choose one of {', '.join(known)}")
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {self.batch_size}")
        self.library.load()

    @property
    def objective(self) -> ObjectiveName:
        """What the view makes the library look for."""
        return "untargeted" if self.view == "plain" else "fool"

    @abstractmethod
    def run(self, task: Task) -> Tensor:
        """What the library makes of the images, ``(N, C, H, W)``.

        It may draw from the global generators and leave gradients in the parameters.

        Raises:
            UserError: If the library cannot do this norm, or cannot be targeted.
        """

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """See :class:`nullclass.attacks.base.Attack`.

        Raises:
            UserError: If the library is not there, or cannot do what is asked.
        """
        eps = check_eps(eps, norm, images.shape)
        seed = int(torch.randint(2**31, (), generator=generator))
        standing = AttackState(
            model, images, labels, eps, norm, self.objective, batch_size=batch_size
        )

        def margin(logits: Tensor, indices: Tensor) -> Tensor:
            here = labels[indices]
            return standing.objective.margin(logits, here, model.num_classes, "hard")

        with frozen(model), _undisturbed(model, seed):
            for indices in standing.batches():  # what needs no attack gets none
                standing.try_out(indices, standing.images[indices], margin)
            for indices, task in self._tasks(standing, norm):
                tried = self.run(task).detach().to(task.images)
                is_finite = tried.flatten(1).isfinite().all(dim=1).view(-1, 1, 1, 1)
                tried = torch.where(is_finite, tried, task.images)
                tried = standing.norm.project(tried, task.images, task.eps)
                standing.try_out(indices, tried, margin)
        return standing.adv_images

    def _tasks(self, standing: AttackState, norm: str) -> Iterator[tuple[Tensor, Task]]:
        """What is still to do, as others fall: indices of images ``(N,)`` and the task."""
        model, images = standing.model, standing.images
        if not len(images):
            return
        logits = logits_of(model, images)
        answers = predictions(logits, model.num_classes)
        budgets = torch.as_tensor(standing.eps, dtype=torch.float64, device=images.device)
        budgets = budgets.expand(len(images))
        for network, num_logits, labels, is_meant in self._aims(standing, logits):
            for eps in budgets[budgets > 0].unique().tolist():
                chosen = (standing.is_active & is_meant & (budgets == eps)).nonzero().squeeze(1)
                for indices in chosen.split(self.batch_size) if len(chosen) else ():
                    yield (
                        indices,
                        Task(
                            network=network,
                            num_logits=num_logits,
                            images=images[indices],
                            labels=labels[indices],
                            is_targeted=self.view == "targeted",
                            eps=eps,
                            norm=norm,
                            known=(images, answers),
                        ),
                    )

    def _aims(
        self, standing: AttackState, logits: Tensor
    ) -> Iterator[tuple[nn.Module, int, Tensor, Tensor]]:
        """Networks to attack, their numbers of logits, labels ``(N,)``, and which images."""
        model, labels = standing.model, standing.labels
        if self.view == "grouped":
            for label in labels.unique().tolist():
                view = KClassView(model, label, self.form)
                yield view, model.num_classes, labels, labels == label
            return
        columns = [labels]
        if self.view == "targeted":
            ranked = standing.objective.targets(logits, labels, model.num_classes)
            columns = list(ranked.unbind(dim=1))
        for column in columns:
            yield model, logits.shape[1], column, torch.ones_like(labels, dtype=torch.bool)


@contextmanager
def _undisturbed(model: Classifier, seed: int) -> Iterator[None]:
    """Let a library use the global generators and parameters' gradients, and put them back.

    Inside, the generators of torch, NumPy and Python are seeded.
    """
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    states, trace = (np.random.get_state(), random.getstate()), sys.gettrace()
    device = model.mean.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        sys.settrace(trace)  # AutoAttack switches tracing off, with it debuggers and coverage
        for parameter, gradient in gradients:
            parameter.grad = gradient

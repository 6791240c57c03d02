"""The base class of other libraries' attacks, which makes them null-aware.

Other libraries know no null and count every change of the prediction as success. So the library
gets an ordinary network: a K-class view for images of one true class, or the model itself with one
wrong class after another as the target. Libraries take one eps, so images are grouped by eps too.
The results are projected into ball and box and evaluated by their outcome; the library's own
success flags are ignored.
"""

from __future__ import annotations

import random
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.external.library import Library
from nullclass.attacks.external.view import KClassView
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.devices import in_float64
from nullclass.core.outcomes import predictions
from nullclass.models.classifier import Classifier
from nullclass.results.schema import Access


@dataclass(frozen=True)
class LibraryInput:
    """What a library gets in one call: an ordinary network and images with one budget."""

    network: nn.Module
    """From images in [0,1] to logits ``(N, num_logits)``."""
    num_logits: int
    images: Tensor
    """``(N, C, H, W)`` float32 in [0,1], none of them a success yet."""
    labels: Tensor
    """``(N,)``: the classes to leave, or the targets."""
    is_targeted: bool
    """Whether the labels are targets."""
    eps: float
    """In pixel units, positive."""
    norm: str
    reference: tuple[Tensor, Tensor]
    """All clean images ``(M, C, H, W)`` and their predictions ``(M,)``, -1 for null: for attacks
    that start from an image of another class."""


@dataclass(frozen=True, kw_only=True)
class ExternalAttack(BaseAttack):
    """An attack of another library as one of ours."""

    view: Literal["grouped", "targeted", "plain"] = "grouped"
    """What the library gets. ``grouped``: a K-class view, images grouped by true class.
    ``targeted``: all logits, and every wrong real class as the target in turn, the largest logit
    first. ``plain``: all logits and no target, as if null were a class; the objective is then
    ``untargeted``."""
    access: Access = "white-box"  # type: ignore[misc]
    """What the attack uses of the model."""
    library: ClassVar[Library]

    def __post_init__(self) -> None:
        """Check the settings, and that the library imports."""
        super().__post_init__()
        self.library.load()

    @property
    def objective(self) -> ObjectiveName:  # type: ignore[override]
        """What the view makes the library search for."""
        return "untargeted" if self.view == "plain" else "fool"

    @abstractmethod
    def run_library(self, given: LibraryInput) -> Tensor:
        """Return the library's images ``(N, C, H, W)``.

        It may draw from the global generators and leave gradients in the parameters.

        Raises:
            UserError: If the library does not support the norm or targets.
        """

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        device = None if generator is None else generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        with _undisturbed(state.model, seed):
            state.evaluate_clean()
            for indices, given in self._inputs(state):
                images = state.images[indices]
                adv_images = self.run_library(given).detach().to(images)
                is_finite = adv_images.flatten(1).isfinite().all(dim=1).view(-1, 1, 1, 1)
                adv_images = torch.where(is_finite, adv_images, images)
                adv_images = state.norm.project(adv_images, images, given.eps)
                state.evaluate(indices, adv_images)

    def _reference(self, state: AttackState, logits: Tensor) -> tuple[Tensor, Tensor]:
        return state.images.float(), predictions(logits, state.model.num_classes)

    def _inputs(self, state: AttackState) -> Iterator[tuple[Tensor, LibraryInput]]:
        """Yield the indices ``(N,)`` and the input of each library call, active images only."""
        logits = logits_of(state.model, state.images, state.batch_size)
        reference = self._reference(state, logits)
        eps = in_float64(state.eps).cpu().expand(len(state.images))
        for network, num_logits, labels, is_chosen in self._networks(state, logits):
            for budget in eps[eps > 0].unique().tolist():
                is_budget = (eps == budget).to(state.active.device)
                chosen = (state.active & is_chosen & is_budget).nonzero().squeeze(1)
                for indices in state.split(chosen):
                    yield (
                        indices,
                        LibraryInput(
                            network=network,
                            num_logits=num_logits,
                            images=state.images[indices].float(),
                            labels=labels[indices],
                            is_targeted=self.view == "targeted",
                            eps=budget,
                            norm=state.norm_name,
                            reference=reference,
                        ),
                    )

    def _networks(
        self, state: AttackState, logits: Tensor
    ) -> Iterator[tuple[nn.Module, int, Tensor, Tensor]]:
        """Yield networks, their numbers of logits, labels ``(N,)``, and masks of the images."""
        model, labels = state.model, state.labels
        if self.view == "grouped":
            for label in labels.unique().tolist():
                view = KClassView(model, label)
                yield view, model.num_classes, labels, labels == label
            return
        columns = [labels]
        if self.view == "targeted":
            ranked = state.objective.rank_targets(logits, labels, model.num_classes)
            columns = list(ranked.unbind(dim=1))
        for column in columns:
            yield model, logits.shape[1], column, torch.ones_like(labels, dtype=torch.bool)


@dataclass(frozen=True)
class NamedAttack(ExternalAttack):
    """Any attack of a library by its name there.

    Successes of minimum-norm attacks outside the budget are projected into the ball.
    """

    names: Mapping[str, str]
    """Norms to the attack's class: a name in the library's catalogue, or a dotted path."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""
    relative: Mapping[str, float] = field(default_factory=dict)
    """Arguments in units of eps, as ``{"eps_step": 0.0625}``."""

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        """The norms with an attack."""
        return tuple(self.names)

    def create(self, given: LibraryInput, *first: object, **arguments: object) -> Any:
        """Return the library's attack for the norm.

        Args:
            given: The call's input.
            first: Positional arguments of the constructor.
            arguments: Keyword arguments, those that the constructor takes.

        Raises:
            UserError: If the attack refuses its settings.
        """
        relative = {name: share * given.eps for name, share in self.relative.items()}
        return self.library.create(
            self.names[given.norm], *first, given=arguments, settings={**self.settings, **relative}
        )


@contextmanager
def _undisturbed(model: Classifier, seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python inside the block.

    Restores them, the parameters' gradients and the trace function after it.
    """
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    numpy_state, python_state, trace = np.random.get_state(), random.getstate(), sys.gettrace()
    device = model.mean.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        sys.settrace(trace)  # AutoAttack disables tracing, and with it debuggers and coverage
        for parameter, gradient in gradients:
            parameter.grad = gradient

"""The cascade: the cheapest verifier first, and the next one for the images that it leaves.

1. Interval bounds, for all images.
2. CROWN-IBP.
3. An attack: where a value at most 0 is found, nothing can be proved.
4. Branch and bound (:mod:`nullclass.certify.branching`), whose first part, the whole ball, is
   α-CROWN.

From stage 2 on every image is computed alone and in float64, with a budget, so the result
does not depend on the other images of a batch. An image whose budget is used up is not proved.

Stages 2 to 4 prove a sign, not a size: where they prove all rows of an image, its bounds are at
least :data:`MARGIN`, otherwise those of stage 1. So two computations that differ by rounding give
margins that differ no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.steps import ascend, input_gradient
from nullclass.certify.branching import BoundedBall, branch
from nullclass.certify.crown import crown_ibp_bounds
from nullclass.certify.interval import interval_bounds
from nullclass.certify.network import Network
from nullclass.core.norms import find_ball

CASCADE = "cascade"
"""Its name."""

BUDGET = 128
"""Parts per image in branch and bound, unless a model has another budget."""

VERSION = 1
"""Of the stages, with their fixed numbers of steps and starts: another one may prove others."""

MARGIN = 1e-6
"""Bound of the rows that a later stage proves."""

STAGES = ("interval", "crown-ibp", "attack", "alpha-crown", "branch-and-bound")
"""In order."""

NUM_STEPS, NUM_RESTARTS = 20, 4
"""Of the attack."""


@dataclass(frozen=True)
class Settled:
    """What the stages behind the intervals found out about one image."""

    radius: float
    """Of its ball."""
    stage: str
    """The last stage that was needed."""
    is_proved: bool
    """Whether all rows are positive on the ball."""
    is_refuted: bool
    """Whether an image of the ball with a row that is not positive was found."""
    num_parts: int
    """Parts that branch and bound cut the ball into."""
    seconds: dict[str, float]
    """CPU seconds by stage."""
    index: int = 0
    """The image's index in its batch; among all images in :mod:`nullclass.scoring.proofs`."""

    @property
    def status(self) -> str:
        """``proved``, ``refuted`` or, if the budget was used up, ``open``."""
        return "proved" if self.is_proved else "refuted" if self.is_refuted else "open"


_RECORDS: ContextVar[tuple[list[Settled], ...]] = ContextVar("_RECORDS", default=())


@contextmanager
def record_stages(*, alone: bool = False) -> Iterator[list[Settled]]:
    """Collect what the later stages find out about every image inside the block.

    ``alone`` keeps it from the blocks around this one.
    """
    record: list[Settled] = []
    token = _RECORDS.set((record,) if alone else (*_RECORDS.get(), record))
    try:
        yield record
    finally:
        _RECORDS.reset(token)


def add_to_records(settled: Iterable[Settled]) -> None:
    """Add to what :func:`record_stages` collects."""
    for each in settled:
        for record in _RECORDS.get():
            record.append(each)


def cascade_bounds(
    network: Network, images: Tensor, radius: float, norm: str, budget: int = BUDGET
) -> Callable[[Tensor], Tensor]:
    """Interval bounds, raised by later stages; a :data:`nullclass.certify.Verifier`.

    The rows of an image are proved together: if one of them cannot be, all keep interval bounds.
    Gradients are those of the interval bounds.
    """
    interval = interval_bounds(network, images, radius, norm)

    def bounds(spec: Tensor) -> Tensor:
        lower = interval(spec)
        specs = spec.detach().expand(len(images), *spec.shape[-2:])
        is_left = (lower.detach() <= 0).any(dim=1) & images.detach().flatten(1).isfinite().all(1)
        raised = lower.detach().clone()
        for index in is_left.nonzero().flatten().tolist():
            rows = specs[index][lower[index].detach() <= MARGIN]
            found = settle(network, images[index], rows, radius, norm, budget, index=index)
            if found.is_proved:
                raised[index].clamp_(min=MARGIN)
        return lower + (raised - lower.detach())

    return bounds


def settle(
    network: Network,
    image: Tensor,
    rows: Tensor,
    radius: float,
    norm: str,
    budget: int = BUDGET,
    *,
    index: int = 0,
) -> Settled:
    """Decide whether rows of C z are positive around an image, by all stages but the first.

    Args:
        network: The network.
        image: ``(C, H, W)`` in [0,1].
        rows: C, ``(M, L)``.
        radius: In pixel units.
        norm: ``linf`` or ``l2``.
        budget: Largest number of parts in branch and bound.
        index: Of the image in its batch, for the record.
    """
    with torch.no_grad():  # copies without gradients
        network = network.to(torch.float64)
    rows, image = rows.detach().double(), image.detach()[None].double()
    seconds: dict[str, float] = {}
    num_parts = 0
    started = time.process_time()

    def finish(stage: str) -> None:
        nonlocal started
        now = time.process_time()
        seconds[stage], started = now - started, now

    with torch.no_grad():
        lower = crown_ibp_bounds(network, image, radius, norm)(rows)[0]
    rows = rows[lower <= MARGIN]
    is_proved = None if len(rows) else True
    finish("crown-ibp")
    if is_proved is None:
        is_proved = False if _is_broken(network, image, rows, radius, norm) else None
        finish("attack")
    if is_proved is None:
        with torch.no_grad():
            ball = BoundedBall(network, image, radius, norm)
            is_proved, num_parts = branch(ball, rows, budget, MARGIN)
        finish(STAGES[4] if num_parts else STAGES[3])
    stage = next(reversed(seconds))
    proved, refuted = is_proved is True, is_proved is False
    found = Settled(radius, stage, proved, refuted, num_parts, seconds, index)
    add_to_records([found])
    return found


def _is_broken(network: Network, image: Tensor, rows: Tensor, radius: float, norm: str) -> bool:
    """Return whether PGD finds an image with a row at most 0. Its starts are always the same."""
    ball, generator = find_ball(norm), torch.Generator().manual_seed(0)
    num_rows, rows = len(rows), rows.repeat(NUM_RESTARTS, 1)
    center = image.expand(len(rows), *image.shape[1:])
    points = (center + ball.random(center, radius, generator)).clamp(0, 1)
    points = torch.cat([center[:num_rows], points[num_rows:]])

    def loss(logits: Tensor) -> Tensor:
        return -(logits * rows).sum(dim=1)

    for step in range(NUM_STEPS):
        gradient, losses = input_gradient(network.values, points, loss)
        if bool((losses >= 0).any()):
            return True
        size = radius * (1 - step / NUM_STEPS)
        points = ascend(points, gradient, center, eps=radius, step_size=size, norm=ball)
    with torch.no_grad():
        return bool((loss(network.values(points)) >= 0).any())

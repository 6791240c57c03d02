"""Parts of the ball around an image, and cuts of them in two, for branch and bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """N parts of the ball, each with one function, and the parameters of their bounds."""

    specs: Tensor
    """``(N, 1, …)``: coefficients of what is bounded, mostly the logits."""
    lower: Tensor
    """``(N, C, H, W)``: corners of the box of images."""
    upper: Tensor
    signs: dict[int, Tensor]
    """``(N, …)`` by step, int8: 1 or -1 where an output of the step has this sign, else 0."""
    slopes: dict[int, Tensor]
    """``(N, …)`` by step of a ReLU: in [0,1]."""
    multipliers: dict[int, Tensor]
    """``(N, 2, …)`` by step, not negative: of the lower and the upper bound of its outputs."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.specs)

    def __getitem__(self, chosen: Tensor) -> Parts:
        """Return some of the parts."""
        return Parts(
            self.specs[chosen],
            self.lower[chosen],
            self.upper[chosen],
            {index: each[chosen] for index, each in self.signs.items()},
            {index: each[chosen] for index, each in self.slopes.items()},
            {index: each[chosen] for index, each in self.multipliers.items()},
        )

    @staticmethod
    def joined(first: Parts, second: Parts) -> Parts:
        """Return the parts of both."""

        def both(one: dict[int, Tensor], other: dict[int, Tensor]) -> dict[int, Tensor]:
            return {index: torch.cat([one[index], other[index]]) for index in one}

        return Parts(
            torch.cat([first.specs, second.specs]),
            torch.cat([first.lower, second.lower]),
            torch.cat([first.upper, second.upper]),
            both(first.signs, second.signs),
            both(first.slopes, second.slopes),
            both(first.multipliers, second.multipliers),
        )


@dataclass(frozen=True)
class Cuts:
    """Where to cut parts."""

    scores: Tensor
    """``(N,)``; 0: nowhere."""
    indices: Tensor
    """``(N,)`` of all inputs of ReLUs."""
    multipliers: Tensor
    """``(N, 4)`` to add, so that no bound becomes looser: of the lower and the upper bound for the
    positive half, then for the negative."""

    def __getitem__(self, chosen: Tensor) -> Cuts:
        """Return some."""
        return Cuts(self.scores[chosen], self.indices[chosen], self.multipliers[chosen])

    @staticmethod
    def picked(options: Sequence[Cuts], chosen: Tensor) -> Cuts:
        """Return, for each part, the option of index ``chosen (N,)``."""
        rows = torch.arange(len(chosen), device=chosen.device)
        scores, indices, multipliers = (
            torch.stack([getattr(each, name) for each in options])[chosen, rows]
            for name in ("scores", "indices", "multipliers")
        )
        return Cuts(scores, indices, multipliers)

    @staticmethod
    def joined(first: Cuts, second: Cuts) -> Cuts:
        """Return both."""
        return Cuts(
            torch.cat([first.scores, second.scores]),
            torch.cat([first.indices, second.indices]),
            torch.cat([first.multipliers, second.multipliers]),
        )


def cut(parts: Parts, cuts: Cuts) -> Parts:
    """Return both halves of every part."""
    halves = []
    for half, sign in enumerate((1, -1)):
        signs, multipliers, first = {}, {}, 0
        for source, old in parts.signs.items():
            width = old[0].numel()
            is_here = (cuts.indices >= first) & (cuts.indices < first + width)
            (rows,) = is_here.nonzero(as_tuple=True)
            at = rows, cuts.indices[rows] - first
            signs[source], multipliers[source] = old.clone(), parts.multipliers[source].clone()
            signs[source].view(len(parts), -1)[at] = sign
            added = cuts.multipliers[rows, 2 * half : 2 * half + 2]
            multipliers[source].view(len(parts), 2, -1)[at[0], :, at[1]] += added
            first += width
        (rows,) = (cuts.indices >= first).nonzero(as_tuple=True)
        at = rows, cuts.indices[rows] - first
        lower, upper = parts.lower.flatten(1).clone(), parts.upper.flatten(1).clone()
        middle = (lower[at] + upper[at]) / 2
        (lower if sign > 0 else upper)[at] = middle
        corners = lower.view_as(parts.lower), upper.view_as(parts.upper)
        halves.append(Parts(parts.specs, *corners, signs, parts.slopes, multipliers))
    return Parts.joined(*halves)

"""Branch and bound: bounds of one image's logits on parts of its ball, until all are positive.

A part is given by the signs of some inputs of ReLUs and, for L-infinity, by a smaller box of
images. Each part is bounded by CROWN with optimised slopes (α-CROWN, Xu et al. 2021) and Lagrange
multipliers of the signs (β-CROWN, Wang et al. 2021); a part without a positive bound is cut in two,
at the input of a ReLU chosen by trial (filtered smart branching, De Palma et al. 2021). If every
part has a positive bound, so has the ball. Everything is computed in float64 with margins for
rounding (:mod:`nullclass.certify.crown`), so each bound is sound as it is, and the parts cover the
ball.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nullclass.certify.crown import MAX_COEFFICIENTS, all_regions, linear_bounds
from nullclass.certify.layers import Linear, Monotone, Scale
from nullclass.certify.network import Network
from nullclass.certify.parts import Cuts, Parts, cut
from nullclass.certify.regions import Box, Region, region_around, to_box
from nullclass.certify.rounding import rounding_of

ROUNDING = rounding_of(torch.float64)
NUM_STEPS, NUM_INNER = 20, 10
"""Gradient steps for the ball and for each of its parts, and for inputs of ReLUs."""

NUM_AT_ONCE = 32
"""Parts that are cut at once."""

RATE, RATE_OF_PARTS, DECAY = 0.25, 0.05, 0.95
"""Step size of slopes and multipliers, and its factor per step. The parts begin with the slopes of
the ball, which are nearly right: a large step loses them, and no later one gets them back."""

NUM_TRIED = 8
"""Inputs of ReLUs that are tried as the place to cut."""


class BoundedBall:
    """The ball around one image, and what is known of the network on it.

    For L-infinity the leading functions of single pixels, such as a soft threshold, are applied
    once: the box behind them is exact, and parts are parts of that box.

    Args:
        network: The network, in float64.
        image: ``(1, C, H, W)`` in [0,1], float64.
        radius: In pixel units.
        norm: ``linf`` or ``l2``.
    """

    def __init__(self, network: Network, image: Tensor, radius: float, norm: str) -> None:
        self.region = region_around(image, radius, norm, ROUNDING)
        self.network = network
        self.has_pixels = isinstance(self.region, Box)
        """Whether parts may be boxes of images."""
        if isinstance(self.region, Box):
            num = _num_pixelwise(network, self.region)
            for step in network.steps[:num]:
                self.region = step.layer.bound(self.region, rounding=ROUNDING)
            self.network = _without_first(network, num)
        self.relus: dict[int, int] = {
            step.inputs[0]: index
            for index, step in enumerate(self.network.steps)
            if isinstance(step.layer, Monotone)
            and step.layer.apply is torch.relu
            and step.inputs[0] >= 0
        }
        """ReLUs by the step of their input."""
        self.known: dict[int, Box] = {}
        """Bounds of the inputs of ReLUs."""
        self._bound_inputs_of_relus()

    def _bound_inputs_of_relus(self) -> None:
        """Tighten interval bounds of inputs of ReLUs behind other ReLUs by CROWN."""
        for source in sorted(self.relus):
            regions = all_regions(self.network, self.region, ROUNDING, self._tighten)
            box = to_box(regions[source], ROUNDING)
            lower, upper = (corner.flatten() for corner in box.corners(ROUNDING))
            (is_open,) = ((lower < 0) & (upper > 0)).nonzero(as_tuple=True)
            shape = box.center.shape
            largest_width = max(region.center.numel() for region in regions.values())
            num_at_once = max(1, MAX_COEFFICIENTS // (2 * largest_width))
            # Intervals are exact in front of the first ReLU, and nothing splits into one part.
            for some in is_open.split(num_at_once) if self.known and len(is_open) else ():
                rows = lower.new_zeros(len(some), lower.numel())
                rows[torch.arange(len(some)), some] = 1
                coefs = torch.cat([rows, -rows]).view(-1, 1, *shape[1:])
                low, high = self.bound(self.whole(coefs), NUM_INNER, start=source).bounds.chunk(2)
                lower[some] = torch.maximum(lower[some], low)
                upper[some] = torch.minimum(upper[some], -high)
            self.known[source] = Box.between(lower.view(shape), upper.view(shape), ROUNDING)

    def _tighten(self, index: int, region: Region) -> Region:
        if index not in self.known:
            return region
        return Box.between(*_common(to_box(region, ROUNDING), self.known[index]), ROUNDING)

    def whole(self, specs: Tensor) -> Parts:
        """Return the ball itself, once per function ``specs (N, 1, …)``."""
        num = len(specs)
        lower, upper = to_box(self.region, ROUNDING).corners(ROUNDING)
        regions = all_regions(self.network, self.region, ROUNDING, self._tighten)
        signs, slopes, multipliers = {}, {}, {}
        for source, box in self.known.items():
            layer = self.network.steps[self.relus[source]].layer
            assert isinstance(layer, Monotone)
            lines = layer.relax(to_box(regions[source], ROUNDING), ROUNDING)
            slopes[self.relus[source]] = _repeat(lines.lower_slope, num)
            zero = torch.zeros_like(box.center)
            signs[source] = _repeat(zero, num).to(torch.int8)
            multipliers[source] = _repeat(torch.stack([zero, zero], dim=1), num)
        return Parts(specs, _repeat(lower, num), _repeat(upper, num), signs, slopes, multipliers)

    def bound(
        self,
        parts: Parts,
        num_steps: int,
        margin: float = torch.inf,
        start: int | None = None,
        rate: float = RATE,
    ) -> Bounded:
        """Bound parts, and improve slopes and multipliers by gradient steps (Adam).

        Args:
            parts: The parts.
            num_steps: Gradient steps; they end when all bounds are above ``margin``.
            margin: See there.
            start: Step whose outputs ``specs`` are about; by default the last.
            rate: Size of the first step.
        """
        start = len(self.network.steps) - 1 if start is None else start
        with torch.no_grad():
            regions, is_empty = self._regions(parts)
        needed = self.network.needed_by(start)
        names = [("slopes", index) for index in parts.slopes if index in needed]
        signed = [index for index, signs in parts.signs.items() if signs.any()]
        names += [("multipliers", index) for index in signed]
        values = [getattr(parts, kind)[index].detach().clone() for kind, index in names]
        optimizer = torch.optim.Adam(values, rate, maximize=True) if values else None
        best = parts.specs.new_full((len(parts),), -torch.inf)
        kept: dict[tuple[str, int], Tensor] = {}
        for step in range(num_steps + 1):
            can_improve = step < num_steps and optimizer is not None
            with torch.set_grad_enabled(can_improve):
                for value in values:
                    value.requires_grad_(can_improve)
                given = dict(zip(names, values, strict=True))
                lower, objective, coefs = self._bound(parts, regions, start, given)
            is_better = lower.detach() > best
            best = torch.where(is_better, lower.detach(), best)
            found = given | {("coefs", index): each for index, each in coefs.items()}
            for name, value in found.items():
                old = kept.setdefault(name, value.detach().clone())
                old[is_better] = value.detach()[is_better]
            if optimizer is None or not can_improve or bool(((best > margin) | is_empty).all()):
                break
            optimizer.param_groups[0]["lr"] = rate * DECAY**step
            optimizer.zero_grad()
            objective.backward(inputs=values)
            for (kind, index), value in given.items():
                if kind == "multipliers" and value.grad is not None:  # the others stay 0
                    value.grad *= (parts.signs[index] != 0)[:, None]
            optimizer.step()
            with torch.no_grad():
                for (kind, _), value in given.items():
                    value.clamp_(0, 1 if kind == "slopes" else torch.inf)

        def of(kind: str) -> dict[int, Tensor]:
            return {index: value for (name, index), value in kept.items() if name == kind}

        parts = replace(
            parts,
            slopes=parts.slopes | of("slopes"),
            multipliers=parts.multipliers | of("multipliers"),
        )
        bounds = torch.where(is_empty, torch.inf, best)
        return Bounded(parts, bounds, regions, of("coefs"))

    def _bound(
        self,
        parts: Parts,
        regions: dict[int, Region],
        start: int,
        given: dict[tuple[str, int], Tensor],
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Bounds ``(N,)``, the sum to maximise for them, and coefficients by step."""
        coefs: dict[int, Tensor] = {}
        deep: list[Tensor] = []
        first_relu = min(self.relus.values(), default=start)

        def visit(index: int, here: Tensor, bound: Tensor) -> None:
            coefs[index] = here.detach()[:, 0]
            # Bounds by the outputs of a ReLU do not depend on what is optimised in front of it.
            if index < first_relu:
                deep.append(bound[:, 0])

        lower = linear_bounds(
            self.network,
            regions,
            start,
            parts.specs,
            ROUNDING,
            slopes={i: value for (kind, i), value in given.items() if kind == "slopes"},
            multipliers={i: value for (kind, i), value in given.items() if kind != "slopes"},
            visit=visit,
        )[:, 0]
        return lower, torch.stack(deep).amax(dim=0).sum(), coefs

    def _regions(self, parts: Parts) -> tuple[dict[int, Region], Tensor]:
        """Regions of all steps on the parts, and which parts are empty."""
        is_empty = torch.zeros(len(parts), dtype=torch.bool, device=parts.lower.device)
        image = self.region
        if isinstance(image, Box):
            image = Box.between(parts.lower, parts.upper, ROUNDING)
        regions = all_regions(self.network, image, ROUNDING, self._tighten)
        for source, signs in parts.signs.items():
            lower, upper = to_box(regions[source], ROUNDING).corners(ROUNDING)
            is_empty |= (
                ((signs > 0) & (upper < 0) | (signs < 0) & (lower > 0)).flatten(1).any(dim=1)
            )
            lower = torch.where(signs > 0, lower.clamp(min=0), lower)
            upper = torch.where(signs < 0, upper.clamp(max=0), upper)
            regions[source] = Box.between(lower, torch.maximum(lower, upper), ROUNDING)
        return regions, is_empty


@dataclass(frozen=True)
class Bounded:
    """Parts with their bounds."""

    parts: Parts
    bounds: Tensor
    """``(N,)``; infinity where a part is empty."""
    regions: dict[int, Region]
    coefs: dict[int, Tensor]
    """Of the outputs of the steps, in the function that gives the bound: ``(N, …)``."""

    @torch.no_grad()
    def has_counterexample(self, ball: BoundedBall) -> bool:
        """Return whether a corner that minimises a linear bound has a negative value."""
        if not ball.has_pixels or -1 not in self.coefs:
            return False
        corners = torch.where(self.coefs[-1] > 0, self.parts.lower, self.parts.upper)
        values = (ball.network.values(corners) * self.parts.specs[:, 0]).sum(dim=1)
        return bool((values < 0).any())

    @torch.no_grad()
    def cuts(self, ball: BoundedBall, chosen: Tensor) -> Cuts:
        """Return where to cut the parts of these indices.

        Of the inputs of ReLUs that loosen the bound most, it is the one whose halves have the
        best bounds, the looser half first.
        """
        if not len(chosen):  # a part that is not there cannot be bounded
            return Cuts(self.bounds[chosen], chosen, self.bounds.new_zeros(0, 4))
        scores, multipliers = (each[chosen] for each in self._candidates(ball))
        best, indices = scores.topk(min(NUM_TRIED, scores.shape[1]), dim=1)
        rows, parts = torch.arange(len(chosen)), self.parts[chosen]
        tried, values = [], []
        for score, index in zip(best.T, indices.T, strict=True):
            tried.append(Cuts(score, index, multipliers[rows, :, index]))
            halves = ball.bound(cut(parts, tried[-1]), 0).bounds.view(2, -1).clamp(max=0)
            value = halves.amin(dim=0) + 0.1 * halves.amax(dim=0)
            values.append(torch.where(score > 0, value, -torch.inf))
        return Cuts.picked(tried, torch.stack(values).argmax(dim=0))

    def _candidates(self, ball: BoundedBall) -> tuple[Tensor, Tensor]:
        """Return scores ``(N, I)`` of all inputs of ReLUs and pixels, and ``Cuts.multipliers``.

        A score says how much an input loosens the bound, 0 that there is nothing to cut.
        """
        scores, multipliers = [], []
        for source, relu in ball.relus.items():
            region = self.regions[source]
            assert isinstance(region, Box)
            lower, upper = region.lower, region.upper
            coefs, slopes = self.coefs[relu], self.parts.slopes[relu]
            is_open = (lower < 0) & (upper > 0) & (self.parts.signs[source] == 0)
            gap = -lower * upper / (upper - lower).clamp(min=1e-300)
            low_gap = torch.minimum(gap, torch.maximum(-lower * slopes, upper * (1 - slopes)))
            loose = torch.where(coefs < 0, -coefs * gap, coefs * low_gap)
            scores.append(torch.where(is_open, loose, 0).flatten(1))
            # Halves have slopes 1 and 0; these multipliers give them the line of the whole.
            rising, falling = coefs.clamp(min=0), -coefs.clamp(max=0)
            chord = upper / (upper - lower).clamp(min=1e-300)
            moves = [(1 - slopes) * rising, (1 - chord) * falling, chord * falling, slopes * rising]
            multipliers.append(torch.stack(moves).flatten(2))
        # With all signs known, what is left is in the pixels.
        width = (self.parts.upper - self.parts.lower).flatten(1)
        weight = self.coefs[-1].flatten(1).abs() if ball.has_pixels else torch.zeros_like(width)
        is_open = torch.cat([*scores, torch.zeros_like(width[:, :1])], dim=1).amax(dim=1) > 0
        scores.append(torch.where(is_open[:, None], 0, width * weight))
        multipliers.append(width.new_zeros(4, *width.shape))
        return torch.cat(scores, dim=1), torch.cat(multipliers, dim=2).transpose(0, 1)


def _num_pixelwise(network: Network, box: Box) -> int:
    """Number of leading steps that are functions of one pixel each."""
    num = 0
    for index, step in enumerate(network.steps[:-1]):
        layer = step.layer
        is_depthwise = isinstance(layer, Linear) and layer.weight[0].numel() == 1
        is_pixelwise = isinstance(layer, Scale) or is_depthwise
        if isinstance(layer, Monotone):
            is_pixelwise = layer.relax(box, ROUNDING).index is None
        output = to_box(layer.bound(box, rounding=ROUNDING), ROUNDING)
        is_last_use = all(i >= index for each in network.steps[index + 1 :] for i in each.inputs)
        if not is_pixelwise or not is_last_use or output.center.shape != box.center.shape:
            break
        num, box = index + 1, output
    return num


def _without_first(network: Network, num: int) -> Network:
    steps = tuple(
        replace(step, inputs=tuple(max(source - num, -1) for source in step.inputs))
        for step in network.steps[num:]
    )
    return replace(network, steps=steps)


def _common(first: Box, second: Box) -> tuple[Tensor, Tensor]:
    """Corners of what two boxes have in common."""
    (low, high), (other_low, other_high) = (box.corners(ROUNDING) for box in (first, second))
    return torch.maximum(low, other_low), torch.minimum(high, other_high)


def _repeat(value: Tensor, num: int) -> Tensor:
    return value.expand(num, *value.shape[1:]).clone(memory_format=torch.contiguous_format)


def branch(ball: BoundedBall, specs: Tensor, budget: int, margin: float) -> tuple[bool | None, int]:
    """Prove that functions of the logits exceed a margin on a ball, by branch and bound.

    Args:
        ball: The ball.
        specs: C, ``(R, L)``.
        budget: Largest number of parts to bound; the ball itself does not count.
        margin: What each row of ``C z`` has to exceed, not negative.

    Returns:
        Whether it is proved, and the number of parts. False: an image of the ball, up to rounding,
        has a smaller value. None: the budget is used up, or there is nothing left to cut.
    """
    found = ball.bound(ball.whole(specs[:, None]), NUM_STEPS, margin)
    num_parts = 0
    (is_open,) = (found.bounds <= margin).nonzero(as_tuple=True)
    parts, bounds, cuts = found.parts[is_open], found.bounds[is_open], None
    while len(parts):
        num_cut = min(NUM_AT_ONCE, (budget - num_parts) // 2)
        if found.has_counterexample(ball):
            return False, num_parts
        if num_cut == 0:
            return None, num_parts
        new = found.cuts(ball, is_open)  # many bounds: only of parts that may be cut
        cuts = new if cuts is None else Cuts.joined(cuts, new)
        if not bool((cuts.scores > 0).all()):
            return None, num_parts
        order = bounds.argsort(stable=True)
        first, rest = order[:num_cut], order[num_cut:]
        found = ball.bound(cut(parts[first], cuts[first]), NUM_STEPS, margin, rate=RATE_OF_PARTS)
        num_parts += len(found.parts)
        (is_open,) = (found.bounds <= margin).nonzero(as_tuple=True)
        parts = Parts.joined(parts[rest], found.parts[is_open])
        bounds = torch.cat([bounds[rest], found.bounds[is_open]])
        cuts = cuts[rest]
    return True, num_parts

"""CROWN-IBP: linear bounds of the logits by the image; tighter than intervals, and slower.

    C z  >=  A_k x_k + b_k      for the activations x_k of every layer k, last to first

Zhang et al. 2018 (CROWN, theorem 3.2) propagate a linear function of the logits backward through
linear relaxations of every ReLU (:mod:`nullclass.certify.relaxations`). The relaxations use
interval bounds (Zhang et al. 2020, CROWN-IBP), so the cost is about two passes per row of C. What
differs from the papers: the function is also minimised over the box of every layer, and the best
bound is kept. At the last layer this is the interval bound, so the result is never looser.

*Margin.* Everything is computed in float64. The rounding of a layer is at most ``2 gamma`` times
the sum of ``|A|`` times the absolute values of the terms of its outputs
(:func:`nullclass.certify.layers.rounding_error`). This is subtracted, about 1e-12 of the terms, and
the result rounded down to the images' type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from nullclass.certify.interval import interval_bounds
from nullclass.certify.layers import Monotone, rounding_error, weighted_sum
from nullclass.certify.network import Network, Step
from nullclass.certify.regions import Box, Region, region_around, to_box
from nullclass.certify.relaxations import sloped_relaxation
from nullclass.certify.rounding import Rounding, round_down, rounding_of

Tighten = Callable[[int, Region], Region]
Visit = Callable[[int, Tensor, Tensor], None]

NOTHING: Mapping[int, Tensor] = MappingProxyType({})

MAX_COEFFICIENTS = 2**24
"""Largest number of coefficients of one layer at once, 128 MB: larger batches are split."""


def crown_ibp_bounds(
    network: Network, images: Tensor, radius: float, norm: str
) -> Callable[[Tensor], Tensor]:
    """CROWN-IBP bounds, never below interval bounds; a :data:`nullclass.certify.Verifier`."""
    interval = interval_bounds(network, images, radius, norm)
    network = network.to(torch.float64)

    def bounds(spec: Tensor) -> Tensor:
        specs = spec.double().expand(len(images), *spec.shape[-2:])
        if not len(images):
            return interval(spec)
        size = max(1, MAX_COEFFICIENTS // (_largest_width(network, images[:1]) * specs.shape[1]))
        batches = zip(images.double().split(size), specs.split(size), strict=True)
        crown = torch.cat([_crown(network, batch, radius, norm, rows) for batch, rows in batches])
        return torch.maximum(interval(spec), round_down(crown, images.dtype))

    return bounds


@torch.no_grad()
def _largest_width(network: Network, image: Tensor) -> int:
    """Largest number of activations of a layer."""
    widths: list[int] = [1]

    def value(step: Step, inputs: list[Tensor]) -> Tensor:
        output = step.layer.value(*inputs)
        widths.append(output.numel())
        return output

    network.run(image.double(), value)
    return max(widths)


def _crown(network: Network, images: Tensor, radius: float, norm: str, specs: Tensor) -> Tensor:
    rounding = rounding_of(torch.float64)
    regions = all_regions(network, region_around(images, radius, norm, rounding), rounding)
    return linear_bounds(network, regions, len(network.steps) - 1, specs, rounding)


def all_regions(
    network: Network, image: Region, rounding: Rounding, tighten: Tighten | None = None
) -> dict[int, Region]:
    """Interval bounds of the outputs of all steps; the image is at -1, as in ``Step.inputs``.

    Args:
        network: The network.
        image: The region of the images.
        rounding: Margins.
        tighten: Maps the index of a step and its region to a smaller one that is passed on.
    """
    regions: dict[int, Region] = {-1: image}
    for index, step in enumerate(network.steps):
        inputs = [regions[source] for source in step.inputs]
        region = step.layer.bound(*inputs, rounding=rounding)
        regions[index] = region if tighten is None else tighten(index, region)
    return regions


def linear_bounds(
    network: Network,
    regions: Mapping[int, Region],
    start: int,
    coefs: Tensor,
    rounding: Rounding,
    *,
    slopes: Mapping[int, Tensor] = NOTHING,
    multipliers: Mapping[int, Tensor] = NOTHING,
    visit: Visit = lambda index, coefs, lower: None,
) -> Tensor:
    """Lower bounds ``(N, M)`` of linear functions of the outputs of a step.

    Args:
        network: The network.
        regions: From :func:`all_regions`.
        start: Index of the step.
        coefs: ``(N, M, …)`` of its outputs.
        rounding: Margins.
        slopes: Slopes in [0,1] of the lower lines of ReLUs, ``(N, …)`` by step (α-CROWN, Xu et al.
            2021); default: the line with the larger area.
        multipliers: Lagrange multipliers of ``lower <= x <= upper``, ``(N, 2, …)`` by step, not
            negative, x the outputs of the step (with 0 as a bound: β-CROWN, Wang et al. 2021).
        visit: Called with each step, last to first, the coefficients of its outputs, and the bound
            by the minimum over its region.
    """
    # The current function: coefficients of the outputs of some steps, and an offset.
    frontier: dict[int, Tensor] = {start: coefs}
    offset: Tensor | float = 0.0
    best = coefs.new_full(coefs.shape[:2], -torch.inf)
    while True:
        bound = offset
        for index, part in frontier.items():
            bound = bound + _minimum(part, regions[index], rounding)
        best = torch.maximum(best, torch.as_tensor(bound))
        latest = max(frontier)
        visit(latest, frontier[latest], torch.as_tensor(bound))
        if latest < 0:
            return best
        step, coefs = network.steps[latest], frontier.pop(latest)
        if latest in multipliers:
            # coefs * x >= (coefs - m) * x + the minimum of m * x
            box = to_box(regions[latest], rounding)
            of_lower, of_upper = multipliers[latest][:, None].unbind(2)
            lower, upper = box.corners(rounding)
            size = box.center.abs() + box.radius
            offset = offset + weighted_sum(of_lower, lower) - weighted_sum(of_upper, upper)
            terms = coefs.abs() + of_lower + of_upper
            offset = offset - rounding_error(terms, size, 3, rounding)
            coefs = coefs - of_lower + of_upper
        inputs = [to_box(regions[index], rounding) for index in step.inputs]
        layer = step.layer
        if latest in slopes and isinstance(layer, Monotone):
            layer = replace(layer, relax=partial(sloped_relaxation, layer.relax, slopes[latest]))
        linear = layer.backward(coefs, *inputs, rounding=rounding)
        offset = offset + linear.offset - linear.error
        for index, part in zip(step.inputs, linear.coefs, strict=True):
            frontier[index] = frontier[index] + part if index in frontier else part


def _minimum(coefs: Tensor, region: Region, rounding: Rounding) -> Tensor:
    """Lower bound ``(N, M)`` of ``coefs * x`` over a region."""
    middle = weighted_sum(coefs, region.center)
    if isinstance(region, Box):
        spread = weighted_sum(coefs.abs(), region.radius)
        size = region.center.abs() + region.radius
    else:
        norms: Tensor = (coefs * region.scale[:, None]).flatten(2).norm(dim=2)
        spread = region.radius * norms + weighted_sum(coefs.abs(), region.slack)
        size = region.center.abs() + region.slack + region.radius * region.scale
    return middle - spread - rounding_error(coefs, size, 0, rounding)

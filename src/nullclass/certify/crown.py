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

from collections.abc import Callable

import torch
from torch import Tensor

from nullclass.certify.interval import interval_bounds
from nullclass.certify.layers import rounding_error, weighted_sum
from nullclass.certify.network import Network, Step
from nullclass.certify.regions import Box, Region, region_around, to_box
from nullclass.certify.rounding import Rounding, round_down, rounding_of

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
    image = region_around(images, radius, norm, rounding)
    regions: list[Region] = []

    def bound(step: Step, inputs: list[Region]) -> Region:
        regions.append(step.layer.bound(*inputs, rounding=rounding))
        return regions[-1]

    network.run(image, bound)
    regions.append(image)  # at index -1, as in Step.inputs
    # The current function: coefficients of the outputs of some steps, and an offset.
    frontier: dict[int, Tensor] = {len(network.steps) - 1: specs}
    offset: Tensor | float = 0.0
    best = specs.new_full(specs.shape[:2], -torch.inf)
    while True:
        lower = offset
        for index, coefs in frontier.items():
            lower = lower + _minimum(coefs, regions[index], rounding)
        best = torch.maximum(best, torch.as_tensor(lower))
        latest = max(frontier)
        if latest < 0:
            return best
        step, coefs = network.steps[latest], frontier.pop(latest)
        inputs = [to_box(regions[index], rounding) for index in step.inputs]
        linear = step.layer.backward(coefs, *inputs, rounding=rounding)
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

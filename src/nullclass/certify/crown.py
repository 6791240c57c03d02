"""CROWN-IBP: the logits' lines, pulled back to the image; tighter than intervals, and dearer.

    C z  >=  A_k x_k + b_k      for the activations x_k of every layer k, last to first

Zhang et al. 2018 (CROWN, theorem 3.2) pull a linear function of the logits back layer by layer,
over lines around every ReLU (:mod:`nullclass.certify.lines`). The boxes that the lines need are
interval bounds (Zhang et al. 2020, CROWN-IBP), so this costs about two passes through the network
for each row of C. What differs: on its way the function is also minimised over every layer's box,
and the best of all is kept. At the last layer that is the interval bound itself, so this is never
looser.

*Margin.* All is computed in float64. Whatever a layer rounds is at most ``2 gamma`` times the sum
of ``|A|`` times the absolute values that its outputs are summed from
(:func:`nullclass.certify.layers.rounding_error`); that is subtracted, about 1e-12 of the terms, and
the result rounded down to the images' type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.certify.interval import interval
from nullclass.certify.layers import rounding_error, weighted_sum
from nullclass.certify.network import Network, Step
from nullclass.certify.regions import Ball, Box, Region, region_around
from nullclass.certify.rounding import Rounding, rounded_down, rounding_of

MOST_NUMBERS = 2**24
"""Of one layer's coefficients at once, 128 MB: larger batches are taken in parts."""


def crown_ibp(network: Network, images: Tensor, radius: float, norm: str, spec: Tensor) -> Tensor:
    """CROWN-IBP bounds, never below those of ``interval``; a verifier as that is."""
    loose = interval(network, images, radius, norm, spec)
    expand_eps = network.to(torch.float64)
    specs = spec.double().expand(len(images), *spec.shape[-2:])
    found: list[Tensor] = []
    first = 0
    while first < len(images):
        last = first + (
            _num_at_once(expand_eps, images[:1], specs) if first == 0 else len(found[0])
        )
        found.append(
            _crown(expand_eps, images[first:last].double(), radius, norm, specs[first:last])
        )
        first = last
    if not found:
        return loose
    return torch.maximum(loose, rounded_down(torch.cat(found), images.dtype))


def _num_at_once(network: Network, image: Tensor, specs: Tensor) -> int:
    """How many images make the widest layer's coefficients fit."""
    widest = 1

    def each(step: Step, inputs: list[Tensor]) -> Tensor:
        nonlocal widest
        value = step.layer.value(*inputs)
        widest = max(widest, value.numel())
        return value

    with torch.no_grad():
        network.run(image.double(), each, num_steps=len(network.steps))
    return max(1, MOST_NUMBERS // (widest * specs.shape[1]))


def _crown(network: Network, images: Tensor, radius: float, norm: str, specs: Tensor) -> Tensor:
    rounding = rounding_of(torch.float64)
    regions: list[Region] = []

    def each(step: Step, inputs: list[Region]) -> Region:
        regions.append(step.layer.bound(*inputs, rounding=rounding))
        return regions[-1]

    image = region_around(images, radius, norm, rounding)
    network.run(image, each, num_steps=len(network.steps))

    # The function so far: the sum of coefficients times activations of these steps, and a number.
    open_ends: dict[int, Tensor] = {len(network.steps) - 1: specs}
    offset: Tensor | float = 0.0
    best = specs.new_full(specs.shape[:2], -torch.inf)
    while True:
        lower = offset
        for place, coefs in open_ends.items():
            lower = lower + _least(coefs, image if place < 0 else regions[place], rounding)
        best = torch.maximum(best, torch.as_tensor(lower))
        number = max(open_ends)
        if number < 0:
            return best
        step, coefs = network.steps[number], open_ends.pop(number)
        inputs = [image if place < 0 else regions[place] for place in step.inputs]
        pulled = step.layer.pull(coefs, *inputs, rounding=rounding)
        offset = offset + pulled.offset - pulled.error
        for place, part in zip(step.inputs, pulled.parts, strict=True):
            open_ends[place] = open_ends[place] + part if place in open_ends else part


def _least(coefs: Tensor, region: Region, rounding: Rounding) -> Tensor:
    """The least value of ``coefs * x`` over a region, ``(N, M)``."""
    middle = weighted_sum(coefs, region.center)
    if isinstance(region, Box):
        size = region.center.abs() + region.radius
        return (
            middle
            - weighted_sum(coefs.abs(), region.radius)
            - rounding_error(coefs, size, 0, rounding)
        )
    assert isinstance(region, Ball)
    scaled = (coefs * region.scale[:, None]).flatten(2)
    norms: Tensor = scaled.norm(dim=2)
    spread = region.radius * norms + weighted_sum(coefs.abs(), region.slack)
    size = region.center.abs() + region.slack + region.radius * region.scale
    return middle - spread - rounding_error(coefs, size, 0, rounding)

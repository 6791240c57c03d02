"""Finds the smallest eps at which one FGSM step fools the model, for many images at once.

The protocol (Roos 2020), for one image: try eps 0 and nine log-spaced values in [1e-3, 1]. Between
the last correct and the first wrong value, try ten log-spaced values, both ends included, and
repeat until the two differ by at most 1e-3. The threshold is the wrong end. An image that is wrong
at 0, or still correct at 1, has none.

The images are searched in batches, each at its own eps. A value that the protocol would try twice
(the ends of a refinement) is tried once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nullclass.attacks import FGSM
from nullclass.core.devices import default_batch_size, in_float64
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.norms import step_along
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.scoring.score import batch_of

GRID = (0.0, *(10 ** (-3 + 3 * step / 8) for step in range(9)))
"""Initial values of eps, in pixel units."""

NUM_REFINED = 10
"""Values of a refinement, both ends included."""

TOLERANCE = 1e-3
"""Largest difference of the last correct and the first wrong eps at the end, in pixel units."""


def find_thresholds(
    model: Classifier, data: LabelledImages, *, first_image: int, num_images: int
) -> tuple[Tensor, Tensor]:
    """Find images that are correct when clean and wrong after one FGSM step, and their thresholds.

    Args:
        model: The model to attack.
        data: Images and labels, searched in order, from ``first_image`` and around the end.
        first_image: Index of the first image.
        num_images: How many images to find.

    Returns:
        Indices of the images found, and their thresholds in pixel units, both ``(num_images,)``.

    Raises:
        UserError: If there are fewer such images.
    """
    order = (torch.arange(len(data)) + first_image) % len(data)
    found: list[Tensor] = []
    thresholds: list[Tensor] = []
    missing, start = num_images, 0
    batch_size = default_batch_size(data.images[:1])
    while missing and start < len(order):
        indices = order[start : start + max(missing, batch_size)]
        start += len(indices)
        images, labels = batch_of(model, data, indices)
        eps = thresholds_of(model, images, labels).cpu()
        usable = (~eps.isnan()).nonzero().squeeze(1)[:missing]
        found.append(indices[usable])
        thresholds.append(eps[usable])
        missing -= len(usable)
    if missing:
        raise UserError(
            f"only {num_images - missing} of {len(data)} images are correct and fooled by an FGSM "
            f"step of at most 1, not {num_images}: use fewer, or check the model"
        )
    return torch.cat(found), torch.cat(thresholds)


def thresholds_of(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return thresholds ``(N,)`` of images ``(N, C, H, W)`` in pixel units; NaN for none."""
    with frozen(model):
        directions = FGSM("untargeted").direction(model, images, labels, norm="linf")
        size = default_batch_size(images)

        def is_correct(indices: Tensor, eps: Tensor) -> Tensor:
            correct, parts = [], indices.to(images.device).split(size)
            for part, budget in zip(parts, eps.to(images.device).split(size), strict=True):
                adv_images = step_along(directions[part], images[part], budget, "linf")
                correct.append(model.predict(adv_images) == labels[part])
            return torch.cat(correct).to(indices.device)

        return bracket(is_correct, len(images), in_float64(images[:0]).device)


def bracket(
    is_correct: Callable[[Tensor, Tensor], Tensor], num_images: int, device: torch.device
) -> Tensor:
    """Return the protocol's thresholds for any model.

    Args:
        is_correct: From image indices ``(M,)`` and float32 eps ``(M,)`` to booleans ``(M,)``.
        num_images: How many images there are.
        device: Device of the indices and eps.

    Returns:
        ``(N,)`` float32, NaN where there is no threshold.
    """
    # Each image has its own grid of eps values and a position in it.
    grids = torch.tensor(GRID, dtype=torch.float64, device=device).repeat(num_images, 1)
    last = grids.shape[1] - 1
    positions = torch.zeros(num_images, dtype=torch.int64, device=device)
    is_refined = torch.zeros(num_images, dtype=torch.bool, device=device)
    thresholds = torch.full((num_images,), math.nan, device=device)
    active = torch.arange(num_images, device=device)
    while len(active):
        # The last value of a refined grid is known to be wrong.
        is_open = ~(is_refined[active] & (positions[active] == last))
        tried = active[is_open]
        is_wrong = torch.ones(len(active), dtype=torch.bool, device=device)
        if len(tried):
            is_wrong[is_open] = ~is_correct(tried, grids[tried, positions[tried]].float())
        correct, wrong = active[~is_wrong], active[is_wrong]
        positions[correct] += 1
        fooled = wrong[positions[wrong] > 0]  # an image that is wrong at 0 has no threshold
        low, high = grids[fooled, positions[fooled] - 1], grids[fooled, positions[fooled]]
        is_narrow = high - low <= TOLERANCE
        thresholds[fooled[is_narrow]] = high[is_narrow].float()
        refined = fooled[~is_narrow]
        grids[refined] = _refine(low[~is_narrow], high[~is_narrow])
        positions[refined], is_refined[refined] = 1, True  # its first value is known to be correct
        active = torch.cat([correct[positions[correct] <= last], refined]).sort().values
    return thresholds


def _refine(low: Tensor, high: Tensor) -> Tensor:
    """Return grids ``(N, 10)`` from low > 0 to high, log-spaced, both ends exact."""
    steps = torch.linspace(0, 1, NUM_REFINED, dtype=low.dtype, device=low.device)
    grids = low[:, None] * (high / low)[:, None] ** steps
    grids[:, -1] = high
    return grids

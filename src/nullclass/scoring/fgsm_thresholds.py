"""The smallest eps at which a model errs along one FGSM ray, for many images at once.

The report's protocol (Roos 2020; study-facts section 2), image by image: try eps 0 and nine
log-spaced values in [1e-3, 1] in turn; between the last right and the first wrong one try ten
log-spaced values, both ends among them, and so on until the two are within 1e-3. The threshold is
the wrong end. An image that the model gets wrong at 0 or still right at 1 has none.

Here every image is somewhere on that path of its own, and each round asks the model once about
all images that are not done: the same questions in the same order, in batches. A value that the
protocol would ask about twice (the ends of a refinement) is asked about once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nullclass.attacks import FGSM
from nullclass.attacks.base import frozen
from nullclass.core.errors import UserError
from nullclass.core.norms import step_along
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier

GRID = (0.0, *(10 ** (-3 + 3 * step / 8) for step in range(9)))
"""The first values of eps, in pixel units."""

NUM_REFINED = 10
"""Values of a refinement, both ends among them."""

TOLERANCE = 1e-3
"""How near the last right and the first wrong eps must be, in pixel units."""

BATCH_SIZE = 64
"""Images asked about at once: small enough for the caches."""


def find_thresholds(
    model: Classifier, data: LabelledImages, *, first_image: int, num_images: int
) -> tuple[Tensor, Tensor]:
    """Images that the model gets right and one FGSM step gets wrong, and at which eps.

    Args:
        model: The model, attacked on itself.
        data: Images and labels, gone through in order, round and round at most once.
        first_image: Position to begin at.
        num_images: How many images to find.

    Returns:
        Positions of the images found, in the order they were met, and their thresholds in pixel
        units, both ``(num_images,)``.

    Raises:
        UserError: If there are not so many such images.
    """
    order = (torch.arange(len(data)) + first_image) % len(data)
    found: list[Tensor] = []
    thresholds: list[Tensor] = []
    lacking, looked = num_images, 0
    while lacking and looked < len(order):
        indices = order[looked : looked + max(lacking, BATCH_SIZE)]
        looked += len(indices)
        images, labels = (t.to(model.mean.device) for t in data.batch(indices))
        eps = thresholds_of(model, images, labels).cpu()
        usable = (~eps.isnan()).nonzero().squeeze(1)[:lacking]
        found.append(indices[usable])
        thresholds.append(eps[usable])
        lacking -= len(usable)
    if lacking:
        raise UserError(
            f"only {num_images - lacking} of {len(data)} images are right and fall to an FGSM step "
            f"of at most 1, {num_images} were asked for: ask for fewer, or look at the model"
        )
    return torch.cat(found), torch.cat(thresholds)


def thresholds_of(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Thresholds ``(N,)`` of images ``(N, C, H, W)`` in pixel units; NaN for those without one."""
    with frozen(model):
        directions = torch.cat(
            [
                FGSM("untargeted").direction(model, *part, norm="linf")
                for part in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
            ]
        )

        def is_right(which: Tensor, eps: Tensor) -> Tensor:
            answers = []
            for part, budget in zip(which.split(BATCH_SIZE), eps.split(BATCH_SIZE), strict=True):
                moved = step_along(directions[part], images[part], budget, "linf")
                answers.append(model.predict(moved) == labels[part])
            return torch.cat(answers)

        return bracket(is_right, len(images), images.device)


def bracket(
    is_right: Callable[[Tensor, Tensor], Tensor], num_images: int, device: torch.device
) -> Tensor:
    """The protocol's thresholds, given what to ask.

    Args:
        is_right: From positions ``(M,)`` and float32 eps ``(M,)`` to booleans ``(M,)``.
        num_images: How many images there are.
        device: Where the positions and eps are to be.

    Returns:
        ``(N,)`` float32, NaN where there is none.
    """
    # Each image climbs a ladder of eps values rung by rung; a refinement gives it a finer ladder.
    ladders = torch.tensor(GRID, dtype=torch.float64, device=device).repeat(num_images, 1)
    last = ladders.shape[1] - 1
    rungs = torch.zeros(num_images, dtype=torch.int64, device=device)
    is_refined = torch.zeros(num_images, dtype=torch.bool, device=device)
    thresholds = torch.full((num_images,), math.nan, device=device)
    climbing = torch.arange(num_images, device=device)
    while len(climbing):
        # The top of a finer ladder is known to be wrong.
        is_open = ~(is_refined[climbing] & (rungs[climbing] == last))
        asked = climbing[is_open]
        is_wrong = torch.ones(len(climbing), dtype=torch.bool, device=device)
        if len(asked):
            is_wrong[is_open] = ~is_right(asked, ladders[asked, rungs[asked]].float())
        rights, wrongs = climbing[~is_wrong], climbing[is_wrong]
        rungs[rights] += 1
        fallen = wrongs[rungs[wrongs] > 0]  # those wrong at 0 have no threshold
        low, high = ladders[fallen, rungs[fallen] - 1], ladders[fallen, rungs[fallen]]
        is_narrow = high - low <= TOLERANCE
        thresholds[fallen[is_narrow]] = high[is_narrow].float()
        refined = fallen[~is_narrow]
        ladders[refined] = _finer(low[~is_narrow], high[~is_narrow])
        rungs[refined], is_refined[refined] = 1, True  # its foot is known to be right
        climbing = torch.cat([rights[rungs[rights] <= last], refined]).sort().values
    return thresholds


def _finer(low: Tensor, high: Tensor) -> Tensor:
    """Ladders ``(N, 10)`` from low > 0 to high, log-spaced, both ends exact."""
    steps = torch.linspace(0, 1, NUM_REFINED, dtype=low.dtype, device=low.device)
    ladders = low[:, None] * (high / low)[:, None] ** steps
    ladders[:, -1] = high
    return ladders

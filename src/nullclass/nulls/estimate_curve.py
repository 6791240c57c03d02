"""Estimates the null curve f of a clean model on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.norms import find_norm
from nullclass.core.outcomes import Outcome, outcomes
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb import Perturbation, gradient_of, name_of
from nullclass.results.null_curve import Floats, NullCurve

MAX_SIZES = 10_000
"""Most sizes of a curve."""

MIN_IMAGES = 50
"""Images needed to estimate a curve; they give a fooled rate to within about 0.07."""

NUM_COARSE = 24
"""Sizes of the search for the range: from 1/2896 of the largest, each sqrt(2) times the last."""

Batch = tuple[Tensor, Tensor, Tensor | None]
"""Images, labels and the gradient at the images, if the perturbation starts from it."""


def estimate_curve(
    model: Classifier,
    held_out: LabelledImages,
    perturbation: Perturbation,
    norm: str,
    *,
    num_sizes: int = 32,
    always: float = 0.99,
    largest: float | None = None,
    seed: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> NullCurve:
    """Estimate f: the rate of held-out images that a perturbation of each size fools.

    Only correctly classified images count, so that f(0) is 0. An image is fooled if the model
    predicts another real class. A coarse search first finds the range: the smallest size that
    always fools. Every size uses the same random draws.

    Args:
        model: The clean model.
        held_out: Images that the model was not trained on.
        perturbation: The perturbation.
        norm: A norm that the perturbation supports.
        num_sizes: Number of evenly spaced sizes up to the end of the range. In ``l0`` sizes are
            rounded to pixels, so that there may be fewer.
        always: The fooled rate that counts as always, in (0, 1]. One step of FGSM leaves some
            images correct at any size and needs a smaller value.
        largest: End of the coarse search, in units of the norm. By default 1 in ``linf`` and
            ``l0``, and half of the diagonal of [0,1]^d in ``l2``, where any image can become grey.
        seed: Seed of the perturbation.
        on_images: Progress callback: called with the number of images just perturbed.

    Returns:
        The curve. Its last point is the end of the range, where f is 1.

    Raises:
        UserError: If the perturbation does not support the norm, an argument is out of range,
            fewer than :data:`MIN_IMAGES` images are classified correctly, or no size fools the
            model, none always fools it, or the smallest one already does.
    """
    shape = tuple(held_out.images.shape[1:])
    limit = find_norm(norm).largest(math.prod(shape))
    if largest is None:
        largest = limit / 2 if norm == "l2" else limit
    if not 0 < largest <= limit:
        raise UserError(f"the largest size must be in (0, {limit:g}] in {norm}, not {largest}")
    if not 0 < always <= 1:
        raise UserError(f"always must be a rate in (0, 1], not {always}")
    check_count("the number of sizes", num_sizes, 2, MAX_SIZES)
    batches = _correct_batches(model, held_out, perturbation)
    num_images = sum(len(labels) for _, labels, _ in batches)
    if num_images < MIN_IMAGES:
        raise UserError(
            f"the model classifies {num_images} of {len(held_out)} held-out images correctly, and "
            f"a null curve needs {MIN_IMAGES}: give more images, or train the model longer"
        )

    def fooled_rate(size: float) -> float:
        generator = torch.Generator().manual_seed(seed)
        num_fooled = 0
        with frozen(model):
            for images, labels, gradient in batches:
                sizes = images.new_full((len(images),), size)
                perturbed = perturbation(
                    model, images, labels, sizes, norm, generator, gradient=gradient
                )
                is_fooled = outcomes(model.predict(perturbed), labels) == Outcome.FOOLED
                num_fooled += int(is_fooled.sum())
                if on_images is not None:
                    on_images(len(images))
        return num_fooled / num_images

    def possible(sizes: Floats) -> Floats:
        if norm != "l0":
            return sizes
        num_pixels = math.prod(shape[1:])
        return np.unique(np.rint(sizes * num_pixels).clip(1)) / num_pixels

    coarse = possible(largest * 2 ** (np.arange(1 - NUM_COARSE, 1) / 2))
    end = _smallest_that_always_fools(fooled_rate, coarse, always)
    sizes = possible(end * (np.arange(1, num_sizes + 1) / num_sizes))
    fooled = [fooled_rate(size) for size in sizes.tolist()]
    return NullCurve(
        norm=norm,
        sizes=tuple(sizes.tolist()),
        probabilities=tuple((isotonic_regression(fooled).x / always).clip(0, 1).tolist()),
        fooled=tuple(fooled),
        num_images=num_images,
        perturbation=name_of(perturbation),
        perturbation_settings=perturbation.settings(),
    )


def _correct_batches(
    model: Classifier, held_out: LabelledImages, perturbation: Perturbation
) -> list[Batch]:
    """Return the correctly classified images in batches."""
    batches: list[Batch] = []
    with frozen(model):
        for batch in held_out.batches():
            images, labels = (tensor.to(model.mean.device) for tensor in batch)
            is_correct = (model.predict(images) == labels) & (labels >= 0)
            images, labels = images[is_correct], labels[is_correct]
            if len(labels):
                needs_gradient = perturbation.needs_gradient
                gradient = gradient_of(model, images, labels) if needs_gradient else None
                batches.append((images, labels, gradient))
    return batches


def _smallest_that_always_fools(
    fooled_rate: Callable[[float], float], sizes: Floats, always: float
) -> float:
    """Return the smallest of the increasing sizes whose fooled rate reaches ``always``."""
    highest = 0.0
    for i, size in enumerate(sizes.tolist()):
        rate = fooled_rate(size)
        if rate >= always and i > 0:
            return float(size)
        if rate >= always:
            raise UserError(
                f"the smallest perturbation, of size {size:.3g}, already fools the model on "
                f"{rate:.1%} of the images: use a smaller largest size, or a more robust model"
            )
        highest = max(highest, rate)
    if highest == 0:
        raise UserError(
            f"no perturbation of a size up to {size:.3g} fools the model, so there is no null "
            "curve: use another perturbation, or allow larger sizes"
        )
    raise UserError(
        f"perturbations of sizes up to {size:.3g} fool the model on at most {highest:.1%} of the "
        f"images and never on {always:.1%}: set a smaller always, allow larger sizes, or use "
        "another perturbation"
    )

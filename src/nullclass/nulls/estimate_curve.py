"""Estimates the null curve f of a clean model on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.core.errors import UserError
from nullclass.core.norms import find_norm
from nullclass.core.outcomes import Outcome, outcomes
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb import Perturbation, name_of
from nullclass.nulls.perturb.base import gradient_of
from nullclass.results.null_curve import Floats, NullCurve, isotonic

MIN_IMAGES = 50
"""Images a curve can be estimated from: the share fooled is then known to about 0.07."""

NUM_COARSE = 24
"""Sizes of the scan for the range, from 1/2896 of the largest on, each sqrt(2) times the last."""

BATCH_SIZE = 500
"""Images perturbed at once."""


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
    """Estimate f: the share of held-out images that perturbations of each size fool.

    Only images that the model gets right count, so that f(0) is 0. Fooled is an answer that is
    another real class. The range is found first: the smallest of a few sizes that always fools.
    Every size is tried with the same random draws.

    Args:
        model: The clean model.
        held_out: Images it was not trained on.
        perturbation: What perturbs them.
        norm: How sizes are told; one of the maker's.
        num_sizes: Evenly spaced sizes up to the end of the range (in ``l0`` rounded to whole
            pixels, hence fewer if there are fewer pixels).
        always: The share fooled that counts as always, in (0, 1]. One step of FGSM, however long,
            leaves a network right on some images that it guesses: it needs less.
        largest: The end of the first scan, in units of the norm. Without it 1 in ``linf`` and
            ``l0``; in ``l2`` half of the box's diagonal, within which any image can be made grey.
        seed: Of what the maker draws.
        on_images: Progress: called with the number of images just perturbed.

    Returns:
        The curve; its last point is the end of the range, and f is 1 there.

    Raises:
        UserError: If the norm is unknown to the maker, an argument is out of range, fewer than
            :data:`MIN_IMAGES` images are answered rightly, or the model is never fooled, not
            always fooled by any size, or always fooled by the smallest.
    """
    shape = tuple(held_out.images.shape[1:])
    limit = find_norm(norm).largest(math.prod(shape))
    if largest is None:
        largest = limit / 2 if norm == "l2" else limit
    if not 0 < largest <= limit:
        raise UserError(f"the largest size must be in (0, {limit:g}] in {norm}, not {largest}")
    if not 0 < always <= 1:
        raise UserError(f"always is a share of the images, in (0, 1], not {always}")
    if num_sizes < 2:
        raise UserError(f"a null curve needs at least two sizes, not {num_sizes}")
    asked = _Asked(model, held_out, perturbation, norm, seed, on_images)

    def there_are(sizes: Floats) -> Floats:
        if norm != "l0":
            return sizes
        num_pixels = math.prod(shape[1:])
        return np.unique(np.rint(sizes * num_pixels).clip(1)) / num_pixels

    end = _find_end(asked, there_are(largest * 2 ** (np.arange(1 - NUM_COARSE, 1) / 2)), always)
    sizes = there_are(end * (np.arange(1, num_sizes + 1) / num_sizes))
    fooled = [asked.share_fooled(float(size)) for size in sizes]
    return NullCurve(
        norm=norm,
        sizes=tuple(sizes.tolist()),
        probabilities=tuple((isotonic(fooled) / always).clip(0, 1).tolist()),
        fooled=tuple(fooled),
        num_images=asked.num_images,
        perturbation=name_of(perturbation),
        perturbation_settings=perturbation.settings(),
    )


def _find_end(asked: _Asked, sizes: Floats, always: float) -> float:
    """The smallest of the rising sizes that always fools."""
    shares: list[float] = []
    for size in sizes.tolist():
        shares.append(asked.share_fooled(size))
        if shares[-1] >= always:
            break
    if max(shares) == 0:
        raise UserError(
            f"no perturbation of a size up to {size:.3g} fools the model, so there is no null "
            "curve: use another perturbation, or allow larger sizes"
        )
    if max(shares) < always:
        raise UserError(
            f"perturbations of sizes up to {size:.3g} fool the model on at most "
            f"{max(shares):.1%} of the images and never on {always:.1%}: give a smaller share as "
            "always, allow larger sizes, or use another perturbation"
        )
    if len(shares) == 1:
        raise UserError(
            f"the smallest perturbation tried, of size {size:.3g}, fools the model on "
            f"{shares[0]:.1%} of the images already, so there is no curve to see: give a smaller "
            "largest size, or a clean model that stands more"
        )
    return float(size)


class _Asked:
    """The model and the held-out images that it gets right, ready to be perturbed."""

    def __init__(
        self,
        model: Classifier,
        held_out: LabelledImages,
        perturbation: Perturbation,
        norm: str,
        seed: int,
        on_images: Callable[[int], None] | None,
    ) -> None:
        self.model, self.perturbation, self.norm = model, perturbation, norm
        self.seed, self.on_images = seed, on_images
        self.batches: list[tuple[Tensor, Tensor, Tensor | None]] = []
        """Images, labels and, if the maker wants it, the gradient that all sizes begin with."""
        device = model.mean.device
        with frozen(model):
            for first in range(0, len(held_out), BATCH_SIZE):
                batch = held_out.batch(slice(first, first + BATCH_SIZE))
                images, labels = (tensor.to(device) for tensor in batch)
                is_right = (model.predict(images) == labels) & (labels >= 0)
                images, labels = images[is_right], labels[is_right]
                if len(labels):
                    wants = perturbation.needs_gradient
                    gradient = gradient_of(model, images, labels) if wants else None
                    self.batches.append((images, labels, gradient))
        self.num_images = sum(len(labels) for _, labels, _ in self.batches)
        if self.num_images < MIN_IMAGES:
            raise UserError(
                f"the model gets {self.num_images} of {len(held_out)} held-out images right, and a "
                f"null curve needs {MIN_IMAGES}: hold out more images, or train the model longer"
            )

    def share_fooled(self, size: float) -> float:
        """The share of the images that a perturbation of this size fools."""
        generator = torch.Generator().manual_seed(self.seed)
        num_fooled = 0
        with frozen(self.model):
            for images, labels, gradient in self.batches:
                sizes = images.new_full((len(images),), size)
                perturbed = self.perturbation(
                    self.model, images, labels, sizes, self.norm, generator, gradient=gradient
                )
                scored = outcomes(self.model.predict(perturbed), labels)
                num_fooled += int((scored == Outcome.FOOLED).sum())
                if self.on_images is not None:
                    self.on_images(len(images))
        return num_fooled / self.num_images

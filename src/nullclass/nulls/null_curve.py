"""The null curve f: how likely an image perturbed by some size should be called null.

Hosseini et al. 2017 (step 2): f(size) rises with how often the clean model is fooled by
perturbations of that size, and is 1 from the smallest size on that always fools it (N_max for a
count of pixels). Here the shares are those of held-out images, made monotone by isotonic
regression. "Always" is a share near 1, since one stubborn image should not decide N_max; f is the
share fooled over that, cut at 1.

Reading and drawing a curve needs no torch.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nullclass.core.errors import UserError
from nullclass.core.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from nullclass.data import LabelledImages
    from nullclass.models.classifier import Classifier
    from nullclass.nulls.perturb import Perturbation

Floats = npt.NDArray[np.float64]

LARGEST_SIZE = {"linf": 1.0, "l2": math.inf, "l0": 1.0}
"""The measures (:mod:`nullclass.nulls.perturb.measures`) to the largest size of any image."""

MIN_IMAGES = 50
"""Images a curve can be estimated from: the share fooled is then known to about 0.07."""

NUM_COARSE = 24
"""Sizes of the scan for the range, from 1/2896 of the largest on, each sqrt(2) times the last."""

BATCH_SIZE = 500
"""Images perturbed at once."""


@dataclass(frozen=True)
class NullCurve:
    """A curve given by points, with straight lines between them.

    Raises:
        UserError: If the points are no such curve.
    """

    measure: str
    """How sizes are told: a key of :data:`LARGEST_SIZE`."""
    sizes: tuple[float, ...]
    """Rising, above 0; at size 0 the curve is 0."""
    probabilities: tuple[float, ...]
    """f at these sizes: never falling, in [0,1]."""
    fooled: tuple[float, ...] = ()
    """The raw shares fooled that f was fitted to, if it was."""
    num_images: int = 0
    """Held-out images it was estimated on; 0 for one that was given."""
    perturbation: str = ""
    """The maker it was estimated with: a name in :data:`nullclass.nulls.perturb.PERTURBATIONS`."""
    perturbation_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """That maker's settings, by name (JSON values)."""

    def __post_init__(self) -> None:
        """Refuse what is no curve."""
        _check_measure(self.measure)
        for name in ("sizes", "probabilities", "fooled"):  # numpy's numbers too, but kept as plain
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        _check_points(self.sizes, self.probabilities, LARGEST_SIZE[self.measure])
        if self.fooled:
            _check_lengths(self.sizes, self.fooled, "shares fooled")
            _check_shares(self.fooled, "share fooled")

    def __call__(self, sizes: npt.ArrayLike) -> Floats:
        """Probabilities of null, shaped like the sizes; beyond the last point that point's."""
        known, values = self._points
        told: Floats = np.interp(np.asarray(sizes, dtype=np.float64), known, values)
        return told

    @property
    def largest(self) -> float:
        """The smallest size where f is 1 (N_max), or else the last size: the range to train on."""
        pairs = zip(self.sizes, self.probabilities, strict=True)
        return next((size for size, probability in pairs if probability == 1), self.sizes[-1])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> NullCurve:
        """The curve that :meth:`to_dict` told.

        Raises:
            UserError: If it did not tell this, or it is no curve.
        """
        try:
            values: dict[str, Any] = {
                name: tuple(map(float, value)) if isinstance(value, list) else value
                for name, value in told.items()
            }
            return cls(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no null curve: {error}") from None

    @cached_property
    def _points(self) -> tuple[Floats, Floats]:
        return np.array([0.0, *self.sizes]), np.array([0.0, *self.probabilities])


def isotonic(shares: Sequence[float] | Floats, weights: Sequence[float] | None = None) -> Floats:
    """The sequence that never falls and is nearest to these in (weighted) least squares.

    By pooling adjacent violators: neighbours that fall are replaced by their mean, until none do.

    Args:
        shares: ``(N,)`` numbers.
        weights: ``(N,)``, above 0; all alike without them.
    """
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for mean, mass in zip(
        shares, np.ones(len(shares)) if weights is None else weights, strict=True
    ):
        mean, mass, length = float(mean), float(mass), 1
        while means and means[-1] >= mean:
            total = masses[-1] + mass
            mean += (means.pop() - mean) * (masses.pop() / total)
            mass, length = total, length + lengths.pop()
        means.append(mean)
        masses.append(mass)
        lengths.append(length)
    return np.repeat(np.array(means), lengths)


def read_curve(path: Path, measure: str | None = None) -> NullCurve:
    """Read a curve from a CSV file with the columns size and probability.

    It may also have the columns fooled, measure, perturbation, perturbation_settings (as JSON) and
    num_images, the last four alike in every line, as :func:`write_curve` writes them. A first line
    of size 0 and probability 0 says what is understood, and is passed over.

    Args:
        path: The file.
        measure: How it tells sizes, if it does not say so itself.

    Raises:
        UserError: If the file cannot be read so, its points are no curve, or it tells sizes in
            another measure, or nobody says in which.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
        first = lines[0] if lines else {}
        names = ["size", "probability", *(["fooled"] if "fooled" in first else [])]
        rows = [[float(line[name]) for name in names] for line in lines]
        about = {
            "num_images": int(first.get("num_images") or 0),
            "perturbation": first.get("perturbation") or "",
            "perturbation_settings": json.loads(first.get("perturbation_settings") or "{}"),
        }
    except OSError as error:
        raise UserError(f"the null curve {path} cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise UserError(
            f"the null curve {path} has no column {error}: its first line must be size,probability"
        ) from None
    except (TypeError, ValueError, csv.Error) as error:
        raise UserError(f"the null curve {path} must hold numbers only: {error}") from None
    told = first.get("measure") or None
    if None not in (told, measure) and told != measure:
        raise UserError(f"the null curve {path} tells sizes in {told}, not in {measure}")
    if told is None and measure is None:
        raise UserError(
            f"the null curve {path} does not say how it tells sizes: say so, as one of "
            f"{', '.join(LARGEST_SIZE)}"
        )
    if rows and rows[0][:2] == [0, 0]:
        rows = rows[1:]
    columns = dict(zip(names, zip(*rows, strict=True), strict=False))
    try:
        return NullCurve(
            str(told or measure),
            columns.get("size", ()),
            columns.get("probability", ()),
            columns.get("fooled", ()),
            **about,
        )
    except UserError as error:
        raise UserError(f"the null curve {path} is none: {error}") from None


def write_curve(path: Path, curve: NullCurve) -> None:
    """Write a curve as CSV that :func:`read_curve` reads back, whole or not at all.

    Raises:
        CannotWriteError: If the disk refuses.
    """
    columns: dict[str, Sequence[float]] = {"size": curve.sizes, "probability": curve.probabilities}
    if curve.fooled:
        columns["fooled"] = curve.fooled
    about = {
        "measure": curve.measure,
        "perturbation": curve.perturbation,
        "perturbation_settings": json.dumps(curve.perturbation_settings),
        "num_images": curve.num_images,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *about])
    for row in zip(*columns.values(), strict=True):
        writer.writerow([*map(repr, row), *about.values()])
    write_text(path, text.getvalue())


def estimate_curve(
    model: Classifier,
    held_out: LabelledImages,
    perturbation: Perturbation,
    measure: str,
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
        measure: How sizes are told; one of the maker's.
        num_sizes: Evenly spaced sizes up to the end of the range (in ``l0`` rounded to whole
            pixels, hence fewer if there are fewer pixels).
        always: The share fooled that counts as always, in (0, 1]. One step of FGSM, however long,
            leaves a network right on some images that it guesses: it needs less.
        largest: The end of the first scan, in units of the measure. Without it 1 in ``linf`` and
            ``l0``; in ``l2`` half of the box's diagonal, within which any image can be made grey.
        seed: Of what the maker draws.
        on_images: Progress: called with the number of images just perturbed.

    Returns:
        The curve; its last point is the end of the range, and f is 1 there.

    Raises:
        UserError: If the measure is unknown to the maker, an argument is out of range, fewer than
            :data:`MIN_IMAGES` images are answered rightly, or the model is never fooled, not
            always fooled by any size, or always fooled by the smallest.
    """
    from nullclass.nulls.perturb import find_measure, name_of

    shape = tuple(held_out.images.shape[1:])
    limit = find_measure(measure).largest(shape)
    if largest is None:
        largest = limit / 2 if measure == "l2" else limit
    if not 0 < largest <= limit:
        raise UserError(f"the largest size must be in (0, {limit:g}] in {measure}, not {largest}")
    if not 0 < always <= 1:
        raise UserError(f"always is a share of the images, in (0, 1], not {always}")
    if num_sizes < 2:
        raise UserError(f"a null curve needs at least two sizes, not {num_sizes}")
    asked = _Asked(model, held_out, perturbation, measure, seed, on_images)

    def there_are(sizes: Floats) -> Floats:
        if measure != "l0":
            return sizes
        num_pixels = math.prod(shape[1:])
        return np.unique(np.rint(sizes * num_pixels).clip(1)) / num_pixels

    end = _find_end(asked, there_are(largest * 2 ** (np.arange(1 - NUM_COARSE, 1) / 2)), always)
    sizes = there_are(end * (np.arange(1, num_sizes + 1) / num_sizes))
    fooled = [asked.share_fooled(float(size)) for size in sizes]
    return NullCurve(
        measure=measure,
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
        measure: str,
        seed: int,
        on_images: Callable[[int], None] | None,
    ) -> None:
        from nullclass.attacks.base import frozen
        from nullclass.nulls.perturb.base import gradient_of

        self.model, self.perturbation, self.measure = model, perturbation, measure
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
        import torch

        from nullclass.attacks.base import frozen
        from nullclass.core.outcomes import Outcome, outcomes

        generator = torch.Generator().manual_seed(self.seed)
        num_fooled = 0
        with frozen(self.model):
            for images, labels, gradient in self.batches:
                sizes = images.new_full((len(images),), size)
                perturbed = self.perturbation(
                    self.model, images, labels, sizes, self.measure, generator, gradient=gradient
                )
                scored = outcomes(self.model.predict(perturbed), labels)
                num_fooled += int((scored == Outcome.FOOLED).sum())
                if self.on_images is not None:
                    self.on_images(len(images))
        return num_fooled / self.num_images


def _check_measure(measure: str) -> None:
    if measure not in LARGEST_SIZE:
        raise UserError(f"there is no measure {measure!r}: choose one of {', '.join(LARGEST_SIZE)}")


def _check_points(sizes: Sequence[float], probabilities: Sequence[float], largest: float) -> None:
    _check_lengths(sizes, probabilities, "probabilities")
    if not sizes:
        raise UserError("a null curve needs at least one size and its probability")
    _check_shares(probabilities, "probability of null")
    if any(math.isnan(size) for size in sizes):
        raise UserError("the sizes of a null curve hold NaN: give a number each")
    if any(later <= size for size, later in itertools.pairwise((0.0, *sizes))):
        raise UserError("the sizes of a null curve must rise, from above 0: put them in order")
    if not sizes[-1] <= min(largest, 1e9):
        raise UserError(
            f"the sizes of this null curve go up to {sizes[-1]:g}, but none is above {largest:g} "
            "in its measure: pixels are in [0, 1], and counts of pixels are shares"
        )
    if any(later < before for before, later in itertools.pairwise(probabilities)):
        raise UserError(
            "the probabilities of a null curve fall with size: give ones that never fall "
            "(nullclass.nulls.null_curve.isotonic makes them so)"
        )


def _check_lengths(sizes: Sequence[float], values: Sequence[float], what: str) -> None:
    if len(sizes) != len(values):
        raise UserError(f"a null curve has {len(sizes)} sizes but {len(values)} {what}")


def _check_shares(values: Sequence[float], what: str) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise UserError(f"a {what} of {value:g} is outside [0, 1]: give a share of 1")

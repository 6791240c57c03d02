"""The null curve f: the probability of null of an image perturbed by some size.

Hosseini et al. 2017 (step 2): f(size) increases with the share of images that perturbations of that
size fool, and is 1 from the smallest size that always fools (N_max for a count of pixels). Here the
shares are those of held-out images, made monotone by isotonic regression. "Always" is a share near
1, since one robust image should not decide N_max; f is the share fooled divided by it, at most 1.

Imports no torch.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from msgspec import Meta

from nullclass.core.checks import check_choice, check_count
from nullclass.core.documents import Schema, parse
from nullclass.core.errors import UserError
from nullclass.core.tables import read_rows
from nullclass.results.frames import write_frame

Floats = npt.NDArray[np.float64]

LARGEST_SIZE = {"linf": 1.0, "l2": math.inf, "l1": math.inf, "l0": 1.0}
"""Keys of :data:`nullclass.core.norms.NORMS`, without torch, to the largest size of any image."""

PerturbationName = Literal["fgsm", "pgd", "sparse", "noise"]
"""Keys of :data:`nullclass.nulls.perturb.PERTURBATIONS`, without torch."""

Share = Annotated[float, Meta(ge=0, le=1)]


class _Row(Schema, frozen=True, kw_only=True):
    """A row of a file."""

    size: Annotated[float, Meta(ge=0, le=1e9)]
    probability: Share
    fooled: Share | None = None
    norm: str | None = None
    num_images: Annotated[int, Meta(ge=0, le=10**9)] = 0
    perturbation: PerturbationName | None = None
    perturbation_settings: str = "{}"


@dataclass(frozen=True)
class NullCurve:
    """A piecewise linear curve through points.

    Raises:
        UserError: If the points are not those of a null curve.
    """

    norm: str
    """Norm of the sizes: a key of :data:`LARGEST_SIZE`."""
    sizes: tuple[float, ...]
    """Increasing, above 0; at size 0 the curve is 0."""
    probabilities: tuple[float, ...]
    """f at these sizes: never decreasing, in [0,1]."""
    fooled: tuple[float, ...] = ()
    """Shares of images fooled that f was fitted to, if it was."""
    num_images: int = 0
    """Number of held-out images of the estimate; 0 for a curve that was not estimated."""
    perturbation: str = ""
    """Perturbation of the estimate: a name in :data:`nullclass.nulls.perturb.PERTURBATIONS`."""
    perturbation_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """Settings of the perturbation, by name (JSON values)."""

    def __post_init__(self) -> None:
        """Check the points."""
        check_choice("norm", self.norm, LARGEST_SIZE)
        for name in ("sizes", "probabilities", "fooled"):  # NumPy's numbers become plain ones
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        _check_sizes(self.sizes, LARGEST_SIZE[self.norm])
        _check_shares(self.sizes, self.probabilities, "probabilities of null")
        if any(later < before for before, later in itertools.pairwise(self.probabilities)):
            raise UserError(
                "the probabilities of a null curve fall with size: give ones that never fall "
                "(scipy.optimize.isotonic_regression makes them so)"
            )
        if self.fooled:
            _check_shares(self.sizes, self.fooled, "shares fooled")
        check_count("num_images", self.num_images, 0)
        for name, kind in (("perturbation", str), ("perturbation_settings", dict)):
            if not isinstance(getattr(self, name), kind):
                raise UserError(f"this is no null curve: {name} must be a {kind.__name__}")

    def __call__(self, sizes: npt.ArrayLike) -> Floats:
        """Return probabilities of null, shaped like the sizes; constant after the last point."""
        known, values = self._points
        probabilities: Floats = np.interp(np.asarray(sizes, dtype=np.float64), known, values)
        return probabilities

    @property
    def largest(self) -> float:
        """The smallest size where f is 1 (N_max), or the last size: the range to train on."""
        pairs = zip(self.sizes, self.probabilities, strict=True)
        return next((size for size, probability in pairs if probability == 1), self.sizes[-1])

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NullCurve:
        """Return the curve described by the result of :meth:`to_dict`.

        Raises:
            UserError: If the values do not describe a null curve.
        """
        try:
            return cls(**values)
        except UserError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no null curve: {error}") from None

    @cached_property
    def _points(self) -> tuple[Floats, Floats]:
        return np.array([0.0, *self.sizes]), np.array([0.0, *self.probabilities])


def read_curve(path: Path, norm: str | None = None) -> NullCurve:
    """Read a curve from a CSV file with the columns size and probability.

    The file may also have the columns that :func:`write_curve` writes, and no others: fooled, and
    norm, perturbation, perturbation_settings (JSON) and num_images, constant over the rows. A first
    row of size 0 and probability 0 is ignored.

    Args:
        path: The file.
        norm: Norm of the sizes, if the file does not have it.

    Raises:
        UserError: If the file cannot be read, its points are not those of a null curve, or the norm
            is missing or another one.
    """
    rows = read_rows(path, _Row, "null curve")
    constant = {
        (row.norm, row.num_images, row.perturbation, row.perturbation_settings) for row in rows
    }
    if len(constant) > 1:
        raise UserError(
            f"the null curve {path} must have the same norm, num_images, perturbation and "
            "perturbation_settings in all rows"
        )
    stored_norm, num_images, perturbation, settings = next(iter(constant), (None, 0, None, "{}"))
    found = stored_norm or norm
    if found is None:
        raise UserError(
            f"the null curve {path} does not give the norm of its sizes: give it, as one of "
            f"{', '.join(LARGEST_SIZE)}"
        )
    if norm not in (None, found):
        raise UserError(f"the null curve {path} has sizes in {found}, not in {norm}")
    if rows and (rows[0].size, rows[0].probability) == (0, 0):
        rows = rows[1:]
    fooled = [row.fooled for row in rows if row.fooled is not None]
    what = f"the perturbation's settings in the null curve {path}"
    try:
        return NullCurve(
            found,
            tuple(row.size for row in rows),
            tuple(row.probability for row in rows),
            tuple(fooled),
            num_images,
            perturbation or "",
            parse(settings, dict[str, Any], what),
        )
    except UserError as error:
        raise UserError(f"the null curve {path} is invalid: {error}") from None


def write_curve(path: Path, curve: NullCurve) -> None:
    """Write a curve atomically as CSV that :func:`read_curve` reads back.

    Raises:
        CannotWriteError: If the file cannot be written.
    """
    table = pd.DataFrame({"size": curve.sizes, "probability": curve.probabilities})
    if curve.fooled:
        table["fooled"] = curve.fooled
    table["norm"] = curve.norm
    table["num_images"] = curve.num_images
    if curve.perturbation:  # an empty cell would be read as missing
        table["perturbation"] = curve.perturbation
        table["perturbation_settings"] = json.dumps(curve.perturbation_settings)
    write_frame(path, table, float_format=None)


def _check_sizes(sizes: Sequence[float], largest: float) -> None:
    if not sizes:
        raise UserError("a null curve needs at least one size and its probability")
    if any(math.isnan(size) for size in sizes):
        raise UserError("the sizes of a null curve hold NaN: give a number each")
    if any(later <= size for size, later in itertools.pairwise((0.0, *sizes))):
        raise UserError("the sizes of a null curve must rise, from above 0: put them in order")
    if not sizes[-1] <= min(largest, 1e9):
        raise UserError(
            f"the sizes of this null curve go up to {sizes[-1]:g}, but none is above {largest:g} "
            "in its norm: pixels are in [0, 1], and counts of pixels are shares"
        )


def _check_shares(sizes: Sequence[float], shares: Sequence[float], what: str) -> None:
    if len(sizes) != len(shares):
        raise UserError(f"a null curve has {len(sizes)} sizes but {len(shares)} {what}")
    for share in shares:
        if not 0 <= share <= 1:
            raise UserError(f"{share:g} is outside [0, 1], the range of {what}: give shares of 1")

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nullclass.core.checks import check_choice
from nullclass.core.errors import UserError
from nullclass.core.files import write_text

Floats = npt.NDArray[np.float64]

LARGEST_SIZE = {"linf": 1.0, "l2": math.inf, "l1": math.inf, "l0": 1.0}
"""Keys of :data:`nullclass.core.norms.NORMS`, without torch, to the largest size of any image."""


@dataclass(frozen=True)
class NullCurve:
    """A curve given by points, with straight lines between them.

    Raises:
        UserError: If the points are no such curve.
    """

    norm: str
    """Norm of the sizes: a key of :data:`LARGEST_SIZE`."""
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
        check_choice("norm", self.norm, LARGEST_SIZE)
        for name in ("sizes", "probabilities", "fooled"):  # numpy's numbers too, but kept as plain
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        _check_points(self.sizes, self.probabilities, LARGEST_SIZE[self.norm])
        if self.fooled:
            _check_lengths(self.sizes, self.fooled, "shares fooled")
            _check_shares(self.fooled, "share fooled")

    def __call__(self, sizes: npt.ArrayLike) -> Floats:
        """Probabilities of null, shaped like the sizes; beyond the last point that point's."""
        known, values = self._points
        probabilities: Floats = np.interp(np.asarray(sizes, dtype=np.float64), known, values)
        return probabilities

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
    def from_dict(cls, values: Mapping[str, Any]) -> NullCurve:
        """Return the curve described by the result of :meth:`to_dict`.

        Raises:
            UserError: If the values do not describe a null curve.
        """
        try:
            fields: dict[str, Any] = {
                name: tuple(map(float, value)) if isinstance(value, list) else value
                for name, value in values.items()
            }
            return cls(**fields)
        except UserError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no null curve: {error}") from None

    @cached_property
    def _points(self) -> tuple[Floats, Floats]:
        return np.array([0.0, *self.sizes]), np.array([0.0, *self.probabilities])


def isotonic(shares: Sequence[float] | Floats) -> Floats:
    """The sequence ``(N,)`` that never falls and is nearest to these in least squares."""
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(shares).x, dtype=np.float64)


def read_curve(path: Path, norm: str | None = None) -> NullCurve:
    """Read a curve from a CSV file with the columns size and probability.

    It may also have the columns fooled, norm, perturbation, perturbation_settings (as JSON) and
    num_images, the last four alike in every line, as :func:`write_curve` writes them. A first line
    of size 0 and probability 0 says what is understood, and is passed over.

    Args:
        path: The file.
        norm: How it tells sizes, if it does not say so itself.

    Raises:
        UserError: If the file cannot be read so, its points are no curve, or it tells sizes in
            another norm, or nobody says in which.
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
    stored_norm = first.get("norm") or None
    if None not in (stored_norm, norm) and stored_norm != norm:
        raise UserError(f"the null curve {path} tells sizes in {stored_norm}, not in {norm}")
    if stored_norm is None and norm is None:
        raise UserError(
            f"the null curve {path} does not say how it tells sizes: say so, as one of "
            f"{', '.join(LARGEST_SIZE)}"
        )
    if rows and rows[0][:2] == [0, 0]:
        rows = rows[1:]
    columns = dict(zip(names, zip(*rows, strict=True), strict=False))
    try:
        return NullCurve(
            str(stored_norm or norm),
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
        "norm": curve.norm,
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
            "in its norm: pixels are in [0, 1], and counts of pixels are shares"
        )
    if any(later < before for before, later in itertools.pairwise(probabilities)):
        raise UserError(
            "the probabilities of a null curve fall with size: give ones that never fall "
            "(nullclass.results.null_curve.isotonic makes them so)"
        )


def _check_lengths(sizes: Sequence[float], values: Sequence[float], what: str) -> None:
    if len(sizes) != len(values):
        raise UserError(f"a null curve has {len(sizes)} sizes but {len(values)} {what}")


def _check_shares(values: Sequence[float], what: str) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise UserError(f"a {what} of {value:g} is outside [0, 1]: give a share of 1")

"""How far a bound computed in floating point may be from the exact one.

Standard model of arithmetic (Higham 2002, *Accuracy and Stability of Numerical Algorithms*,
section 3.1): a sum of ``n`` products, in any order, with or without fused multiply-add, is off by
at most ``gamma_n`` times the sum of their absolute values,

    gamma_n = n u / (1 - n u),        u = 2^-24 in float32, 2^-53 in float64.

Every bound here is moved outward by such a margin, so that it holds for the exact real function of
the weights as they are stored. What underflows is below ``tiny`` in one layer, and below what the
margin has to spare where that is too small to be added.

The model does not cover products of fewer bits (TF32, bfloat16), nor convolutions by Winograd or
Fourier transforms. PyTorch uses none of them on a CPU unless told to
(``torch.set_float32_matmul_precision``), which is refused; on CUDA bounds are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.errors import UserError

_SPARE = 4
"""Roundings beside the sum's own: of the inflated radius, the bias, the last product."""


@dataclass(frozen=True)
class Rounding:
    """Margins of one floating-point type; a unit of 0 is none at all, as training wants it."""

    unit: float
    """u, the unit roundoff."""
    tiny: float
    """More than everything that underflows in one layer."""

    def gamma(self, num_terms: int) -> float:
        """The relative error of a sum of so many products, some spare roundings included.

        Raises:
            ValueError: If the sum is so long that nothing can be said (a million terms in float32
                are fine).
        """
        error = (num_terms + _SPARE) * self.unit
        if error >= 0.5:
            raise ValueError(
                f"a sum of {num_terms} terms has no bound at unit roundoff {self.unit}"
            )
        return error / (1 - error)


NONE = Rounding(0.0, 0.0)
"""No margin: for training, where bounds need not be sound to the last bit."""

_OF = {
    torch.float32: Rounding(2.0**-24, 1e-30),
    torch.float64: Rounding(2.0**-53, 1e-290),
}


def rounding_of(dtype: torch.dtype) -> Rounding:
    """The margins of a type.

    Raises:
        ValueError: If it is neither float32 nor float64.
    """
    if dtype not in _OF:
        raise ValueError(f"bounds are computed in float32 or float64, not {dtype}")
    return _OF[dtype]


def rounding_for(images: Tensor) -> Rounding:
    """The margins of bounds computed in the images' type.

    Raises:
        UserError: If torch was told to multiply float32 numbers with fewer bits than they have.
        ValueError: As :func:`rounding_of`.
    """
    if images.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        raise UserError(
            "nothing is proved while float32 products are rounded to fewer bits: call "
            "torch.set_float32_matmul_precision('highest')"
        )
    return rounding_of(images.dtype)


def rounded_down(bounds: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 lower bounds in another type, never above themselves."""
    if dtype == bounds.dtype:
        return bounds
    rounding = rounding_of(dtype)
    nearest = bounds.to(dtype)
    return nearest - (2 * rounding.unit * nearest.abs() + rounding.tiny)

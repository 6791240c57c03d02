"""How far a bound computed in floating point may be from the exact one.

Standard model of arithmetic (Higham 2002, *Accuracy and Stability of Numerical Algorithms*,
section 3.1): a sum of ``n`` products, in any order, with or without fused multiply-add, is off by
at most ``gamma_n`` times the sum of their absolute values,

    gamma_n = n u / (1 - n u),        u = 2^-24 in float32, 2^-53 in float64.

Every bound here is moved outward by such a margin, so that it holds for the exact real function of
the weights as they are stored. What underflows is below ``tiny`` in one layer, and below what the
margin has to spare where that is too small to be added.

The model does not cover products of fewer bits (TF32, bfloat16), nor convolutions by Winograd or
Fourier transforms. On a CPU with oneDNN PyTorch uses none of them unless told to
(``torch.set_float32_matmul_precision``), which is refused. On CUDA, and without oneDNN, where
NNPACK takes Winograd's transform, bounds are computed in float64 (:func:`proof_dtype`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.core.errors import UserError

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


DEVICES = ("cpu", "cuda")
"""Kinds of device that bounds are computed on."""


def proof_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type that bounds of a model in ``dtype`` are computed in on that device.

    Raises:
        UserError: If no bound is known to hold on that kind of device.
    """
    if device.type not in DEVICES:
        raise UserError(
            f"nothing is proved on {device.type}, which has no float64 arithmetic to rely on: put "
            "the model on the CPU or on CUDA"
        )
    onednn = torch.backends.mkldnn
    is_covered = device.type == "cpu" and onednn.is_available() and onednn.enabled
    return torch.float64 if dtype == torch.float32 and not is_covered else dtype


def rounding_for(images: Tensor) -> Rounding:
    """The margins of bounds computed in the images' type.

    Raises:
        UserError: If torch was told to multiply float32 numbers with fewer bits than they have.
        ValueError: As :func:`rounding_of`.
    """
    if images.dtype == torch.float32 and _rounds_to_fewer_bits():
        raise UserError(
            "nothing is proved while float32 products are rounded to fewer bits: call "
            "torch.set_float32_matmul_precision('highest'), and set every fp32_precision of "
            "torch.backends back to 'none'"
        )
    return rounding_of(images.dtype)


def _rounds_to_fewer_bits() -> bool:
    try:
        if torch.get_float32_matmul_precision() != "highest":
            return True
    except RuntimeError:  # set in a newer way, which the old one cannot tell
        return True
    onednn = torch.backends.mkldnn
    places = (torch.backends, onednn, *(getattr(onednn, name, None) for name in ("conv", "matmul")))
    return any(getattr(place, "fp32_precision", "none") in ("tf32", "bf16") for place in places)


def rounded_down(bounds: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 lower bounds in another type, never above themselves."""
    if dtype == bounds.dtype:
        return bounds
    rounding = rounding_of(dtype)
    nearest = bounds.to(dtype)
    return nearest - (2 * rounding.unit * nearest.abs() + rounding.tiny)

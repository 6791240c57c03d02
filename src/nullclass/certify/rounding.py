"""Margins that make bounds computed in floating point sound.

Standard model of arithmetic (Higham 2002, *Accuracy and Stability of Numerical Algorithms*,
section 3.1): the error of a sum of ``n`` products, in any order, with or without fused
multiply-add, is at most ``gamma_n`` times the sum of their absolute values,

    gamma_n = n u / (1 - n u),        u = 2^-24 in float32, 2^-53 in float64.

Every bound is moved outward by such a margin, so that it holds for the exact real function of the
stored weights. Underflow is below ``tiny`` in one layer, and below the slack of the margin where
``tiny`` is too small to be added.

The model does not cover products of fewer bits (TF32, bfloat16), nor Winograd or Fourier
convolutions. On a CPU with oneDNN PyTorch uses none of them by default; if
``torch.set_float32_matmul_precision`` allows them, bounds are refused. On CUDA, and without oneDNN,
where NNPACK uses Winograd, bounds are computed in float64 (:func:`proof_dtype`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.core.errors import UserError

_MODES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
"""Variables of the environment by which oneDNN may round float32 products to fewer bits."""

_EXTRA_ROUNDINGS = 4
"""Beyond those of the sum: the inflated radius, the bias, the last product."""


@dataclass(frozen=True)
class Rounding:
    """Margins of a floating-point type."""

    unit: float
    """u, the unit roundoff; 0 for no margins."""
    tiny: float
    """More than all underflow in one layer."""

    def gamma(self, num_terms: int) -> float:
        """Relative error of a sum of ``num_terms`` products, with some further roundings.

        Raises:
            ValueError: If the sum is too long for a bound (a million terms in float32 are fine).
        """
        error = (num_terms + _EXTRA_ROUNDINGS) * self.unit
        if error >= 0.5:
            raise ValueError(
                f"a sum of {num_terms} terms has no bound at unit roundoff {self.unit}"
            )
        return error / (1 - error)


NO_ROUNDING = Rounding(0.0, 0.0)
"""No margins: for training, where bounds need not be sound to the last bit."""

_ROUNDINGS = {
    torch.float32: Rounding(2.0**-24, 1e-30),
    torch.float64: Rounding(2.0**-53, 1e-290),
}


def rounding_of(dtype: torch.dtype) -> Rounding:
    """The margins of float32 or float64.

    Raises:
        ValueError: If it is another type.
    """
    if dtype not in _ROUNDINGS:
        raise ValueError(f"bounds are computed in float32 or float64, not {dtype}")
    return _ROUNDINGS[dtype]


def proof_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type in which bounds of a model in ``dtype`` are computed on a device.

    Raises:
        UserError: If there are no sound bounds on this kind of device.
    """
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"there are no proofs on {device.type}, which has no float64 arithmetic: move the "
            "model to the CPU or to CUDA"
        )
    onednn = torch.backends.mkldnn
    if torch.compiler.is_exporting():  # which turns oneDNN off; a graph is computed elsewhere
        return dtype
    is_covered = device.type == "cpu" and onednn.is_available() and onednn.enabled
    return torch.float64 if dtype == torch.float32 and not is_covered else dtype


def rounding_for(images: Tensor) -> Rounding:
    """The margins of bounds computed in the images' type.

    Raises:
        UserError: If torch may multiply float32 numbers with fewer bits.
        ValueError: If the type is neither float32 nor float64.
    """
    if images.dtype == torch.float32 and _rounds_to_fewer_bits():
        raise UserError(
            "there are no proofs while float32 products are rounded to fewer bits: call "
            "torch.set_float32_matmul_precision('highest'), set every fp32_precision of "
            f"torch.backends back to 'none', and leave {_MODES[0]} out of the environment"
        )
    return rounding_of(images.dtype)


def _rounds_to_fewer_bits() -> bool:
    if any(os.environ.get(name, "STRICT").upper() not in ("", "STRICT") for name in _MODES):
        return True
    try:
        if torch.get_float32_matmul_precision() != "highest":
            return True
    except RuntimeError:  # set by the newer API, which the older one cannot read
        return True
    onednn = torch.backends.mkldnn
    owners = (torch.backends, onednn, *(getattr(onednn, name, None) for name in ("conv", "matmul")))
    return any(getattr(owner, "fp32_precision", "none") in ("tf32", "bf16") for owner in owners)


def round_down(bounds: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 lower bounds in another type, rounded down."""
    if dtype == bounds.dtype:
        return bounds
    rounding = rounding_of(dtype)
    nearest = bounds.to(dtype)
    return nearest - (2 * rounding.unit * nearest.abs() + rounding.tiny)

"""Checks of arguments, one wording each. Imports no torch.

Each returns the plain Python value, so that NumPy scalars are accepted and stored as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

from nullclass.core.errors import UserError


def check_count(name: str, value: object, minimum: int = 1, maximum: int | None = None) -> int:
    """Return a whole number in ``[minimum, maximum]``.

    Raises:
        UserError: If the value is not an integer (booleans are not) or is out of range.
    """
    is_count = isinstance(value, Integral) and not isinstance(value, bool)
    if is_count and minimum <= int(value) <= (math.inf if maximum is None else maximum):  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload,no-any-return]
    limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    raise UserError(f"{name} must be a whole number {limits}, not {value!r}")


def check_share(name: str, value: object) -> float:
    """Return a number in [0, 1].

    Raises:
        UserError: If the value is not a number, NaN or out of range.
    """
    number = _number(value)
    if number is not None and 0 <= number <= 1:
        return number
    raise UserError(f"{name} must be a number from 0 to 1, not {value!r}")


def check_positive(name: str, value: object) -> float:
    """Return a finite number above 0.

    Raises:
        UserError: If the value is not a number, NaN, infinite or not above 0.
    """
    number = _number(value)
    if number is not None and 0 < number < math.inf:
        return number
    raise UserError(f"{name} must be a number above 0, not {value!r}")


def check_number(name: str, value: object) -> float:
    """Return a finite number.

    Raises:
        UserError: If the value is not a number, NaN or infinite.
    """
    number = _number(value)
    if number is not None and math.isfinite(number):
        return number
    raise UserError(f"{name} must be a finite number, not {value!r}")


def check_choice(name: str, value: object, known: Iterable[str]) -> str:
    """Return one of the known names.

    Raises:
        UserError: If the value is not among them.
    """
    known = tuple(known)
    if isinstance(value, str) and value in known:
        return value
    raise UserError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def check_seed(value: object) -> int:
    """Return a seed in ``[0, 2**63 - 1]``, which torch and NumPy both accept.

    Raises:
        UserError: If the value is not an integer or is out of range.
    """
    return check_count("seed", value, 0, 2**63 - 1)


def _number(value: object) -> float | None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]

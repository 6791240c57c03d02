"""Checks of arguments, one wording each. Imports no torch.

Each returns the plain Python value, so that NumPy scalars are accepted and stored as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path

from nullclass.core.errors import UserError

MAX_COUNT = 10**9
"""Largest count of images, steps, epochs and so on."""


def check_count(name: str, value: object, minimum: int = 1, maximum: int = MAX_COUNT) -> int:
    """Return a whole number in ``[minimum, maximum]``.

    Raises:
        UserError: If the value is not an integer (booleans are not) or is out of range.
    """
    is_count = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(value) if is_count else -1  # type: ignore[call-overload]
    if is_count and minimum <= number <= maximum:
        return number
    if number > maximum == MAX_COUNT:
        raise UserError(f"{name} must be at most {maximum:,}, not {shown(value)}")
    limits = f"of at least {minimum}" if maximum == MAX_COUNT else f"from {minimum} to {maximum}"
    raise UserError(f"{name} must be a whole number {limits}, not {shown(value)}")


def check_share(name: str, value: object) -> float:
    """Return a number in [0, 1].

    Raises:
        UserError: If the value is not a number, NaN or out of range.
    """
    number = _number(value)
    if number is not None and 0 <= number <= 1:
        return number
    raise UserError(f"{name} must be a number from 0 to 1, not {shown(value)}")


def check_rate(name: str, value: object) -> float:
    """Return a number in (0, 1).

    Raises:
        UserError: If the value is not a number, NaN or out of range.
    """
    number = _number(value)
    if number is not None and 0 < number < 1:
        return number
    raise UserError(f"{name} must be between 0 and 1, not {shown(value)}")


def check_positive(name: str, value: object) -> float:
    """Return a finite number above 0.

    Raises:
        UserError: If the value is not a number, NaN, infinite or not above 0.
    """
    number = _number(value)
    if number is not None and 0 < number < math.inf:
        return number
    raise UserError(f"{name} must be a number above 0, not {shown(value)}")


def check_number(name: str, value: object) -> float:
    """Return a finite number.

    Raises:
        UserError: If the value is not a number, NaN or infinite.
    """
    number = _number(value)
    if number is not None and math.isfinite(number):
        return number
    raise UserError(f"{name} must be a finite number, not {shown(value)}")


def check_choice(name: str, value: object, known: Iterable[str]) -> str:
    """Return one of the known names.

    Raises:
        UserError: If the value is not among them.
    """
    known = tuple(known)
    if isinstance(value, str) and value in known:
        return value
    raise UserError(f"{name} must be one of {', '.join(known)}, not {shown(value)}")


def check_seed(value: object) -> int:
    """Return a seed in ``[0, 2**63 - 1]``, which torch and NumPy both accept.

    Raises:
        UserError: If the value is not an integer or is out of range.
    """
    return check_count("seed", value, 0, 2**63 - 1)


def check_path(name: str, value: str | Path) -> Path:
    """Return a path, with the home folder in the place of ``~`` or ``~user``.

    Raises:
        UserError: If there is no such user, the path is empty or too long for a file system, or it
            holds a character that is none.
    """
    text = str(value)
    if not text or "\0" in text or not is_unicode(text):
        raise UserError(f"{name} must be a path, not {shown(text)}")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{name}: {shown(text)} names a user without a home folder") from None
    if len(text.encode()) >= 4096 or any(len(part.encode()) > 255 for part in path.parts):
        raise UserError(f"{name}: {shown(text)} is too long for a path")
    return path


def is_unicode(text: str) -> bool:
    """Whether a text can be written: Python keeps bytes that are not UTF-8 as lone surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def shown(value: object) -> str:
    """Return a value as Python writes it, shortened to some 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of over 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}…{text[-10:]}"


def _number(value: object) -> float | None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        return float(value) if is_number else None  # type: ignore[arg-type]
    except OverflowError:  # an integer of hundreds of digits
        return None

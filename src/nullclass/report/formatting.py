"""How numbers, attacks and measures are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nullclass.report.blocks import Cell
from nullclass.results.schema import SMALLEST

if TYPE_CHECKING:
    from nullclass.report.measures import Measure

FGSM = "fgsm"
WORST_CASE = "worst-case"

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
NAMES = {
    FGSM: "FGSM",
    WORST_CASE: "worst-case ensemble",
    f"{WORST_CASE}-force-null": "worst-case ensemble (force-null)",
    "null-aware-pgd": "null-aware PGD",
    SMALLEST: "search for the smallest ε",
    "pgd": "PGD",
    "multi-targeted-pgd": "multi-targeted PGD",
    "mi-fgsm": "MI-FGSM",
    "rays": "RayS",
}
"""Display names of attacks; others keep the name they have in the rows."""
SUCCESS_TEXTS = {
    "fool": "a wrong class",
    "untargeted": "anything but the true class",
    "force-null": "null",
}
"""Answers that count as success, by objective."""


def percent(share: float, digits: int = 2) -> str:
    """A share in percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def loss_text(loss: float) -> str:
    """A loss with its significant digits."""
    if 0 < loss < 5e-5:
        return "<0.0001"
    return f"{loss:.4f}" if loss < 10 else f"{loss:.2f}"


def attack_name(attack: str) -> str:
    """Display name of an attack; ``NAME-threshold`` and ``NAME-1.5-thresholds`` too."""
    at_threshold = re.fullmatch(r"(.+?)(?:-([\d.]+))?-thresholds?", attack)
    if at_threshold:
        name, factor = at_threshold.groups()
        return f"{attack_name(name)} at {f'{factor} thresholds' if factor else 'threshold'}"
    return NAMES.get(attack, attack)


def eps_text(eps: float) -> str:
    """An ε with three significant digits."""
    return "own threshold" if math.isnan(eps) else f"{eps:.3g}"


def value_cell(measure: Measure | None, published: str | None = None, digits: int = 2) -> Cell:
    """A measure as a table cell: mean, spread, published value with verdict.

    Args:
        measure: The measure; a dash if missing.
        published: Published value as text, where it is not one number.
        digits: Decimals of a rate in percent.
    """
    if measure is None:
        return Cell("–")
    write = partial(percent, digits=digits) if measure.is_rate else loss_text
    small = ""
    if len(measure.values) > 1:
        # no more digits than the mean has, and none if the mean itself is below its last digit
        sd = write(measure.sd) if measure.is_rate or measure.mean < 10 else f"{measure.sd:.2f}"
        small = "" if not measure.is_rate and measure.mean < 5e-5 else f"± {sd}"
    elif not math.isnan(measure.low):
        small = f"{write(measure.low)} to {write(measure.high)}"
    if measure.published is not None and published is None:
        published = write(measure.published)
    return Cell(write(measure.mean), small, published or "", measure.verdict)


def rate_text(measure: Measure, has_n: bool = True) -> str:
    """A measure in a sentence: mean, spread and number of images."""
    cell = value_cell(measure)
    sign = " %" if measure.is_rate else ""
    n = f"n = {measure.num_images:,}" if has_n and measure.num_images else ""
    if cell.small.startswith("±"):
        return f"{cell.text} {cell.small}{sign}{f' ({n} per seed)' if n else ''}"
    details = "; ".join(filter(None, (cell.small, n)))
    return f"{cell.text}{sign}{f' ({details})' if details else ''}"


def spread_text(mean: float, sd: float = math.nan, digits: int = 1) -> str:
    """A mean in percent without the sign, with its standard deviation if there is one."""
    spread = "" if math.isnan(sd) else f" ± {percent(sd, digits)}"
    return f"{percent(mean, digits)}{spread}".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def ends_text(values: Iterable[Any], form: str = "{}") -> str:
    """The smallest and the largest value, or the only one."""
    known = [*values]
    return " to ".join(form.format(value) for value in sorted({min(known), max(known)}))


def range_text(found: Sequence[Measure], name: Callable[[str], str] = str) -> str | None:
    """Lowest and highest mean in percent, each with a model that has it; ``None`` without any.

    Args:
        found: Measures of several models.
        name: Maps a model to its display name.
    """
    if not found:
        return None
    low, high = (end(found, key=lambda measure: measure.mean) for end in (min, max))
    text = f"{percent(low.mean, 1)} % ({name(low.model)})"
    return text if low is high else f"{text} to {percent(high.mean, 1)} % ({name(high.model)})"

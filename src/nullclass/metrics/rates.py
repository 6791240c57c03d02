"""Rates with intervals, from rows. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from nullclass.core.checks import check_count, check_rate
from nullclass.core.outcomes import OUTCOME_NAMES, SUCCESSES
from nullclass.results.schema import CLEAN, LEFT_OUT, LOSSES, UNION

Z = 1.959964
"""Of intervals of 95 %, in standard deviations."""

NEED_NULL = ("strict", "null_dos")
"""Rates over all attacks that mean little unless one of them :func:`forces_null`."""


def forces_null(objectives: Iterable[str]) -> bool:
    """Return whether an attack with one of these objectives tries to make the model answer null."""
    return any("null" in SUCCESSES.get(objective, ()) for objective in objectives)


def wilson(num_hits: int, num_images: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927), 95 %.

    Raises:
        ValueError: If there are no images, or more hits than images.
    """
    if num_images < 1 or not 0 <= num_hits <= num_images:
        raise ValueError(f"{num_hits} hits among {num_images} images make no share")
    return wilson_of(num_hits / num_images, num_images)


def wilson_of(share: float, num_images: int) -> tuple[float, float]:
    """Return :func:`wilson` of a share that need not be a whole number of images, as a mean is.

    (SciPy's needs whole numbers, and computes a p-value besides: too slow for thousands of rates.)
    """
    shrink = 1 + Z**2 / num_images
    middle = (share + Z**2 / (2 * num_images)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / num_images + (Z / (2 * num_images)) ** 2)
    # At the ends the formula is exactly 0 or 1; rounding must not move it.
    low = 0.0 if share == 0 else middle - half
    high = 1.0 if share == 1 else middle + half
    return low, high


def null_band(num_nulls: int, num_images: int, confidence: float = 0.99) -> tuple[float, float]:
    """Return an interval for the null rate of clean images (Clopper & Pearson 1934).

    Args:
        num_nulls: Images answered null.
        num_images: Independent clean images.
        confidence: Each end is wrong with probability at most (1 - confidence) / 2.

    Raises:
        UserError: If a number is out of range.
    """
    from scipy.stats import beta

    check_count("num_images", num_images)
    check_count("num_nulls", num_nulls, 0, num_images)
    tail = (1 - check_rate("confidence", confidence)) / 2
    low, high = 0.0, 1.0
    if num_nulls > 0:
        low = float(beta.ppf(tail, num_nulls, num_images - num_nulls + 1))
    if num_nulls < num_images:
        high = float(beta.ppf(1 - tail, num_nulls + 1, num_images - num_nulls))
    return low, high


NUM_ATTACKED = 1000
"""Fewer attacked images give a preview."""


def preview_note(num_images: Iterable[int]) -> str | None:
    """Return a sentence that rates on so few attacked images are a preview; None if they are not.

    Args:
        num_images: Numbers of attacked images, of one or several models and attacks.
    """
    counts = sorted(set(num_images))
    if not counts or counts[0] >= NUM_ATTACKED:
        return None
    low, high = wilson_of(0.5, counts[0])
    ends = " to ".join(f"{count:,}" for count in sorted({counts[0], counts[-1]}))
    return (
        f"Rates under attack are of {ends} images, a preview: their 95 % intervals are up to "
        f"{100 * (high - low):.0f} points wide. Attack at least {NUM_ATTACKED:,}."
    )


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rates and mean losses of one model, one per row.

    For every attack, norm and eps: ``correct_rate``, ``null_rate``, ``fooled_rate`` (they sum to
    1), ``loss`` and, with a null class, ``null_loss``; for clean images also ``not_null_rate``.

    With ``union`` as the attack, over all attacks up to each eps together with the clean images:

    - ``aer``: share of images fooled (accepted-error rate);
    - ``rar``: share correct when clean and never fooled (robust accuracy with rejection);
    - ``strict``: share correct when clean and under every attack;
    - ``null_dos``: share correct when clean and null under some attack.

    These are over the images that every attack saw, at every eps of the attacks with the objective
    ``fool``. Without such an attack AER and RAR are unknown: then only ``strict`` and ``null_dos``
    are given, at every eps.

    Args:
        rows: Columns of :data:`nullclass.results.schema.ROW_COLUMNS`, of one model.

    Returns:
        Columns attack, objective, source, norm, eps_pixels, metric, value, low, high, num_images.
        eps_pixels is NaN where each image has its own budget; losses have no interval.
    """
    lines = []
    names = ["attack", "objective", "source", "norm", "eps_pixels"]
    eps = rows["eps_pixels"].mask(rows["has_own_eps"])
    groups = rows.assign(eps_pixels=eps).groupby(names, sort=True, dropna=False)
    for values, group in groups:
        keys = dict(zip(names, values, strict=True))
        for name in OUTCOME_NAMES:
            lines.append(keys | _rate(f"{name}_rate", group["outcome"] == name))
        if keys["attack"] == CLEAN:
            lines.append(keys | _rate("not_null_rate", group["outcome"] != "null"))
        for loss in LOSSES:
            if group[loss].notna().all():
                interval = {"low": math.nan, "high": math.nan, "num_images": len(group)}
                lines.append(keys | {"metric": loss, "value": group[loss].mean()} | interval)
    return pd.DataFrame(lines + _union(rows))


def _rate(metric: str, hits: pd.Series[bool]) -> dict[str, Any]:
    low, high = wilson(int(hits.sum()), len(hits))
    value = float(hits.mean())
    return {"metric": metric, "value": value, "low": low, "high": high, "num_images": len(hits)}


def _union(rows: pd.DataFrame) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for norm, of_norm in rows.groupby("norm", sort=True):
        clean, attacked = of_norm[of_norm["attack"] == CLEAN], with_given_eps(of_norm)
        images = pd.Index(attacked_by_all(clean, attacked))
        if attacked.empty or images.empty:
            continue
        fooling = attacked[attacked["objective"] == "fool"]
        judged = of_norm[of_norm["image"].isin(images)]
        is_correct = clean.set_index("image")["outcome"].reindex(images) == "correct"
        for eps in sorted((attacked if fooling.empty else fooling)["eps_pixels"].unique()):
            within = judged[judged["eps_pixels"] <= eps]
            is_fooled, is_null = (
                pd.Series(images.isin(within.loc[within["outcome"] == name, "image"]), images)
                for name in ("fooled", "null")
            )
            metrics = {
                "aer": is_fooled,
                "rar": is_correct & ~is_fooled,
                "strict": is_correct & ~is_fooled & ~is_null,
                "null_dos": is_correct & is_null,
            }
            if fooling.empty:
                del metrics["aer"], metrics["rar"]
            keys = {"attack": UNION, "objective": "any", "source": "any", "norm": norm}
            keys["eps_pixels"] = eps
            lines += [keys | _rate(name, hits) for name, hits in metrics.items()]
    return lines


def with_given_eps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the attacks with one eps for all images."""
    return rows[(rows["attack"] != CLEAN) & ~rows["has_own_eps"].astype(bool)]


def attacked_by_all(clean: pd.DataFrame, attacked: pd.DataFrame) -> list[int]:
    """Return the images of the clean rows that every attack was run on.

    They are the denominator of AER, RAR and the other rates over attacks.

    Args:
        clean: Clean rows.
        attacked: Rows as of :func:`with_given_eps`.
    """
    per_attack = (set(group["image"]) for _, group in attacked.groupby("attack"))
    return sorted(set(clean["image"]).intersection(*per_attack))


def num_left_out(rows: pd.DataFrame) -> dict[float, int]:
    """Return by eps how many images iterative attacks left out, because they are proved.

    Args:
        rows: Columns of :data:`nullclass.results.schema.ROW_COLUMNS`, of one model.
    """
    left_out = with_given_eps(rows[rows["member"] == LEFT_OUT])
    counts = left_out.groupby("eps_pixels")["image"].nunique()
    return dict(zip(counts.index.tolist(), counts.tolist(), strict=True))


PROVED = {
    "rar_proved": "is_rar_proved",
    "strict_proved": "is_correct_proved",
    "aer_bound": "is_never_fooled",
}
"""Proved rates, and the column each is a share of; ``aer_bound`` is the share of the others."""


def proved_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of images with proofs, with 95 % intervals.

    For every norm, eps and verifier: ``rar_proved``, a lower bound of RAR; ``strict_proved``, one
    of strict robust accuracy; ``aer_bound``, an upper bound of AER. For these images they hold
    against every attack; the interval is for other images of the same distribution.

    Args:
        rows: Columns of :data:`nullclass.results.schema.CERTIFIED_COLUMNS`, of one model.

    Returns:
        Columns norm, eps_pixels, metric, value, low, high, num_images, verifier.
    """
    columns = ["norm", "eps_pixels", "metric", "value", "low", "high", "num_images", "verifier"]
    lines: list[dict[str, Any]] = []
    names = ["norm", "eps_pixels", "verifier"]
    for values, group in rows.groupby(names, sort=True):
        for metric, column in PROVED.items():
            hits = group[column].astype(bool)
            rate = _rate(metric, ~hits if metric == "aer_bound" else hits)
            lines.append(dict(zip(names, values, strict=True)) | rate)
    return pd.DataFrame(lines, columns=columns)

"""From rows to rates. Imports no torch: reports are drawn from rows alone."""

from __future__ import annotations

import math

import pandas as pd

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.results.schema import CLEAN, PROOF, SELF, UNION

__all__ = ["PROOF", "PROVED", "SELF", "UNION", "proved_rates", "summarise", "wilson", "wilson_of"]


def wilson(num_hits: int, num_images: int, z: float = 1.959964) -> tuple[float, float]:
    """Ends of the Wilson score interval of a share (Wilson 1927); 95 % by default.

    Raises:
        ValueError: If there are no images, or more hits than images.
    """
    if num_images < 1 or not 0 <= num_hits <= num_images:
        raise ValueError(f"{num_hits} hits among {num_images} images make no share")
    return wilson_of(num_hits / num_images, num_images, z)


def wilson_of(share: float, num_images: int, z: float = 1.959964) -> tuple[float, float]:
    """As :func:`wilson`, of a share that need not be a whole number of hits."""
    shrink = 1 + z**2 / num_images
    middle = (share + z**2 / (2 * num_images)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / num_images + (z / (2 * num_images)) ** 2)
    # At the ends the formula is exactly 0 or 1; rounding must not move it.
    low = 0.0 if share == 0 else middle - half
    high = 1.0 if share == 1 else middle + half
    return low, high


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates and mean losses of one model.

    For every attack, norm and eps: ``correct_rate``, ``null_rate``, ``fooled_rate`` (they sum to
    1), ``loss`` and, with a null class, ``null_loss``; for the clean images also
    ``not_null_rate``. Then, under the
    attack name ``union``, for every eps, what *some* attack did at that eps or below, or
    the image did when clean (:mod:`nullclass.core.outcomes`):

    - ``aer``: share of images fooled (accepted-error rate);
    - ``rar``: share correct when clean and never fooled (robust accuracy with rejection);
    - ``strict``: share correct when clean and under every attack;
    - ``null_dos``: share correct when clean and refused under some attack.

    They stand at every eps of the attacks whose objective is fool, over the images that every
    attack saw and that were scored clean too. Without such an attack nothing tells who can be
    fooled: then only the last two stand, at every eps.

    Args:
        rows: Columns of :data:`nullclass.results.schema.ROW_COLUMNS`, of one model.

    Returns:
        Columns attack, objective, made_on, norm, eps_pixels, metric, value, low, high, num_images;
        eps_pixels is NaN where each image had a budget of its own, and the interval of a loss is
        empty.
    """
    lines = []
    keys = ["attack", "objective", "source", "norm", "eps_pixels"]
    eps_of_all = rows["eps_pixels"].mask(rows["has_own_eps"])
    for place_of, group in rows.assign(eps_pixels=eps_of_all).groupby(
        keys, sort=True, dropna=False
    ):
        place = dict(zip(keys, place_of, strict=True))
        attack = place["attack"]
        for name in OUTCOME_NAMES:
            lines.append(place | _rate(f"{name}_rate", group["outcome"] == name))
        if attack == CLEAN:
            lines.append(place | _rate("not_null_rate", group["outcome"] != "null"))
        for loss in ("loss", "null_loss"):
            if group[loss].notna().all():
                lines.append(
                    place
                    | {"metric": loss, "value": group[loss].mean()}
                    | {"low": math.nan, "high": math.nan, "num_images": len(group)}
                )
    lines += _union(rows)
    return pd.DataFrame(lines)


def _rate(metric: str, hits: pd.Series[bool]) -> dict[str, object]:
    low, high = wilson(int(hits.sum()), len(hits))
    value = float(hits.mean())
    return {"metric": metric, "value": value, "low": low, "high": high, "num_images": len(hits)}


def _union(rows: pd.DataFrame) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for norm, of_norm in rows.groupby("norm", sort=True):
        given = of_norm[(of_norm["attack"] != CLEAN) & ~of_norm["has_own_eps"]]
        seen = [set(group["image"]) for _, group in given.groupby("attack")]
        seen.append(set(of_norm.loc[of_norm["attack"] == CLEAN, "image"]))
        images = pd.Index(sorted(set.intersection(*seen)))
        if given.empty or images.empty:
            continue
        fooling = given[given["objective"] == "fool"]
        judging = given if fooling.empty else fooling
        judged = of_norm[of_norm["image"].isin(images)]
        clean = judged[judged["attack"] == CLEAN].set_index("image")["outcome"].reindex(images)
        is_right = clean == "correct"
        for eps in sorted(judging["eps_pixels"].unique()):
            within = judged[judged["eps_pixels"] <= eps]
            became = {
                name: pd.Series(images.isin(within.loc[within["outcome"] == name, "image"]), images)
                for name in OUTCOME_NAMES
            }
            metrics = {
                "aer": became["fooled"],
                "rar": is_right & ~became["fooled"],
                "strict": is_right & ~became["fooled"] & ~became["null"],
                "null_dos": is_right & became["null"],
            }
            if fooling.empty:
                del metrics["aer"], metrics["rar"]
            place = {"attack": UNION, "objective": "any", "source": "any", "norm": norm}
            place["eps_pixels"] = eps
            lines += [place | _rate(name, hits) for name, hits in metrics.items()]
    return lines


PROVED = {
    "rar_proved": "is_rar_proved",
    "strict_proved": "is_correct_proved",
    "aer_bound": "is_never_fooled",
}
"""Rates of what is proved, and the column each is a share of; AER is bounded by what is left."""


def proved_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Shares of images of which something is proved, with 95 % intervals.

    For every norm, eps and verifier: ``rar_proved``, a lower bound of RAR; ``strict_proved``, one
    of strict robust accuracy; ``aer_bound``, an upper bound of AER. Of these very images they hold
    against every attack; the interval is for images like them.

    Args:
        rows: Columns of :data:`nullclass.results.schema.CERTIFIED_COLUMNS`, of one model.

    Returns:
        Columns norm, eps_pixels, metric, value, low, high, num_images, verifier.
    """
    columns = ["norm", "eps_pixels", "metric", "value", "low", "high", "num_images", "verifier"]
    lines: list[dict[str, object]] = []
    keys = ["norm", "eps_pixels", "verifier"]
    for place, group in rows.groupby(keys, sort=True):
        for metric, column in PROVED.items():
            hits = group[column].astype(bool)
            told = _rate(metric, ~hits if metric == "aer_bound" else hits)
            lines.append(dict(zip(keys, place, strict=True)) | told)
    return pd.DataFrame(lines, columns=columns)

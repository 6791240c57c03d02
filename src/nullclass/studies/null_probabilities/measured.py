"""Numbers of the study ``null-probabilities``: transfers, probabilities by size, criteria."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.measures import Measure, Measures, on_common_seeds
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN
from nullclass.studies.null_probabilities.config import (
    BASE,
    ON,
    PROBABILITIES,
    QUERIED,
    SUBSTITUTE_SEED,
    SUBSTITUTES,
    TRANSFERS,
    from_substitute,
)

SHARES = ("p_null", "rest", "p_label")
"""Probability of null, of all wrong classes and of the true class; they sum to 1."""
MEANS = [*SHARES, *OUTCOME_NAMES, "f", "end"]
SIZE_KEYS = ["model", "seed", "norm", "perturbation", "size"]
PAIR = ["attack", "source", "target", "eps_pixels"]

LOST, CLEAN_NULL, TRANSFERRED = "accuracy lost", "clean null", "fooled"
DISTANCE, FALL = "distance from f", "decrease"
LIMITS = {LOST: 0.003, CLEAN_NULL: 0.005, TRANSFERRED: 0.02, DISTANCE: 0.1, FALL: 0.005}
"""Criteria for NULL probabilities and their largest allowed values, as shares: clean accuracy below
that of the clean model, null on clean images, fooled by transfer from the clean substitute,
distance of the null probability from f, and its decrease with growing size."""


def transfer_budgets(measures: Measures) -> list[float]:
    """Budgets of the transferred attacks in pixel units, ascending."""
    return sorted({measure.eps for measure in measures.all if ON in measure.attack})


def strongest_transfer(measures: Measures, model: str, eps: float) -> Measure | None:
    """The attack on the clean substitute that fools a model most."""
    found = (measures.find(model, from_substitute(a), "fooled", eps) for a in TRANSFERS)
    return max((m for m in found if m is not None), key=lambda m: m.mean, default=None)


def transfer_table(measures: Measures) -> pd.DataFrame:
    """All transferred attacks, one row per attack, source, target and ε.

    Returns:
        Columns attack, source (possibly the target; :data:`QUERIED` for each target's own
        substitute), target, eps_pixels, fooled_rate, fooled_sd, fooled_low, fooled_high, null_rate,
        num_images, num_seeds, transfer_rate and num_transferable. The transfer rate is the share
        that fools the target, of the images that fool the source and are correct when clean on the
        target (mean over seeds; NaN without any); num_transferable is their number (minimum over
        seeds).
    """
    lines = []
    for measure in measures.all:
        if measure.name != "fooled" or ON not in measure.attack:
            continue
        null = measures.find(measure.model, measure.attack, "null", measure.eps)
        lines.append(
            {
                "attack": measure.attack,
                "target": measure.model,
                "eps_pixels": measure.eps,
                "fooled_rate": measure.mean,
                "fooled_sd": measure.sd,
                "fooled_low": measure.low,
                "fooled_high": measure.high,
                "null_rate": math.nan if null is None else null.mean,
                "num_images": measure.num_images,
                "num_seeds": len(measure.values),
            }
        )
    table = _with_sources(pd.DataFrame(lines)) if lines else pd.DataFrame(columns=PAIR)
    table = table.merge(_transfer_rates(measures.run), "left", PAIR)
    return table.fillna({"num_transferable": 0}).astype({"num_transferable": int})


def _with_sources(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of transferred attacks with the attack's name split into attack and source."""
    names = rows["attack"].str.split(ON)
    source = names.str[1]
    return rows.assign(
        attack=names.str[0],
        source=source.mask(source.str.startswith(QUERIED), QUERIED),
        eps_pixels=rows["eps_pixels"].round(6),
    )


def _transfer_rates(run: Run) -> pd.DataFrame:
    """Columns of :data:`PAIR`, transfer_rate and num_transferable, where that is not 0."""
    sources = [
        source.rows.assign(
            attack=f"{source.attack}{ON}{source.model}",
            seed=source.seed - SUBSTITUTE_SEED * source.model.startswith((*SUBSTITUTES, QUERIED)),
        )
        for source in run.sources
    ]
    if not sources:
        return pd.DataFrame(columns=[*PAIR, "transfer_rate", "num_transferable"])
    keys = ["attack", "seed", "eps_pixels", "image"]
    on_source = pd.concat(sources)
    fooled = on_source.loc[on_source["outcome"] == "fooled", keys]
    tables = []
    for trial in run.trials:
        rows = trial.rows.assign(target=trial.model, seed=trial.seed)
        is_correct = (rows["attack"] == CLEAN) & (rows["outcome"] == "correct")
        rows = rows[rows["image"].isin(rows.loc[is_correct, "image"])]
        tables.append(rows.merge(fooled, on=keys))
    pairs = _with_sources(pd.concat(tables))
    is_fooled = (pairs["outcome"] == "fooled").groupby([pairs[key] for key in (*PAIR, "seed")])
    rates = is_fooled.agg(["mean", "size"]).groupby(PAIR)
    columns = {"transfer_rate": rates["mean"].mean(), "num_transferable": rates["size"].min()}
    return pd.DataFrame(columns).reset_index()


def by_size(run: Run) -> pd.DataFrame:
    """Mean probabilities and outcomes by size of the perturbation.

    Returns:
        Columns model, seed, norm, perturbation, size, ``num_images``, those of :data:`SHARES`,
        correct, null and fooled. Where the model was trained with a null curve of that norm, also
        ``f``, the curve at the sizes that were reached, and ``end``, the smallest size where it is
        1; else NaN.
    """
    curves = {(f"np-{c.curve.norm}", c.seed, c.curve.norm): c.curve for c in run.curves}
    tables = []
    for trial in run.trials:
        for norm, rows in trial.sizes.groupby("norm", sort=False):
            curve = curves.get((trial.model, trial.seed, str(norm)))
            values = rows.assign(
                model=trial.model,
                seed=trial.seed,
                rest=(1 - rows["p_label"] - rows["p_null"]).clip(0, 1),
                f=math.nan if curve is None else curve(rows["actual_size"]),
                end=math.nan if curve is None else curve.largest,
                **{outcome: rows["outcome"] == outcome for outcome in OUTCOME_NAMES},
            )
            groups = values.groupby(SIZE_KEYS, sort=False)
            tables.append(groups[MEANS].mean().assign(num_images=groups.size()).reset_index())
    columns = [*SIZE_KEYS, "num_images", *MEANS]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def curve_fits(means: pd.DataFrame) -> pd.DataFrame:
    """How the mean null probability follows the null curve in the trained range.

    Args:
        means: From :func:`by_size`.

    Returns:
        One row per seed and model with a curve: model, seed, norm, distance (the largest from f),
        size (with that distance), decrease (the largest with growing size), num_sizes and
        num_images (the minimum).
    """
    within = means[means["size"] <= means["end"] * (1 + 1e-6)].sort_values("size", kind="stable")
    within = within.assign(distance=(within["p_null"] - within["f"]).abs())
    found = []
    for _, of in within.groupby(["model", "seed"], sort=False):
        worst = of.nlargest(1, "distance")[["model", "seed", "norm", "distance", "size"]]
        found.append(
            {
                **worst.iloc[0],
                "decrease": (of["p_null"].cummax() - of["p_null"]).max(),
                "num_sizes": len(of),
                "num_images": of["num_images"].min(),
            }
        )
    columns = ["model", "seed", "norm", "distance", "size", "decrease", "num_sizes", "num_images"]
    return pd.DataFrame(found, columns=columns)


def criteria(measures: Measures, fits: pd.DataFrame) -> pd.DataFrame:
    """All criteria that the run has values for.

    Args:
        measures: Of the run.
        fits: From :func:`curve_fits`.

    Returns:
        One row per model with NULL probabilities, criterion (a key of :data:`LIMITS`) and eps (in
        pixel units; 0 without an attack): mean and sd over seeds, and is_met.
    """
    found = []
    for model in [name for name in measures.models if name in PROBABILITIES]:
        values: dict[tuple[str, float], object] = {}
        pair = [measures.find(name, CLEAN, "correct") for name in (BASE, model)]
        before, after = on_common_seeds(pair)
        if before is not None and after is not None:
            values[LOST, 0.0] = np.subtract(before.values, after.values)
        null = measures.find(model, CLEAN, "null")
        values[CLEAN_NULL, 0.0] = null.values if null else ()
        for eps in transfer_budgets(measures):
            fooled = strongest_transfer(measures, model, eps)
            values[TRANSFERRED, eps] = fooled.values if fooled else ()
        of = fits[fits["model"] == model]
        values |= {(DISTANCE, 0.0): of["distance"], (FALL, 0.0): of["decrease"]}
        for (criterion, eps), of_seeds in values.items():
            series = pd.Series(of_seeds, dtype=float)
            found.append((model, criterion, eps, series.mean(), series.std()))
    table = pd.DataFrame(found, columns=["model", "criterion", "eps", "mean", "sd"])
    table = table.dropna(subset="mean")
    return table.assign(is_met=table["mean"] <= table["criterion"].map(LIMITS) + 1e-9)

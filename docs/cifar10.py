"""Write the results in docs/cifar10.md: python docs/cifar10.py RUN…

Each run is one of ``nullclass evaluate`` on one model in one norm. Its rates are kept in
results/cifar10, and the page is written from all that are there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from marks import replace_results

from nullclass.core.files import write_bytes
from nullclass.report.formatting import FGSM, NORMS, percent
from nullclass.report.render import markdown_table
from nullclass.results.schema import CLEAN, SUMMARY, UNION
from nullclass.studies.reports import write_report

PAGE = Path(__file__).with_name("cifar10.md")
RESULTS = PAGE.parents[1] / "results" / "cifar10"

MODELS = ("fgsm", "u", "s", "m", "usm")
"""Null images in training, in the order of tables: FGSM, uniform, shuffled, mixed."""

BUDGETS = (("linf", 2 / 255, "2/255"), ("linf", 8 / 255, "8/255"), ("l2", 0.5, "0.5"))
"""Norm, ε in pixel units, and how the page writes it."""

OUTCOMES = ("correct", "null", "fooled")
RATES = {
    "FGSM: null": (FGSM, "null_rate"),
    "FGSM: fooled": (FGSM, "fooled_rate"),
    "AER": (UNION, "aer"),
    "RAR": (UNION, "rar"),
    "null-DoS": (UNION, "null_dos"),
}


def rate(of_model: pd.DataFrame, attack: str, metric: str, eps: float, digits: int) -> str:
    """A rate in % with its interval."""
    is_asked = (of_model["attack"] == attack) & (of_model["metric"] == metric)
    line = of_model[is_asked & np.isclose(of_model["eps_pixels"], eps)].iloc[0]
    mean, low, high = (percent(line[name], digits) for name in ("value", "low", "high"))
    return f"{mean} ({low} – {high})"


def tables(rates: pd.DataFrame) -> Iterator[str]:
    """Clean images, then one table per budget; one row per model."""
    known = [model for model in MODELS if (rates["model"] == model).any()]
    rows = []
    for model in known:
        clean = rates[rates["model"] == model]
        found = (rate(clean, CLEAN, f"{outcome}_rate", 0.0, 2) for outcome in OUTCOMES)
        rows.append([f"`{model}`", *found])
    yield markdown_table(["model", *OUTCOMES], rows)
    for norm, eps, text in BUDGETS:
        attacked, rows = rates[rates["norm"] == norm], []
        for model in known:
            of = attacked[attacked["model"] == model]
            if len(of):
                num = f"{of.loc[of['attack'] == UNION, 'num_images'].min():,}"
                found = (rate(of, *what, eps, 1) for what in RATES.values())
                rows.append([f"`{model}`", num, *found])
        yield markdown_table([f"{NORMS[norm]}, ε {text}", "n", *RATES], rows)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        write_report(folder)  # and its summary
        summary = pd.read_csv(folder / SUMMARY)
        name = f"{summary['model'].iloc[0]}-{summary['norm'].iloc[0]}.csv"
        write_bytes(RESULTS / name, (folder / SUMMARY).read_bytes())
    kept = pd.concat([pd.read_csv(path) for path in sorted(RESULTS.glob("*.csv"))])
    replace_results(PAGE, __file__, "\n".join(tables(kept)))

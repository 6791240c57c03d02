"""A run of the study ``null-samples`` as tables that a repository can hold.

The run folder of 240 models has gigabytes of rows and weights. What the report's figures need,
apart from those of images, is three tables: ``rates.csv``, ``trainings.csv`` and
``thresholds.csv``, beside ``run.json`` without the list of trials.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from msgspec.structs import replace

from nullclass.core.errors import UserError
from nullclass.core.files import make_folder
from nullclass.experiments.run_info import merge_info, with_note
from nullclass.metrics.rates import wilson_of
from nullclass.results.frames import read_frame, write_frame
from nullclass.results.info import RunInfo
from nullclass.results.run import Run, summary_of
from nullclass.results.store import read_info, write_info
from nullclass.studies import find_study

RATES, TRAININGS, THRESHOLDS = "rates.csv", "trainings.csv", "thresholds.csv"
METRICS = ["correct_rate", "null_rate", "fooled_rate", "aer", "rar"]
KEYS = [
    *("model", "seed", "selection", "attack", "objective", "source", "norm", "eps_pixels"),
    "num_images",
]
"""Columns of ``rates.csv`` before the metrics."""


def record_of(run: Run) -> Run:
    """The sets of a run of which every evaluation is finished, as a run without trials.

    Raises:
        UserError: If there is none.
    """
    evaluations = run.summary[["seed", "model", "selection"]].drop_duplicates()
    counts = evaluations.groupby("seed").size()
    done = counts.index[counts == len(run.info.models) * len(run.info.selections)]
    if done.empty:
        raise UserError(f"no set in {run.folder} is finished")
    info = replace(run.info, seeds=done.tolist())
    tables = {name: table[table["seed"].isin(done)] for name, table in _tables(run).items()}
    return _run(run.folder, info, tables)


def write_record(run: Run, folder: Path) -> None:
    """Write a run's tables."""
    summary = run.summary[run.summary["metric"].isin(METRICS)]
    rates = summary.pivot(index=KEYS, columns="metric", values="value").reset_index()
    tables = {
        RATES: rates[[*KEYS, *(metric for metric in METRICS if metric in rates)]],
        TRAININGS: run.histories,
        THRESHOLDS: run.thresholds,
    }
    make_folder(folder)
    for name, table in tables.items():
        models = table["model"].map(run.info.models.index)
        order = table.assign(model=models).sort_values([*table], kind="stable").index
        write_frame(folder / name, table.loc[order], "%.5g")
    write_info(folder, replace(run.info, trials={}))


def read_record(folder: Path) -> Run:
    """Read what :func:`write_record` wrote, as a run without trials.

    Raises:
        UserError: If a file is missing or damaged.
    """
    info = read_info(folder)
    rates = read_frame(folder / RATES)
    lines = rates.melt(KEYS, var_name="metric").dropna(subset="value")
    shares = zip(lines["value"], lines["num_images"], strict=True)
    lines["low"], lines["high"] = zip(*(wilson_of(*share) for share in shares), strict=True)
    tables = {
        "summary": summary_of(lines, info.study, find_study(info.study).published),
        "histories": read_frame(folder / TRAININGS),
        "thresholds": read_frame(folder / THRESHOLDS),
    }
    return _run(folder, info, tables)


def joined(record: Run, run: Run) -> Run:
    """The record with the sets of a run, in place of its own where both have a set.

    Raises:
        UserError: If the two have different settings, data, models or selections.
    """
    for names in ("models", "selections"):
        ours, theirs = (set(getattr(of.info, names)) for of in (record, run))
        if ours != theirs:
            others = ", ".join(sorted(ours ^ theirs))
            raise UserError(f"{run.folder} has other {names} than {record.folder} ({others})")
    info = merge_info(find_study(run.info.study), record.info, run.info, record.folder)
    info = with_note(info, run.info)
    new = run.summary["seed"].unique()
    tables = {
        name: pd.concat([old[~old["seed"].isin(new)], getattr(run, name)], ignore_index=True)
        for name, old in _tables(record).items()
    }
    return _run(record.folder, info, tables)


def _tables(run: Run) -> dict[str, pd.DataFrame]:
    return {name: getattr(run, name) for name in ("summary", "histories", "thresholds")}


def _run(folder: Path, info: RunInfo, tables: dict[str, pd.DataFrame]) -> Run:
    """A run whose tables are known without its trials."""
    run = Run(folder, info, [], find_study(info.study).published)
    vars(run).update(tables)
    return run

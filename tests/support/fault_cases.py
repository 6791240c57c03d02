"""Commands that write a result, how it is read, and what may be in a folder after a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from fault_injection import Ended
from fault_worlds import World, contents_of_checkpoint, contents_of_run, file_names, marker

from nullclass.core.errors import UserError
from nullclass.rejection import Certificates
from nullclass.results.null_curve import read_curve
from nullclass.results.run import read_run
from nullclass.results.schema import REPORT, STATE, SUMMARY

Words = Callable[[World, Path], list[str]]


def read_certificates(folder: Path) -> object:
    return Certificates.load(folder / "out.json")


def read_null_curve(folder: Path) -> object:
    return read_curve(folder / "out.csv")


def read_matrix(folder: Path) -> object:
    path = folder / "out.csv"
    if not path.exists():
        raise UserError(f"{path} is missing")
    return pd.read_csv(path).to_csv()


@dataclass(frozen=True)
class Case:
    """A command, what was there before it, and how its result is read."""

    words: Words
    read: Callable[[Path], object]
    num_kills: int
    """Faults to try, evenly spread over its operations."""
    before: Words | None = None


def evaluate(eps: str, *options: str) -> Words:
    return lambda world, folder: world.evaluate(folder, *options, eps=eps)


CASES = {
    "evaluate": Case(evaluate("0.1"), contents_of_run, 40),
    "evaluate over another": Case(
        evaluate("0.2", "--seed", "1"), contents_of_run, 220, evaluate("0.1")
    ),
    "report": Case(lambda w, out: ["report", str(out)], contents_of_run, 30, evaluate("0.1")),
    "train": Case(World.train, contents_of_checkpoint, 40),
    "substitute": Case(World.substitute, contents_of_checkpoint, 25),
    "certify": Case(lambda w, out: w.certify(out / "out.json"), read_certificates, 40),
    "certify over another": Case(
        lambda w, out: w.certify(out / "out.json"),
        read_certificates,
        40,
        lambda w, out: w.certify(out / "out.json", "--images", "3"),
    ),
    "curve over another": Case(
        lambda w, out: w.curve(out / "out.csv"),
        read_null_curve,
        40,
        lambda w, out: w.curve(out / "out.csv", "--sizes", "3"),
    ),
    "transfer over another": Case(
        lambda w, out: w.transfer(out / "out.csv"),
        read_matrix,
        40,
        lambda w, out: w.transfer(out / "out.csv", "--eps", "0.1"),
    ),
}


def problem_after(
    case: Case, folder: Path, old: object, new: object, allowed: set[str]
) -> str | None:
    """What is wrong with the folder that a fault left; None if nothing is."""
    left = {name for name in file_names(folder) if not is_work(name)}
    if not left <= allowed:
        return f"left {sorted(left - allowed)}"
    try:
        values = case.read(folder)
    except UserError as error:
        if old is not None:
            return f"neither the old result nor the new one: {error}"
        return None if "\n" not in str(error) else "more than one sentence"
    if values not in (old, new):
        return "the result is neither the old one nor the new one"
    return views_problem(folder) if case.read is contents_of_run else None


def problem_at_last(
    case: Case, again: Ended, folder: Path, new: object, names: set[str]
) -> str | None:
    """What is wrong after the same command ran again; None if nothing is."""
    if again.status != 0:
        is_complete = again.is_one_sentence and "holds a checkpoint already" in again.err
        if not is_complete:
            return f"run again: status {again.status}: {again.err[-300:]}"
    if case.read(folder) != new:
        return "run again: another result"
    if file_names(folder) != names:
        return f"run again: other files: {sorted(file_names(folder) ^ names)}"
    return views_problem(folder) if case.read is contents_of_run else None


def is_work(name: str) -> bool:
    """Whether a file belongs to work in progress: it is removed by the same command later."""
    *folders, file = Path(name).parts
    is_hidden = any(
        part.startswith(".") and part.endswith((".tmp", ".parts", ".lock"))
        for part in (*folders, file)
    )
    return is_hidden or file == STATE or file.endswith(".new")


def views_problem(folder: Path) -> str | None:
    """Whether a page or a summary is of another run than the folder's."""
    run = read_run(folder)
    eps = {eps for trial in run.trials for eps in trial.rows["eps_pixels"]}
    page, summary = folder / REPORT, folder / SUMMARY
    if page.exists() and marker(run) not in page.read_text(encoding="utf-8"):
        return f"{REPORT} is of another run"
    if summary.exists() and not set(pd.read_csv(summary)["eps_pixels"].dropna()) <= eps:
        return f"{SUMMARY} is of another run"
    return None

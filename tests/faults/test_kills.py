"""A process that is ended at any file operation loses nothing, and the same command goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from fault_injection import KILLED, Ended, dying_at, read_trace, recording, run_forked, spread
from fault_worlds import (
    World,
    contents_of_checkpoint,
    contents_of_run,
    copy_of,
    file_names,
    marker,
    run_command,
)

from conftest import Counter
from nullclass.core.errors import UserError
from nullclass.core.files import LOCK
from nullclass.rejection import Certificates
from nullclass.results.null_curve import read_curve
from nullclass.results.schema import REPORT, STATE, SUMMARY
from nullclass.results.store import read_run

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
    before: Words | None = None


def evaluate(eps: str, *options: str) -> Words:
    return lambda world, folder: world.evaluate(folder, *options, eps=eps)


CASES = {
    "evaluate": Case(evaluate("0.1"), contents_of_run, 50),
    "evaluate over another": Case(
        evaluate("0.2", "--seed", "1"), contents_of_run, 240, evaluate("0.1")
    ),
    "report": Case(lambda w, out: ["report", str(out)], contents_of_run, 40, evaluate("0.1")),
    "train": Case(World.train, contents_of_checkpoint, 50),
    "substitute": Case(World.substitute, contents_of_checkpoint, 40),
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


@pytest.mark.parametrize("name", CASES)
def test_a_kill_at_any_operation(name: str, world: World, tmp_path: Path, counter: Counter) -> None:
    case = CASES[name]
    folder, old_folder, trace = tmp_path / "out", tmp_path / "old", tmp_path / "trace"
    words = case.words(world, folder)
    old = None
    if case.before is not None:
        assert run_command(case.before(world, folder)) == 0
        old = case.read(folder)
        copy_of(folder, old_folder)
    undisturbed = run_forked(lambda: run_command(words), tmp_path, prepare=recording(folder, trace))
    assert undisturbed.status == 0, undisturbed.err
    new, names = case.read(folder), file_names(folder)
    assert not {name for name in names if is_work(name)} - {LOCK}
    allowed = names | (file_names(old_folder) if old is not None else set())
    for number, variant, operation in spread(read_trace(trace), case.num_kills):
        copy_of(old_folder, folder)
        killed = run_forked(
            lambda: run_command(words),
            tmp_path,
            prepare=dying_at(folder, number, variant),
        )
        problem = _problem_after(case, killed, folder, old, new, allowed)
        if problem is None:
            again = run_forked(lambda: run_command(words), tmp_path)
            problem = _problem_at_last(case, again, folder, new, names)
        counter.add(f"{name} {variant} {number} ({operation.replace(str(folder), '')})", problem)
    counter.check(at_least=5)


def _problem_after(
    case: Case, killed: Ended, folder: Path, old: object, new: object, allowed: set[str]
) -> str | None:
    """What is wrong with the folder that a killed process left."""
    if killed.status != KILLED:
        return f"status {killed.status} instead of a kill: {killed.err[-200:]}"
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


def _problem_at_last(
    case: Case, again: Ended, folder: Path, new: object, names: set[str]
) -> str | None:
    """What is wrong after the same command ran again."""
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
    parts = Path(name).parts
    return (
        parts[0] in (".tmp", ".parts")
        or parts[-1] in (".lock", STATE)
        or (parts[-1].startswith(".") and parts[-1].endswith(".tmp"))
        or parts[-1].endswith(".new")
    )


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

"""Two processes on one output: one does its work, the other says so and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_cases import (
    read_certificates,
    read_matrix,
    read_null_curve,
    views_problem,
)
from fault_counts import Counter
from fault_injection import Ended, Running, run_forked, slowed
from fault_worlds import (
    World,
    contents_of_checkpoint,
    contents_of_run,
    copy_of,
    file_names,
    remove,
    run_command,
)

Words = Callable[[World, Path], list[str]]


@dataclass(frozen=True)
class Pair:
    """Two commands on one output, and what was there before."""

    first: Words
    second: Words
    read: Callable[[Path], object]
    before: Words | None = None
    second_after: float = 0.0
    """Seconds between their starts."""
    may_be_in_turn: bool = False
    """Whether one is so short that both may succeed, one after the other."""
    default: str = ""
    """The output folder without ``--out``, as a pattern below the working directory."""


def evaluate(eps: str, *options: str) -> Words:
    return lambda world, folder: world.evaluate(folder, *options, eps=eps)


def evaluate_by_default(eps: str) -> Words:
    """An evaluation without ``--out``."""

    def words(world: World, folder: Path) -> list[str]:
        full = world.evaluate(folder, eps=eps)
        index = full.index("--out")
        return [*full[:index], *full[index + 2 :]]

    return words


def report(world: World, folder: Path) -> list[str]:
    return ["report", str(folder)]


def to_file(command: Callable[..., list[str]], name: str, *options: str) -> Words:
    return lambda world, folder: command(world, folder / name, *options)


def with_options(command: Callable[..., list[str]], *options: str) -> Words:
    return lambda world, folder: command(world, folder, *options)


SAME, OTHER, OLD = evaluate("0.1"), evaluate("0.2"), evaluate("0.3")
RUNS = "runs/evaluate/*"
PAIRS = {
    "evaluate": Pair(SAME, SAME, contents_of_run),
    "evaluate, later": Pair(SAME, SAME, contents_of_run, second_after=0.2),
    "evaluate, other settings": Pair(SAME, OTHER, contents_of_run),
    "evaluate, other settings, later": Pair(SAME, OTHER, contents_of_run, second_after=0.2),
    "evaluate over another": Pair(SAME, OTHER, contents_of_run, OLD),
    "evaluate over another, later": Pair(SAME, OTHER, contents_of_run, OLD, second_after=0.3),
    "evaluate by default": Pair(
        evaluate_by_default("0.1"), evaluate_by_default("0.1"), contents_of_run, default=RUNS
    ),
    "evaluate by default, other settings": Pair(
        evaluate_by_default("0.1"), evaluate_by_default("0.2"), contents_of_run, default=RUNS
    ),
    "evaluate and report": Pair(
        OTHER, report, contents_of_run, OLD, second_after=0.2, may_be_in_turn=True
    ),
    "report and evaluate": Pair(
        report, OTHER, contents_of_run, OLD, second_after=0.1, may_be_in_turn=True
    ),
    "study": Pair(World.study, World.study, contents_of_run),
    "study, other models": Pair(
        World.study, with_options(World.study, "--variants", "null-0.5-wd"), contents_of_run
    ),
    "train": Pair(World.train, World.train, contents_of_checkpoint),
    "train, other settings": Pair(
        World.train, with_options(World.train, "--seed", "1"), contents_of_checkpoint
    ),
    "substitute": Pair(World.substitute, World.substitute, contents_of_checkpoint),
    "substitute, other settings": Pair(
        World.substitute, with_options(World.substitute, "--seed", "1"), contents_of_checkpoint
    ),
    "certify": Pair(
        to_file(World.certify, "out.json"),
        to_file(World.certify, "out.json", "--images", "3"),
        read_certificates,
    ),
    "curve": Pair(
        to_file(World.curve, "out.csv"),
        to_file(World.curve, "out.csv", "--sizes", "3"),
        read_null_curve,
    ),
    "transfer": Pair(
        to_file(World.transfer, "out.csv"),
        to_file(World.transfer, "out.csv", "--eps", "0.1"),
        read_matrix,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_twins(
    name: str, world: World, tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = PAIRS[name]
    here, out, old = tmp_path / "here", tmp_path / "here" / "out", tmp_path / "old"
    here.mkdir()
    monkeypatch.chdir(here)

    def reset() -> None:
        remove(out)
        remove(here / "runs")
        if pair.before is not None:
            copy_of(old, out)

    def folder() -> Path:
        return next(here.glob(pair.default)) if pair.default else out

    if pair.before is not None:
        assert run_command(pair.before(world, old)) == 0
    alone = []
    for words in (pair.first(world, out), pair.second(world, out)):
        reset()
        ended = run_forked(lambda: run_command(words), tmp_path)  # noqa: B023
        assert ended.status == 0, ended.err
        alone.append((pair.read(folder()), file_names(folder())))
    reset()
    slow = slowed(here, 0.1)
    first = Running(lambda: run_command(pair.first(world, out)), tmp_path, prepare=slow)
    time.sleep(pair.second_after)
    second = Running(lambda: run_command(pair.second(world, out)), tmp_path, prepare=slow)
    ends = [first.end(), second.end()]
    is_in_turn = pair.may_be_in_turn and {ended.status for ended in ends} == {0}
    problem = None if is_in_turn else _problem_of(ends)
    if problem is None:
        winner = [ended.status for ended in ends].index(0)
        if is_in_turn:
            winner = 1 if pair.first is report else 0  # the one that changes the result
        values, names = alone[winner]
        if pair.read(folder()) != values:
            problem = f"the result is not that of process {winner}"
        elif file_names(folder()) != names:
            problem = f"other files: {sorted(file_names(folder()) ^ names)}"
        elif pair.read is contents_of_run:
            problem = views_problem(folder())
    counter.add(name, problem)
    counter.check()


def _problem_of(ends: list[Ended]) -> str | None:
    if sorted(ended.status for ended in ends) != [0, 2]:
        return " | ".join(f"status {ended.status}: {ended.err[-200:]}" for ended in ends)
    (loser,) = (ended for ended in ends if ended.status == 2)
    if not loser.is_one_sentence or "another process" not in loser.err:
        return loser.err[-300:]
    return None

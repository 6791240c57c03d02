"""A process that is ended at any file operation loses nothing, and the same command goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_cases import CASES, is_work, problem_after, problem_at_last
from fault_counts import Counter
from fault_injection import KILLED, dying_at, read_trace, recording, run_forked, spread
from fault_worlds import World, copy_of, file_names, run_command


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
    assert not {name for name in names if is_work(name)}
    allowed = names | (file_names(old_folder) if old is not None else set())
    for number, variant, operation in spread(read_trace(trace), case.num_kills):
        copy_of(old_folder, folder)
        killed = run_forked(
            lambda: run_command(words),
            tmp_path,
            prepare=dying_at(folder, number, variant),
        )
        problem = None
        if killed.status != KILLED:
            problem = f"status {killed.status} instead of a kill: {killed.err[-200:]}"
        problem = problem or problem_after(case, folder, old, new, allowed)
        if problem is None:
            again = run_forked(lambda: run_command(words), tmp_path)
            problem = problem_at_last(case, again, folder, new, names)
        counter.add(f"{name} {variant} {number} ({operation.replace(str(folder), '')})", problem)
    counter.check(at_least=5)

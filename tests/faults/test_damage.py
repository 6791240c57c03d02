"""A changed bit, a lost end or a longer file: noticed when it is read, or without effect."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_evaluation import FLAGS, write_fake_evaluation
from fault_counts import Counter
from fault_injection import dying_at, read_trace, recording, run_forked
from fault_worlds import (
    World,
    contents_of_checkpoint,
    contents_of_run,
    copy_of,
    file_names,
    remove,
    run_command,
)
from json_faults import with_checksum

from nullclass.core.errors import UserError
from nullclass.core.files import LOCK
from nullclass.rejection import Certificates
from nullclass.results.null_curve import read_curve
from nullclass.results.schema import FIGURES, PARTS, REPORT, RESULT, RUN, STATE, SUMMARY

VIEWS = (SUMMARY, REPORT)
"""Files of a run folder that are drawn from the others."""

Damage = Iterator[tuple[str, bytes]]


def damaged(content: bytes, num_flips: int, rng: random.Random) -> Damage:
    """Yield descriptions and contents: flipped bits, shorter and longer."""
    for _ in range(num_flips):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(changed)
    for size in {0, 1, len(content) // 2, len(content) - 1} - {len(content)}:
        yield f"cut to {size} bytes", content[:size]
    yield "a zero byte more", content + b"\0"
    yield "as long again", content + content
    start = len(content) // 4
    yield (
        "a block of zeros",
        content[:start] + bytes(len(content[start:][:512])) + content[start:][512:],
    )


def problem_of(read: Callable[[], object], named: Path, expected: object) -> str | None:
    """What is wrong with how a damaged file is read."""
    try:
        found = read()
    except UserError as error:
        said = str(error)
        if "\n" in said:
            return f"not one sentence: {said[:200]!r}"
        names = (str(named), str(named.parent))
        return None if any(name in said for name in names) else f"names no file: {said[:200]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "not noticed" if expected is None or found != expected else None


def try_all(
    counter: Counter,
    path: Path,
    read: Callable[[], object],
    num_flips: int,
    *,
    expected: object = None,
) -> None:
    """Damage a file in many ways; without ``expected``, even an unchanged result is a fault."""
    before = path.read_bytes()
    for what, content in damaged(before, num_flips, random.Random(path.name)):
        if content == before:
            continue
        path.write_bytes(content)
        counter.add(f"{path.name}: {what}", problem_of(read, path, expected))
    path.write_bytes(before)
    read()


def test_a_run(world: World, tmp_path: Path, counter: Counter) -> None:
    folder = tmp_path / "run"
    assert run_command(world.evaluate(folder)) == 0
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    for path in paths:
        if path.name in (RUN, RESULT):
            try_all(counter, path, lambda: contents_of_run(folder), 80)
        elif FIGURES not in path.parts and not (path.name in VIEWS and path.parent == folder):
            try_all(counter, path, lambda: contents_of_run(folder), 8)
    counter.check(at_least=200)


def test_views_are_drawn_again(world: World, tmp_path: Path, counter: Counter) -> None:
    folder = tmp_path / "run"
    assert run_command(world.evaluate(folder)) == 0
    assert run_command(["report", str(folder)]) == 0
    values = contents_of_run(folder)
    views = [folder / name for name in VIEWS] + sorted((folder / FIGURES).iterdir())
    for path in views:
        before = path.read_bytes()
        for what, content in damaged(before, 3, random.Random(path.name)):
            path.write_bytes(content)
            problem = None
            if run_command(["report", str(folder)]) != 0:
                problem = "report refuses"
            elif path.read_bytes() != before:
                problem = "report does not restore it"
            elif contents_of_run(folder) != values:
                problem = "the run has changed"
            counter.add(f"{path.name}: {what}", problem)
            path.write_bytes(before)
    counter.check(at_least=20)


def test_edits_of_documents(tmp_path: Path, counter: Counter) -> None:
    """An edit by hand is noticed, also if the file's own checksum is written again."""
    folder = tmp_path / "run"
    write_fake_evaluation(folder, flags=FLAGS)
    (path,) = folder.rglob(RESULT)
    before = path.read_text(encoding="utf-8")
    edits = {
        "no flags": re.sub(r'"flags": \[\s*{.*?}\s*\]', '"flags": []', before, flags=re.DOTALL),
        "another name": before.replace('"made-up"', '"better"'),
        "other spaces": before.replace("  ", " "),
    }
    for what, text in edits.items():
        assert text != before
        encoded = text.encode()
        for how, content in (
            (what, encoded),
            (f"{what}, sealed", with_checksum(encoded, before.encode())),
        ):
            path.write_bytes(content)
            counter.add(how, problem_of(lambda: contents_of_run(folder), path, None))
    path.write_text(before, encoding="utf-8")
    contents_of_run(folder)
    counter.check(at_least=6)


@pytest.mark.parametrize("name", ["learned", "plain"])
def test_a_checkpoint(name: str, world: World, tmp_path: Path, counter: Counter) -> None:
    folder = tmp_path / "model"
    nulls = () if name == "learned" else ("--nulls", "none")
    assert run_command(world.train(folder, *nulls)) == 0
    for path in sorted(folder.iterdir()):
        if path.name not in (LOCK, STATE, "history.csv"):
            try_all(counter, path, lambda: contents_of_checkpoint(folder), 30)
    counter.check(at_least=60)


def test_certificates(world: World, tmp_path: Path, counter: Counter) -> None:
    path = tmp_path / "certificates.json"
    assert run_command(world.certify(path)) == 0
    try_all(counter, path, lambda: Certificates.load(path), 60)
    counter.check(at_least=60)


def test_a_null_curve(world: World, tmp_path: Path, counter: Counter) -> None:
    """A CSV file that people may write too has no checksum: it is read or refused, no more."""
    path = tmp_path / "curve.csv"
    assert run_command(world.curve(path)) == 0
    for what, content in damaged(path.read_bytes(), 60, random.Random(0)):
        path.write_bytes(content)
        try:
            read_curve(path)
            problem = None
        except UserError as error:
            problem = None if "\n" not in str(error) and str(path) in str(error) else str(error)
        counter.add(what, problem)
    counter.check(at_least=60)


def test_parts_of_an_evaluation(world: World, tmp_path: Path, counter: Counter) -> None:
    """Finished attacks of an evaluation that was killed: used if undamaged, else made again."""
    folder, trace, kept = tmp_path / "run", tmp_path / "trace", tmp_path / "kept"
    words = world.evaluate(folder)
    record = recording(folder, trace)
    assert run_forked(lambda: run_command(words), tmp_path, prepare=record).status == 0
    values, names = contents_of_run(folder), file_names(folder)
    stop = max(number for number, _, what in read_trace(trace) if what.endswith(f"/{RESULT}"))
    remove(folder)
    dying = dying_at(folder, stop, "before")
    run_forked(lambda: run_command(words), tmp_path, prepare=dying)
    copy_of(folder, kept)
    parts = [path for path in folder.rglob("*") if path.is_file() and PARTS in path.parts]
    assert parts
    for index in range(15):
        copy_of(kept, folder)
        path = parts[index % len(parts)]
        rng = random.Random(index)
        what, content = rng.choice(list(damaged(path.read_bytes(), 10, rng)))
        path.write_bytes(content)
        ended = run_forked(lambda: run_command(words), tmp_path)
        problem = None
        if ended.status != 0:
            problem = f"{ended.status}: {ended.err[-300:]}"
        elif contents_of_run(folder) != values:
            problem = "another result"
        elif file_names(folder) != names:
            problem = "other files"
        counter.add(f"{path.parent.name}/{path.name}: {what}", problem)
    counter.check(at_least=15)


def test_the_state_of_a_training(world: World, tmp_path: Path, counter: Counter) -> None:
    """The same command says that it cannot resume, or gives the same weights."""
    folder, trace = tmp_path / "model", tmp_path / "trace"
    words = world.train(folder)
    record = recording(folder, trace)
    assert run_forked(lambda: run_command(words), tmp_path, prepare=record).status == 0
    weights = contents_of_checkpoint(folder)
    stops = [number for number, _, what in read_trace(trace) if f"{STATE}" in what]
    remove(folder)
    dying = dying_at(folder, stops[-1], "before")
    run_forked(lambda: run_command(words), tmp_path, prepare=dying)
    state = folder / STATE
    before = state.read_bytes()
    for what, content in damaged(before, 15, random.Random(0)):
        remove(folder)
        folder.mkdir()
        state.write_bytes(content)
        ended = run_forked(lambda: run_command(words), tmp_path)
        if ended.status == 0:
            problem = None if contents_of_checkpoint(folder) == weights else "other weights"
        else:
            problem = None if ended.is_one_sentence else f"{ended.status}: {ended.err[-300:]}"
        counter.add(what, problem)
    counter.check(at_least=15)

"""Names, links and special files from outside: nothing else is changed, and nothing hangs."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fault_counts import Counter
from fault_injection import Ended, run_forked, snapshot
from fault_worlds import World, copy_of, remove, run_command
from json_faults import write_with_checksum

from nullclass.core.files import LOCK
from nullclass.results.schema import (
    COSTS,
    FIGURES,
    HELD_OUT,
    OOD,
    REPORT,
    RESULT,
    ROWS,
    RUN,
    SUMMARY,
    TRIALS,
)
from nullclass.training.checkpoint import CARD, WEIGHTS

NAMES = {
    "above": "../../../victim/file",
    "above from a seed": "0/../../../victim",
    "absolute": "VICTIM/file",
    "parent": "..",
    "here": ".",
    "empty": "",
    "slash": "a/b",
    "backslash": "..\\victim",
    "NUL": "a\0b",
    "newline": "a\nb",
    "long": "x" * 300,
    "home": "~nosuchuser",
    "option": "--out",
    "markup": "<script>alert(1)</script>[/red]",
    "percent": "%s%n{0}",
    "right to left": "a\u202eb",
    "not a letter": "\u0000\u0007\u001b[31m",
}
"""Names for models, attacks, trials, figures and seeds."""

SECONDS = 10


@pytest.fixture
def real_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages with all figures, whose files are named after attacks; drawn as one line of SVG."""
    monkeypatch.undo()

    def save(self: object, target: Any, *, format: str, **settings: object) -> None:  # noqa: A002
        target.write(b"<svg></svg>" if format == "svg" else b"png")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)


class Yard:
    """A run folder deep inside a folder, and a victim outside of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.victim = path, path / "victim"
        self.folder = path / "a" / "b" / "run"
        self.scratch = path.parent / f"{path.name}-scratch"
        for folder in (self.victim / "trials", self.folder.parent, self.scratch):
            folder.mkdir(parents=True)
        for name in (RUN, RESULT, ROWS, SUMMARY, LOCK, CARD, WEIGHTS, "file", "trials/rows"):
            (self.victim / name).write_text(f"victim {name}")

    def attempt(self, *commands: list[str]) -> str | None:
        """Run commands; what is wrong with how they end or with what is outside the folder."""
        before = self._outside()
        for words in commands:
            ended = run_forked(lambda: run_command(words), self.scratch, seconds=SECONDS)  # noqa: B023
            problem = _problem_of(ended)
            if problem is None and self._outside() != before:
                after = self._outside()
                names = {n for n in {*after, *before} if after.get(n) != before.get(n)}
                problem = f"changed {sorted(names)}"
            if problem is not None:
                return f"{words[0]}: {problem}"
        return None

    def _outside(self) -> dict[str, bytes | str]:
        inside = self.folder.relative_to(self.path).as_posix()
        return {
            name: content
            for name, content in snapshot(self.path).items()
            if name != inside and not name.startswith(f"{inside}/")
        }


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path / "yard")


def _problem_of(ended: Ended) -> str | None:
    if ended.status == -9:
        return f"not finished after {SECONDS} seconds"
    if ended.status == 0:
        return None if "Traceback" not in ended.err else ended.err[-300:]
    if ended.status == 2 and "╭─ Missing argument" in ended.err:
        return None
    return None if ended.is_one_sentence else f"status {ended.status}: {ended.err[-300:]}"


def _set_strings(path: Path, pattern: str, name: str) -> bytes:
    """Return a JSON text with the string that a pattern finds replaced by a name."""
    text = path.read_text(encoding="utf-8")
    found = re.search(pattern, text)
    assert found is not None, pattern
    start, end = found.span(1)
    return (text[:start] + json.dumps(name) + text[end:]).encode()


@pytest.mark.usefixtures("real_pages")
def test_names_in_tables(world: World, yard: Yard, counter: Counter) -> None:
    """Of attacks, members and sources, in files with valid checksums."""
    assert run_command(world.evaluate(yard.folder)) == 0
    kept = copy_of(yard.folder, yard.scratch / "run")
    for what, name in NAMES.items():
        copy_of(kept, yard.folder)
        named = name.replace("VICTIM", str(yard.victim))
        for table, column in ((ROWS, "attack"), (ROWS, "member"), (OOD, "source")):
            (path,) = yard.folder.rglob(table)
            before, frame = path.read_bytes(), pd.read_parquet(path)
            frame[column] = frame[column].replace({"fgsm": named, "noise": named})
            frame.to_parquet(path, index=False)
            write_with_checksum(yard.folder, path, path.read_bytes(), before)
        report = ["report", str(yard.folder)]
        problem = yard.attempt(report)
        if problem is None:  # the same name in what goes with the rows
            (path,), (result,) = yard.folder.rglob(COSTS), yard.folder.rglob(RESULT)
            before, frame = path.read_bytes(), pd.read_csv(path)
            frame.replace({"fgsm": named}).to_csv(path, index=False)
            write_with_checksum(yard.folder, path, path.read_bytes(), before)
            content = result.read_bytes()
            changed = content.replace(b'"fgsm"', json.dumps(named).encode())
            write_with_checksum(yard.folder, result, changed, content)
            problem = yard.attempt(report)
        counter.add(f"attack, member and source {what}", problem)
    counter.check(at_least=15)


def test_names_in_documents(world: World, yard: Yard, counter: Counter) -> None:
    """Of models, seeds and trials, in documents with valid checksums."""
    words = world.evaluate(yard.folder, eps="0.2")
    assert run_command(world.evaluate(yard.folder)) == 0
    kept = copy_of(yard.folder, yard.scratch / "run")
    (result,) = yard.folder.rglob(RESULT)
    patterns = {
        ("model", result): r'"model": ("[^"]*")',
        ("seed", result): r'"seed": (\d+)',
        ("file", result): r'("rows\.parquet"): "[0-9a-f]{64}"',
        ("models", yard.folder / RUN): r'"models": \[\s*("[^"]*")',
        ("seeds", yard.folder / RUN): r'"seeds": \[\s*(\d+)',
        ("trials", yard.folder / RUN): r'("trials/[^"]*")',
    }
    for (field, path), pattern in patterns.items():
        copy_of(kept, yard.folder)
        assert re.search(pattern, path.read_text(encoding="utf-8")) is not None, pattern
        for what in ("above", "above from a seed", "absolute", "parent", "NUL", "long"):
            copy_of(kept, yard.folder)
            content = _set_strings(path, pattern, NAMES[what].replace("VICTIM", str(yard.victim)))
            write_with_checksum(yard.folder, path, content, path.read_bytes())
            problem = yard.attempt(["report", str(yard.folder)], words)
            counter.add(f"{field} {what}", problem)
    counter.check(at_least=20)


def test_names_on_the_command_line(
    world: World, yard: Yard, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of output folders, checkpoints and attacks; checkpoints give default output folders."""
    yard.folder.mkdir()
    monkeypatch.chdir(yard.folder)
    for what, name in NAMES.items():
        if what in ("above", "above from a seed", "absolute", "parent"):
            continue  # an output elsewhere is what the user asks for
        out = Path(name)
        for command in (world.evaluate, world.train, world.certify, world.curve):
            counter.add(f"{command.__name__} --out {what}", yard.attempt(command(out)))
        attacked = world.evaluate(yard.folder / "run", "--attack", name)
        counter.add(f"attack {what}", yard.attempt(attacked))
    for what in ("newline", "home", "option", "markup", "percent", "backslash", "right to left"):
        checkpoint = yard.folder / "models" / NAMES[what].replace("/", "")
        copy_of(world.learned, checkpoint)
        words = world.evaluate(yard.folder / "unused")
        index = words.index("--out")
        words = ["evaluate", str(checkpoint), *words[2:index], *words[index + 2 :]]
        counter.add(f"checkpoint {what}", yard.attempt(words))
    counter.check(at_least=60)


LINKS = (LOCK, ".tmp", ".parts", TRIALS, FIGURES, RUN, SUMMARY, REPORT)


@pytest.mark.parametrize("is_new", [True, False])
def test_links_in_a_run_folder(is_new: bool, world: World, yard: Yard, counter: Counter) -> None:
    """To the victim or to nowhere, in an empty folder and in a run."""
    if is_new:
        yard.folder.mkdir()
    else:
        assert run_command(world.evaluate(yard.folder)) == 0
    kept = copy_of(yard.folder, yard.scratch / "run")
    trial = [path.relative_to(kept).as_posix() for path in kept.glob("trials/*")]
    for name in (*LINKS, *trial):
        for target in ("victim", "victim/file", "victim/nothing"):
            copy_of(kept, yard.folder)
            link = yard.folder / name
            remove(link)
            link.symlink_to(yard.path / target)
            words = world.evaluate(yard.folder, eps="0.2")
            commands = [words] if is_new else [["report", str(yard.folder)], words]
            counter.add(f"{name} is a link to {target}", yard.attempt(*commands))
    counter.check(at_least=20)


def test_links_in_the_folder_of_a_study(world: World, yard: Yard, counter: Counter) -> None:
    """To the victim, in an empty folder and in a run."""
    words = world.study(yard.folder)
    assert run_command(words) == 0
    kept = copy_of(yard.folder, yard.scratch / "run")
    jobs = [path.relative_to(kept).as_posix() for path in kept.glob("*/*-seed0-*")]
    assert jobs
    for name in ("models", TRIALS, FIGURES, *jobs):
        copy_of(kept, yard.folder)
        link = yard.folder / name
        remove(link)
        link.symlink_to(yard.victim)
        counter.add(f"{name} is a link", yard.attempt(words, ["report", str(yard.folder)]))
    counter.check(at_least=5)


def test_links_as_outputs(world: World, yard: Yard, counter: Counter) -> None:
    """Files of a checkpoint's folder and the temporary files of a command with one file."""
    yard.folder.mkdir()
    for name in (LOCK, ".tmp", CARD, WEIGHTS, f"{WEIGHTS}.new", f".{CARD}.tmp", "history.csv"):
        for target, command in (
            ("victim", world.train),
            ("victim/file", world.substitute),
            ("victim/nothing", world.train),
        ):
            remove(yard.folder)
            yard.folder.mkdir()
            (yard.folder / name).symlink_to(yard.path / target)
            problem = yard.attempt(command(yard.folder))
            counter.add(f"{command.__name__}: {name} is a link to {target}", problem)
    for name in (".out.lock", ".out.tmp"):
        for target in ("victim", "victim/file", "victim/nothing"):
            for command in (world.certify, world.curve, world.transfer):
                remove(yard.folder)
                yard.folder.mkdir()
                (yard.folder / name).symlink_to(yard.path / target)
                problem = yard.attempt(command(yard.folder / "out"))
                counter.add(f"{command.__name__}: {name} is a link to {target}", problem)
    counter.check(at_least=30)


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name is at most 108 bytes long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def _link_to(device: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(device)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": _make_fifo,
    "socket": _make_socket,
    "folder": Path.mkdir,
    "/dev/zero": _link_to("/dev/zero"),
    "/dev/null": _link_to("/dev/null"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files(kind: str, world: World, yard: Yard, counter: Counter) -> None:
    """Instead of each file that is read or written: refused at once, or replaced."""
    data = copy_of(world.data_folder, yard.folder / "letters")
    model = copy_of(world.learned, yard.folder / "model")
    run, made = yard.folder / "run", yard.folder / "made"
    assert run_command(world.evaluate(run)) == 0
    own = World(world.path, data, model, world.plain)
    (trial,) = (path.parent for path in run.rglob(RESULT))
    evaluate, report = own.evaluate(run, eps="0.2"), ["report", str(run)]
    cases: list[tuple[Path, list[list[str]]]] = [
        (model / CARD, [evaluate]),
        (model / WEIGHTS, [evaluate]),
        (min(path for path in data.iterdir() if "images" in path.name), [evaluate]),
        (min(path for path in data.iterdir() if "labels" in path.name), [evaluate]),
        *((run / name, [report, evaluate]) for name in (LOCK, RUN, SUMMARY, REPORT, ".tmp")),
        (run / FIGURES, [report, evaluate]),
        *((trial / name, [report, evaluate]) for name in (RESULT, ROWS, HELD_OUT)),
        *((made / name, [own.train(made)]) for name in (LOCK, CARD, WEIGHTS, ".tmp")),
        (made / "certificates", [own.certify(made / "certificates")]),
        (made / "curve", [own.curve(made / "curve")]),
        (made / "null-curve.csv", [_train_with_curve(own, made)]),
        (made / "check", [["certify", str(world.plain), "--check", str(made / "check")]]),
    ]
    kept = copy_of(yard.folder, yard.scratch / "kept")
    for path, commands in cases:
        copy_of(kept, yard.folder)
        made.mkdir()
        remove(path)
        SPECIAL[kind](path)
        name = path.relative_to(yard.folder)
        counter.add(f"{name} is a {kind}", yard.attempt(*commands))
    counter.check(at_least=15)


def _train_with_curve(world: World, made: Path) -> list[str]:
    curve = ("--nulls", "null-probabilities", "--curve", str(made / "null-curve.csv"))
    return world.train(made / "model", *curve)

"""Every JSON file with a wrong value at each place: refused in one sentence, or harmless."""

from __future__ import annotations

import csv
import io
import json
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_probabilities import write_fake_probabilities
from fault_counts import Counter
from fault_injection import spread, unchanged
from fault_worlds import World, contents_of_run, run_command
from json_faults import faults_of_files, faults_of_values, write_with_checksum
from tiny_zoo import make_zoo

from nullclass import load_checkpoint
from nullclass.core.errors import UserError
from nullclass.rejection import Certificates
from nullclass.results.null_curve import read_curve
from nullclass.results.run import read_run
from nullclass.studies.reports import write_report
from nullclass.training.checkpoint import CARD
from nullclass.zoo.load import load_member
from nullclass.zoo.members import read_zoo
from nullclass.zoo.results import read_results

LONGEST = 620
"""Characters of a sentence; longer ones are shortened in one place."""
SECONDS = 5.0
MEMORY = 1 << 30


@contextmanager
def little_memory() -> Iterator[None]:
    """Let the process have one more gigabyte, so that a size from a file is noticed."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def problem_of(load: Callable[[], object], folder: Path) -> str | None:
    """What is wrong with how a file is read; None if it is refused well, or accepted."""
    started = time.perf_counter()
    try:
        load()
    except UserError as error:
        said = str(error).replace(str(folder), "FOLDER")
        if "\n" in said or "Traceback" in said or not said.isprintable():
            return f"not one sentence: {said[:200]!r}"
        if len(said) > LONGEST:
            return f"{len(said)} characters: {said[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if time.perf_counter() - started > SECONDS:
        return f"took over {SECONDS:g} seconds"
    return None


def try_all(
    counter: Counter, folder: Path, path: Path, load: Callable[[], object], num: int
) -> None:
    """Try faults of one JSON file of a folder; at most about ``num``."""
    files = {file: file.read_bytes() for file in folder.rglob("*.json")}
    before, names = path.read_bytes(), {file.name for file in folder.parent.iterdir()}
    values = ((what, text.encode("utf-8")) for what, text in faults_of_values(before.decode()))
    for what, content in [*faults_of_files(before), *spread(list(values), num)]:
        write_with_checksum(folder, path, content, before)
        problem = problem_of(load, folder)
        if problem is None and {file.name for file in folder.parent.iterdir()} != names:
            problem = "something was written beside the folder"
        counter.add(f"{path.relative_to(folder)}: {what}", problem)
        for file, original in files.items():
            file.write_bytes(original)
    assert problem_of(load, folder) is None, "as it was"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of an evaluation with everything but figures."""
    monkeypatch.undo()
    for name in (
        *("confusion", "gallery", "null_scores", "risk_coverage", "roc"),
        *("outcomes", "security_curves", "smallest_eps"),
    ):
        monkeypatch.setattr(f"nullclass.report.evaluation_page.{name}", lambda *_: None)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_documents_of_an_evaluation(
    name: str, world: World, tmp_path: Path, counter: Counter
) -> None:
    folder, victim = tmp_path / "a" / "run", tmp_path / "victim"
    victim.mkdir()
    assert run_command(world.evaluate(folder)) == 0
    (path,) = folder.rglob(name)

    def load() -> None:
        contents_of_run(folder)
        write_report(folder)

    with unchanged(victim), little_memory():
        try_all(counter, folder, path, load, 250)
    counter.check(at_least=250)


@pytest.mark.parametrize("kind", ["models", "estimates", "crafted", "trials"])
def test_documents_of_a_study(kind: str, tmp_path: Path, counter: Counter) -> None:
    """Of jobs of each kind."""
    folder = write_fake_probabilities(tmp_path / "a" / "run", models=("clean",))

    def load() -> None:
        run = read_run(folder)
        assert run.curves is not None
        assert run.queried is not None
        if kind == "crafted":  # its tables take time
            assert run.sources is not None
        for trial in run.trials:
            assert (trial.flags, trial.epochs, trial.history) is not None

    path = min(folder.glob(f"{kind}/*/result.json"))
    with little_memory():
        try_all(counter, folder, path, load, 40 if kind == "crafted" else 120)
    counter.check(at_least=50)


@pytest.mark.parametrize("name", ["learned", "plain"])
def test_cards(name: str, world: World, tmp_path: Path, counter: Counter) -> None:
    folder = tmp_path / "a" / name
    assert (
        run_command(world.train(folder, *(() if name == "learned" else ("--nulls", "none")))) == 0
    )
    with little_memory():
        try_all(counter, folder, folder / CARD, lambda: load_checkpoint(folder), 300)
    counter.check(at_least=300)


def test_cards_of_a_zoo(tmp_path: Path, counter: Counter) -> None:
    zoo = make_zoo(tmp_path / "a").folder
    path = zoo / "checkpoints" / "proved" / CARD

    def load() -> None:
        for member in read_zoo(zoo).values():
            load_member(member)
            read_results(member)
            assert member.num_cores is None or member.num_cores > 0
            assert member.training_minutes is None or member.training_minutes >= 0

    with little_memory():
        try_all(counter, zoo, path, load, 300)
    counter.check(at_least=300)


def test_certificates(world: World, tmp_path: Path, counter: Counter) -> None:
    path = tmp_path / "a" / "out.json"
    assert run_command(world.certify(path)) == 0
    check = ["certify", str(world.plain), "--data", str(world.data_folder), "--check", str(path)]

    def load() -> None:
        Certificates.load(path)
        if run_command(check) not in (0, 2):
            raise AssertionError("another status")

    with little_memory():
        try_all(counter, path.parent, path, load, 300)
    counter.check(at_least=200)


def test_settings_of_a_null_curve(world: World, tmp_path: Path, counter: Counter) -> None:
    """JSON in a cell of its CSV file."""
    path = tmp_path / "curve.csv"
    assert run_command(world.curve(path)) == 0
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    for what, text in faults_of_values('{"num_steps": 3}'):
        for row in rows:
            row["perturbation_settings"] = text.strip()
        with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        counter.add(what, problem_of(lambda: read_curve(path), tmp_path))
    counter.check(at_least=30)


def test_metadata_of_example_images(world: World, tmp_path: Path, counter: Counter) -> None:
    """JSON in the header of a safetensors file."""
    folder = tmp_path / "a" / "run"
    assert run_command(world.evaluate(folder)) == 0
    (path,) = folder.rglob("examples.safetensors")
    before = path.read_bytes()
    files = {file: file.read_bytes() for file in folder.rglob("*.json")}
    (size,) = struct.unpack("<Q", before[:8])
    header, tensors = json.loads(before[8 : 8 + size]), before[8 + size :]

    def load() -> None:
        for trial in read_run(folder).trials:
            assert trial.examples is not None

    load()
    for what, text in spread(list(faults_of_values(header["__metadata__"]["examples"])), 250):
        changed = header | {"__metadata__": {"examples": text}}
        encoded = json.dumps(changed).encode()
        content = struct.pack("<Q", len(encoded)) + encoded + tensors
        write_with_checksum(folder, path, content, before)
        counter.add(what, problem_of(load, folder))
        for file, original in files.items():
            file.write_bytes(original)
    counter.check(at_least=100)

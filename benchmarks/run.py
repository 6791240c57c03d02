"""All benchmarks in one run, written to ``benchmarks/results.md`` (``make bench``)."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tyro

import attacks
import certify
import quality
import report_training
import startup
import sweeps
import thresholds
import training
from common import ROOT, SCRATCH, say, table
from nullclass.core.files import write_text
from nullclass.core.provenance import provenance


@dataclass(frozen=True)
class Options:
    """Settings of the whole run."""

    quick: bool = False
    """A few minutes to see that all of it works: the notebook loop runs one epoch and is
    extrapolated, fewer images, seeds and rounds. Written to .benchmarks/ unless told otherwise."""
    only: tuple[str, ...] = ()
    """Only these of startup, training, quality, attacks, report-training, thresholds, sweeps,
    certify;
    likewise written to .benchmarks."""
    rounds: int | None = None
    """Turns of what is measured in turns, other than their own defaults."""
    keras: Path | None = None
    """A Python that has TensorFlow, other than the one ``make bench`` sets up."""
    out: Path | None = None
    """File to write; without it benchmarks/results.md."""
    data: str = "mnist"
    """mnist, or a folder with its files."""


def sections(options: Options) -> dict[str, Callable[[], str]]:
    """The benchmarks by name, in the order to run them."""
    where, quick = options.data, options.quick
    train = training.Options(data=where)
    seeds = quality.Options(data=where)
    attack = attacks.Options(data=where)
    report = report_training.Options(data=where)
    search = thresholds.Options(data=where)
    sweep = sweeps.Options()
    proofs = certify.Options(data=where)
    if options.keras is not None:
        report, search = replace(report, keras=options.keras), replace(search, keras=options.keras)
    if options.rounds is not None:
        train, attack = (
            replace(train, rounds=options.rounds),
            replace(attack, rounds=options.rounds),
        )
        report, search, sweep = (
            replace(report, rounds=options.rounds),
            replace(search, rounds=options.rounds),
            replace(sweep, rounds=options.rounds),
        )
        proofs = replace(proofs, rounds=options.rounds)
    if quick:
        train = training.Options(rounds=1, notebook_epochs=1, data=where)
        seeds = quality.Options(seeds=(0,), data=where)
        attack = attacks.Options(rounds=1, num_images=200, data=where)
        proofs = certify.Options(1000, rounds=1, data=where)
    known = {
        "startup": partial(startup.measure, startup.Options(rounds=3 if quick else 9)),
        "training": partial(training.measure, train),
        "quality": partial(quality.measure, seeds),
        "attacks": partial(attacks.measure, attack),
        "report-training": partial(report_training.measure, report),
        "thresholds": partial(thresholds.measure, search),
        "sweeps": partial(sweeps.measure, sweep),
        "certify": partial(certify.measure, proofs),
    }
    unknown = set(options.only) - known.keys()
    if unknown:
        raise SystemExit(f"there is no benchmark {min(unknown)!r}: choose from {', '.join(known)}")
    return {name: run for name, run in known.items() if not options.only or name in options.only}


def attempt(name: str, run: Callable[[], str]) -> tuple[str, bool]:
    """The section, or what went wrong: one failure must not cost the others' results."""
    say(f"{name} ...")
    started = time.perf_counter()
    try:
        section, is_complete = run(), True
    except Exception as error:
        section, is_complete = f"## {name}\n\n**FAILED**: {type(error).__name__}: {error}", False
    say(f"{section}\n\n({name}: {time.perf_counter() - started:.0f} s)\n")
    return section, is_complete


def heading(options: Options, load: float, seconds: float) -> str:
    """What was run, where and with what."""
    about = provenance()
    machine = about.machine
    today = datetime.datetime.now(datetime.UTC)
    packages = ("torch", "numpy", *(name for _, name in attacks.PEERS.values()))
    lines = [
        ("date", today.strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`python {shlex.join([_relative(sys.argv[0]), *sys.argv[1:]])}`"),
        ("commit", about.commit or "unknown"),
        ("machine", f"{machine.processor}, {machine.num_cores} cores, {machine.system}"),
        ("torch threads", f"{machine.num_threads}{_thread_settings()}"),
        ("load average before", f"{load:.2f} (idle is near 0; above it, others shared the cores)"),
        ("Python", about.versions["python"]),
        *((name, _version(name)) for name in packages),
        ("took", f"{seconds / 60:.1f} minutes"),
    ]
    quick = "\n\n**QUICK run: for a look, not for quoting.**" if options.quick else ""
    return f"# Benchmark results{quick}\n\n{table(['what', 'value'], lines)}"


def _relative(path: str) -> str:
    absolute = Path(path).resolve()
    return str(absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else absolute)


def _thread_settings() -> str:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    chosen = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return f" ({', '.join(chosen)})" if chosen else ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def main() -> int:
    """Run the benchmarks and write the results; 1 if one of them failed."""
    options = tyro.cli(Options, description=__doc__)
    chosen = sections(options)
    default = SCRATCH if options.quick or options.only else ROOT / "benchmarks"
    out = options.out or default / "results.md"
    load, started = os.getloadavg()[0], time.perf_counter()
    attempts = [attempt(name, run) for name, run in chosen.items()]
    top = heading(options, load, time.perf_counter() - started)
    write_text(out, "\n\n".join([top, *(section for section, _ in attempts)]) + "\n")
    say(f"written to {out}")
    return 0 if all(is_complete for _, is_complete in attempts) else 1


if __name__ == "__main__":
    sys.exit(main())

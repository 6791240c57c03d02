"""Checks and measures the package on one GPU, in parts, each with a time limit.

    python benchmarks/gpu.py                               # at most nine minutes on one GPU
    python benchmarks/gpu.py --device cpu --tiny           # the same code in small, on a CPU
    python benchmarks/gpu.py --parts worst-case --resume   # only what has no result yet

``checks`` compares the device with the CPU. ``training`` measures the throughput of one process,
and of several processes that share the device, also under CUDA's Multi-Process Service.
``worst-case`` attacks the zoo's models. ``certified`` trains the study's provable models and proves
what they answer; alone, with ``--parts certified --minutes 9 --resume``, it may take all the time.

A part is a list of named items and runs in a process of its own. ``results-gpu.json`` and
``results-gpu.md`` are written after every item. An item that raises an error counts as failed;
after one that ends the process, the part continues in a new process. What is left when the time of
a part is over is reported as not run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
import tyro

from common import say
from gpu_certified import certified_items
from gpu_checks import Checks
from gpu_options import PARTS, Items, Options, Row
from gpu_table import markdown
from gpu_training import training_items
from gpu_worst_case import worst_case_items
from nullclass.core.devices import find_device
from nullclass.core.documents import LIMIT, json_values, parse
from nullclass.core.errors import UserError
from nullclass.core.files import write_text
from nullclass.core.paths import read_bytes
from nullclass.core.process import tune_process
from nullclass.core.provenance import provenance

DONE = ("ok", "differs")
"""States of items that have a result."""

SHARES = {"checks": 0.25, "training": 0.35, "worst-case": 0.5, "certified": 1.0}
"""Share of the remaining time that each part may take; the last part may take all."""


class Results:
    """The results on disk: parts, and in each the items by name."""

    def __init__(self, out: Path) -> None:
        self.json, self.markdown = out / "results-gpu.json", out / "results-gpu.md"
        self.content: Row = {"about": {}, "parts": {}}
        if self.json.exists():
            self.content = parse(read_bytes(self.json, "GPU results", LIMIT), Row, "GPU results")

    def items(self, part: str) -> dict[str, Row]:
        """Return the items of a part by name."""
        items: dict[str, Row] = self.content["parts"].setdefault(part, {})
        return items

    def record(self, part: str, name: str, row: Row) -> None:
        """Set an item's result and write all results."""
        self.items(part)[name] = row
        self.save()

    def end_running(self, part: str, why: str) -> list[str]:
        """Replace the state of an interrupted item; return its name."""
        names = [name for name, row in self.items(part).items() if row["state"] == "running"]
        for name in names:
            self.record(part, name, {"state": why})
        return names

    def save(self) -> None:
        """Write both files."""
        write_text(self.json, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        write_text(self.markdown, markdown(self.content))


def run_part(part: str, o: Options, seconds: float) -> None:
    """Run a part in child processes until all its items have a result or the time is over."""
    started, command = time.monotonic(), [sys.executable, __file__, "--child", part]
    command += ["--device", o.device, "--out", str(o.out), *(["--tiny"] if o.tiny else [])]
    command += ["--data", o.data]
    code: int | None = None
    while (left := seconds - (time.monotonic() - started)) > 0:
        child = subprocess.Popen(command, start_new_session=True)
        try:
            code = child.wait(timeout=left)
        except subprocess.TimeoutExpired:
            code = None
        with suppress(ProcessLookupError):  # the processes it started, too
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        results = Results(o.out)
        why = "time is over" if code is None else f"failed: the process ended with {code}"
        if code == 0 or not results.end_running(part, why):
            break
    if code not in (0, None):
        Results(o.out).record(part, "the part itself", {"state": f"failed: it ended with {code}"})


def run_items(part: str, items: Items, o: Options) -> None:
    """Run what has no result yet and record each result."""
    results = Results(o.out)
    known = results.items(part)
    for name in items:
        known.setdefault(name, {"state": "not run"})
    for name, work in items.items():
        if known[name]["state"] not in ("not run", "running"):
            continue
        results.record(part, name, {"state": "running"})
        started, is_broken = time.perf_counter(), False
        try:
            row = {"state": "ok"} | work()
        except Exception as error:
            row = {"state": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            is_broken = "CUDA error" in row["state"]  # nothing more runs in this process
        row |= {"seconds": round(time.perf_counter() - started, 2), "gpu": card_name(o)}
        say(f"{part}, {name}: {row['state']}, {row['seconds']:.1f} s")
        results.record(part, name, row)
        if is_broken:
            os._exit(1)  # the parent goes on in a new process


def card_name(o: Options) -> str:
    return "cpu" if o.device == "cpu" else torch.cuda.get_device_name(find_device(o.device))


def part_items(part: str, o: Options, folder: Path) -> Items:
    if part == "checks":
        return Checks(o.device, o.data, o.tiny).items(folder)
    parts = {
        "training": training_items,
        "worst-case": worst_case_items,
        "certified": certified_items,
    }
    return parts[part](o)


def run(o: Options) -> None:
    """Run all parts within the time limit.

    Raises:
        UserError: If a part or the device is unknown, or the folder cannot be written.
    """
    for part in o.parts:
        if part not in PARTS:
            raise UserError(f"there is no part {part!r}: choose from {', '.join(PARTS)}")
    find_device(o.device)
    deadline = time.monotonic() + 60 * o.minutes
    results = Results(o.out)
    about = json_values(provenance())
    cores, version = about["machine"]["num_cores"], about["versions"]["torch"]
    about["machine"] = f"1x {card_name(o)}, {cores} CPU cores, torch {version}."
    if o.tiny:
        about["machine"] += " Tiny: a few images and steps, which only test this code."
    results.content["about"] = about
    for part in o.parts:
        kept = results.items(part) if o.resume else {}
        results.content["parts"][part] = {k: v for k, v in kept.items() if v["state"] in DONE}
    results.save()
    for part in o.parts:
        left = deadline - time.monotonic()
        share = 1.0 if part == o.parts[-1] else SHARES[part]
        say(f"{part}: at most {share * left:.0f} s")
        run_part(part, o, share * left)
    say(results.markdown.read_text())


def main() -> int:
    """Run this process's part, or all; return the exit status."""
    tune_process()
    o = tyro.cli(Options, description=__doc__)
    if o.child:
        with tempfile.TemporaryDirectory() as folder:
            run_items(o.child, part_items(o.child, o, Path(folder)), o)
        return 0
    try:
        run(o)
    except UserError as error:
        say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks and measures the package on one GPU, in parts, each with a time limit.

    python benchmarks/gpu.py                               # at most nine minutes on one GPU
    python benchmarks/gpu.py --device cpu --tiny           # the same code in small, on a CPU
    python benchmarks/gpu.py --parts worst-case --resume   # only what has no result yet

``checks`` compares the device with the CPU. ``training`` measures the throughput of one process,
and of several processes that share the device. ``worst-case`` attacks the zoo's models.
``mps`` measures several processes under CUDA's Multi-Process Service.

A part is a list of named items and runs in a process of its own. ``results-gpu.json`` and
``results-gpu.md`` are written after every item. An item that raises an error counts as failed;
after one that ends the process, the part continues in a new process. What is left when the time of
a part is over is reported as not run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from common import ROOT, mnist, say, table, training_of
from gpu_checks import Checks, report_training, shrunk
from nullclass.attacks import FGSM, PGD, Attack, worst_case
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.ensemble import run_attack
from nullclass.attacks.state import logits_of
from nullclass.core.devices import find_device
from nullclass.core.documents import LIMIT, json_values, parse
from nullclass.core.files import write_text
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import OUTCOME_NAMES, Outcome, outcomes, predictions
from nullclass.core.paths import read_bytes
from nullclass.core.process import tune_process
from nullclass.core.provenance import provenance
from nullclass.data import LabelledImages
from nullclass.experiments.trainings import Trainer
from nullclass.metrics.rates import wilson
from nullclass.rejection import ProvableNull
from nullclass.scoring.proofs import prove
from nullclass.training.loop import train
from nullclass.zoo import load_zoo

Row = dict[str, Any]
Items = dict[str, Callable[[], Row]]

DONE = ("ok", "differs")
"""States of items that have a result."""

LIMITS = {"checks": 0.25, "training": 0.5, "worst-case": 0.92, "mps": 1.0}
"""Share of the remaining time that each part may take."""

CELLS = (
    *((name, eps) for name in ("notebook-null", "report-usm") for eps in (0.1, 0.3)),
    *(("null-probabilities", eps) for eps in (0.1, 0.3)),
    ("adversarial-null", 0.3),
    ("abstain", 0.3),
    ("provable-0.3", 0.3),
    ("adversarial-null", 0.1),
    ("abstain", 0.1),
    ("provable-0.4", 0.4),
)
"""Models and eps of the worst case, the most wanted first."""

MODES: dict[str, tuple[str, bool]] = {
    "report": ("report", False),
    "report, images on the device": ("report", True),
    "notebook": ("notebook", False),
    "notebook, images on the device": ("notebook", True),
}
"""What the processes train: network, and whether the training images are on the device."""

STEPS_PER_EPOCH = 60_000 / 64


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    device: str = "cuda"
    """cuda, cuda:N or, to test this file, cpu."""
    tiny: bool = False
    """A few images and steps only."""
    parts: tuple[str, ...] = ("checks", "training", "worst-case", "mps")
    """Which parts to run, in this order."""
    minutes: float = 9.0
    """Time limit of all parts together."""
    resume: bool = False
    """Keep the items that have a result in the output folder."""
    data_dir: Path | None = None
    """Folder of MNIST's IDX files; without it the cache, then the mirrors."""
    out: Path = ROOT / "benchmarks"
    """Folder for the results."""
    die_at: str = ""
    """Item whose process is ended, to test what happens then."""
    hang_at: str = ""
    """Item that never ends, likewise."""
    child: str = ""
    """For internal use: the part to run in this process."""


class Results:
    """The results on disk: parts, and in each the items by name."""

    def __init__(self, out: Path) -> None:
        self.json, self.markdown = out / "results-gpu.json", out / "results-gpu.md"
        self.content: Row = {"about": {}, "parts": {}}
        if self.json.exists():
            self.content = parse(read_bytes(self.json, "GPU results", LIMIT), Row, "GPU results")

    def items(self, part: str) -> dict[str, Row]:
        """The items of a part by name."""
        items: dict[str, Row] = self.content["parts"].setdefault(part, {})
        return items

    def record(self, part: str, name: str, row: Row) -> None:
        """Set an item's result and write all results."""
        self.items(part)[name] = row
        self.save()

    def end_running(self, part: str, why: str) -> list[str]:
        """Replace the state of an interrupted item; returns its name."""
        names = [name for name, row in self.items(part).items() if row["state"] == "running"]
        for name in names:
            self.record(part, name, {"state": why})
        return names

    def save(self) -> None:
        """Write both files."""
        write_text(self.json, json.dumps(self.content, indent=2, ensure_ascii=False) + "\n")
        write_text(self.markdown, markdown(self.content))


def run_part(part: str, o: Options, seconds: float) -> None:
    """Run a part in child processes until all its items have a result or the time is over."""
    started, command = time.monotonic(), [sys.executable, __file__, "--child", part]
    command += ["--device", o.device, "--out", str(o.out), *(["--tiny"] if o.tiny else [])]
    command += [] if o.data_dir is None else ["--data-dir", str(o.data_dir)]
    for option, value in {"--die-at": o.die_at, "--hang-at": o.hang_at}.items():
        command += [option, value] if value else []
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
        results.record(part, "the part itself", {"state": f"failed: it ended with {code}"})


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
        if name == o.die_at:
            os._exit(9)
        while name == o.hang_at:
            time.sleep(1)
        started, is_broken = time.perf_counter(), False
        try:
            row = {"state": "ok"} | work()
        except Exception as error:
            row = {"state": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            is_broken = "CUDA error" in row["state"]  # nothing more runs in this process
        row |= {"seconds": round(time.perf_counter() - started, 2), "gpu": card_name(o)}
        say(f"{part}, {name}: {row}")
        results.record(part, name, row)
        if is_broken:
            results.items(part)[name]["state"] = "running"  # so that the parent continues
            results.save()
            os._exit(1)


def card_name(o: Options) -> str:
    return "cpu" if o.device == "cpu" else torch.cuda.get_device_name(find_device(o.device))


# training -----------------------------------------------------------------------------------------


class StopError(Exception):
    """Ends a training that has nothing left to measure."""


def train_forever(
    place: int, o: Options, num_active: Any, mode: Any, steps: Any, modes_seen: Any
) -> None:
    """Train model after model in a process, counting steps, as long as the parent wants it to."""
    torch.set_num_threads(1)
    device, dataset = find_device(o.device), mnist(o.data_dir)
    while (now := mode.value) >= 0:
        network, is_resident = list(MODES.values())[now]
        training = report_training(place) if network == "report" else training_of("null-0.5-wd")
        training = replace(training, recipe=replace(training.recipe, epochs=1000))
        data = dataset.train
        if is_resident:
            data = LabelledImages(data.images.to(device), data.labels.to(device), 10)

        def on_step(done: int, total: int, loss: float, now: int = now) -> None:
            steps[place] += 1
            modes_seen[place] = now
            while place >= num_active.value and mode.value == now:
                time.sleep(0.005)
            if mode.value != now:
                raise StopError

        trained = Trainer(training, dataset, device=device)
        with suppress(StopError):
            train(trained.model, data, trained.config, nulls=trained.nulls, on_step=on_step)


class Pool:
    """Processes that train on one device, of which the first few are active."""

    def __init__(self, o: Options, size: int) -> None:
        self.o, self.size = o, size
        context = multiprocessing.get_context("spawn")
        self.num_active, self.mode = (context.Value("i", 0, lock=False) for _ in range(2))
        self.steps = context.Array("l", size, lock=False)
        self.modes_seen = context.Array("i", [-1] * size, lock=False)
        told = o, self.num_active, self.mode, self.steps, self.modes_seen
        self.processes = [
            context.Process(target=train_forever, args=(place, *told), daemon=True)
            for place in range(size)
        ]
        for process in self.processes:
            process.start()

    def wait(self, is_ready: Callable[[], bool]) -> None:
        """Wait until a condition holds, as long as all processes run."""
        while not is_ready():
            if not all(process.is_alive() for process in self.processes):
                raise RuntimeError(f"{[p.exitcode for p in self.processes]}: a process has ended")
            time.sleep(0.02)

    def measure(self, mode: str, num: int) -> Row:
        """Training steps per second of ``num`` processes together, in a common window."""
        index, active = list(MODES).index(mode), range(num)
        self.num_active.value, self.mode.value = num, index
        self.wait(lambda: all(seen == index for seen in self.modes_seen))
        before = list(self.steps)  # each process warms up for a few steps
        self.wait(lambda: all(self.steps[place] > before[place] + 20 for place in active))
        started, before = time.perf_counter(), list(self.steps)
        time.sleep(1.0 if self.o.tiny else 5.0)
        seconds, after = time.perf_counter() - started, list(self.steps)
        each = [(after[place] - before[place]) / seconds for place in active]
        return {"models": num, "steps_per_second": sum(each), "slowest": min(each)}

    def close(self) -> None:
        """End the processes."""
        self.mode.value = -1
        for process in self.processes:
            process.join(timeout=5)
            process.kill()


def training_items(o: Options) -> Items:
    """One and several processes; the processes are started once."""
    most = 2 if o.tiny else 16
    pools: list[Pool] = []

    def measure(mode: str, num: int) -> Row:
        if not pools:
            pools.append(Pool(o, most))
        return pools[0].measure(mode, num)

    nums = (1, 2) if o.tiny else (1, 8, 16, 4)
    plan = [("report", num) for num in nums] + [("notebook", 1)]
    plan += [("report, images on the device", num) for num in nums[:3]]
    plan += [("notebook, images on the device", 1), ("notebook", most)]
    items: Items = {f"{mode}, {num} processes": partial(measure, mode, num) for mode, num in plan}
    items["end of the processes"] = lambda: ([pool.close() for pool in pools] and {}) or {}
    return items


def mps_items(o: Options) -> Items:
    """Processes under a Multi-Process Service; the card's settings stay as they are."""

    def measure() -> Row:
        server = shutil.which("nvidia-cuda-mps-control")
        if server is None:
            return {"note": "nvidia-cuda-mps-control is not installed"}
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
            subprocess.run([server, "-d"], check=True, timeout=20)
            try:
                pool = Pool(o, 16)
                rows = {num: pool.measure("report", num) for num in (1, 8, 16)}
                pool.close()
            finally:
                subprocess.run([server], input="quit\n", text=True, timeout=20)
        return rows[16] | {"all": {str(num): row["steps_per_second"] for num, row in rows.items()}}

    return {"report, 16 processes under MPS": measure}


# worst case ---------------------------------------------------------------------------------------


def attack_cell(name: str, eps: float, o: Options) -> Row:
    """Attack a member of the zoo with FGSM, PGD and the worst case; scored on device and CPU."""
    torch.backends.cudnn.allow_tf32 = False  # the same float32 as on a CPU
    device, data = find_device(o.device), mnist(o.data_dir).test.first(8 if o.tiny else 1000)
    model = load_zoo(name, device).requires_grad_(False)
    images, labels = (part.to(device) for part in data.batch(slice(0, len(data))))
    clean = outcomes(predictions(logits_of(model, images), 10), labels)
    row: Row = {"n": len(data), "eps": eps, "model": name, "num_proved": 0}
    row["clean"] = dict(zip(OUTCOME_NAMES, clean.bincount(minlength=3).tolist(), strict=True))
    chosen = torch.arange(len(data), device=device)
    if isinstance(model, ProvableNull):  # no attack can fool what is proved
        proved = prove(model, data, [eps])["is_never_fooled"].to_numpy()
        chosen, row["num_proved"] = chosen[torch.tensor(~proved, device=device)], int(proved.sum())
    attacks: dict[str, Attack] = {"fgsm": FGSM("fool"), "pgd": PGD("fool")}
    attacks["worst-case"] = shrunk(worst_case()) if o.tiny else worst_case()
    for label, attack in attacks.items():
        attack = with_reference_images(attack, data)
        stream, started = torch.Generator().manual_seed(0), time.perf_counter()
        told = {"eps": eps, "norm": "linf", "generator": stream}
        trace = run_attack(attack, label, model, images[chosen], labels[chosen], **told)
        seconds = time.perf_counter() - started
        fooled, is_right = clean == Outcome.FOOLED, clean == Outcome.CORRECT
        allowed = is_allowed(trace.adv_images, images[chosen], eps, "linf")
        scored = outcomes(predictions(logits_of(model, trace.adv_images), 10), labels[chosen])
        fooled[chosen[allowed & (scored == Outcome.FOOLED)]] = True
        on_cpu, attacked = load_zoo(name), trace.adv_images.cpu()
        if isinstance(model, ProvableNull):  # on a GPU its bounds are in float64
            on_cpu, attacked = on_cpu.double(), attacked.double()
        again = outcomes(predictions(logits_of(on_cpu, attacked), 10), labels[chosen].cpu())
        row[label] = {
            "fooled": int(fooled.sum()),
            "rar": int((is_right & ~fooled).sum()),
            "outside": int((~allowed).sum()),
            "other_outcome_on_cpu": int((again != scored.cpu()).sum()),
            "seconds": seconds,
            "forward": sum(tally.num_forwards for tally in trace.member_stats),
            "backward": sum(tally.num_backwards for tally in trace.member_stats),
            "members": {
                t.member: [t.num_successes, round(t.seconds, 2)] for t in trace.member_stats
            },
        }
    return row


# results ------------------------------------------------------------------------------------------


def rate(hits: int, num: int) -> str:
    """A share with its 95 % interval."""
    low, high = wilson(hits, num)
    return f"{100 * hits / num:.1f} % ({100 * low:.1f} – {100 * high:.1f})"


def markdown(content: Row) -> str:
    """All parts as tables."""
    parts, about = content["parts"], content["about"]
    sections = ["# On a GPU", "Written by `benchmarks/gpu.py`. " + about.get("machine", "")]
    if checks := parts.get("checks"):
        counts: dict[str, list[int]] = {}
        for name, row in checks.items():
            told = counts.setdefault(name.split()[0], [0, 0])
            told[row["state"] != "ok"] += 1
        odd = [(name, row["state"], row.get("note", "")) for name, row in checks.items()]
        odd = [line for line in odd if line[1] != "ok" or line[0].startswith(("logits", "bounds"))]
        sections += [
            "## Device against CPU",
            table(["kind", "as on the CPU", "not"], [(k, *v) for k, v in counts.items()]),
            table(["item", "result", "measured"], odd),
        ]
    if training := parts.get("training", {}) | parts.get("mps", {}):
        sections += ["## Training, all models together", *training_tables(training)]
    if cells := parts.get("worst-case"):
        sections += ["## Worst case", *worst_case_tables(cells)]
    return "\n\n".join(sections) + "\n"


def training_tables(training: dict[str, Row]) -> Sequence[str]:
    """Throughputs of one and several processes."""
    rates = {k: v["steps_per_second"] for k, v in training.items() if "steps_per_second" in v}
    for row in training.values():
        for num, value in row.get("all", {}).items():
            rates[f"report, {num} processes under MPS"] = value
    lines: list[Sequence[object]] = [
        (name, f"{value:.0f}", f"{60 * value / STEPS_PER_EPOCH:.1f}", f"{64 * value:.0f}")
        for name, value in rates.items()
    ]
    lines += [(k, v["state"], "", "") for k, v in training.items() if v["state"] != "ok"]
    note = (
        "Batches of 64, 60,000 images an epoch, fast recipe, bfloat16, first layer learning. The "
        "report's eight variants in turn; one process trains usm."
    )
    header = ["what trains", "steps / s", "model-epochs / min", "images / s"]
    return note, table(header, lines)


def worst_case_tables(cells: dict[str, Row]) -> Sequence[str]:
    lines = []
    for name, row in cells.items():
        if "worst-case" not in row:
            lines.append((name, row["state"], *[""] * 7))
            continue
        n, worst = row["n"], row["worst-case"]
        proved = f"{row['num_proved']} proved" if row["num_proved"] else ""
        lines.append(
            (
                name,
                f"{n} {proved}",
                " / ".join(f"{100 * count / n:.1f}" for count in row["clean"].values()),
                *(row[label]["fooled"] for label in ("fgsm", "pgd")),
                worst["fooled"],
                rate(worst["fooled"], n),
                rate(worst["rar"], n),
                f"{worst['seconds']:.1f} s; {worst['forward']:,} / {worst['backward']:,}",
            )
        )
    note = (
        "The first MNIST test images, L∞; `worst-case`, version 1, seed 0, float32 without TF32. "
        "Images fooled, those wrong when clean among them; AER and RAR with 95 % Wilson intervals. "
        "Images whose label is proved are not attacked."
    )
    header = ["model, ε", "n", "clean: right / null / wrong, %", "FGSM", "PGD-40", "worst case"]
    return note, table([*header, "AER", "RAR", "time; forward / backward passes"], lines)


def part_items(part: str, o: Options, folder: Path) -> Items:
    if part == "checks":
        return Checks(o.device, o.data_dir, o.tiny).items(folder)
    if part == "worst-case":
        cells = CELLS[:3] + CELLS[8:9] if o.tiny else CELLS
        return {f"{name}, {eps:g}": partial(attack_cell, name, eps, o) for name, eps in cells}
    return {"training": training_items, "mps": mps_items}[part](o)


def main() -> None:
    tune_process()
    o = tyro.cli(Options, description=__doc__)
    if o.child:
        with tempfile.TemporaryDirectory() as folder:
            run_items(o.child, part_items(o.child, o, Path(folder)), o)
        return
    deadline = time.monotonic() + 60 * o.minutes
    results = Results(o.out)
    about = json_values(provenance())
    cores, version = about["machine"]["num_cores"], about["versions"]["torch"]
    about["machine"] = f"1x {card_name(o)}, {cores} CPU cores, torch {version}."
    results.content["about"] = about
    for part in o.parts:
        kept = results.items(part) if o.resume else {}
        results.content["parts"][part] = {k: v for k, v in kept.items() if v["state"] in DONE}
    results.save()
    for part in o.parts:
        say(f"{part}: {deadline - time.monotonic():.0f} s left in all")
        share = 1.0 if part == o.parts[-1] else LIMITS[part]
        run_part(part, o, share * (deadline - time.monotonic()))
    say(results.markdown.read_text())


if __name__ == "__main__":
    main()

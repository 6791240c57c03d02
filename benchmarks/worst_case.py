"""The worst-case ensemble beside version 1 and other libraries: images fooled, and the cost.

    python benchmarks/worst_case.py --minutes 60   # go on with what is missing, then the table
    python benchmarks/worst_case.py --minutes 0    # the table of what is recorded

Every attack gets the same images, 250 at a time, with one torch thread. Each chunk is recorded at
once (``worst-case/MODEL.csv``), so that a run can be interrupted and continued, also on another
machine; all attacks finish a chunk of all models before the next one begins. Outcomes, budget and
box are checked here, on the images that come back. Images that are fooled when clean and images
that are proved never to be fooled within eps are not attacked. Two runs at the same time need
different ``--models``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import tyro
from torch import Tensor

from common import ROOT, mnist, say
from nullclass.attacks import Attack, describe, find_attack
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.counters import count_passes
from nullclass.attacks.state import logits_of
from nullclass.core.errors import UserError
from nullclass.core.files import locked_file, write_text
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.core.process import tune_process
from nullclass.core.provenance import provenance
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.rejection.certificates import weights_sha256
from nullclass.scoring.proofs import prove
from worst_case_models import MODELS, WITHOUT_NULL
from worst_case_records import (
    CORRECT,
    FOLDER,
    FOOLED,
    NULL,
    OUTSIDE,
    PROVED,
    WRONG,
    Record,
    path_of,
    read_records,
    write_records,
)
from worst_case_table import ATTACKS, EPS, NUM_IMAGES, REFERENCE, UNMODIFIED, report

NORM = "linf"
CHUNK = 250
"""Images per record."""

ATTACKED = "?"
"""An image that is attacked, before it is."""

LETTERS = {Outcome.CORRECT: CORRECT, Outcome.NULL: NULL, Outcome.FOOLED: FOOLED}
PACKAGES = {
    "torchattacks-pgd": "torchattacks",
    "art-pgd": "adversarial-robustness-toolbox",
    "foolbox-fmn": "foolbox",
    "autoattack-unmodified": "pyautoattack",
    "autoattack": "pyautoattack",
}
"""Distributions of the attacks of other libraries."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    models: tuple[str, ...] = tuple(MODELS)
    """Models to attack."""
    attacks: tuple[str, ...] = ATTACKS
    """Attacks to run; those of a library that is not installed are left out."""
    eps: tuple[float, ...] = EPS
    """Budgets, L∞, in pixel units."""
    num_images: int = NUM_IMAGES
    """Number of test images, from the first."""
    minutes: float | None = None
    """Time limit: the run ends after the chunk in progress. By default all that is missing."""
    records: Path = FOLDER
    """Folder of the records."""
    out: Path = ROOT / "benchmarks" / "results-worst-case.md"
    """File for the table of everything that is recorded."""
    data: str = "mnist"
    """mnist, or a folder with its files."""


@dataclass(frozen=True)
class Contestant:
    """An attack of the benchmark."""

    name: str
    attack: Attack
    settings: str
    """Its version and a digest of its settings."""


@dataclass(frozen=True)
class Chunk:
    """Images that are attacked together."""

    first: int
    """Index of the first image."""
    data: LabelledImages
    eps: float
    clean: str
    """One letter per image: why it is not attacked, or :data:`ATTACKED`."""


@dataclass(frozen=True)
class Attacked:
    """What an attack did to a chunk, and its cost."""

    outcomes: str
    """One letter per image."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    forward: int = 0
    backward: int = 0


class Subject:
    """A model under attack, and its records.

    Args:
        name: Its name.
        contestants: The attacks. Records of other settings are left out, as are those of other
            weights; they are replaced once there is a new record.
        folder: Folder of the records.
    """

    def __init__(self, name: str, contestants: Sequence[Contestant], folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model = MODELS[name]().eval().requires_grad_(False)
        self.weights = weights_sha256(self.model)[:10]
        settings = {contestant.name: contestant.settings for contestant in contestants}
        recorded = read_records(name, folder)
        self.records = {
            record.key: record
            for record in recorded
            if record.weights == self.weights
            and record.settings == settings.get(record.attack, record.settings)
        }
        if num_other := len(recorded) - len(self.records):
            say(f"{name}: {num_other} records of other weights or settings will be replaced")

    def add(self, record: Record) -> None:
        """Add a record, and write all records of the model."""
        self.records[record.key] = record
        write_records(self.name, self.records.values(), self.folder)


def settings_of(name: str, attack: Attack) -> str:
    """Return the version and a digest of the settings of an attack.

    The reference is fixed: its version alone identifies it, whatever settings attacks get later.
    """
    named = str(getattr(attack, "version", ""))
    if name == REFERENCE:
        return named
    text = json.dumps(describe(attack), sort_keys=True)
    return f"{named} {hashlib.sha256(text.encode()).hexdigest()[:10]}".strip()


def versions(attack: str) -> str:
    """Return the versions of torch and of the attack's library."""
    packages = ["torch", *([PACKAGES[attack]] if attack in PACKAGES else [])]
    return ", ".join(f"{name} {version(name)}" for name in packages)


def score(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return the outcomes ``(N,)`` of images."""
    return outcomes(predictions(logits_of(model, images), model.num_classes), labels)


def make_chunk(model: Classifier, data: LabelledImages, first: int, size: int, eps: float) -> Chunk:
    """Return some images, with those that need no attack."""
    part = data.subset(slice(first, first + size))
    images, labels = (tensor.to(model.mean.device) for tensor in part.batch(slice(0, size)))
    is_wrong = (score(model, images, labels) == Outcome.FOOLED).tolist()
    try:
        is_proved = prove(model, part, eps, norm=NORM)["is_never_fooled"].tolist()
    except UserError:  # there are no bounds for this model
        is_proved = [False] * len(part)
    pairs = zip(is_wrong, is_proved, strict=True)
    letters = [WRONG if wrong else PROVED if proved else ATTACKED for wrong, proved in pairs]
    return Chunk(first, part, eps, "".join(letters))


def attack_chunk(model: Classifier, attack: Attack, chunk: Chunk) -> Attacked:
    """Attack the images of a chunk that are to be attacked, and check what comes back."""
    letters, device = list(chunk.clean), model.mean.device
    chosen = torch.tensor([n for n, letter in enumerate(letters) if letter == ATTACKED])
    if not len(chosen):
        return Attacked(chunk.clean)
    images, labels = (tensor.to(device) for tensor in chunk.data.batch(chosen))
    generator = torch.Generator().manual_seed(0)
    with count_passes(model) as passes:
        started, started_cpu = time.perf_counter(), time.process_time()
        adv_images = attack(model, images, labels, eps=chunk.eps, norm=NORM, generator=generator)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    scored = score(model, adv_images, labels).tolist()
    allowed = is_allowed(adv_images, images, chunk.eps, NORM).tolist()
    for index, outcome, is_inside in zip(chosen.tolist(), scored, allowed, strict=True):
        letters[index] = LETTERS[Outcome(outcome)] if is_inside else OUTSIDE
    costs = round(seconds, 3), round(cpu, 3), passes.forward, passes.backward
    return Attacked("".join(letters), *costs)


def seconds_per_pass(model: Classifier, chunk: Chunk) -> float:
    """Return the CPU seconds of a forward and a backward pass per image, the best of three."""
    images, seconds = chunk.data.batch(slice(0, len(chunk.data)))[0], []
    for _ in range(3):
        started = time.process_time()
        inputs = images.detach().requires_grad_()
        torch.autograd.grad(model(inputs).sum(), inputs)
        seconds.append(time.process_time() - started)
    return min(seconds) / len(images)


def measure(subject: Subject, contestant: Contestant, chunk: Chunk) -> Record:
    """Attack a chunk and return its record."""
    before = seconds_per_pass(subject.model, chunk)
    attacked = attack_chunk(subject.model, contestant.attack, chunk)
    after = seconds_per_pass(subject.model, chunk)
    return Record(
        attack=contestant.name,
        settings=contestant.settings,
        eps=chunk.eps,
        first=chunk.first,
        outcomes=attacked.outcomes,
        cpu_seconds=attacked.cpu_seconds,
        pass_seconds=float(f"{(before + after) / 2:.3g}"),
        forward=attacked.forward,
        backward=attacked.backward,
        weights=subject.weights,
        versions=versions(contestant.name),
        processor=provenance().machine.processor,
    )


def find_contestants(names: Sequence[str], data: LabelledImages) -> list[Contestant]:
    """Return the attacks that there are; says which are left out.

    Raises:
        UserError: If there is none.
    """
    found = []
    for name in names:
        try:
            attack = find_attack(name)
        except UserError as error:
            say(f"{name} is left out: {error}")
            continue
        settings = settings_of(name, attack)
        found.append(Contestant(name, with_reference_images(attack, data), settings))
    if not found:
        raise UserError("there is no attack to run")
    return found


def load_subjects(
    names: Sequence[str], contestants: Sequence[Contestant], folder: Path
) -> list[Subject]:
    """Return the models that there are; says which are left out."""
    found = []
    for name in names:
        try:
            found.append(Subject(name, contestants, folder))
        except UserError as error:
            say(f"{name} is left out: {error}")
    return found


def find_missing(
    subjects: Sequence[Subject], contestants: Sequence[Contestant], o: Options
) -> Iterator[tuple[Subject, int, float, list[Contestant]]]:
    """Yield model, first image, eps and attacks of what has no record, chunk by chunk."""
    for first in range(0, o.num_images, CHUNK):
        size = min(CHUNK, o.num_images - first)
        for subject in subjects:
            for eps in o.eps:
                left = []
                for contestant in contestants:
                    if contestant.name == UNMODIFIED and subject.name in WITHOUT_NULL:
                        continue  # the K-class view of a K-class model changes nothing
                    record = subject.records.get((contestant.name, eps, first))
                    if record is None or len(record.outcomes) != size:
                        left.append(contestant)
                if left:
                    yield subject, first, eps, left


def run(o: Options) -> bool:
    """Attack what has no record; return whether no attack broke.

    Raises:
        UserError: If a name is unknown, or another run has one of the models.
    """
    for name in o.models:
        if name not in MODELS:
            raise UserError(f"there is no model {name!r}: choose from {', '.join(MODELS)}")
    deadline = float("inf") if o.minutes is None else time.monotonic() + 60 * o.minutes
    data = mnist(o.data).test.first(o.num_images)
    contestants, is_complete = find_contestants(o.attacks, data), True
    with ExitStack() as locks:
        for name in o.models:
            locks.enter_context(locked_file(path_of(name, o.records)))
        subjects = load_subjects(o.models, contestants, o.records)
        for subject, first, eps, left in find_missing(subjects, contestants, o):
            chunk = make_chunk(subject.model, data, first, min(CHUNK, o.num_images - first), eps)
            for contestant in left:
                if time.monotonic() >= deadline:
                    say("the time is over")
                    return is_complete
                label = f"{subject.name}, eps {eps:g}, from image {first}, {contestant.name}"
                try:
                    record = measure(subject, contestant, chunk)
                except Exception as error:  # a library's failure must not cost the others' results
                    say(f"{label}: {type(error).__name__}: {error}")
                    is_complete = False
                    continue
                subject.add(record)
                fooled = f"{len(record.images(FOOLED))} of {chunk.clean.count(ATTACKED)}"
                say(f"{label}: {fooled} fooled in {record.cpu_seconds:.1f} CPU s")
    return is_complete


def main() -> int:
    """Run what is missing and write the table; return the exit status."""
    tune_process()
    torch.set_num_threads(1)
    o = tyro.cli(Options, description=__doc__)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # it repeats itself for every group
    try:
        is_complete = run(o)
    except UserError as error:
        say(str(error))
        return 2
    try:
        write_text(o.out, report(tuple(MODELS), o.records))
        say(f"written to {o.out}")
    except UserError as error:  # too little is recorded for a table
        say(str(error))
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())

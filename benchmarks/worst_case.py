"""The worst-case ensemble against the attacks of other libraries: who fools what, and at what cost.

Every attack gets the same images of each model, in turns, a chunk at a time; each chunk is recorded
at once, so that an interrupted run goes on where it stopped and parts can be run apart. Nobody is
believed: outcomes, budget and box are checked here, on the images that come back. Images that fool
a model as they are count as fooled for everybody and are not attacked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from common import ROOT, mnist, say
from nullclass.attacks import ATTACKS, Attack, AttackEnsemble, describe
from nullclass.attacks.base import TakesReferenceImages
from nullclass.attacks.counters import count_passes
from nullclass.attacks.external import EXTERNAL
from nullclass.attacks.state import logits_of
from nullclass.core.devices import find_device
from nullclass.core.errors import UserError
from nullclass.core.files import write_text
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.core.provenance import provenance
from nullclass.data import LabelledImages, load_dataset
from nullclass.models import Classifier
from nullclass.training.checkpoint import CARD
from worst_case_models import FOLDER, makers
from worst_case_table import TITLES, Cell, report

NORM = "linf"

DISTRIBUTIONS = ("foolbox", "pyautoattack", "adversarial-robustness-toolbox", "torchattacks")

FOLDERS = {
    "clean": "clean-wd",
    "notebook null": "null-0.5-wd",
    "report sm": "sm",
    "report usm": "usm",
    "adversarially trained": "trained",
    "adversarially trained, null": "trained-null",
    "always null": "trained",
    "gradient-masked null": "trained-null",
}
"""Where each model's weights are cached; some are made of another's."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    models: tuple[str, ...] = ()
    """Only these models, trained first if need be; without it all that are on the disk."""
    attacks: tuple[str, ...] = ()
    """Only these attacks; without it all that are installed."""
    eps: tuple[float, ...] = (0.1, 0.3)
    """Budgets in pixel units."""
    num_images: int = 1000
    """The first so many test images. Results of another number are kept apart."""
    chunk: int = 250
    """Images attacked between two records, ordered by class, so that groups stay large."""
    threads: int | None = None
    """Threads torch may use; its own default unless given."""
    device: str = "cpu"
    """Where to attack; ``auto`` takes a GPU if there is one. Results of another kind of device
    are begun anew."""
    report_only: bool = False
    """Attack nothing: write the table of what is recorded."""
    out: Path = ROOT / "benchmarks" / "results-worst-case.md"
    """File to write the table to, with --report-only."""
    data_dir: Path | None = None
    """Folder of IDX files; without it the cache, then the mirrors."""


def make_attack(name: str) -> Attack:
    """One of the contestants.

    Raises:
        UserError: If its library is not there.
    """
    return (EXTERNAL | ATTACKS)[name]()


def digest(model: Classifier) -> str:
    """A fingerprint of the weights: results of other weights are not gone on with."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def score(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return outcomes(predictions(logits_of(model, images), model.num_classes).cpu(), labels.cpu())


def indices_of(mask: Tensor, among: Tensor) -> list[int]:
    return sorted(among[mask].tolist())


def attack_chunk(
    model: Classifier, attack: Attack, data: LabelledImages, chosen: Tensor, eps: float
) -> dict[str, Any]:
    """Attack some images, and tell who fell and what it cost."""
    images, labels = (part.to(model.mean.device) for part in data.batch(chosen))
    generator = torch.Generator().manual_seed(int(chosen[0]))
    call = attack.trace if isinstance(attack, AttackEnsemble) else attack
    started, started_cpu = time.perf_counter(), time.process_time()
    with count_passes(model) as passes:
        answer = call(model, images, labels, eps=eps, norm=NORM, generator=generator)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    adv_images = answer if isinstance(answer, Tensor) else answer.adv_images
    allowed = is_allowed(adv_images, images, eps, NORM).cpu()
    scored = score(model, adv_images, labels)
    told = {
        "images": chosen.tolist(),
        "fooled": indices_of(allowed & (scored == Outcome.FOOLED), chosen),
        "null": indices_of(allowed & (scored == Outcome.NULL), chosen),
        "left the ball or the box": indices_of(~allowed, chosen),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "forward": passes.forward,
        "backward": passes.backward,
    }
    if not isinstance(answer, Tensor):
        told["members"] = [[tally.member, tally.num_successes] for tally in answer.member_stats]
    return told


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def begin(cell: Cell, model: Classifier, attack: Attack, data: LabelledImages) -> dict[str, Any]:
    """The cell's record to go on with: the one that is there if it is of the same things."""
    about = {
        "model": cell.model,
        "digest": digest(model),
        "has_null": model.has_null,
        "attack": cell.attack,
        "settings": json.loads(json.dumps(describe(attack))),
        "eps": cell.eps,
        "norm": NORM,
        "num_images": cell.num_images,
        "device": model.mean.device.type,
    }
    record = cell.read()
    if record is not None:
        if all(record.get(name) == value for name, value in about.items()):
            return record
        say(f"  {cell.path}: of other weights or settings; begun anew")
    images, labels = data.batch(slice(0, len(data)))
    clean = score(model, images.to(model.mean.device), labels)
    everyone = torch.arange(len(data))
    record = about | {
        "clean_fooled": indices_of(clean == Outcome.FOOLED, everyone),
        "clean_null": indices_of(clean == Outcome.NULL, everyone),
        "versions": versions(),
        "commit": provenance().commit,
        "threads": torch.get_num_threads(),
        "chunks": [],
    }
    write_text(cell.path, json.dumps(record))
    return record


def to_do(record: dict[str, Any], data: LabelledImages, size: int) -> list[Tensor]:
    """Images of a cell that are still to be attacked, in chunks, ordered by class."""
    done = {image for chunk in record["chunks"] for image in chunk["images"]}
    done.update(record["clean_fooled"])
    order = data.labels.argsort(stable=True).tolist()
    left = torch.tensor([image for image in order if image not in done], dtype=torch.int64)
    return list(left.split(size)) if len(left) else []


def run_model(
    name: str, model: Classifier, contestants: dict[str, Attack], data: LabelledImages, o: Options
) -> bool:
    """Attack one model with everything, in turns, and record it; False if an attack broke."""
    model.eval().requires_grad_(False)
    is_complete = True
    for eps in o.eps:
        cells = {attack: Cell(name, eps, attack, o.num_images) for attack in contestants}
        records = {a: begin(cells[a], model, contestants[a], data) for a in contestants}
        left = {attack: to_do(record, data, o.chunk) for attack, record in records.items()}
        while any(left.values()):
            for attack, chunks in left.items():
                if not chunks:
                    continue
                chosen = chunks.pop(0)
                try:
                    told = attack_chunk(model, contestants[attack], data, chosen, eps)
                except Exception as error:  # a library's failure must not cost the others' results
                    say(f"  {name}, eps {eps:g}, {attack}: {type(error).__name__}: {error}")
                    chunks.clear()
                    is_complete = False
                    continue
                records[attack]["chunks"].append(told)
                write_text(cells[attack].path, json.dumps(records[attack]))
                say(
                    f"  {name}, eps {eps:g}, {attack}: {len(told['fooled'])} of {len(chosen)} "
                    f"fooled in {told['seconds']:.1f} s, {sum(map(len, chunks))} images left"
                )
    return is_complete


def run(o: Options) -> bool:
    """Everything that was asked for and is not recorded; False if something broke."""
    chosen, device = o.attacks or tuple(TITLES), find_device(o.device)
    contestants: dict[str, Attack] = {}
    dataset = mnist(o.data_dir)
    data = dataset.test.first(o.num_images)
    for name in chosen:
        if name not in TITLES:
            raise UserError(f"there is no attack {name!r} here: choose from {', '.join(TITLES)}")
        try:
            attack = make_attack(name)
        except UserError as error:
            say(f"{name} is left out: {error}")
            continue
        contestants[name] = (
            attack.with_reference_images(data)
            if isinstance(attack, TakesReferenceImages)
            else attack
        )
    makers_by_name = makers(dataset, load_dataset("mnist", data_dir=o.data_dir))
    is_complete = True
    for name in o.models or tuple(makers_by_name):
        if name not in makers_by_name:
            raise UserError(f"there is no model {name!r}: choose from {', '.join(makers_by_name)}")
        if not o.models and not (FOLDER / FOLDERS[name] / CARD).exists():
            say(f"{name} is left out: it is not trained yet; name it with --models to train it")
            continue
        say(name)
        is_complete &= run_model(name, makers_by_name[name]().to(device), contestants, data, o)
    return is_complete


def main() -> int:
    """Run what is asked for, or write the table."""
    o = tyro.cli(Options, description=__doc__)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # it repeats itself for every group
    if o.threads is not None:
        torch.set_num_threads(o.threads)
    try:
        if o.report_only:
            everything = o.models or tuple(FOLDERS), o.attacks or tuple(TITLES)
            write_text(o.out, report(*everything, o.eps, o.num_images))
            say(f"written to {o.out}")
            return 0
        return 0 if run(o) else 1
    except UserError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())

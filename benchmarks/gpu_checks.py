"""Part ``checks`` of ``gpu.py``: what the package computes on a device, against the CPU.

Both get the same weights, images and seeds. Products are in float32 without TF32, so that only the
order of sums differs. Random draws must be equal exactly, losses and bounds within a tolerance, and
the outcomes of attacks for nearly all images.
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import ROOT, mnist
from gpu_options import Items, Row
from nullclass.attacks import ATTACKS, PGD, Attack
from nullclass.attacks.base import supported_norms, with_reference_images
from nullclass.certify import CASCADE, VERIFIERS
from nullclass.cli.main import main as nullclass_command
from nullclass.core.devices import exact_float32, find_device
from nullclass.core.errors import UserError
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import Outcome, outcomes
from nullclass.data import FILE_NAMES, LabelledImages, load_dataset
from nullclass.experiments.config import AttackPlan, Training, Trial
from nullclass.experiments.engines import ENGINES, DataSource, Engine, make_engine
from nullclass.experiments.engines.serial import SerialEngine
from nullclass.experiments.runner import run_study
from nullclass.experiments.study import Study
from nullclass.models import Classifier, build_model
from nullclass.nulls import NULL_SOURCES, make_nulls
from nullclass.rejection import ProvableNull, SmoothedNull
from nullclass.results.null_curve import NullCurve
from nullclass.results.run import read_run
from nullclass.scoring.fgsm_thresholds import find_thresholds
from nullclass.scoring.proofs import prove
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe
from nullclass.training.robust import ROBUST_LOSSES, make_robust
from nullclass.training.steps import Step, StepContext, make_step
from nullclass.zoo import load_zoo, read_zoo
from worst_case_models import ADVERSARIAL

EPS = {"linf": 0.1, "l2": 1.5, "l1": 10.0}

SHOWN = ("perturbation", "num_steps", "faithful")
"""Settings of a null source that are part of an item's name."""

CURVES = {norm: NullCurve(norm, (0.1, 0.4), (0.3, 1.0)).to_dict() for norm in ("linf", "l0")}

NULLS: tuple[tuple[str, Row, bool], ...] = (
    ("uniform", {}, True),
    ("tile-shuffle", {}, True),
    ("tile-shuffle", {"faithful": True}, True),
    ("mixed", {}, True),
    ("background", {}, True),
    ("any-of", {"sources": {"uniform": {}, "tile-shuffle": {}, "mixed": {}}}, True),
    ("null-probabilities", {"curve": CURVES["linf"], "perturbation": "noise"}, True),
    ("null-probabilities", {"curve": CURVES["linf"], "perturbation": "fgsm"}, False),
    ("null-probabilities", {"curve": CURVES["linf"], "perturbation": "pgd"}, False),
    ("null-probabilities", {"curve": CURVES["l0"], "perturbation": "sparse"}, False),
    ("adversarial", {"eps": 0.154}, False),
    ("adversarial", {"eps": 0.154, "num_steps": 3}, False),
    ("ccat", {"num_steps": 3}, False),
)
"""Null sources, their settings, and whether their images must be equal exactly."""

COMMANDS = (
    "train --out {out}/a --nulls adversarial --null-eps 0.154 --validation 100",
    "train --out {out}/b --model report --nulls uniform tile-shuffle mixed --replace-rate 0.35"
    " --validation 0",
    "train --out {out}/c --nulls none --epochs 2 --validation 100",
    "train --out {out}/d --nulls ccat --validation 100",
    "train --out {out}/e --model certifiable-small --robust interval --robust-eps 0.1 --epochs 2"
    " --validation 0",
    "curve {out}/c --out {out}/f.csv --images 100 --sizes 4 --perturbation pgd --steps 2",
    "substitute {zoo}/report-usm --out {out}/s --queries 60 --seeds 20",
    "transfer --sources {adversarial} --targets {zoo}/abstain {zoo}/report-usm --attack pgd"
    " --images 16 --out {out}/transfers",
    "certify {adversarial} --radius 0.02 --eps 0.04 --images 16 --out {out}/proofs",
    "evaluate {zoo}/adversarial-null --attack fgsm apgd --eps 0.1 --images 8 --smallest 2"
    " --ood noise tiles --out {out}/run",
    "evaluate {adversarial} --attack pgd square --norm l2 --eps 1 --images 8 --no-checks"
    " --out {out}/run2",
)


def small_trials(preset: Any, seeds: Any, variants: Any) -> list[Trial]:
    """Return one trial: a training of an epoch, and FGSM on a few images."""
    training = Training(
        name="small",
        architecture="small",
        dataset="letters",
        validation=0,
        seed=0,
        weight_decay=0.0,
        nulls=None,
        recipe=Recipe(batch_size=32, epochs=1, learning_rate=2e-3),
    )
    return [Trial(training, (AttackPlan("fgsm", (0.1,), 16),), 32)]


SMALL = Study(
    name="small",
    claim="It runs.",
    dataset="letters",
    validation=0,
    variants=("small",),
    num_seeds={"quick": 1},
    trials=small_trials,
)


def shrunk(attack: Attack) -> Attack:
    """The same attack with few steps, also of its members."""
    few = {"num_steps": 4, "num_queries": 40, "num_restarts": 2}
    changed: Row = {}
    for field in fields(attack) if is_dataclass(attack) else ():
        value = getattr(attack, field.name)
        if field.name in few:
            changed[field.name] = min(few[field.name], value)
        elif field.name == "members":
            changed["members"] = tuple(map(shrunk, value))
        elif field.name == "attack":
            changed["attack"] = shrunk(value)
    return replace(attack, **changed)


def write_small_dataset(folder: Path, data: tuple[Tensor, ...]) -> None:
    """IDX files for the commands."""
    for name, values in zip(FILE_NAMES, data, strict=True):
        array = values.to(torch.uint8).numpy()
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(header + array.tobytes())


def compared(is_same: bool, note: str) -> Row:
    """Return the result of a comparison."""
    return {"state": "ok" if is_same else "differs", "note": note}


class Checks:
    """What gives the same on the device and on the CPU: one method for each kind of item."""

    def __init__(self, device: str, data: str, is_tiny: bool) -> None:
        self.device = find_device(device)
        self.dataset = mnist(data, 320 if is_tiny else 1280)
        self.many = self.dataset.test.first(50 if is_tiny else 1000)
        self.few = self.dataset.test.first(8 if is_tiny else 64)
        self.devices = (torch.device("cpu"), self.device)

    def batch(self, device: torch.device, data: LabelledImages | None = None) -> list[Tensor]:
        """Images and labels on a device."""
        data = data or self.few
        return [part.to(device) for part in data.batch(slice(0, len(data)))]

    def logits(self, name: str) -> Row:
        """Logits and answers of a member of the zoo; also in TF32, torch's default."""
        answers = []
        for device in (*self.devices, self.device):
            is_tf32 = len(answers) == 2
            with nullcontext() if is_tf32 else exact_float32(), torch.no_grad():
                model, images = load_zoo(name, device), self.batch(device, self.many)[0]
                if isinstance(model, ProvableNull):  # on a GPU its bounds are in float64
                    model, images = model.double(), images.double()
                answers.append(model(images).cpu().double())
        exact, tf32 = ((answers[0] - other).abs().max().item() for other in answers[1:])
        others = [int((answers[0].argmax(1) != other.argmax(1)).sum()) for other in answers[1:]]
        note = f"largest difference {exact:.1e}, {others[0]} answers differ; with TF32 {tf32:.1e}"
        return compared(others[0] == 0 and exact < 1e-3, f"{note}, {others[1]} answers differ")

    def attack(self, name: str, norm: str, model: str = "notebook-null") -> Row:
        """Images of an attack with few steps: outcomes for nearly all images alike."""
        scored, made, is_valid = [], [], True
        for device in self.devices:
            classifier, (images, labels) = load_zoo(model, device), self.batch(device)
            attack = shrunk(ATTACKS[name]())
            attack = with_reference_images(attack, self.few)
            stream = torch.Generator().manual_seed(5)
            options = {"eps": EPS[norm], "norm": norm, "generator": stream}
            made.append(attack(classifier, images, labels, **options))
            is_valid &= bool(is_allowed(made[-1], images, EPS[norm], norm).all())
            scored.append(outcomes(classifier.predict(made[-1]), labels).cpu())
        num_other = int((scored[0] != scored[1]).sum())
        share = ((made[0] - made[1].cpu()).abs() > 1e-4).double().mean().item()
        note = f"{num_other} of {len(self.few)} outcomes differ; {share:.1%} of the pixels differ"
        is_same = num_other <= max(1, len(self.few) // 20)
        return compared(is_same and is_valid, note + ("" if is_valid else "; outside the ball"))

    def nulls(self, name: str, settings: Row, is_exact: bool) -> Row:
        """Null images: exactly the same, or but for signs of tiny gradients."""
        made = []
        for device in self.devices:
            source = self.source(name, settings, load_zoo("notebook-null", device))
            made.append(source(*self.batch(device), torch.Generator().manual_seed(7)))
        share = ((made[0].images - made[1].images.cpu()).abs() > 1e-6).double().mean().item()
        note = f"{share:.2%} of the pixels differ"
        is_same = share == 0 if is_exact else share < 0.05
        if made[0].null_probs is not None:
            off = (made[0].null_probs - made[1].null_probs.cpu()).abs().max().item()
            note, is_same = f"{note}, null_probs by {off:.1e}", is_same and off < 0.05
        return compared(is_same, note + (" (must be none)" if is_exact else ""))

    def source(self, name: str, settings: Row, model: Classifier) -> Any:
        """A null source."""
        if name == "background":
            return NULL_SOURCES[name](model, images=self.dataset.training_images().first(100))
        return make_nulls(name, settings, model)

    def loss(
        self, architecture: str, has_null: bool, step_of: Callable[..., Step], within: float
    ) -> Row:
        """One training step: loss and gradients."""
        found, gradients = [], []
        for device in self.devices:
            torch.manual_seed(3)
            shape = {"image_shape": (1, 28, 28), "num_classes": 10, "has_null": has_null}
            model = build_model(architecture, **shape).to(device).train()
            losses = step_of(model, torch.Generator().manual_seed(9))(*self.batch(device), 0.9)
            found.append(np.nan_to_num(np.array([losses.loss, losses.null_loss], dtype=float)))
            grads = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
            gradients.append(torch.cat(grads))
        off = float(np.abs(found[0] - found[1]).max())
        far = ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item()
        note = f"losses {found[0].round(4).tolist()} differ by {off:.1e} (limit {within:g})"
        return compared(off <= within, f"{note}, gradients by {far:.1e} of their norm")

    def resumed(self) -> Row:
        """A training stopped after an epoch and resumed, against one without a stop."""

        class StopError(Exception):
            pass

        def stop(done: int, total: int, loss: float) -> None:
            if done > total // 2:
                raise StopError

        config, shape = TrainConfig(Recipe(64, 2, 1e-3), seed=1), (1, 28, 28)

        def run(folder: str, **settings: Any) -> float:
            torch.manual_seed(3)
            model = build_model("report", image_shape=shape, num_classes=10, has_null=True)
            model, data = model.to(self.device), self.dataset.training_images()
            return train(model, data, config, state_folder=folder, **settings)[-1].loss

        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            whole = run(first)
            with suppress(StopError):
                run(second, on_step=stop)
            resumed = run(second)
        return compared(abs(whole - resumed) < 1e-2, f"loss {whole:.4f}, resumed {resumed:.4f}")

    def bounds(self, name: str, verifier: str, eps: float) -> Row:
        """What is proved on both devices, and whether an attack on the device breaks a proof."""
        model, rows = load_zoo(name), []
        for device in self.devices:
            model = model.to(device, torch.float64)
            rows.append(prove(model, self.few, [eps], verifier=verifier))
        off = float((rows[0]["margin"] - rows[1]["margin"]).abs().max())
        never = torch.tensor(rows[1]["is_never_fooled"].to_numpy())
        images, labels = self.batch(self.device)
        images, labels, broken = images.double()[never], labels[never], 0
        for attack in (PGD("fool", num_steps=5, num_restarts=2), ATTACKS["noise"]()):
            stream = torch.Generator().manual_seed(1)
            attacked = attack(model, images, labels, eps=eps, generator=stream)
            broken += int((outcomes(model.predict(attacked), labels) == Outcome.FOOLED).sum())
        is_same = off < 1e-9 and bool((rows[0]["status"] == rows[1]["status"]).all())
        note = f"margins differ by {off:.1e}, {int(never.sum())} of {len(never)} images proved"
        return compared(is_same and broken == 0, f"{note}, {broken} proofs broken")

    def certificates(self) -> Row:
        """Certificates of a provable model, made on both."""
        models = [load_zoo("provable-0.3", device).double() for device in self.devices]
        first, second = (m.certificates(self.batch(self.devices[0])[0]) for m in models)
        off = float(np.abs(np.subtract(first.margins, second.margins)).max())
        is_same = first.labels == second.labels and first.weights_sha256 == second.weights_sha256
        return compared(is_same and off < 1e-9, f"margins differ by {off:.1e}")

    def smoothing(self) -> Row:
        """A smoothed model, called twice on the device."""
        torch.manual_seed(3)
        body = build_model("small", image_shape=(1, 28, 28), num_classes=10, has_null=False)
        smoothed = SmoothedNull(body.to(self.device), 0.1, sigma=0.5, num_samples=200)
        images = self.batch(self.device)[0][:4]
        return compared(bool((smoothed(images) == smoothed(images)).all()), "the same image twice")

    def thresholds(self) -> Row:
        """The smallest FGSM step that fools, for each image."""
        found = [
            find_thresholds(load_zoo("report-usm", device), self.many, first_image=0, num_images=4)
            for device in self.devices
        ]
        is_same = found[0][0].tolist() == found[1][0].tolist()
        off = (found[0][1].cpu() - found[1][1].cpu()).abs().max().item()
        return compared(is_same and off < 2e-3, f"thresholds differ by {off:.1e}")

    def command(self, folder: Path, words: str) -> Row:
        """A command of the package on the device: whether it ends well."""
        zoo = ROOT / "src/nullclass/zoo/checkpoints"
        text = words.format(out=folder, zoo=zoo, adversarial=ADVERSARIAL)
        with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
            code = nullclass_command(f"{text} --data {folder} --device {self.device}".split())
        last = printed.getvalue().strip().splitlines()[-1:]
        failed = f"failed: exit status {code}: {' '.join(last)}"
        return {"state": "ok" if code == 0 else failed, "note": words}

    def engine(self, folder: Path, name: str) -> Row:
        """A study of one training and one attack in an engine, against the CPU in this process."""
        source = DataSource(str(folder), 0)
        dataset = load_dataset(folder, validation=0)
        engines: dict[str, Engine] = {"cpu": SerialEngine(dataset, self.devices[0])}
        try:
            engines[name] = (
                SerialEngine(dataset, self.device)
                if name == "serial"
                else make_engine(name, source, device=str(self.device), num_workers=1)
            )
        except UserError as error:
            return {"note": f"left out: {error}"}
        found = []
        for number, engine in enumerate(engines.values()):
            run = folder / f"engine-{name}-{number}"
            result = run_study(SMALL, dataset, run, engine=engine, device=self.devices[number])
            if result.failed:
                return {"state": f"failed: {result}"}
            found.append(read_run(run).trials[0].rows)
        num_other = int((found[0]["outcome"] != found[1]["outcome"]).sum())
        is_same = len(found[0]) == len(found[1]) and num_other <= len(found[0]) // 4
        return compared(is_same, f"{num_other} of {len(found[0])} outcomes differ")

    def step_of(
        self,
        nulls: tuple[str, Row] | None,
        config: TrainConfig,
        model: Classifier,
        stream: torch.Generator,
    ) -> Step:
        """The training step of a configuration."""
        source = None if nulls is None else self.source(*nulls, model)
        return make_step(StepContext(model, config, source, stream))

    def items(self, folder: Path) -> Items:
        """All checks by name."""
        logits = {f"logits of {name}": partial(self.logits, name) for name in read_zoo()}
        return logits | {name: exact_float32()(c) for name, c in self.exact_items(folder).items()}

    def exact_items(self, folder: Path) -> Items:
        """The checks that run without TF32."""
        items: Items = {}
        append = TrainConfig(Recipe(precision="float32"), null_weight=0.3)
        replacing = TrainConfig(Recipe(precision="float32"), replace_rate=0.4)
        for name, make in ATTACKS.items():
            for norm in (norm for norm in EPS if norm in supported_norms(make())):
                items[f"attack {name}, {norm}"] = partial(self.attack, name, norm)
        for name in ("fgsm", "worst-case"):
            items[f"attack {name} on a proof"] = partial(self.attack, name, "linf", "provable-0.3")
        for name, settings, is_exact in NULLS:
            label = " ".join([name, *(f"{k}={v}" for k, v in settings.items() if k in SHOWN)])
            items[f"nulls {label}"] = partial(self.nulls, name, settings, is_exact)
            step = partial(self.step_of, (name, settings), append)
            limit = 1e-4 if is_exact else 5e-3
            items[f"loss appended, {label}"] = partial(self.loss, "notebook", True, step, limit)
        step = partial(self.step_of, ("mixed", {}), replacing)
        items["loss replaced, mixed"] = partial(self.loss, "notebook", True, step, 1e-4)
        for name in ROBUST_LOSSES:
            has_null, network = name in ("abstain", "adversarial"), "certifiable-small"
            config = TrainConfig(robust=make_robust(name, {"eps": 0.2}))
            step = partial(self.step_of, None, config)
            items[f"loss {name}"] = partial(self.loss, network, has_null, step, 1e-3)
        items["training resumed"] = self.resumed
        for name, eps in (("abstain", 0.3), ("adversarial-null", 0.02), ("provable-0.3", 0.3)):
            for verifier in VERIFIERS:
                if verifier != CASCADE or name == "provable-0.3":  # it proves that one class wins
                    items[f"bounds {verifier}, {name}"] = partial(self.bounds, name, verifier, eps)
        items |= {"certificates": self.certificates, "smoothing": self.smoothing}
        items["thresholds"] = self.thresholds
        train, test = self.dataset.training_images(), self.many
        parts = (train.images[:, 0], train.labels, test.images[:, 0], test.labels)
        folder /= "letters"  # a dataset has the name of its folder
        folder.mkdir()
        write_small_dataset(folder, parts)
        for name in ("serial", *ENGINES):
            items[f"engine {name}"] = partial(self.engine, folder, name)
        for number, words in enumerate(COMMANDS, start=1):
            items[f"command {number}, {words.split()[0]}"] = partial(self.command, folder, words)
        return items

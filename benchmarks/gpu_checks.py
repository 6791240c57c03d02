"""Part ``checks`` of ``gpu.py``: what the package computes on a device, against the CPU.

Both sides get the same weights, images and seeds. Convolutions run in float32 without TF32, so that
only the order of sums differs. Random draws must be equal exactly, losses and bounds within a
tolerance, and the outcomes of attacks for nearly all images.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import ROOT, mnist
from nullclass.attacks import ATTACKS, PGD, Attack
from nullclass.attacks.base import supported_norms, with_reference_images
from nullclass.certify import VERIFIERS
from nullclass.cli.main import main as nullclass_command
from nullclass.core.devices import find_device
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import Outcome, outcomes
from nullclass.data import FILE_NAMES, LabelledImages
from nullclass.experiments.config import Training
from nullclass.models import Classifier, build_model
from nullclass.nulls import NULL_SOURCES, make_nulls
from nullclass.rejection import ProvableNull, SmoothedNull
from nullclass.results.null_curve import NullCurve
from nullclass.scoring.fgsm_thresholds import find_thresholds
from nullclass.scoring.proofs import prove
from nullclass.studies import null_samples
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe, find_recipe
from nullclass.training.robust import ROBUST_LOSSES, make_robust
from nullclass.training.steps import step_append_nulls, step_replace_with_nulls, step_robust
from nullclass.zoo import load_zoo, read_zoo

Row = dict[str, Any]

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
    " --validation 0 --no-null-class",
    "curve {out}/c --out {out}/f.csv --images 100 --sizes 4 --perturbation pgd --steps 2",
    "substitute {zoo}/report-usm --out {out}/s --queries 60 --seeds 20",
    "transfer --sources {out}/c --targets {out}/a {zoo}/report-usm --attack pgd --images 16",
    "certify {out}/e --radius 0.02 --eps 0.04 --images 16 --out {out}/proofs",
    "evaluate {zoo}/notebook-null --attack fgsm apgd rays --eps 0.1 --images 16 --smallest 2"
    " --ood noise tiles --out {out}/run",
    "evaluate {out}/c --attack pgd square --norm l2 --eps 1 --images 8 --out {out}/run2",
)


def report_training(place: int, epochs: int = 1) -> Training:
    """Training number ``place`` of the report's eight variants, without held-out images."""
    variant = null_samples.VARIANTS[::-1][place % 8]
    recipe = replace(find_recipe("fast", "report"), epochs=epochs, stem_epochs=None)
    training = null_samples.training(variant, place, "quick")
    return replace(training, validation=0, recipe=recipe, selections=())


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


def judged(is_same: bool, note: str) -> Row:
    return {"state": "ok" if is_same else "differs", "note": note}


class Checks:
    """What gives the same on the device and on the CPU: one method for each kind of item."""

    def __init__(self, device: str, data_dir: Path | None, is_tiny: bool) -> None:
        self.device = find_device(device)
        self.dataset = mnist(data_dir, 320 if is_tiny else 1280)
        self.many = self.dataset.test.first(50 if is_tiny else 1000)
        self.few = self.dataset.test.first(8 if is_tiny else 64)
        self.places = (torch.device("cpu"), self.device)
        torch.backends.cudnn.allow_tf32 = False  # compare code, not number formats

    def batch(self, device: torch.device, data: LabelledImages | None = None) -> list[Tensor]:
        """Images and labels on a device."""
        data = data or self.few
        return [part.to(device) for part in data.batch(slice(0, len(data)))]

    def logits(self, name: str) -> Row:
        """Logits and answers of a member of the zoo; also in TF32, torch's default."""
        seen = []
        for device, is_tf32 in ((self.places[0], False), (self.device, False), (self.device, True)):
            torch.backends.cudnn.allow_tf32 = is_tf32
            with torch.no_grad():
                model, images = load_zoo(name, device), self.batch(device, self.many)[0]
                if isinstance(model, ProvableNull):  # on a GPU its bounds are in float64
                    model, images = model.double(), images.double()
                seen.append(model(images).cpu().double())
            torch.backends.cudnn.allow_tf32 = False
        exact, tf32 = ((seen[0] - other).abs().max().item() for other in seen[1:])
        others = [int((seen[0].argmax(1) != other.argmax(1)).sum()) for other in seen[1:]]
        note = f"largest difference {exact:.1e}, {others[0]} answers differ; with TF32 {tf32:.1e}"
        return judged(others[0] == 0 and exact < 1e-3, f"{note}, {others[1]} answers differ")

    def attack(self, name: str, norm: str, model: str = "notebook-null") -> Row:
        """Images of an attack with few steps: outcomes for nearly all images alike."""
        scored, made, is_valid = [], [], True
        for device in self.places:
            classifier, (images, labels) = load_zoo(model, device), self.batch(device)
            attack = shrunk(ATTACKS[name]())
            attack = with_reference_images(attack, self.few)
            stream = torch.Generator().manual_seed(5)
            told = {"eps": EPS[norm], "norm": norm, "generator": stream}
            made.append(attack(classifier, images, labels, **told))
            is_valid &= bool(is_allowed(made[-1], images, EPS[norm], norm).all())
            scored.append(outcomes(classifier.predict(made[-1]), labels).cpu())
        num_other = int((scored[0] != scored[1]).sum())
        share = ((made[0] - made[1].cpu()).abs() > 1e-4).double().mean().item()
        note = f"{num_other} of {len(self.few)} outcomes differ; {share:.1%} of the pixels differ"
        is_same = num_other <= max(1, len(self.few) // 20)
        return judged(is_same and is_valid, note + ("" if is_valid else "; outside the ball"))

    def nulls(self, name: str, settings: Row, is_exact: bool) -> Row:
        """Null images: exactly the same, or but for signs of tiny gradients."""
        made = []
        for device in self.places:
            source = self.source(name, settings, load_zoo("notebook-null", device))
            made.append(source(*self.batch(device), torch.Generator().manual_seed(7)))
        share = ((made[0].images - made[1].images.cpu()).abs() > 1e-6).double().mean().item()
        note = f"{share:.2%} of the pixels differ"
        is_same = share == 0 if is_exact else share < 0.05
        if made[0].shares is not None:
            off = (made[0].shares - made[1].shares.cpu()).abs().max().item()
            note, is_same = f"{note}, shares by {off:.1e}", is_same and off < 0.05
        return judged(is_same, note + (" (must be none)" if is_exact else ""))

    def source(self, name: str, settings: Row, model: Classifier) -> Any:
        """A null source."""
        if name == "background":
            return NULL_SOURCES[name](model, images=self.dataset.train.first(100))
        return make_nulls(name, settings, model)

    def loss(
        self, architecture: str, has_null: bool, step: Callable[..., Any], within: float
    ) -> Row:
        """One training step: loss and gradients."""
        seen, gradients = [], []
        for device in self.places:
            torch.manual_seed(3)
            shape = {"image_shape": (1, 28, 28), "num_classes": 10, "has_null": has_null}
            model = build_model(architecture, **shape).to(device).train()
            stream = torch.Generator().manual_seed(9)
            losses = step(model, *self.batch(device), stream)
            seen.append(np.nan_to_num([losses.loss, losses.null_loss]))
            grads = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
            gradients.append(torch.cat(grads))
        off = float(np.abs(seen[0] - seen[1]).max())
        far = ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item()
        note = f"losses {seen[0].round(4).tolist()} differ by {off:.1e} (limit {within:g})"
        return judged(off <= within, f"{note}, gradients by {far:.1e} of their norm")

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
            model, data = model.to(self.device), self.dataset.train
            return train(model, data, config, state_folder=folder, **settings)[-1].loss

        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            whole = run(first)
            with suppress(StopError):
                run(second, on_step=stop)
            resumed = run(second)
        return judged(abs(whole - resumed) < 1e-2, f"loss {whole:.4f}, resumed {resumed:.4f}")

    def bounds(self, name: str, verifier: str, eps: float) -> Row:
        """What is proved on both devices, and whether an attack on the device breaks a proof."""
        model, rows = load_zoo(name), []
        for device in self.places:
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
        return judged(is_same and broken == 0, f"{note}, {broken} proofs broken")

    def certificates(self) -> Row:
        """Certificates of a provable model, made on both."""
        told = [load_zoo("provable-0.3", device).double() for device in self.places]
        first, second = (model.certificates(self.batch(torch.device("cpu"))[0]) for model in told)
        off = float(np.abs(np.subtract(first.margins, second.margins)).max())
        is_same = first.labels == second.labels and first.weights_sha256 == second.weights_sha256
        return judged(is_same and off < 1e-9, f"margins differ by {off:.1e}")

    def smoothing(self) -> Row:
        """A smoothed model, called twice on the device."""
        torch.manual_seed(3)
        body = build_model("small", image_shape=(1, 28, 28), num_classes=10, has_null=False)
        smoothed = SmoothedNull(body.to(self.device), 0.1, sigma=0.5, num_samples=200)
        images = self.batch(self.device)[0][:4]
        return judged(bool((smoothed(images) == smoothed(images)).all()), "the same image twice")

    def thresholds(self) -> Row:
        """The smallest FGSM step that fools, for each image."""
        ends = []
        for device in self.places:
            model, (images, labels) = load_zoo("report-usm", device), self.batch(device)
            ends.append(find_thresholds(model, images, labels).cpu())
        is_close = ends[0].isclose(ends[1], atol=2e-3, equal_nan=True)
        return judged(is_close.double().mean().item() > 0.95, f"{int((~is_close).sum())} differ")

    def command(self, folder: Path, words: str) -> Row:
        """A command of the package on the device: whether it ends well."""
        told = words.format(out=folder, zoo=ROOT / "src/nullclass/zoo/checkpoints")
        told += "" if words.startswith("curve") else " --dataset idx"
        code = nullclass_command(f"{told} --data-dir {folder} --device {self.device}".split())
        return {"state": "ok" if code == 0 else f"failed: exit status {code}", "note": words}

    def beside(self, name: str, settings: Row, model: Classifier, *batch: Any) -> Any:
        """A step with null images beside the batch."""
        source = self.source(name, settings, model)
        return step_append_nulls(model, batch[0], batch[1], source, batch[2], nullcontext, 0.3, 1.0)

    def within(self, model: Classifier, *batch: Any) -> Any:
        """A step with null images within the batch."""
        source = make_nulls("mixed", {}, None)
        return step_replace_with_nulls(
            model, batch[0], batch[1], source, batch[2], nullcontext, 0.4
        )

    def robust(self, name: str, model: Classifier, *batch: Any) -> Any:
        """A step on a robust loss."""
        return step_robust(make_robust(name, {"eps": 0.2}).bind(model), *batch, 0.9)

    def items(self, folder: Path) -> dict[str, Callable[[], Row]]:
        """All checks by name."""
        items: dict[str, Callable[[], Row]] = {
            f"logits of {name}": partial(self.logits, name) for name in read_zoo()
        }
        for name, make in ATTACKS.items():
            for norm in (norm for norm in EPS if norm in supported_norms(make())):
                items[f"attack {name}, {norm}"] = partial(self.attack, name, norm)
        for name in ("fgsm", "worst-case"):
            items[f"attack {name} on a proof"] = partial(self.attack, name, "linf", "provable-0.3")
        for name, settings, is_exact in NULLS:
            label = " ".join([name, *(f"{k}={v}" for k, v in settings.items() if k in SHOWN)])
            items[f"nulls {label}"] = partial(self.nulls, name, settings, is_exact)
            step = partial(self.beside, name, settings)
            limit = 1e-4 if is_exact else 5e-3
            items[f"loss beside, {label}"] = partial(self.loss, "notebook", True, step, limit)
        items["loss within, mixed"] = partial(self.loss, "notebook", True, self.within, 1e-4)
        for name in ROBUST_LOSSES:
            has_null, network = name in ("abstain", "adversarial"), "certifiable-small"
            step = partial(self.robust, name)
            items[f"loss {name}"] = partial(self.loss, network, has_null, step, 1e-3)
        items["training resumed"] = self.resumed
        for name, eps in (("abstain", 0.3), ("adversarial-null", 0.02), ("provable-0.3", 0.3)):
            for verifier in VERIFIERS:
                items[f"bounds {verifier}, {name}"] = partial(self.bounds, name, verifier, eps)
        items |= {"certificates": self.certificates, "smoothing": self.smoothing}
        items["thresholds"] = self.thresholds
        train, test = self.dataset.train, self.many
        parts = (train.images[:, 0], train.labels, test.images[:, 0], test.labels)
        write_small_dataset(folder, parts)
        for number, words in enumerate(COMMANDS, start=1):
            items[f"command {number}, {words.split()[0]}"] = partial(self.command, folder, words)
        return items

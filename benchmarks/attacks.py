"""PGD against its peers: one model, one step rule, one start, in turns in one run, in CPU time.

Every attack starts at the clean image and takes L-infinity steps of 2.5 eps / steps; the model's
parameters want no gradient, so that nobody pays for them. What comes back is scored here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import tyro
from torch import Tensor

from common import (
    SCRATCH,
    cached_model,
    in_turns,
    median_seconds,
    mnist,
    percent,
    say,
    table,
    training_of,
    verdict,
)
from nullclass.attacks import PGD
from nullclass.core.devices import supports_bfloat16
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import Outcome, outcomes
from nullclass.models import Classifier

FACTOR = 2
"""How many times faster than the fastest peer our PGD has to be."""

BATCH_SIZES = (32, 64, 128, 250, 1000)
"""What each peer may choose from; it gets the one it is fastest with."""

PRECISIONS = ("float32", "bfloat16")
"""Of our gradients; bfloat16 is measured where the processor has it."""

Run = Callable[[Tensor, Tensor], Tensor]
"""From images and labels to attacked images."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    rounds: int = 3
    """Times each attack runs at each eps, in turns."""
    eps: tuple[float, ...] = (0.1, 0.3)
    """Budgets in pixel units."""
    num_steps: int = 40
    """PGD steps."""
    num_images: int = 1000
    """Test images attacked."""
    model: Path = SCRATCH / "clean-fast"
    """Folder of the model under attack; trained by the fast recipe if it is not there."""
    data: str = "mnist"
    """mnist, or a folder with its files."""
    num_train: int | None = None
    """Only the first so many training images, for trying this out."""


@dataclass(frozen=True)
class Budget:
    """What every attack is given."""

    eps: float
    num_steps: int

    @property
    def step(self) -> float:
        """Step size in pixel units."""
        return 2.5 * self.eps / self.num_steps


def with_foolbox(model: Classifier, budget: Budget, batch_size: int) -> Run:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(
        abs_stepsize=budget.step, steps=budget.num_steps, random_start=False
    )

    def run(images: Tensor, labels: Tensor) -> Tensor:
        return attack(wrapped, images, labels, epsilons=budget.eps)[1]

    return in_batches(run, batch_size)


def with_torchattacks(model: Classifier, budget: Budget, batch_size: int) -> Run:
    import torchattacks

    attack = torchattacks.PGD(
        model, eps=budget.eps, alpha=budget.step, steps=budget.num_steps, random_start=False
    )
    return in_batches(attack, batch_size)


def with_art(model: Classifier, budget: Budget, batch_size: int) -> Run:
    from art.attacks.evasion.projected_gradient_descent import (
        projected_gradient_descent_pytorch as art_pgd,
    )
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(1, 28, 28),
        nb_classes=model.num_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = art_pgd.ProjectedGradientDescentPyTorch(
        estimator,
        eps=budget.eps,
        eps_step=budget.step,
        max_iter=budget.num_steps,
        num_random_init=0,
        batch_size=batch_size,
        verbose=False,
    )

    def run(images: Tensor, labels: Tensor) -> Tensor:
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return run


PEERS = {
    "foolbox": (with_foolbox, "foolbox"),
    "torchattacks": (with_torchattacks, "torchattacks"),
    "ART": (with_art, "adversarial-robustness-toolbox"),
}
"""Name to what builds its PGD, and its distribution on the package index."""


def with_nullclass(loss: str, precision: str, model: Classifier, budget: Budget) -> Run:
    attack = PGD(loss=loss, num_steps=budget.num_steps, precision=precision)
    return partial(attack, model, eps=budget.eps, norm="linf")


def in_batches(run: Run, batch_size: int) -> Run:
    """The same attack on parts of the images."""

    def in_parts(images: Tensor, labels: Tensor) -> Tensor:
        parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return torch.cat([run(*part) for part in parts])

    return in_parts


def best_batch_size(build: Callable[[int], Run], images: Tensor, labels: Tensor) -> int:
    """The batch size with the smallest time, the better of two turns each."""
    seconds = dict.fromkeys((b for b in BATCH_SIZES if b <= len(images)), float("inf"))
    seconds = seconds or {len(images): 0.0}
    for _ in range(2):
        for batch_size in seconds:
            run = build(batch_size)
            started = time.process_time()
            run(images, labels)
            seconds[batch_size] = min(seconds[batch_size], time.process_time() - started)
    return min(seconds, key=lambda batch_size: seconds[batch_size])


def fooled_share(model: Classifier, adv_images: Tensor, labels: Tensor) -> float:
    parts = zip(adv_images.split(250), labels.split(250), strict=True)
    scored = torch.cat([outcomes(model.predict(part), truth) for part, truth in parts])
    return float((scored == Outcome.FOOLED).double().mean())


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    dataset = mnist(options.data, options.num_train)
    folder = options.model  # a cut-down training must not pass for the real one later
    if options.num_train is not None:
        folder = folder.with_name(f"{folder.name}-{options.num_train}")
    model = cached_model(training_of("clean-wd"), dataset, folder)
    model.eval().requires_grad_(False)
    images, labels = dataset.test.batch(slice(0, options.num_images))

    has_bfloat16 = supports_bfloat16(torch.device("cpu"))
    builders: dict[str, Callable[[Budget], Run]] = {
        f"nullclass, {loss}, {precision}": partial(with_nullclass, loss, precision, model)
        for precision in (PRECISIONS if has_bfloat16 else PRECISIONS[:1])
        for loss in ("margin", "logsumexp-margin")
    }
    batches = dict.fromkeys(builders, "its own")
    missing: dict[str, str] = {}
    for name, (build, distribution) in PEERS.items():
        try:
            called = f"{name} {version(distribution)}"
            quarter = Budget(options.eps[0], max(1, options.num_steps // 4))
            size = best_batch_size(partial(build, model, quarter), images, labels)
            builders[called] = lambda budget, build=build, size=size: build(model, budget, size)
            batches[called] = str(size)
        except PackageNotFoundError:
            missing[name] = "not installed"
        except Exception as error:  # a broken optional package raises whatever it likes
            missing[name] = f"installed but broken: {type(error).__name__}: {error}"[:120]
        say(f"  {name}: {missing.get(name, 'ready')}")

    sections = [
        "## PGD against its peers",
        f"PGD-{options.num_steps}, L-infinity, step 2.5 eps / {options.num_steps}, start at the "
        f"clean image, on the first {len(images)} test images; the model is the notebook's net "
        f"with {model.num_classes} classes and no null, trained by `fast` "
        f"({percent(1 - fooled_share(model, images, labels))} of these images right before the "
        f"attack). Median CPU time of {options.rounds} rounds in turns. Peers got the fastest of "
        f"the batch sizes {', '.join(map(str, BATCH_SIZES))}, shown.",
    ]
    verdicts = []
    for eps in options.eps:
        say(f"  eps {eps}")
        budget = Budget(eps, options.num_steps)
        runs = {name: build(budget) for name, build in builders.items()}
        measured = in_turns(
            {name: lambda _, run=run: run(images, labels) for name, run in runs.items()},
            options.rounds,
            clock=time.process_time,  # other processes on the machine cost no CPU time
        )
        seconds = {name: median_seconds(turns) for name, turns in measured.items()}
        adv_images = {name: turns[-1][1] for name, turns in measured.items()}
        fooled = {name: fooled_share(model, adv, labels) for name, adv in adv_images.items()}
        kept = {
            name: bool(is_allowed(adv, images, eps, "linf").all())
            for name, adv in adv_images.items()
        }
        peers = [name for name in seconds if not name.startswith("nullclass")]
        fastest = min(peers, key=lambda name: seconds[name], default=None)
        lines = [
            (
                name,
                batches[name],
                f"{took:.2f}",
                f"{seconds[fastest] / took:.2f}" if fastest else "–",
                percent(fooled[name]),
                "yes" if kept[name] else "**NO**",
            )
            for name, took in seconds.items()
        ]
        lines += [(name, "–", why, "–", "–", "–") for name, why in missing.items()]
        header = ["attack", "batch", "CPU s", "speed, fastest peer = 1", "fooled", "in budget"]
        sections += [f"### eps {eps:g}", table(header, lines)]
        if fastest is None:
            verdicts.append(verdict(False, f"eps {eps:g}: no peer is installed to compare with"))
            continue
        most = max(fooled[name] for name in peers)
        for name in seconds.keys() - set(peers):
            speed = seconds[fastest] / seconds[name]
            verdicts.append(
                verdict(
                    speed >= FACTOR and fooled[name] >= most and kept[name],
                    f"eps {eps:g}, {name}: {speed:.1f} times as fast as {fastest} (wanted "
                    f"{FACTOR}), fools {percent(fooled[name])}, the best peer {percent(most)}",
                )
            )
    return "\n\n".join([*sections, "\n".join(sorted(verdicts, key=lambda v: v.split("eps")[1]))])


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

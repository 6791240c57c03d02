"""Evaluations that are wrong in a known way, and sound ones: models and attacks for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Digits

from nullclass.attacks import (
    FGSM,
    PGD,
    Attack,
    AttackEnsemble,
    DatasetAttack,
    MultiTargetedPGD,
    Square,
)
from nullclass.attacks.losses import find_objective
from nullclass.certify import VERIFIERS, interval_bounds
from nullclass.data import LabelledImages
from nullclass.evaluation.run import Evaluation, evaluate
from nullclass.models import Classifier
from nullclass.rejection import (
    FeatureSqueezing,
    calibrate,
    fit_kernel_density,
    fit_mahalanobis,
    reject_by,
    with_threshold,
)

# Models that hide their weakness


class Around(nn.Module):
    """A classifier's logits, changed."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.model(images))

    def change(self, logits: Tensor) -> Tensor:
        return logits


class Scaled(Around):
    """Logits so large that cross-entropy's gradient underflows to zero."""

    def change(self, logits: Tensor) -> Tensor:
        return 1e4 * logits


class Saturated(Around):
    """Every logit saturated at -1 or 1, by its side of the middle of the two largest."""

    def change(self, logits: Tensor) -> Tensor:
        middle = logits.topk(2).values.mean(dim=1, keepdim=True)
        return F.hardtanh(20 * (logits - middle))


class Noisy(Around):
    """Logits that differ from pass to pass."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model)
        self.generator = torch.Generator().manual_seed(0)

    def change(self, logits: Tensor) -> Tensor:
        return logits + 0.5 * torch.randn(logits.shape, generator=self.generator)


class Quantised(Around):
    """Pixels rounded first: the gradient is zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images * 8).round() / 8)


class Bumpy(Around):
    """Ripples over every pixel: the gradient leads to the next crest, and no further."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.1 * torch.sin(2 * torch.pi * images / 0.3))


class Gate(Around):
    """A softmax threshold wired by hand: null is a little above or below the largest logit."""

    def change(self, logits: Tensor) -> Tensor:
        top = logits.amax(dim=1, keepdim=True)
        return torch.cat([logits, torch.where(self.is_null(logits), top + 1, top - 1)], dim=1)

    def is_null(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1).amax(dim=1, keepdim=True) < 0.9


class GateOfConstants(Gate):
    """The same with two constants: the null score has a gradient, that of the largest logit."""

    def change(self, logits: Tensor) -> Tensor:
        return torch.cat([logits, torch.where(self.is_null(logits), 100.0, -100.0)], dim=1)


class GateInNumpy(Gate):
    """The same, decided outside of torch."""

    def is_null(self, logits: Tensor) -> Tensor:
        values = logits.detach().softmax(dim=1).numpy()
        return torch.from_numpy(values.max(axis=1, keepdims=True) < 0.9)


# Detectors that are broken


def rounded_energy(images: Tensor, logits: Tensor) -> Tensor:
    """A detector whose score is rounded."""
    return (-8 * logits.logsumexp(dim=1)).round() / 8


def steep_energy(images: Tensor, logits: Tensor) -> Tensor:
    """A detector whose score saturates, so that its gradient vanishes."""
    return torch.sigmoid(1e4 * (4 - logits.logsumexp(dim=1)))


def noisy_energy(images: Tensor, logits: Tensor) -> Tensor:
    """A detector that draws a new score in every pass."""
    return -logits.logsumexp(dim=1) + 0.5 * torch.randn(len(logits))


def energy_in_the_batch(images: Tensor, logits: Tensor) -> Tensor:
    """A detector that compares an image with the others of its batch."""
    energy = -logits.logsumexp(dim=1)
    return energy - energy.mean()


def off_the_grid(images: Tensor, logits: Tensor) -> Tensor:
    """A detector of an attack's traces: the pixels of a clean digit are multiples of 1/16."""
    return (16 * images - (16 * images).detach().round()).abs().flatten(1).mean(dim=1)


def spread_over_root(images: Tensor, logits: Tensor) -> Tensor:
    """A detector whose gradient is not finite where a pixel is 0."""
    return images.sqrt().flatten(1).std(dim=1)


def minus_energy(images: Tensor, logits: Tensor) -> Tensor:
    """A surrogate that leads the other way."""
    return logits.logsumexp(dim=1)


def mean_pixel(images: Tensor, logits: Tensor) -> Tensor:
    """A surrogate that has nothing to do with the energy."""
    return images.flatten(1).mean(dim=1)


def around(wrapper: type[Around], model: Classifier) -> Classifier:
    """A classifier whose logits or images are changed."""
    return Classifier(wrapper(model), model.num_classes, has_null=model.has_null).eval()


# Attacks that do not do what they declare


@dataclass(frozen=True)
class ZeroSteps:
    """A loop that is never entered."""

    objective: ClassVar = "fool"
    is_iterative: ClassVar[bool] = True
    access: ClassVar = "white-box"

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **_: object) -> Tensor:
        return images.clone()


@dataclass(frozen=True, eq=False)
class SecretTransfer:
    """Images made on a substitute, under a white-box attack's name."""

    substitute: Classifier
    objective: ClassVar = "fool"
    is_iterative: ClassVar[bool] = True
    access: ClassVar = "white-box"

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, **how: object) -> Tensor:
        return PGD(num_steps=20)(self.substitute, images, labels, **how)  # type: ignore[arg-type]


# Sound models


def train_robust(digits: Digits, *, has_null: bool, eps: float = 0.15) -> Classifier:
    """Adversarial training (Madry et al. 2018); with null, an attacked digit may be refused.

    Digits under random noise must be classified correctly, so that null is not the answer to noise.
    """
    margin = find_objective("fool").loss
    images, labels = digits.train_images, digits.train_labels
    with torch.random.fork_rng():
        torch.manual_seed(1)
        body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10 + has_null)
        )
        model = Classifier(body, 10, has_null=has_null)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for step in range(250):
            chosen = torch.arange(step * 128, (step + 1) * 128) % len(images)
            x, y = images[chosen], labels[chosen]
            delta = (2 * torch.rand_like(x) - 1) * eps
            for _ in range(3):
                adv_images = (x + delta).clamp(0, 1).requires_grad_()
                climbed = margin(model(adv_images), y, 10, "logsumexp-margin").sum()
                (gradient,) = torch.autograd.grad(climbed, adv_images)
                delta = (adv_images.detach() - x + 0.7 * eps * gradient.sign()).clamp(-eps, eps)
            log_probabilities = model((x + delta).clamp(0, 1)).log_softmax(1)
            accepted = log_probabilities.gather(1, y[:, None]).squeeze(1)
            if has_null:
                accepted = torch.logaddexp(accepted, log_probabilities[:, 10])
            noisy = (x + 0.2 * (2.0 * torch.randint(0, 2, x.shape) - 1)).clamp(0, 1)
            loss = F.cross_entropy(model(x), y) + F.cross_entropy(model(noisy), y)
            loss = loss - accepted.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def train_linear(digits: Digits) -> Classifier:
    """Softmax regression."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10, has_null=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=1e-3)
    for _ in range(200):
        loss = F.cross_entropy(model(digits.train_images), digits.train_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


# Evaluations


def strong() -> dict[str, Attack]:
    """What a sound evaluation of a small model takes: the smooth margin, every target, a swap."""
    steps = (PGD(num_steps=20), MultiTargetedPGD(num_steps=20))
    return {"strong": AttackEnsemble(steps, ("pgd", "targets")), "dataset": DatasetAttack()}


@dataclass(frozen=True)
class Models:
    """Digits, and sound models of them."""

    digits: Digits
    test: LabelledImages
    held_out: LabelledImages
    robust: Classifier
    """10 logits, adversarially trained."""
    refusing: Classifier
    """11 logits, adversarially trained; an attacked digit may be null."""
    linear: Classifier
    """10 logits, linear."""


def train_models(digits: Digits) -> Models:
    """All of them, in seconds."""
    images = LabelledImages(digits.images, digits.labels, 10)
    return Models(
        digits,
        test=images.first(128),
        held_out=images.subset(slice(128, len(images))),
        robust=train_robust(digits, has_null=False),
        refusing=train_robust(digits, has_null=True),
        linear=train_linear(digits),
    )


def detecting(models: Models, detector: nn.Module | str) -> Classifier:
    """The robust network with a detector, calibrated on held-out images."""
    threshold = calibrate(reject_by(models.robust, detector), models.held_out, 0.02)
    return reject_by(models.robust, detector, threshold)


def fitted(fit: Callable[..., nn.Module | str]) -> Callable[[Models], Evaluation]:
    """An evaluation of a detector that is fitted to the training images."""
    return lambda m: evaluate(
        detecting(m, fit(m.robust, (m.digits.train_images, m.digits.train_labels))),
        m.test,
        attacks=strong(),
        eps=0.1,
    )


SOUND: dict[str, Callable[[Models], Evaluation]] = {
    "an ordinary network": lambda m: evaluate(
        m.digits.plain, m.test, attacks=strong(), eps=[0.05, 0.2]
    ),
    "an adversarially trained network, and a single-step attack": lambda m: evaluate(
        m.robust,
        m.test,
        attacks=strong() | {"fgsm": FGSM("untargeted")},
        eps=[0.1, 0.2],
        num_images=110,
    ),
    "a network that may refuse": lambda m: evaluate(
        m.refusing,
        m.test,
        attacks=strong() | {"force-null": PGD(objective="force-null", num_steps=20)},
        eps=[0.05, 0.15],
        selected_on="held-out",
    ),
    "the same in L2": lambda m: evaluate(
        m.refusing, m.test, attacks=strong(), eps=[0.25, 1.0], norm="l2"
    ),
    "a threshold calibrated on held-out images": lambda m: evaluate(
        m.robust,
        m.test,
        attacks=strong() | {"square": Square(num_queries=100)},
        eps=[0.1],
        threshold=calibrate(m.robust, m.held_out, 0.02),
    ),
    "Mahalanobis distance": fitted(fit_mahalanobis),
    "kernel density": fitted(fit_kernel_density),
    "feature squeezing": fitted(lambda network, _: FeatureSqueezing(network, num_bits=3)),
    "energy": lambda m: evaluate(detecting(m, "energy"), m.test, attacks=strong(), eps=[0.1, 0.2]),
    "a linear model at one eps, with proofs": lambda m: evaluate(
        m.linear,
        m.test,
        attacks={"targets": MultiTargetedPGD(num_steps=20)},
        eps=0.1,
        proofs="interval",
    ),
}
"""Evaluations in which nothing is wrong."""


def weak(**settings: Any) -> dict[str, Attack]:
    """PGD as many people run it."""
    return {"pgd": PGD(**({"num_steps": 20} | settings))}


def of(
    model: Callable[[Models], Classifier], *, eps: Any = 0.1, **settings: Any
) -> Callable[[Models], Evaluation]:
    """An evaluation of a model with a weak attack, or with other settings."""
    return lambda m: evaluate(model(m), m.test, **({"attacks": weak(), "eps": eps} | settings))


def refusing(models: Models) -> Classifier:
    return models.refusing


def unsoundly_proved(models: Models) -> Evaluation:
    """Interval bounds, but far too high: a minus sign lost would do."""
    VERIFIERS["hopeful"] = lambda *args: lambda spec: interval_bounds(*args)(spec) + 1000
    try:
        return of(refusing, eps=0.2, proofs="hopeful")(models)
    finally:
        del VERIFIERS["hopeful"]


PLANTED: dict[str, tuple[str, Callable[[Models], Evaluation]]] = {
    "gradients masked by scaled logits": (
        "zero-gradients",
        of(lambda m: around(Scaled, m.robust), attacks={"fgsm": FGSM("untargeted")}, eps=0.2),
    ),
    "gradients masked by quantised input": (
        "zero-gradients",
        of(lambda m: around(Quantised, m.refusing)),
    ),
    "gradients masked by a hard saturation": (
        "zero-gradients",
        of(lambda m: around(Saturated, m.refusing)),
    ),
    "a gate by hand hides the null score": (
        "hidden-null-score",
        of(lambda m: Classifier(Gate(m.robust), 10)),
    ),
    "a gate of constants": (
        "hidden-null-score",
        of(lambda m: Classifier(GateOfConstants(m.robust), 10)),
    ),
    "a gate in NumPy": (
        "hidden-null-score",
        of(lambda m: Classifier(GateInNumpy(m.robust), 10)),
    ),
    "a detector that rounds": (
        "hidden-null-score",
        of(lambda m: reject_by(m.robust, rounded_energy, -4.0)),
    ),
    "a surrogate of another score": (
        "misleading-null-gradient",
        of(lambda m: reject_by(m.robust, rounded_energy, -4.0, surrogate=mean_pixel)),
    ),
    "a surrogate that leads the other way": (
        "misleading-null-gradient",
        of(lambda m: reject_by(m.robust, rounded_energy, -4.0, surrogate=minus_energy)),
    ),
    "a detector whose gradient vanishes": (
        "hidden-null-score",
        of(lambda m: reject_by(m.robust, steep_energy, 0.5)),
    ),
    "a detector that is random": (
        "random-forward",
        of(lambda m: reject_by(m.robust, noisy_energy, -4.0)),
    ),
    "a detector that depends on the batch": (
        "random-forward",
        of(lambda m: reject_by(m.robust, energy_in_the_batch, 2.0)),
    ),
    "a detector of an attack's traces": (
        "null-on-noise",
        of(lambda m: reject_by(m.robust, off_the_grid, 0.01)),
    ),
    "a detector whose gradient is not finite": (
        "non-finite-gradients",
        of(lambda m: reject_by(m.robust, spread_over_root, 0.5)),
    ),
    "a detector calibrated on test": (
        "threshold-on-test",
        of(
            lambda m: reject_by(
                m.robust, "energy", calibrate(reject_by(m.robust, "energy"), m.test, 0.02)
            )
        ),
    ),
    "random forward pass": ("random-forward", of(lambda m: around(Noisy, m.refusing))),
    "zero steps": ("attack-moves-nothing", of(refusing, attacks={"pgd": ZeroSteps()})),
    "step size too small": (
        "reference-finds-more",
        of(refusing, attacks=weak(relative_step=0.002)),
    ),
    "one restart on a bumpy loss": (
        "doubling-finds-more",
        of(lambda m: around(Bumpy, m.refusing), eps=0.15),
    ),
    "eps in wrong units": ("eps-units", of(refusing, eps=[0.1 / 255, 0.3 / 255])),
    "null-only success": (
        "failures-all-null",
        of(lambda m: m.digits.guarded, attacks=weak(objective="untargeted"), eps=0.15),
    ),
    "threshold tuned on test": (
        "threshold-on-test",
        of(lambda m: with_threshold(m.robust, calibrate(m.robust, m.test, 0.02))),
    ),
    "transfer labelled white-box": (
        "transfer-as-white-box",
        lambda m: of(refusing, attacks={"pgd": SecretTransfer(m.robust)})(m),
    ),
    "bounds that are not sound": ("proof-broken", unsoundly_proved),
}
"""Evaluations or models that are broken, and the flag that must go up."""

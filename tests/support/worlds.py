"""Small worlds in which the truth is known: linear models, and a model trained in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn import functional as F

from nullclass.models import Classifier


class Affine(nn.Module):
    """Logits ``W x + c`` of flattened images."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


def two_input_world(a: float, b: float, scale: float = 1.0) -> tuple[Classifier, Tensor, Tensor]:
    """The exact test: logits (0, x2 - b, 3 x1 - a), the origin shifted to (0.5, 0.5).

    The one image can be fooled if and only if the budget (L-infinity or L2) exceeds b.
    ``scale`` multiplies all logits, which changes no decision.
    """
    weight = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    bias = torch.tensor([0.0, -b, -a]) - weight @ torch.tensor([0.5, 0.5])
    model = Classifier(Affine(scale * weight, scale * bias), num_classes=2)
    return model, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])


@dataclass
class LinearWorld:
    """A linear model with null and one image whose nearest fooled point is known."""

    model: Classifier
    image: Tensor
    label: Tensor
    optimum: dict[str, float]
    """Distance to the nearest fooled point within [0,1], by norm."""


def linear_world(
    seed: int, num_classes: int = 4, size: int = 3, margin: float = 0.05, scale: float = 1.0
) -> LinearWorld:
    """A random linear model with null, and an image in the middle of the box.

    The optimum is the least over all wrong real classes t of the distance to the region where
    t beats the true label and null: a linear programme for L-infinity and L1, and for L2 the least
    point of two half-spaces (the box is far enough away not to matter; checked).
    """
    rng = np.random.default_rng(seed)
    dim = size * size
    weight = rng.normal(size=(num_classes + 1, dim)) / dim
    label = int(rng.integers(num_classes))
    centre = np.full(dim, 0.5) + rng.uniform(-0.05, 0.05, dim)
    gaps = rng.uniform(margin, 3 * margin, num_classes + 1)  # how far each logit lies below
    gaps[label] = 0
    bias = -gaps - weight @ centre
    optimum = _optimum(weight, bias, centre, label)
    assert optimum["l2"] < 0.4, "the box would matter"
    model = Classifier(
        Affine(
            torch.tensor(scale * weight, dtype=torch.float32),
            torch.tensor(scale * bias, dtype=torch.float32),
        ),
        num_classes,
    )
    image = torch.tensor(centre, dtype=torch.float32).view(1, 1, size, size)
    return LinearWorld(model, image, torch.tensor([label]), optimum)


@dataclass
class LinearBatch:
    """A linear model with null and images whose nearest fooled points are known."""

    model: Classifier
    images: Tensor
    labels: Tensor
    optima: dict[str, Tensor]
    """Distances to the nearest fooled points within [0,1], ``(N,)`` by norm."""


@cache
def linear_batch(
    seed: int, num_images: int = 30, num_classes: int = 4, size: int = 3, scale: float = 100
) -> LinearBatch:
    """As :func:`linear_world`, with many images of one model: those it is right about."""
    rng = np.random.default_rng(seed)
    dim = size * size
    weight = rng.normal(size=(num_classes + 1, dim)) / dim
    bias = -weight.sum(axis=1) / 2  # all answers are equal in the middle of the box
    images, labels, optima = [], [], []
    while len(images) < num_images:
        image = rng.uniform(0.3, 0.7, dim)
        logits = weight @ image + bias
        label, gaps = int(logits.argmax()), np.sort(logits.max() - logits)
        if label == num_classes or gaps[1] < 0.02:
            continue
        optimum = _optimum(weight, bias, image, label)
        if optimum["l2"] < 0.3:  # else the box would matter
            images.append(image)
            labels.append(label)
            optima.append(optimum)
    return LinearBatch(
        Classifier(
            Affine(
                torch.tensor(scale * weight, dtype=torch.float32),
                torch.tensor(scale * bias, dtype=torch.float32),
            ),
            num_classes,
        ),
        torch.tensor(np.stack(images), dtype=torch.float32).view(-1, 1, size, size),
        torch.tensor(labels),
        {norm: torch.tensor([optimum[norm] for optimum in optima]) for norm in optima[0]},
    )


def _optimum(
    weight: np.ndarray, bias: np.ndarray, centre: np.ndarray, label: int
) -> dict[str, float]:
    """The distance to the nearest fooled point, by norm: the least over all targets."""
    num_classes, logits = len(weight) - 1, weight @ centre + bias
    found: dict[str, list[float]] = {"linf": [], "l2": [], "l1": []}
    for target in set(range(num_classes)) - {label}:
        beaten = [label, num_classes]
        normals, access = weight[target] - weight[beaten], logits[beaten] - logits[target]
        found["linf"].append(_least_linf(normals, access, centre))
        found["l2"].append(_least_l2(normals, access))
        found["l1"].append(_least_l1(normals, access, centre))
    return {norm: min(distances) for norm, distances in found.items()}


def _least_linf(normals: np.ndarray, access: np.ndarray, centre: np.ndarray) -> float:
    """min r with normals @ d >= needs, |d| <= r, 0 <= centre + d <= 1."""
    dim = len(centre)
    cost = np.zeros(dim + 1)
    cost[-1] = 1
    above = np.hstack([-normals, np.zeros((len(normals), 1))])
    within = np.vstack(
        [
            np.hstack([np.eye(dim), -np.ones((dim, 1))]),
            np.hstack([-np.eye(dim), -np.ones((dim, 1))]),
        ]
    )
    solved = linprog(
        cost,
        A_ub=np.vstack([above, within]),
        b_ub=np.concatenate([-access, np.zeros(2 * dim)]),
        bounds=[*zip(-centre, 1 - centre, strict=True), (0, None)],
    )
    return float(solved.fun) if solved.status == 0 else np.inf


def _least_l2(normals: np.ndarray, access: np.ndarray) -> float:
    """min |d| with normals @ d >= needs, for two half-spaces, by trying which ones bind."""
    if (access <= 0).all():
        return 0.0
    found = []
    for binding in ([0], [1], [0, 1]):
        rows, wanted = normals[binding], access[binding]
        delta = np.linalg.pinv(rows) @ wanted
        if (normals @ delta >= access - 1e-12).all():
            found.append(float(np.linalg.norm(delta)))
    return min(found)


def _least_l1(normals: np.ndarray, access: np.ndarray, centre: np.ndarray) -> float:
    """min sum(up + down) with normals @ (up - down) >= needs, 0 <= centre + up - down <= 1."""
    solved = linprog(
        np.ones(2 * len(centre)),
        A_ub=np.hstack([-normals, normals]),
        b_ub=-access,
        bounds=[(0, room) for room in np.concatenate([1 - centre, centre])],
    )
    return float(solved.fun) if solved.status == 0 else np.inf


@dataclass
class Digits:
    """8x8 digits in [0,1] and two models of them."""

    train_images: Tensor
    train_labels: Tensor
    images: Tensor
    labels: Tensor
    plain: Classifier
    """10 logits."""
    guarded: Classifier
    """11 logits, trained with FGSM images as null."""


def train_digits() -> Digits:
    """Train both models with a plain loop that uses nothing of ours but the wrapper."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    targets = torch.tensor(labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], targets[order]
    split = 1300
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, guarded = (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))
            for outputs in (10, 11)
        )
        for net in (plain, guarded):
            optimizer = torch.optim.Adam(net.parameters(), 3e-3)
            for step in range(250):
                chosen = torch.arange(step * 128, (step + 1) * 128) % split
                x = images[chosen].clone().requires_grad_()
                y = targets[chosen]
                loss = F.cross_entropy(net(x), y)
                (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
                if net is guarded:
                    nulls = (x.detach() + 0.15 * gradient.sign()).clamp(0, 1)
                    loss = loss + F.cross_entropy(net(nulls), torch.full_like(y, 10)) / 11
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return Digits(
        train_images=images[:split],
        train_labels=targets[:split],
        images=images[split:],
        labels=targets[split:],
        plain=Classifier(plain, 10, has_null=False).eval(),
        guarded=Classifier(guarded, 10).eval(),
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_network(
    num_nulls: int = 1, *, shape: tuple[int, ...] = (1, 6, 6), hidden: int = 12
) -> Classifier:
    """Four classes, one hidden layer, and weights drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        inputs, outputs = nn.Linear(math.prod(shape), hidden), nn.Linear(hidden, 4 + num_nulls)
    return Classifier(
        nn.Sequential(nn.Flatten(), inputs, nn.ReLU(), outputs),
        4,
        has_null=num_nulls > 0,
        num_nulls=max(1, num_nulls),
        mean=(0.5,),
        std=(0.25,),
    )


def noise_images(num: int = 8, shape: tuple[int, ...] = (1, 6, 6)) -> tuple[Tensor, Tensor]:
    """Random images and labels of the four classes in turn."""
    return torch.rand(num, *shape, generator=seeded(1)), torch.arange(num) % 4


def wide_colour_world() -> tuple[Classifier, Tensor, Tensor]:
    """Images of 3 channels, 5 by 8 pixels, two classes and null."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        body = nn.Sequential(nn.Flatten(), nn.Linear(120, 16), nn.ReLU(), nn.Linear(16, 3))
    images = torch.rand(70, 3, 5, 8, generator=seeded(2))
    model = Classifier(body, 2)
    return model, images, model.predict(images).clamp(min=0)


def outcome_of(model: Classifier, images: Tensor, labels: Tensor) -> list[str]:
    """Outcomes by a plain loop, without the package's own arithmetic."""
    scored = []
    with torch.no_grad():
        for logits, label in zip(model(images).tolist(), labels.tolist(), strict=True):
            predicted = max(range(len(logits)), key=lambda k: logits[k])
            if predicted == label:
                scored.append("correct")
            else:
                scored.append("null" if predicted == model.num_classes else "fooled")
    return scored


def fooled(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """``(N,)`` booleans."""
    return torch.tensor([scored == "fooled" for scored in outcome_of(model, images, labels)])

"""The notebook's own nets, loops and test figures, written plainly, without the package's code.

Line by line its ``train_model``, ``train_model_null`` and ``test_model_null``: standardised
float32 images, batch 64, ReLU before max-pool, plain Adam. Only its DataLoader is left out: the
images are a tensor in memory, standardised beforehand, which is kinder to it than the notebook was.

``python benchmarks/notebook_loop.py`` trains the notebook's four models from several seeds (about
18 CPU minutes per model on one core) and adds their test figures to
``results/notebook-loop.csv``, a link into the package: the reference of the study ``fgsm-null``,
because the notebook printed one run. A model whose rows are there is skipped, so that the same
command resumes.
"""

from __future__ import annotations

import csv
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn, optim

MEAN, STD = 0.1307, 0.3081
BATCH_SIZE = 64
EPOCHS = 5
NULL = 10
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "src" / "nullclass" / "studies" / "fgsm_null" / "notebook-loop.csv"
MNIST = Path.home() / ".cache" / "nullclass" / "mnist"
COLUMNS = ("model", "seed", "metric", "eps", "value", "n", "torch", "processor")


@dataclass(frozen=True)
class Plan:
    """One of the notebook's models; ε in its units, on standardised images."""

    weight_decay: float
    eps: float | None = None
    """Training ε; ``None``: ten classes, no null."""
    test_eps: tuple[float, ...] = ()
    """The ε at which the notebook prints a null rate and a null loss."""


PLANS = {
    "null-0.01-wd": Plan(1e-4, 0.01, (3, 2, 1, 0.5, 0.1, 0.01, 0.001)),
    "null-0.5-wd": Plan(1e-4, 0.5, (1, 0.5, 0.1, 0.01)),
    "clean-wd": Plan(1e-4),
    "null-0.5": Plan(0.0, 0.5, (0.5,)),
}


def new_model(outputs: int = 10) -> nn.Sequential:
    """The notebook's network: 10 digits, with ``outputs=11`` also null."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, stride=1, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3, stride=1, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, outputs),
    )


def standardised(images: Tensor) -> Tensor:
    """Bytes ``(N, 1, 28, 28)`` as the notebook's transform gives them."""
    return (images.float() / 255 - MEAN) / STD


def fgsm(inputs: Tensor, epsilon: float) -> Tensor:
    """The notebook's null images: a step along ``inputs.grad``, clamped to valid pixels."""
    stepped = MEAN + STD * (inputs + epsilon * torch.sign(inputs.grad))
    return (torch.clamp(stepped, 0, 1) - MEAN) / STD


def train_model(
    model: nn.Module, images: Tensor, labels: Tensor, epochs: int, *, weight_decay: float
) -> None:
    """Train ten classes in place on standardised images."""
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.001, weight_decay=weight_decay)
    num_batches = math.ceil(len(images) / BATCH_SIZE)
    model.train()
    for epoch in range(epochs):
        running_loss = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
            loss = criterion(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        mean_loss = running_loss / num_batches
        print(f"    notebook loop, epoch {epoch + 1}/{epochs}: loss {mean_loss:.4f}", flush=True)


def train_model_null(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    *,
    weight_decay: float,
    epsilon: float = 0.5,
    alpha: float = 1 / 11,
) -> None:
    """Train ten classes and null in place on standardised images; epsilon in their units."""
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.001, weight_decay=weight_decay)
    num_batches = math.ceil(len(images) / BATCH_SIZE)
    model.train()
    for epoch in range(epochs):
        running_loss, running_loss_null = 0.0, 0.0
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
            inputs, targets = images[chosen], labels[chosen]
            inputs.requires_grad = True
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
            running_loss += loss.item()

            outputs_null = model(fgsm(inputs, epsilon))
            loss_null = criterion(outputs_null, torch.full_like(targets, NULL))
            (alpha * loss_null).backward()
            optimizer.step()
            running_loss_null += loss_null.item()
        print(
            f"    notebook loop, epoch {epoch + 1}/{epochs}: "
            f"loss {running_loss / num_batches:.4f}, "
            f"null loss {running_loss_null / num_batches:.4f}",
            flush=True,
        )


def test_model(
    model: nn.Module, images: Tensor, labels: Tensor, test_eps: tuple[float, ...]
) -> dict[tuple[str, float], float]:
    """The notebook's test figures by metric and ε (0: clean): rates from 0 to 1, and losses.

    A loss is the mean of the batches' means, as the notebook has it: the last batch is smaller.
    """
    criterion = nn.CrossEntropyLoss()
    sums: dict[tuple[str, float], float] = {}

    def add(metric: str, eps: float, value: Tensor, total: int) -> None:
        sums[metric, eps] = sums.get((metric, eps), 0.0) + value.item() / total

    model.eval()
    batches = list(torch.arange(len(images)).split(BATCH_SIZE))
    for chosen in batches:
        inputs, targets = images[chosen], labels[chosen]
        inputs.requires_grad = True
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        predicted = outputs.argmax(1)
        add("correct_rate", 0, (predicted == targets).sum(), len(images))
        add("loss", 0, loss, len(batches))
        if not test_eps:
            continue
        add("not_null_rate", 0, (predicted != NULL).sum(), len(images))
        loss.backward()
        for eps in test_eps:
            with torch.no_grad():
                outputs_null = model(fgsm(inputs, eps))
                loss_null = criterion(outputs_null, torch.full_like(targets, NULL))
            add("null_rate", eps, (outputs_null.argmax(1) == NULL).sum(), len(images))
            add("null_loss", eps, loss_null, len(batches))
    return sums


def train_and_test(
    plan: Plan, seed: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> dict[tuple[str, float], float]:
    """Train one of the notebook's models from a seed, and give its test figures."""
    torch.manual_seed(seed)
    model = new_model(10 if plan.eps is None else 11)
    if plan.eps is None:
        train_model(model, *train, EPOCHS, weight_decay=plan.weight_decay)
    else:
        train_model_null(model, *train, EPOCHS, weight_decay=plan.weight_decay, epsilon=plan.eps)
    return test_model(model, *test, plan.test_eps)


def read_mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Standardised images ``(N, 1, 28, 28)`` and labels ``(N,)`` of the IDX files in a folder."""
    images = bytearray((folder / f"{part}-images-idx3-ubyte").read_bytes())
    labels = bytearray((folder / f"{part}-labels-idx1-ubyte").read_bytes())
    return (
        standardised(torch.frombuffer(images, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)),
        torch.frombuffer(labels, dtype=torch.uint8, offset=8).long(),
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Replace the file by rename: an interruption leaves the old rows or the new."""
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    models: tuple[str, ...] = tuple(PLANS),
    data_dir: Path = MNIST,
    output: Path = RESULTS,
) -> None:
    """Train the notebook's models from several seeds and add their figures to a CSV file.

    Args:
        seeds: Seeds to train from; the models of the first seed come first.
        models: Models to train, in this order.
        data_dir: Folder of the four uncompressed IDX files of MNIST.
        output: CSV file; a model and seed that it holds is skipped.
    """
    train, test = (read_mnist(data_dir, part) for part in ("train", "t10k"))
    for seed in seeds:
        for name in models:
            if any(row["model"] == name and row["seed"] == str(seed) for row in read_rows(output)):
                continue
            print(f"{name}, seed {seed}", flush=True)
            found = train_and_test(PLANS[name], seed, train, test)
            new = [
                {
                    "model": name,
                    "seed": str(seed),
                    "metric": metric,
                    "eps": f"{eps:g}",
                    "value": f"{value:.6g}",
                    "n": str(len(test[0])),
                    "torch": torch.__version__,
                    "processor": processor(),
                }
                for (metric, eps), value in found.items()
            ]
            write_rows(output, read_rows(output) + new)


if __name__ == "__main__":
    tyro.cli(main)

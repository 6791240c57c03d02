"""The notebook's own net and training loop, written plainly: the slow side of the comparison.

Line by line its ``train_model_null``: standardised float32 images, batch 64, ReLU before
max-pool, plain Adam. Only its DataLoader is left out: the images are a tensor in memory,
standardised beforehand, which is kinder to it than the notebook was.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn, optim

MEAN, STD = 0.1307, 0.3081
BATCH_SIZE = 64
EPOCHS = 5
NULL = 10


def new_model_null() -> nn.Sequential:
    """The notebook's network, 10 digits and null."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, stride=1, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3, stride=1, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, 11),
    )


def standardised(images: Tensor) -> Tensor:
    """Bytes ``(N, 1, 28, 28)`` as the notebook's transform gives them."""
    return (images.float() / 255 - MEAN) / STD


def train_model_null(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    epsilon: float = 0.5,
    alpha: float = 1 / 11,
) -> None:
    """Train in place on standardised images; epsilon in the notebook's units."""
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.001, weight_decay=1e-4)
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

            stepped = MEAN + STD * (inputs + epsilon * torch.sign(inputs.grad))
            inputs_null = (torch.clamp(stepped, 0, 1) - MEAN) / STD
            outputs_null = model(inputs_null)
            loss_null = criterion(outputs_null, torch.zeros(len(inputs), dtype=torch.int64) + NULL)
            (alpha * loss_null).backward()
            optimizer.step()
            running_loss_null += loss_null.item()
        print(
            f"    notebook loop, epoch {epoch + 1}/{epochs}: "
            f"loss {running_loss / num_batches:.4f}, "
            f"null loss {running_loss_null / num_batches:.4f}",
            flush=True,
        )

"""The models that ``worst_case.py`` attacks: what a null-class model can be, good and bad.

Those that are trained here are cached in ``.benchmarks/worst-case/``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common import SCRATCH, cached_model, say, training_of
from nullclass.attacks.losses import find_objective
from nullclass.data import Dataset
from nullclass.experiments.config import Training
from nullclass.models import Classifier, build_model
from nullclass.studies.null_samples import config as null_samples
from nullclass.training.card import CARD, Origin
from nullclass.training.checkpoint import load_checkpoint, save_checkpoint

FOLDER = SCRATCH / "worst-case"
TRAIN_EPS = 0.3
NUM_EPOCHS = 12
NUM_STEPS = 7
BATCH_SIZE = 100


def adversarially_trained(dataset: Dataset, has_null: bool, folder: Path) -> Classifier:
    """The small network, trained on PGD images (Madry et al. 2018), eps rising to 0.3.

    With null the attack climbs the null-aware margin, and an attacked image may be answered with
    its label or with null: loss ``-log p_y`` on clean and ``-log(p_y + p_null)`` on attacked ones.
    """
    if (folder / CARD).exists():
        return load_checkpoint(folder)[0]
    say(f"training {folder.name}, once; it stays in {folder}")
    torch.manual_seed(0)
    model = build_model("small", image_shape=(1, 28, 28), num_classes=10, has_null=has_null)
    margin = find_objective("fool").loss
    images = dataset.train.images
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    num_batches = len(images) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=NUM_EPOCHS * num_batches
    )
    for epoch in range(NUM_EPOCHS):
        total = 0.0
        for batch, chosen in enumerate(torch.randperm(len(images)).view(-1, BATCH_SIZE)):
            x, y = dataset.train.batch(chosen)
            eps = TRAIN_EPS * min(1.0, (epoch + batch / num_batches) / (NUM_EPOCHS / 2))
            delta = (2 * torch.rand_like(x) - 1) * eps
            for _ in range(NUM_STEPS):
                adv_images = (x + delta).clamp(0, 1).requires_grad_()
                climbed = margin(model(adv_images), y, 10, "logsumexp-margin").sum()
                (gradient,) = torch.autograd.grad(climbed, adv_images)
                delta = (adv_images.detach() - x + 2.5 * eps / NUM_STEPS * gradient.sign()).clamp(
                    -eps, eps
                )
            log_probabilities = model((x + delta).clamp(0, 1)).log_softmax(1)
            accepted = log_probabilities[torch.arange(len(y)), y]
            loss = -accepted.mean()
            if has_null:
                loss = -torch.logaddexp(accepted, log_probabilities[:, -1]).mean()
                loss = 0.5 * (loss + nn.functional.cross_entropy(model(x), y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        say(f"  epoch {epoch + 1}: loss {total / num_batches:.4f}")
    save_checkpoint(model.eval(), folder, origin=Origin(data="mnist"))
    return model


class AlwaysNull(nn.Module):
    """A clean network whose null logit tops every other one."""

    def __init__(self, clean: Classifier) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K + 1)``."""
        logits = self.clean(images)
        return torch.cat([logits, logits.amax(dim=1, keepdim=True) + 1], dim=1)


class Quantised(nn.Module):
    """Pixels rounded to a few levels first: the gradient is zero everywhere."""

    def __init__(self, model: Classifier, num_levels: int = 8) -> None:
        super().__init__()
        self.model = model
        self.num_levels = num_levels

    def forward(self, images: Tensor) -> Tensor:
        """Logits, as the model's."""
        return self.model((images * self.num_levels).round() / self.num_levels)


def _of_report(variant: str, dataset: Dataset, folder: Path) -> Classifier:
    trials = null_samples.trials("quick", [0], ["base", variant])
    training = next(trial.training for trial in trials if trial.model == variant)
    return cached_model(training, dataset, folder)


def makers(dataset: Dataset, held_out: Dataset) -> dict[str, Callable[[], Classifier]]:
    """Name to a maker of each model; ``held_out`` is MNIST as the report's study splits it."""

    def of_notebook(variant: str) -> Classifier:
        training: Training = training_of(variant)
        return cached_model(training, dataset, FOLDER / variant)

    def at(has_null: bool) -> Classifier:
        name = "trained-null" if has_null else "trained"
        return adversarially_trained(dataset, has_null, FOLDER / name)

    return {
        "clean": lambda: of_notebook("clean-wd"),
        "notebook null": lambda: of_notebook("null-0.5-wd"),
        "report sm": lambda: _of_report("sm", held_out, FOLDER / "sm"),
        "report usm": lambda: _of_report("usm", held_out, FOLDER / "usm"),
        "adversarially trained": lambda: at(False),
        "adversarially trained, null": lambda: at(True),
        "always null": lambda: Classifier(AlwaysNull(at(False)), 10),
        "gradient-masked null": lambda: Classifier(Quantised(at(True)), 10),
    }

"""Adversarial images made on one model, stored, and scored on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import access_of, with_reference_images
from nullclass.core.devices import BATCH_SIZE
from nullclass.core.errors import UserError
from nullclass.core.norms import is_allowed
from nullclass.core.tensor_files import save_tensors
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.results import frames, schema
from nullclass.scoring.rows import (
    CLEAN,
    OnImages,
    batch_of,
    check_labels,
    ignore,
    is_success,
    label_rows,
    score_batch,
    sort_rows,
)
from nullclass.scoring.run_attack import AttackResult, score_attack, sum_costs


@dataclass(frozen=True)
class Crafted:
    """Adversarial images made on a source, to be scored on any number of targets."""

    attack: Attack
    norm: str
    images: dict[float, Tensor] = field(repr=False)
    """By eps in pixel units, increasing: ``(N, C, H, W)`` in [0,1] on the CPU, of the first N
    images of the data."""
    rows: pd.DataFrame = field(repr=False)
    """The source's own outcomes: :data:`nullclass.results.schema.ROW_COLUMNS`."""
    costs: pd.DataFrame = field(repr=False)
    """Cost of the attack: :data:`nullclass.results.schema.COST_COLUMNS`."""

    def save(self, folder: Path) -> None:
        """Write images, rows and costs into a folder, each file atomically.

        Raises:
            CannotWriteError: If a file cannot be written.
        """
        images = {repr(eps): images for eps, images in self.images.items()}
        save_tensors(folder / schema.IMAGES, images)
        frames.write_frame(folder / schema.ROWS, self.rows[list(schema.ROW_COLUMNS)])
        frames.write_frame(folder / schema.COSTS, self.costs[list(schema.COST_COLUMNS)])

    @classmethod
    def load(cls, folder: Path, attack: Attack, norm: str) -> Crafted:
        """Read what :meth:`save` wrote; the attack and the norm are not stored.

        Raises:
            UserError: If a file is missing or damaged.
        """
        path = folder / schema.IMAGES
        try:
            images = {float(eps): stored for eps, stored in load_file(path).items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged ({error}): make it again") from None
        return cls(
            attack=attack,
            norm=norm,
            images=dict(sorted(images.items())),
            rows=frames.read_frame(folder / schema.ROWS, schema.ROW_COLUMNS),
            costs=frames.read_frame(folder / schema.COSTS, schema.COST_COLUMNS),
        )


def craft(
    source: Classifier,
    data: LabelledImages,
    attack: Attack,
    eps: Sequence[float],
    *,
    norm: str = "linf",
    num_images: int,
    batch_size: int | None = None,
    seed: int = 0,
    name: str = "transfer",
    on_images: OnImages = ignore,
) -> Crafted:
    """Attack the first images on a source, from scratch at every eps.

    The images equal those of ``score_attack(target, ..., source=source)`` with the same seed.

    Args:
        source: The model to attack.
        data: Images and labels.
        attack: The attack.
        eps: Budgets in pixel units, increasing.
        norm: Name in :data:`nullclass.core.norms.NORMS`.
        num_images: How many of the first images to attack.
        batch_size: Images per forward and backward pass. Default: the attack's own.
        seed: Seed of the attack's random starts.
        name: The attack's name in the rows.
        on_images: Progress.

    Raises:
        UserError: If there are fewer images, a budget is out of range, a label is not a class of
            the source, or the attack leaves its budget or the [0,1] box.
    """
    attack = with_reference_images(attack, data)
    data = data.first(num_images)
    check_labels(data, source)
    result = score_attack(
        source,
        data,
        torch.arange(num_images),
        name,
        attack,
        eps,
        norm=norm,
        source=source,  # as for a transfer: no success is reused at a larger eps
        keep_images=True,
        batch_size=batch_size,
        seed=seed,
        on_images=on_images,
    )
    return Crafted(attack, norm, result.adv_images, sort_rows([result.rows]), result.costs)


def score_crafted(
    target: Classifier,
    data: LabelledImages,
    crafted: Crafted,
    *,
    name: str,
    source_name: str,
    batch_size: int | None = None,
    on_images: OnImages = ignore,
) -> AttackResult:
    """Score adversarial images of a source on a target.

    Args:
        target: The model to score.
        data: The images and labels that ``crafted`` was made from.
        crafted: From :func:`craft`.
        name: The attack's name in the rows.
        source_name: The source's name in the rows.
        batch_size: Images per forward pass.
        on_images: Progress.

    Returns:
        Rows and costs (the cost of crafting, and the number of successes on the target); no
        examples.

    Raises:
        UserError: If a label is not a class of the target, or an image is outside its budget
            around the image of ``data`` or outside the [0,1] box.
    """
    attack, norm = crafted.attack, crafted.norm
    keys = {"attack": name, "objective": attack.objective, "source": source_name, "norm": norm}
    tables, costs = [], []
    for eps, stored in crafted.images.items():
        part = data.first(len(stored))
        check_labels(part, target)
        num_successes = 0
        for indices in torch.arange(len(stored)).split(BATCH_SIZE):
            images, labels = batch_of(target, part, indices)
            adv_images = stored[indices].to(images.device)
            if adv_images.shape != images.shape or not bool(
                is_allowed(adv_images, images, eps, norm).all()
            ):
                raise UserError(
                    f"attack {name!r} made on {source_name!r} left its budget of {norm} eps "
                    f"{eps:g} around these images, or the [0,1] box: pass the images that it was "
                    "made from"
                )
            answers = score_batch(target, adv_images, labels, batch_size)
            has_succeeded = is_success(answers, attack.objective).tolist()
            members = [name if success else CLEAN for success in has_succeeded]
            num_successes += sum(has_succeeded)
            tables.append(label_rows(answers, indices, **keys, eps=eps, members=members))
            on_images(len(indices))
        spent = crafted.costs[crafted.costs["eps_pixels"] == eps]
        costs.append(
            keys
            | {
                "eps_pixels": eps,
                "access": access_of(attack),
                "is_iterative": attack.is_iterative,
                "status": "ran",
                "member": name,
                "num_images": len(stored),
                "num_successes": num_successes,
            }
            | {c: spent[c].sum() for c in ("num_forward", "num_backward", "seconds")}
        )
    return AttackResult(sort_rows(tables), sum_costs(costs), [])

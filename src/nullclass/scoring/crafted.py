"""Adversarial images made on one model, stored, and scored on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import access_of, with_reference_images
from nullclass.core.devices import exact_float32
from nullclass.core.errors import UserError
from nullclass.core.norms import is_allowed
from nullclass.core.tensor_files import check_header, save_tensors
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.results import frames, schema
from nullclass.results.schema import COST_COLUMNS, NO_MEMBER
from nullclass.scoring.attacked import AttackResult, score_attack
from nullclass.scoring.parts import FEW, NOTHING, Parts
from nullclass.scoring.score import (
    OnImages,
    batches_of,
    check_labels,
    ignore,
    is_success,
    label_rows,
    score_batch,
    sort_rows,
)


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
        frames.write_frame(folder / schema.ROWS, self.rows)
        frames.write_frame(folder / schema.COSTS, self.costs)

    @classmethod
    def load(cls, folder: Path, attack: Attack, norm: str) -> Crafted:
        """Read what :meth:`save` wrote; the attack and the norm are not stored.

        Raises:
            UserError: If a file is missing or damaged.
        """
        path = folder / schema.IMAGES
        check_header(path, "file of adversarial images")
        try:
            images = {float(eps): stored for eps, stored in load_file(path).items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): make it again") from None
        return cls(
            attack=attack,
            norm=norm,
            images=dict(sorted(images.items())),
            rows=frames.read_frame(folder / schema.ROWS),
            costs=frames.read_frame(folder / schema.COSTS),
        )


def craft(
    source: Classifier,
    data: LabelledImages,
    attack: Attack,
    eps: Sequence[float],
    *,
    norm: str = "linf",
    num_images: int,
    seed: int = 0,
    name: str = "transfer",
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
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
        seed: Seed of the attack's random starts.
        name: The attack's name in the rows.
        on_images: Progress.
        parts: Keeps what is finished.

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
        seed=seed,
        on_images=on_images,
        parts=parts,
    )
    return Crafted(attack, norm, result.adv_images, sort_rows([result.rows]), result.costs)


@exact_float32()
def score_crafted(
    target: Classifier,
    data: LabelledImages,
    crafted: Crafted,
    *,
    name: str,
    source_name: str,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> AttackResult:
    """Score adversarial images of a source on a target.

    Args:
        target: The model to score.
        data: The images and labels that ``crafted`` was made from.
        crafted: From :func:`craft`.
        name: The attack's name in the rows.
        source_name: The source's name in the rows.
        on_images: Progress.
        parts: Keeps what is finished, after each batch and eps.

    Returns:
        Rows and costs: the successes on the target, and the passes and time of crafting.

    Raises:
        UserError: If a label is not a class of the target, or the images do not belong to ``data``.
    """
    data = data.first(len(next(iter(crafted.images.values()))))
    check_labels(data, target)
    attack, norm = crafted.attack, crafted.norm
    keys = {"attack": name, "objective": attack.objective, "source": source_name, "norm": norm}
    parts = parts.of(name, models=[target], images=data.batch(FEW)[0])
    tables = []
    for indices, images, labels in batches_of(target, data):
        for eps, stored in crafted.images.items():
            adv_images = stored[indices].to(images.device)
            has_shape = adv_images.shape == images.shape
            if not has_shape or not bool(is_allowed(adv_images, images, eps, norm).all()):
                raise UserError(
                    f"the images of attack {name!r} are not within {norm} eps {eps:g} of these "
                    "images, or not in [0,1]: pass the images that it was made from"
                )
            kept = parts.of(f"{int(indices[0])}-{eps!r}", images=adv_images, labels=labels)
            answers = kept.keep(partial(score_batch, target, adv_images, labels))
            succeeded = is_success(answers, attack.objective).tolist()
            members = [name if success else NO_MEMBER for success in succeeded]
            tables.append(
                label_rows(answers, indices, **keys, eps=eps, attacked_eps=eps, members=members)
            )
            on_images(len(indices))
    rows = sort_rows(tables)
    num_successes = (rows["member"] == name).groupby(rows["eps_pixels"]).sum()
    spent = crafted.costs.groupby("eps_pixels")[["num_forwards", "num_backwards", "seconds"]].sum()
    costs = (
        spent.assign(num_successes=num_successes)
        .reset_index()
        .assign(
            **keys,
            member=name,
            access=access_of(attack),
            is_iterative=attack.is_iterative,
            status="ran",
            num_images=len(data),
        )
    )
    return AttackResult(rows, costs[list(COST_COLUMNS)].astype(COST_COLUMNS), [])

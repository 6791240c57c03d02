"""Searches the smallest eps that fools each image."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks.counters import count_passes
from nullclass.attacks.ensemble import MemberStats
from nullclass.attacks.fmn import FMN
from nullclass.core.norms import find_norm
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.results.schema import NO_MEMBER, SELF
from nullclass.scoring.attacked import AttackResult, make_examples, sum_costs
from nullclass.scoring.parts import FEW, NOTHING, Parts
from nullclass.scoring.score import OnImages, batches_of, ignore, label_rows, score_batch


def score_smallest(
    model: Classifier,
    data: LabelledImages,
    name: str,
    attack: FMN,
    *,
    norm: str,
    num_examples: int = 0,
    batch_size: int | None = None,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> AttackResult:
    """Search the smallest eps that fools each image, with a minimum-norm attack.

    ``eps_pixels`` of a row is the size found; for an image that was not fooled it is the largest
    size there is. The examples are the images with the smallest eps above 0. ``parts`` keeps what
    is finished, after each batch.
    """
    largest = find_norm(norm).largest(math.prod(data.images.shape[1:]))
    keys = {"attack": name, "objective": attack.objective, "source": SELF, "norm": norm}
    tables, costs = [], []
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    answers: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    parts = parts.of(
        models=[model],
        images=data.batch(FEW)[0],
        attack=attack,
        norm=norm,
        batch_size=batch_size,
    )
    for indices, images, labels in batches_of(model, data, on_images=on_images):
        kept = parts.of(f"{int(indices[0])}", images=images, labels=labels)
        values = kept.keep(partial(_search, model, attack, images, labels, norm, batch_size))
        adv_images, sizes = (values.pop(key).to(images.device) for key in ("adv_images", "sizes"))
        stats = MemberStats(
            member=name,
            access=attack.access,
            is_iterative=attack.is_iterative,
            status="ran",
            num_images=len(images),
            num_successes=int(sizes.isfinite().sum()),
            **values,
        )
        costs.append(keys | {"eps_pixels": math.nan} | asdict(stats))
        clean, attacked = (score_batch(model, x, labels, batch_size) for x in (images, adv_images))
        members = [name if is_found else NO_MEMBER for is_found in sizes.isfinite().tolist()]
        eps = sizes.where(sizes.isfinite(), largest)
        tables.append(
            label_rows(attacked, indices, **keys, eps=eps, attacked_eps=eps, members=members)
        )
        found.append((sizes, images, adv_images))
        answers.append((clean, attacked))
        sizes, images, adv_images = map(torch.cat, zip(*found, strict=True))
        clean, attacked = map(pd.concat, zip(*answers, strict=True))
        fooled = (sizes.isfinite() & (sizes > 0)).nonzero().squeeze(1)
        order = fooled[sizes[fooled].argsort(stable=True)[:num_examples]]
        found = [(sizes[order], images[order], adv_images[order])]  # of the others only rows remain
        answers = [(clean.iloc[order.tolist()], attacked.iloc[order.tolist()])]
    examples = [make_examples(name, norm, *found[0], *answers[0])] if len(order) else []
    return AttackResult(pd.concat(tables, ignore_index=True), sum_costs(costs), examples)


def _search(
    model: Classifier,
    attack: FMN,
    images: Tensor,
    labels: Tensor,
    norm: str,
    batch_size: int | None,
) -> dict[str, Any]:
    """Return the adversarial images and sizes of one batch, and the cost."""
    started = time.perf_counter()
    with count_passes(model) as passes:
        adv_images, sizes = attack.smallest(model, images, labels, norm=norm, batch_size=batch_size)
    return {
        "adv_images": adv_images,
        "sizes": sizes,
        "num_forwards": passes.forward,
        "num_backwards": passes.backward,
        "seconds": time.perf_counter() - started,
    }

"""Attacks made on some models, scored on others: who falls to whom.

    transfer rate = P(f_target(x') is fooled | f_source(x') is fooled, f_target(x) = y)

x' is made on the source alone; the target is asked for its outcome once x' is done. How much of
what fools one model fools another was measured first by Szegedy et al. 2014, "Intriguing properties
of neural networks" (section 4.2), as a matrix of models by Papernot et al. 2016, "Transferability
in machine learning". Here null is an outcome of its own: what a target refuses has not fooled it.

An attack that stops as soon as the source is fooled stops right behind the *source's* boundary,
which says little about another model, and what fell at a smaller eps was never pushed further. So
nothing is carried from one eps to the next here, and the default attack is MI-FGSM, which never
stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nullclass.attacks import MIFGSM, Attack, find_attack
from nullclass.attacks.base import TakesReferenceImages, access_of, frozen
from nullclass.attacks.losses import find_objective
from nullclass.core.errors import UserError
from nullclass.core.norms import check_eps, is_allowed
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.core.tensor_files import save_tensors
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.evaluation.run import Data, as_classifier, find_attacks, in_order
from nullclass.metrics.rates import SELF, wilson
from nullclass.models.classifier import Classifier
from nullclass.results import frames, schema
from nullclass.scoring.run_attack import (
    BATCH_SIZE,
    CLEAN,
    AttackResult,
    OnImages,
    attack_batch,
    batch_of,
    check_labels,
    members_of,
    rows_of,
    score_batch,
    score_clean,
    seed_for,
    summed,
)


@dataclass(frozen=True)
class Crafted:
    """Attacked images of one source, to be shown to any number of targets."""

    attack: Attack
    """What made them."""
    norm: str
    images: dict[float, Tensor] = field(repr=False)
    """By eps in pixel units, rising: ``(N, C, H, W)`` in [0,1] on the CPU, of the first N images
    of the data."""
    rows: pd.DataFrame = field(repr=False)
    """The source's own outcomes on them: :data:`nullclass.results.schema.ROW_COLUMNS`."""
    costs: pd.DataFrame = field(repr=False)
    """What making them cost: :data:`nullclass.results.schema.COST_COLUMNS`."""

    def save(self, folder: Path) -> None:
        """Write images, rows and costs into a folder, each whole or not at all.

        Raises:
            CannotWriteError: If the disk refuses.
        """
        images = {repr(eps): made for eps, made in self.images.items()}
        save_tensors(folder / schema.IMAGES, images)
        frames.write_frame(folder / schema.ROWS, self.rows[list(schema.ROW_COLUMNS)])
        frames.write_frame(folder / schema.COSTS, self.costs[list(schema.COST_COLUMNS)])

    @classmethod
    def load(cls, folder: Path, attack: Attack, norm: str) -> Crafted:
        """What was saved; attack and norm are not, as who saved it knows them.

        Raises:
            UserError: If a file is missing or damaged.
        """
        path = folder / schema.IMAGES
        try:
            found = {float(eps): made for eps, made in load_file(path).items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged ({error}): make it again") from None
        return cls(
            attack=attack,
            norm=norm,
            images=dict(sorted(found.items())),
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
    seed: int = 0,
    name: str = "transfer",
    on_images: OnImages = lambda _: None,
) -> Crafted:
    """Attack the first images on a source, anew at every eps.

    The images are those that ``score_attack(target, …, source=source)`` would make with this seed.

    Args:
        source: The model to attack.
        data: Images and labels.
        attack: The attack.
        eps: Budgets in pixel units, rising.
        norm: Name in :data:`nullclass.core.norms.BALLS`.
        num_images: How many of the first images to attack.
        seed: Seed of the attack's random starts.
        name: The attack's name in the rows.
        on_images: Progress.

    Raises:
        UserError: If there are not so many images, the budgets make no sense, a label is no class
            of the source's, or the attack leaves its budget or the [0,1] box.
    """
    if isinstance(attack, TakesReferenceImages):
        attack = attack.with_reference_images(data)
    data = data.first(num_images)
    budgets = _budgets(eps, norm, data)
    check_labels(data, source)
    made: dict[float, list[Tensor]] = {budget: [] for budget in budgets}
    tables: list[pd.DataFrame] = []
    spent: list[dict[str, object]] = []
    with frozen(source):
        for places in torch.arange(num_images).split(BATCH_SIZE):
            images, labels = batch_of(source, data, places)
            generator = torch.Generator().manual_seed(seed_for(seed, int(places[0])))
            # Given as a source, nothing that fell at a smaller eps is left out at a larger one.
            for budget, trace, scored in attack_batch(
                source, source, images, labels, name, attack, budgets, norm, generator
            ):
                assert isinstance(budget, float)
                made[budget].append(trace.adv_images.detach().cpu())
                rows = rows_of(places, scored, name, attack.objective, SELF, norm, budget)
                tables.append(rows.assign(member=members_of(trace)))
                place = _place(name, attack, SELF, norm, budget)
                spent += [place | asdict(tally) for tally in trace.member_stats]
                on_images(len(places))
    return Crafted(
        attack=attack,
        norm=norm,
        images={budget: torch.cat(parts) for budget, parts in made.items()},
        rows=in_order(tables),
        costs=summed(spent),
    )


def score_crafted(
    target: Classifier,
    data: LabelledImages,
    crafted: Crafted,
    *,
    name: str,
    source_name: str,
    on_images: OnImages = lambda _: None,
) -> AttackResult:
    """Show a target what was made on another model.

    Args:
        target: The model to score.
        data: The images and labels that ``crafted`` was made of.
        crafted: From :func:`craft`.
        name: The attack's name in the rows.
        source_name: What the rows call the source.
        on_images: Progress.

    Returns:
        Rows and costs (what making the images cost, and how many fooled the target); no examples.

    Raises:
        UserError: If a label is no class of the target's, or an image is outside its budget around
            the image of ``data`` or outside the [0,1] box.
    """
    attack, norm = crafted.attack, crafted.norm
    objective = find_objective(attack.objective)
    tables: list[pd.DataFrame] = []
    costs: list[dict[str, object]] = []
    with frozen(target):
        for budget, made in crafted.images.items():
            part = data.first(len(made))
            check_labels(part, target)
            num_successes = 0
            for places in torch.arange(len(made)).split(BATCH_SIZE):
                images, labels = batch_of(target, part, places)
                adv_images = made[places].to(images.device)
                shapes_agree = adv_images.shape == images.shape
                if not (shapes_agree and bool(is_allowed(adv_images, images, budget, norm).all())):
                    raise UserError(
                        f"attack {name!r} made on {source_name!r} left its budget of {norm} eps "
                        f"{budget:g} around these images, or the [0,1] box: give the images that "
                        "it was made of"
                    )
                scored = score_batch(target, adv_images, labels)
                is_reached = objective.is_reached(scored.outcomes)
                num_successes += int(is_reached.sum())
                rows = rows_of(places, scored, name, attack.objective, source_name, norm, budget)
                members = [name if reached else CLEAN for reached in is_reached.tolist()]
                tables.append(rows.assign(member=members))
                on_images(len(places))
            spent = crafted.costs[crafted.costs["eps_pixels"] == budget]
            costs.append(
                _place(name, attack, source_name, norm, budget)
                | {"access": access_of(attack), "is_iterative": attack.is_iterative, "member": name}
                | {"status": "ran"}
                | {"num_images": len(made), "num_successes": num_successes}
                | {c: spent[c].sum() for c in ("num_forward", "num_backward", "seconds")}
            )
    return AttackResult(in_order(tables), summed(costs), [])


def cell(on_source: pd.DataFrame, on_target: pd.DataFrame, clean: pd.DataFrame) -> dict[str, Any]:
    """One cell of the matrix, from rows.

    Args:
        on_source: The source's rows of one attack at one eps (``Crafted.rows``).
        on_target: The target's rows of the same images (:func:`score_crafted`).
        clean: The target's rows of the clean images, at least of these.

    Returns:
        ``correct``, ``null``, ``fooled``: shares of the target's outcomes, with the 95 % Wilson
        interval ``low``, ``high`` of fooled and ``num_images``; ``transfer_rate``: of the
        ``num_transferable`` images that fool the source and that the target gets right when
        clean, the share that fools the target; NaN if there are none.
    """
    target, source, before = (
        rows.set_index("image")["outcome"] for rows in (on_target, on_source, clean)
    )
    num_fooled = int((target == "fooled").sum())
    low, high = wilson(num_fooled, len(target))
    is_fooling = source.reindex(target.index) == "fooled"
    is_transferable = is_fooling & (before.reindex(target.index) == "correct")
    num_transferable = int(is_transferable.sum())
    num_transferred = int((is_transferable & (target == "fooled")).sum())
    return {outcome: float((target == outcome).mean()) for outcome in OUTCOME_NAMES} | {
        "low": low,
        "high": high,
        "num_images": len(target),
        "transfer_rate": num_transferred / num_transferable if num_transferable else math.nan,
        "num_transferable": num_transferable,
    }


def transfer_matrix(
    sources: Mapping[str, nn.Module],
    targets: Mapping[str, nn.Module],
    data: Data,
    *,
    attack: str | Attack | None = None,
    eps: float | Sequence[float],
    norm: str = "linf",
    num_images: int,
    num_classes: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Attack every source once, and score what comes out on every target.

    Where source and target are the same model the line is that model's white-box result under this
    attack.

    Args:
        sources: Models to attack, by name: :class:`Classifier`, or modules from [0,1] images to
            logits with null last.
        targets: Models to score, likewise.
        data: The test images and labels.
        attack: An attack whose objective is fool, so that a source's null counts as a defence; or
            the name of one, which is given that objective. ``mi-fgsm`` unless given.
        eps: Budgets in pixel units, rising.
        norm: ``linf``, ``l2`` or ``l1``.
        num_images: How many of the first images to attack.
        num_classes: K, for modules that do not say.
        seed: Seed of the attack's random starts.

    Returns:
        One line per source, target and eps: columns source, target, eps_pixels and those of
        :func:`cell`.

    Raises:
        UserError: If there is no source or no target, models differ in their classes, there are
            not so many images, budgets are out of range or not rising, or the attack does not aim
            to fool.
    """
    if not all(isinstance(given, Mapping) and given for given in (sources, targets)):
        raise UserError("give at least one source and one target, in dictionaries by their names")
    images = tensors_or_loader(data)
    few = images.first(num_images)
    budgets = _budgets(eps, norm, images)
    fooling = _fooling(attack)
    image = images.batch([0])[0]
    adv_images, scored = (
        {name: as_classifier(model, num_classes, image) for name, model in given.items()}
        for given in (sources, targets)
    )
    _check_classes(adv_images, scored)
    clean = {}
    for name, target in scored.items():
        check_labels(few, target)
        clean[name] = score_clean(target, few, norm=norm, on_images=lambda _: None)
    lines: list[dict[str, Any]] = []
    for source_name, source in adv_images.items():
        crafted = craft(
            source, images, fooling, budgets, norm=norm, num_images=num_images, seed=seed
        )
        for name, target in scored.items():
            found = score_crafted(target, images, crafted, name="transfer", source_name=source_name)
            for budget in budgets:
                on_source, on_target = (
                    rows[rows["eps_pixels"] == budget] for rows in (crafted.rows, found.rows)
                )
                place = {"source": source_name, "target": name, "eps_pixels": budget}
                lines.append(place | cell(on_source, on_target, clean[name]))
    return pd.DataFrame(lines)


def _fooling(attack: str | Attack | None) -> Attack:
    """An attack that aims to fool."""
    given: Any = MIFGSM() if attack is None else attack
    if isinstance(attack, str):
        given = find_attack(attack)
        if "objective" in vars(given):  # a cascade's is that of its members, and is left alone
            given = replace(given, objective="fool")
    (fooling,) = find_attacks({"transfer": given}).values()
    if fooling.objective != "fool":
        raise UserError(
            f"an attack to {fooling.objective} takes a source's null for a success: give one whose "
            "objective is fool"
        )
    return fooling


def _budgets(eps: float | Sequence[float], norm: str, data: LabelledImages) -> list[float]:
    budgets = [float(budget) for budget in ([eps] if isinstance(eps, int | float) else eps)]
    for budget in budgets:
        check_eps(budget, norm, data.images.shape)
    if not budgets or any(low >= high for low, high in pairwise(budgets)):
        raise UserError(f"give at least one eps, each larger than the one before, not {budgets}")
    return budgets


def _check_classes(sources: Mapping[str, Classifier], targets: Mapping[str, Classifier]) -> None:
    for source_name, source in sources.items():
        for name, target in targets.items():
            if source.num_classes != target.num_classes:
                raise UserError(
                    f"the source {source_name!r} has {source.num_classes} classes, but the target "
                    f"{name!r} has {target.num_classes}: give models of the same classes"
                )


def _place(name: str, attack: Attack, source_name: str, norm: str, eps: float) -> dict[str, object]:
    return {
        "attack": name,
        "objective": attack.objective,
        "source": source_name,
        "norm": norm,
        "eps_pixels": eps,
    }

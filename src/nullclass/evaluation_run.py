"""One model of one's own, attacked and recorded as a run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nullclass import records
from nullclass.attacks import describe, find_attack
from nullclass.attacks.geometry import check_eps
from nullclass.data import Dataset
from nullclass.errors import UserError
from nullclass.evaluate import evaluate
from nullclass.files import make_folder, write_json
from nullclass.models import Classifier
from nullclass.progress import Stages
from nullclass.provenance import provenance, run_origin

NUM_EXAMPLES = 8
"""Attacked images kept for the report's gallery."""


def record_evaluation(
    model: Classifier,
    card: dict[str, Any],
    dataset: Dataset,
    folder: Path,
    *,
    name: str,
    attacks: Sequence[str],
    eps: Sequence[float],
    norm: str,
    num_images: int,
    seed: int,
) -> None:
    """Attack a model on the first test images and write rows, summary and ``run.json``.

    Args:
        model: The model, on the device to compute on.
        card: Its card, kept in the run's settings.
        dataset: The data; only its test images are used.
        folder: The run folder; a former evaluation of the same name in it is replaced.
        name: The model's name in tables.
        attacks: Names in :data:`nullclass.attacks.ATTACKS`.
        eps: Budgets in pixel units.
        norm: ``linf`` or ``l2``.
        num_images: How many of the first test images are attacked and scored.
        seed: Seed of the attacks' random starts.

    Raises:
        UserError: If the data do not fit the model, or as :func:`nullclass.evaluate.evaluate`.
    """
    if model.image_shape is not None and tuple(model.image_shape) != dataset.image_shape:
        raise UserError(
            f"the model takes images of {tuple(model.image_shape)}, {dataset.name} has "
            f"{dataset.image_shape}: give the --dataset it was trained for"
        )
    if not attacks or not eps:
        raise UserError("give at least one --attack and one --eps")
    makers = {attack: find_attack(attack) for attack in attacks}
    test = dataset.test.first(num_images)
    for budget in eps:
        check_eps(budget, norm, test.images.shape)
    make_folder(folder)
    _check_free(folder)
    origin, started = run_origin(dataset, model.mean.device), time.perf_counter()
    units = num_images * (1 + len(eps) * len(attacks))
    with (
        Stages(f"evaluating {name}", units) as stages,
        stages.stage(f"attacking {name}", units=units, cost=units) as advance,
    ):
        evaluation = evaluate(
            model,
            test,
            attacks=makers,
            eps=eps,
            norm=norm,
            num_examples=NUM_EXAMPLES,
            seed=seed,
            on_images=advance,
        )
    seconds = round(time.perf_counter() - started, 1)
    told = {"model": name, "seed": seed, "evaluation_seconds": seconds, **provenance()}
    info = {
        "study": "evaluate",
        "models": [name],
        "seeds": [seed],
        "settings": {
            "attacks": [
                {
                    "attack": attack,
                    "eps": sorted(eps),
                    "num_images": num_images,
                    "settings": describe(maker),
                    "norm": norm,
                }
                for attack, maker in makers.items()
            ],
            "card": card,
        },
        **origin,
        "seconds": seconds,
    }
    _clear(folder)
    write_json(folder / records.RUN, info)  # first: it says whose the rest is
    place = records.trial_folder(folder, name, seed)
    records.write_trial(place, evaluation.rows, evaluation.examples, told)
    records.write_summary(folder, "evaluate")


def _check_free(folder: Path) -> None:
    """Refuse a folder that holds something else than a former evaluation."""
    if (folder / records.RUN).exists():
        if records.read_info(folder).get("study") != "evaluate":
            raise UserError(f"{folder} holds a run of a study: choose another --out")
        return
    for name in (records.TRIALS, records.SUMMARY, records.REPORT):
        if (folder / name).exists():
            raise UserError(
                f"{folder} holds {name}, but no {records.RUN} that says whose it is: choose "
                "another --out, or empty that folder"
            )


def _clear(folder: Path) -> None:
    """Remove the former evaluation that ``run.json`` tells of, so that two are never mixed."""
    if not (folder / records.RUN).exists():
        return
    info = records.read_info(folder)
    (folder / records.RUN).unlink()
    for model in info.get("models", []):
        for seed in info.get("seeds", []):
            place = records.trial_folder(folder, model, seed)
            for name in (records.RESULT, records.ROWS, records.SUMMARY, records.EXAMPLES):
                (place / name).unlink(missing_ok=True)

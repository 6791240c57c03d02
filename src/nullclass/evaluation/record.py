"""One model of one's own, attacked and recorded as a run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nullclass.attacks import describe
from nullclass.certify import find_verifier
from nullclass.core.errors import UserError
from nullclass.core.files import make_folder, write_json
from nullclass.core.norms import check_eps
from nullclass.core.progress import Stages
from nullclass.core.provenance import provenance, run_origin
from nullclass.data import Dataset, load_dataset
from nullclass.evaluation.result import Evaluation
from nullclass.evaluation.run import evaluate, find_attacks
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull, calibrate, with_threshold
from nullclass.results import schema, store
from nullclass.scoring.ood import check_ood
from nullclass.training.checkpoint import load_checkpoint

NUM_EXAMPLES = 8
"""Attacked images kept for the report's gallery."""


NOTHING_HELD_OUT = (
    "no held-out images are known for this model (its card tells of none, or other data was "
    "named), and {}: train it with --validation"
)
"""Why something cannot be had."""


def load_with_data(
    checkpoint: Path, dataset: str | None, data_dir: Path | None, device: torch.device
) -> tuple[Classifier, dict[str, Any], Dataset]:
    """A checkpoint's model and card, and the data of its card or another dataset.

    Of the card's own data what the training held out is held out; the test images are the same
    however many that are.

    Raises:
        UserError: If the checkpoint or the data cannot be loaded, or nobody says which data.
    """
    model, card = load_checkpoint(checkpoint, device=device)
    name = dataset or card.get("data")
    if name is None:
        raise UserError("the card does not say which data the model is for: give --dataset")
    training = card.get("training") or {}
    num_held_out = training.get("validation", 0) if dataset is None else 0
    return model, card, load_dataset(name, data_dir=data_dir, validation=num_held_out)


def refusing(model: Classifier, dataset: Dataset, null_rate: float) -> Classifier:
    """The model as it answers by a threshold that refuses this share of clean held-out images.

    Raises:
        UserError: If there are no held-out images, or too few for that rate.
    """
    if dataset.validation is None:
        raise UserError(NOTHING_HELD_OUT.format("--null-rate needs them"))
    return with_threshold(model, calibrate(model, dataset.validation, null_rate))


def record_evaluation(
    model: Classifier,
    card: dict[str, Any],
    dataset: Dataset,
    folder: Path,
    *,
    name: str,
    attacks: Sequence[str] | None,
    eps: Sequence[float],
    norm: str,
    num_images: int,
    clean_null_rate: float | None = None,
    proofs: str | None = None,
    radius: float | None = None,
    ood: Sequence[str] = (),
    num_smallest: int = 0,
    selected_on: str | None = None,
    seed: int,
) -> Evaluation:
    """Attack a model on the first test images and write rows, summary and ``run.json``.

    Args:
        model: The model, on the device to compute on.
        card: Its card, kept in the run's settings.
        dataset: The data: test images, and held-out ones for thresholds.
        folder: The run folder; a former evaluation of the same name in it is replaced.
        name: The model's name in tables.
        attacks: Names in :data:`nullclass.attacks.ATTACKS`; unless given FGSM and the worst cases
            of fooling and, with a null class, of denying.
        eps: Budgets in pixel units.
        norm: ``linf``, ``l2`` or ``l1``.
        num_images: How many of the first test images are attacked and scored.
        clean_null_rate: Answer null by a threshold on the null score, calibrated on the held-out
            images to this share of clean ones; argmax decides unless given.
        proofs: Name of the verifier that also proves what no attack can do; nothing is proved
            unless given.
        radius: Answer only what is proved within it, else null; for a model without null.
        ood: Names in :data:`nullclass.scoring.ood.OOD` of inputs of no class to show the model.
        num_smallest: For how many images the smallest eps that fools is looked for.
        selected_on: ``test`` or ``held-out``: what the weights were picked on, if told.
        seed: Seed of the attacks' random starts.

    Returns:
        What was found.

    Raises:
        UserError: If the data do not fit the model, or as
        :func:`nullclass.evaluation.run.evaluate`.
    """
    if model.image_shape is not None and tuple(model.image_shape) != dataset.image_shape:
        raise UserError(
            f"the model takes images of {tuple(model.image_shape)}, {dataset.name} has "
            f"{dataset.image_shape}: give the --dataset it was trained for"
        )
    if radius is not None:
        if clean_null_rate is not None:
            raise UserError("a model refuses by a radius or by a threshold, not by both")
        model = ProvableNull(model, radius)
    if proofs is not None:
        find_verifier(proofs)
    has_null = model.has_null or clean_null_rate is not None
    named = find_attacks(DEFAULT_ATTACKS[has_null] if attacks is None else attacks)
    if not named or not eps:
        raise UserError("give at least one --attack and one --eps")
    for source in ood:
        check_ood(source)
    test = dataset.test.first(num_images)
    for budget in eps:
        check_eps(budget, norm, test.images.shape)
    threshold = None
    if clean_null_rate is not None:
        if dataset.validation is None:
            raise UserError("a threshold is calibrated on held-out images, and there are none")
        threshold = calibrate(model, dataset.validation, clean_null_rate)
    make_folder(folder)
    _check_free(folder)
    origin, started = run_origin(dataset.describe(), model.mean.device), time.perf_counter()
    units = len(test) * (1 + len(eps) * len(named)) + min(num_smallest, len(test))
    units += 0 if dataset.validation is None else len(dataset.validation)
    with (
        Stages(f"evaluating {name}", units) as stages,
        stages.stage(f"attacking {name}", units=units, cost=units) as advance,
    ):
        evaluation = evaluate(
            model,
            test,
            attacks=named,
            eps=eps,
            norm=norm,
            threshold=threshold,
            held_out=dataset.validation,
            ood=ood,
            num_smallest=num_smallest,
            proofs=proofs,
            data_name=dataset.name,
            selected_on=selected_on,
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
                    "num_images": len(test),
                    "settings": describe(maker),
                    "norm": norm,
                }
                for attack, maker in named.items()
            ],
            "num_held_out": 0 if dataset.validation is None else len(dataset.validation),
            **({} if radius is None else {"radius": radius}),
            **({} if proofs is None else {"proofs": proofs}),
            "card": card,
        },
        **origin,
        "seconds": seconds,
    }
    _clear(folder)
    write_json(folder / schema.RUN, info)  # first: it says whose the rest is
    place = store.trial_folder(folder, name, seed)
    evaluation.write(place, told)
    store.write_summary(folder, "evaluate")
    return evaluation


DEFAULT_ATTACKS = {
    False: ("fgsm", "worst-case"),
    True: ("fgsm", "worst-case", "worst-case-force-null"),
}
"""By whether the model may refuse: who cannot refuse cannot be made to."""


def _check_free(folder: Path) -> None:
    """Refuse a folder that holds something else than a former evaluation."""
    if (folder / schema.RUN).exists():
        if store.read_info(folder).get("study") != "evaluate":
            raise UserError(f"{folder} holds a run of a study: choose another --out")
        return
    for name in (schema.TRIALS, schema.SUMMARY, schema.REPORT):
        if (folder / name).exists():
            raise UserError(
                f"{folder} holds {name}, but no {schema.RUN} that says whose it is: choose "
                "another --out, or empty that folder"
            )


def _clear(folder: Path) -> None:
    """Remove the former evaluation that ``run.json`` tells of, so that two are never mixed."""
    if not (folder / schema.RUN).exists():
        return
    info = store.read_info(folder)
    (folder / schema.RUN).unlink()
    for model in info.get("models", []):
        for seed in info.get("seeds", []):
            place = store.trial_folder(folder, model, seed)
            for name in schema.TRIAL_FILES:
                (place / name).unlink(missing_ok=True)

"""Evaluates one checkpoint and writes a run folder."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec.structs import replace

from nullclass.attacks import describe
from nullclass.certify import find_verifier
from nullclass.core.checks import check_seed, shown
from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.core.files import remove
from nullclass.core.paths import file_name, inside
from nullclass.core.provenance import now, provenance
from nullclass.core.tensor_files import tensor_sha256
from nullclass.data import Dataset, known_names, load_dataset
from nullclass.evaluation.build import proof_info
from nullclass.evaluation.plan import plan_attacks
from nullclass.evaluation.result import Evaluation
from nullclass.evaluation.run import evaluate
from nullclass.models import Classifier
from nullclass.rejection import (
    ProvableNull,
    ThresholdedClassifier,
    calibrate,
    with_proof,
    with_threshold,
)
from nullclass.results import schema, store
from nullclass.results.frames import READ_AS_MISSING
from nullclass.results.info import DataInfo, RunInfo, Settings, TrialResult
from nullclass.results.run import read_run, write_summary
from nullclass.scoring.parts import FEW, behaviour
from nullclass.scoring.prediction_cost import NUM_IMAGES, prediction_cost
from nullclass.scoring.score import check_classes
from nullclass.training.card import Card
from nullclass.training.checkpoint import load_checkpoint

NUM_EXAMPLES = 8
"""Adversarial images kept for the report's gallery."""

DEFAULT_ATTACKS = {
    False: ("fgsm", "worst-case"),
    True: ("fgsm", "worst-case", "worst-case-force-null"),
}
"""By whether the model can answer null."""

NOTHING_HELD_OUT = (
    "no held-out images are known for this model and these data, and {}: give some by --held-out, "
    "which evaluate, refuse and curve have, or train it with --validation"
)
"""Error message, to be completed with what needs them."""


def load_with_data(
    checkpoint: Path,
    data: str | None,
    device: torch.device,
    *,
    resize: Sequence[int] | None = None,
    allow_import: bool = False,
) -> tuple[Classifier, Card, Dataset]:
    """Return a checkpoint's model and card, and the data of its card or other data.

    Of the data that the model was trained on, by their checksum, the images that its training held
    out are held out again. The test images do not depend on that.

    Args:
        checkpoint: The checkpoint's folder, or the file of its weights.
        data: As for :func:`nullclass.load_dataset`. Default: the name in the card.
        device: Device of the model.
        resize: As for :func:`nullclass.load_dataset`.
        allow_import: As for :func:`nullclass.load_checkpoint`.

    Raises:
        UserError: If the checkpoint or the data cannot be loaded, the card names no known data, or
            data with another checksum, or the data have labels that are not classes of the model.
    """
    model, card = load_checkpoint(checkpoint, allow_import=allow_import, device=device)
    origin = card.origin
    if data is None and origin.data is None:
        raise UserError("the card does not name the model's data: pass --data")
    if data is None and origin.data not in known_names():
        raise UserError(f"the model was trained on {shown(origin.data)}: pass its place by --data")
    dataset = load_dataset(data or str(origin.data), validation=0, resize=resize)
    if dataset.checksum == origin.data_checksum:
        dataset = dataset.hold_out(origin.num_held_out)
    elif data is None and origin.data_checksum is not None:
        raise UserError(
            f"the model was trained on other data named {origin.data} (checksum "
            f"{origin.data_checksum[:12]}…): pass its place by --data"
        )
    check_classes(dataset, model)
    return model, card, dataset


def refuse_at_rate(model: Classifier, dataset: Dataset, null_rate: float) -> ThresholdedClassifier:
    """Return the model under a threshold that refuses this share of clean held-out images.

    Raises:
        UserError: If there are no held-out images, or too few for that rate.
    """
    if dataset.validation is None:
        raise UserError(NOTHING_HELD_OUT.format("--null-rate needs them"))
    return with_threshold(model, calibrate(model, dataset.validation, null_rate))


def record_evaluation(
    model: Classifier,
    card: Card | None,
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
    verifier: str | None = None,
    ood: Sequence[str] = (),
    num_smallest: int = 0,
    distribution: bool = False,
    checks: bool = True,
    seed: int,
) -> Evaluation:
    """Evaluate a model on the first test images and write rows, summary and ``run.json``.

    An earlier evaluation in the folder stays valid until this one is finished, and is then
    replaced. An interrupted call resumes when it is repeated, and a finished one only reads the
    result.

    Args:
        model: The model.
        card: Its card, for ``run.json``; it says on which images the weights were selected.
        dataset: Its test images are attacked; its held-out images calibrate thresholds.
        folder: The run folder: a new or empty one, or that of an earlier evaluation.
        name: The model's name in rows, file names and report.
        attacks: Names of attacks. Default: FGSM and the worst case of ``fool`` and, with a null
            class, of ``force-null``.
        eps: Budgets in pixel units.
        norm: ``linf``, ``l2`` or ``l1``.
        num_images: How many of the first test images are scored and attacked.
        clean_null_rate: Answer null by a threshold at which this share of the held-out images is
            null.
        radius: Answer what is proved within this radius, in pixel units: as for
            :func:`nullclass.rejection.with_proof`.
        verifier: What proves it, likewise.
        proofs: As for ``evaluate``.
        ood: As for ``evaluate``.
        num_smallest: As for ``evaluate``.
        distribution: As for ``evaluate``.
        checks: As for ``evaluate``.
        seed: Seed of the attacks' random starts.

    Returns:
        The evaluation, as :func:`nullclass.evaluation.run.evaluate` returns it.

    Raises:
        UserError: If the dataset does not fit the model, the folder holds something else, another
            process writes to it, or as for :func:`nullclass.evaluation.run.evaluate`.
    """
    if model.image_shape is not None and tuple(model.image_shape) != dataset.image_shape:
        raise UserError(
            f"the model takes images of {tuple(model.image_shape)}, {dataset.name} has "
            f"{dataset.image_shape}: give the --data it was trained for"
        )
    check_classes(dataset, model)
    check_seed(seed)
    if name in READ_AS_MISSING:
        raise UserError(
            f"pandas reads the name {name!r} in a table as missing: choose another one (on the "
            "command line that of the checkpoint's folder)"
        )
    has_radius = radius is not None or isinstance(model, ProvableNull)
    if has_radius and clean_null_rate is not None:
        raise UserError("use either a radius or a threshold (null rate), not both")
    model = with_proof(model, radius, verifier)
    if proofs is not None:
        find_verifier(proofs)
    test = dataset.test.first(num_images)
    if attacks is None:
        attacks = DEFAULT_ATTACKS[model.has_null or clean_null_rate is not None]
    plan = plan_attacks(attacks, eps, norm, None, test)
    if not plan:
        raise UserError("give at least one --attack")
    if clean_null_rate is not None:
        model = refuse_at_rate(model, dataset, clean_null_rate)
    settings: dict[str, Any] = {
        "held_out": dataset.validation,
        "ood": ood,
        "num_smallest": num_smallest,
        "distribution": distribution,
        "proofs": proofs,
        "data_name": dataset.name,
        "selected_on": None if card is None else card.origin.weights_selected_on,
        "num_examples": NUM_EXAMPLES,
        "seed": seed,
        "checks": checks,
    }
    recorded = Settings(
        num_held_out=0 if dataset.validation is None else len(dataset.validation),
        attacks=[
            json_values(
                {
                    "attack": attack,
                    "eps": planned.budgets,
                    "num_images": len(test),
                    "settings": describe(planned.attack),
                    "norm": norm,
                }
            )
            for attack, planned in plan.items()
        ],
        evaluation=json_values(
            {key: value for key, value in settings.items() if key != "held_out"}
            | {"clean_null_rate": clean_null_rate}
            | {"held_out_sha256": dataset.validation and dataset.validation.sha256()}
            | (proof_info(model) or {})
        ),
        card={} if card is None else json_values(card),
    )
    digest = _digest(model, dataset, recorded)
    trial = f"{schema.TRIALS}/{file_name(f'{name}-seed{seed}-{digest}')}"
    info = RunInfo(
        format=schema.FORMAT,
        study=schema.EVALUATION,
        models=[name],
        seeds=[seed],
        trials={f"{name}, seed {seed}": trial},
        data=msgspec.convert(dataset.describe(), DataInfo),
        device=str(model.mean.device),
        provenance=provenance(),
        started=now(),
        settings=recorded,
    )
    with store.writing(folder):
        earlier = store.read_info(folder) if (folder / schema.RUN).exists() else None
        if earlier is not None and earlier.study != schema.EVALUATION:
            raise UserError(f"{folder} holds a run of {earlier.study}: choose another --out")
        if earlier is None:  # from now on the folder is known as a run folder
            store.write_info(folder, info)
        trial_folder = inside(folder, trial)
        parts = trial_folder / schema.PARTS
        is_complete = store.is_complete(trial_folder)
        if is_complete:
            _say(f"{folder} holds this evaluation already: nothing is computed again")
        elif parts.is_dir():
            _say(f"{folder} holds finished parts of this evaluation: it goes on from there")
        if not is_complete:
            started = time.perf_counter()
            try:
                evaluation = evaluate(
                    model,
                    test,
                    attacks=attacks,
                    eps=eps,
                    norm=norm,
                    progress=True,
                    parts=parts,
                    **settings,
                )
            except Exception:
                if earlier is None and not any(parts.glob("*")):  # before any work
                    remove(trial_folder)
                    with suppress(OSError):  # it holds other trials
                        trial_folder.parent.rmdir()
                    remove(folder / schema.RUN)
                raise
            evaluation.write(
                trial_folder,
                model=name,
                seed=seed,
                data_checksum=dataset.checksum,
                device=info.device,
                provenance=info.provenance,
                evaluation_seconds=round(time.perf_counter() - started, 1),
                prediction=prediction_cost(model, test.batch(slice(0, NUM_IMAGES))[0]),
            )
        elif earlier is not None and earlier.trials == info.trials:
            info = earlier
        result = store.read_result(trial_folder, TrialResult)
        info = replace(info, seconds=result.evaluation_seconds)
        with store.drawing(folder):  # of the earlier evaluation
            if earlier is not None and earlier.trials != info.trials:
                _say(f"{folder} held the evaluation of {', '.join(earlier.trials)}: it is replaced")
            if earlier is None or earlier.trials != info.trials:
                store.remove_views(folder)
            store.write_info(folder, info)  # the commit: before it, the earlier one is valid
            run = read_run(folder)
            write_summary(run)
            store.remove_others(folder)
    return Evaluation.read(run.trials[0])


def _say(text: str) -> None:
    """Print a line between those of the progress."""
    print(text, file=sys.stderr)


def _answers(model: Classifier, dataset: Dataset) -> str | None:
    """Return a hash of what a model does whose code may change; None for a network of ours."""
    if model.architecture is not None:
        return None
    return "".join(map(tensor_sha256, behaviour(model, dataset.test.batch(FEW)[0])))


def _digest(model: Classifier, dataset: Dataset, settings: Settings) -> str:
    """Return a hash of all that decides the rows of an evaluation."""
    threshold = None
    if isinstance(model, ThresholdedClassifier):
        threshold = model.threshold.to_dict()
    parts = {
        "format": schema.FORMAT,
        "nullclass": provenance().versions["nullclass"],
        "settings": replace(settings, card={}),
        "model": repr(model),
        "answers": _answers(model, dataset),
        "weights": {name: tensor_sha256(tensor) for name, tensor in model.state_dict().items()},
        "threshold": threshold,
        "data": dataset.checksum,
        "device": model.mean.device.type,
    }
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:10]

"""Evaluates the model of a trial: clean images, proofs, attacks, crafted images, perturbations."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import ATTACKS, Attack
from nullclass.core.devices import exact_float32
from nullclass.core.progress import Advance
from nullclass.core.tensor_files import save_tensors
from nullclass.diagnostics.probes import MAX_SHARE
from nullclass.evaluation.build import build_evaluation, proof_info, threshold_info
from nullclass.experiments.config import Trial
from nullclass.experiments.context import RunContext, make_attack
from nullclass.experiments.jobs import folder_of
from nullclass.models import Classifier
from nullclass.nulls.perturb import make_perturbation
from nullclass.rejection import ThresholdedClassifier
from nullclass.results import frames, schema
from nullclass.results.run import read_trial
from nullclass.results.schema import SELF
from nullclass.scoring.attacked import AttackResult, score_attack
from nullclass.scoring.crafted import Crafted, score_crafted
from nullclass.scoring.fgsm_thresholds import find_thresholds
from nullclass.scoring.parts import FEW, Parts
from nullclass.scoring.prediction_cost import NUM_IMAGES, prediction_cost
from nullclass.scoring.proofs import prove
from nullclass.scoring.score import OnImages, score_clean
from nullclass.scoring.sweeps import score_radii, score_sizes


@exact_float32()
def evaluate_trial(run: RunContext, trial: Trial, folder: Path, advance: Advance) -> None:
    """Evaluate the model of a trial and write the trial's folder.

    Until then, the folder keeps what is finished (:data:`nullclass.results.schema.PARTS`): after an
    interruption the next call goes on there.
    """
    started = time.perf_counter()
    test, parts = run.dataset.test, Parts(folder / schema.PARTS)
    model = run.load_model(trial.model_spec)
    indices, thresholds = _images_to_attack(run, trial, model, folder, parts.of("thresholds"))
    if trial.decision_grid:
        _write_decisions(run, model, trial.decision_grid, folder)
    num_attacked = _num_attacked(trial, len(indices))
    num_checked = MAX_SHARE * num_attacked if trial.is_checked else 0
    units = _num_images(trial) + num_attacked + num_checked

    def on_images(count: float) -> None:
        advance(count / units)

    clean = test.up_to(trial.num_clean)
    clean_rows = score_clean(
        model, clean, norm=trial.norm, on_images=on_images, parts=parts.of("clean")
    )
    # Before the attacks, which take hours: a layer without bounds is refused at once.
    proved = [
        prove(
            model,
            test,
            plan.eps,
            verifier=trial.verifier,
            num_images=plan.num_images,
            on_images=on_images,
            parts=parts.of(f"proofs-{number}"),
        )
        for number, plan in enumerate(trial.proofs)
    ]
    if trial.radii:
        radii = score_radii(model, clean, trial.radii, on_images=on_images, parts=parts.of("radii"))
        frames.write_frame(folder / schema.RADII, radii)
    certified = pd.concat(proved, ignore_index=True) if proved else None
    attacks = {plan.name: make_attack(plan, clean) for plan in trial.attacks}
    results = _score_attacks(
        run, trial, model, attacks, indices, thresholds, certified, on_images, parts
    )
    results += _score_crafted(run, trial, model, on_images, parts)
    if trial.sizes:
        sizes = pd.concat(_score_sizes(run, trial, model, on_images, parts), ignore_index=True)
        frames.write_frame(folder / schema.SIZES, sizes)
    info = {
        "num_classes": model.num_classes,
        "norm": trial.norm,
        "data": run.dataset.name,
        "threshold": threshold_info(model, clean),
        "proof": proof_info(model),
        "selected_on": trial.training.selected_on(trial.selection) or "nothing",
    }
    evaluation = build_evaluation(
        model,
        test,
        clean_rows,
        results,
        {plan.name: attacks[plan.name] for plan in trial.attacks if not plan.is_transfer},
        info,
        certified=certified,
        checks=trial.is_checked,
        seed=trial.seed,
        parts=parts.of("checks"),
    )
    on_images(num_checked)
    evaluation.write(
        folder,
        model=trial.model,
        selection=trial.selection,
        trained_in=folder_of(trial.training, run.dataset.checksum),
        evaluation_seconds=round(time.perf_counter() - started, 1),
        prediction=prediction_cost(model, test.batch(slice(0, NUM_IMAGES))[0]),
        **run.describe(trial),
    )


def _num_attacked(trial: Trial, num_images: int) -> int:
    """Return the number of images that the attacks of a trial get, of so many, for its progress."""
    return sum(min(plan.num_images, num_images) * max(len(plan.eps), 1) for plan in trial.attacks)


def _num_images(trial: Trial) -> int:
    """Return the number of further images that a trial scores."""
    crafted = (len(craft.plan.eps) * craft.plan.num_images for craft in trial.crafted)
    sizes = (len(plan.sizes) * plan.num_images for plan in trial.sizes)
    proofs = sum(plan.num_images for plan in trial.proofs)
    clean = trial.num_clean * (2 if trial.radii else 1)
    return clean + proofs + sum(crafted) + sum(sizes)


def _score_attacks(
    run: RunContext,
    trial: Trial,
    model: Classifier,
    attacks: dict[str, Attack],
    indices: Tensor,
    thresholds: Tensor,
    certified: pd.DataFrame | None,
    on_images: OnImages,
    parts: Parts,
) -> list[AttackResult]:
    source = None
    if trial.source is not None:
        source = run.load_trained(trial.source.training, trial.source.selection)
    results = []
    for number, plan in enumerate(trial.attacks):
        part = slice(0, min(plan.num_images, len(indices)))
        result = score_attack(
            model,
            run.dataset.test,
            indices[part],
            plan.name,
            attacks[plan.name],
            plan.eps or (plan.factor * thresholds[part]).clamp(max=1),
            norm=trial.norm,
            source=source if plan.is_transfer else None,
            source_name=trial.source.model if plan.is_transfer and trial.source else SELF,
            certified=certified,
            num_examples=plan.num_examples,
            seed=trial.seed,
            on_images=on_images,
            parts=parts.of(f"attacks-{number}"),
        )
        results.append(result)
    return results


def _score_crafted(
    run: RunContext, trial: Trial, model: Classifier, on_images: OnImages, parts: Parts
) -> list[AttackResult]:
    results = []
    for number, config in enumerate(trial.crafted):
        attack = ATTACKS[config.plan.attack](**config.plan.settings)
        crafted = Crafted.load(run.folder_of(config), attack, config.plan.norm)
        result = score_crafted(
            model,
            run.dataset.test,
            crafted,
            name=config.attack_name,
            source_name=SELF if config.source == trial.model_spec else config.source_name,
            on_images=on_images,
            parts=parts.of(f"crafted-{number}"),
        )
        results.append(result)
    return results


def _score_sizes(
    run: RunContext, trial: Trial, model: Classifier, on_images: OnImages, parts: Parts
) -> list[pd.DataFrame]:
    # The probabilities are the network's own: a threshold changes the prediction, not them.
    network = model.model if isinstance(model, ThresholdedClassifier) else model
    return [
        score_sizes(
            network,
            run.dataset.test.up_to(plan.num_images),
            make_perturbation(plan.perturbation, plan.settings),
            plan.norm,
            plan.sizes,
            answering=model,
            seed=trial.seed,
            on_images=on_images,
            parts=parts.of(f"sizes-{number}"),
        )
        for number, plan in enumerate(trial.sizes)
    ]


def _images_to_attack(
    run: RunContext, trial: Trial, model: Classifier, folder: Path, parts: Parts
) -> tuple[Tensor, Tensor]:
    """Return indices of test images, and their thresholds in pixel units (empty if unknown)."""
    if trial.thresholds is not None:
        settings, test = asdict(trial.thresholds), run.dataset.test
        kept = parts.of(models=[model], images=test.batch(FEW)[0], data=test, settings=settings)
        indices, thresholds = kept.keep(lambda: find_thresholds(model, test, **settings))
        # All digits: a trial that reads the file attacks at the same eps.
        table = pd.DataFrame({"image": indices.numpy(), "threshold": thresholds.double().numpy()})
        frames.write_frame(folder / schema.THRESHOLDS, table)
        return indices, thresholds
    if trial.images_from is not None:
        table = read_trial(run.folder_of(trial.images_from)).thresholds
        indices = torch.tensor(table["image"].to_numpy(dtype="int64"))
        return indices, torch.tensor(table["threshold"].to_numpy(dtype="float32"))
    return torch.arange(len(run.dataset.test)), torch.empty(0)


@torch.no_grad()
def _write_decisions(run: RunContext, model: Classifier, side: int, folder: Path) -> None:
    """Write the predictions on a grid over the unit cube, whose axes are the three pixels."""
    axis = torch.linspace(0, 1, side)
    grid = torch.cartesian_prod(axis, axis, axis).view(-1, 1, 1, 3)
    predictions = [model.predict(part.to(run.device)).cpu() for part in grid.split(8192)]
    cube = torch.cat(predictions).view(side, side, side).to(torch.int8)
    save_tensors(folder / schema.DECISIONS, {"predictions": cube})

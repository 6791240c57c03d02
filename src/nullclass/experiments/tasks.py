"""Does one job: a training, a null curve, crafted images or a trial."""

from __future__ import annotations

from pathlib import Path

import torch

from nullclass.core.devices import exact_float32
from nullclass.core.documents import json_values
from nullclass.core.errors import StateError, UserError
from nullclass.core.files import make_folder, remove, working_in
from nullclass.core.progress import Advance
from nullclass.data import Dataset
from nullclass.experiments.config import Config, Craft, Estimate, Training
from nullclass.experiments.context import RunContext, make_attack
from nullclass.experiments.trainings import Trainer, check_data, train_substitute
from nullclass.experiments.trials import evaluate_trial
from nullclass.nulls.estimate_curve import estimate_curve
from nullclass.nulls.perturb import make_perturbation
from nullclass.results import schema, store
from nullclass.results.info import CraftResult, EstimateResult, TrainingResult
from nullclass.results.null_curve import NullCurve, write_curve
from nullclass.scoring.crafted import craft
from nullclass.scoring.parts import Parts


def run_task(
    config: Config,
    run_folder: Path,
    dataset: Dataset,
    *,
    device: torch.device,
    advance: Advance = lambda _: None,
) -> None:
    """Do a job and write its folder, unless it is finished.

    Args:
        config: The training, estimate, craft or trial.
        run_folder: The run folder; all that the job needs is finished there.
        dataset: The data.
        device: Device to compute on.
        advance: Called with the share of the job done since the last call.

    Raises:
        UserError: If the data are not those of the config, a needed result is missing or damaged,
            the training diverges, or the folder cannot be written.
    """
    run = RunContext(run_folder, dataset, device)
    folder = run.folder_of(config)
    if store.is_complete(folder):
        return
    with working_in(run_folder):
        make_folder(folder)
        store.invalidate(folder)
        if isinstance(config, Training):
            try:
                epochs = _train(run, config, folder, advance)
            except StateError:  # damaged, or of another device: start again
                remove(folder / schema.STATE)
                epochs = _train(run, config, folder, advance)
            result = TrainingResult(name=config.name, epochs=epochs, **run.describe(config))
            store.finalize(folder, result)
            remove(folder / schema.STATE)  # last: a kill before loses no training
        elif isinstance(config, Estimate):
            _estimate(run, config, folder, advance)
        elif isinstance(config, Craft):
            _craft(run, config, folder, advance)
        else:
            evaluate_trial(run, config, folder, advance)


def _train(run: RunContext, training: Training, folder: Path, advance: Advance) -> dict[str, int]:
    """Train or resume, and write the weights; return the epoch of each selection."""
    if training.queries is not None:
        target = run.load_model(training.queries.target)
        train_substitute(training, target, run.dataset, folder, run.device)
        return {}
    start = None if training.start is None else run.load_trained(training.start)
    curve = None
    if training.nulls is not None and training.nulls.estimate is not None:
        result = store.read_result(run.folder_of(training.nulls.estimate), EstimateResult)
        curve = NullCurve.from_dict(result.curve)
    trainer = Trainer(training, run.dataset, device=run.device, start=start, curve=curve)
    return trainer.write_selected(trainer.train(folder, advance), folder)


@exact_float32()
def _estimate(run: RunContext, estimate: Estimate, folder: Path, advance: Advance) -> None:
    check_data(estimate.model.training, run.dataset)
    if run.dataset.validation is None:
        raise UserError("a null curve needs held-out images, but the dataset has none")
    model = run.load_model(estimate.model)
    held_out = run.dataset.validation.up_to(estimate.num_images)
    units = len(held_out) * (estimate.num_sizes + 12)  # the search for the range ends early
    curve = estimate_curve(
        model,
        held_out,
        make_perturbation(estimate.perturbation, estimate.settings),
        estimate.norm,
        num_sizes=estimate.num_sizes,
        seed=estimate.seed,
        on_images=lambda count: advance(count / units),
    )
    write_curve(folder / schema.CURVE, curve)
    name, values = estimate.model.training.name, json_values(curve.to_dict())
    store.finalize(folder, EstimateResult(model=name, curve=values, **run.describe(estimate)))


@exact_float32()
def _craft(run: RunContext, config: Craft, folder: Path, advance: Advance) -> None:
    model = run.load_model(config.source)
    plan, test = config.plan, run.dataset.test
    num_images = min(plan.num_images, len(test))
    units = num_images * len(plan.eps)
    crafted = craft(
        model,
        test,
        make_attack(plan, test),
        plan.eps,
        norm=plan.norm,
        num_images=num_images,
        seed=config.seed,
        name=plan.name,
        on_images=lambda count: advance(count / units),
        parts=Parts(folder / schema.PARTS),
    )
    crafted.save(folder)
    result = CraftResult(model=config.source_name, attack=plan.name, **run.describe(config))
    store.finalize(folder, result)

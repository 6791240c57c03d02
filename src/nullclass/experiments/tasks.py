"""Does one job: a training, a null curve, crafted images or a trial."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import ATTACKS, Attack
from nullclass.attacks.base import TakesReferenceImages
from nullclass.core.errors import StateError, UserError
from nullclass.core.files import make_folder, read_json
from nullclass.core.progress import Advance
from nullclass.core.provenance import provenance
from nullclass.core.tensor_files import save_tensors
from nullclass.data import Dataset, LabelledImages
from nullclass.evaluation.run import build_evaluation, threshold_info
from nullclass.experiments.config import (
    AttackPlan,
    Config,
    Craft,
    Estimate,
    ModelSpec,
    Training,
    Trial,
)
from nullclass.experiments.jobs import folder_of
from nullclass.experiments.trainings import (
    Trainer,
    check_data,
    finish_training,
    training_card,
)
from nullclass.metrics.rates import SELF
from nullclass.models import Classifier
from nullclass.nulls.estimate_curve import estimate_curve
from nullclass.nulls.perturb import make_perturbation
from nullclass.rejection import (
    ProvableNull,
    ThresholdedClassifier,
    calibrate,
    with_threshold,
)
from nullclass.results import frames, schema, store
from nullclass.results.null_curve import NullCurve, write_curve
from nullclass.results.schema import LAST
from nullclass.scoring.crafted import Crafted, craft, score_crafted
from nullclass.scoring.fgsm_thresholds import find_thresholds
from nullclass.scoring.proofs import prove
from nullclass.scoring.score import AttackResult, OnImages, score_attack, score_clean
from nullclass.scoring.sweeps import score_radii, score_sizes
from nullclass.training.checkpoint import load_checkpoint, save_checkpoint
from nullclass.training.queries import num_own
from nullclass.training.substitutes import query_substitute


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
    make_folder(folder)
    store.invalidate(folder)
    store.clear_leftovers(folder)
    if isinstance(config, Training) and config.queries is not None:
        _query(run, config, folder)
    elif isinstance(config, Training):
        _train(run, config, folder, advance)
    elif isinstance(config, Estimate):
        _estimate(run, config, folder, advance)
    elif isinstance(config, Craft):
        _craft(run, config, folder, advance)
    else:
        _evaluate(run, config, folder, advance)


@dataclass(frozen=True)
class RunContext:
    """Where the jobs of a run read, and what they compute on."""

    run_folder: Path
    dataset: Dataset
    device: torch.device

    def folder_of(self, config: Config) -> Path:
        """Return the folder of a job."""
        return self.run_folder / folder_of(config, self.dataset.checksum)

    def load_trained(self, training: Training, selection: str = LAST) -> Classifier:
        """Return a checkpoint of a finished training."""
        return load_checkpoint(self.folder_of(training) / selection, device=self.device)[0]

    def load_model(self, spec: ModelSpec) -> Classifier:
        """Return a trained model with its way to refuse."""
        model = self.load_trained(spec.training, spec.selection)
        if spec.radius is not None:
            return ProvableNull(model, spec.radius)
        if spec.null_rate is None:
            return model
        if self.dataset.validation is None:
            raise UserError("a threshold needs held-out images, but the dataset has none")
        return with_threshold(model, calibrate(model, self.dataset.validation, spec.null_rate))


def _train(run: RunContext, training: Training, folder: Path, advance: Advance) -> None:
    start = None if training.start is None else run.load_trained(training.start)
    curve = None
    if training.nulls is not None and training.nulls.estimate is not None:
        result = run.folder_of(training.nulls.estimate) / schema.RESULT
        curve = NullCurve.from_dict(read_json(result, "null curve").get("curve", {}))

    def train() -> None:
        trainer = Trainer(training, run.dataset, device=run.device, start=start, curve=curve)
        trainer.write_job(trainer.train(folder, advance), folder)

    try:
        train()
    except StateError:  # damaged, or of another device: start again
        (folder / schema.STATE).unlink()
        train()


def _query(run: RunContext, training: Training, folder: Path) -> None:
    """Train a substitute on another model's answers; an interrupted one starts again."""
    assert training.queries is not None
    check_data(training, run.dataset)
    target = run.load_model(training.queries.target)
    started = time.perf_counter()
    test = run.dataset.test
    substitute, rounds = query_substitute(
        target,
        test.subset(slice(-num_own(len(test)), None)),
        training.queries.plan,
        architecture=training.architecture,
        recipe=training.recipe,
        seed=training.seed,
        device=run.device,
    )
    seconds = time.perf_counter() - started
    frames.write_frame(folder / schema.QUERIES, pd.DataFrame([asdict(entry) for entry in rounds]))
    card = training_card(training, seconds, run.dataset, run.device)
    save_checkpoint(substitute, folder / LAST, metadata=card)
    finish_training(training, folder, run.dataset, {})


def _estimate(run: RunContext, estimate: Estimate, folder: Path, advance: Advance) -> None:
    check_data(estimate.model.training, run.dataset)
    if run.dataset.validation is None:
        raise UserError("a null curve needs held-out images, but the dataset has none")
    model = run.load_model(estimate.model)
    held_out = _first(run.dataset.validation, estimate.num_images)
    units = len(held_out) * (estimate.num_sizes + 12)  # the search for the range ends early
    curve = estimate_curve(
        model,
        held_out,
        make_perturbation(estimate.perturbation, estimate.settings),
        estimate.norm,
        num_sizes=estimate.num_sizes,
        always=estimate.always,
        seed=estimate.seed,
        on_images=lambda count: advance(count / units),
    )
    write_curve(folder / schema.CURVE, curve)
    result = {
        "model": estimate.model.training.name,
        "seed": estimate.seed,
        "curve": curve.to_dict(),
        "config": asdict(estimate),
        "data_checksum": run.dataset.checksum,
    }
    store.finalize(folder, result | provenance())


def _craft(run: RunContext, config: Craft, folder: Path, advance: Advance) -> None:
    model = run.load_model(config.source)
    plan, test = config.plan, run.dataset.test
    num_images = min(plan.num_images, len(test))
    units = num_images * len(plan.eps)
    crafted = craft(
        model,
        test,
        _make_attack(plan, test),
        plan.eps,
        norm=plan.norm,
        num_images=num_images,
        seed=config.seed,
        name=plan.name,
        on_images=lambda count: advance(count / units),
    )
    crafted.save(folder)
    result = {
        "model": config.source_name,
        "seed": config.seed,
        "attack": plan.name,
        "config": asdict(config),
        "data_checksum": run.dataset.checksum,
        "device": str(run.device),
    }
    store.finalize(folder, result | provenance())


def _evaluate(run: RunContext, trial: Trial, folder: Path, advance: Advance) -> None:
    started = time.perf_counter()
    test = run.dataset.test
    model = run.load_model(trial.model_spec)
    indices, thresholds = _images_to_attack(run, trial, model, folder)
    if trial.decision_grid:
        _write_decisions(run, model, trial.decision_grid, folder)
    units = _num_images(trial, len(indices))

    def on_images(count: int) -> None:
        advance(count / units)

    clean = _first(test, trial.num_clean)
    clean_rows = score_clean(model, clean, norm=trial.norm, on_images=on_images)
    # Before the attacks, which take hours: a layer without bounds is refused at once.
    proved = [
        prove(
            model,
            test,
            plan.eps,
            norm=plan.norm,
            verifier=plan.verifier,
            num_images=plan.num_images,
            on_images=on_images,
        )
        for plan in trial.proofs
    ]
    if trial.radii:
        radii = score_radii(model, clean, trial.radii, on_images=on_images)
        frames.write_frame(folder / schema.RADII, radii)
    attacks = {plan.name: _make_attack(plan, clean) for plan in trial.attacks}
    results = _score_attacks(run, trial, model, attacks, indices, thresholds, on_images)
    results += _score_crafted(run, trial, model, on_images)
    if trial.sizes:
        sizes = pd.concat(_score_sizes(run, trial, model, on_images), ignore_index=True)
        frames.write_frame(folder / schema.SIZES, sizes)
    info = {
        "num_classes": model.num_classes,
        "norm": trial.norm,
        "data": run.dataset.name,
        "threshold": threshold_info(model, clean),
        "selected_on": None if trial.selection == LAST else trial.selection,
    }
    evaluation = build_evaluation(
        model,
        test,
        clean_rows,
        results,
        {plan.name: attacks[plan.name] for plan in trial.attacks if not plan.is_transfer},
        info,
        certified=pd.concat(proved, ignore_index=True) if proved else None,
        checks="full" if trial.is_checked else "none",
        seed=trial.seed,
    )
    result = {
        "model": trial.model,
        "seed": trial.seed,
        "selection": trial.selection,
        "config": asdict(trial),
        "trained_in": folder_of(trial.training, run.dataset.checksum),
        "data_checksum": run.dataset.checksum,
        "device": str(run.device),
        "evaluation_seconds": round(time.perf_counter() - started, 1),
    }
    evaluation.write(folder, result | provenance())


def _num_images(trial: Trial, num_attacked: int) -> int:
    """Return the number of images that a trial scores, for its progress."""
    attacks = (min(plan.num_images, num_attacked) * max(len(plan.eps), 1) for plan in trial.attacks)
    crafted = (len(craft.plan.eps) * craft.plan.num_images for craft in trial.crafted)
    sizes = (len(plan.sizes) * plan.num_images for plan in trial.sizes)
    proofs = sum(plan.num_images for plan in trial.proofs)
    clean = trial.num_clean * (2 if trial.radii else 1)
    return clean + proofs + sum(attacks) + sum(crafted) + sum(sizes)


def _score_attacks(
    run: RunContext,
    trial: Trial,
    model: Classifier,
    attacks: dict[str, Attack],
    indices: Tensor,
    thresholds: Tensor,
    on_images: OnImages,
) -> list[AttackResult]:
    source = None
    if trial.source is not None:
        source = run.load_trained(trial.source.training, trial.source.selection)
    results = []
    for plan in trial.attacks:
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
            num_examples=plan.num_examples,
            seed=trial.seed,
            on_images=on_images,
        )
        results.append(result)
    return results


def _score_crafted(
    run: RunContext, trial: Trial, model: Classifier, on_images: OnImages
) -> list[AttackResult]:
    results = []
    for config in trial.crafted:
        attack = ATTACKS[config.plan.attack](**config.plan.settings)
        crafted = Crafted.load(run.folder_of(config), attack, config.plan.norm)
        result = score_crafted(
            model,
            run.dataset.test,
            crafted,
            name=config.attack_name,
            source_name=SELF if config.source == trial.model_spec else config.source_name,
            on_images=on_images,
        )
        results.append(result)
    return results


def _score_sizes(
    run: RunContext, trial: Trial, model: Classifier, on_images: OnImages
) -> list[pd.DataFrame]:
    # The probabilities are the network's own: a threshold changes the prediction, not them.
    network = model.model if isinstance(model, ThresholdedClassifier) else model
    return [
        score_sizes(
            network,
            _first(run.dataset.test, plan.num_images),
            make_perturbation(plan.perturbation, plan.settings),
            plan.norm,
            plan.sizes,
            answering=model,
            seed=trial.seed,
            on_images=on_images,
        )
        for plan in trial.sizes
    ]


def _images_to_attack(
    run: RunContext, trial: Trial, model: Classifier, folder: Path
) -> tuple[Tensor, Tensor]:
    """Return indices of test images, and their thresholds in pixel units (empty if unknown)."""
    if trial.thresholds is not None:
        plan = trial.thresholds
        indices, thresholds = find_thresholds(
            model, run.dataset.test, first_image=plan.first_image, num_images=plan.num_images
        )
        # All digits: a trial that reads the file attacks at the same eps.
        table = pd.DataFrame({"image": indices.numpy(), "threshold": thresholds.double().numpy()})
        frames.write_frame(folder / schema.THRESHOLDS, table)
        return indices, thresholds
    if trial.images_from is not None:
        table = store.read_trial(run.folder_of(trial.images_from)).thresholds
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


def _first(images: LabelledImages, count: int) -> LabelledImages:
    return images.first(min(count, len(images)))


def _make_attack(plan: AttackPlan, candidates: LabelledImages) -> Attack:
    attack = ATTACKS[plan.attack](**plan.settings)
    if isinstance(attack, TakesReferenceImages):
        attack = attack.with_reference_images(candidates)
    return attack

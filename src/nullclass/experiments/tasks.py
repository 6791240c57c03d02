"""One job, done: a model trained, a curve estimated, images crafted, or a trial recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
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
    Queries,
    SizePlan,
    Training,
    Trial,
    name_of,
)
from nullclass.experiments.jobs import place_of
from nullclass.experiments.trained import (
    about_trained,
    check_data,
    load_deployed,
    load_trained,
    train_from,
    write_training,
)
from nullclass.metrics.rates import SELF
from nullclass.models import Classifier
from nullclass.nulls.estimate_curve import estimate_curve
from nullclass.nulls.perturb import make_perturbation
from nullclass.rejection import ThresholdedClassifier
from nullclass.results import frames, schema, store
from nullclass.results.null_curve import NullCurve, write_curve
from nullclass.results.schema import LAST
from nullclass.scoring.by_radius import score_radii
from nullclass.scoring.by_size import score_sizes
from nullclass.scoring.crafted import Crafted, score_crafted
from nullclass.scoring.crafted import craft as make_images
from nullclass.scoring.fgsm_thresholds import find_thresholds
from nullclass.scoring.proofs import prove
from nullclass.scoring.rows import OnImages
from nullclass.scoring.run_attack import AttackResult, score_attack, score_clean
from nullclass.training.checkpoint import save_checkpoint
from nullclass.training.queries import num_own
from nullclass.training.substitutes import query_substitute


def do(
    config: Config,
    run_folder: Path,
    dataset: Dataset,
    *,
    device: torch.device,
    advance: Advance = lambda _: None,
) -> None:
    """Do a job and write its folder, unless it is there.

    Args:
        config: The training, estimate, craft or trial.
        run_folder: The run's folder; what the job needs is there already.
        dataset: The data.
        device: Where to compute.
        advance: Told the share of the job that is done since it was last told.

    Raises:
        UserError: If the data are not those of the config, something needed is missing or damaged,
            the training diverges, or the folder cannot be written.
    """
    folder = run_folder / place_of(config, dataset.checksum)
    if store.is_complete(folder):
        return
    make_folder(folder)
    store.invalidate(folder)
    store.clear_leftovers(folder)
    work = next(work for kind, work in _WORK.items() if isinstance(config, kind))
    work(config, run_folder, folder, dataset, device, advance)


def _do_training(
    training: Training,
    run_folder: Path,
    folder: Path,
    dataset: Dataset,
    device: torch.device,
    advance: Advance,
) -> None:
    if training.queries is not None:
        _do_substitute(training, training.queries, run_folder, folder, dataset, device)
        return
    start = curve = None
    if training.start is not None:
        start = load_trained(training.start, LAST, run_folder, dataset, device)
    if training.nulls is not None and training.nulls.estimate is not None:
        curve = _curve_of(training.nulls.estimate, run_folder, dataset)
    go_on = partial(
        train_from,
        training,
        dataset,
        folder,
        device=device,
        start=start,
        curve=curve,
        advance=advance,
    )
    try:
        trained, history = go_on()
    except StateError:  # begun on another device, or cut short: the folder says what is wanted
        (folder / schema.STATE).unlink()
        trained, history = go_on()
    write_training(trained, history, folder, dataset, device)


def _do_substitute(
    training: Training,
    queries: Queries,
    run_folder: Path,
    folder: Path,
    dataset: Dataset,
    device: torch.device,
) -> None:
    """Train a model on another's answers; short enough to be begun again if it is stopped."""
    check_data(training, dataset)
    target, _ = load_deployed(queries.target, run_folder, dataset, device)
    started = time.perf_counter()
    pool = dataset.test.subset(slice(-num_own(len(dataset.test)), None))
    substitute, log = query_substitute(
        target,
        pool,
        queries.plan,
        architecture=training.architecture,
        recipe=training.recipe,
        seed=training.seed,
        device=device,
    )
    rounds = pd.DataFrame([asdict(done) for done in log.rounds])
    frames.write_frame(folder / schema.QUERIES, rounds)
    seconds = time.perf_counter() - started
    about = about_trained(training, seconds, dataset, device)
    save_checkpoint(substitute, folder / LAST, about=about)
    told = {"config": asdict(training), "epochs": {}, "data_checksum": dataset.checksum}
    store.finalize(folder, told | provenance())


def _do_estimate(
    estimate: Estimate,
    run_folder: Path,
    folder: Path,
    dataset: Dataset,
    device: torch.device,
    advance: Advance,
) -> None:
    check_data(estimate.model.training, dataset)
    if dataset.validation is None:
        raise UserError("a null curve needs held-out images, and the dataset holds none out")
    model, _ = load_deployed(estimate.model, run_folder, dataset, device)
    held_out = dataset.validation.first(min(estimate.num_images, len(dataset.validation)))
    units = len(held_out) * (estimate.num_sizes + 12)  # the scan for the range ends early
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
    told = {
        "model": estimate.model.training.name,
        "seed": estimate.seed,
        "curve": curve.to_dict(),
        "config": asdict(estimate),
        "data_checksum": dataset.checksum,
    }
    store.finalize(folder, told | provenance())


def _curve_of(estimate: Estimate, run_folder: Path, dataset: Dataset) -> NullCurve:
    result = run_folder / place_of(estimate, dataset.checksum) / schema.RESULT
    return NullCurve.from_dict(read_json(result, "null curve").get("curve", {}))


def _do_craft(
    craft: Craft,
    run_folder: Path,
    folder: Path,
    dataset: Dataset,
    device: torch.device,
    advance: Advance,
) -> None:
    model, _ = load_deployed(craft.source, run_folder, dataset, device)
    plan = craft.plan
    num_images = min(plan.num_images, len(dataset.test))
    units = num_images * len(plan.eps)
    made = make_images(
        model,
        dataset.test,
        _attack_of(plan, dataset.test),
        plan.eps,
        norm=plan.norm,
        num_images=num_images,
        seed=craft.seed,
        name=plan.name,
        on_images=lambda count: advance(count / units),
    )
    made.save(folder)
    told = {
        "model": craft.source_name,
        "seed": craft.seed,
        "attack": plan.name,
        "config": asdict(craft),
        "data_checksum": dataset.checksum,
        "device": str(device),
    }
    store.finalize(folder, told | provenance())


def _attack_of(plan: AttackPlan, pool: LabelledImages) -> Attack:
    attack = ATTACKS[plan.attack](**plan.settings)
    return (
        attack.with_reference_images(pool) if isinstance(attack, TakesReferenceImages) else attack
    )


def _do_trial(
    trial: Trial,
    run_folder: Path,
    folder: Path,
    dataset: Dataset,
    device: torch.device,
    advance: Advance,
) -> None:
    started = time.perf_counter()
    model, threshold = load_deployed(trial.model_spec, run_folder, dataset, device)
    source = None
    if trial.source is not None:
        of = trial.source
        source = load_trained(of.training, of.selection, run_folder, dataset, device)
    chosen, thresholds = _images_to_attack(trial, model, run_folder, folder, dataset)
    if trial.decision_grid:
        _write_decisions(model, trial.decision_grid, folder, device)
    units = trial.num_clean + sum(_num_units(plan, len(chosen)) for plan in trial.attacks)
    units += sum(len(plan.sizes) * plan.num_images for plan in trial.sizes)
    units += sum(len(craft.plan.eps) * craft.plan.num_images for craft in trial.crafted)
    units += sum(plan.num_images for plan in trial.proofs)
    units += trial.num_clean if trial.radii else 0

    def on_images(count: int) -> None:
        advance(count / units)

    clean = dataset.test.first(min(trial.num_clean, len(dataset.test)))
    norm = trial.attacks[0].norm if trial.attacks else "linf"  # they agree
    clean_rows = score_clean(model, clean, norm=norm, on_images=on_images)
    # Before the attacks, which take hours: a layer without bounds is refused at once.
    proved = [
        prove(
            model,
            dataset.test,
            plan.eps,
            norm=plan.norm,
            verifier=plan.verifier,
            num_images=plan.num_images,
            on_images=on_images,
        )
        for plan in trial.proofs
    ]
    if trial.radii:
        by_radius = score_radii(model, clean, trial.radii, on_images=on_images)
        frames.write_frame(folder / schema.RADII, by_radius)
    done: list[AttackResult] = []
    own: dict[str, Attack] = {}
    for plan in trial.attacks:
        part = slice(0, min(plan.num_images, len(chosen)))
        attack = _attack_of(plan, clean)
        if not plan.is_transfer:
            own[plan.name] = attack
        done.append(
            score_attack(
                model,
                dataset.test,
                chosen[part],
                plan.name,
                attack,
                plan.eps or (plan.factor * thresholds[part]).clamp(max=1),
                norm=norm,
                source=source if plan.is_transfer else None,
                source_name=trial.source.model if plan.is_transfer and trial.source else SELF,
                num_examples=plan.num_examples,
                seed=trial.seed,
                on_images=on_images,
            )
        )
    for craft in trial.crafted:
        attack = ATTACKS[craft.plan.attack](**craft.plan.settings)
        place = run_folder / place_of(craft, dataset.checksum)
        made = Crafted.load(place, attack, craft.plan.norm)
        done.append(
            score_crafted(
                model,
                dataset.test,
                made,
                name=name_of(craft),
                source_name=SELF if craft.source == trial.model_spec else craft.source_name,
                on_images=on_images,
            )
        )
    if trial.sizes:
        told = [_score_sizes(trial, plan, dataset, model, on_images) for plan in trial.sizes]
        frames.write_frame(folder / schema.SIZES, pd.concat(told, ignore_index=True))
    about = {
        "num_classes": model.num_classes,
        "norm": norm,
        "data": dataset.name,
        "threshold": threshold_info(threshold, clean),
        "selected_on": None if trial.selection == LAST else trial.selection,
    }
    findings = build_evaluation(
        model,
        dataset.test,
        clean_rows,
        done,
        own,
        about,
        certified=pd.concat(proved, ignore_index=True) if proved else None,
        checks="full" if trial.is_checked else "none",
        seed=trial.seed,
    )
    result = {
        "model": trial.model,
        "seed": trial.seed,
        "selection": trial.selection,
        "config": asdict(trial),
        "trained_in": place_of(trial.training, dataset.checksum),
        "data_checksum": dataset.checksum,
        "device": str(device),
        "evaluation_seconds": round(time.perf_counter() - started, 1),
        **provenance(),
    }
    findings.write(folder, result)


def _score_sizes(
    trial: Trial, plan: SizePlan, dataset: Dataset, answering: Classifier, on_images: OnImages
) -> pd.DataFrame:
    # Probabilities are the network's own.
    network = answering.model if isinstance(answering, ThresholdedClassifier) else answering
    return score_sizes(
        network,
        dataset.test.first(min(plan.num_images, len(dataset.test))),
        make_perturbation(plan.perturbation, plan.settings),
        plan.norm,
        plan.sizes,
        answering=answering,
        seed=trial.seed,
        on_images=on_images,
    )


def _num_units(plan: AttackPlan, num_images: int) -> int:
    return min(plan.num_images, num_images) * max(len(plan.eps), 1)


def _images_to_attack(
    trial: Trial, model: Classifier, run_folder: Path, folder: Path, dataset: Dataset
) -> tuple[Tensor, Tensor]:
    """Positions in the test set, and thresholds in pixel units (none without a search)."""
    if trial.thresholds is not None:
        plan = trial.thresholds
        chosen, thresholds = find_thresholds(
            model, dataset.test, first_image=plan.first_image, num_images=plan.num_images
        )
        # All digits, so that who reads the file attacks at the very same eps.
        table = pd.DataFrame({"image": chosen.numpy(), "threshold": thresholds.double().numpy()})
        frames.write_frame(folder / schema.THRESHOLDS, table, float_format="%.9g")
        return chosen, thresholds
    if trial.images_from is not None:
        of = run_folder / place_of(trial.images_from, dataset.checksum)
        table = store.read_trial(of).thresholds
        images = torch.tensor(table["image"].to_numpy(dtype="int64"))
        return images, torch.tensor(table["threshold"].to_numpy(dtype="float32"))
    return torch.arange(len(dataset.test)), torch.empty(0)


@torch.no_grad()
def _write_decisions(model: Classifier, side: int, folder: Path, device: torch.device) -> None:
    """Ask the model about a grid over the unit cube, whose axes are the three pixels."""
    axis = torch.linspace(0, 1, side)
    grid = torch.cartesian_prod(axis, axis, axis).view(-1, 1, 1, 3)
    answers = torch.cat([model.predict(part.to(device)).cpu() for part in grid.split(8192)])
    cube = answers.view(side, side, side).to(torch.int8)
    save_tensors(folder / schema.DECISIONS, {"predictions": cube})


_WORK: dict[type, Callable[..., None]] = {
    Training: _do_training,
    Estimate: _do_estimate,
    Craft: _do_craft,
    Trial: _do_trial,
}

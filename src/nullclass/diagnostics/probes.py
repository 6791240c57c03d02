"""Measurements on the model that red flags need and rows do not contain.

Each probe is one function on a few images and returns JSON values. Those of a few passes are here;
their images are spread evenly over the test images, so that data sorted by class do not bias them.
Those that repeat attacks are in :mod:`nullclass.diagnostics.attack_probes`. All probes together
have a budget, a share of what the attacks of the evaluation cost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.counters import count_passes
from nullclass.attacks.losses import find_objective
from nullclass.attacks.state import logits_of
from nullclass.attacks.steps import NoGradientError, input_gradient
from nullclass.core.losses import cross_entropy
from nullclass.core.modules import frozen
from nullclass.core.norms import find_ball
from nullclass.core.outcomes import NULL_LABEL, predictions
from nullclass.core.sampling import evenly
from nullclass.data import LabelledImages
from nullclass.diagnostics.attack_probes import ATTACK_PROBES
from nullclass.diagnostics.evidence import CHECKS_NAME, GREY, Evidence, cost_of
from nullclass.diagnostics.probe_context import ProbeContext, Result
from nullclass.models.classifier import Classifier
from nullclass.rejection import null_scores
from nullclass.results.schema import CLEAN, COST_COLUMNS, SELF
from nullclass.scoring.parts import FEW, NOTHING, Parts
from nullclass.scoring.score import OnImages, ignore

MAX_SHARE = 0.25
"""Cost of all probes, as a share of that of the evaluation's attacks."""

MIN_COST = 5_000
"""Cost of all probes where that share is less: about 40 images attacked by PGD with 40 steps."""

EXPECTED_IMAGES = 400
"""Images of all probes together, about."""

NUM_PASSES = 64
"""Images of a probe that takes a few passes."""

SMALL_STEP = 0.1
"""Length of a step along a gradient, as a share of eps: within the reach of attacks, and so small
that a smooth score changes as its gradient says."""

NUM_NOISY = 100
"""Images tested with noise: one pass each."""


def forward(context: ProbeContext) -> Result:
    """Two passes of the same images, in batches and their halves: do logits depend on the image?"""
    indices = evenly(context.evidence.clean.index, NUM_PASSES)
    if not indices:
        return None
    images, _ = context.batch(indices)
    size = min(len(images), context.batch_size or len(images))
    with frozen(context.model):
        first = logits_of(context.model, images, size)
        second = logits_of(context.model, images, math.ceil(size / 2))
    largest = first.abs().amax().clamp(min=torch.finfo(first.dtype).tiny)
    return {
        "num_images": len(indices),
        "num_predictions": int((first.argmax(dim=1) != second.argmax(dim=1)).sum()),
        "largest_difference": float((first - second).abs().amax() / largest),
    }


def gradients(context: ProbeContext) -> Result:
    """Measure gradients of the model as given, at clean images that it classifies correctly."""
    indices = evenly(context.evidence.clean_with("correct"), NUM_PASSES)
    if not indices:
        return None
    has_gradients = True
    with frozen(context.given):
        try:
            found = [_raw_gradients(context.given, *batch) for batch in context.batches(indices)]
        except NoGradientError:
            has_gradients = False
            found = [torch.zeros_like(context.batch(indices)[0]).flatten(1).expand(4, -1, -1)]
    of_entropy, of_margin, repeated, of_score = torch.cat(found, dim=1)
    is_finite = (of_entropy.isfinite() & of_margin.isfinite()).all(dim=1)
    size = torch.maximum(of_margin.norm(dim=1), repeated.norm(dim=1))
    differences = (of_margin - repeated).norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny)
    return {
        "num_images": len(indices),
        "has_gradients": has_gradients,
        "num_zero_cross_entropy": int((of_entropy == 0).all(dim=1).sum()),
        "num_zero_margin": int((of_margin == 0).all(dim=1).sum()),
        "num_zero_null_score": int((of_score == 0).all(dim=1).sum()),
        "num_non_finite": int((~is_finite).sum()),
        "largest_difference": float(differences[is_finite].amax()) if is_finite.any() else 0.0,
    }


def _raw_gradients(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return gradients ``(4, N, C * H * W)``: cross-entropy, the margin twice, the null score."""

    def margins(logits: Tensor) -> Tensor:
        objective = find_objective("fool")
        return objective.loss(logits, labels, model.num_classes, "logsumexp-margin")

    def cross_entropies(logits: Tensor) -> Tensor:
        return cross_entropy(logits, labels, reduction="none")

    scores = partial(null_scores, num_classes=model.num_classes)
    losses = (cross_entropies, margins, margins, scores)
    found = [input_gradient(model, images, loss, is_raw=True)[0].flatten(1) for loss in losses]
    return torch.stack(found)


def null_direction(context: ProbeContext) -> Result:
    """Measure whether the null score rises along its own gradient, by a small part of an eps."""
    eps, model = context.middle_eps(), context.model
    indices = evenly(context.evidence.clean_with("correct"), NUM_PASSES)
    if eps is None or not indices or not model.has_null:
        return None
    eps, norm = SMALL_STEP * eps, find_ball(context.norm)
    scores = partial(null_scores, num_classes=model.num_classes)
    num_risen = num_fallen = 0
    for images, _ in context.batches(indices):
        with frozen(model):
            gradient, _ = input_gradient(model, images, scores)
            above, below = (
                scores(logits_of(model, norm.project(images + eps * direction, images, eps)))
                for direction in (norm.steepest(gradient, images), norm.steepest(-gradient, images))
            )
        num_risen += int((above > below).sum())
        num_fallen += int((above < below).sum())
    return {
        "eps": eps,
        "num_images": len(indices),
        "num_risen": num_risen,
        "num_fallen": num_fallen,
    }


def noise(context: ProbeContext) -> Result:
    """Measure the null rate of correct images under noise that leaves them visible."""
    visible = GREY if context.norm == "linf" else math.inf
    budgets = [eps for eps in context.evidence.budgets if 0 < eps < visible]
    indices = evenly(context.evidence.clean_with("correct"), NUM_NOISY)
    if not budgets or not indices or not context.model.has_null:
        return None
    eps, norm = max(budgets), find_ball(context.norm)
    images, _ = context.batch(indices)
    uniform = norm.random(images, eps, context.generator())
    corners = eps * norm.steepest(uniform, images)
    counts = {}
    for kind, delta in (("uniform", uniform), ("signs", corners)):
        noisy = norm.project(images + delta, images, eps)
        with frozen(context.model):
            logits = logits_of(context.model, noisy, context.batch_size)
        is_null = predictions(logits, context.model.num_classes) == NULL_LABEL
        counts[f"num_null_{kind}"] = int(is_null.sum())
    return {"eps": eps, "num_images": len(indices), **counts}


PROBES: dict[str, Callable[[ProbeContext], Result]] = {
    "forward": forward,
    "gradients": gradients,
    "null_direction": null_direction,
    "noise": noise,
    **ATTACK_PROBES,
}
"""In their order: what a probe leaves of the budget is shared by those after it."""


def probe(
    model: Classifier,
    data: LabelledImages,
    evidence: Evidence,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    batch_size: int | None = None,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run the probes.

    Args:
        model: The model under test.
        data: The test images.
        evidence: The evaluation's rows, costs and metadata.
        attacks: The attacks of the rows by name; those on other models are ignored.
        seed: Seed of noise and random starts.
        batch_size: Images per forward and backward pass.
        on_images: Progress.
        parts: Keeps what is finished, after each probe and each of its attacks.

    Returns:
        The results: ``has_null`` and one entry per probe, None where it does not apply. And their
        costs (:data:`nullclass.results.schema.COST_COLUMNS`).
    """
    context = ProbeContext(model, data, evidence, attacks, seed, batch_size)
    parts = parts.of(
        models=[model],
        images=data.batch(FEW)[0],
        data=data,
        rows=evidence.rows,
        costs=evidence.costs.drop(columns="seconds"),
        info=evidence.info,
        attacks=attacks,
        seed=seed,
        batch_size=batch_size,
    )
    results = context.results
    results["has_null"] = model.has_null
    costs = []
    left = max(MAX_SHARE * float(cost_of(evidence.costs).sum()), MIN_COST)
    for number, (name, run) in enumerate(PROBES.items()):
        kept = parts.of(name)
        context.begin(kept, left, left / (len(PROBES) - number))
        done = kept.keep(partial(_run, run, context))
        left -= done.pop("cost")
        results[name] = result = done.pop("result")
        num_images = 0 if result is None else int(result["num_images"])
        costs.append(
            {
                "attack": CHECKS_NAME,
                "objective": CLEAN,
                "source": SELF,
                "norm": evidence.norm,
                "eps_pixels": math.nan,
                "access": "white-box",
                "is_iterative": name in ATTACK_PROBES,
                "status": "ran",
                "member": name,
                "num_images": num_images,
                "num_successes": 0,
                **done,
            }
        )
        on_images(num_images)
    return results, pd.DataFrame(costs).astype(COST_COLUMNS)


def _run(run: Callable[[ProbeContext], Result], context: ProbeContext) -> dict[str, Any]:
    """Return a probe's result and its cost.

    The result of an attack that needs gradients is None without them; ``gradients`` reports that.
    """
    started = time.perf_counter()
    with count_passes(context.given) as context.passes:
        try:
            result = run(context)
        except NoGradientError:
            result = None
    return {
        "result": result,
        "cost": context.cost,
        "num_forwards": context.passes.forward,
        "num_backwards": context.passes.backward,
        "seconds": context.seconds_before + time.perf_counter() - started,
    }

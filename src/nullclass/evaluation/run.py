"""Attacks a model, scores every image and looks for reasons to doubt the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.fmn import FMN
from nullclass.attacks.steps import NoGradientError
from nullclass.core.checks import check_choice, check_count, check_seed
from nullclass.core.devices import exact_float32
from nullclass.core.errors import UserError
from nullclass.core.files import make_folder
from nullclass.core.progress import Stages
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.data.arrays import checked_images
from nullclass.diagnostics.probes import EXPECTED_IMAGES, MAX_SHARE, MIN_COST
from nullclass.evaluation.build import build_evaluation, join, proof_info, threshold_info
from nullclass.evaluation.plan import (
    Data,
    PlannedAttack,
    check_can_begin,
    plan_attacks,
)
from nullclass.evaluation.result import Evaluation
from nullclass.models.classifier import (
    NUM_TRIED,
    Classifier,
    Outputs,
    PerChannel,
    as_classifier,
    check_network,
)
from nullclass.models.network import Body
from nullclass.rejection import ProvableNull, Threshold, see_through, with_threshold
from nullclass.results.schema import (
    OOD_COLUMNS,
    SELF,
    SMALLEST,
)
from nullclass.scoring.attacked import AttackResult, score_attack
from nullclass.scoring.batch_size import find_batch_size
from nullclass.scoring.ood import make_ood, score_ood
from nullclass.scoring.parts import NOTHING, Parts
from nullclass.scoring.proofs import check_provable, prove, prove_largest
from nullclass.scoring.score import OnImages, check_labels, ignore, score_clean
from nullclass.scoring.smallest import score_smallest

NUM_OOD = 1000
"""Images per source of no class, unless they are large."""

MAX_OOD_VALUES = 2**25
"""Most pixel values of the images of a source, 128 MiB of float32."""


@exact_float32()
def evaluate(
    model: Body,
    data: Data,
    *,
    attacks: str | Sequence[str] | Mapping[str, Attack] = "worst-case",
    eps: float | Sequence[float] | Mapping[str, Sequence[float]],
    norm: str = "linf",
    num_images: int | Mapping[str, int] | None = None,
    num_classes: int | None = None,
    has_null: bool = True,
    has_score: bool = False,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    outputs: Outputs | None = None,
    source: Body | None = None,
    threshold: Threshold | float | None = None,
    held_out: Data | None = None,
    ood: Sequence[str] | Mapping[str, Tensor] = (),
    num_smallest: int = 0,
    distribution: bool = False,
    proofs: str | None = None,
    data_name: str | None = None,
    selected_on: str | None = None,
    num_examples: int = 0,
    batch_size: int | None = None,
    seed: int = 0,
    checks: bool = True,
    progress: bool | OnImages = False,
    parts: Path | None = None,
) -> Evaluation:
    """Attack a model and score every image, clean and attacked.

    An iterative attack that succeeds at a smaller eps counts as successful at every larger eps,
    and is not repeated there; the worst case starts with the largest eps, and does not repeat what
    failed there (:mod:`nullclass.scoring.eps_order`).

    Args:
        model: A :class:`nullclass.Classifier`, or any module or function from images
            ``(N, C, H, W)`` in [0,1] to logits ``(N, K + 1)`` with null last; then pass
            ``num_classes``.
        data: The test images.
        attacks: Names of attacks, or attacks by the name they get in the rows.
        eps: Budgets in pixel units, for all attacks or by attack.
        norm: ``linf``, ``l2`` or ``l1``.
        num_images: How many of the first images are attacked, for all attacks or by attack.
            Default: all. The clean images are always all scored.
        num_classes: K, the number of real classes, for a model that is not a ``Classifier``.
        has_null: Whether the last of such a model's logits is null. Pass False for a model that
            cannot answer null: unlike on the command line, the logits are not counted.
        has_score: Whether such a model returns K logits and a score, which decides on null.
        mean: Pixel mean that such a model expects to be subtracted, as for a ``Classifier``.
        std: Pixel standard deviation to divide by, likewise.
        outputs: ``probabilities`` for such a model that ends with a softmax, likewise.
        source: A model to make the attacks on, for a transfer; its name in the rows is ``source``.
            If it is not a ``Classifier`` it may have K logits or K + 1, with null last, and gets
            the images as they are.
        threshold: Answer null where the null score is larger (:mod:`nullclass.rejection`), best
            from ``calibrate`` on held-out images. The attacks know the threshold. Default: the
            largest logit decides.
        held_out: Clean images used neither in training nor here, for metrics whose threshold must
            not come from test data.
        ood: Images of no class: names in :data:`nullclass.scoring.ood.OOD`, or images by name.
        num_smallest: For how many of the first images to search the smallest eps that fools; slow.
        distribution: Also search the largest eps proved of these images, with the verifier
            ``proofs`` if it is given, else ``interval``: the robustness distribution between attack
            and proof (:meth:`Evaluation.distribution`).
        proofs: Name in :data:`nullclass.certify.verifiers.VERIFIERS`. Then every image is also
            verified at every eps (:mod:`nullclass.scoring.proofs`), and iterative attacks that fool
            leave out the images proved never to be fooled, except for an audit
            (:mod:`nullclass.scoring.audit`). Default: none; for a
            :class:`nullclass.rejection.ProvableNull` in its own norm its verifier, if such an
            attack is made on it.
        data_name: Name of the dataset, for red flags that know its best published results.
        selected_on: ``test`` or ``held-out``: the images by which the weights were selected;
            ``nothing`` for those of the last epoch. Default: unknown.
        num_examples: How many of the first adversarial images to keep for figures.
        batch_size: Images per forward and backward pass. Default: what fits into memory.
        seed: Seed of the attacks' random starts.
        checks: Whether to look for red flags (:mod:`nullclass.diagnostics`), which adds at
            most a quarter to the cost of the attacks, or a few seconds.
        progress: True shows progress and the remaining time; a function receives the number of
            images scored since its last call.
        parts: A folder that keeps what is finished (:mod:`nullclass.scoring.parts`): after an
            interruption the same call goes on there, with the same result. Nothing of attacks of
            your own is kept. The folder stays: remove it once the result is saved.

    Returns:
        Rates, rows, costs and red flags; print it.

    Raises:
        UserError: If the images, labels, budgets, attacks or the model's outputs are invalid.
        CannotWriteError: If the folder of parts cannot be written.
    """
    if not isinstance(checks, bool):
        raise UserError(f"checks must be True or False, not {checks!r}")
    if selected_on is not None:
        check_choice("selected_on", selected_on, ("test", "held-out", "nothing"))
    seed = check_seed(seed)
    num_examples = check_count("num_examples", num_examples, 0)
    num_smallest = check_count("num_smallest", num_smallest, 0)
    if distribution and not num_smallest:
        raise UserError("a distribution needs images: give num_smallest, how many")
    if not (isinstance(progress, bool) or callable(progress)):
        raise UserError(f"progress must be True, False or a function, not {progress!r}")
    images = tensors_or_loader(data)
    plan = plan_attacks(attacks, eps, norm, num_images, images)
    few = images.batch(slice(0, NUM_TRIED))[0]
    image, label = images.batch([0])
    model = as_classifier(
        model,
        num_classes,
        few,
        has_null=has_null,
        has_score=has_score,
        mean=mean,
        std=std,
        outputs=outputs,
    )
    attacked = None if source is None else as_classifier(source, num_classes, few)
    for network in (model, attacked):
        if network is not None:
            check_network(network, few)
    if threshold is not None:
        model = with_threshold(model, threshold)
    held = None if held_out is None else tensors_or_loader(held_out)
    for part in (images, held):
        if part is not None:
            check_labels(part, model)
    if attacked is not None:
        check_labels(images, attacked)
        if attacked.mean.device != model.mean.device:
            raise UserError(
                f"the source is on {attacked.mean.device} and the model on {model.mean.device}: "
                "move them to one device"
            )
    if batch_size is None:
        batch_size = min(find_batch_size(each, image) for each in {model, attacked or model})
    batch_size = check_count("batch_size", batch_size)
    given, model = model, see_through(model, few[: max(1, batch_size // 3)])
    check_can_begin(plan, model if attacked is None else attacked, image, label, norm)
    searched = (proofs or "interval") if distribution else None
    if proofs is None and attacked is None:
        proofs = _own_verifier(model, norm, plan)
    for verifier in (proofs, searched):
        if verifier is not None:
            check_provable(model, norm, verifier, image.shape[1:])
    smallest = images.up_to(num_smallest) if num_smallest else None
    unknown = _ood_images(images, ood, seed)
    others = unknown if held is None else unknown | {"held_out": held.images}
    for title, tensor in others.items():
        if tensor.shape[1:] != image.shape[1:]:
            raise UserError(
                f"the images of {title} have the shape {tuple(tensor.shape[1:])}, and the test "
                f"images {tuple(image.shape[1:])}: give images of one shape"
            )
    kept = NOTHING if parts is None else Parts(make_folder(Path(parts)))
    settings: dict[str, Any] = {
        "norm": norm,
        "batch_size": batch_size,
    }
    shown: dict[str, Any] = settings | {"num_examples": num_examples}
    certified = held_rows = proved_eps = None
    results: list[AttackResult] = []
    counts = {
        "clean images": len(images),
        "held-out images": 0 if held is None else len(held),
        "proofs": 0 if proofs is None else len(images),
        SMALLEST: num_smallest,
        "largest proofs": num_smallest if searched else 0,
    }
    with _stages(progress, plan, counts, checks) as stage:
        with stage("clean images") as on_images:
            clean = score_clean(
                model, images, **settings, on_images=on_images, parts=kept.of("clean")
            )
        if held is not None:
            with stage("held-out images") as on_images:
                held_rows = score_clean(
                    model, held, **settings, on_images=on_images, parts=kept.of("held-out")
                )
        ood_rows = [
            score_ood(model, of_source, name, batch_size=batch_size, parts=kept.of("ood"))
            for name, of_source in unknown.items()
        ]
        if proofs is not None:
            budgets = sorted({eps for planned in plan.values() for eps in planned.budgets})
            with stage("proofs") as on_images:
                certified = prove(
                    model,
                    images,
                    budgets,
                    norm=norm,
                    verifier=proofs,
                    on_images=on_images,
                    parts=kept.of("proofs"),
                )
        for name, planned in plan.items():
            with stage(name) as on_images:
                result = score_attack(
                    model,
                    images,
                    torch.arange(planned.num_images),
                    name,
                    with_reference_images(planned.attack, images),
                    planned.budgets,
                    **shown,
                    source=attacked,
                    source_name=SELF if attacked is None else "source",
                    certified=certified,
                    seed=seed,
                    on_images=on_images,
                    parts=kept.of("attacks"),
                )
            results.append(result)
        if smallest is not None:
            with stage(SMALLEST) as on_images:
                try:
                    result = score_smallest(
                        model,
                        smallest,
                        SMALLEST,
                        FMN(),
                        **shown,
                        on_images=on_images,
                        parts=kept.of(SMALLEST),
                    )
                except NoGradientError:  # a red flag says so
                    if distribution:
                        raise
                    smallest = None
        if smallest is not None:
            results.append(result)
            if searched:
                with stage("largest proofs") as on_images:
                    proved_eps = prove_largest(
                        model,
                        smallest,
                        torch.tensor(result.rows["eps_pixels"].to_numpy()),
                        norm=norm,
                        verifier=searched,
                        on_images=on_images,
                        parts=kept.of("largest-proofs"),
                    )
        with stage("checks") as on_images:
            return build_evaluation(
                model,
                images,
                clean,
                results,
                {name: p.attack for name, p in plan.items()} if attacked is None else {},
                {
                    "num_classes": model.num_classes,
                    "data": data_name,
                    "threshold": threshold_info(given, images),
                    "proof": proof_info(model),
                    "selected_on": selected_on,
                    **settings,
                },
                held_out=held_rows,
                ood=join(ood_rows, OOD_COLUMNS),
                certified=certified,
                proved_eps=proved_eps,
                checks=checks,
                seed=seed,
                on_images=on_images,
                parts=kept.of("checks"),
            )


def _own_verifier(model: Classifier, norm: str, plan: Mapping[str, PlannedAttack]) -> str | None:
    """Return the verifier of a model that answers what it proves, if proofs spare an attack."""
    attacks = [planned.attack for planned in plan.values()]
    is_spared = any(a.is_iterative and a.objective == "fool" for a in attacks)
    if isinstance(model, ProvableNull) and model.norm == norm and is_spared:
        return model.verifier
    return None


def _ood_images(
    data: LabelledImages, sources: Sequence[str] | Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """Return images of no class by their source."""
    if isinstance(sources, Mapping):
        return {name: checked_images(images) for name, images in sources.items()}
    num_values = data.images.shape[1:].numel()
    num_images = max(1, min(NUM_OOD, len(data), MAX_OOD_VALUES // num_values))
    return {
        name: make_ood(name, data, num_images, torch.Generator().manual_seed(seed))
        for name in sources
    }


PASSES = {
    "clean images": 1,
    "held-out images": 1,
    "proofs": 3,
    SMALLEST: 400,
    "largest proofs": 40,
}
"""Rough number of passes per image of each step, attacks apart."""

Stage = Callable[[str], AbstractContextManager[OnImages]]
"""From the name of a step to its progress callback."""


@contextmanager
def _stages(
    progress: bool | OnImages,
    plan: Mapping[str, PlannedAttack],
    counts: Mapping[str, int],
    checks: bool,
) -> Iterator[Stage]:
    """Progress of the steps: bars or lines, the caller's function, or nothing.

    ``counts`` has the number of images of each step, attacks apart; 0 if it is left out.
    """
    if progress is not True:
        report = progress or ignore
        yield lambda name: nullcontext(report)
        return
    steps = {name: (num, PASSES[name]) for name, num in counts.items()}
    for name, planned in plan.items():
        passes = 100 if planned.attack.is_iterative else 3
        steps[name] = (planned.num_images * len(planned.budgets), passes)
    costs: dict[str, float] = {name: num * passes for name, (num, passes) in steps.items()}
    of_attacks = sum(costs[name] for name in (*plan, SMALLEST))
    costs["checks"] = max(MAX_SHARE * of_attacks, MIN_COST) if checks else 0
    units = {name: num for name, (num, _) in steps.items()} | {"checks": EXPECTED_IMAGES}
    with Stages("evaluation", sum(costs.values())) as stages:
        yield lambda name: stages.stage(name, units=max(units[name], 1), cost=costs[name])

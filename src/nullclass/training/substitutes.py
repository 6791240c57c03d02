"""A substitute for a model that only answers: trained on labels got by asking (queries).

    S_0 = seed images            F_r = train(S_r, labels of S_r)
    S_{r+1} = S_r + {x + lambda * sign(d z_{label(x)} / d x) : x in S_r}      z: logits of F_r

Papernot et al. 2017, "Practical black-box attacks against machine learning" (algorithm 1, with
Jacobian-based dataset augmentation; lambda there as here). The attacker has a few images of his own
and the target's answers, null among them; a target that was ever seen to answer null gets a
substitute with null. Different from the paper: Adam instead of SGD, logits instead of
probabilities, lambda keeps its sign, the pixels stay in [0,1], no image is asked about twice, and
where the last set would cost more than is left of the budget, a random part of it is asked about.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nullclass.attacks.base import frozen
from nullclass.core.devices import BATCH_SIZE
from nullclass.core.errors import UserError
from nullclass.core.outcomes import NULL_LABEL
from nullclass.core.rng import fork_rng
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.models import Classifier, build_model
from nullclass.training.loop import TrainConfig, train
from nullclass.training.queries import QueryPlan
from nullclass.training.recipes import Recipe

ROUND_RECIPE = Recipe(batch_size=32, epochs=10, learning_rate=1e-3)
"""How a substitute is trained each round: small batches, since the first sets are small."""


class Oracle(Protocol):
    """All that the attacker sees of a target: every :class:`Classifier` is one."""

    num_classes: int
    """K, the number of real classes; he knows what they are."""

    def predict(self, images: Tensor) -> Tensor:
        """Labels ``(N,)`` int64 of images ``(N, C, H, W)`` in [0,1]; -1 is null."""
        ...


@dataclass(frozen=True)
class Round:
    """What one round asked, and how much of the target's behaviour it caught."""

    num_queries: int
    """Images asked about in this round."""
    num_images: int
    """Images asked about so far: what the substitute was trained on."""
    null: float
    """Share of this round's answers that were null."""
    agreement_before: float
    """Share of this round's images on which the substitute of the round before had answered as the
    target did: unseen images, though of its own making. NaN in the first round."""
    agreement_after: float
    """The same for this round's substitute, on all images it was trained on."""


@dataclass(frozen=True)
class QueryLog:
    """What was asked, round by round."""

    rounds: tuple[Round, ...]

    @property
    def num_queries(self) -> int:
        """Label queries in all."""
        return sum(done.num_queries for done in self.rounds)


def query_substitute(
    target: Oracle,
    images: Tensor | LabelledImages,
    plan: QueryPlan | None = None,
    *,
    architecture: str,
    recipe: Recipe = ROUND_RECIPE,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Classifier, QueryLog]:
    """Train a substitute for a model of which nothing is used but its answers.

    Of the target only ``predict`` is called (and, if it is a module, it is in evaluation mode
    meanwhile), never twice with the same image and never with more than ``plan.budget`` images in
    all. The substitute is trained anew every round. On a CPU the same seed and number of threads
    give the same substitute, bit for bit. It ends earlier, with queries left, if the augmentation
    finds no image that was not asked about yet.

    Args:
        target: The model to imitate.
        images: What seed images are drawn from, ``(N, C, H, W)`` in [0,1] (or bytes); labels they
            may have are not looked at.
        plan: Seed images, budget and step; the defaults unless given.
        architecture: Of the substitute: a name in :data:`nullclass.models.MODELS`.
        recipe: How it is trained each round.
        seed: Of the seed images' choice, of first weights and of training.
        device: Where the substitute is trained.

    Returns:
        The substitute of the last round, in evaluation mode, and the log.

    Raises:
        UserError: If there are fewer images than the plan asks for, all seed images get the same
            answer, an answer is no label, or a substitute cannot be trained.
    """
    plan = QueryPlan() if plan is None else plan
    pool = _pool(images)
    if len(pool) < plan.num_seed_images:
        raise UserError(
            f"there are {len(pool)} images, but the plan begins with {plan.num_seed_images}: give "
            "more images or set num_seed_images"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(pool), generator=generator)[: plan.num_seed_images]
    asked_before: set[bytes] = set()
    new = _fresh(pool.batch(drawn)[0].cpu(), asked_before)
    images, labels = new[:0], torch.empty(0, dtype=torch.int64)
    substitute: Classifier | None = None
    rounds: list[Round] = []
    while len(new):
        answers = _ask(target, new)
        images, labels = torch.cat([images, new]), torch.cat([labels, answers])
        known = LabelledImages(images, labels, target.num_classes)  # checks the answers too
        if len(labels.unique()) < 2:
            answer = "null" if int(labels[0]) == NULL_LABEL else f"class {int(labels[0])}"
            raise UserError(
                f"the target answers {answer} to all {len(labels)} seed images, which teaches a "
                "substitute nothing: give seed images of several classes"
            )
        before = math.nan if substitute is None else _share_equal(_ask(substitute, new), answers)
        substitute = _trained(known, architecture, recipe, generator, device, len(rounds) + 1)
        rounds.append(
            Round(
                num_queries=len(new),
                num_images=len(images),
                null=float((answers == NULL_LABEL).double().mean()),
                agreement_before=before,
                agreement_after=_share_equal(_ask(substitute, images), labels),
            )
        )
        left = plan.budget - len(images)
        if not left:
            break
        new = _fresh(augment(substitute, images, labels, plan.step), asked_before)
        if len(new) > left:
            new = new[torch.randperm(len(new), generator=generator)[:left].sort().values]
    assert substitute is not None  # there is a seed image, so there was a round
    return substitute, QueryLog(tuple(rounds))


def augment(substitute: Classifier, images: Tensor, labels: Tensor, step: float) -> Tensor:
    """Jacobian-based augmentation: each image moved along the sign of its label's gradient.

    Args:
        substitute: The model whose Jacobian it is.
        images: ``(N, C, H, W)`` in [0,1], on any device.
        labels: ``(N,)`` the target's answers; -1 is null, if the substitute has it.
        step: lambda, in pixel units; negative to move the other way.

    Returns:
        ``(N, C, H, W)`` in [0,1], each at most ``|step|`` from its image in L-infinity.
    """
    made = []
    outputs = labels.where(labels != NULL_LABEL, substitute.num_outputs - 1)
    device = substitute.mean.device
    with frozen(substitute):
        for part, output in zip(images.split(BATCH_SIZE), outputs.split(BATCH_SIZE), strict=True):
            start = part.detach().to(device).requires_grad_()
            logits = substitute(start).gather(1, output.to(device)[:, None])
            (gradient,) = torch.autograd.grad(logits.sum(), start)
            made.append((start.detach() + step * gradient.sign()).clamp(0, 1).to(part.device))
    return torch.cat(made)


def agreement(first: Oracle, second: Oracle, images: Tensor | LabelledImages) -> float:
    """Share of the images ``(N, C, H, W)`` that two models answer alike; null is an answer too.

    This asks both models about all of them: it is for whoever owns both, not for the attacker.
    """
    pool = _pool(images)
    parts = (pool.batch(places)[0] for places in torch.arange(len(pool)).split(BATCH_SIZE))
    pairs = [(_ask(first, part), _ask(second, part)) for part in parts]
    return _share_equal(*(torch.cat(answers) for answers in zip(*pairs, strict=True)))


def _pool(images: Tensor | LabelledImages) -> LabelledImages:
    """Images, checked; what stands in for the labels of a tensor is not looked at."""
    if isinstance(images, LabelledImages):
        return images
    return tensors_or_loader((images, torch.zeros(len(images), dtype=torch.int64)))


def _ask(target: Oracle, images: Tensor) -> Tensor:
    """The answers ``(N,)``, on the CPU."""
    device = target.mean.device if isinstance(target, Classifier) else torch.device("cpu")
    answering = frozen(target) if isinstance(target, nn.Module) else nullcontext()
    with answering, torch.no_grad():
        parts = images.split(BATCH_SIZE)
        return torch.cat([target.predict(part.to(device)).cpu() for part in parts])


def _fresh(images: Tensor, asked_before: set[bytes]) -> Tensor:
    """Those of the images that are new, each once; they are noted as asked about."""
    fresh = []
    for place, image in enumerate(images + 0.0):  # + 0: a negative zero is the same pixel
        content = image.numpy().tobytes()
        if content not in asked_before:
            asked_before.add(content)
            fresh.append(place)
    return images[fresh]


def _share_equal(first: Tensor, second: Tensor) -> float:
    return float((first == second).double().mean())


def _trained(
    known: LabelledImages,
    architecture: str,
    recipe: Recipe,
    generator: torch.Generator,
    device: torch.device | str,
    number: int,
) -> Classifier:
    """A new substitute, trained on all that is known."""
    seed = int(torch.randint(2**62, (), generator=generator))
    channels = known.images.transpose(0, 1).flatten(1)
    with fork_rng(seed):
        substitute = build_model(
            architecture,
            image_shape=(len(channels), *known.images.shape[2:]),
            num_classes=known.num_classes,
            has_null=bool((known.labels == NULL_LABEL).any()),
            mean=channels.mean(dim=1).tolist(),
            std=channels.std(dim=1).clamp(min=1e-3).tolist(),  # a channel may be all alike
        ).to(device)
    try:
        train(substitute, known, TrainConfig(recipe, seed=seed))
    except UserError as error:
        raise UserError(f"the substitute of round {number} could not be trained: {error}") from None
    return substitute

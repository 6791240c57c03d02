"""A substitute for a black-box model, trained on its answers to queries.

    S_0 = seed images            F_r = train(S_r, labels of S_r)
    S_{r+1} = S_r + {x + lambda * sign(d z_{label(x)} / d x) : x in S_r}      z: logits of F_r

Papernot et al. 2017, "Practical black-box attacks against machine learning" (algorithm 1, with
Jacobian-based dataset augmentation). The attacker has a few images and the target's predicted
labels, null included. The substitute has a null class if the target ever predicted null.
Differences from the paper: Adam instead of SGD; logits instead of probabilities; lambda keeps its
sign; pixels stay in [0,1]; no image is queried twice; and if the last set exceeds the budget, a
random part of it is queried.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor, nn

from nullclass.core.devices import BATCH_SIZE
from nullclass.core.documents import Schema, json_values, or_nan
from nullclass.core.errors import DamagedStateError, UserError
from nullclass.core.modules import frozen
from nullclass.core.outcomes import NULL_LABEL
from nullclass.core.rng import fork_rng
from nullclass.core.tensor_files import load_state, save_state
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.models import Classifier, build_model
from nullclass.rejection import weights_sha256
from nullclass.results.schema import STATE
from nullclass.training.card import DetectorRefusal
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.queries import QueryPlan
from nullclass.training.recipes import Recipe
from nullclass.training.refusals import without_refusal

ROUND_RECIPE = Recipe(batch_size=32, epochs=10, learning_rate=1e-3)
"""Recipe of each round: small batches, because the first sets are small."""


class Oracle(Protocol):
    """What the attacker can access of a target; every :class:`Classifier` is an oracle."""

    num_classes: int
    """K, the number of real classes, which the attacker knows."""

    def predict(self, images: Tensor) -> Tensor:
        """Return labels ``(N,)`` int64 of images ``(N, C, H, W)`` in [0,1]; -1 is null."""
        ...


@dataclass(frozen=True)
class Round:
    """Queries of one round, and how well the substitute agrees with the target."""

    num_queries: int
    """Images queried in this round."""
    num_images: int
    """Images queried so far, which the substitute was trained on."""
    null: float
    """Rate of null among the labels of this round."""
    agreement_before: float
    """Rate of this round's images on which the previous substitute predicts the target's label.
    These images are new to it. NaN in the first round."""
    agreement_after: float
    """The same for this round's substitute, on all images that it was trained on."""


class _Round(Schema, frozen=True, kw_only=True):
    """A :class:`Round` in a file, with None for NaN."""

    num_queries: int
    num_images: int
    null: float
    agreement_before: float | None
    agreement_after: float


class _Info(Schema, frozen=True, kw_only=True):
    """What a state holds besides tensors."""

    rounds: list[_Round]
    num_new: int
    agreement_before: float | None


@dataclass
class _Answers:
    """All images queried so far, with the target's answers: what an exact resume needs."""

    generator: torch.Generator
    """Draws images and the seeds of the trainings."""
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    """``(N, C, H, W)`` float32."""
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    rounds: list[Round] = field(default_factory=list)
    """Finished rounds."""
    num_new: int = 0
    """Images of the present round, the last ones."""
    agreement_before: float = math.nan
    """Of the present round."""

    def add(self, new: Tensor, target: Oracle, substitute: Classifier | None = None) -> None:
        """Query images; ``substitute`` is that of the round before."""
        labels = _predict(target, new)
        if substitute is not None:
            self.agreement_before = _rate(_predict(substitute, new) == labels)
        self.images = torch.cat([self.images, new]) if len(self.images) else new
        self.labels, self.num_new = torch.cat([self.labels, labels]), len(new)
        LabelledImages(self.images, self.labels, target.num_classes)  # checks the labels
        if len(self.labels.unique()) < 2:
            label = "null" if int(labels[0]) == NULL_LABEL else f"class {int(labels[0])}"
            raise UserError(
                f"the target predicts {label} for all {len(labels)} seed images, which teaches a "
                "substitute nothing: give seed images of several classes"
            )

    def finish_round(self, substitute: Classifier) -> None:
        """Record the present round, whose substitute is trained."""
        self.rounds.append(
            Round(
                num_queries=self.num_new,
                num_images=len(self.images),
                null=_rate(self.labels[-self.num_new :] == NULL_LABEL),
                agreement_before=self.agreement_before,
                agreement_after=_rate(_predict(substitute, self.images) == self.labels),
            )
        )

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the answers of a round whose substitute is not trained yet."""
        tensors = {"images": self.images, "labels": self.labels}
        tensors["generator"] = self.generator.get_state()
        info = _Info(
            rounds=[_Round(**asdict(entry)) for entry in self.rounds],
            num_new=self.num_new,
            agreement_before=self.agreement_before,
        )
        save_state(path, fingerprint, tensors, info)

    def load(
        self,
        path: Path,
        fingerprint: str,
        image_shape: tuple[int, ...],
        num_classes: int,
        budget: int,
    ) -> None:
        """Read the answers.

        Raises:
            DamagedStateError: If the file is damaged.
            StateError: If it belongs to other work.
        """
        info, tensors = load_state(path, fingerprint, _Info)
        num = sum(entry.num_queries for entry in info.rounds) + info.num_new
        expected = {
            "images": ((num, *image_shape), torch.float32),
            "labels": ((num,), torch.int64),
            "generator": (self.generator.get_state().shape, torch.uint8),
        }
        found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        if found != expected or not 0 < info.num_new <= num <= budget:
            raise DamagedStateError(
                f"{path} does not hold the answers of this training: remove it to start again"
            )
        self.images, self.labels = tensors["images"].clone(), tensors["labels"].clone()
        LabelledImages(self.images, self.labels, num_classes)
        self.generator.set_state(tensors["generator"])
        self.rounds = [_round(entry) for entry in info.rounds]
        self.num_new, self.agreement_before = info.num_new, or_nan(info.agreement_before)


def query_substitute(
    target: Oracle,
    images: Tensor | LabelledImages,
    plan: QueryPlan | None = None,
    *,
    architecture: str,
    recipe: Recipe = ROUND_RECIPE,
    seed: int = 0,
    device: torch.device | str = "cpu",
    state_folder: Path | str | None = None,
) -> tuple[Classifier, list[Round]]:
    """Train a substitute for a model on its predicted labels alone.

    Only ``predict`` of the target is called (in evaluation mode, if it is a module), never twice
    for the same image and never for more than ``plan.budget`` images. Every round trains a new
    substitute. On a CPU, the same seed and number of threads give the same substitute, bit for bit.
    Training ends early if the augmentation finds no new image.

    Args:
        target: The model to imitate.
        images: Images to draw the seed images from, ``(N, C, H, W)`` in [0,1] or bytes; labels are
            ignored.
        plan: Seed images, budget and step.
        architecture: Architecture of the substitute (:data:`nullclass.models.ARCHITECTURES`).
        recipe: How each round is trained.
        seed: Seed of the seed images, the initial weights and the trainings.
        device: Device of the substitute.
        state_folder: Keeps the answers after every round of queries; the same call then queries no
            image again and gives the same substitute. The caller removes the state. A target that
            is no :class:`Classifier` is recognised by the name of its class alone: give each one
            a folder of its own.

    Returns:
        The substitute of the last round, in evaluation mode, and all rounds.

    Raises:
        UserError: If there are fewer images than seed images, all seed images get the same label,
            a predicted label is invalid, a substitute cannot be trained, or ``state_folder`` holds
            the state of other work.
    """
    plan = QueryPlan() if plan is None else plan
    pool = _as_images(images)
    if len(pool) < plan.num_seed_images:
        raise UserError(
            f"there are {len(pool)} images, but the plan has {plan.num_seed_images} seed images: "
            "give more images or set num_seed_images"
        )
    channels, height, width = pool.images.shape[1:]
    shape = channels, height, width
    with fork_rng(seed):  # a model that cannot be made fails before a query is paid
        build_model(architecture, image_shape=shape, num_classes=target.num_classes)
    generator = torch.Generator().manual_seed(seed)
    path, mark = None if state_folder is None else Path(state_folder) / STATE, ""
    if path is not None:
        settings = [asdict(plan), architecture, asdict(recipe), seed, torch.device(device).type]
        mark = _fingerprint(settings, pool, target)
    answers = _Answers(generator)
    if path is not None and path.exists():
        answers.load(path, mark, shape, target.num_classes, plan.budget)
    else:
        drawn = torch.randperm(len(pool), generator=generator)[: plan.num_seed_images]
        answers.add(_unqueried(pool.batch(drawn)[0].cpu(), set()), target)
    queried: set[bytes] = set()
    _unqueried(answers.images, queried)
    while True:
        if path is not None:  # before the training: queries are what costs
            answers.save(path, mark)
        data = LabelledImages(answers.images, answers.labels, target.num_classes)
        num_rounds = len(answers.rounds)
        substitute = _train_substitute(data, architecture, recipe, generator, device, num_rounds)
        answers.finish_round(substitute)
        left = plan.budget - len(answers.images)
        if not left:
            break
        new = _unqueried(augment(substitute, answers.images, answers.labels, plan.step), queried)
        if not len(new):
            break
        if len(new) > left:
            new = new[torch.randperm(len(new), generator=generator)[:left].sort().values]
        answers.add(new, target, substitute)
    return substitute, answers.rounds


def augment(substitute: Classifier, images: Tensor, labels: Tensor, step: float) -> Tensor:
    """Move each image along the sign of the gradient of its label's logit.

    Args:
        substitute: The model.
        images: ``(N, C, H, W)`` in [0,1], on any device.
        labels: ``(N,)`` labels of the target; -1 is null.
        step: lambda, in pixel units; negative steps decrease the logit.

    Returns:
        ``(N, C, H, W)`` in [0,1], each at most ``|step|`` from its image in L-infinity.
    """
    augmented = []
    outputs = labels.where(labels != NULL_LABEL, substitute.num_outputs - 1)
    device = substitute.mean.device
    with frozen(substitute):
        for part, output in zip(images.split(BATCH_SIZE), outputs.split(BATCH_SIZE), strict=True):
            inputs = part.detach().to(device).requires_grad_()
            logits = substitute(inputs).gather(1, output.to(device)[:, None])
            (gradient,) = torch.autograd.grad(logits.sum(), inputs)
            moved = (inputs.detach() + step * gradient.sign()).clamp(0, 1)
            augmented.append(moved.to(part.device))
    return torch.cat(augmented)


def agreement(first: Oracle, second: Oracle, images: Tensor | LabelledImages) -> float:
    """Return the rate of images ``(N, C, H, W)`` for which two models predict the same label.

    It queries both models for all images, so it measures an attacker but is not available to one.
    """
    batches = _as_images(images).batches()
    return _rate(torch.cat([_predict(first, x) == _predict(second, x) for x, _ in batches]))


def _as_images(images: Tensor | LabelledImages) -> LabelledImages:
    """Return checked images; those of a tensor get arbitrary labels."""
    if isinstance(images, LabelledImages):
        return images
    return tensors_or_loader((images, torch.zeros(len(images), dtype=torch.int64)))


def _predict(target: Oracle, images: Tensor) -> Tensor:
    """Return the labels ``(N,)`` on the CPU."""
    device = target.mean.device if isinstance(target, Classifier) else torch.device("cpu")
    evaluating = frozen(target) if isinstance(target, nn.Module) else nullcontext()
    with evaluating, torch.no_grad():
        parts = images.split(BATCH_SIZE)
        return torch.cat([target.predict(part.to(device)).cpu() for part in parts])


def _unqueried(images: Tensor, queried: set[bytes]) -> Tensor:
    """Return the images that are not in ``queried``, each once, and add them to it."""
    index = []
    for i, image in enumerate(images + 0.0):  # turns -0 into 0, the same pixel
        content = image.numpy().tobytes()
        if content not in queried:
            queried.add(content)
            index.append(i)
    return images[index]


def _fingerprint(settings: list[Any], pool: LabelledImages, target: Oracle) -> str:
    """Return a hash of everything that decides the substitute."""
    parts: list[Any] = [settings, pool.sha256(), type(target).__name__]
    model: Oracle = target
    while isinstance(model, Classifier):
        network, refusal, _ = without_refusal(model)
        parts.append(json_values(refusal))
        if isinstance(refusal, DetectorRefusal):
            parts.append(weights_sha256(model))
        if network is model:
            parts.append(weights_sha256(network))
            break
        model = network
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _round(entry: _Round) -> Round:
    values = msgspec.structs.asdict(entry)
    return Round(**values | {"agreement_before": or_nan(entry.agreement_before)})


def _rate(is_equal: Tensor) -> float:
    return float(is_equal.double().mean())


def _train_substitute(
    data: LabelledImages,
    architecture: str,
    recipe: Recipe,
    generator: torch.Generator,
    device: torch.device | str,
    num_rounds: int,
) -> Classifier:
    """Return a new substitute, trained on all queried images."""
    seed = int(torch.randint(2**62, (), generator=generator))
    channels = data.batch(slice(None))[0].transpose(0, 1).flatten(1)
    with fork_rng(seed):
        substitute = build_model(
            architecture,
            image_shape=(len(channels), *data.images.shape[2:]),
            num_classes=data.num_classes,
            has_null=bool((data.labels == NULL_LABEL).any()),
            mean=channels.mean(dim=1).tolist(),
            std=channels.std(dim=1).clamp(min=1e-3).tolist(),  # a channel may be constant
        ).to(device)
    try:
        train(substitute, data, TrainConfig(recipe, seed=seed))
    except UserError as error:
        raise UserError(
            f"the substitute of round {num_rounds + 1} could not be trained: {error}"
        ) from None
    return substitute

"""The interface of attacks, and the base class that checks their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from types import NoneType
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    Required,
    Self,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import torch
from torch import Tensor, nn

from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState, IndexedLoss
from nullclass.core.checks import check_choice, check_count, check_number, check_share
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen, searched
from nullclass.core.norms import BALLS, Eps
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier, as_classifier
from nullclass.models.network import Body
from nullclass.results.schema import UNKNOWN, Access


class Attack(Protocol):
    """Turns images into adversarial images within a budget; its attributes are its settings.

    An attack leaves the model and the images unchanged. Where it does not succeed it returns its
    best adversarial image so far. Callers decide success themselves, from the outcomes.
    """

    @property
    def objective(self) -> ObjectiveName:
        """``fool``, ``force-null`` or ``untargeted`` (:mod:`nullclass.attacks.losses`)."""

    @property
    def is_iterative(self) -> bool:
        """Whether the attack searches the ball for a success.

        Then a success at a smaller eps counts at every larger one. A single step such as FGSM does
        not search.
        """

    @property
    def access(self) -> Access:
        """What the attack uses of the model."""

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return adversarial images ``(N, C, H, W)`` in [0,1], within eps of the images.

        Args:
            model: A :class:`nullclass.models.Classifier`.
            images: ``(N, C, H, W)`` in [0,1].
            labels: ``(N,)`` true labels.
            eps: Budget in pixel units: one number, or ``(N,)`` with one value per image.
            norm: ``linf``, ``l2`` or ``l1``.
            generator: Source of random numbers.
            batch_size: Images per forward and backward pass;
                :func:`nullclass.attacks.state.default_batch_size` if None.
        """
        ...


class CallOptions(TypedDict, total=False):
    """The keyword arguments of an attack's call."""

    eps: Required[Eps]
    norm: str
    generator: torch.Generator | None
    batch_size: int | None


class BaseAttack(ABC):
    """An attack as a frozen dataclass: subclasses define :meth:`run`.

    Settings that several attacks share:

        objective         what the attacker wants
        loss              what the steps maximise (:mod:`nullclass.attacks.losses`)
        num_steps         gradient steps per restart, and per target
        num_restarts      independent starts: the clean image, then random points of the ball
        relative_step     step size as a share of eps; None is 2.5 / num_steps (Madry et al. 2018)
        momentum          weight of earlier gradients (mu in Dong et al. 2018)
        num_targets       how many of the winning answers are targets, largest clean logit first;
                          None is all of them, and of more than 20 so many: of many classes
                          the far ones cost as much as the others and add little (Gao et al. 2022)
        precision         bfloat16 computes gradients under autocast, about twice as fast where it
                          is native; successes are confirmed in float32 (comparison: LOG.md)
        reference_images  images to start from, chosen by the model's prediction and not by their
                          label; None takes the images under attack, and the result then depends on
                          the batch. Evaluations give their test images.
        num_candidates    reference images considered, at most; more are subsampled evenly
    """

    objective: ObjectiveName
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "white-box"
    norms: ClassVar[tuple[str, ...]] = tuple(BALLS)
    """The norms the attack supports."""

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self)

    @abstractmethod
    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """Attack ``state.images`` and leave the results in ``state.adv_images``."""

    def __call__(
        self,
        model: Body,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        num_classes: int | None = None,
        has_null: bool = True,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return adversarial images; see :class:`Attack`.

        A module or function that is no Classifier needs ``num_classes``, K. The last of its K + 1
        logits is null; with ``has_null=False`` it has K.

        Raises:
            UserError: If an argument is out of range or the attack does not support it.
        """
        model = as_classifier(model, num_classes, images, has_null=has_null)
        state = self.begin(model, images, labels, eps=eps, norm=norm, batch_size=batch_size)
        if len(images):
            with frozen(model), searched(model):
                self.run(state, generator)
        return state.adv_images

    def begin(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        batch_size: int | None = None,
    ) -> AttackState:
        """Return the state in which the attack starts; arguments as in a call.

        Raises:
            UserError: If an argument is out of range or the attack does not support it.
        """
        state = AttackState(
            model,
            images,
            labels,
            eps=eps,
            norm=check_choice(f"the norm of {type(self).__name__}", norm, self.norms),
            objective=self.objective,
            precision=getattr(self, "precision", "float32"),
            batch_size=batch_size,
        )
        self.prepare(state)
        return state

    def prepare(self, state: AttackState) -> None:  # noqa: B027 (most attacks need nothing)
        """Set what the attack adds to its state, and raise UserError for what it cannot attack."""


def run_on(
    attack: Attack, state: AttackState, chosen: Tensor, generator: torch.Generator | None
) -> None:
    """Run an attack on some images of another attack's state, from their best images so far.

    What it finds is evaluated by the model itself, not as it answers while it is searched.

    Args:
        attack: The attack.
        state: Receives successes and better images.
        chosen: ``(N,)`` indices of the images.
        generator: Source of random numbers.

    Raises:
        UserError: If the attack does not support the norm.
    """
    with searched(state.model):
        if isinstance(attack, BaseAttack):
            part = attack.begin(
                state.model,
                state.images[chosen],
                state.labels[chosen],
                eps=state.eps_at(chosen),
                norm=state.norm_name,
                batch_size=state.batch_size,
            )
            part.adv_images, part.best = state.adv_images[chosen], state.best[chosen]
            part.num_begun = state.num_begun
            attack.run(part, generator)
            adv_images = part.adv_images
        else:
            adv_images = state.attack_some(attack, state.model, chosen, generator)
    with searched(state.model, is_searched=False):
        state.evaluate_all(chosen, adv_images)


class WrappedAttack(BaseAttack):
    """Runs another attack in its own way: subclasses are dataclasses with a field ``attack``."""

    attack: Attack

    def __post_init__(self) -> None:
        """Check the attack and the settings."""
        check_attack(self.attack)
        super().__post_init__()

    @property
    def objective(self) -> ObjectiveName:  # type: ignore[override]
        """The attack's objective."""
        return self.attack.objective

    @property
    def access(self) -> Access:  # type: ignore[override]
        """What the attack uses of the model."""
        return self.attack.access

    @property
    def is_iterative(self) -> bool:  # type: ignore[override]
        """Whether the attack searches the ball."""
        return self.attack.is_iterative

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        """The norms the attack supports."""
        return supported_norms(self.attack)

    def with_reference_images(self, images: LabelledImages) -> Self:
        """See :class:`TakesReferenceImages`."""
        return replace(self, attack=with_reference_images(self.attack, images))  # type: ignore[type-var]


class RestartedAttack(BaseAttack):
    """Climbs one loss after another, from the clean image and then from random points."""

    num_restarts: int

    @abstractmethod
    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the losses to maximise."""

    @abstractmethod
    def climb(self, state: AttackState, indices: Tensor, start: Tensor, loss: IndexedLoss) -> None:
        """Maximise the loss for the images of one batch, and keep the results in the state."""

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`BaseAttack`. Images that succeed in between are left out."""
        losses = self.losses(state)
        for restart in range(self.num_restarts):
            for loss in losses:
                for indices in state.batches():
                    start = state.images[indices]
                    if restart:
                        start = state.random_start(indices, generator)
                    self.climb(state, indices, start, loss)


@runtime_checkable
class TakesReferenceImages(Protocol):
    """An attack that starts from images other than those under attack."""

    def with_reference_images(self, images: LabelledImages) -> Attack:
        """Return the attack with these reference images, unless it already has some."""
        ...


def with_reference_images(attack: Attack, images: LabelledImages) -> Attack:
    """Return the attack with reference images if it takes any and has none."""
    return (
        attack.with_reference_images(images) if isinstance(attack, TakesReferenceImages) else attack
    )


def supported_norms(attack: Attack) -> tuple[str, ...]:
    """Return the norms an attack supports: its ``norms`` attribute, or all of them."""
    norms: tuple[str, ...] = getattr(attack, "norms", tuple(BALLS))
    return norms


def access_of(attack: object) -> str:
    """Return what an attack uses of the model, or ``unknown``."""
    return getattr(attack, "access", UNKNOWN)


def check_attack(attack: object) -> None:
    """Raise UserError unless the argument is an instance of an attack."""
    if isinstance(attack, type):
        name = attack.__name__
        raise UserError(f"{name} is a class: write {name}() to make an attack of it")
    if not (callable(attack) and hasattr(attack, "objective") and hasattr(attack, "is_iterative")):
        raise UserError(
            f"{attack!r} is no attack: give an instance such as PGD(), or a callable with the "
            "attributes objective, is_iterative and access (nullclass.attacks.base.Attack)"
        )


def describe(attack: Attack) -> dict[str, Any]:
    """Return the class name and all settings of an attack as JSON values."""
    settings = {name: _as_json(value) for name, value in vars(attack).items()}
    return {"kind": type(attack).__name__, "objective": attack.objective} | settings


def _as_json(setting: Any) -> Any:
    if isinstance(setting, tuple):
        return [_as_json(part) for part in setting]
    if isinstance(setting, LabelledImages):
        return {"num_images": len(setting)}
    if isinstance(setting, Tensor):
        return setting.tolist()
    if isinstance(setting, Classifier):
        return setting.architecture or type(setting.body).__name__
    return describe(setting) if hasattr(setting, "objective") else setting


_LARGEST = {"relative_step": 2.0, "p_init": 1.0, "share": 1.0, "tolerance": 0.1}
"""Settings in ``(0, largest]``."""
_NOT_NEGATIVE = ("noise", "radius", "smallest")


def check_settings(attack: Any) -> None:
    """Raise UserError if a setting of a dataclass attack is out of range.

    Literal settings must be one of their values, ``num_*`` positive integers. A setting whose type
    allows None may be None.
    """
    hints = get_type_hints(type(attack))
    for field in fields(attack):
        name, value = field.name, getattr(attack, field.name)
        if get_origin(hints[name]) is Literal:
            check_choice(name, value, get_args(hints[name]))
        elif value is None and NoneType in get_args(hints[name]):
            continue
        elif name.startswith("num_"):
            check_count(name, value, field.metadata.get("minimum", 1))
        elif name == "momentum":
            check_share(name, value)
        elif name in _NOT_NEGATIVE:
            if check_number(name, value) < 0:
                raise UserError(f"{name} must be at least 0, not {value!r}")
        elif name in _LARGEST and not 0 < check_number(name, value) <= _LARGEST[name]:
            raise UserError(f"{name} must be in (0, {_LARGEST[name]:g}], not {value!r}")

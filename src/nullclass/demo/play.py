"""What the demo computes: answers, attacks with the way they took, proofs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nullclass.attacks import FGSM, PGD, MultiTargetedPGD
from nullclass.core.errors import UserError
from nullclass.core.outcomes import outcome_name
from nullclass.data import LabelledImages
from nullclass.demo.images import SIDE, Pixels
from nullclass.models.classifier import Classifier
from nullclass.rejection import ProvableNull
from nullclass.rejection.fixed import FixedClassifier
from nullclass.scoring.proofs import prove_largest

NUM_STEPS = 20
NUM_TARGETS = 3
NUM_POINTS = 21
"""Points between the image and that of FGSM, which takes one step."""

LARGEST_RADIUS = 0.5


@dataclass(frozen=True)
class Result:
    """One image, attacked or not."""

    label: int
    """True label: of a test image, or the answer to a drawing; -1 if that is null."""
    clean: Pixels
    image: Pixels
    """After the attack, if there was one."""
    prediction: int
    """-1 for null."""
    probabilities: npt.NDArray[np.float32]
    """``(K + 1,)``."""
    path: npt.NDArray[np.float32]
    """``(T, K + 1)`` probabilities along the attack; T is 1 without one."""

    @property
    def outcome(self) -> str:
        """``correct``, ``null`` or ``fooled``."""
        return outcome_name(self.prediction, self.label)


@dataclass(frozen=True)
class Proof:
    """What a proved model answers, and how far its proof reaches."""

    prediction: int
    """-1 for null."""
    network: int
    """Answer of the network without proofs."""
    proved: float
    """Largest radius within which that answer is proved, up to 0.5; 0 for none."""


class _Recorder(FixedClassifier):
    """Notes the probabilities of every image that an attack looks at."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model)
        self.seen: list[Tensor] = []

    def all_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        self.seen.append(logits.detach().softmax(dim=1)[0])
        return logits


def check_model(model: Classifier) -> None:
    """Refuse a model that the demo cannot show.

    Raises:
        UserError: If it is not one of ten digits of 28 by 28 pixels with null.
    """
    if model.image_shape != (1, SIDE, SIDE) or model.num_classes != 10 or not model.has_null:
        raise UserError(
            "the demo shows models of ten digits with null, on grey images of 28 by 28 pixels, and "
            "this model is none"
        )


def answer(model: Classifier, clean: Pixels, label: int | None) -> Result:
    """Return the answer to an image; without a label that is the answer."""
    probabilities = _probabilities(model, _as_images(clean))
    prediction = int(model.predict(_as_images(clean))[0])
    return Result(
        prediction if label is None else label,
        clean,
        clean,
        prediction,
        probabilities[0],
        probabilities,
    )


def attack(model: Classifier, clean: Pixels, label: int, kind: str, eps: float) -> Result:
    """Attack an image.

    Args:
        model: The model.
        clean: The image.
        label: Its true label.
        kind: ``fgsm``, or ``aware``: PGD that does not count null as a success, and if it fails the
            same towards the nearest classes, one after another.
        eps: Budget, L∞, in pixel units.
    """
    images, labels = _as_images(clean), torch.tensor([label])
    if kind == "fgsm":
        adv_images = FGSM(objective="untargeted")(model, images, labels, eps=eps)
        shares = torch.linspace(0, 1, NUM_POINTS)[:, None, None, None]
        path = _probabilities(model, images + shares * (adv_images - images))
    else:
        recorder = _Recorder(model)
        adv_images = PGD(num_steps=NUM_STEPS)(recorder, images, labels, eps=eps)
        if outcome_name(int(model.predict(adv_images)[0]), label) != "fooled":
            stronger = MultiTargetedPGD(num_steps=NUM_STEPS, num_targets=NUM_TARGETS)
            adv_images = stronger(recorder, images, labels, eps=eps)
        path = torch.stack(recorder.seen).numpy()
    probabilities = _probabilities(model, adv_images)
    return Result(
        label,
        clean,
        adv_images[0, 0].numpy(),
        int(model.predict(adv_images)[0]),
        probabilities[0],
        path,
    )


def proof_of(model: ProvableNull, image: Pixels) -> Proof:
    """Return what a proved model says of an image, and the largest radius it can prove."""
    images = _as_images(image)
    label = model.model.predict(images)
    data = LabelledImages(images, label, model.num_classes)
    limits = torch.tensor([LARGEST_RADIUS])
    rows = prove_largest(model.model, data, limits, norm=model.norm, verifier=model.verifier)
    return Proof(int(model.predict(images)[0]), int(label[0]), float(rows["eps_pixels"].iloc[0]))


def _as_images(image: Pixels) -> Tensor:
    return torch.from_numpy(image.copy())[None, None]


def _probabilities(model: Classifier, images: Tensor) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        probabilities: npt.NDArray[np.float32] = model(images).softmax(dim=1).float().numpy()
    return probabilities

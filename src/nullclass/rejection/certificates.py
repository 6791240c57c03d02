"""Certificates: what was proved of each image, kept in a file and checked again.

A certificate names the weights and the image by their SHA-256, so that it cannot be taken for one
of another model or image. :func:`check_certificates` needs the weights alone: it proves every
answer anew in float64 on the CPU, for interval bounds by a second arithmetic of its own
(:mod:`nullclass.certify.corners`) beside the verifier's.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nullclass.certify.corners import corner_margins
from nullclass.certify.margins import margins
from nullclass.certify.network import read_network
from nullclass.certify.regions import check_range
from nullclass.certify.verifiers import find_verifier
from nullclass.core.errors import UserError
from nullclass.core.files import read_json, write_json
from nullclass.core.outcomes import NULL_LABEL
from nullclass.models.classifier import Classifier

KIND = "nullclass certificates"
VERSION = 1

AGREEMENT = 1e-6
"""How far two float64 computations of one margin may be apart, of the larger of 1 and the margin:
far more than they round, far less than any mistake in one of them makes."""

BATCH_SIZE = 250
"""Images proved anew at once."""


@dataclass(frozen=True)
class Certificate:
    """What is proved of one image: the model says ``label`` within ``radius`` of it."""

    label: int
    """The label proved; -1 if none is: then the answer is null, and nothing is claimed."""
    margin: float
    """By how much its logit is sure to beat the others (positive); of null, how far the nearest
    class is from being proved (zero or negative)."""
    radius: float
    """In pixel units."""
    norm: str
    """``linf`` or ``l2``."""
    verifier: str
    """Who proved it: name in :data:`nullclass.certify.verifiers.VERIFIERS`."""
    dtype: str
    """Floating-point type of the proof."""
    image_sha256: str
    weights_sha256: str
    confidence: float = 1.0
    """1 for a proof; less where it rests on a sample."""


@dataclass(frozen=True)
class Certificates:
    """Those of a batch, made by one model with one radius."""

    labels: tuple[int, ...]
    margins: tuple[float, ...]
    images_sha256: tuple[str, ...]
    """As :func:`image_hashes` gives them."""
    radius: float
    norm: str
    verifier: str
    dtype: str
    weights_sha256: str
    """As :func:`weights_sha256` gives it."""
    confidence: float = 1.0
    """Of each by itself; less than 1 for :mod:`nullclass.rejection.smoothing`."""
    settings: dict[str, float] = field(default_factory=dict)
    """The verifier's own, if it has some."""

    def __post_init__(self) -> None:
        """Refuse lists of several lengths."""
        if not len(self.labels) == len(self.margins) == len(self.images_sha256):
            raise UserError("certificates need a label, a margin and a hash for every image")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def __getitem__(self, place: int) -> Certificate:
        """That of one image."""
        return Certificate(
            label=self.labels[place],
            margin=self.margins[place],
            radius=self.radius,
            norm=self.norm,
            verifier=self.verifier,
            dtype=self.dtype,
            image_sha256=self.images_sha256[place],
            weights_sha256=self.weights_sha256,
            confidence=self.confidence,
        )

    def __iter__(self) -> Iterator[Certificate]:
        """Those of all images, in order."""
        return (self[place] for place in range(len(self)))

    @property
    def num_proved(self) -> int:
        """How many images have an answer that is proved."""
        return sum(label != NULL_LABEL for label in self.labels)

    def save(self, path: Path | str) -> None:
        """Write them as JSON, whole or not at all.

        Raises:
            UserError: If the file cannot be written.
        """
        told = asdict(self)
        write_json(Path(path), {"kind": KIND, "version": VERSION, "sha256": _digest(told), **told})

    @classmethod
    def load(cls, path: Path | str) -> Certificates:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: If the file is missing, damaged or edited, or holds something else.
        """
        content = read_json(Path(path), "list of certificates")
        if content.get("kind") != KIND or content.get("version") != VERSION:
            raise UserError(f"{path} holds no certificates that this nullclass can read")
        names = {each.name for each in fields(cls)}
        told = {name: value for name, value in content.items() if name in names}
        if set(told) != names or _digest(told) != content.get("sha256"):
            raise UserError(
                f"{path} is not what was written (its own SHA-256 does not fit): the certificates "
                "were damaged or edited, make them again"
            )
        lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
        return cls(**(told | lists))


def check_certificates(
    certificates: Certificates | Path | str,
    model: Classifier,
    images: Tensor,
    *,
    num_fresh: int = 10_000,
) -> Tensor:
    """Prove every certificate anew, from the model's weights, in float64 on the CPU.

    Certificates of :mod:`nullclass.rejection.smoothing` rest on a sample and cannot be proved:
    those
    are held against votes under fresh noise, which contradict false claims of much and let pass
    claims of a little more than is true.

    Args:
        certificates: Certificates or their file.
        model: The classifier they are about: for
        :class:`~nullclass.rejection.provable.ProvableNull`
            the model inside it, or itself.
        images: ``(N, C, H, W)``, the very images, in the same order.
        num_fresh: Votes under fresh noise for each certificate of smoothing; not the number that
            the certificate tells, which may be forged.

    Returns:
        ``(N,)`` float64: the margins proved now; NaN where the answer was null and nothing is
        claimed.

    Raises:
        UserError: If the weights or an image are not those of the certificates, or a margin cannot
            be proved.
    """
    if not isinstance(certificates, Certificates):
        certificates = Certificates.load(certificates)
    inner = getattr(model, "model", model)
    if not isinstance(inner, Classifier) or inner.has_null:
        raise UserError("certificates are of a classifier without null: give that one")
    if weights_sha256(inner) != certificates.weights_sha256:
        raise UserError(
            "the model's weights are not those the certificates were made with (another SHA-256; "
            "one bit is enough): certificates of other weights prove nothing about these"
        )
    if len(images) != len(certificates):
        raise UserError(f"there are {len(certificates)} certificates, but {len(images)} images")
    hashes = zip(image_hashes(images), certificates.images_sha256, strict=True)
    for place, (found, told) in enumerate(hashes):
        if found != told:
            raise UserError(
                f"image {place} is not the one that certificate {place} was made for (another "
                "SHA-256): give the same images in the same order"
            )
    check_range(images)
    from nullclass.rejection.smoothing import SMOOTHING, check_by_fresh_noise

    if certificates.verifier == SMOOTHING:
        voting = copy.deepcopy(inner).cpu().float().eval()
        return check_by_fresh_noise(
            certificates, voting, images.cpu().float(), num_fresh=max(num_fresh, 1000)
        )
    if certificates.confidence != 1 or certificates.settings:
        raise UserError(
            f"certificates by {certificates.verifier!r} are proofs, with a confidence of 1 and no "
            f"settings, and these have a confidence of {certificates.confidence}: they were changed"
        )
    claims = torch.tensor(certificates.labels, dtype=torch.long) != NULL_LABEL
    proved = torch.full((len(images),), math.nan, dtype=torch.float64)
    exact = copy.deepcopy(inner).cpu().double().eval()
    places = claims.nonzero().squeeze(1)
    for part in places.split(BATCH_SIZE) if len(places) else ():
        labels = torch.tensor([certificates.labels[place] for place in part.tolist()])
        claimed = torch.tensor(
            [certificates.margins[place] for place in part.tolist()], dtype=torch.float64
        )
        again = _proved_again(exact, images[part].cpu().double(), labels, certificates)
        bad = ~(claimed > 0) | ~(again > 0) | ~(claimed <= again + AGREEMENT * again.abs().clamp(1))
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            raise UserError(
                f"certificate {int(part[first])} claims a margin of {float(claimed[first]):.6g}, "
                f"but from these weights {float(again[first]):.6g} can be proved: it was changed, "
                "or its proof was wrong"
            )
        proved[part] = again
    return proved


@torch.no_grad()
def _proved_again(
    model: Classifier, images: Tensor, labels: Tensor, certificates: Certificates
) -> Tensor:
    if int(labels.min()) < 0 or int(labels.max()) >= model.num_classes:
        raise UserError("a certificate claims a label that the model does not have")
    network = read_network(model)
    radius, norm = certificates.radius, certificates.norm
    verifier = find_verifier(certificates.verifier)
    again = margins(network, images, labels, radius, norm=norm, verifier=verifier)
    if (certificates.verifier, norm) == ("interval", "linf"):
        other = corner_margins(network, images, labels, radius)
        apart = (other - again).abs() > AGREEMENT * other.abs().clamp(1)
        if bool(apart.any()):
            first = int(apart.nonzero()[0])
            raise UserError(
                f"two computations of one bound differ ({float(again[first]):.9g} and "
                f"{float(other[first]):.9g}): one of them is wrong, so nothing is confirmed"
            )
    return again


def weights_sha256(model: Classifier) -> str:
    """A fingerprint of a classifier's numbers: weights, buffers, mean, std, how many classes.

    What is done with them is not in it: kinds of layers, strides, slopes. The same for a float32
    model and its exact copy in float64; another if one bit differs.
    model and its exact copy in float64; another if one bit differs.
    """
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = {"mean": model.mean, "std": model.std, **model.state_dict()}
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        value = value.double() if value.is_floating_point() else value.long()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    digest.update(f"{model.num_classes} {model.num_nulls}".encode())
    return digest.hexdigest()


def image_hashes(images: Tensor) -> Iterator[str]:
    """SHA-256 of every image's shape and pixels as float64 numbers, whatever type holds them."""
    for image in images.detach().cpu():
        told = f"{tuple(image.shape)}\n".encode()
        yield hashlib.sha256(told + image.double().contiguous().numpy().tobytes()).hexdigest()


def _digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

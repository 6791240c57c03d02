"""Certificates: what was proved for each image, stored in a file.

A certificate identifies the weights and the image by their SHA-256, so that it does not apply to
another model or image. :func:`nullclass.rejection.check_certificates` proves it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from nullclass.certify import check_images, check_radius
from nullclass.core.documents import Document, Int64, Sha256, read_document, write_document
from nullclass.core.errors import UserError
from nullclass.core.outcomes import NULL_LABEL, predictions
from nullclass.data.arrays import ROUNDING
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.rejection.fixed import FixedClassifier

UNPROVED = -1e3
"""Margin of a class without any bound: finite, because logits must be."""


class CertifiedNull(FixedClassifier):
    """A classifier that predicts what is certified within a radius, and null otherwise.

    Args:
        model: K classes, without null; shared, not copied, and always in evaluation mode.
        radius: r, in pixel units.
        norm: ``linf`` or ``l2``.

    Raises:
        UserError: If the model has null, or radius or norm is invalid.
    """

    verifier: str

    def __init__(self, model: Classifier, radius: float, norm: str) -> None:
        if check_classifier(model).has_null:
            raise UserError(
                "here null means not proved, so the model must have no null of its own (K logits): "
                "train one without null, or prove this one as it is with "
                "nullclass.scoring.proofs.prove"
            )
        check_radius(radius, norm)
        super().__init__(model)
        self.radius, self.norm = float(radius), norm
        self.to(model.mean.device).eval()

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return labels ``(N,)`` of images ``(N, C, H, W)`` in [0,1]; NaN pixels give -1, null.

        Raises:
            UserError: If an image is outside [0,1] by more than rounding, or of the wrong shape.
        """
        is_near = (images >= -ROUNDING) & (images <= 1 + ROUNDING)
        images = images.clamp(0, 1).where(is_near, images)
        check_images(images, self.image_shape)
        return predictions(self(images), self.num_classes)

    def with_null_logit(self, margins: Tensor) -> Tensor:
        """Return margins ``(N, K)`` and the logit of null.

        That is the smallest positive number, so that null wins against a margin of 0.
        """
        null = margins.new_full((margins.shape[0], 1), torch.finfo(margins.dtype).tiny)
        return torch.cat([margins, null], dim=1)

    def make_certificates(self, images: Tensor, logits: Tensor, **settings: Any) -> Certificates:
        """Return certificates of images ``(N, C, H, W)`` from their logits ``(N, K + 1)``."""
        return Certificates(
            labels=tuple(predictions(logits, self.num_classes).tolist()),
            margins=tuple(logits[:, : self.num_classes].amax(dim=1).tolist()),
            images_sha256=tuple(image_hashes(images)),
            radius=self.radius,
            norm=self.norm,  # type: ignore[arg-type]
            verifier=self.verifier,
            dtype=str(logits.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            weights_sha256=weights_sha256(self.model),
            **settings,
        )


class Certificates(Document, frozen=True, kw_only=True, tag_field="kind", tag="certificates"):
    """Certificates of a batch of images.

    A label says that the model predicts it within the radius. Null says that the verifier, in the
    floating-point type of the proof, proves no label within the radius.
    """

    labels: tuple[Annotated[int, Meta(ge=NULL_LABEL, le=2**31)], ...]
    """Proved labels; -1 is null."""
    margins: tuple[float, ...]
    """Lower bound of the label's logit minus any other, positive. For null the largest c_k of any
    class, zero or negative, which is no bound with more than 32 classes
    (:meth:`nullclass.rejection.ProvableNull.all_logits`)."""
    images_sha256: tuple[Sha256, ...]
    """From :func:`image_hashes`."""
    radius: Annotated[float, Meta(ge=0)]
    """In pixel units."""
    norm: Literal["linf", "l2"]
    verifier: str
    """Name in :data:`nullclass.certify.VERIFIERS`, or ``smoothing``."""
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    """Floating-point type of the proof."""
    weights_sha256: Sha256
    """From :func:`weights_sha256`."""
    confidence: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Confidence of each certificate: 1 for proofs, less for randomised smoothing."""
    settings: dict[str, Int64 | float] = msgspec.field(default_factory=dict)
    """Settings of the verifier, if it has any."""

    def __post_init__(self) -> None:
        """Check the lengths."""
        if not len(self.labels) == len(self.margins) == len(self.images_sha256):
            raise UserError("certificates need a label, a margin and a hash for every image")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def num_proved(self) -> int:
        """Number of images with a proved label."""
        return sum(label != NULL_LABEL for label in self.labels)

    def save(self, path: Path | str) -> None:
        """Write a JSON file, atomically.

        Raises:
            UserError: If the file cannot be written.
        """
        write_document(Path(path), self)

    @classmethod
    def load(cls, path: Path | str) -> Certificates:
        """Read a file written by :meth:`save`.

        Raises:
            UserError: If the file is missing, damaged or edited, or of another kind.
        """
        read = read_document(Path(path), cls, "list of certificates")
        return msgspec.structs.replace(read, checksum="")


def weights_sha256(model: Classifier) -> str:
    """Return the SHA-256 of a model's weights, buffers, mean, std and numbers of classes.

    It does not cover the operations: kinds of layers, strides, slopes. A float32 model and its
    exact copy in float64 have the same; one different bit gives another.
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
    """Yield the SHA-256 of each image's shape and pixels, as float64 for any stored type."""
    for image in images.detach().cpu():
        shape = f"{tuple(image.shape)}\n".encode()
        yield hashlib.sha256(shape + image.double().contiguous().numpy().tobytes()).hexdigest()

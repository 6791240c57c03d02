"""Checks certificates: proves them again from the weights alone, in float64 on the CPU.

L-infinity certificates by interval bounds are also computed in a second way
(:mod:`nullclass.certify.corners`), and the two must agree. Certificates of randomised smoothing
cannot be proved; fresh noise must not contradict them.
"""

from __future__ import annotations

import bisect
import copy
import math
import secrets
from pathlib import Path

import torch
from scipy.special import bdtr
from torch import Tensor

from nullclass.certify import (
    CASCADE,
    VERSION,
    check_images,
    corner_margins,
    find_verifier,
    label_margins,
    read_network,
)
from nullclass.core.checks import check_count
from nullclass.core.devices import BATCH_SIZE, default_batch_size, exact_float32
from nullclass.core.errors import UserError
from nullclass.core.outcomes import NULL_LABEL
from nullclass.models.classifier import Classifier
from nullclass.rejection.certificates import (
    UNPROVED,
    Certificates,
    image_hashes,
    weights_sha256,
)
from nullclass.rejection.provable import ProvableNull
from nullclass.rejection.smoothing import (
    NORMAL,
    SMOOTHING,
    SmoothedNull,
    lower_confidence_bound,
    radius_of,
)

TOLERANCE = 1e-6
"""Allowed difference of two float64 computations of a margin, relative to max(1, margin): far above
their rounding, far below the effect of any mistake."""

NULL_TOLERANCE = 1e-4
"""The same for two float32 computations on different machines, of the margin of null."""

CONTRADICTION = 1e-6
"""Probability of the fresh votes below which a certificate of smoothing is refused."""

SETTINGS = {"sigma", "num_samples", "num_selection", "seed"}
"""Settings that certificates of smoothing state."""

NUM_FRESH = 10_000
"""Votes under fresh noise per certificate of smoothing, whatever number it states."""

MAX_SAMPLES = 10**8
"""Largest number of votes that a certificate may state."""


@exact_float32()
def check_certificates(
    certificates: Certificates | Path | str,
    model: Classifier,
    images: Tensor,
) -> Tensor:
    """Check every certificate against the model's weights and the images.

    Args:
        certificates: Certificates, or their file.
        model: The model that made them, or the classifier inside it.
        images: ``(N, C, H, W)``, the same images in the same order.

    Returns:
        ``(N,)`` float64: the margins proved now, for null the largest of any class. For smoothing,
        the margins certified by the fresh noise, negative where it certifies less than the radius.

    Raises:
        UserError: If the weights or an image do not match, a margin cannot be proved, or null is
            claimed where a class is proved.
    """
    if not isinstance(certificates, Certificates):
        certificates = Certificates.load(certificates)
    inner = getattr(model, "model", model)
    if not isinstance(inner, Classifier) or inner.has_null:
        raise UserError("certificates are of a classifier without null: give that one")
    if weights_sha256(inner) != certificates.weights_sha256:
        raise UserError(
            "the model's weights are not those of the certificates (another SHA-256; one bit is "
            "enough): certificates prove nothing about other weights"
        )
    if len(images) != len(certificates):
        raise UserError(f"there are {len(certificates)} certificates, but {len(images)} images")
    for index, image_hash in enumerate(image_hashes(images)):
        if image_hash != certificates.images_sha256[index]:
            raise UserError(
                f"image {index} is not the image of certificate {index} (another SHA-256): give "
                "the same images in the same order"
            )
    check_images(images, inner.image_shape)
    if not all(NULL_LABEL <= label < inner.num_classes for label in certificates.labels):
        raise UserError("a certificate claims a label that the model does not have")
    for index, (label, margin) in enumerate(
        zip(certificates.labels, certificates.margins, strict=True)
    ):
        if not (margin > 0 if label >= 0 else margin <= 0):
            raise UserError(
                f"certificate {index} claims a margin of {margin:.6g} for the label {label}, but "
                "only that of null (-1) is 0 or less: it was changed"
            )
    inner = copy.deepcopy(inner).cpu().eval()
    if certificates.verifier == SMOOTHING:
        return _check_by_fresh_noise(certificates, inner.float(), images.cpu().float())
    if certificates.confidence != 1:
        raise UserError(
            f"certificates by {certificates.verifier!r} are proofs, with a confidence of 1, and "
            f"these have a confidence of {certificates.confidence}: they were changed"
        )
    return _check_by_proof(certificates, inner.double(), images)


@torch.no_grad()
def _check_by_proof(certificates: Certificates, model: Classifier, images: Tensor) -> Tensor:
    network = read_network(model, images.shape[1:])
    verifier = find_verifier(certificates.verifier, _budget(certificates))
    radius, norm = certificates.radius, certificates.norm
    all_labels = torch.tensor(certificates.labels, dtype=torch.long)
    all_claimed = torch.tensor(certificates.margins, dtype=torch.float64)
    proved = _largest_margins(certificates, model, images.cpu(), all_labels, all_claimed)
    claims = (all_labels >= 0).nonzero().squeeze(1)
    images = images.cpu()
    for indices in claims.split(default_batch_size(images)):
        if not len(indices):
            break
        batch, labels, claimed = images[indices].double(), all_labels[indices], all_claimed[indices]
        margins = label_margins(network, batch, labels, radius, norm=norm, verifier=verifier)
        if (certificates.verifier, norm) == ("interval", "linf"):
            other = corner_margins(network, batch, labels, radius)
            differs = (other - margins).abs() > TOLERANCE * other.abs().clamp(1)
            if differs.any():
                i = int(differs.nonzero()[0])
                raise UserError(
                    f"two computations of a bound differ ({margins[i]:.9g} and {other[i]:.9g}): "
                    "one of them is wrong, so nothing is confirmed"
                )
        is_proved = margins > 0
        is_proved &= claimed <= margins + TOLERANCE * margins.abs().clamp(1)
        if not is_proved.all():
            i = int((~is_proved).nonzero()[0])
            raise UserError(
                f"certificate {indices[i]} claims a margin of {claimed[i]:.6g}, but these weights "
                f"prove {margins[i]:.6g}: it was changed, or its proof was wrong"
            )
        proved[indices] = margins
    return proved


def _budget(certificates: Certificates) -> int | None:
    """Return the budget of a cascade; other verifiers have no settings."""
    settings = certificates.settings
    if certificates.verifier == CASCADE and settings.keys() == {"budget", "version"}:
        if settings["version"] != VERSION:
            raise UserError(
                f"the certificates are of version {settings['version']} of the cascade, and this "
                f"is version {VERSION}, which may prove others: make them again"
            )
        return check_count("budget", settings["budget"], 0)
    if settings or certificates.verifier == CASCADE:
        raise UserError(
            f"certificates by {certificates.verifier!r} do not have the settings "
            f"{sorted(settings)}: they were changed, or are of an earlier version"
        )
    return None


def _largest_margins(
    certificates: Certificates, model: Classifier, images: Tensor, labels: Tensor, claimed: Tensor
) -> Tensor:
    """Return ``(N,)`` the largest margin of any class where null is claimed, else NaN.

    They are computed as the certificates say they were, in the same floating-point type, since
    bounds in float64 are a little better and may prove a class.

    Raises:
        UserError: If a class is proved, or the margin is another one.
    """
    found = torch.full((len(images),), math.nan, dtype=torch.float64)
    nulls = (labels < 0).nonzero().squeeze(1)
    if not len(nulls):
        return found
    dtype = torch.float64 if certificates.dtype == "float64" else torch.float32
    refusing = ProvableNull(
        copy.deepcopy(model).to(dtype),
        certificates.radius,
        norm=certificates.norm,
        verifier=certificates.verifier,
        budget=_budget(certificates),
    )
    for indices in nulls.split(BATCH_SIZE):
        logits = refusing(images[indices].to(dtype))
        found[indices] = logits[:, : model.num_classes].amax(dim=1).double()
    allowed = (TOLERANCE if dtype == torch.float64 else NULL_TOLERANCE) * claimed.abs().clamp(1)
    is_right = (found <= allowed) & ((found - claimed).abs() <= allowed)
    wrong = nulls[~is_right[nulls]]
    if len(wrong):
        i = int(wrong[0])
        raise UserError(
            f"certificate {i} claims that nothing is proved, with a largest margin of "
            f"{claimed[i]:.6g}, and these weights give {found[i]:.6g}: it was changed"
        )
    return found


def _check_by_fresh_noise(certificates: Certificates, model: Classifier, images: Tensor) -> Tensor:
    """Return the margins certified by fresh noise; see :func:`check_certificates`.

    This is weaker than a proof. A certificate is refused if its own votes cannot certify it, if
    another class gets most of the fresh votes, or if these have a probability of less than
    :data:`CONTRADICTION` under it. Null is refused if the fresh votes leave it a probability of
    less than that. The seed is random, so that no certificate can be fitted to it.
    """
    settings, confidence = certificates.settings, certificates.confidence
    if not confidence >= 0.5:
        raise UserError(
            f"these certificates have a confidence of {confidence:g}, too little to check: make "
            "them with one of at least 0.5"
        )
    if set(settings) != SETTINGS or certificates.norm != "l2":
        raise UserError(
            f"certificates of smoothing need the settings {', '.join(sorted(SETTINGS))} and the "
            "norm l2: these were changed, make them again"
        )
    num_samples = check_count("num_samples", settings["num_samples"], 1, MAX_SAMPLES)
    num_selection = check_count("num_selection", settings["num_selection"], 1, MAX_SAMPLES)
    sigma = settings["sigma"]
    fresh = SmoothedNull(
        model,
        certificates.radius,
        sigma=sigma,
        num_samples=NUM_FRESH,
        confidence=confidence,
        seed=secrets.randbits(48),
    )
    unanimous = lower_confidence_bound(num_samples, num_samples, confidence)
    largest = sigma * NORMAL.inv_cdf(unanimous)
    num_needed = bisect.bisect_right(
        range(num_samples + 1),
        certificates.radius,
        key=lambda hits: radius_of(hits, num_samples, sigma, confidence),
    )

    def chance_of_null(probability: float) -> float:
        """Bound the chance that votes for a class of this probability do not certify it."""
        not_selected = float(bdtr(num_selection // 2, num_selection, probability))
        return not_selected + float(bdtr(num_needed - 1, num_samples, probability))

    margins = torch.full((len(images),), math.nan, dtype=torch.float64)
    for index, (label, margin) in enumerate(
        zip(certificates.labels, certificates.margins, strict=True)
    ):
        votes = fresh.fresh_votes(images[index])
        if label < 0:
            hits = int(votes.max())
            p_lower = lower_confidence_bound(hits, NUM_FRESH, 1 - CONTRADICTION)
            if chance_of_null(p_lower) < CONTRADICTION:
                raise UserError(
                    f"certificate {index} claims that its votes certify nothing, and fresh noise "
                    f"finds label {int(votes.argmax())} {hits} times in {NUM_FRESH}: it was changed"
                )
            certified = radius_of(hits, NUM_FRESH, sigma, confidence)
            margins[index] = max(certified, UNPROVED) - certificates.radius
            continue
        radius = margin + certificates.radius
        # Margins are float32 numbers and may exceed the bound by their rounding.
        if not radius <= largest + 1e-6 * max(1.0, largest):
            raise UserError(
                f"certificate {index} claims a radius of {radius:.6g}, and {num_samples} votes "
                f"certify at most {largest:.6g}, all for one class: it was changed"
            )
        hits, claimed = int(votes[label]), NORMAL.cdf(radius / sigma)
        if bdtr(hits, NUM_FRESH, claimed) < CONTRADICTION or int(votes.argmax()) != label:
            raise UserError(
                f"certificate {index} claims label {label} with a probability of {claimed:.4g} "
                f"under noise, and fresh noise finds it {hits} times in {NUM_FRESH}: it was "
                "changed, or an unlikely draw"
            )
        certified = radius_of(hits, NUM_FRESH, sigma, confidence)
        margins[index] = max(certified, UNPROVED) - certificates.radius
    return margins

"""L2 radii by randomised smoothing: votes of a network on noisy copies of an image.

The smoothed classifier f answers the class that the network gives most often on x + N(0, sigma²).
If class A has probability p_A > 1/2 there, then f says A on the whole L2 ball of radius

    R = sigma Phi^-1(p_A)

(Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing", theorem 1 with
their p_B = 1 - p_A). p_A is not known, only bounded from below by a sample (Clopper & Pearson
1934): their procedure CERTIFY, with n_0 = ``num_selection`` copies to guess A and n =
``num_samples`` others to bound p_A. Here null is the answer wherever R does not exceed the radius
wanted, and the claim of :mod:`nullclass.rejection.provable` follows, with a confidence:

- It is about the *ideal* smoothed classifier, of which one sample tells. An answer claims falsely
  with probability at most 1 - ``confidence``, over the noise drawn for it.
- An image x' near x is answered wrongly only if the certificate at x or the answer at x' is such a
  case: for images fixed before the noise is drawn, with probability at most twice that.
- An attacker who sees the noise may look for an x' that its noise favours; the bound is not about
  the worst of many draws. Draw with a seed that the attacker does not know.
- Always answered right (strict) is never claimed: a sample may always be too thin.

So it is no proof, and :mod:`nullclass.scoring.prove` has no rows of it: ask for its certificates,
each of which tells its confidence.

The noise of an image is drawn by a generator of its own, seeded by ``seed`` and the image's pixels:
the same image is always answered alike, in any batch, on the same kind of device.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from nullclass.certify.regions import check_radius, check_range
from nullclass.core.errors import UserError
from nullclass.core.outcomes import predictions
from nullclass.models.classifier import Classifier
from nullclass.rejection.certificates import Certificates, image_hashes, weights_sha256
from nullclass.rejection.provable import NEVER, check_without_null

SMOOTHING = "smoothing"
"""Who proves, in certificates and rows."""

MOST_SAMPLES = 10**8
"""Votes that a certificate may tell of."""

BATCH_SIZE = 500
"""Noisy copies sent through the network at once."""

_NORMAL = NormalDist()


class Votes(nn.Module):
    """The body of :class:`SmoothedNull`: images to by how much each class's radius is certified."""

    def __init__(
        self,
        model: Classifier,
        radius: float,
        sigma: float,
        num_samples: int,
        num_selection: int,
        confidence: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.radius = radius
        self.sigma = sigma
        self.num_samples = num_samples
        self.num_selection = num_selection
        self.confidence = confidence
        self.seed = seed

    def train(self, mode: bool = True) -> Votes:
        """The votes are of the model in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """``(N, K + 1)``: certified radius less the one wanted, then null's 0.

        Only the class guessed can be positive. The values have no gradient; what flows instead is
        that of the mean probabilities (Salman et al. 2019), so that attacks climb somewhere.
        """
        rows = []
        for image in images:
            guess, radius = self.certified_radius(image.detach())
            row = image.new_full((self.model.num_classes,), NEVER)
            row[guess] = max(radius, NEVER) - self.radius
            if image.requires_grad:
                soft = self._mean_probabilities(image)
                row = row + (soft - soft.detach())
            rows.append(row)
        null = images.new_full((len(images), 1), torch.finfo(images.dtype).tiny)
        margins = torch.stack(rows) if rows else images.new_empty((0, self.model.num_classes))
        return torch.cat([margins, null], dim=1)

    @torch.no_grad()
    def certified_radius(self, image: Tensor) -> tuple[int, float]:
        """The class guessed, and R of CERTIFY; minus infinity where it abstains.

        Args:
            image: ``(C, H, W)`` in [0,1].
        """
        generator = self._generator(image)
        guess = int(self._counts(image, self.num_selection, generator).argmax())
        hits = int(self._counts(image, self.num_samples, generator)[guess])
        least = lower_confidence_bound(hits, self.num_samples, self.confidence)
        return guess, self.sigma * _NORMAL.inv_cdf(least) if least > 0.5 else -math.inf

    def _generator(self, image: Tensor) -> torch.Generator:
        (told,) = image_hashes(image[None])
        digest = hashlib.sha256(f"{self.seed} {told}".encode()).digest()
        generator = torch.Generator(device=image.device)
        return generator.manual_seed(int.from_bytes(digest[:7], "big"))

    def _counts(self, image: Tensor, num: int, generator: torch.Generator) -> Tensor:
        counts = torch.zeros(self.model.num_classes, dtype=torch.long, device=image.device)
        for start in range(0, num, BATCH_SIZE):
            copies = self._noisy(image, min(BATCH_SIZE, num - start), generator)
            logits = self.model(copies)
            answers = logits[logits.isfinite().all(dim=1)].argmax(dim=1)  # NaN is nobody's vote
            counts += answers.bincount(minlength=self.model.num_classes)
        return counts

    def _noisy(self, image: Tensor, num: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(
            (num, *image.shape), generator=generator, device=image.device, dtype=image.dtype
        )
        return image + self.sigma * noise

    def _mean_probabilities(self, image: Tensor) -> Tensor:
        copies = self._noisy(image, self.num_selection, self._generator(image.detach()))
        probabilities: Tensor = self.model(copies).softmax(dim=1)
        return probabilities.mean(dim=0)


class SmoothedNull(Classifier):
    """Answers where an L2 radius is certified with a confidence, and else null.

    Under the interface of :class:`~nullclass.rejection.provable.ProvableNull`; what its answers
    claim, and what not, is told above.

    Args:
        model: K classes, without null, best trained on noise of that sigma; shared, not copied.
        radius: r, L2 in pixel units: answers are certified within more than that.
        sigma: Standard deviation of the noise, in pixel units.
        num_samples: Noisy copies that bound p_A; many more are needed for a radius of many sigma.
        num_selection: Noisy copies that guess A.
        confidence: Of each answer: 1 - alpha.
        seed: Of the noise.

    Raises:
        UserError: If the model has null, or a number is out of range.
    """

    body: Votes

    def __init__(
        self,
        model: Classifier,
        radius: float,
        *,
        sigma: float,
        num_samples: int = 1000,
        num_selection: int = 100,
        confidence: float = 0.999,
        seed: int = 0,
    ) -> None:
        check_without_null(model)
        check_radius(radius, "l2")
        if not 0 < sigma < math.inf:
            raise UserError(f"sigma, the noise's standard deviation, must be positive, not {sigma}")
        if min(num_samples, num_selection) < 1:
            raise UserError("at least one noisy copy is needed to guess and one to bound")
        if not 0 < confidence < 1:
            raise UserError(f"the confidence must lie between 0 and 1, not {confidence}")
        model.eval()
        votes = Votes(model, float(radius), sigma, num_samples, num_selection, confidence, seed)
        super().__init__(votes, model.num_classes, image_shape=model.image_shape)
        self.to(model.mean.device).eval()

    @property
    def model(self) -> Classifier:
        """The network that votes."""
        return self.body.model

    @property
    def radius(self) -> float:
        """r, in pixel units."""
        return self.body.radius

    @property
    def norm(self) -> str:
        """Of the radius."""
        return "l2"

    @property
    def verifier(self) -> str:
        """Who proves."""
        return SMOOTHING

    @property
    def confidence(self) -> float:
        """Of each answer."""
        return self.body.confidence

    @torch.no_grad()
    def certificates(self, images: Tensor) -> Certificates:
        """What is certified of each image, and with what confidence.

        Args:
            images: ``(N, C, H, W)`` in [0,1].

        Raises:
            UserError: If an image is outside [0,1].
        """
        check_range(images)
        logits = self(images.to(self.mean.device))
        votes = self.body
        return Certificates(
            labels=tuple(predictions(logits, self.num_classes).tolist()),
            margins=tuple(logits[:, : self.num_classes].amax(dim=1).tolist()),
            images_sha256=tuple(image_hashes(images)),
            radius=self.radius,
            norm=self.norm,
            verifier=self.verifier,
            dtype=str(logits.dtype).removeprefix("torch."),
            weights_sha256=weights_sha256(self.model),
            confidence=self.confidence,
            settings={
                "sigma": votes.sigma,
                "num_samples": votes.num_samples,
                "num_selection": votes.num_selection,
                "seed": votes.seed,
            },
        )


def lower_confidence_bound(num_hits: int, num: int, confidence: float) -> float:
    """Clopper & Pearson's lower bound of a probability, one-sided, from hits among trials.

    The largest p, from below, with P[Binomial(num, p) >= num_hits] <= 1 - confidence.
    """
    if num_hits == 0:
        return 0.0
    return _clopper_pearson(num_hits, num, confidence)


@lru_cache(maxsize=4096)
def _clopper_pearson(num_hits: int, num: int, confidence: float) -> float:
    low, high = 0.0, num_hits / num
    alpha = math.log1p(-confidence)
    for _ in range(60):
        middle = (low + high) / 2
        if log_tail(num_hits, num, middle) <= alpha:
            low = middle
        else:
            high = middle
    return low


def log_tail(num_hits: int, num: int, probability: float) -> float:
    """Logarithm of P[Binomial(num, probability) >= num_hits], summed term by term."""
    hits = torch.arange(num_hits, num + 1, dtype=torch.float64)
    ways = math.lgamma(num + 1) - torch.lgamma(hits + 1) - torch.lgamma(num - hits + 1)
    if probability <= 0:
        return -math.inf if num_hits else 0.0
    if probability >= 1:
        return 0.0
    terms = ways + hits * math.log(probability) + (num - hits) * math.log1p(-probability)
    return float(terms.logsumexp(dim=0))


CONTRADICTION = 1e-6
"""Probability below which fresh noise contradicts a certificate."""

NUM_FRESH = 10_000
"""Noisy copies drawn to hold a certificate against, whatever it says of its own."""


def check_by_fresh_noise(
    certificates: Certificates, model: Classifier, images: Tensor, *, num_fresh: int = NUM_FRESH
) -> Tensor:
    """Draw other noise, and refuse certificates that it contradicts.

    That is weaker than a proof: a claim is refused if its own votes could not have certified it, if
    another class gets most of the fresh votes, or if these would have had a probability of less
    than a millionth under it. The seed is the system's, so that no certificate can be fitted to it.

    Args:
        certificates: Those of a :class:`SmoothedNull`.
        model: The network that votes, in float32 on the CPU.
        images: Their images.
        num_fresh: Noisy copies drawn for each image.

    Returns:
        ``(N,)`` float64: the margins certified by the fresh noise, negative where that certifies
        less than the radius; NaN for null.

    Raises:
        UserError: If a certificate is contradicted, or its settings are none.
    """
    num_samples, sigma = _checked_settings(certificates)
    fresh = SmoothedNull(
        model,
        certificates.radius,
        sigma=sigma,
        num_samples=num_fresh,
        confidence=certificates.confidence,
        seed=secrets.randbits(48),
    ).body
    unanimous = lower_confidence_bound(num_samples, num_samples, certificates.confidence)
    most = sigma * _NORMAL.inv_cdf(unanimous) if unanimous > 0 else -math.inf
    margins = torch.full((len(images),), math.nan, dtype=torch.float64)
    for place, certificate in enumerate(certificates):
        if certificate.label < 0:
            continue
        if certificate.label >= model.num_classes:
            raise UserError("a certificate claims a label that the model does not have")
        reached = certificate.margin + certificates.radius
        # Margins are float32 numbers: a few of their roundings more may be claimed.
        if not certificate.margin > 0 or not reached <= most + 1e-6 * max(1.0, most):
            raise UserError(
                f"certificate {place} claims a radius of {reached:.6g}, and {num_samples} votes "
                f"certify {most:.6g} at most, all for one class: it was changed"
            )
        image = images[place]
        claimed = _NORMAL.cdf(reached / sigma)
        votes = fresh._counts(image, num_fresh, fresh._generator(image))
        hits = int(votes[certificate.label])
        is_unlikely = log_tail(num_fresh - hits, num_fresh, 1 - claimed) < math.log(CONTRADICTION)
        if is_unlikely or int(votes.argmax()) != certificate.label:
            raise UserError(
                f"certificate {place} claims label {certificate.label} with a probability of "
                f"{claimed:.4g} under noise, and fresh noise finds it {hits} times in {num_fresh}: "
                "it was changed, or drawn with bad luck"
            )
        least = lower_confidence_bound(hits, num_fresh, certificates.confidence)
        found = sigma * _NORMAL.inv_cdf(least) if least > 0.5 else NEVER
        margins[place] = found - certificates.radius
    return margins


def _checked_settings(certificates: Certificates) -> tuple[int, float]:
    """The number of votes and sigma, as the certificates tell them."""
    told: dict[str, Any] = dict(certificates.settings)
    counts = [told.get("num_samples"), told.get("num_selection")]
    sigma = told.get("sigma")
    if (
        set(told) != {"sigma", "num_samples", "num_selection", "seed"}
        or not all(type(count) is int and 1 <= count <= MOST_SAMPLES for count in counts)
        or not (isinstance(sigma, int | float) and 0 < sigma < math.inf)
        or not 0.5 <= certificates.confidence < 1
        or certificates.norm != "l2"
    ):
        raise UserError(
            "these certificates of randomised smoothing have settings that make no sense (sigma "
            f"positive, 1 to {MOST_SAMPLES} votes, a confidence from 0.5 to below 1, norm l2): "
            "they were changed, make them again"
        )
    return int(told["num_samples"]), float(sigma)

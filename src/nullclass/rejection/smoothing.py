"""L2 radii by randomised smoothing: votes of a network on noisy copies of an image.

The smoothed classifier f predicts the class that the network gives most often on x + N(0, sigma²).
If class A has probability p_A > 1/2 there, then f predicts A on the L2 ball of radius

    R = sigma Phi^-1(p_A)

(Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing", theorem 1 with
p_B = 1 - p_A). p_A is unknown and bounded from below by a sample (Clopper & Pearson 1934). This is
the paper's procedure CERTIFY, with n_0 = ``num_selection`` copies to guess A and n =
``num_samples`` others to bound p_A. The prediction is null where R does not exceed the radius. The
claim of :mod:`nullclass.rejection.provable` follows, with a confidence:

- It is about the *ideal* smoothed classifier, of which the votes are a sample. A certificate is
  false with probability at most 1 - ``confidence``, over the noise drawn for it.
- An image x' near x is misclassified only if the certificate of x or of x' is false: for images
  fixed before the noise is drawn, with probability at most 2 (1 - ``confidence``).
- An attacker who knows the noise may search for an x' that it favours; the bound does not cover the
  worst of many draws. Use a seed that the attacker does not know.
- Nothing is claimed about always being correct (strict): a sample may always be too small.

So this is not a proof, and :func:`nullclass.scoring.proofs.prove` refuses it. Its certificates
state their confidence.

The noise of an image comes from a generator seeded by ``seed`` and the image's pixels: the same
image gets the same prediction in any batch, on the same kind of device.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from statistics import NormalDist

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nullclass.certify import check_images
from nullclass.core.checks import check_count, check_positive, check_rate, check_seed
from nullclass.core.devices import BATCH_SIZE, exact_float32
from nullclass.models.classifier import Classifier
from nullclass.rejection.certificates import UNPROVED, Certificates, CertifiedNull, image_hashes

SMOOTHING = "smoothing"
"""Verifier of certificates by randomised smoothing."""

NORMAL = NormalDist()


class SmoothedNull(CertifiedNull):
    """A classifier that predicts where an L2 radius is certified with a confidence, else null.

    The interface is that of :class:`~nullclass.rejection.ProvableNull`.

    Args:
        model: K classes, without null, best trained on noise of this sigma; shared, not copied.
        radius: r, L2 in pixel units; certified radii must exceed it.
        sigma: Standard deviation of the noise, in pixel units.
        num_samples: Noisy copies that bound p_A; radii of many sigma need many more.
        num_selection: Noisy copies that select A.
        confidence: Confidence of each certificate, 1 - alpha.
        seed: Seed of the noise.

    Raises:
        UserError: If the model has null, or a number is out of range.
    """

    verifier = SMOOTHING

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
        super().__init__(model, radius, "l2")
        self.sigma = check_positive("sigma", sigma)
        self.num_samples = check_count("num_samples", num_samples)
        self.num_selection = check_count("num_selection", num_selection)
        self.confidence = check_rate("confidence", confidence)
        self.seed = check_seed(seed)

    def all_logits(self, images: Tensor) -> Tensor:
        """Return ``(N, K + 1)``: certified radius minus the required one, then null's 0.

        Only the selected class can be positive. The values have no gradient; instead they carry the
        gradient of the mean probabilities (Salman et al. 2019), for attacks to follow.
        """
        rows = []
        for image in images:
            selected, radius = self.certified_radius(image.detach())
            row = image.new_full((self.num_classes,), UNPROVED)
            row[selected] = max(radius, UNPROVED) - self.radius
            if image.requires_grad:
                # The copies are drawn again for the gradient: kept, they would fill the memory.
                mean = checkpoint(
                    self._mean_probabilities, image, use_reentrant=False, preserve_rng_state=False
                )
                row = row + (mean - mean.detach())
            rows.append(row)
        margins = torch.stack(rows) if rows else images.new_empty((0, self.num_classes))
        return self.with_null_logit(margins)

    @torch.no_grad()
    def certified_radius(self, image: Tensor) -> tuple[int, float]:
        """Return the selected class and R; minus infinity where CERTIFY abstains.

        Args:
            image: ``(C, H, W)`` in [0,1].
        """
        generator = self._generator(image)
        selected = int(self._votes(image, self.num_selection, generator).argmax())
        num_votes = int(self._votes(image, self.num_samples, generator)[selected])
        return selected, radius_of(num_votes, self.num_samples, self.sigma, self.confidence)

    @torch.no_grad()
    def fresh_votes(self, image: Tensor) -> Tensor:
        """Return ``(K,)`` votes on ``num_samples`` noisy copies of an image ``(C, H, W)``."""
        return self._votes(image, self.num_samples, self._generator(image))

    @exact_float32()
    @torch.no_grad()
    def certificates(self, images: Tensor) -> Certificates:
        """Return certificates of each image, with their confidence.

        Args:
            images: ``(N, C, H, W)`` in [0,1].

        Raises:
            UserError: If an image is outside [0,1], or of the wrong shape.
        """
        check_images(images, self.image_shape)
        return self.make_certificates(
            images,
            self(images.to(self.mean.device)),
            confidence=self.confidence,
            settings={
                "sigma": self.sigma,
                "num_samples": self.num_samples,
                "num_selection": self.num_selection,
                "seed": self.seed,
            },
        )

    def _generator(self, image: Tensor) -> torch.Generator:
        (image_hash,) = image_hashes(image[None])
        digest = hashlib.sha256(f"{self.seed} {image_hash}".encode()).digest()
        generator = torch.Generator(device=image.device)
        return generator.manual_seed(int.from_bytes(digest[:7], "big"))

    def _votes(self, image: Tensor, num: int, generator: torch.Generator) -> Tensor:
        votes = torch.zeros(self.num_classes, dtype=torch.long, device=image.device)
        for start in range(0, num, BATCH_SIZE):
            logits = self.model(self._noisy(image, min(BATCH_SIZE, num - start), generator))
            labels = logits[logits.isfinite().all(dim=1)].argmax(dim=1)  # NaN votes for no class
            votes += labels.bincount(minlength=self.num_classes)
        return votes

    def _noisy(self, image: Tensor, num: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(
            (num, *image.shape), generator=generator, device=image.device, dtype=image.dtype
        )
        return image + self.sigma * noise

    def _mean_probabilities(self, image: Tensor) -> Tensor:
        copies = self._noisy(image, self.num_selection, self._generator(image.detach()))
        probabilities: Tensor = self.model(copies).softmax(dim=1)
        return probabilities.mean(dim=0)


def radius_of(num_votes: int, num: int, sigma: float, confidence: float) -> float:
    """Return R certified by votes among noisy copies; minus infinity unless p_A > 1/2."""
    p_lower = lower_confidence_bound(num_votes, num, confidence)
    return sigma * NORMAL.inv_cdf(p_lower) if p_lower > 0.5 else -math.inf


@lru_cache(maxsize=4096)
def lower_confidence_bound(num_hits: int, num: int, confidence: float) -> float:
    """Return the one-sided lower bound of a probability (Clopper & Pearson 1934).

    The largest p with P[Binomial(num, p) >= num_hits] <= 1 - confidence, rounded down.
    """
    if num_hits == 0:
        return 0.0
    return float(betaincinv(num_hits, num - num_hits + 1, 1 - confidence)) * (1 - 1e-12)

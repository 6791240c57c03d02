"""ProvableNull: the proved class, and null where nothing is proved.

Let f be a classifier of K classes and C_r a sound verifier: C_r(x) = y only if f predicts y on all
of B(x, r), the images of [0,1] within r of x; otherwise C_r(x) is null. The model is g = C_r.

*Claim.* If f predicts y on all of B(x, eps - r), then g(x') is y or null for every x' in B(x, eps).

*Proof.* Suppose g(x') = k. Then f predicts k on B(x', r). Move from x' towards x by r, or up to x
if x is closer. The resulting point lies in B(x', r), within max(0, eps - r) of x, and in [0,1],
which is convex. There f predicts both k and y, so k = y.

So if C_{max(r, eps - r)}(x) = y, then x is classified as y and no attack within eps changes this to
another class: robust accuracy with rejection (RAR) at eps is at least the rate of images proved so
(:mod:`nullclass.scoring.proofs`). The best choice is r = eps / 2. The construction turns a
classifier into a detector (Tramèr 2022, "Detecting adversarial examples is (nearly) as hard as
classifying them", theorem 4); it uses a verifier instead of a search for the nearest adversarial
image.

Nothing is claimed about null: an attacker may turn any image into null (null-DoS).

The claim is about f as a real function of its stored weights. The rounding of f's own forward pass
does not matter, because g uses only bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nullclass.certify import (
    BUDGET,
    CASCADE,
    MARGIN,
    VERSION,
    Network,
    Settled,
    check_images,
    find_verifier,
    in_range,
    label_spec,
    pair_spec,
    read_network,
    settle,
)
from nullclass.core.checks import check_count
from nullclass.core.devices import BATCH_SIZE, default_batch_size
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.rejection.certificates import UNPROVED, Certificates, CertifiedNull

MAX_PAIRED_CLASSES = 32
"""Up to this number of classes every pair of logits is bounded, so that each class has a margin."""


class ProvableNull(CertifiedNull):
    """A classifier that predicts what it proves within a radius, and null otherwise.

    It has K + 1 logits, so every attack, threshold and evaluation takes it; gradients flow through
    the bounds.

    Args:
        model: K classes, without null; shared, not copied, and always in evaluation mode.
        radius: r, in pixel units. Best eps / 2 for a claim at eps. A smaller one gives fewer nulls,
            but the claim then needs a proof within eps - r.
        norm: ``linf`` or ``l2``.
        verifier: Name in :data:`nullclass.certify.VERIFIERS`. ``cascade`` proves most, with a
            budget per image (:mod:`nullclass.certify.cascade`). Images that require gradients, and
            those that an attack of the package tries on its way, get the margins of its first
            stage, intervals, alone; every answer comes from the whole cascade.
        budget: Of the cascade, and refused without it: largest number of parts per image in branch
            and bound. Default: 128.

    Raises:
        UserError: If the model has null, radius, norm, verifier or budget is invalid, or the model
            cannot be bounded (:func:`nullclass.certify.read_network`).
    """

    def __init__(
        self,
        model: Classifier,
        radius: float,
        *,
        norm: str = "linf",
        verifier: str = "interval",
        budget: int | None = None,
    ) -> None:
        super().__init__(model, radius, norm)
        self.verifier = verifier
        if verifier == CASCADE:
            budget = check_count("budget", BUDGET if budget is None else budget, 0)
        elif budget is not None:
            raise UserError("only the cascade has a budget: give verifier='cascade' with it")
        self.budget = budget
        """None without a cascade."""
        self.is_searched = False
        """Set by :func:`nullclass.core.modules.searched`."""
        self._verify = find_verifier(verifier)
        if verifier == CASCADE:
            self._verify = find_verifier("interval")
        self._read: tuple[Network, list[object], list[nn.Module | Tensor]] | None = None
        if model.image_shape is not None:  # fails now if the model cannot be bounded
            self._network(model.image_shape)

    def _network(self, image_shape: Sequence[int]) -> Network:
        """The layers of the model, read again after a layer, weight or buffer has changed."""
        model = self.model
        owners: list[nn.Module | Tensor] = [*model.modules(), *model.parameters(), *model.buffers()]
        state: list[object] = [tuple(image_shape), *map(_state, owners)]
        if self._read is None or self._read[1] != state:
            # The owners are kept alive, so that no new object gets the id of an old one.
            self._read = read_network(model, image_shape), state, owners
        return self._read[0]

    def all_logits(self, images: Tensor) -> Tensor:
        """Return ``(N, K + 1)``: the proved margin c_k of each class, then null's 0.

        c_k is a lower bound of ``min_j z_k - z_j`` over the ball. At most one is positive, and then
        k is proved, so the largest logit is null's exactly if nothing is proved. If a bound is not
        finite, or the image is outside [0,1], nothing is proved: all c_k are ``UNPROVED``. With
        more than 32 classes only the class of the largest logit has a bound; the others have
        ``z_k - max z`` at the image itself, at most 0, which gives attacks a gradient.
        """
        network = self._network(images.shape[1:])
        # The boxes of small batches fit a CPU's cache: half the time of 1000 images at once.
        parts = images.split(default_batch_size(images))
        logits = torch.cat([self.logits_by(network, part) for part in parts])
        if self.verifier == CASCADE and not (images.requires_grad or self.is_searched):
            is_left = in_range(images) & (logits[:, : self.num_classes] <= 0).all(dim=1)
            for index in is_left.nonzero().flatten().tolist():
                label, found = self._settle(network, images[index].to(logits.dtype), index)
                if found.is_proved:
                    logits[index, label] = MARGIN
        return logits

    def logits_by(self, network: Network, images: Tensor) -> Tensor:
        """Return logits as :meth:`all_logits`, by the layers of the model, in one batch.

        Of a cascade, the first stage.
        """
        is_valid = in_range(images.detach())
        images = images.to(next(self.model.parameters(), self.model.mean).dtype)
        margins_of = (
            self._all_margins if self.num_classes <= MAX_PAIRED_CLASSES else self._top_margin
        )
        margins = margins_of(network, images)
        margins = margins.where(margins.isfinite() & is_valid[:, None], UNPROVED)
        return self.with_null_logit(margins)

    def layers(self) -> Network:
        """Return the layers that the bounds are of.

        Raises:
            UserError: If the shape of its images is not known, or the model is a cascade, whose
                later stages are no layers.
        """
        if self.verifier == CASCADE:
            raise UserError(
                "a cascade searches for proofs, which layers cannot do: take the verifier interval "
                "or crown-ibp"
            )
        if self.image_shape is None:
            raise UserError("the model does not know the shape of its images: give image_shape")
        return self._network(self.image_shape)

    def _settle(self, network: Network, image: Tensor, index: int) -> tuple[int, Settled]:
        """Return the largest logit's class, as no other can be proved, and what is found of it."""
        with torch.no_grad():
            label = network.values(image[None]).argmax(dim=1)
            rows = label_spec(label, self.num_classes, image.dtype)[0]
            assert self.budget is not None
            found = settle(network, image, rows, self.radius, self.norm, self.budget, index=index)
            return int(label), found

    def _all_margins(self, network: Network, images: Tensor) -> Tensor:
        spec = pair_spec(self.num_classes, images.dtype, images.device)
        lower = self._verify(network, images, self.radius, self.norm)(spec)
        same = torch.eye(self.num_classes, dtype=torch.bool, device=images.device)
        pairs = lower.view(images.shape[0], self.num_classes, self.num_classes)
        return pairs.masked_fill(same, torch.inf).amin(dim=2)

    def _top_margin(self, network: Network, images: Tensor) -> Tensor:
        """A bound for the largest logit: no other class can be proved. Others get differences."""
        logits = network.values(images)
        top = logits.argmax(dim=1)
        spec = label_spec(top, self.num_classes, images.dtype)
        proved = self._verify(network, images, self.radius, self.norm)(spec).amin(dim=1)
        others = (logits - logits.amax(dim=1, keepdim=True)).clamp(max=0)
        return others.scatter(1, top[:, None], proved[:, None])

    @torch.no_grad()
    def certificates(self, images: Tensor) -> Certificates:
        """Return certificates of what is proved for each image.

        Args:
            images: ``(N, C, H, W)`` in [0,1].

        Raises:
            UserError: As :meth:`predict`.
        """
        check_images(images, self.image_shape)
        batches = images.split(BATCH_SIZE)
        logits = torch.cat([self(batch.to(self.mean.device)) for batch in batches])
        settings = {} if self.budget is None else {"budget": self.budget, "version": VERSION}
        return self.make_certificates(images, logits, settings=settings)


def with_proof(
    model: Classifier,
    radius: float | None = None,
    verifier: str | None = None,
    norm: str = "linf",
) -> Classifier:
    """Return a model that answers what is proved, with the values given; the others are its own.

    Args:
        model: K classes, without null, or a :class:`ProvableNull`.
        radius: As for :class:`ProvableNull`. None: that of the model; one without has none.
        verifier: As for :class:`ProvableNull`. None: that of the model, or else ``interval``.
        norm: That of ``radius``.

    Raises:
        UserError: If there is a verifier without a radius, or as for :class:`ProvableNull`.
    """
    if radius is None and verifier is None:
        return model
    if isinstance(model, ProvableNull):
        if radius is None:
            radius, norm = model.radius, model.norm
        budget = model.budget if verifier in (None, CASCADE) else None
        verifier = verifier or model.verifier
        return ProvableNull(model.model, radius, norm=norm, verifier=verifier, budget=budget)
    if radius is None:
        raise UserError("a verifier decides what is proved within a radius: give one")
    return ProvableNull(model, radius, norm=norm, verifier=verifier or "interval")


def _state(owner: nn.Module | Tensor) -> tuple[object, ...]:
    """What differs after a change of a layer, weight or buffer."""
    if isinstance(owner, nn.Module):
        return (id(owner),)
    # Inference tensors have no version counter: treated as changed each time.
    version = object() if owner.is_inference() else owner._version
    return id(owner), version, owner.data_ptr(), owner.dtype, owner.device

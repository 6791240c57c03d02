"""ProvableNull: answers where the answer is proved, null everywhere else.

Let f be a classifier of K classes and C_r a sound verifier: C_r(x) = y only if f says y on all of
B(x, r), the images of [0,1] within r of x; else C_r(x) is null. The model here is g = C_r.

*Claim.* If f says y on all of B(x, eps - r), then every x' in B(x, eps) has g(x') in {y, null}.

*Why.* Suppose g(x') = k. Then f says k on B(x', r). Walk from x' towards x, by r or, if x is
nearer, all the way: that point lies in B(x', r), within max(0, eps - r) of x, and in [0,1], which
is convex. There f says k, and f says y. So k = y.

Hence, with C_{max(r, eps - r)}(x) = y, x is answered y and nothing within eps of it is answered
wrongly, whatever the attack: robust accuracy with rejection (RAR) at eps is at least the share so
proved (:mod:`nullclass.scoring.prove`). Best at r = eps / 2. This is the way from a classifier to a
detector of Tramèr 2022 ("Detecting adversarial examples is (nearly) as hard as classifying them",
theorem 4), with a verifier instead of a search for the nearest wrong answer, which makes it cheap.

It promises nothing about null: whoever attacks may get any image refused (null-DoS).

The claim is about f as a real function of its stored weights. No rounding of f's own forward pass
enters it, since g never asks for that, only for bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nullclass.certify.margins import spec_of_labels, spec_of_pairs
from nullclass.certify.network import Network, check_reading, read_network
from nullclass.certify.regions import check_radius, check_range, lie_in_range
from nullclass.certify.verifiers import find_verifier
from nullclass.core.errors import UserError
from nullclass.core.outcomes import predictions
from nullclass.models.classifier import Classifier
from nullclass.rejection.certificates import Certificates, image_hashes, weights_sha256

NEVER = -1e3
"""The margin of a class of which nothing can be said at all: finite, since logits must be."""

MOST_PAIRED = 32
"""Up to so many classes every pair of logits is bounded, so that each class has its own margin."""

BATCH_SIZE = 500
"""Images whose certificates are made at once."""

AT_ONCE = 64
"""Images whose boxes are computed together on a CPU: few enough that the boxes of a small network's
layers stay in its cache, which takes half the time of a thousand together."""


class ProvedMargins(nn.Module):
    """The body of :class:`ProvableNull`: images to by how much each class is proved.

    Args:
        model: K classes, without null; shared, not copied.
        radius: As of :class:`ProvableNull`.
        norm: As there.
        verifier: As there.
    """

    def __init__(self, model: Classifier, radius: float, norm: str, verifier: str) -> None:
        super().__init__()
        self.model = model
        self.radius = radius
        self.norm = norm
        self.verifier = verifier
        self._verify = find_verifier(verifier)
        self._read: tuple[Network, _Seen] | None = None
        self._has_checked = model.image_shape is not None
        """Whether the network was held against the model; without a shape, at the first images."""

    def train(self, mode: bool = True) -> ProvedMargins:
        """Bounds are of the model in evaluation mode, whatever mode the shell is in."""
        super().train(mode)
        self.model.eval()
        return self

    def network(self) -> Network:
        """The model, layer by layer; read again when a layer or a number of it changed."""
        seen = _seen(self.model)
        if self._read is None or self._read[1][0] != seen[0]:
            self._read = read_network(self.model), seen
        return self._read[0]

    def forward(self, images: Tensor) -> Tensor:
        """``(N, K + 1)``: ``c_k`` of every class, then null's 0.

        ``c_k`` is a lower bound of ``min_j z_k - z_j`` over the ball. At most one is positive, and
        then k is proved; so the largest logit is null's exactly if nothing is. (Null's is really
        the smallest number above 0, so that it wins against a ``c_k`` of just 0.) Where a bound is
        no number, or the image is outside [0,1], nothing is proved: all ``c_k`` are :data:`NEVER`.
        """
        network = self.network()
        if not self._has_checked:
            check_reading(network, self.model, images.shape[1:])
            self._has_checked = True
        is_in_range = lie_in_range(images.detach())
        dtype = self.model.mean.dtype if self.model.mean.is_floating_point() else images.dtype
        parameter = next(self.model.parameters(), None)
        images = images.to(dtype if parameter is None else parameter.dtype)
        proved = self._of_pairs if self.model.num_classes <= MOST_PAIRED else self._of_top
        at_once = AT_ONCE if images.device.type == "cpu" else max(1, len(images))
        margins = torch.cat([proved(network, part) for part in images.split(at_once)])
        margins = margins.where(margins.isfinite() & is_in_range[:, None], NEVER)
        null = margins.new_full((len(images), 1), torch.finfo(margins.dtype).tiny)
        return torch.cat([margins, null], dim=1)

    def _of_pairs(self, network: Network, images: Tensor) -> Tensor:
        num_classes = self.model.num_classes
        spec = spec_of_pairs(num_classes, images.dtype, images.device)
        lower = self._verify(network, images, self.radius, self.norm, spec)
        same = torch.eye(num_classes, dtype=torch.bool, device=images.device)
        pairs = lower.view(len(images), num_classes, num_classes)
        return pairs.masked_fill(same, torch.inf).amin(dim=2)

    def _of_top(self, network: Network, images: Tensor) -> Tensor:
        """Bounds of the largest logit alone: no other class could be proved."""
        logits = network.values(images)
        top = logits.argmax(dim=1)
        spec = spec_of_labels(top, self.model.num_classes, images.dtype)
        proved = self._verify(network, images, self.radius, self.norm, spec).amin(dim=1)
        beaten = (logits - logits.amax(dim=1, keepdim=True)).clamp(max=0)
        return beaten.scatter(1, top[:, None], proved[:, None])


_Seen = tuple[list[object], list[object]]
"""What tells a change, and the layers and tensors themselves, so that none takes another's place in
memory."""


def _seen(model: Classifier) -> _Seen:
    modules, tensors = [*model.modules()], [*model.parameters(), *model.buffers()]
    told: list[object] = [id(module) for module in modules]
    return told + [_state_of(tensor) for tensor in tensors], [*modules, *tensors]


def _state_of(tensor: Tensor) -> tuple[object, ...]:
    # Tensors of inference mode do not count their changes: never the same twice.
    version = object() if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.data_ptr(), tensor.dtype, tensor.device


class ProvableNull(Classifier):
    """A classifier that answers what is proved within a radius, and else null.

    A :class:`Classifier` of K + 1 logits, so every attack, threshold and evaluation takes it; the
    gradient of an attack goes through the bounds. Its K logits are the proved margins
    (:class:`ProvedMargins`).

    Args:
        model: K classes, without null; shared, not copied, and put into evaluation mode.
        radius: r, in pixel units. For the claim at eps best eps / 2; a smaller one answers more
            and must be able to prove more (eps - r) of what it is to be trusted with.
        norm: ``linf`` or ``l2``.
        verifier: Name in :data:`nullclass.certify.verifiers.VERIFIERS`.

    Raises:
        UserError: If the model has null already, the radius is negative or over 1, the norm or the
            verifier is unknown, a layer cannot be bounded, or the model cannot be read
            (:func:`nullclass.certify.network.read_network`).
    """

    body: ProvedMargins

    def __init__(
        self, model: Classifier, radius: float, *, norm: str = "linf", verifier: str = "interval"
    ) -> None:
        check_without_null(model)
        check_radius(radius, norm)
        model.eval()
        margins = ProvedMargins(model, float(radius), norm, verifier)
        margins.network()  # refuses what it cannot bound now, not at the first image
        super().__init__(margins, model.num_classes, image_shape=model.image_shape)
        self.to(model.mean.device).eval()

    @property
    def model(self) -> Classifier:
        """f, the classifier that answers are proved of."""
        return self.body.model

    @property
    def radius(self) -> float:
        """r, in pixel units."""
        return self.body.radius

    @property
    def norm(self) -> str:
        """Of the radius."""
        return self.body.norm

    @property
    def verifier(self) -> str:
        """Name of the verifier."""
        return self.body.verifier

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Labels ``(N,)`` of images ``(N, C, H, W)`` in [0,1]; -1 is null.

        Raises:
            UserError: If an image is outside [0,1], or of a shape that the model does not take.
        """
        check_range(images)
        check_shape(self, images)
        return super().predict(images)

    @torch.no_grad()
    def certificates(self, images: Tensor, *, batch_size: int = BATCH_SIZE) -> Certificates:
        """What is proved of each image, to be kept and checked again.

        Args:
            images: ``(N, C, H, W)`` in [0,1].
            batch_size: How many images at once.

        Raises:
            UserError: As :meth:`predict`.
        """
        check_range(images)
        check_shape(self, images)
        labels: list[int] = []
        margins: list[float] = []
        dtype = images.dtype
        for batch in images.split(batch_size):
            logits = self(batch.to(self.mean.device))
            dtype = logits.dtype
            labels += predictions(logits, self.num_classes).tolist()
            margins += logits[:, : self.num_classes].amax(dim=1).tolist()
        return Certificates(
            labels=tuple(labels),
            margins=tuple(margins),
            images_sha256=tuple(image_hashes(images)),
            radius=self.radius,
            norm=self.norm,
            verifier=self.verifier,
            dtype=str(dtype).removeprefix("torch."),
            weights_sha256=weights_sha256(self.model),
        )


def check_shape(model: Classifier, images: Tensor) -> None:
    """Refuse images of another shape than the model's, where that is known.

    Raises:
        UserError: If they have one.
    """
    shape = tuple(images.shape[1:])
    if images.ndim != 4 or model.image_shape not in (None, shape):
        wanted = "(C, H, W)" if model.image_shape is None else tuple(model.image_shape)
        raise UserError(f"images must have the shape {wanted} each, and these have {shape}")


def check_without_null(model: Classifier) -> None:
    """Refuse a model that has null already.

    Raises:
        UserError: If it has.
    """
    if model.has_null:
        raise UserError(
            "null is here what cannot be proved, so the model must have no null of its own (K "
            "logits): train one without null, or certify this one as it is with "
            "nullclass.scoring.prove.certify"
        )

"""Kernel density of hidden features (Feinman et al. 2017, "Detecting adversarial samples from
artifacts", section 5.1).

With the last hidden features phi and the training images X_t of the predicted class t,

    s(x) = -log 1/|X_t| sum_{x_i in X_t} N(phi(x); phi(x_i), h^2)

so an image is refused where the training images of its class are far. The paper combines the
density with dropout uncertainty by logistic regression; this is the density alone. Broken by
Carlini & Wagner 2017 ("Adversarial examples are not easily detected").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nullclass.core.checks import check_positive
from nullclass.core.devices import exact_float32
from nullclass.models.classifier import Classifier
from nullclass.rejection.fitting import Images, clean_batches, hidden_features


class KernelDensity(nn.Module):
    """The detector; :func:`fit_kernel_density` makes it.

    Args:
        classifier: K classes.
        features: ``(M, D)``, of clean training images.
        labels: ``(M,)``, their classes; each class has at least one.
        bandwidth: h, in units of the features.
        layer: As for :func:`nullclass.rejection.fitting.hidden_features`.
    """

    center: Tensor
    features: Tensor
    labels: Tensor

    def __init__(
        self,
        classifier: Classifier,
        features: Tensor,
        labels: Tensor,
        *,
        bandwidth: float,
        layer: str | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.layer = classifier, layer
        self.bandwidth = check_positive("bandwidth", bandwidth)
        # Squared distances from products are more exact around the mean.
        center = features.mean(dim=0)
        self.register_buffer("center", center)
        self.register_buffer("features", features - center)
        self.register_buffer("labels", labels)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)``."""
        features = hidden_features(self.classifier, images, self.layer)
        features = features - self.center.to(features)
        known = self.features.to(features)
        squares = features.square().sum(dim=1, keepdim=True) + known.square().sum(dim=1)
        squares = (squares - 2 * features @ known.T).clamp(min=0)
        is_other = self.labels != logits.argmax(dim=1, keepdim=True)
        lowest = torch.finfo(squares.dtype).min  # a graph need not know infinity
        exponents = (-squares / (2 * self.bandwidth**2)).masked_fill(is_other, lowest)
        num_same = (~is_other).sum(dim=1)
        per_value = math.log(2 * math.pi * self.bandwidth**2) / 2
        return num_same.log() - exponents.logsumexp(dim=1) + features.shape[1] * per_value


@exact_float32()
def fit_kernel_density(
    classifier: Classifier, clean: Images, *, bandwidth: float = 1.2, layer: str | None = None
) -> KernelDensity:
    """Return the detector with the features of clean training images.

    Args:
        classifier: K classes.
        clean: Training images; every pass compares with all of them that have the predicted class.
        bandwidth: h; the paper takes 1.2 for MNIST, 0.26 for CIFAR-10, for its own networks.
        layer: Name of a layer; default the last hidden one.

    Raises:
        UserError: If the classifier has null, a class has no image, or there is no such layer.
    """
    with clean_batches(classifier, clean, 1) as batches:
        pairs = [(hidden_features(classifier, images, layer), labels) for images, labels in batches]
    features, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return KernelDensity(classifier, features, labels, bandwidth=bandwidth, layer=layer)

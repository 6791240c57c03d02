"""Mahalanobis distance of hidden features (Lee et al. 2018, "A simple unified framework for
detecting out-of-distribution samples and adversarial attacks", eq. 2).

With class means mu_c and one covariance Sigma for all classes, of the features phi of clean images,

    s(x) = min_c (phi(x) - mu_c)^T Sigma^-1 (phi(x) - mu_c)

summed over the layers. The paper weighs the layers by a logistic regression on adversarial images
and moves the image by a small step first; neither is here. Broken by an attack that knows it
(Bryniarski et al. 2021 on detectors of this kind).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nullclass.core.devices import exact_float32
from nullclass.models.classifier import Classifier
from nullclass.rejection.fitting import Images, clean_batches, hidden_features


class Mahalanobis(nn.Module):
    """The detector; :func:`fit_mahalanobis` makes it.

    Args:
        classifier: K classes.
        statistics: Per layer, the whitened class means ``(K, R)`` and the whitening ``(D, R)``, R
            the rank of the features' covariance.
        layers: Names of the layers, as for :func:`nullclass.rejection.fitting.hidden_features`.
    """

    def __init__(
        self,
        classifier: Classifier,
        statistics: Sequence[tuple[Tensor, Tensor]],
        layers: Sequence[str | None] = (None,),
    ) -> None:
        super().__init__()
        self.classifier, self.layers = classifier, tuple(layers)
        for index, (means, whitening) in enumerate(statistics):
            device = classifier.mean.device
            self.register_buffer(f"whitening_{index}", whitening.float().to(device))
            self.register_buffer(f"means_{index}", means.float().to(device))

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)``, at least 0."""
        distances = [self._distance(index, images) for index in range(len(self.layers))]
        return torch.stack(distances).sum(dim=0)

    def _distance(self, index: int, images: Tensor) -> Tensor:
        features = hidden_features(self.classifier, images, self.layers[index])
        whitening: Tensor = getattr(self, f"whitening_{index}")
        means: Tensor = getattr(self, f"means_{index}")
        differences = (features @ whitening.to(features))[:, None] - means.to(features)
        return differences.square().sum(dim=2).amin(dim=1)


@exact_float32()
def fit_mahalanobis(
    classifier: Classifier, clean: Images, *, layers: Sequence[str | None] = (None,)
) -> Mahalanobis:
    """Return the detector with the class means and the covariance of clean training images.

    Args:
        classifier: K classes.
        clean: Training images.
        layers: Names of layers; None is the last hidden one.

    Raises:
        UserError: If the classifier has null, a class has no image, or there is no such layer.
    """
    found: list[list[Tensor]] = [[] for _ in layers]
    labels = []
    with clean_batches(classifier, clean, 1) as batches:
        for images, batch_labels in batches:
            labels.append(batch_labels)
            for features, layer in zip(found, layers, strict=True):
                features.append(hidden_features(classifier, images, layer))
    statistics = []
    for features in found:
        means, covariance = tied_gaussian(
            torch.cat(features), torch.cat(labels), classifier.num_classes
        )
        whitening = _whitening(covariance)
        statistics.append((means @ whitening, whitening))
    return Mahalanobis(classifier, statistics, layers)


def tied_gaussian(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the class means ``(K, D)`` of features ``(M, D)``, and their covariance ``(D, D)``.

    The covariance is the mean of ``(phi - mu_c)(phi - mu_c)^T`` over all M. Both are in float64, on
    the CPU.
    """
    features, labels = features.cpu().double(), labels.cpu()
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    means = sums / labels.bincount(minlength=num_classes)[:, None]
    centred = features - means[labels]
    return means, centred.T @ centred / len(features)


def _whitening(covariance: Tensor) -> Tensor:
    """Return W ``(D, R)`` with ``W W^T`` the pseudo-inverse of a covariance of rank R.

    Directions without variance, such as units that are always 0, are left out, as by
    ``scipy.linalg.pinvh``, which scikit-learn's covariances use.
    """
    values, vectors = torch.linalg.eigh(covariance)
    smallest = values.abs().amax() * len(values) * torch.finfo(values.dtype).eps
    is_kept = values > smallest
    whitening: Tensor = vectors[:, is_kept] / values[is_kept].sqrt()
    return whitening

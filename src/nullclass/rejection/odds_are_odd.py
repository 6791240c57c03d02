"""A statistical test under noise (Roth, Kilcher & Hofmann 2019, "The odds are odd: a statistical
test for detecting adversarial examples").

For the predicted class y and another class z let g_yz(x, eta) be the change of ``z_z - z_y`` when
noise eta is added to x. Its mean mu_yz and standard deviation sigma_yz over clean images of class y
and over the noise are known from training images. Where an image's own mean change is unusual,

    s(x) = max_{z != y} (E_eta g_yz(x, eta) - mu_yz) / sigma_yz        (eqs. 5 to 7)

is large. The paper has one threshold per pair of classes and corrects what it detects; here one
threshold decides, and null is the answer. Broken by Hosseini et al. 2019 and Tramèr et al. 2020.

The noise is drawn once and kept, the same for every image, so the score is deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nullclass.core.checks import check_count, check_positive, check_seed
from nullclass.core.devices import exact_float32
from nullclass.data import tensors_or_loader
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.rejection.fitting import Images, clean_batches


class OddsAreOdd(nn.Module):
    """The detector; :func:`fit_odds_are_odd` makes it.

    Args:
        classifier: K classes.
        noise: ``(M, C, H, W)``, added to images in [0,1] without clipping.
        mean: ``(K, K)``, mu_yz.
        std: ``(K, K)``, sigma_yz; the diagonal is not used.
    """

    noise: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier, noise: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("noise", noise)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)``, by M forward passes."""
        total = torch.zeros_like(logits)
        for noise in self.noise.to(images):
            total = total + (self.classifier(images + noise) - logits)
        label = logits.argmax(dim=1, keepdim=True)
        moved = total / len(self.noise)
        changes = moved - moved.gather(1, label)
        mean, std = self.mean.to(changes)[label[:, 0]], self.std.to(changes)[label[:, 0]]
        unusual = (changes - mean) / std.scatter(1, label, 1)
        return unusual.scatter(1, label, -torch.inf).amax(dim=1)


@exact_float32()
def fit_odds_are_odd(
    classifier: Classifier,
    clean: Images,
    *,
    sigma: float = 0.1,
    num_draws: int = 32,
    seed: int = 0,
) -> OddsAreOdd:
    """Return the detector with the statistics of clean training images.

    Args:
        classifier: K classes.
        clean: Training images, at least two per class; the number of passes is ``num_draws`` each.
        sigma: Standard deviation of the noise, in pixel units.
        num_draws: M, forward passes per image.
        seed: Seed of the noise.

    Raises:
        UserError: If the classifier has null, a number is out of range, or a class has fewer than
            two images.
    """
    data = tensors_or_loader(clean, check_classifier(classifier).num_classes)
    shape = (check_count("num_draws", num_draws), *data.images.shape[1:])
    generator = torch.Generator().manual_seed(check_seed(seed))
    noise = check_positive("sigma", sigma) * torch.randn(shape, generator=generator)
    device, num_classes = classifier.mean.device, classifier.num_classes
    sums = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    squares, counts = sums.clone(), sums.new_zeros(num_classes)
    with clean_batches(classifier, data, 2) as batches:
        for images, labels in batches:
            logits = classifier(images)
            labels = labels.cpu()
            for draw in noise.to(images):
                moved = (classifier(images + draw) - logits).cpu().double()
                changes = moved - moved.gather(1, labels[:, None])
                sums.index_add_(0, labels, changes)
                squares.index_add_(0, labels, changes.square())
                counts += labels.bincount(minlength=num_classes)
    mean = sums / counts[:, None]
    variance = (squares / counts[:, None] - mean.square()).clamp(min=0)
    std = variance.sqrt().clamp(min=torch.finfo(torch.float32).eps)
    return OddsAreOdd(classifier, noise, mean.float(), std.float()).to(device)

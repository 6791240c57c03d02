"""The detectors of MagNet (Meng & Chen 2017, "MagNet: a two-pronged defense", section 4.2).

Both compare an image with its reconstruction by an autoencoder of clean images: by the error, and
by the divergence of the classifier's answers. MagNet's reformer, which classifies the
reconstruction, is no way to refuse and not here. Broken by Carlini & Wagner 2017 ("MagNet and
efficient defenses against adversarial attacks are not robust").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nullclass.core.checks import check_count, check_number, check_positive, check_seed
from nullclass.core.errors import UserError
from nullclass.core.rng import fork_rng
from nullclass.data import tensors_or_loader
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.models.network import dtype_of
from nullclass.rejection.fitting import Images

LEARNING_RATE, BATCH_SIZE = 1e-3, 256
"""Of the autoencoder's training by Adam."""


class Autoencoder(nn.Module):
    """MagNet's autoencoder for MNIST: sigmoid convolutions around one halving of the image.

    Args:
        num_channels: C of the images.
        width: Feature maps of the hidden layers.
    """

    def __init__(self, num_channels: int, width: int = 3) -> None:
        super().__init__()
        sizes = [(num_channels, width), (width, width), (width, width), (width, width)]
        self.hidden = nn.ModuleList(nn.Conv2d(*size, 3, padding=1) for size in sizes)
        self.last = nn.Conv2d(width, num_channels, 3, padding=1)
        # With so few channels this layout takes a third of the time.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions in [0,1] of images ``(N, C, H, W)``, H and W at least 2."""
        first, second, third, fourth = self.hidden
        x = F.avg_pool2d(first(images).sigmoid(), 2)
        x = third(second(x).sigmoid()).sigmoid()
        x = F.interpolate(x, size=images.shape[2:], mode="nearest")
        reconstructed: Tensor = self.last(fourth(x).sigmoid()).sigmoid()
        return reconstructed


def train_autoencoder(
    clean: Images,
    *,
    num_epochs: int = 100,
    noise: float = 0.1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Autoencoder:
    """Return an autoencoder that reconstructs clean images from noisy ones (squared error, Adam).

    The defaults are the paper's for MNIST.

    Args:
        clean: Training images; the labels are not used.
        num_epochs: Passes over the images.
        noise: Standard deviation of Gaussian noise on the input, in pixel units.
        seed: Seed of the weights, the order and the noise.
        device: Where to train.

    Raises:
        UserError: If a number is out of range, the images have a side of one pixel, or the error is
            not finite.
    """
    data = tensors_or_loader(clean)
    if min(data.images.shape[2:]) < 2:
        size = " x ".join(map(str, data.images.shape[2:]))
        raise UserError(f"the autoencoder halves its images, and these are {size} pixels")
    check_count("num_epochs", num_epochs)
    if check_number("noise", noise) < 0:
        raise UserError(f"noise must be at least 0, not {noise}")
    with fork_rng(check_seed(seed)):
        model = Autoencoder(data.images.shape[1]).to(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for _ in range(num_epochs):
        for indices in torch.randperm(len(data), generator=generator).split(BATCH_SIZE):
            images, _ = data.batch(indices)
            drawn = torch.randn(images.shape, generator=generator, dtype=images.dtype)
            noisy = (images + noise * drawn.to(images.device)).clamp(0, 1)
            loss = F.mse_loss(model(noisy.to(device)), images.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if not bool(loss.isfinite()):
        raise UserError("the autoencoder's error is not finite: give it less noise")
    return model.eval().requires_grad_(False)


class ReconstructionError(nn.Module):
    """The detector by reconstruction error: ``s(x) = mean |x - ae(x)|^p`` over pixels.

    Args:
        autoencoder: Images to reconstructions of the same shape.
        power: p; the paper takes 1 and 2.

    Raises:
        UserError: If the power is not positive.
    """

    def __init__(self, autoencoder: nn.Module, *, power: float = 1) -> None:
        super().__init__()
        self.autoencoder, self.power = autoencoder, check_positive("power", power)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)``, at least 0."""
        error = (images - reconstruct(self.autoencoder, images)).abs() ** self.power
        return error.flatten(1).mean(dim=1)


class AnswerDivergence(nn.Module):
    """The detector by probability divergence, of image and reconstruction.

        s(x) = JSD(softmax(f(x) / T), softmax(f(ae(x)) / T))

    Args:
        classifier: K classes.
        autoencoder: Images to reconstructions of the same shape, in [0,1].
        temperature: T; the paper takes 10 and 40.

    Raises:
        UserError: If the temperature is not positive.
    """

    def __init__(
        self, classifier: Classifier, autoencoder: nn.Module, *, temperature: float = 10.0
    ) -> None:
        super().__init__()
        self.classifier, self.autoencoder = check_classifier(classifier), autoencoder
        self.temperature = check_positive("temperature", temperature)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)`` in [0, log 2], in nats."""
        reconstructed = self.classifier(reconstruct(self.autoencoder, images))
        return jensen_shannon(logits / self.temperature, reconstructed / self.temperature)


def reconstruct(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """Return the reconstructions of images, computed in the autoencoder's type."""
    reconstructed: Tensor = autoencoder(images.to(dtype_of(autoencoder) or images.dtype))
    return reconstructed.to(images.dtype)


def jensen_shannon(logits: Tensor, others: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence ``(N,)``, in nats, of the softmax of two ``(N, K)``."""
    first, second = logits.log_softmax(dim=1), others.log_softmax(dim=1)
    middle = torch.logaddexp(first, second) - math.log(2)
    terms = first.exp() * (first - middle) + second.exp() * (second - middle)
    return terms.sum(dim=1) / 2

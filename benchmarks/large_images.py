"""Cost of the worst case on images of 224 x 224 in colour, 1,000 classes, that survive it.

The network has the size of ResNet-18 and random weights. eps is so small that no attack succeeds:
an image that is fooled costs less.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

from common import say, table, verdict
from nullclass import Classifier
from nullclass.attacks import find_attack
from nullclass.attacks.counters import count_passes
from nullclass.core.process import tune_process
from nullclass.core.provenance import provenance
from nullclass.experiments.engines.serial import peak_memory_mb

LIMIT_SECONDS, LIMIT_MB = 60, 2048
"""Per surviving image on two cores; most memory of the process."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    num_images: int = 4
    side: int = 224
    num_classes: int = 1000
    eps: float = 1e-5
    threads: int = 2


class Block(nn.Module):
    """A residual block of two convolutions.

    Args:
        num_in: Channels of the input.
        num_out: Channels of the output.
        stride: Of the first convolution.
    """

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(num_out),
            nn.ReLU(),
            nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(num_out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1:
            skip = nn.Conv2d(num_in, num_out, 1, stride, bias=False)
            self.skip = nn.Sequential(skip, nn.BatchNorm2d(num_out))

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's features."""
        return torch.relu(self.body(images) + self.skip(images))


def resnet_18(num_classes: int) -> nn.Sequential:
    """Return a network of the layers of ResNet-18 (He et al. 2016), with random weights."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for num_in, num_out in ((64, 64), (64, 128), (128, 256), (256, 512)):
        layers += [Block(num_in, num_out, num_out // num_in), Block(num_out, num_out, 1)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)
    )


def measure(o: Options) -> str:
    """Attack the images and return the section of the results."""
    tune_process()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    model = Classifier(resnet_18(o.num_classes), o.num_classes, has_null=False)
    model = model.eval().requires_grad_(False)
    images = torch.rand(o.num_images, 3, o.side, o.side)
    labels = model.predict(images)
    attack = find_attack("worst-case")
    generator = torch.Generator().manual_seed(0)
    started, cpu = time.perf_counter(), time.process_time()
    with count_passes(model) as passes:
        adv_images = attack(model, images, labels, eps=o.eps, generator=generator)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    num_left = int((model.predict(adv_images) == labels).sum())
    peak, per_image = peak_memory_mb(), seconds / o.num_images
    say(f"{num_left} of {o.num_images} images survive")
    cells = [
        f"{per_image:.1f}",
        f"{cpu / o.num_images:.1f}",
        f"{passes.forward / o.num_images:,.0f}",
        f"{passes.backward / o.num_images:,.0f}",
        f"{peak:,.0f}",
    ]
    header = ["seconds per image", "CPU seconds", "forward", "backward", "peak MB of the process"]
    shape = f"{o.num_images} images of 3 x {o.side} x {o.side}, {o.num_classes:,} classes"
    processor = provenance().machine.processor
    return "\n\n".join(
        [
            f"{shape}, {num_left} survive; {o.threads} threads of {processor}",
            table(header, [cells]),
            verdict(per_image <= LIMIT_SECONDS, f"at most {LIMIT_SECONDS} s per surviving image")
            + "\n"
            + verdict(peak <= LIMIT_MB, f"at most {LIMIT_MB:,} MB"),
        ]
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

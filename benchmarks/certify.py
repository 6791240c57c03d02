"""Interval bounds beside auto_LiRPA's, and ProvableNull beside the plain forward pass, in turns.

The network is the certifiable one with random weights: what is computed, and so its time, hangs on
no weight. auto_LiRPA is measured where it is installed; its bounds are not rounded outward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from common import ROOT, in_turns, median_seconds, mnist, table, verdict
from nullclass.certify import find_verifier, label_spec, read_network
from nullclass.models import Classifier
from nullclass.models.architectures import certifiable_cnn
from nullclass.rejection import ProvableNull

sys.path.append(str(ROOT / "tests" / "support"))

SECONDS = 20.0
"""Within which 10,000 images have to be certified."""

COST = 4.0
"""How many forward passes ``ProvableNull.predict`` may cost."""

RADIUS = 0.15
"""Of the balls, L-infinity."""


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    num_images: int = 10_000
    """Test images that are certified."""
    batch_size: int = 50
    """Images at once, for all contenders; small enough to stay in the cache."""
    rounds: int = 3
    """Times each contender is measured, in turns."""
    data: str = "mnist"
    """mnist, or a folder with its files."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    images, labels = _test_images(options)
    model = Classifier(
        certifiable_cnn((1, 28, 28), 10), 10, has_null=False, image_shape=(1, 28, 28)
    ).eval()
    network, interval = read_network(model, (1, 28, 28)), find_verifier("interval")
    guarded = ProvableNull(model, RADIUS)
    batches = list(
        zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True)
    )

    def ours(_: int) -> Tensor:
        return torch.cat(
            [interval(network, x, RADIUS, "linf")(label_spec(y, 10, x.dtype)) for x, y in batches]
        )

    contenders: dict[str, Callable[[int], Tensor]] = {"interval, ours": ours}
    missing = ""
    try:
        from lirpa import LirpaVerifier

        peer = LirpaVerifier(model, images[: options.batch_size])
    except ImportError as error:
        missing = f"auto_LiRPA was not measured: {error}"
    else:
        contenders["interval, auto_LiRPA"] = lambda _: torch.cat(
            [peer(x, RADIUS, "linf", label_spec(y, 10, x.dtype)) for x, y in batches]
        )
    contenders["plain forward"] = lambda _: torch.cat([model.predict(x) for x, _ in batches])
    contenders["ProvableNull.predict"] = lambda _: torch.cat(
        [guarded.predict(x) for x, _ in batches]
    )
    with torch.no_grad():
        measured = in_turns(contenders, options.rounds)
    seconds = {name: median_seconds(runs) for name, runs in measured.items()}
    plain = seconds["plain forward"]
    scaled = seconds["interval, ours"] * 10_000 / len(images)
    cost = seconds["ProvableNull.predict"] / plain
    verdicts = [
        verdict(scaled < SECONDS, f"10,000 images in {scaled:.1f} s, of {SECONDS:.0f}"),
        verdict(cost <= COST, f"ProvableNull at {cost:.2f} forward passes, of {COST:.0f}"),
    ]
    if not missing:
        ratio = seconds["interval, auto_LiRPA"] / seconds["interval, ours"]
        verdicts.append(verdict(ratio >= 1.2, f"{ratio:.2f} times as fast as auto_LiRPA, of 1.2"))
        runs = [measured[name][0][1] for name in ("interval, ours", "interval, auto_LiRPA")]
        verdicts.append(
            f"- Largest difference of the bounds: {(runs[0] - runs[1]).abs().max():.1e}"
        )
    lines = [(name, f"{took:.2f}", f"{took / plain:.2f}") for name, took in seconds.items()]
    return "\n\n".join(
        [
            "## Certifying",
            f"{len(images)} test images of MNIST, L-infinity {RADIUS}, batches of "
            f"{options.batch_size}, the certifiable network. Medians of {options.rounds} rounds in "
            f"turns, {torch.get_num_threads()} threads.",
            table(["what", "seconds", "plain forward passes"], lines),
            *([missing] if missing else []),
            "\n".join(verdicts),
        ]
    )


def _test_images(options: Options) -> tuple[Tensor, Tensor]:
    return mnist(options.data).test.batch(slice(0, options.num_images))


if __name__ == "__main__":
    print(measure(tyro.cli(Options, description=__doc__)))

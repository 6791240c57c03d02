"""What limits the training of the report's network on one thread: its layers beside a whole step.

    python benchmarks/roofline.py

Each convolution and matrix product of the network is timed by itself, forward and backward, on
inputs of a batch; so is a large matrix product, the most that the core can do. The sum over the
layers is the time that no training with these layers can beat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

from common import say, table
from nullclass.core.process import tune_process
from nullclass.core.provenance import provenance
from nullclass.models import build_model

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    batch_size: int = 64
    rounds: int = 15
    """Times everything is timed, in turns; the tables show medians."""
    model: str = "report"
    """Architecture."""


@dataclass(frozen=True)
class Layer:
    """A layer, its input and its cost."""

    name: str
    module: nn.Module
    inputs: Tensor
    needs_input_gradient: bool
    flops: float
    """Of a forward and a backward pass over the batch; a multiply-add counts as two."""


def layers_of(body: nn.Module, images: Tensor) -> list[Layer]:
    """Return the convolutions and matrix products of a network, with their inputs."""
    found: list[Layer] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            positions = output.numel() // output.shape[1]  # of all images
            forward = 2.0 * positions * weight.numel()
            passes = 3 if found else 2  # no gradient goes to the images
            found.append(Layer(name, module, inputs[0].detach(), bool(found), passes * forward))

        return keep

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in body.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        body(images)
    for handle in handles:
        handle.remove()
    return found


def seconds_of_layer(layer: Layer, precision: torch.dtype) -> float:
    """Return the CPU seconds of a forward and a backward pass."""
    inputs = layer.inputs.to(precision)
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    inputs.requires_grad_(layer.needs_input_gradient)
    started = time.process_time()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        output = layer.module(inputs)
    output.backward(torch.ones_like(output))
    return time.process_time() - started


def seconds_of_step(body: nn.Module, images: Tensor, precision: torch.dtype) -> float:
    """Return the CPU seconds of a training step of plain cross-entropy with Adam."""
    optimizer = torch.optim.Adam(body.parameters(), fused=True)
    labels = torch.arange(len(images)) % 10
    started = time.process_time()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        logits = body(images)
    nn.functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()
    return time.process_time() - started


def peak_gflops(precision: torch.dtype, size: int = 1024) -> float:
    """Return what a product of two square matrices reaches."""
    matrix = torch.rand(size, size).to(precision)
    started = time.process_time()
    matrix @ matrix
    return 2 * size**3 / (time.process_time() - started) / 1e9


def measure(o: Options) -> str:
    """Run it and return its section of the results."""
    torch.manual_seed(0)
    model = build_model(o.model, image_shape=(1, 28, 28), num_classes=10)
    body = model.body.to(memory_format=torch.channels_last).train()
    images = torch.rand(o.batch_size, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    layers = layers_of(body, images)
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(o.rounds):
        for name, precision in PRECISIONS.items():
            for layer in layers:
                taken = seconds_of_layer(layer, precision)
                seconds.setdefault((name, layer.name), []).append(taken)
            seconds.setdefault((name, "step"), []).append(seconds_of_step(body, images, precision))
            seconds.setdefault((name, "peak"), []).append(peak_gflops(precision))
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    lines = []
    for layer in layers:
        costs = [middle[name, layer.name] for name in PRECISIONS]
        rates = [f"{1e3 * s:.2f} ms, {layer.flops / s / 1e9:.0f} GFLOPS" for s in costs]
        lines.append([f"`{layer.name}`", f"{layer.flops / o.batch_size / 1e6:.1f}", *rates])
    flops = sum(layer.flops for layer in layers) / o.batch_size / 1e6
    for label, key in (("these layers together", None), ("whole step, Adam, no null", "step")):
        cells = []
        for name in PRECISIONS:
            taken = middle[name, key] if key else sum(middle[name, of.name] for of in layers)
            cells.append(f"{1e3 * taken:.2f} ms, {o.batch_size / taken:,.0f} images/s")
        lines.append([label, f"{flops:.1f}", *cells])
    peaks = [f"{middle[name, 'peak']:.0f} GFLOPS" for name in PRECISIONS]
    lines.append(["product of 1024 × 1024 matrices", "", *peaks])
    machine = provenance().machine
    return "\n\n".join(
        [
            "## What limits the training",
            f"`{o.model}`, forward and backward, batch {o.batch_size}, one thread, channels last, "
            f"CPU time, medians of {o.rounds} rounds in turns; torch {torch.__version__}, "
            f"{machine.processor}.",
            table(["layer", "MFLOP per image", *PRECISIONS], lines),
        ]
    )


if __name__ == "__main__":
    tune_process()
    torch.set_num_threads(1)
    say(measure(tyro.cli(Options, description=__doc__)))

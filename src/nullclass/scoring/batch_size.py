"""Chooses how many images fit into one forward and backward pass."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from nullclass.attacks.steps import NoGradientError, forward
from nullclass.core.devices import default_batch_size
from nullclass.core.modules import frozen
from nullclass.models.classifier import Classifier

MEMORY_SHARE = 0.25
"""Share of the device's memory that the activations of one batch may take."""

OVERHEAD = 2.0
"""Memory of a backward pass over the memory of the stored activations."""


def find_batch_size(model: Classifier, image: Tensor) -> int:
    """The attacks' default batch size, or the largest power of two below it that fits into memory.

    It measures what autograd stores for one image, and compares it with the memory of the device,
    free or not, so that the same machine always chooses the same batches.

    Args:
        model: The model, on its device.
        image: ``(1, C, H, W)`` in [0,1].
    """
    device = model.mean.device
    image = image.to(device).detach()
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    num_bytes = image.numel() * image.element_size()

    def measure(tensor: Tensor) -> Tensor:
        nonlocal num_bytes
        if tensor.untyped_storage().data_ptr() not in weights:
            num_bytes += tensor.numel() * tensor.element_size()
        return tensor

    with frozen(model), torch.autograd.graph.saved_tensors_hooks(measure, lambda tensor: tensor):
        try:
            forward(model, image.clone().requires_grad_())
        except NoGradientError:
            return default_batch_size(image)
    fitting = max(1, int(MEMORY_SHARE * _memory(device) / (OVERHEAD * num_bytes)))
    return min(default_batch_size(image), 1 << (fitting.bit_length() - 1))


def _memory(device: torch.device) -> int:
    """Return the bytes of memory of a device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if not hasattr(os, "sysconf"):  # Windows
        return 4 * 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

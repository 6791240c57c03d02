"""A small model with everything that an attack could disturb, and a check that it did not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nullclass.models import Classifier

NUM_CLASSES = 4


def small_model(has_null: bool = True) -> Classifier:
    """Batch norm, dropout, a frozen and a graded weight, a layer in a mode of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        outputs = NUM_CLASSES + has_null
        body = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(64, outputs),
        )
    body[0].weight.requires_grad_(False)
    body[5].bias.grad = torch.ones(outputs)
    model = Classifier(body, NUM_CLASSES, has_null=has_null, mean=(0.5,), std=(0.1,))
    model.train()
    body[1].eval()  # a mode of its own
    return model


def relatives() -> tuple[Classifier, Classifier]:
    """Two models whose weights differ a little from those of :func:`small_model`."""
    models = small_model(), small_model(has_null=False)
    for model in models:
        weight = model.body[5].weight.data
        generator = torch.Generator().manual_seed(0)
        weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
    return models


def small_batch() -> tuple[Tensor, Tensor]:
    images = torch.rand(9, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    images[0], images[1] = 0, 1  # corners of the box
    return images, torch.arange(9) % NUM_CLASSES


@contextmanager
def left_as_found(model: Classifier, images: Tensor, labels: Tensor) -> Iterator[None]:
    """Assert that the model, the inputs and the world are as they were."""
    before = copy.deepcopy((images, labels, model.state_dict(), images.grad))
    modes = [module.training for module in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    grads = [copy.deepcopy(p.grad) for p in model.parameters()]
    stream = torch.get_rng_state()
    yield
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    assert_same_gradient(images, before[3])
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[2][key]), key
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert_same_gradient(parameter, grad)
    assert torch.equal(torch.get_rng_state(), stream)


def assert_same_gradient(tensor: Tensor, gradient: Tensor | None) -> None:
    assert (tensor.grad is None) == (gradient is None)
    if gradient is not None:
        assert torch.equal(tensor.grad, gradient)

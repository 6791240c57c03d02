"""The K-class view says "another class" exactly where the outcome is fooled."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nullclass.attacks.external import KClassView
from nullclass.attacks.losses import find_objective
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.models import Classifier


def as_images(logits: list[list[float]]) -> Tensor:
    return torch.tensor(logits, dtype=torch.float64)[:, None, None, :]


def mirror(num_classes: int, has_null: bool = True) -> Classifier:
    """A model whose logits are the image's pixels."""
    return Classifier(nn.Flatten(), num_classes, has_null=has_null)


def fooled(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    return outcomes(predictions(logits, num_classes), labels) == Outcome.FOOLED


coarse = st.integers(-3, 3).map(float)  # ties abound
fine = st.floats(-1e6, 1e6)


@given(data=st.data(), num_classes=st.integers(2, 6), values=st.sampled_from([coarse, fine]))
def test_argmax_of_the_view_is_fooled(
    data: st.DataObject, num_classes: int, values: st.SearchStrategy[float]
) -> None:
    row = st.lists(values, min_size=num_classes + 1, max_size=num_classes + 1)
    images = as_images(data.draw(st.lists(row, min_size=1, max_size=8)))
    label = data.draw(st.integers(0, num_classes - 1))
    labels = torch.full((len(images),), label)
    model = mirror(num_classes).double()
    truth = fooled(model(images), labels, num_classes)

    viewed = KClassView(model, label)(images)
    assert viewed.shape == (len(images), num_classes)
    is_other = viewed.argmax(dim=1) != label
    logits = model(images)
    later = logits[:, label + 1 : num_classes]
    is_tied = (later == logits[:, num_classes:]).any(dim=1)
    assert torch.equal(is_other[~is_tied], truth[~is_tied])
    assert not (is_other & ~truth).any()


def test_its_margin_and_gradient_are_those_of_the_objective() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(20, 1, 1, 5, generator=generator).requires_grad_()
    labels = torch.full((20,), 2)
    model = mirror(4)
    margin = find_objective("fool").loss(model(images), labels, 4, "margin")
    w = KClassView(model, 2)(images)
    others = w[:, [0, 1, 3]].amax(dim=1)
    torch.testing.assert_close(others - w[:, 2], margin)
    (ours,) = torch.autograd.grad(margin.sum(), images, retain_graph=True)
    (theirs,) = torch.autograd.grad((others - w[:, 2]).sum(), images)
    assert torch.equal(ours, theirs)


def test_without_null_nothing_changes() -> None:
    images = torch.rand(6, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    model = mirror(4, has_null=False)
    assert torch.equal(KClassView(model, 1)(images), model(images))


def test_modes_of_the_model_are_its_own() -> None:
    model = mirror(3)
    for is_training in (True, False):
        model.train()
        model.body.eval()
        model.training = is_training
        view = KClassView(model, 0)
        assert view.training is is_training
        assert not model.body.training

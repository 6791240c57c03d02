from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nullclass.core.errors import UserError
from nullclass.evaluation.run import as_classifier
from nullclass.models import Classifier


class Fixed(nn.Module):
    """The first pixels of an image are its logits."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.num = num

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.num]


def test_predict_says_minus_one_for_null() -> None:
    images = torch.tensor([[0.1, 0.9, 0.2], [0.1, 0.2, 0.9], [0.5, 0.5, 0.5]]).view(3, 1, 1, 3)
    model = Classifier(Fixed(3), 2)
    assert model.predict(images).tolist() == [1, -1, 0]
    always = Classifier(Fixed(2), 2, has_null=False)
    assert always.predict(images).tolist() == [1, 1, 0]


def test_images_are_standardised_inside() -> None:
    seen = []
    body = Fixed(2)
    body.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model = Classifier(body, 2, has_null=False, mean=(0.5, 0.25), std=(0.5, 0.1))
    images = torch.rand(3, 2, 4, 4)
    model(images)
    expected = torch.stack([(images[:, 0] - 0.5) / 0.5, (images[:, 1] - 0.25) / 0.1], dim=1)
    torch.testing.assert_close(seen[0], expected)
    assert list(model.state_dict()) == [], "the card holds mean and std"


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two classes"):
        Classifier(Fixed(2), 1)
    for std in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            Classifier(Fixed(2), 2, std=(std,))


def test_predict_leaves_the_mode_and_needs_no_gradient() -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 2).train()
    assert not model.predict(torch.rand(2, 1, 2, 2)).requires_grad
    assert model.training


def test_a_plain_module_is_wrapped_where_it_is() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, device="meta"))
    image = torch.rand(1, 1, 2, 2)
    wrapped = as_classifier(module, 2, image)
    assert wrapped.mean.device.type == "meta", "images go where the model is"
    assert wrapped.has_null, "found by count"
    assert not as_classifier(module, 3, image).has_null
    assert as_classifier(wrapped, None, image) is wrapped
    assert as_classifier(wrapped, 2, image) is wrapped
    with pytest.raises(UserError, match="has 2 classes, not 3"):
        as_classifier(wrapped, 3, image)


def test_a_body_with_other_logits_than_it_should_have_is_told() -> None:
    images = torch.rand(4, 1, 2, 2)
    for has_null, says in ((True, "2 classes with null need"), (False, "without null need")):
        model = Classifier(Fixed(4), 2, has_null=has_null)
        for use in (model, model.predict):
            with pytest.raises(UserError, match=says):
                use(images)


# Several null logits


def images_of(logits: list[list[float]]) -> Tensor:
    """Images whose first pixels are those logits; with :class:`Fixed` they need not be in [0,1]."""
    return torch.tensor(logits).view(len(logits), 1, 1, -1)


@pytest.mark.parametrize("num_nulls", [1, 2, 3, 7])
def test_several_null_logits_are_folded_into_the_largest(num_nulls: int) -> None:
    num_classes = 3
    drawn = torch.randn(200, num_classes + num_nulls, generator=torch.Generator().manual_seed(0))
    images = drawn.view(200, 1, 1, -1)
    model = Classifier(Fixed(num_classes + num_nulls), num_classes, num_nulls=num_nulls)
    assert (model.num_nulls, model.num_outputs) == (num_nulls, num_classes + 1)
    assert torch.equal(model.all_logits(images), drawn)
    rows = drawn.tolist()
    assert model(images).tolist() == [[*row[:3], max(row[3:])] for row in rows]
    answers = [max(range(len(row)), key=row.__getitem__) for row in rows]
    assert model.predict(images).tolist() == [-1 if a >= num_classes else a for a in answers]
    assert {-1, 0, 1, 2} == set(model.predict(images).tolist()), "a fair case"


def test_the_order_of_null_logits_says_nothing() -> None:
    model = Classifier(Fixed(4), 2, num_nulls=2)
    one, other = images_of([[0.1, 0.2, 0.9, 0.3]]), images_of([[0.1, 0.2, 0.3, 0.9]])
    assert torch.equal(model(one), model(other))
    assert model.predict(torch.cat([one, other])).tolist() == [-1, -1]
    assert model.predict(images_of([[0.1, 0.9, 0.5, 0.5]])).tolist() == [1]


def test_the_gradient_of_a_folded_null_is_that_of_the_largest() -> None:
    images = images_of([[0.1, 0.2, 0.9, 0.3]]).requires_grad_()
    Classifier(Fixed(4), 2, num_nulls=2)(images)[0, 2].backward()
    assert images.grad is not None
    assert images.grad.flatten().tolist() == [0, 0, 1, 0]


def test_a_model_without_null_has_no_null_logits_whatever_is_said() -> None:
    model = Classifier(Fixed(2), 2, has_null=False, num_nulls=5)
    assert (model.num_nulls, model.num_outputs) == (0, 2)
    images = images_of([[0.3, 0.1]])
    assert torch.equal(model(images), model.all_logits(images))
    for num_nulls in (0, -1):
        with pytest.raises(ValueError, match="needs a null logit at least"):
            Classifier(Fixed(2), 2, num_nulls=num_nulls)


@pytest.mark.parametrize("num", [3, 5])
def test_a_body_with_another_number_of_null_logits_is_told(num: int) -> None:
    model = Classifier(Fixed(num), 2, num_nulls=2)
    for use in (model, model.predict, model.all_logits):
        with pytest.raises(UserError, match=r"logits of \(4, .*classes with null need \(4, 4\)"):
            use(torch.rand(4, 1, 2, 3))

"""The interface of models: standardisation, logits, wrapping of other modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nullclass import ProvableNull, save_checkpoint, train
from nullclass.core.errors import UserError
from nullclass.models import Classifier, as_classifier
from nullclass.rejection import calibrate, with_threshold
from nullclass.scoring.proofs import prove


class FirstPixels(nn.Module):
    """The first pixels of an image are its logits."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.num = num

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.num]


def images_of(logits: list[list[float]]) -> Tensor:
    """Images whose first pixels are those logits; they need not be in [0,1]."""
    return torch.tensor(logits).view(len(logits), 1, 1, -1)


def test_predictions_are_labels_with_minus_one_for_null() -> None:
    images = images_of([[0.1, 0.9, 0.2], [0.1, 0.2, 0.9], [0.5, 0.5, 0.5]])
    assert Classifier(FirstPixels(3), 2).predict(images).tolist() == [1, -1, 0]
    assert Classifier(FirstPixels(2), 2, has_null=False).predict(images).tolist() == [1, 1, 0]
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 2).train()
    assert not model.predict(torch.rand(2, 1, 2, 2)).requires_grad
    assert model.training


# Standardisation


@pytest.mark.parametrize("kind", [tuple, list, np.array, torch.tensor])
def test_images_are_standardised_inside(kind: Any) -> None:
    inputs = []
    body = FirstPixels(2)
    body.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    model = Classifier(body, 2, has_null=False, mean=kind([0.5, 0.25]), std=kind([0.5, 0.1]))
    images = torch.rand(3, 2, 4, 4)
    model(images)
    expected = torch.stack([(images[:, 0] - 0.5) / 0.5, (images[:, 1] - 0.25) / 0.1], dim=1)
    torch.testing.assert_close(inputs[0], expected)
    state = model.state_dict()
    assert sorted(state) == ["mean", "std"], "standardisation is part of the state dict"
    other = Classifier(FirstPixels(2), 2, has_null=False, mean=(0.0, 0.0), std=(1.0, 1.0))
    other.load_state_dict(state)
    assert torch.equal(other.mean, model.mean)
    assert Classifier(body, 2, mean=0.5, std=np.float64(2)).std.item() == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes must be a whole number of at least 2, not 1"),
        ({"num_classes": "2"}, "num_classes must be a whole number"),
        *(({"num_nulls": n}, "num_nulls must be a whole number of at least 1") for n in (0, -1)),
        *(({"std": (std,)}, "std must be positive, not") for std in (0.0, -1.0)),
        ({"std": (float("nan"),)}, "std must be one number, or one per channel, not"),
        ({"mean": "grey"}, "mean must be one number, or one per channel, not 'grey'"),
        ({"mean": ()}, "mean must be one number, or one per channel"),
        ({"mean": np.zeros((2, 2))}, "mean must be one number, or one per channel"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(FirstPixels(2), **{"num_classes": 2, **settings})


def test_as_many_means_as_channels() -> None:
    for name, settings in (("means", {"mean": (0.1, 0.2)}), ("stds", {"std": (1.0, 2.0)})):
        model = Classifier(FirstPixels(3), 2, **settings)
        with pytest.raises(UserError, match=f"2 {name}, and the images have 3 channels"):
            model(torch.rand(4, 3, 2, 2))


# What bodies may return (kinds of networks and outputs: test_any_model.py)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_bodies(dtype: torch.dtype) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(dtype)
    images = torch.rand(5, 1, 2, 2).requires_grad_()
    for model in (Classifier(body, 2), as_classifier(body, 2, images), Classifier(body, 2).half()):
        logits = model(images)
        assert logits.dtype == torch.float32
        logits.sum().backward()
    assert images.grad is not None
    assert images.grad.dtype == torch.float32


@pytest.mark.parametrize("num_nulls", [1, 2])
@pytest.mark.parametrize("num", [2, 5])
def test_wrong_numbers_of_logits(num: int, num_nulls: int) -> None:
    images = torch.rand(4, 1, 2, 3)
    model = Classifier(FirstPixels(num), 2, num_nulls=num_nulls)
    for use in (model, model.predict, model.all_logits):
        with pytest.raises(UserError, match=r"logits of shape \(4, .*2 classes with null need"):
            use(images)
    with pytest.raises(UserError, match="2 classes without null need"):
        Classifier(FirstPixels(3), 2, has_null=False)(images)
    flat = Classifier(nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 3))), 2)
    with pytest.raises(UserError, match=r"logits of shape \(8, 3\) for 4 images"):
        flat(images)


def test_exported_models_take_any_batch() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    model = Classifier(body, 2, num_nulls=2, mean=(0.1,), std=(0.3,)).eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        model, (torch.rand(3, 1, 2, 2),), dynamic_shapes={"images": {0: batch}}
    ).module()
    for num in (2, 7):
        images = torch.rand(num, 1, 2, 2)
        torch.testing.assert_close(exported(images), model(images))


# Plain modules


def test_a_model_is_on_the_device_of_its_body() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, device="meta"))
    assert Classifier(body, 2).mean.device.type == "meta"


def test_plain_modules_are_wrapped() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    image = torch.rand(1, 1, 2, 2)
    wrapped = as_classifier(module, 2, image)
    assert wrapped.has_null, "K + 1 logits"
    assert not as_classifier(module, 3, image).has_null, "K logits"
    assert not as_classifier(module, 3, image, has_null=False).has_null
    assert as_classifier(wrapped) is wrapped
    assert as_classifier(wrapped, 2, image) is wrapped


def test_wrapping_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    as_classifier(module, 2, torch.rand(5, 1, 2, 2))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (FirstPixels(3), {"num_classes": None}, "give num_classes"),
        (FirstPixels(3), {"images": None}, "give num_classes"),
        (len, {}, "returns int without logits"),
        ("model", {}, "must be a torch.nn.Module or a function .* not a str"),
        (FirstPixels, {}, "must be a torch.nn.Module or a function .* not the class FirstPixels"),
        (FirstPixels(2), {"has_null": True}, "none of them is null: pass has_null=False .*=1 if"),
        (FirstPixels(3), {"has_null": False}, "3 logits, but num_classes=2 and has_null=False"),
        (FirstPixels(5), {}, "5 logits, but num_classes=2 and has_null=False need 2"),
        (Classifier(FirstPixels(4), 3), {}, "has 3 classes, not 2"),
    ],
)
def test_bad_modules(model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_classifier(model, **({"num_classes": 2, "images": torch.rand(1, 1, 2, 3)} | arguments))


# Several null logits


@pytest.mark.parametrize("num_nulls", [1, 2, 3, 7])
def test_several_null_logits_are_merged_into_the_largest(num_nulls: int) -> None:
    num_classes = 3
    drawn = torch.rand(200, num_classes + num_nulls, generator=torch.Generator().manual_seed(0))
    images = drawn.view(200, 1, 1, -1)
    model = Classifier(FirstPixels(num_classes + num_nulls), num_classes, num_nulls=num_nulls)
    assert (model.num_nulls, model.num_outputs) == (num_nulls, num_classes + 1)
    assert torch.equal(model.all_logits(images), drawn)
    rows = drawn.tolist()
    assert model(images).tolist() == [[*row[:3], max(row[3:])] for row in rows]
    predicted = [max(range(len(row)), key=row.__getitem__) for row in rows]
    assert model.predict(images).tolist() == [-1 if a >= num_classes else a for a in predicted]
    assert {-1, 0, 1, 2} == set(model.predict(images).tolist()), "every kind occurs"


def test_gradients_and_models_without_null() -> None:
    images = images_of([[0.1, 0.2, 0.9, 0.3]]).requires_grad_()
    Classifier(FirstPixels(4), 2, num_nulls=2)(images)[0, 2].backward()
    assert images.grad is not None
    assert images.grad.flatten().tolist() == [0, 0, 1, 0], "of the largest null logit"
    model = Classifier(FirstPixels(2), 2, has_null=False, num_nulls=5)
    assert (model.num_nulls, model.num_outputs) == (0, 2)
    assert torch.equal(model(images), model.all_logits(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("images_dtype", [torch.float16, torch.float32, torch.float64])
def test_images_are_converted_to_the_type_of_the_weights(
    dtype: torch.dtype, images_dtype: torch.dtype
) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(dtype)
    images = torch.rand(5, 1, 2, 2).to(images_dtype)
    for model in (as_classifier(body, 2, images), Classifier(body, 2)):
        logits = model(images)
        assert logits.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.equal(logits, body(images.to(dtype)).to(logits))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(2, 1, 2, 2) * 255, "divide by 255"),
        (torch.full((2, 1, 2, 2), torch.nan), "NaN or infinite"),
        (torch.ones(2, 1, 2, 2, dtype=torch.uint8), "of torch.uint8"),
        (np.zeros((2, 1, 2, 2)), "not ndarray"),
    ],
)
def test_predict_checks_the_images(images: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Classifier(FirstPixels(3), 2).predict(images)


PLAIN_MODULE = nn.Linear(4, 3)
IMAGES = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    "use",
    [
        lambda: calibrate(PLAIN_MODULE, IMAGES),  # type: ignore[arg-type]
        lambda: with_threshold(PLAIN_MODULE, 0.0),  # type: ignore[arg-type]
        lambda: ProvableNull(PLAIN_MODULE, 0.1),  # type: ignore[arg-type]
        lambda: prove(PLAIN_MODULE, IMAGES, 0.1),  # type: ignore[arg-type]
        lambda: save_checkpoint(PLAIN_MODULE, "never"),  # type: ignore[arg-type]
        lambda: train(PLAIN_MODULE, IMAGES),  # type: ignore[arg-type]
    ],
    ids=["calibrate", "with_threshold", "ProvableNull", "prove", "save_checkpoint", "train"],
)
def test_plain_modules_where_a_classifier_is_needed(use: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"wrap your network, Classifier\(network, num_classes"):
        use()


def test_predictions_of_logits_that_are_not_finite_are_refused() -> None:
    model = Classifier(lambda images: torch.full((len(images), 3), torch.nan), 2)
    with pytest.raises(UserError, match="logits are not finite"):
        model.predict(torch.zeros(2, 1, 2, 2))


def test_logits_of_more_dimensions_are_named_as_such() -> None:
    model = Classifier(lambda images: torch.zeros(len(images), 3, 1, 1), 2)
    with pytest.raises(UserError, match=r"\(2, 3, 1, 1\) for 2 images: it must give one row"):
        model(torch.zeros(2, 1, 2, 2))

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import as_floats
from torch.utils.data import DataLoader, TensorDataset

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages, tensors_or_loader

BYTES = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4)
FLOATS = BYTES.float() / 255
LABELS = torch.arange(16) % 4


def test_bytes_are_stored_and_floats_come_out() -> None:
    data = LabelledImages(BYTES, LABELS)
    images, labels = data.batch([3, 0])
    assert data.images.dtype == torch.uint8
    assert images.dtype == torch.float32
    assert torch.equal(images, FLOATS[[3, 0]])
    assert labels.tolist() == [3, 0]
    assert torch.equal(as_floats(data).images, FLOATS)
    assert torch.equal(data.images, torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4))


@pytest.mark.parametrize("indices", [slice(2, 5), [2, 3, 4], torch.tensor([2, 3, 4])])
def test_every_kind_of_index(indices: Any) -> None:
    for stored in (BYTES, FLOATS):
        images, labels = LabelledImages(stored, LABELS).batch(indices)
        assert torch.equal(images, FLOATS[2:5])
        assert torch.equal(labels, LABELS[2:5])


def test_subset_and_first_keep_the_classes() -> None:
    data = LabelledImages(BYTES, LABELS)
    assert data.num_classes == 4
    assert len(data) == 16
    part = data.subset([5, 1])
    assert (len(part), part.num_classes, part.labels.tolist()) == (2, 4, [1, 1])
    assert torch.equal(data.first(3).images, BYTES[:3])
    with pytest.raises(UserError, match="no images"):
        data.subset([])
    dark = LabelledImages(torch.cat([BYTES % 2, BYTES]), LABELS.repeat(2)).first(16)
    assert torch.equal(dark.images, BYTES % 2), "part of checked images"
    for n in (0, -1, 17):
        with pytest.raises(UserError, match="choose 1 to 16"):
            data.first(n)


def test_null_is_a_label() -> None:
    data = LabelledImages(BYTES[:2], torch.tensor([-1, -1]), 10)
    assert data.num_classes == 10
    with pytest.raises(UserError, match="all labels are -1"):
        LabelledImages(BYTES[:2], torch.tensor([-1, -1]))


BAD: dict[str, tuple[Any, Any, Any, str]] = {
    "standardised": ((FLOATS - 0.13) / 0.31, LABELS, 4, "let the model standardise"),
    "0 to 255": (FLOATS * 255, LABELS, 4, "divide by 255"),
    "nan": (FLOATS.clone().index_fill(0, torch.tensor([1]), torch.nan), LABELS, 4, "NaN or"),
    "bytes of 0 and 1": (BYTES % 2, LABELS, 4, "if 1 is white, store 255"),
    "infinite": (
        FLOATS.clone().index_fill(0, torch.tensor([1]), torch.inf),
        LABELS,
        4,
        "NaN or",
    ),
    "label K": (BYTES, LABELS, 3, "use 0 … 2 for the 3 classes"),
    "label -2": (BYTES, LABELS - 2, 4, "-1 for null only"),
    "K as text": (BYTES, LABELS, "4", "num_classes must be a whole number"),
    "lengths": (BYTES, LABELS[:3], 4, "16 images but 3 labels"),
    "empty": (BYTES[:0], LABELS[:0], 4, "no images"),
    "no channel": (BYTES[:, 0], LABELS, 4, "(N, C, H, W)"),
    "double": (FLOATS.double(), LABELS, 4, "float32"),
    "float labels": (BYTES, LABELS * torch.nan, 0, "int64"),
    "arrays": (BYTES.numpy(), LABELS, 4, "images must be a tensor, not ndarray"),
    "labels in a list": (BYTES, LABELS.tolist(), 4, "labels must be a tensor, not list"),
    "negative K": (BYTES, LABELS, -2, "num_classes must be a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values(case: str) -> None:
    images, labels, num_classes, says = BAD[case]
    with pytest.raises(UserError) as caught:
        LabelledImages(images, labels, num_classes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        (BYTES, LABELS),
        [BYTES, LABELS],
        (BYTES[:, 0], LABELS),
        (BYTES.long(), LABELS.int()),
        DataLoader(TensorDataset(BYTES, LABELS), batch_size=5),
        [(BYTES[:3], LABELS[:3]), (BYTES[3:], LABELS[3:])],
        ((BYTES[i : i + 8], LABELS[i : i + 8]) for i in (0, 8)),
        LabelledImages(BYTES, LABELS),
    ],
    ids=["tuple", "list", "3 dims", "int64", "loader", "batches", "generator", "ours"],
)
def test_forms_of_data(data: Any) -> None:
    taken = tensors_or_loader(data)
    assert torch.equal(taken.images, BYTES)
    assert taken.images.dtype == torch.uint8
    assert torch.equal(taken.labels, LABELS)
    assert taken.num_classes == 4


def test_floats_and_rounding() -> None:
    undone = (FLOATS - 0.5) * (1 + 2e-6) + 0.5
    assert float(undone.min()) < 0
    assert float(undone.max()) > 1
    taken = tensors_or_loader((undone, LABELS), num_classes=7)
    assert taken.num_classes == 7
    assert torch.allclose(taken.images, FLOATS, atol=2e-6, rtol=0)
    assert tensors_or_loader((FLOATS.double(), LABELS)).images.dtype == torch.float32
    assert tensors_or_loader(taken) is taken
    assert tensors_or_loader(taken, num_classes=9).num_classes == 9


BAD_DATA: dict[str, tuple[Any, str]] = {
    "standardised": (((FLOATS - 0.1307) / 0.3081, LABELS), "eps is in pixel units"),
    "just outside": ((FLOATS + 1e-4, LABELS), "let the model standardise"),
    "integers of 0 and 1": ((BYTES.long() % 2, LABELS), "would be divided by 255"),
    "big integers": ((BYTES.int() + 1, LABELS), "pass 0 … 255"),
    "booleans": ((BYTES > 3, LABELS), "torch.bool"),
    "float labels": ((BYTES, LABELS.float()), "labels are torch.float32"),
    "no batches": ([], "no batches"),
    "a tensor": (BYTES, "got Tensor"),
    "a string": ("mnist", "got str"),
    "a number": (3, "got int"),
    "NumPy labels": ((BYTES, LABELS.numpy()), "labels that are a ndarray"),
    "NumPy images": ((BYTES.numpy(), LABELS.numpy()), "images that are a ndarray"),
    "a list of labels": ((BYTES, LABELS.tolist()), "got labels that are a list"),
    "batches that are dictionaries": ([{"x": BYTES, "y": LABELS}], "with the keys x, y: make"),
    "triples": ([(BYTES, LABELS, LABELS)], "got tuple"),
    "a dataset": (TensorDataset(BYTES, LABELS), "DataLoader"),
    "crossed lengths": ([(BYTES[:3], LABELS[:4]), (BYTES[3:], LABELS[4:])], "3 images but 4"),
    "two shapes": ([(BYTES, LABELS), (BYTES[:, :, :2], LABELS)], "make all images alike"),
    "no images": ((FLOATS[:0], LABELS[:0]), "no images"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case: str) -> None:
    data, says = BAD_DATA[case]
    with pytest.raises(UserError) as caught:
        tensors_or_loader(data)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)

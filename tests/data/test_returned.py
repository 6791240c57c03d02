from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nullclass.core.errors import UserError
from nullclass.data import load_dataset

CODE = """
import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

images = torch.arange(12 * 3 * 5 * 5).remainder(256).to(torch.uint8).view(12, 3, 5, 5)
labels = torch.arange(12) % 3

def pair():
    return images, labels

def arrays():
    return (images.permute(0, 2, 3, 1).numpy(), labels.numpy())

def both():
    return [(images, labels), (images[:4], labels[:4])]

def dataset():
    return TensorDataset(images, labels)

def datasets():
    return dataset(), TensorDataset(images[:4], labels[:4])

def labelled():
    from nullclass.data import LabelledImages
    return LabelledImages(images, labels, 5)

def streamed():
    from nullclass.data import LabelledImages
    from nullclass.data.streamed import StreamedImages
    def read(index):
        raise AssertionError("no image is needed yet")
    on_disk = StreamedImages(read, (3, 5, 5), torch.arange(12), "0" * 64)
    return LabelledImages(on_disk, labels, 5)

class Pictures(Dataset):
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return "a picture", index

def pictures():
    return Pictures()

def text():
    return "images"

def nothing():
    return None

def objects():
    return np.array([object()]), np.array([1])

class Measured(Pictures):
    def __getitem__(self, index):
        return images[index], 0.45 * index

def measured():
    return Measured()

class Uneven(Pictures):
    def __init__(self, second):
        self.second = second
    def __getitem__(self, index):
        return (self.second if index == 1 else images[index]), index

def uneven():
    return Uneven(images[1, :, 1:])

def mixed():
    return Uneven(images[1] / 255)

def no_images():
    return TensorDataset(images[:0], labels[:0])

def sparse():
    return images.to_sparse(), labels

def empty():
    return images.to("meta"), labels

def fails():
    raise RuntimeError("no network")
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_images_of_test.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("name", ["pair", "arrays", "dataset", "both", "datasets"])
def test_what_a_function_may_return(name: str) -> None:
    images = torch.arange(12 * 75).remainder(256).to(torch.uint8).view(12, 3, 5, 5)
    data = load_dataset(f"my_images_of_test:{name}", validation=0)
    has_both = name in ("both", "datasets")
    assert (data.train is not None) == has_both
    assert torch.equal(data.test.images[:], images[:4] if has_both else images)
    assert data.test.labels.tolist() == ([0, 1, 2, 0] if has_both else [0, 1, 2] * 4)
    assert data.test.images.dtype == torch.uint8
    assert (data.name, data.num_classes) == (f"my_images_of_test:{name}", 3)
    if has_both:
        assert torch.equal(data.training_images().images[:], images)


@pytest.mark.parametrize("name", ["labelled", "streamed"])
def test_labelled_images_keep_their_classes_and_stay_on_the_disk(name: str) -> None:
    data = load_dataset(f"my_images_of_test:{name}", validation=0)
    assert (data.num_classes, len(data.class_names), data.test.num_classes) == (5, 5, 5)
    assert isinstance(data.test.images, torch.Tensor) == (name == "labelled")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("text", "returns a str: let it return a pair"),
        ("nothing", "returns a NoneType"),
        ("objects", "returns a tuple: let it return"),
        ("pictures", "images of the Pictures cannot be read .*pairs of a tensor"),
        ("measured", "the label 0.45 of image 1 is no whole number"),
        (
            "uneven",
            r"image 1 is torch.uint8 of shape \(3, 4, 5\), and image 0 torch.uint8 of shape",
        ),
        ("mixed", "image 1 is torch.float32 .*all of one shape and type"),
        ("no_images", "images of the TensorDataset cannot be read"),
        ("sparse", "sparse, quantised or meta tensor: make it a dense one"),
        ("empty", "sparse, quantised or meta tensor: make it a dense one"),
        ("fails", "my_images_of_test:fails failed .RuntimeError: no network"),
        ("missing", "has no function missing"),
    ],
)
def test_what_it_may_not(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_dataset(f"my_images_of_test:{name}", validation=0)
    with pytest.raises(UserError, match="cannot be imported"):
        load_dataset(f"no_such_module_of_test:{name}", validation=0)

"""A contract test for every source of images of no class, and their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import tiny_arrays, write_dataset
from tiny import as_floats
from torch import Tensor, nn
from worlds import Digits

import nullclass.scoring.ood.fashion_mnist as fashion
from nullclass.core.errors import UserError
from nullclass.core.outcomes import predictions
from nullclass.data import Dataset, LabelledImages, load_dataset
from nullclass.models import Classifier
from nullclass.rejection import null_scores, with_threshold
from nullclass.scoring.ood import OOD, make_ood, score_ood

NUM_FASHION = 40


@pytest.fixture(autouse=True)
def fashion_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Random images in place of Fashion-MNIST."""
    folder = write_dataset(tmp_path / "fashion", tiny_arrays(20, NUM_FASHION, 10, 28, seed=7))
    fashion_data = load_dataset(folder, validation=0)

    def load(name: str, *, validation: int) -> Dataset:
        assert (name, validation) == ("fashion-mnist", 0)
        return fashion_data

    monkeypatch.setattr(fashion, "load_dataset", load)
    return fashion_data


def data_of(
    shape: tuple[int, ...] = (1, 28, 28), num: int = 12, *, is_bytes: bool = True
) -> LabelledImages:
    pixels = torch.randint(
        256, (num, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    data = LabelledImages(pixels, torch.arange(num) % 4, 4)
    return data if is_bytes else as_floats(data)


def make(name: str, data: LabelledImages, num: int = 16, seed: int = 5) -> Tensor:
    return make_ood(name, data, num, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num", [1, 16])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 12)])
@pytest.mark.parametrize("name", OOD)
def test_contract(name: str, shape: tuple[int, ...], num: int) -> None:
    if name == "fashion-mnist" and shape != (1, 28, 28):
        with pytest.raises(UserError, match="leave it out"):
            make(name, data_of(shape))
        return
    data = data_of(shape)
    before, state = data.images.clone(), torch.get_rng_state()
    images = make(name, data, num)
    assert images.shape == (num, *shape)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(data.images, before), "the data are unchanged"
    assert torch.equal(torch.get_rng_state(), state), "the global generator is unchanged"
    assert torch.equal(make(name, data, num), images), "the same generator, the same images"
    assert torch.equal(make(name, data_of(shape, is_bytes=False), num), images)
    images.zero_()  # shares no memory with the data
    assert torch.equal(data.images, before)
    assert make(name, data, num).any() or name == "blank"
    same = (images[:, None] == as_floats(data).images[None]).flatten(2).all(dim=2)
    assert not same.any(), "no image of the data themselves"


@pytest.mark.parametrize("name", ["noise", "tiles"])
def test_drawn_images_differ(name: str) -> None:
    images = make(name, data_of())
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    assert not torch.equal(images, make(name, data_of(), seed=6))


def test_noise_is_uniform() -> None:
    pixels = make("noise", data_of(), 200).flatten()
    counts = torch.histc(pixels, 10, 0, 1)
    expected = len(pixels) / 10
    assert (counts - expected).abs().max() < 5 * expected**0.5
    assert abs(float(torch.corrcoef(torch.stack([pixels[:-1], pixels[1:]]))[0, 1])) < 0.02


def test_blank_images_run_from_black_to_white() -> None:
    images = make("blank", data_of((3, 8, 8)), 5)
    assert images.flatten(1).amin(dim=1).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert images.flatten(1).amax(dim=1).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert make("blank", data_of(), 1).max() == 0


def test_tiles_come_from_several_images_and_other_positions() -> None:
    """Pixels hold their image, row and column."""
    num, size, sides = 5, 12, (2, 3, 4, 6)
    axes = torch.arange(num), torch.arange(size), torch.arange(size)
    pixels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=1).to(torch.uint8)
    data = LabelledImages(pixels, torch.arange(num), num)
    owner, row, column = (make("tiles", data, 300) * 255).round().long().unbind(dim=1)
    assert (owner.flatten(1).amin(dim=1) < owner.flatten(1).amax(dim=1)).all()
    fits = []
    for side in sides:
        start = torch.arange(size) // side * side  # of the tile that holds a row or column
        inner = torch.arange(size) - start
        from_row, from_column = row - inner[:, None], column - inner[None, :]
        is_whole = torch.ones(300, dtype=torch.bool)
        for values in (owner, from_row, from_column):  # the same in all pixels of a tile
            is_whole &= (values == values[:, start][:, :, start]).flatten(1).all(dim=1)
        for origin in (from_row, from_column):
            is_whole &= (origin % side == 0).flatten(1).all(dim=1)
        is_moved = (from_row != start[:, None]) | (from_column != start[None, :])
        fits.append(is_whole & is_moved.flatten(1).all(dim=1))
    assert torch.stack(fits).any(dim=0).all()
    by_image = torch.stack(fits, dim=1).tolist()
    largest = {max(s for s, fit in zip(sides, image, strict=True) if fit) for image in by_image}
    assert largest == set(sides)


def test_tiles_of_two_images_use_both() -> None:
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    pixels[1] = 255
    images = make("tiles", LabelledImages(pixels, torch.tensor([0, 1])), 50)
    assert ((images == 0).flatten(1).any(dim=1) & (images == 1).flatten(1).any(dim=1)).all()


def test_fashion_mnist_is_the_first_test_images(fashion_data: Dataset) -> None:
    images = make("fashion-mnist", data_of(), 7)
    assert torch.equal(images, fashion_data.test.images[:7].float() / 255)


def test_fashion_mnist_refuses(fashion_data: Dataset) -> None:
    with pytest.raises(UserError, match="use fewer"):
        make("fashion-mnist", data_of(), NUM_FASHION + 1)
    for own in (fashion_data.test, as_floats(fashion_data.test), fashion_data.test.subset([9, 3])):
        with pytest.raises(UserError, match="Fashion-MNIST itself"):
            make("fashion-mnist", own)


def test_other_slips() -> None:
    with pytest.raises(UserError, match="ood must be one of noise, blank, tiles, fashion-mnist"):
        make("cifar", data_of())
    for num in (0, -3):
        with pytest.raises(UserError, match="num_images must be a whole number of at least 1"):
            make("noise", data_of(), num)
    with pytest.raises(UserError, match="leave the tiles out"):
        make("tiles", data_of((1, 1, 3)))
    with pytest.raises(UserError, match="at least two test images"):
        make("tiles", data_of(num=1))


# Rows


@pytest.mark.parametrize("kind", ["guarded", "plain", "thresholded"])
def test_rows_of_scores(digits: Digits, kind: str) -> None:
    model = digits.plain if kind == "plain" else digits.guarded
    if kind == "thresholded":
        model = with_threshold(model, 0.4)
    data = LabelledImages(digits.images, digits.labels, 10)
    images = make("noise", data, 300)  # more than a batch
    rows = score_ood(model, images, "noise")
    answers = ["prediction", "real_prediction", "confidence", "null_score"]
    assert rows.columns.tolist() == ["source", "image", *answers]
    assert (rows["source"] == "noise").all()
    assert rows["image"].tolist() == list(range(300))
    assert rows.equals(score_ood(model.train(), images, "noise"))
    assert model.training, "left as it was"
    model.eval()
    with torch.no_grad():
        logits = model(images)
    assert rows["prediction"].tolist() == predictions(logits, 10).tolist()
    assert rows["real_prediction"].tolist() == logits[:, :10].argmax(dim=1).tolist()
    np.testing.assert_allclose(rows["confidence"], logits.softmax(dim=1).amax(dim=1), atol=1e-5)
    np.testing.assert_allclose(rows["null_score"], null_scores(logits, 10), atol=1e-4)
    if kind != "plain":
        assert ((rows["null_score"] > 0) == (rows["prediction"] == -1)).all()


def test_scoring_refuses(digits: Digits) -> None:
    with pytest.raises(UserError, match="no images from noise"):
        score_ood(digits.guarded, digits.images[:0], "noise")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 11))
    nn.init.constant_(net[1].weight, torch.inf)
    with pytest.raises(UserError, match="not finite"):
        score_ood(Classifier(net, 10), digits.images, "digits")

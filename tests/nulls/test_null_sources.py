"""One contract for every source of null images; the makers without a paper by their definitions."""

from __future__ import annotations

import copy
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.nulls import (
    NULL_SOURCES,
    AdversarialNulls,
    AnyOf,
    MixedNulls,
    NullImages,
    NullSource,
    TileShuffleNulls,
    UniformNulls,
    check_settings,
    make_nulls,
)
from nullclass.nulls.tile_shuffle import shuffle_tiles, tile_sides
from nullclass.results.null_curve import NullCurve

CURVES = {
    measure: NullCurve(measure, (0.1, 0.4), (0.3, 1.0)).to_dict()
    for measure in ("linf", "l2", "l0")
}

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "adversarial": [{"eps": 0.154}, {"eps": 0.1, "num_steps": 3}, {"eps": 1.0}],
    "null-probabilities": [
        {"curve": CURVES["linf"], "perturbation": "fgsm"},
        {"curve": CURVES["l2"], "perturbation": "pgd", "perturbation_settings": {"num_steps": 2}},
        {
            "curve": CURVES["l0"],
            "perturbation": "sparse",
            "perturbation_settings": {"num_steps": 1},
        },
        {"curve": CURVES["l2"], "perturbation": "noise"},
        {"curve": CURVES["l0"], "perturbation": "noise"},
    ],
    "ccat": [{"num_steps": 2}, {"eps": 0.05, "num_steps": 1, "power": 0.5}],
    "background": [{}, {"dataset": "mnist"}],
    "tile-shuffle": [{}, {"sides": [1, 3]}, {"faithful": True}],
    "any-of": [
        {"sources": {"uniform": {}}},
        {"sources": {"uniform": {}, "tile-shuffle": {"faithful": True}, "mixed": {}}},
        {"sources": {"adversarial": {"eps": 0.1}, "tile-shuffle": {"sides": [3]}}},
        {"sources": {"background": {}, "ccat": {"num_steps": 2}}},
    ],
}
"""Settings to test a source with; one that is not named here is tested with none."""

CASES = [(name, settings) for name in NULL_SOURCES for settings in SETTINGS.get(name, [{}])]


def small_model(shape: tuple[int, ...] = (1, 6, 6)) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        width = shape[0] * shape[1] * shape[2]
        body = nn.Sequential(nn.Flatten(), nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, 5))
    return Classifier(body, 4, mean=(0.5,), std=(0.25,))


def batch(num: int = 8, shape: tuple[int, ...] = (1, 6, 6)) -> tuple[Tensor, Tensor]:
    images = torch.rand(num, *shape, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(num) % 4


def stream(seed: int = 9) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def give_background(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]) -> None:
    """Nothing is downloaded: these images are every dataset."""
    images = torch.rand(7, *shape, generator=torch.Generator().manual_seed(4))
    data = SimpleNamespace(train=LabelledImages(images, torch.zeros(7, dtype=torch.int64)))
    monkeypatch.setattr("nullclass.nulls.background.load_dataset", lambda name, validation: data)


def check_made(made: NullImages, images: Tensor, *, is_soft: bool) -> None:
    """What holds for all that a source makes."""
    assert made.images.shape == images.shape
    assert made.images.dtype == images.dtype
    assert not made.images.requires_grad
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert (made.null_probs is not None) is is_soft
    if made.null_probs is not None:
        assert made.null_probs.shape == (len(images),)
        assert made.null_probs.is_floating_point()
        assert not made.null_probs.requires_grad
        assert made.null_probs.min() >= 0
        assert made.null_probs.max() <= 1


def assert_same(one: NullImages, other: NullImages) -> None:
    assert torch.equal(one.images, other.images)
    assert (one.null_probs is None) is (other.null_probs is None)
    if one.null_probs is not None:
        assert torch.equal(one.null_probs, other.null_probs)


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 12, 8), (1, 28, 28), (2, 9, 9), (1, 2, 6)])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_contract(
    name: str,
    settings: dict[str, Any],
    shape: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_background(monkeypatch, shape)
    inner = settings.get("sources", {name: settings}).get("tile-shuffle", {})
    if inner.get("sides") and shape != (1, 6, 6):
        settings = json.loads(json.dumps(settings).replace(json.dumps(inner["sides"]), "[1]"))
    model = small_model(shape)
    model.body[1].bias.grad = torch.ones(12)
    source = make_nulls(name, settings, model)
    stored = source.settings()
    assert json.loads(json.dumps(stored)) == stored, "JSON values"
    if name == "any-of":  # it also stores the defaults of its sources
        assert stored["sources"].keys() == settings["sources"].keys()
        for key, given in settings["sources"].items():
            assert given.items() <= stored["sources"][key].items()
    else:
        assert settings.items() <= stored.items()
    images, labels = batch(10, shape)
    images.grad = torch.randn(images.shape, generator=stream(2))
    before = [t.clone() for t in (images, labels, images.grad)]
    state = copy.deepcopy(model.state_dict())
    global_stream = torch.get_rng_state()

    made = source(images, labels, stream())

    check_made(made, images, is_soft=source.is_soft)
    assert not torch.equal(made.images, images)
    for now, then in zip((images, labels, images.grad), before, strict=True):
        assert torch.equal(now, then)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    grads = [p.grad for p in model.parameters()]
    assert torch.equal(grads[1], torch.ones(12)), "parameter gradients of the step are kept"
    assert all(grad is None for index, grad in enumerate(grads) if index != 1)
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), global_stream)
    assert_same(source(images, labels, stream()), made)
    rebuilt = make_nulls(name, json.loads(json.dumps(stored)), model)
    assert rebuilt.settings() == stored
    assert rebuilt.needs_image_gradient is source.needs_image_gradient
    assert rebuilt.is_soft is source.is_soft
    assert_same(rebuilt(images, labels, stream()), made)
    other = source(images, labels, stream(10))
    # A climb that begins elsewhere may end in the same corner.
    settles = name in ("adversarial", "ccat")
    assert settles or not torch.equal(made.images, other.images), "another draw"
    smallest = 2 if "mixed" in (name, *settings.get("sources", ())) else 1  # mixing takes two
    check_made(source(images[:smallest], labels[:smallest], stream()), images[:smallest],
               is_soft=source.is_soft)  # fmt: skip


def test_fgsm_nulls_are_the_formula_with_the_gradient_at_hand() -> None:
    model = small_model()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    images, labels = batch()
    images.requires_grad_()
    cross_entropy(model(images), labels).backward()
    calls.clear()
    nulls = AdversarialNulls(model, eps=0.2)(images, labels).images
    assert calls == [], "no second forward pass"
    expected = (images.detach() + 0.2 * images.grad.sign()).clamp(0, 1)
    assert torch.equal(nulls, expected)
    bare = AdversarialNulls(model, eps=0.2)(images.detach(), labels).images
    assert calls == [1], "without a gradient at hand it makes one"
    assert torch.equal(bare, expected)


def test_more_steps_climb_higher_within_the_same_ball() -> None:
    model, (images, labels) = small_model(), batch(64)

    def loss(x: Tensor) -> float:
        return float(cross_entropy(model(x), labels).detach())

    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    losses = [loss(images)]
    for num_steps in (1, 10):
        calls.clear()
        nulls = AdversarialNulls(model, eps=0.1, num_steps=num_steps)(images, labels).images
        assert len(calls) == num_steps
        assert (nulls - images).abs().max() <= 0.1 + 1e-6
        losses.append(loss(nulls))
    assert losses == sorted(losses)
    images.grad = torch.autograd.grad(
        cross_entropy(model(x := images.clone().requires_grad_()), labels), x
    )[0]
    calls.clear()
    given = AdversarialNulls(model, eps=0.1, num_steps=10)(images, labels).images
    assert len(calls) == 9, "the first step uses the gradient at hand"
    torch.testing.assert_close(given, nulls)


@pytest.mark.parametrize(
    "settings",
    [*({"eps": eps} for eps in (0, -0.1, 1.1, 40, float("nan"))), {"eps": 0.1, "num_steps": 0}],
)
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"null images|num_steps"):
        check_settings("adversarial", settings)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(UserError, match="the null source must be one of adversarial"):
        check_settings("noise", {})


# Noise


def test_uniform_nulls_are_uniform_in_every_pixel_and_independent_of_the_batch() -> None:
    images = torch.zeros(4000, 2, 2, 3)
    made = UniformNulls()(images, torch.zeros(4000), torch.Generator().manual_seed(0))
    nulls = made.images.flatten(1)
    expected = (torch.arange(4000) + 0.5) / 4000
    gaps = (nulls.sort(dim=0).values - expected[:, None]).abs().amax(dim=0)
    assert gaps.max() < 1.95 / 4000**0.5, "Kolmogorov's bound at 0.1 %, for each pixel"
    correlations = torch.corrcoef(nulls.T) - torch.eye(12)
    assert correlations.abs().max() < 4 / 4000**0.5


# Tiles


def tiles_of(image: Tensor, side: int) -> list[bytes]:
    """The tiles of one image, row by row, cut out one at a time."""
    _, height, width = image.shape
    pixels = image.numpy()
    return [
        pixels[:, top : top + side, left : left + side].tobytes()
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def sides_used(image: Tensor, shuffled: Tensor, sides: list[int]) -> list[int]:
    """Sides of which the one image's tiles are a permutation of the other's."""
    return [
        side for side in sides if sorted(tiles_of(image, side)) == sorted(tiles_of(shuffled, side))
    ]


SHAPES = [((3, 12, 8), [2, 4]), ((1, 28, 28), [2, 4, 7, 14]), ((1, 6, 12), [2, 3, 6])]


@pytest.mark.parametrize(("shape", "sides"), SHAPES)
def test_every_shuffled_image_has_the_tiles_of_its_own_image_never_all_in_place(
    shape: tuple[int, int, int], sides: list[int]
) -> None:
    assert tile_sides(*shape[1:]) == sides
    images = torch.rand(60, *shape, generator=torch.Generator().manual_seed(4))
    nulls = TileShuffleNulls()(images, torch.zeros(60), torch.Generator().manual_seed(5)).images
    orders = set()
    for image, shuffled in zip(images, nulls, strict=True):
        found = sides_used(image, shuffled, sides)
        assert found, "its own tiles, each as often as before"
        assert not torch.equal(image, shuffled)
        tiles = tiles_of(image, max(found))
        orders.add((max(found), *(tiles.index(tile) for tile in tiles_of(shuffled, max(found)))))
    assert {order[0] for order in orders} == set(sides), "every side is drawn"
    assert len(orders) > 25, "each image has its own permutation"


@pytest.mark.parametrize(("shape", "sides"), SHAPES)
def test_faithful_shuffling_has_one_side_and_one_permutation_a_batch(
    shape: tuple[int, int, int], sides: list[int]
) -> None:
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(4))
    source, generator = TileShuffleNulls(faithful=True), torch.Generator().manual_seed(5)
    sides_seen = set()
    for _ in range(25):
        nulls = source(images, torch.zeros(3), generator).images
        sides_of = [
            sides_used(image, null, sides) for image, null in zip(images, nulls, strict=True)
        ]
        assert sides_of[0]
        assert all(found == sides_of[0] for found in sides_of)
        side = max(sides_of[0])
        orders = {
            tuple(tiles_of(image, side).index(tile) for tile in tiles_of(null, side))
            for image, null in zip(images, nulls, strict=True)
        }
        assert len(orders) == 1
        sides_seen.add(side)
    assert sides_seen == set(sides)


def test_the_identity_is_drawn_in_a_faithful_shuffle_and_never_otherwise() -> None:
    images = torch.rand(2, 1, 2, 4, generator=torch.Generator().manual_seed(4))  # two tiles
    labels, generator = torch.zeros(2), torch.Generator().manual_seed(5)
    faithful = TileShuffleNulls([2], faithful=True)
    drawn = [faithful(images, labels, generator).images for _ in range(200)]
    stayed = sum(torch.equal(nulls, images) for nulls in drawn)
    assert 70 < stayed < 130, "one permutation of two"
    swapped = torch.cat([images[..., 2:], images[..., :2]], dim=3)
    for _ in range(50):
        assert torch.equal(TileShuffleNulls([2])(images, labels, generator).images, swapped)


def test_permutations_of_tiles_are_uniform() -> None:
    images = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    nulls = TileShuffleNulls([2])(
        images.expand(4600, -1, -1, -1), torch.zeros(4600), torch.Generator().manual_seed(8)
    ).images
    tiles = tiles_of(images[0], 2)
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for null in nulls:
        counts[tuple(tiles.index(tile) for tile in tiles_of(null, 2))] += 1
    assert counts.pop((0, 1, 2, 3)) == 0
    # Of 24 permutations the one forbidden gives its share to the turn by one.
    expected = {order: 4600 / 24 * (2 if order == (3, 0, 1, 2) else 1) for order in counts}
    squares = sum((counts[o] - expected[o]) ** 2 / expected[o] for o in counts)
    assert squares < 45, "chi-square with 22 degrees of freedom, 0.3 %"


def test_tiles_go_where_the_order_says() -> None:
    image = torch.arange(8.0).view(1, 1, 2, 4).expand(1, 2, 2, 4) / 8
    moved = shuffle_tiles(image, 1, torch.tensor([[3, 2, 1, 0, 7, 6, 5, 4]]))
    assert torch.equal(moved, image.flip(3))
    moved = shuffle_tiles(image, 2, torch.tensor([[1, 0]]))
    assert torch.equal(moved, torch.cat([image[..., 2:], image[..., :2]], dim=3))


def test_single_pixels_of_a_row_are_shuffled_when_named() -> None:
    images = torch.rand(50, 1, 1, 3, generator=torch.Generator().manual_seed(4))
    nulls = TileShuffleNulls([1], faithful=True)(
        images, torch.zeros(50), torch.Generator().manual_seed(1)
    ).images
    assert torch.equal(nulls.sort(dim=3).values, images.sort(dim=3).values)
    assert not torch.equal(nulls, images)


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("sides", [[4], [3, 5], [12], [2, 8]])
def test_sides_that_do_not_divide_into_several_are_refused(
    sides: list[int], faithful: bool
) -> None:
    images = torch.zeros(2, 1, 12, 12) if sides == [12] else torch.zeros(2, 1, 6, 12)
    with pytest.raises(UserError, match=r"do not divide images of .* into several"):
        TileShuffleNulls(sides, faithful)(images, torch.zeros(2))


def test_senseless_sides_are_refused() -> None:
    for sides in ([], [0], [2, -1]):
        with pytest.raises(UserError, match="at least 1 pixel"):
            check_settings("tile-shuffle", {"sides": sides})
    for size in ((1, 3), (5, 5), (4, 9), (7, 7)):
        with pytest.raises(UserError, match="no square tile"):
            TileShuffleNulls()(torch.zeros(2, 1, *size), torch.zeros(2))


# Mixtures


def test_a_mixture_is_the_mean_with_an_image_of_another_class_never_its_own() -> None:
    images, _ = batch(24)
    labels = torch.tensor([0, 1, 2, 3, 0, 0] * 4)
    source, generator = MixedNulls(), torch.Generator().manual_seed(2)
    partners: dict[int, dict[int, int]] = {index: {} for index in range(24)}
    for _ in range(200):
        nulls = source(images, labels, generator).images
        for index, null in enumerate(nulls):
            means = (images + images[index]) / 2
            found = [other for other in range(24) if torch.equal(means[other], null)]
            assert len(found) == 1, "exactly the mean with one other"
            assert labels[found[0]] != labels[index]
            partners[index][found[0]] = partners[index].get(found[0], 0) + 1
    for index, counts in partners.items():
        possible = [other for other in range(24) if labels[other] != labels[index]]
        assert set(counts) == set(possible), "any of them"
        expected = 200 / len(possible)
        assert max(counts.values()) < expected + 5 * expected**0.5


def test_null_images_of_ones_own_are_mixed_but_never_mixed_in() -> None:
    images, _ = batch(6)
    labels = torch.tensor([0, 1, -1, -1, 0, 1])
    generator = torch.Generator().manual_seed(2)
    for _ in range(30):
        for index, null in enumerate(MixedNulls()(images, labels, generator).images):
            means = (images + images[index]) / 2
            (found,) = (other for other in range(6) if torch.equal(means[other], null))
            assert labels[found] >= 0


@pytest.mark.parametrize("labels", [[2, 2, 2], [1], [-1, -1], [3, -1, 3]])
def test_a_batch_of_one_class_cannot_be_mixed(labels: list[int]) -> None:
    images, _ = batch(len(labels))
    with pytest.raises(UserError, match="mixed null images need two classes in every batch"):
        MixedNulls()(images, torch.tensor(labels))


# Several kinds


class Constant(NullSource):
    """One grey, and one probability of null if it is soft."""

    def __init__(self, value: float, p: float | None = None) -> None:
        self.value, self.p, self.is_soft = value, p, p is not None

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        null_probs = None if self.p is None else images.new_full((len(images),), self.p)
        return NullImages(torch.full_like(images, self.value), null_probs)


def test_each_image_draws_its_kind_uniformly_and_alone() -> None:
    values = (0.125, 0.5, 0.875)
    source = AnyOf({str(value): Constant(value) for value in values})
    images, labels = torch.zeros(3000, 1, 2, 2), torch.zeros(3000)
    made = source(images, labels, torch.Generator().manual_seed(6))
    assert made.null_probs is None
    drawn = made.images.flatten(1)
    assert (drawn == drawn[:, :1]).all(), "one kind an image"
    kinds = drawn[:, 0]
    counts = [int((kinds == value).sum()) for value in values]
    assert sum(counts) == 3000
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 11.8, "chi-square, 0.3 %"
    pairs = torch.stack([kinds[:-1], kinds[1:]])
    correlation = torch.corrcoef(pairs)[0, 1]
    assert abs(float(correlation)) < 4 / 3000**0.5, "neighbours say nothing of each other"


def test_each_image_has_the_share_of_its_own_kind() -> None:
    null_probs = {0.125: 0.25, 0.5: None, 0.875: 0.0}
    source = AnyOf({str(value): Constant(value, p) for value, p in null_probs.items()})
    assert source.is_soft
    images, labels = torch.zeros(200, 1, 2, 2), torch.zeros(200)
    made = source(images, labels, torch.Generator().manual_seed(6))
    kinds = made.images[:, 0, 0, 0].tolist()
    assert set(kinds) == set(null_probs)
    assert made.null_probs is not None
    wanted = [1.0 if null_probs[kind] is None else null_probs[kind] for kind in kinds]
    assert made.null_probs.tolist() == wanted, "a hard kind is all null"
    hard = AnyOf({"one": Constant(0.5), "other": Constant(0.125)})
    assert not hard.is_soft


def test_any_of_passes_the_gradient_to_sources_that_need_it() -> None:
    model = small_model()
    images, labels = batch(40)
    images.grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    fgsm = AdversarialNulls(model, eps=0.2)
    assert not AnyOf({"uniform": UniformNulls(), "mixed": MixedNulls()}).needs_image_gradient
    source = AnyOf({"constant": Constant(0.5), "adversarial": fgsm})
    assert source.needs_image_gradient
    nulls = source(images, labels, torch.Generator().manual_seed(3)).images
    expected = (images + 0.2 * images.grad.sign()).clamp(0, 1)
    is_fgsm = [torch.equal(null, wanted) for null, wanted in zip(nulls, expected, strict=True)]
    is_constant = [bool((null == 0.5).all()) for null in nulls]
    assert all(one != other for one, other in zip(is_fgsm, is_constant, strict=True))
    assert 8 < sum(is_fgsm) < 32


def test_a_combination_is_refused_for_the_reason_of_its_part() -> None:
    for sources, says in (
        ({}, "at least one source"),
        ({"noise": {}}, "not 'noise'"),
        ({"uniform": {}, "adversarial": {"eps": 7}}, "eps must be in"),
        ({"tile-shuffle": {"sides": [0]}}, "at least 1 pixel"),
    ):
        with pytest.raises(UserError, match=says):
            check_settings("any-of", {"sources": sources})

"""One contract for every source of null images; the makers without a paper by their definitions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from disturbed import left_as_found
from torch import Tensor
from worlds import noise_images, seeded, small_network

from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.data import Dataset, LabelledImages
from nullclass.nulls import (
    NULL_SOURCES,
    AdversarialNulls,
    AnyOf,
    MixedNulls,
    NullImages,
    NullSource,
    UniformNulls,
    make_nulls,
)
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


def give_background(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]) -> None:
    """Nothing is downloaded: these images are every dataset."""
    images = torch.rand(7, *shape, generator=seeded(4))
    part = LabelledImages(images, torch.zeros(7, dtype=torch.int64))
    data = Dataset("other", ("a",), part, None, part, "", "")
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
    model = small_network(shape=shape)
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
    images, labels = noise_images(10, shape)
    images.grad = torch.randn(images.shape, generator=seeded(2))
    with left_as_found(model, images, labels):
        made = source(images, labels, seeded(9))
    check_made(made, images, is_soft=source.is_soft)
    assert not torch.equal(made.images, images)
    assert_same(source(images, labels, seeded(9)), made)
    rebuilt = make_nulls(name, json.loads(json.dumps(stored)), model)
    assert rebuilt.settings() == stored
    assert rebuilt.needs_image_gradient is source.needs_image_gradient
    assert rebuilt.is_soft is source.is_soft
    assert_same(rebuilt(images, labels, seeded(9)), made)
    other = source(images, labels, seeded(10))
    # A climb that begins elsewhere may end in the same corner.
    settles = name in ("adversarial", "ccat")
    assert settles or not torch.equal(made.images, other.images), "another draw"
    smallest = 2 if "mixed" in (name, *settings.get("sources", ())) else 1  # mixing takes two
    check_made(source(images[:smallest], labels[:smallest], seeded(9)), images[:smallest],
               is_soft=source.is_soft)  # fmt: skip


def test_fgsm_nulls_are_the_formula_with_the_gradient_at_hand() -> None:
    model = small_network()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    images, labels = noise_images()
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
    model, (images, labels) = small_network(), noise_images(64)

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


LINF, L2 = ({"curve": CURVES[norm]} for norm in ("linf", "l2"))
NAN, INFINITE = float("nan"), float("inf")
REFUSED: list[tuple[str, list[dict[str, Any]], str]] = [
    ("noise", [{}], "the null source must be one of adversarial"),
    ("adversarial", [{"eps": eps} for eps in (0, -0.1, 1.1, 40, NAN)], r"eps must be in \(0, 1\]"),
    ("adversarial", [{"num_steps": 0}], "num_steps must be"),
    ("ccat", [{"eps": eps} for eps in (0, -0.1, 1.1, NAN)], r"eps must be in \(0, 1\]"),
    ("ccat", [{"num_steps": 0}], "num_steps must be"),
    ("ccat", [{"reach": reach} for reach in (0, NAN)], "reach must be"),
    ("ccat", [{"power": power} for power in (0, -1.0, NAN, INFINITE)], "power must be"),
    ("ccat", [{"steps": 3}], "no such settings"),
    ("background", [{"dataset": n} for n in ("letters", "ramps")], "choose one of mnist"),
    ("tile-shuffle", [{"sides": sides} for sides in ([], [0], [2, -1])], "at least 1 pixel"),
    ("null-probabilities", [{}], r"without a default \(curve\): give a NullProbabilities"),
    ("null-probabilities", [LINF], "perturbation must be one of fgsm"),
    ("null-probabilities", [{**LINF, "perturbation": "blur"}], "must be one of .*'blur'"),
    ("null-probabilities", [{**LINF, "perturbation": "sparse"}], "does not support linf"),
    (
        "null-probabilities",
        [{**L2, "perturbation": "pgd", "perturbation_settings": {"num_steps": 0}}],
        "num_steps must be",
    ),
    (
        "null-probabilities",
        [{**L2, "perturbation": "fgsm", "perturbation_settings": {"num_steps": 3}}],
        "'fgsm' has no such settings",
    ),
    ("null-probabilities", [{"curve": {"norm": "linf"}}], "this is no null curve"),
    ("any-of", [{"sources": {}}], "at least one source"),
    ("any-of", [{"sources": ["uniform"]}], "must be a dictionary from names to settings"),
    ("tile-shuffle", [{"sides": 7}, {"sides": []}, {"sides": [0]}], "tile sides must be a list"),
    ("any-of", [{"sources": {"noise": {}}}], "not 'noise'"),
    ("any-of", [{"sources": {"uniform": {}, "adversarial": {"eps": 7}}}], "eps must be in"),
]


@pytest.mark.parametrize(("name", "refused", "says"), REFUSED)
def test_settings_out_of_range_are_refused(
    name: str, refused: list[dict[str, Any]], says: str
) -> None:
    for settings in refused:
        with pytest.raises(UserError, match=says):
            make_nulls(name, settings, None)


# Noise


def test_uniform_nulls_are_uniform_in_every_pixel_and_independent_of_the_batch() -> None:
    images = torch.zeros(4000, 2, 2, 3)
    made = UniformNulls()(images, torch.zeros(4000), seeded(0))
    nulls = made.images.flatten(1)
    expected = (torch.arange(4000) + 0.5) / 4000
    gaps = (nulls.sort(dim=0).values - expected[:, None]).abs().amax(dim=0)
    assert gaps.max() < 1.95 / 4000**0.5, "Kolmogorov's bound at 0.1 %, for each pixel"
    correlations = torch.corrcoef(nulls.T) - torch.eye(12)
    assert correlations.abs().max() < 4 / 4000**0.5


# Mixtures


def test_a_mixture_is_the_mean_with_an_image_of_another_class_never_its_own() -> None:
    images, _ = noise_images(24)
    labels = torch.tensor([0, 1, 2, 3, 0, 0] * 4)
    source, generator = MixedNulls(), seeded(2)
    partners: dict[int, dict[int, int]] = {index: {} for index in range(24)}
    for _ in range(200):
        nulls = source(images, labels, generator).images
        for index, null in enumerate(nulls):
            is_mean = ((images + images[index]) / 2 == null).flatten(1).all(dim=1)
            found = is_mean.nonzero().flatten().tolist()
            assert len(found) == 1, "exactly the mean with one other"
            assert labels[found[0]] != labels[index]
            partners[index][found[0]] = partners[index].get(found[0], 0) + 1
    for index, counts in partners.items():
        possible = [other for other in range(24) if labels[other] != labels[index]]
        assert set(counts) == set(possible), "any of them"
        expected = 200 / len(possible)
        assert max(counts.values()) < expected + 5 * expected**0.5


def test_null_images_of_ones_own_are_mixed_but_never_mixed_in() -> None:
    images, _ = noise_images(6)
    labels = torch.tensor([0, 1, -1, -1, 0, 1])
    generator = seeded(2)
    for _ in range(30):
        for index, null in enumerate(MixedNulls()(images, labels, generator).images):
            means = (images + images[index]) / 2
            (found,) = (other for other in range(6) if torch.equal(means[other], null))
            assert labels[found] >= 0


@pytest.mark.parametrize("labels", [[2, 2, 2], [1], [-1, -1], [3, -1, 3]])
def test_a_batch_of_one_class_cannot_be_mixed(labels: list[int]) -> None:
    images, _ = noise_images(len(labels))
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
    made = source(images, labels, seeded(6))
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
    made = source(images, labels, seeded(6))
    kinds = made.images[:, 0, 0, 0].tolist()
    assert set(kinds) == set(null_probs)
    assert made.null_probs is not None
    wanted = [1.0 if null_probs[kind] is None else null_probs[kind] for kind in kinds]
    assert made.null_probs.tolist() == wanted, "a hard kind is all null"
    hard = AnyOf({"one": Constant(0.5), "other": Constant(0.125)})
    assert not hard.is_soft


def test_any_of_passes_the_gradient_to_sources_that_need_it() -> None:
    model = small_network()
    images, labels = noise_images(40)
    images.grad = torch.randn(images.shape, generator=seeded(2))
    fgsm = AdversarialNulls(model, eps=0.2)
    assert not AnyOf({"uniform": UniformNulls(), "mixed": MixedNulls()}).needs_image_gradient
    source = AnyOf({"constant": Constant(0.5), "adversarial": fgsm})
    assert source.needs_image_gradient
    nulls = source(images, labels, seeded(3)).images
    expected = (images + 0.2 * images.grad.sign()).clamp(0, 1)
    is_fgsm = [torch.equal(null, wanted) for null, wanted in zip(nulls, expected, strict=True)]
    is_constant = [bool((null == 0.5).all()) for null in nulls]
    assert all(one != other for one, other in zip(is_fgsm, is_constant, strict=True))
    assert 8 < sum(is_fgsm) < 32

"""One contract for every perturbation and norm, and each against its formula."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from disturbed import left_as_found, small_batch, small_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import Affine, seeded

from nullclass.attacks import FGSM
from nullclass.attacks.counters import count_passes
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.norms import NORMS, size_of
from nullclass.models import Classifier
from nullclass.nulls.perturb import (
    PERTURBATIONS,
    FGSMPerturbation,
    PGDPerturbation,
    SparsePerturbation,
    check_norm,
    gradient_of,
    make_perturbation,
    name_of,
)

CASES = [(name, norm) for name, kind in PERTURBATIONS.items() for norm in kind.norms]
SIZE = {"linf": 0.2, "l2": 1.5, "l0": 0.4}
"""Sizes that change much."""
ROUNDING = 1e-6
"""Of float32 pixels, and of their sum in l2."""
STRAIGHT = {"fgsm": {}, "sparse": {"num_steps": 1}, "noise": {}}
"""Settings with which a larger size goes further along the same way."""
NUM_GRADIENTS = {"fgsm": 1, "pgd": 10, "sparse": 2, "noise": 0}

EACH = pytest.mark.parametrize(("name", "norm"), CASES)
World = tuple[Classifier, Tensor, Tensor]


def colour_model() -> Classifier:
    """Three channels, no null logit."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    return Classifier(body, 4, has_null=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))


def worlds() -> list[World]:
    grey, labels = small_batch()
    colours = torch.rand(9, 3, 5, 6, generator=seeded(8))
    colours[0], colours[1] = 0, 1
    return [
        (small_model(), grey, labels),
        (small_model(has_null=False), grey, labels),
        (colour_model(), colours, labels),
    ]


def perturb(
    name: str,
    norm: str,
    world: World,
    sizes: Tensor,
    seed: int = 4,
    gradient: Tensor | None = None,
    settings: dict[str, int] | None = None,
) -> Tensor:
    perturbation = make_perturbation(name, settings)
    return perturbation(*world, sizes, norm, seeded(seed), gradient=gradient)


@EACH
def test_contract(name: str, norm: str) -> None:
    perturbation = make_perturbation(name)
    settings = perturbation.settings()
    assert json.loads(json.dumps(settings)) == settings, "JSON values"
    assert make_perturbation(name, settings) == perturbation == PERTURBATIONS[name]()
    assert name_of(perturbation) == name
    for world in worlds():
        model, images, labels = world
        largest = NORMS[norm].largest(math.prod(images.shape[1:]))
        full = torch.full((9,), SIZE[norm])
        for sizes in (torch.linspace(0, SIZE[norm], 9), torch.full((9,), largest), torch.zeros(9)):
            before = sizes.clone()
            with left_as_found(*world), count_passes(model) as passes:
                perturbed = perturb(name, norm, world, sizes)
            assert torch.equal(sizes, before)
            assert passes.forward == passes.backward == 9 * NUM_GRADIENTS[name]
            assert (perturbed.shape, perturbed.dtype) == (images.shape, images.dtype)
            assert not perturbed.requires_grad
            assert 0 <= perturbed.min() <= perturbed.max() <= 1
            assert (size_of(perturbed, images, norm) <= sizes + ROUNDING).all()
            assert torch.equal(perturbed[sizes == 0], images[sizes == 0])
            has_room = sizes > 0
            has_room[:2] = False
            assert (perturbed != images)[has_room].flatten(1).any(dim=1).all(), "it does nothing"
            assert torch.equal(perturbed, perturb(name, norm, world, sizes)), "same generator"
        # Only noise depends on the generator.
        one, two = (perturb(name, norm, world, full, seed=seed) for seed in (1, 2))
        assert torch.equal(one, two) == (name != "noise")
        # No image, one image, and images that do not depend on their neighbours' sizes.
        none = perturb(name, norm, (model, images[:0], labels[:0]), torch.zeros(0))
        assert none.shape == images[:0].shape
        single = perturb(name, norm, (model, images[4:5], labels[4:5]), full[:1])
        assert (single != images[4:5]).any()
        mixed = torch.where(torch.arange(9) % 2 == 0, full / 2, full)
        by_size = [perturb(name, norm, world, sizes) for sizes in (full / 2, full, mixed)]
        torch.testing.assert_close(by_size[2][::2], by_size[0][::2])
        torch.testing.assert_close(by_size[2][1::2], by_size[1][1::2])
        # A given gradient, of any scale, saves one pass.
        gradient = gradient_of(*world)
        with count_passes(model) as passes:
            given = perturb(name, norm, world, full, gradient=gradient / 16)
        assert torch.equal(given, by_size[1])
        assert passes.forward == 9 * max(0, NUM_GRADIENTS[name] - 1)
        if perturbation.needs_gradient:
            turned = perturb(name, norm, world, full, gradient=-gradient)
            assert not torch.equal(turned, given), "the given gradient is used"


@pytest.mark.parametrize(("name", "norm"), [case for case in CASES if case[0] in STRAIGHT])
def test_a_larger_size_goes_further(name: str, norm: str) -> None:
    for world in worlds():
        sizes = []
        for size in torch.linspace(0, 2 * SIZE[norm], 12).clamp(max=1).tolist():
            full = torch.full((9,), size)
            perturbed = perturb(name, norm, world, full, settings=STRAIGHT[name])
            sizes.append(size_of(perturbed, world[1], norm))
        for smaller, larger in itertools.pairwise(sizes):
            assert (larger >= smaller - ROUNDING).all()
        assert (sizes[-1] > sizes[0]).all()


@EACH
def test_in_the_middle_of_the_box_the_size_is_reached(name: str, norm: str) -> None:
    # Nothing is clamped there, and every pixel has a gradient.
    weight = torch.randn(2, 12, generator=seeded(2))
    model = Classifier(Affine(weight, torch.zeros(2)), 2, has_null=False)
    images = 0.45 + 0.1 * torch.rand(7, 3, 2, 2, generator=seeded(1))
    sizes = torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25])
    perturbed = perturb(name, norm, (model, images, torch.zeros(7, dtype=torch.int64)), sizes)
    torch.testing.assert_close(size_of(perturbed, images, norm), sizes, atol=1e-6, rtol=0)


@EACH
def test_what_is_refused(name: str, norm: str) -> None:
    world = worlds()[0]
    with pytest.raises(UserError, match=r"9 images, but sizes of shape \(1,\): give one size per"):
        perturb(name, norm, world, torch.tensor([0.1]))
    for other in {*NORMS} - {*PERTURBATIONS[name].norms}:
        with pytest.raises(UserError, match=rf"does not support {other}: choose one of"):
            perturb(name, other, world, torch.zeros(9))
        with pytest.raises(UserError, match=rf"does not support {other}: choose one of"):
            check_norm(name, other)
    check_norm(name, norm)


@pytest.mark.parametrize("norm", FGSMPerturbation.norms)
def test_fgsm_is_the_attack_of_that_name(norm: str) -> None:
    for world in worlds():
        model, images, labels = world
        sizes = torch.full((9,), SIZE[norm])
        adv_images = FGSM("untargeted")(model, images, labels, eps=sizes, norm=norm)
        perturbed = perturb("fgsm", norm, world, sizes)
        torch.testing.assert_close(perturbed, adv_images, rtol=0, atol=0)


@pytest.mark.parametrize("norm", PGDPerturbation.norms)
def test_pgd_of_one_step_is_fgsm_and_more_steps_climb_higher(norm: str) -> None:
    for world in worlds():
        model, images, labels = world
        sizes = torch.full((9,), SIZE[norm])
        one = PGDPerturbation(num_steps=1)(model, images, labels, sizes, norm)
        # Its one step is longer than the ball, which cuts it before the box does.
        inner = ((images > SIZE[norm]) & (images < 1 - SIZE[norm])).flatten(1).all(dim=1)
        fgsm = perturb("fgsm", norm, world, sizes)
        if norm == "linf":
            torch.testing.assert_close(one, fgsm)
        torch.testing.assert_close(one[inner], fgsm[inner])
        many = perturb("pgd", norm, world, sizes)
        model.eval()
        losses = [cross_entropy(model(x), labels) for x in (images, fgsm, many)]
        assert losses[0] < losses[1] < losses[2]


def brute_force_gain(
    weight: Tensor, image: Tensor, num_changed: int
) -> tuple[float, set[tuple[int, ...]]]:
    """The most that ``weight . x'`` gains with so many pixels anywhere in [0,1], and where."""
    channels, height, width = image.shape
    pixels = list(itertools.product(range(height), range(width)))
    best, where = -1.0, set()
    for chosen in itertools.combinations(pixels, num_changed):
        gain = 0.0
        for h, w in chosen:
            for c in range(channels):
                ends = [(end - float(image[c, h, w])) * float(weight[c, h, w]) for end in (0, 1)]
                gain += max(ends)
        if gain > best:
            best, where = gain, set(chosen)
    return best, where


@given(
    seed=st.integers(0, 10_000),
    channels=st.integers(1, 2),
    num_changed=st.integers(0, 6),
    num_steps=st.integers(1, 4),
)
def test_sparse_is_the_best_for_a_linear_model(
    seed: int, channels: int, num_changed: int, num_steps: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 6 * channels, generator=generator)
    model = Classifier(Affine(weight, torch.zeros(2)), 2, has_null=False)
    image = torch.rand(1, channels, 2, 3, generator=generator)
    label = torch.tensor([seed % 2])
    maker = SparsePerturbation(num_steps)
    perturbed = maker(model, image, label, torch.tensor([num_changed / 6]), "l0")
    direction = (weight[1 - seed % 2] - weight[seed % 2]).view(image.shape[1:])
    best, where = brute_force_gain(direction, image[0], num_changed)
    assert float((direction * (perturbed - image)[0]).sum()) == pytest.approx(best, abs=1e-5)
    changed = (perturbed != image)[0].any(dim=0).nonzero().tolist()
    assert {tuple(pixel) for pixel in changed} == where


def test_sparse_looks_again_after_a_part_of_its_pixels() -> None:
    # The loss depends on the second pair of pixels only once the first pair has been changed.
    class Gated(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            first, second = images.flatten(1)[:, :2].sum(1), images.flatten(1)[:, 2:].sum(1)
            gain = first + 3 * (first - 1.5).relu() * second
            return torch.stack([torch.zeros_like(gain), gain], dim=1)

    model = Classifier(Gated(), 2, has_null=False)
    image = torch.full((1, 1, 1, 6), 0.5)
    half, label = torch.tensor([4 / 6]), torch.tensor([0])
    once, twice = (SparsePerturbation(n)(model, image, label, half, "l0") for n in (1, 2))
    assert once.flatten().tolist() == [1, 1, 0.5, 0.5, 0.5, 0.5]
    assert twice.flatten().tolist() == [1, 1, 1, 1, 0.5, 0.5]


def test_sparse_leaves_pixels_without_a_gradient() -> None:
    weight = torch.tensor([[0.0, 0, 0, 0], [0, 0, 2, -1]])
    model = Classifier(Affine(weight, torch.zeros(2)), 2, has_null=False)
    image = torch.full((1, 1, 2, 2), 0.5)
    all_pixels = torch.ones(1)
    perturbed = SparsePerturbation()(model, image, torch.tensor([0]), all_pixels, "l0")
    assert perturbed.flatten().tolist() == [0.5, 0.5, 1.0, 0.0]


def test_noise_is_spread_as_it_says() -> None:
    # Many grey pixels: signs even, directions round, pixels and values uniform.
    images = torch.full((400, 3, 8, 8), 0.5)
    world = (small_model(), images, torch.zeros(400, dtype=torch.int64))
    signs = (perturb("noise", "linf", world, torch.full((400,), 0.25)) - images) / 0.25
    assert signs.abs().allclose(torch.ones(1))
    assert abs(float(signs.mean())) < 4 / signs.numel() ** 0.5
    directions = (perturb("noise", "l2", world, torch.full((400,), 0.5)) - images).flatten(1) / 0.5
    covariance = directions.T @ directions / 400
    assert abs(float(covariance.diag().mean()) * 192 - 1) < 1e-4
    assert float(covariance.fill_diagonal_(0).abs().max()) * 192 < 6 / 400**0.5
    sparse = perturb("noise", "l0", world, torch.full((400,), 0.25))
    changed = (sparse != images).any(dim=1)
    assert changed.flatten(1).sum(dim=1).eq(16).all()
    assert float((changed.float().mean(dim=0) - 0.25).abs().max()) < 5 * (0.1875 / 400) ** 0.5
    values = sparse[(sparse != images)].sort().values
    assert float((values - torch.linspace(0, 1, len(values))).abs().max()) < 1.6 / 19_200**0.5


def test_unknown_names_and_settings_are_refused() -> None:
    for refused in (lambda: make_perturbation("fog"), lambda: check_norm("fog", "linf")):
        with pytest.raises(UserError, match=r"perturbation must be one of fgsm, pgd, .* 'fog'"):
            refused()
    with pytest.raises(UserError, match=r"perturbation 'fgsm' has no such settings: .*num_steps"):
        make_perturbation("fgsm", {"num_steps": 3})
    for name in ("pgd", "sparse"):
        with pytest.raises(UserError, match="num_steps must be a whole number of at least 1"):
            make_perturbation(name, {"num_steps": 0})
    with pytest.raises(UserError, match=r"norm must be one of linf, l2, l1, l0, not 'l7'"):
        check_norm("fgsm", "l7")


def test_a_perturbation_of_ones_own_has_its_class_name() -> None:
    class Mine(FGSMPerturbation):
        pass

    assert name_of(Mine()) == "Mine"

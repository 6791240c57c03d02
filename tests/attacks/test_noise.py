"""Random noise: where it lies, and how often it succeeds where the chance is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from worlds import Affine, outcome_of, seeded, two_input_world

from nullclass.attacks import Noise
from nullclass.attacks.counters import count_passes
from nullclass.core.norms import BALLS
from nullclass.models import Classifier

ALL_NORMS = ["linf", "l2", "l1"]


class Recorder(nn.Module):
    """Never fooled; remembers its images."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images.clone())
        return torch.tensor([1.0, 0.0, 0.0]).repeat(len(images), 1)


@pytest.mark.parametrize("norm", ALL_NORMS)
def test_draws_fill_the_ball_and_its_boundary_in_turn(norm: str) -> None:
    images = torch.full((60, 1, 3, 4), 0.5)
    recorder = Recorder()
    budgets = torch.linspace(0.1, 0.4, 60)
    Noise(num_draws=6)(
        Classifier(recorder, 2),
        images,
        torch.zeros(60, dtype=torch.int64),
        eps=budgets,
        norm=norm,
        generator=seeded(),
    )
    clean, *draws = recorder.images
    assert torch.equal(clean, images)
    assert len(draws) == 6
    for number, drawn in enumerate(draws):
        delta = drawn - images
        share = BALLS[norm].size(delta) / budgets
        if number % 2:
            torch.testing.assert_close(share, torch.ones(60), atol=1e-5, rtol=0)
            if norm == "linf":  # a corner: every pixel, not only one
                torch.testing.assert_close(
                    delta.flatten(1).abs(), budgets[:, None].expand(60, 12), atol=1e-6, rtol=0
                )
        else:
            # Uniform in a ball of 12 dimensions: the size has the distribution u^(1/12).
            assert (share <= 1 + 1e-6).all()
            # mean 12/13, standard deviation 0.071
            assert abs(float(share.mean()) - 12 / 13) < 4 * 0.071 / 60**0.5
            assert (share < 0.999).any()
        assert len(delta.flatten(1).unique(dim=0)) == 60, "each image has its own"


def test_success_has_the_known_chance() -> None:
    # Fooled if and only if the one pixel rises by more than 0.03. Uniform in +-0.1 that is chance
    # 0.35; on the boundary 1/2; both in turn leave 0.65 * 0.5 standing.
    weight = torch.tensor([[0.0], [1.0], [0.0]])
    model = Classifier(Affine(weight, torch.tensor([0.0, -0.53, -1.0])), 2)
    num_images = 4000
    images = torch.full((num_images, 1, 1, 1), 0.5)
    labels = torch.zeros(num_images, dtype=torch.int64)
    for num_draws, chance in ((1, 0.35), (2, 1 - 0.65 * 0.5), (4, 1 - (0.65 * 0.5) ** 2)):
        attack = Noise(num_draws=num_draws)
        adv_images = attack(model, images, labels, eps=0.1, generator=seeded(num_draws))
        share = outcome_of(model, adv_images, labels).count("fooled") / num_images
        assert abs(share - chance) < 4 * (chance * (1 - chance) / num_images) ** 0.5


@pytest.mark.parametrize("norm", ALL_NORMS)
@pytest.mark.parametrize("b", [0.01, 0.1])
def test_two_inputs(b: float, norm: str) -> None:
    model, image, label = two_input_world(a=b, b=b)
    attack = Noise(num_draws=200)
    for share, may_fool in ((0.95, False), (2.0, True)):
        adv_images = attack(model, image, label, eps=share * b, norm=norm, generator=seeded())
        assert (outcome_of(model, adv_images, label) == ["fooled"]) is may_fool


def test_successful_images_are_evaluated_once() -> None:
    model, image, label = two_input_world(a=0.1, b=0.1)
    far = torch.tensor([[[[0.1, 0.9]]]])  # fooled as it is
    with count_passes(model) as passes:
        adv_images = Noise(num_draws=5)(
            model, torch.cat([image, far]), label.expand(2), eps=0.05, generator=seeded()
        )
    assert torch.equal(adv_images[1:], far)
    assert passes.forward == 2 + 5

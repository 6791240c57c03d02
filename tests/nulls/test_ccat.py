"""CCAT's images against what their paper says of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from worlds import noise_images, seeded, small_network

from nullclass.models import Classifier
from nullclass.nulls import CCATNulls

K = 4


small_model = partial(small_network, hidden=24)


@torch.no_grad()
def wrong_by_hand(model: Classifier, images: Tensor, labels: Tensor) -> list[float]:
    """The largest probability of a wrong real class, image by image."""
    largest = []
    for logits, label in zip(model(images), labels.tolist(), strict=True):
        probabilities = (logits.exp() / logits.exp().sum()).tolist()
        largest.append(max(p for k, p in enumerate(probabilities[:K]) if k != label))
    return largest


@pytest.mark.parametrize("power", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_the_label_keeps_lambda_at_any_distance(eps: float, power: float) -> None:
    """Where nothing climbs the start stays, and its lengths are all those within the ball."""
    num = 2000
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, K))
    nn.init.zeros_(flat[1].weight)
    source = CCATNulls(Classifier(flat, K, has_null=False), eps, num_steps=3, power=power)
    images, labels = torch.full((num, 1, 6, 6), 0.5), torch.arange(num) % K
    made = source(images, labels, seeded(7))
    deltas = made.images - images
    distances = [max(map(abs, delta)) for delta in deltas.flatten(1).tolist()]
    kept = [(1 - min(1.0, distance / eps)) ** power for distance in distances]
    assert made.null_probs is not None
    assert (1 - made.null_probs).tolist() == pytest.approx(kept, abs=5e-6, rel=1e-4)
    expected = [eps * (i + 0.5) / num for i in range(num)]
    gap = max(abs(a - b) for a, b in zip(sorted(distances), expected, strict=True)) / eps
    assert gap < 1.95 / num**0.5, "uniform lengths: Kolmogorov's bound at 0.1 %"
    # And no direction is preferred.
    directions = deltas.flatten(1) / torch.tensor(distances)[:, None]
    assert directions.mean(dim=0).abs().max() < 4 * float(directions.std()) / num**0.5
    assert directions.abs().amax(dim=1).tolist() == pytest.approx([1.0] * num)


def test_at_the_end_of_the_ball_nothing_is_kept() -> None:
    images, labels = noise_images(64)
    source = CCATNulls(small_model(0), eps=0.05, num_steps=5, power=10, reach=2.5)
    made = source(images, labels, seeded(7))
    distances = (made.images - images).flatten(1).abs().amax(dim=1)
    is_far = distances > 0.0499
    assert is_far.float().mean() > 0.9, "steps that gain continue to the edge"
    assert made.null_probs is not None
    assert (made.null_probs[is_far] > 1 - 1e-6).all()


def test_with_the_default_reach_distances_differ() -> None:
    images, labels = noise_images(200)
    made = CCATNulls(small_model(0), eps=0.05, power=1.0)(images, labels, seeded(7))
    assert made.null_probs is not None
    assert (made.null_probs < 0.9).float().mean() > 0.1, "some stay near their image"
    assert (made.null_probs > 0.999).float().mean() > 0.1, "and some reach the edge"


@pytest.mark.parametrize("num_nulls", [0, 1, K])
@pytest.mark.parametrize("eps", [0.02, 0.3, 1.0])
def test_the_climb_stays_in_ball_and_box_and_never_ends_lower_than_it_began(
    eps: float, num_nulls: int
) -> None:
    model, (images, labels) = small_model(num_nulls), noise_images(64)
    source = CCATNulls(model, eps, num_steps=4)
    made = source(images, labels, seeded(7)).images
    assert (made - images).abs().max() <= eps + 1e-6
    assert made.min() >= 0
    assert made.max() <= 1
    start = source._random_start(images, seeded(7)).clamp(0, 1)
    assert (start - images).abs().max() <= eps + 1e-6
    before, after = (wrong_by_hand(model, x, labels) for x in (start, made))
    assert all(now >= then - 1e-6 for now, then in zip(after, before, strict=True))
    assert sum(after) > sum(before) + 0.1 * eps


class Waves(nn.Module):
    """Logits that rise and fall as all pixels rise: a step can jump over a crest."""

    def forward(self, images: Tensor) -> Tensor:
        heights = images.flatten(1).mean(dim=1, keepdim=True)
        return 3 * torch.sin(heights * torch.tensor([31.0, 37.0, 43.0, 53.0]))


def test_the_most_wrong_of_all_visited_is_kept() -> None:
    model, (images, labels) = Classifier(Waves(), K, has_null=False), noise_images(64)
    visited: list[Tensor] = []
    model.body.register_forward_hook(lambda module, args, out: visited.append(args[0].detach()))
    made = CCATNulls(model, 0.3, num_steps=5)(images, labels, seeded(7)).images
    assert len(visited) == 6, "the start, and what each step comes to"
    heights = [wrong_by_hand(model, seen, labels) for seen in visited[:6]]
    at = [max(range(6), key=lambda i, n=n: heights[i][n]) for n in range(len(images))]
    for n, image in enumerate(made):
        assert torch.equal(image, visited[at[n]][n])
    assert len(set(at)) > 3, "a fair case: not always the last"


def test_more_steps_climb_higher() -> None:
    model, (images, labels) = small_model(0), noise_images(64)
    reached = []
    for num_steps in (1, 3, 20):
        made = CCATNulls(model, 0.1, num_steps)(images, labels, seeded(7)).images
        reached.append(sum(wrong_by_hand(model, made, labels)))
    assert reached[0] < reached[1] < reached[2]


def test_on_a_linear_model_of_two_classes_the_climb_ends_in_the_known_corner() -> None:
    weight = torch.randn(2, 36, generator=seeded(2))
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    body[1].weight.data = weight
    images, labels = noise_images(10)[0], torch.arange(10) % 2
    made = CCATNulls(Classifier(body, 2, has_null=False), 0.1, reach=2.5)(images, labels, seeded(7))
    towards = (weight[1] - weight[0]).sign().view(1, 1, 6, 6)
    towards = torch.where(labels.view(-1, 1, 1, 1) == 0, towards, -towards)
    torch.testing.assert_close(made.images, (images + 0.1 * towards).clamp(0, 1))


def test_an_image_labelled_null_climbs_to_any_real_class() -> None:
    model, (images, _) = small_model(1), noise_images(64)
    labels = torch.full((len(images),), -1)
    made = CCATNulls(model, 0.2)(images, labels, seeded(7)).images
    with torch.no_grad():
        before, after = (model(x).softmax(1)[:, :K].amax(1) for x in (images, made))
    assert (after > before).all()


def test_a_source_is_called_where_gradients_are_off() -> None:
    images, labels = noise_images(8)
    source = CCATNulls(small_model(0).train(), num_steps=2)
    made = source(images, labels, seeded(7))
    with torch.no_grad():
        again = source(images, labels, seeded(7))
    assert torch.equal(made.images, again.images)
    assert source.model.training

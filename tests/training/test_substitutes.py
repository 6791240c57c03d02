"""Substitutes: their queries, what they learn, and that they use nothing but labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbed import left_as_found, small_batch, small_model
from torch import Tensor, nn

from nullclass.core.errors import DamagedStateError, StateError, UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.rejection import with_threshold
from nullclass.results.schema import STATE
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe
from nullclass.training.substitutes import (
    QueryPlan,
    Round,
    agreement,
    augment,
    query_substitute,
)

QUICK = Recipe(batch_size=16, epochs=2, learning_rate=3e-3)


class Target:
    """A rule that predicts and keeps its queries. It has nothing else."""

    def __init__(self, rule: Callable[[Tensor], Tensor], num_classes: int) -> None:
        self.rule, self.num_classes = rule, num_classes
        self.batches: list[Tensor] = []

    def predict(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        assert not images.requires_grad
        assert ((images >= 0) & (images <= 1)).all()
        self.batches.append(images.clone())
        return self.rule(images)

    @property
    def queries(self) -> Tensor:
        return torch.cat(self.batches)

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"the attacker accessed {name}")


def brightest_third(images: Tensor) -> Tensor:
    """Class 0, 1 or 2: which third of the rows is the brightest."""
    thirds = torch.stack([part.mean(dim=(1, 2, 3)) for part in images.chunk(3, dim=2)], dim=1)
    return thirds.argmax(dim=1)


def refuses_dark(images: Tensor) -> Tensor:
    return brightest_third(images).where(images.mean(dim=(1, 2, 3)) > 0.5, -1)


def noise(num: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(num, *shape, generator=torch.Generator().manual_seed(seed))


def substitute_for(
    rule: Callable[[Tensor], Tensor], images: Tensor, seeds: int, budget: int, **settings: Any
) -> tuple[Target, Classifier, list[Round]]:
    target = Target(rule, settings.pop("num_classes", 3))
    plan = QueryPlan(seeds, budget, settings.pop("step", 0.1))
    settings = {"architecture": "small", "recipe": QUICK} | settings
    return target, *query_substitute(target, images, plan, **settings)


def queried(
    budget: int, *, seeds: int = 20, pool: Tensor | None = None, seed: int = 0
) -> tuple[Target, Classifier, list[Round]]:
    pool = noise(60, 1, 6, 6) if pool is None else pool
    return substitute_for(refuses_dark, pool, seeds, budget, seed=seed)


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [(20, [20]), (21, [20, 1]), (40, [20, 20]), (55, [20, 20, 15]), (110, [20, 20, 40, 30])],
)
def test_the_budget_is_spent_to_the_last_query_and_no_further(
    budget: int, wanted: list[int]
) -> None:
    target, _, rounds = queried(budget)
    assert [len(part) for part in target.batches] == wanted
    assert [entry.num_queries for entry in rounds] == wanted
    assert [entry.num_images for entry in rounds] == [
        sum(wanted[: number + 1]) for number in range(len(wanted))
    ]
    assert rounds[-1].num_images == budget
    assert len(target.queries.unique(dim=0)) == budget, "an image was queried twice"


def test_each_new_image_is_a_queried_one_moved_by_the_step() -> None:
    target, _, rounds = queried(80)
    assert rounds[-1].num_images == 80
    first, second = target.batches[0], target.batches[1]
    moved = (second - first).abs()  # one for each, in order
    at_edge = (second == 0) | (second == 1)
    assert ((moved - 0.1).abs()[~at_edge] < 1e-6).all()
    assert (moved <= 0.1 + 1e-6).all()
    pool = noise(60, 1, 6, 6)
    assert all(any(torch.equal(image, given) for given in pool) for image in first)


def test_rounds_report_queries_and_agreement() -> None:
    target, substitute, rounds = queried(60)
    answers = [refuses_dark(part) for part in target.batches]
    for entry, labels in zip(rounds, answers, strict=True):
        assert entry.null == pytest.approx((labels == -1).double().mean().item())
    after = (substitute.predict(target.queries) == torch.cat(answers)).double().mean().item()
    assert rounds[-1].agreement_after == pytest.approx(after)
    # The same seed and a budget of one round less end with the substitute of the round before.
    shorter, earlier, _ = queried(40)
    assert torch.equal(shorter.queries, target.queries[:40])
    before = (earlier.predict(target.batches[2]) == answers[2]).double().mean().item()
    assert rounds[2].agreement_before == pytest.approx(before)
    assert math.isnan(rounds[0].agreement_before)


def test_the_last_part_is_drawn_from_all_new_images() -> None:
    all_of_it, _, _ = queried(80)
    part, _, _ = queried(50)
    rest = part.batches[2]
    index = [int((all_of_it.batches[2] == image).all(dim=(1, 2, 3)).nonzero()) for image in rest]
    assert index == sorted(index)
    assert len(set(index)) == 10
    assert max(index) > 20, "only the first were queried"


def test_the_same_seed_gives_the_same_and_nothing_global_is_touched() -> None:
    before = torch.get_rng_state()
    first, again, other = (queried(50, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0].queries, again[0].queries)
    assert str(first[2]) == str(again[2])
    for key, value in first[1].state_dict().items():
        assert torch.equal(value, again[1].state_dict()[key])
    assert not torch.equal(first[0].queries, other[0].queries)


@pytest.mark.parametrize("finished", [0, 1, 2, 3])
def test_interrupted_in_any_round_it_continues_to_the_same_bits_without_a_second_query(
    finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = noise(60, 1, 6, 6)
    target, expected, rounds = queried(110)
    assert len(rounds) == 4
    num_trainings = 0

    def stops(*arguments: Any, **settings: Any) -> None:
        nonlocal num_trainings
        num_trainings += 1
        if num_trainings > finished:
            raise KeyboardInterrupt
        train(*arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr("nullclass.training.substitutes.train", stops)
        with pytest.raises(KeyboardInterrupt):
            substitute_for(refuses_dark, pool, 20, 110, state_folder=tmp_path)
    for _ in range(2):  # the second call queries nothing
        resumed, substitute, found = substitute_for(
            refuses_dark, pool, 20, 110, state_folder=tmp_path
        )
        assert [repr(entry) for entry in found] == [repr(entry) for entry in rounds]
        for name, weight in expected.state_dict().items():
            assert torch.equal(substitute.state_dict()[name], weight), name
        new = target.queries[rounds[finished].num_images :]
        assert len(resumed.batches) == 3 - finished
        assert torch.equal(torch.cat([new[:0], *resumed.batches]), new)
        finished = 3


def test_answers_of_other_work_are_refused(tmp_path: Path) -> None:
    model = small_model()
    settings: dict[str, Any] = {"architecture": "small", "recipe": QUICK, "state_folder": tmp_path}
    images = small_batch()[0]
    plan = QueryPlan(2, 2)
    query_substitute(model, images, plan, **settings)
    with torch.no_grad():
        other = copy.deepcopy(model)
        next(other.parameters()).mul_(1.01)
    changes: list[tuple[Any, ...]] = [
        (other, images, plan, {}),
        (with_threshold(model, 0.5), images, plan, {}),
        (model, 1 - images, plan, {}),
        (model, images, QueryPlan(2, 3), {}),
        (model, images, plan, {"seed": 1}),
        (model, images, plan, {"architecture": "notebook"}),
        (model, images, plan, {"recipe": Recipe()}),
    ]
    state = (tmp_path / STATE).read_bytes()
    for target, given, planned, changed in changes:
        with pytest.raises(StateError, match="belongs to a training with other settings"):
            query_substitute(target, given, planned, **settings | changed)
    assert (tmp_path / STATE).read_bytes() == state
    (tmp_path / STATE).write_bytes(state[:-1])
    with pytest.raises(DamagedStateError):
        query_substitute(model, images, plan, **settings)


def test_labels_of_the_images_are_ignored_and_bytes_are_images_too() -> None:
    pool = (noise(60, 1, 6, 6) * 255).to(torch.uint8)
    labels = torch.arange(60) % 7
    given = (LabelledImages(pool, labels), LabelledImages(pool, labels.flip(0)), pool, pool / 255)
    queries = [queried(40, pool=images)[0].queries for images in given]  # type: ignore[arg-type]
    for others in queries[1:]:
        torch.testing.assert_close(others, queries[0], atol=0, rtol=0)


def test_null_answers_make_a_null_class() -> None:
    assert queried(40)[1].has_null
    _, substitute, rounds = substitute_for(brightest_third, noise(30, 1, 6, 6), 20, 40)
    assert not substitute.has_null
    assert {entry.null for entry in rounds} == {0.0}


def test_null_labels_that_appear_later_make_a_null_class() -> None:
    # Every seed image is accepted; what has moved off the grid of the seed images is refused.
    def refuses_moved(images: Tensor) -> Tensor:
        is_seed = (images * 4 == (images * 4).round()).flatten(1).all(dim=1)
        return brightest_third(images).where(is_seed, -1)

    pool = (noise(40, 1, 6, 6) * 4).round() / 4
    _, substitute, rounds = substitute_for(refuses_moved, pool, 30, 60)
    assert [entry.null for entry in rounds] == [0.0, 1.0]
    assert rounds[1].agreement_before == 0.0, "no substitute without null answers null"
    assert substitute.has_null


def banded(num: int, seed: int) -> Tensor:
    """Noise with one third of the rows brighter than the others."""
    images = noise(num, 1, 6, 6, seed=seed) / 2
    for number in range(num):
        first = 2 * (number % 3)
        images[number, :, first : first + 2] += 0.4
    return images


def test_it_learns_the_rule() -> None:
    fresh = banded(300, seed=1)
    for rule in (brightest_third, lambda images: brightest_third(images).where(upper(images), -1)):
        recipe = Recipe(batch_size=16, epochs=10, learning_rate=3e-3)
        target, substitute, _ = substitute_for(rule, banded(60, seed=0), 60, 240, recipe=recipe)
        assert agreement(substitute, target, fresh) > 0.9
        assert not substitute.training


def upper(images: Tensor) -> Tensor:
    """Whether the brightest third is not the last."""
    return brightest_third(images) < 2


def test_any_shape_and_number_of_classes() -> None:
    def colours(images: Tensor) -> Tensor:
        return (images.mean(dim=(2, 3)) > 0.5).long() @ torch.tensor([4, 2, 1])

    for architecture in ("small", "notebook"):  # the second standardises
        _, substitute, rounds = substitute_for(
            colours, noise(40, 3, 10, 13), 40, 70, num_classes=8, architecture=architecture
        )
        assert substitute.image_shape == (3, 10, 13)
        assert substitute.num_classes == 8
        assert rounds[-1].num_images == 70
    torch.testing.assert_close(substitute.mean.flatten(), torch.full((3,), 0.5), atol=0.05, rtol=0)


def test_no_image_is_queried_twice_even_if_queries_are_left() -> None:
    # With steps of 1 a pixel is 0, 1 or (without a gradient) as it was: there are 3 * 81 images.
    def any_rule(images: Tensor) -> Tensor:
        return (images.flatten(1)[:, 0] > 0.5).long()

    pool = torch.tensor([[0.2, 0.3, 0.4, 0.5], [0.9, 0.3, 0.4, 0.5], [0.8, 0.2, 0.7, 0.6]])
    pool = pool.view(3, 1, 1, 4).repeat(4, 1, 1, 1)  # 3 images, four times each
    target, _, rounds = substitute_for(
        any_rule, pool, 12, 500, step=1.0, num_classes=2, architecture="ramp"
    )
    assert rounds[0].num_queries == 3
    assert 3 < rounds[-1].num_images == len(target.queries) <= 243
    assert len(target.queries.unique(dim=0)) == len(target.queries)


def test_a_classifier_is_only_queried_for_labels() -> None:
    class OnlyLabels(Classifier):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("the attacker accessed the logits")

        def predict(self, images: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return refuses_dark(images)

    target = OnlyLabels(nn.Linear(1, 1), 3)
    target.train()
    plan = QueryPlan(20, 40)
    substitute, _ = query_substitute(
        target, noise(20, 1, 6, 6), plan, architecture="small", recipe=QUICK
    )
    assert target.training
    assert substitute.num_classes == 3
    model, (images, labels) = small_model(), small_batch()
    with left_as_found(model, images, labels):
        query_substitute(model, images, QueryPlan(9, 12), architecture="small", recipe=QUICK)


def curved(num_outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, num_outputs)
        ).double()


@pytest.mark.parametrize("step", [0.1, 0.4, -0.2])
def test_augmentation_is_the_written_out_formula(step: float) -> None:
    model = Classifier(curved(4), 3).double()
    images, labels = noise(30, 2, 3, 4).double(), torch.arange(30) % 4 - 1
    made = augment(model, images, labels, step)
    for image, label, found in zip(images, labels.tolist(), made, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: model(x[None])[0],
            image,
        )
        wanted = image + step * jacobian[label].sign()  # -1 is the last row, null
        assert torch.equal(found, wanted.clamp(0, 1))
    assert ((made == 0) | (made == 1)).any(), "the box was not met"
    # Finite differences need no Jacobian: the step goes up, or down if negative.
    tiny = augment(model, images, labels, math.copysign(1e-6, step))
    with torch.no_grad():
        rise = (model(tiny) - model(images)).gather(1, (labels % 4)[:, None])
    assert (rise * step > 0).all()


def test_augmentation_leaves_everything_as_found() -> None:
    model, (images, labels) = small_model(), small_batch()
    with left_as_found(model, images, labels), torch.no_grad():
        made = augment(model, images, labels, 0.1)
    assert not made.requires_grad
    assert torch.equal(made, augment(copy.deepcopy(model).eval(), images, labels, 0.1))


def test_agreement_counts_equal_answers() -> None:
    images = noise(1100, 1, 6, 6)  # more than one batch
    first, second = Target(brightest_third, 3), Target(refuses_dark, 3)
    wanted = (brightest_third(images) == refuses_dark(images)).double().mean().item()
    assert 0.2 < wanted < 0.8
    assert agreement(first, second, images) == pytest.approx(wanted)
    assert agreement(second, second, LabelledImages(images, torch.zeros(1100).long(), 2)) == 1
    assert torch.equal(first.queries, images)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"budget": 0}, "a budget of 0 label queries does not pay for the 150 seed images"),
        ({"budget": 149}, "a budget of 149 label queries"),
        ({"num_seed_images": 0}, "at least 1, not 0"),
        ({"step": 0.0}, r"in \[-1, 1\] pixel units and not 0, not 0.0"),
        ({"step": 25.5}, "not 25.5"),
        ({"step": math.nan}, "not nan"),
    ],
)
def test_plans_that_cannot_begin(settings: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        QueryPlan(**settings)  # type: ignore[arg-type]


def test_input_is_checked() -> None:
    pool = noise(30, 1, 6, 6)

    def ask(rule: Callable[[Tensor], Tensor], images: Tensor = pool, **settings: Any) -> None:
        substitute_for(rule, images, 20, 40, **settings)

    with pytest.raises(UserError, match="there are 19 images, but the plan has 20 seed images"):
        ask(brightest_third, pool[:19])
    with pytest.raises(UserError, match="there are no images"):
        ask(brightest_third, pool[:0])
    with pytest.raises(UserError, match="predicts class 2 for all 20 seed images"):
        ask(lambda images: torch.full((len(images),), 2))
    with pytest.raises(UserError, match="predicts null for all 20 seed images"):
        ask(lambda images: torch.full((len(images),), -1))
    with pytest.raises(UserError, match=r"labels run from 0 to 5: use 0 … 2"):
        ask(lambda images: torch.arange(len(images)) % 6)
    with pytest.raises(UserError, match=r"images must be in \[0,1\], but range"):
        ask(brightest_third, 255 * pool)
    with pytest.raises(UserError, match="alexnet"):
        ask(brightest_third, architecture="alexnet")
    wild = Recipe(batch_size=4, epochs=30, learning_rate=9.0)
    with pytest.raises(UserError, match=r"the substitute of round 1 could not be trained: .*rate"):
        ask(brightest_third, pool[:20], recipe=wild)

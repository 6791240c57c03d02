"""The dataset attack: exact where the ball is the box, and brute force where it is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from disturbed import small_batch
from tiny import as_floats
from torch import Tensor, nn
from worlds import Affine, Digits, outcome_of

from nullclass.attacks import ATTACKS, PGD, DatasetAttack, RayS, describe
from nullclass.attacks.base import TakesReferenceImages
from nullclass.attacks.counters import count_passes
from nullclass.attacks.losses import find_objective
from nullclass.core.errors import UserError
from nullclass.core.norms import BALLS, is_allowed
from nullclass.data import LabelledImages
from nullclass.models import Classifier

ALL_NORMS = ["linf", "l2", "l1"]


def small_reference(num_images: int = 40) -> LabelledImages:
    images = torch.rand(num_images, 1, 6, 6, generator=torch.Generator().manual_seed(8))
    return LabelledImages(images, torch.arange(num_images) % 4)


@pytest.mark.parametrize("norm", ALL_NORMS)
@pytest.mark.parametrize("name", ["plain", "guarded"])
def test_it_is_exact_where_the_ball_is_the_box(digits: Digits, name: str, norm: str) -> None:
    # A model that predicts two real classes can be fooled on every image.
    model, images, labels = getattr(digits, name), digits.images, digits.labels
    reference = LabelledImages(digits.train_images, digits.train_labels)
    eps = {"linf": 1.0, "l2": 8.0, "l1": 64.0}[norm]
    for attack in (
        DatasetAttack(reference),
        DatasetAttack(reference, objective="untargeted"),
        DatasetAttack(),
    ):
        adv_images = attack(model, images, labels, eps=eps, norm=norm)
        scored = outcome_of(model, adv_images, labels)
        assert set(scored) <= ({"fooled"} if attack.objective == "fool" else {"fooled", "null"})


@pytest.mark.parametrize("norm", ALL_NORMS)
def test_force_null_takes_images_that_are_null(digits: Digits, norm: str) -> None:
    model, images, labels = digits.guarded, digits.images[:200], digits.labels[:200]
    others, their_labels = digits.train_images[:200], digits.train_labels[:200]
    nulls = PGD("force-null")(model, others, their_labels, eps=0.1)
    reference = LabelledImages(torch.cat([others, nulls]), their_labels.repeat(2))
    is_null = model.predict(reference.images) == -1
    assert 50 < is_null.sum() < 250
    eps = {"linf": 1.0, "l2": 8.0, "l1": 64.0}[norm]
    adv_images = DatasetAttack(reference, "force-null")(model, images, labels, eps=eps, norm=norm)
    assert set(outcome_of(model, adv_images, labels)) == {"null"}
    # Without one that is null there is nothing to force null with.
    rest = reference.subset((~is_null).nonzero().flatten())
    adv_images = DatasetAttack(rest, "force-null")(model, images, labels, eps=eps, norm=norm)
    assert torch.equal(adv_images, images)


def test_a_model_with_one_answer_is_not_fooled() -> None:
    images, _ = small_batch()
    one_answer = Affine(torch.zeros(3, 36), torch.tensor([0.0, 1.0, 0.0]))
    model, labels = Classifier(one_answer, 2), torch.ones(9, dtype=torch.int64)
    for attack in (DatasetAttack(small_reference()), RayS(small_reference(), num_queries=50)):
        assert torch.equal(attack(model, images, labels, eps=1.0), images)
    with count_passes(model) as passes:
        DatasetAttack(small_reference())(model, images, 1 - labels, eps=1.0)
    assert passes.forward == 9, "all succeed when clean: no candidate is needed"


def test_reference_images_are_labelled() -> None:
    images, _ = small_batch()
    model = Classifier(Affine(torch.zeros(3, 36), torch.tensor([0.0, 1.0, 0.0])), 2)
    for attack in (DatasetAttack(images), RayS(images)):  # type: ignore[arg-type]
        with pytest.raises(UserError, match="reference_images must be LabelledImages"):
            attack(model, images, torch.ones(9, dtype=torch.int64), eps=0.1)


def tiny_world(seed: int) -> tuple[Classifier, Tensor, Tensor, LabelledImages]:
    """Images of 2 x 2 pixels, four classes and null, all of which the model answers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 5))
    pixels = torch.rand(200, 1, 2, 2, generator=generator)
    with torch.no_grad():  # every answer as often as the others, so that all of them are seen
        body[3].weight *= 20
        body[3].bias -= body(pixels).mean(dim=0)
    model = Classifier(body, 4)
    images = pixels[:40]
    return (
        model,
        images,
        model.predict(images).clamp(min=0),
        LabelledImages(pixels[40:80], torch.zeros(40, dtype=torch.int64), 4),
    )


def projected(candidates: Tensor, image: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return torch.minimum(torch.maximum(candidates, image - eps), image + eps)
    delta = candidates - image
    if norm == "l2":
        size = delta.flatten(1).norm(dim=1)
        return image + delta * (eps / size).clamp(max=1)[:, None, None, None]
    return BALLS["l1"].project(candidates, image.expand_as(candidates), eps)


@pytest.mark.parametrize("norm", ALL_NORMS)
@pytest.mark.parametrize("objective", ["fool", "force-null", "untargeted"])
def test_small_budgets_are_brute_force(objective: str, norm: str) -> None:
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    wanted = {"fool": ["fooled"], "force-null": ["null"], "untargeted": ["fooled", "null"]}[
        objective
    ]
    goal = find_objective(objective)
    num_reached = 0
    for seed in range(3):
        model, images, labels, reference = tiny_world(seed)
        answers = model.predict(reference.images).tolist()
        assert len(set(answers)) == 5, "all four classes and null"
        eps = {"linf": 0.1, "l2": 0.15, "l1": 0.2}[norm]
        attacks = {
            1: DatasetAttack(reference, objective, num_nearest=1),  # type: ignore[arg-type]
            40: DatasetAttack(reference, objective, num_nearest=40),  # type: ignore[arg-type]
        }
        found = {k: a(model, images, labels, eps=eps, norm=norm) for k, a in attacks.items()}
        for n in range(len(images)):
            image, label = images[n], labels[n : n + 1]
            candidates = {
                answer: sorted(
                    (d for d, a in zip(reference.images, answers, strict=True) if a == answer),
                    key=lambda d, image=image: float((d - image).flatten().norm(order)),  # type: ignore[misc]
                )
                for answer in set(answers) - {int(label)}
                if (answer == -1 and objective != "fool")
                or (answer >= 0 and objective != "force-null")
            }
            for num_nearest, adv_images in found.items():
                near = [d for of_answer in candidates.values() for d in of_answer[:num_nearest]]
                tries = torch.cat([image[None], projected(torch.stack(near), image, eps, norm)])
                scored = outcome_of(model, tries, label.expand(len(tries)))
                ours = outcome_of(model, adv_images[n : n + 1], label)[0]
                is_reached = any(outcome in wanted for outcome in scored)
                assert (ours in wanted) is is_reached, (seed, n, num_nearest)
                num_reached += is_reached
                if not is_reached:
                    with torch.no_grad():
                        margins, mine = (
                            goal.loss(model(x), label.expand(len(x)), 4, "margin").amax()
                            for x in (tries, adv_images[n : n + 1])
                        )
                    torch.testing.assert_close(mine, margins, atol=1e-4, rtol=1e-4)
    assert 20 < num_reached < 300, "budgets that decide something"


@pytest.mark.parametrize("attack", [DatasetAttack(), RayS()])
def test_reference_images_are_set_once_and_described_by_their_number(
    attack: DatasetAttack | RayS,
) -> None:
    attack = replace(attack, objective="untargeted", num_candidates=7, reference_images=None)
    reference, other = small_reference(40), small_reference(5)
    takers = [name for name, make in ATTACKS.items() if isinstance(make(), TakesReferenceImages)]
    ensembles = ["null-aware-pgd", "worst-case", "worst-case-force-null", "worst-case-1"]
    assert takers == ["dataset", "rays", *ensembles]
    with_images = attack.with_reference_images(reference)
    assert with_images.reference_images is reference
    assert with_images.with_reference_images(other).reference_images is reference
    assert attack.reference_images is None
    assert (with_images.objective, with_images.num_candidates) == ("untargeted", 7)
    assert with_images == attack, "settings are values, reference images are not"
    assert hash(with_images) == hash(attack)
    assert "reference_images" not in repr(with_images)
    settings = describe(with_images)
    assert settings["reference_images"] == {"num_images": 40}
    assert json.loads(json.dumps(settings)) == settings
    assert describe(attack)["reference_images"] is None


def test_what_reference_images_are_made_of_does_not_matter() -> None:
    images, labels = small_batch()
    byte_images = LabelledImages(
        (small_reference().images * 255).to(torch.uint8), torch.full((40,), -1), num_classes=4
    )
    model, _, _, _ = tiny_world(0)
    model = Classifier(nn.Sequential(nn.AvgPool2d(3), model.body), 4)
    from_bytes, from_floats = (
        DatasetAttack(reference)(model, images, labels, eps=0.3)
        for reference in (byte_images, as_floats(byte_images))
    )
    assert torch.equal(from_bytes, from_floats)
    relabelled = replace(byte_images, labels=torch.arange(40) % 4)
    assert torch.equal(DatasetAttack(relabelled)(model, images, labels, eps=0.3), from_bytes)


def test_many_reference_images_are_subsampled_evenly(digits: Digits) -> None:
    model, images, labels = digits.plain, digits.images[:50], digits.labels[:50]
    order = model.predict(digits.train_images).argsort(stable=True)  # answer after answer
    reference = LabelledImages(digits.train_images[order], digits.train_labels[order])
    with count_passes(model) as passes:
        adv_images = DatasetAttack(reference, num_candidates=60)(model, images, labels, eps=1.0)
    assert set(outcome_of(model, adv_images, labels)) == {"fooled"}
    assert passes.forward <= 50 + 60 + 50, (
        "the images, the candidates, and one image each is enough"
    )
    passes_of = {}
    for num_candidates in (5, 400):
        with count_passes(model) as passes:
            DatasetAttack(reference, num_candidates=num_candidates)(model, images, labels, eps=0.0)
        passes_of[num_candidates] = passes.forward
    assert passes_of[5] <= 50 + 5 + 50 * 5
    assert passes_of[400] <= 50 + 400 + 50 * 9


def test_reference_images_of_another_shape_are_refused() -> None:
    model, images, labels, _ = tiny_world(0)
    for attack in (DatasetAttack(small_reference()), RayS(small_reference())):
        with pytest.raises(UserError, match=r"reference images have shape \(1, 6, 6\), but those"):
            attack(model, images, labels, eps=0.1)


def test_what_is_in_the_ball_is_not_touched() -> None:
    # x + (candidate - x) differs from the candidate in floating point, so it is returned as it is.
    model, images, labels, reference = tiny_world(1)
    images, reference = (
        images**2,
        replace(reference, images=reference.images**2),
    )  # all the bits of a float
    labels = model.predict(images).clamp(min=0)
    for norm, eps in (("linf", 1.0), ("l2", 2.0), ("l1", 4.0)):
        adv_images = DatasetAttack(reference)(model, images, labels, eps=eps, norm=norm)
        assert is_allowed(adv_images, images, eps, norm).all()
        candidates = {tuple(d.flatten().tolist()) for d in torch.cat([reference.images, images])}
        assert all(tuple(a.flatten().tolist()) in candidates for a in adv_images)

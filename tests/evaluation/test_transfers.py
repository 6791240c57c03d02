"""Transfers: tiny worlds where they are known, and the matrix recomputed image by image."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from worlds import Affine, Digits, outcome_of, two_input_world

from nullclass.attacks import FGSM, MIFGSM, PGD, DatasetAttack
from nullclass.core import devices
from nullclass.core.errors import UserError
from nullclass.core.norms import is_allowed
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.data import LabelledImages
from nullclass.evaluation.transfers import transfer_matrix
from nullclass.models import Classifier
from nullclass.results.schema import COST_COLUMNS, NO_MEMBER
from nullclass.scoring.attacked import score_attack
from nullclass.scoring.crafted import craft, score_crafted
from nullclass.scoring.score import sort_rows


def linear(weight: Tensor, bias: Tensor | None = None, *, has_null: bool = False) -> Classifier:
    bias = torch.zeros(len(weight)) if bias is None else bias
    return Classifier(Affine(weight, bias), len(weight) - has_null, has_null=has_null)


def halves() -> tuple[Classifier, Classifier, LabelledImages]:
    """Two models of the same answers on these images, each from its own half of the pixels."""
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(40, 8, generator=generator) * 0.4 + 0.3
    images = torch.cat([left, left], dim=1)
    rule = torch.tensor([[1.0, -1.0] * 4, [-1.0, 1.0] * 4])
    none = torch.zeros_like(rule)
    first, second = linear(torch.cat([rule, none], 1)), linear(torch.cat([none, rule], 1))
    labels = first.predict(images.view(-1, 1, 4, 4))
    assert torch.equal(labels, second.predict(images.view(-1, 1, 4, 4)))
    assert 5 < labels.sum() < 35
    return first, second, LabelledImages(images.view(-1, 1, 4, 4), labels)


def at(matrix: pd.DataFrame, source: str, target: str, eps: float) -> pd.Series[Any]:
    found = matrix.query("source == @source and target == @target and eps_pixels == @eps")
    assert len(found) == 1
    return found.iloc[0]


def test_models_of_the_same_pixels_transfer_and_orthogonal_ones_do_not() -> None:
    first, second, data = halves()
    scaled = linear(3 * first.body.weight.data)
    targets = {"first": first, "scaled": scaled, "other": second}
    matrix = transfer_matrix({"first": first}, targets, data, eps=[0.05, 0.3])
    assert len(matrix) == 6
    logits = first(data.images)
    # A push of eps in each of eight pixels changes the margin by 16 eps.
    needed = (logits[:, 0] - logits[:, 1]).abs() / 16
    for eps in (0.05, 0.3):
        itself, same, other = (at(matrix, "first", name, eps) for name in targets)
        wanted = float((needed < eps).double().mean())
        assert itself["fooled_rate"] == same["fooled_rate"] == pytest.approx(wanted)
        assert wanted > 0
        assert itself["transfer_rate"] == same["transfer_rate"] == 1
        assert same["num_transferable"] == other["num_transferable"] == round(40 * wanted)
        assert (other["fooled_rate"], other["transfer_rate"]) == (0, 0)


class NullOffTheData(nn.Module):
    """A model's logits, with null for every image that is not among the clean ones."""

    def __init__(self, body: nn.Module, clean: Tensor) -> None:
        super().__init__()
        self.body, self.clean = body, clean.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        distance = torch.cdist(images.flatten(1), self.clean).amin(dim=1, keepdim=True)
        return torch.cat([self.body(images), 1000 * distance - 1], dim=1)


def test_a_target_that_answers_null_is_not_fooled() -> None:
    first, _, data = halves()
    weight = torch.cat([first.body.weight.data, torch.zeros(1, 16)])
    always = linear(weight, torch.tensor([0.0, 0.0, 100.0]), has_null=True)
    moved = Classifier(NullOffTheData(first, data.images), 2)
    matrix = transfer_matrix({"a": first}, {"always": always, "moved": moved}, data, eps=0.3)
    assert (matrix["correct_rate"] == 0).all()
    assert (matrix["null_rate"] == 1).all()
    assert (matrix["fooled_rate"] == 0).all()
    assert at(matrix, "a", "always", 0.3)["num_transferable"] == 0, "nothing correct when clean"
    assert math.isnan(at(matrix, "a", "always", 0.3)["transfer_rate"])
    assert at(matrix, "a", "moved", 0.3)["num_transferable"] > 30
    assert at(matrix, "a", "moved", 0.3)["transfer_rate"] == 0


@pytest.mark.parametrize("attack", [MIFGSM(loss="margin"), MIFGSM(), PGD(loss="margin"), "pgd"])
def test_null_is_a_defence_of_the_source(attack: Any) -> None:
    # The exact test: fooled if and only if eps exceeds b; the other direction leads into null.
    model, image, label = two_input_world(a=0.1, b=0.1)
    models = {"m": model}
    matrix = transfer_matrix(models, models, (image, label), attack=attack, eps=[0.095, 0.105])
    assert matrix["fooled_rate"].tolist() == [0, 1]


@pytest.mark.parametrize("attack", [None, PGD(num_steps=5, num_restarts=2), "fgsm"])
def test_every_rate_from_the_images_themselves(digits: Digits, attack: Any) -> None:
    num, budgets, seed = 150, [0.05, 0.2], 4
    models = {"plain": digits.plain, "guarded": digits.guarded}
    data = LabelledImages(digits.images, digits.labels)
    matrix = transfer_matrix(
        models, models, data, attack=attack, eps=budgets, num_images=num, seed=seed
    )
    assert len(matrix) == 2 * 2 * 2
    images, labels = data.images[:num], data.labels[:num]
    instance = {None: MIFGSM(), "fgsm": FGSM("fool")}.get(attack, attack)
    for source_name, source in models.items():
        crafted = craft(source, data, instance, budgets, num_images=num, seed=seed).images
        for target_name, target in models.items():
            clean = outcome_of(target, images, labels)
            for eps in budgets:
                assert is_allowed(crafted[eps], images, eps, "linf").all()
                line = at(matrix, source_name, target_name, eps)
                outcomes = outcome_of(target, crafted[eps], labels)
                for outcome in OUTCOME_NAMES:
                    assert line[f"{outcome}_rate"] == pytest.approx(outcomes.count(outcome) / num)
                interval = binomtest(outcomes.count("fooled"), num).proportion_ci(method="wilson")
                assert (line["low"], line["high"]) == pytest.approx(tuple(interval), abs=1e-6)
                on_source = outcome_of(source, crafted[eps], labels)
                triples = zip(on_source, clean, outcomes, strict=True)
                tried = [t for s, c, t in triples if (s, c) == ("fooled", "correct")]
                assert line["num_transferable"] == len(tried) > 0
                assert line["transfer_rate"] == pytest.approx(tried.count("fooled") / len(tried))
                assert line["num_images"] == num
    assert (matrix.query("source == target")["transfer_rate"] == 1).all()


@pytest.mark.parametrize("attack", [MIFGSM(), PGD(num_steps=3, num_restarts=2)])
def test_the_same_rows_as_an_attack_with_a_source(
    digits: Digits, attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "BATCH_SIZE", 40)  # each batch has its own seed
    data, budgets = LabelledImages(digits.images, digits.labels), [0.03, 0.2]
    crafted = craft(digits.plain, data, attack, budgets, num_images=100, seed=7, name="a")
    on_target = score_crafted(digits.guarded, data, crafted, name="a", source_name="plain")
    for target, source_name, result in (
        (digits.guarded, "plain", on_target),
        (digits.plain, "self", crafted),
    ):
        expected = score_attack(
            target,
            data,
            torch.arange(100),
            "a",
            attack,
            budgets,
            norm="linf",
            source=digits.plain,
            source_name=source_name,
            seed=7,
        )
        rows = sort_rows([expected.rows])
        pd.testing.assert_frame_equal(result.rows, rows)
        is_fooled = rows["outcome"] == "fooled"
        assert (rows["member"] == is_fooled.map({True: "a", False: NO_MEMBER})).all()
        assert result.costs["num_successes"].tolist() == [
            (is_fooled & (rows["eps_pixels"] == eps)).sum() for eps in budgets
        ]
        same = [column for column in COST_COLUMNS if column != "seconds"]
        pd.testing.assert_frame_equal(result.costs[same], expected.costs[same])


def test_an_attack_gets_all_reference_images(digits: Digits) -> None:
    data = LabelledImages(digits.images, digits.labels)
    crafted = craft(digits.plain, data, DatasetAttack(), [0.5], num_images=10)
    attack = DatasetAttack().with_reference_images(data)
    wanted = attack(digits.plain, *data.batch(slice(0, 10)), eps=0.5)
    assert torch.equal(crafted.images[0.5], wanted)


# Invalid input


def test_images_that_do_not_belong_to_the_data(digits: Digits) -> None:
    data = LabelledImages(digits.images[:30], digits.labels[:30])
    crafted = craft(digits.plain, data, MIFGSM(), [0.1], num_images=20)
    good = crafted.images[0.1]

    def score(images: Tensor = good, to: LabelledImages = data) -> None:
        changed = replace(crafted, images={0.1: images})
        score_crafted(digits.plain, to, changed, name="a", source_name="b")

    score()
    further = good + 0.01 * (good - data.images[:20]).sign()
    for wrong in (
        further.clamp(0, 1),
        good + 1e-3 * (good == 1),
        good.masked_fill(good > 0.5, math.nan),
        good[:, :, :4],
    ):
        with pytest.raises(UserError, match=r"'a' are not within linf eps 0\.1 of these images"):
            score(wrong)
    with pytest.raises(UserError, match="are not within"):
        score(to=data.subset(range(29, -1, -1)))
    with pytest.raises(UserError, match="no 20 images to take: choose 1 to 10"):
        score(to=data.first(10))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sources": {}}, "at least one source and one target"),
        ({"targets": [1]}, "at least one source and one target"),
        ({"targets": {"b": linear(torch.rand(3, 16))}}, "but the target 'b' has 3"),
        ({"eps": []}, "at least one eps"),
        ({"num_images": 41}, "no 41 images to take: choose 1 to 40"),
        ({"norm": "l7"}, "norm must be one of"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"attack": 3}, "is no attack"),
        ({"attack": FGSM("untargeted")}, "untargeted counts a source's null as a success"),
        ({"attack": "worst-case-force-null"}, "objective force-null counts"),
        ({"num_classes": 3}, "the model has 2 classes, not 3"),
        ({"data": (torch.rand(40, 1, 4, 4), torch.full((40,), 4))}, "labels run from 4 to 4"),
    ],
)
def test_slips(changed: dict[str, Any], says: str) -> None:
    first, second, data = halves()
    settings: dict[str, Any] = {"sources": {"a": first}, "targets": {"b": second}, "data": data}
    settings |= {"eps": [0.1], "num_images": 10}
    with pytest.raises(UserError, match=says):
        transfer_matrix(**(settings | changed))

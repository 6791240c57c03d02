"""Transfers: tiny worlds where they are known, and the matrix recomputed image by image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from worlds import Affine, Digits, outcome_of, two_input_world

from nullclass.attacks import FGSM, MIFGSM, PGD, DatasetAttack
from nullclass.core.errors import UserError
from nullclass.core.norms import BALLS, is_allowed
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.data import LabelledImages
from nullclass.evaluation.transfers import transfer_matrix, transfer_rates
from nullclass.models import Classifier
from nullclass.results.schema import COST_COLUMNS, ROW_COLUMNS
from nullclass.scoring import crafted as crafted_module
from nullclass.scoring import run_attack
from nullclass.scoring.crafted import craft, score_crafted
from nullclass.scoring.run_attack import score_attack, score_clean

ALL_NORMS = ["linf", "l2", "l1"]


def silent(_: int) -> None:
    pass


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


def test_the_same_weights_fall_together_and_orthogonal_ones_never() -> None:
    first, second, data = halves()
    twin = linear(3 * first.body.weight.data)
    matrix = transfer_matrix(
        {"first": first},
        {"first": first, "twin": twin, "other": second},
        data,
        eps=[0.05, 0.3],
        num_images=40,
    )
    assert len(matrix) == 6
    for eps in (0.05, 0.3):
        itself, of_twin = at(matrix, "first", "first", eps), at(matrix, "first", "twin", eps)
        assert itself["fooled_rate"] > 0
        assert itself["transfer_rate"] == of_twin["transfer_rate"] == 1
        assert of_twin["fooled_rate"] == itself["fooled_rate"]
        assert of_twin["num_transferable"] == 40 * itself["fooled_rate"]
        other = at(matrix, "first", "other", eps)
        assert (other["fooled_rate"], other["transfer_rate"]) == (0, 0)
        assert other["num_transferable"] == of_twin["num_transferable"]
    # The margin |sum of eight terms| falls to a push of 8 eps: whom, is known without an attack.
    logits = first(data.images)
    nearness = (logits[:, 0] - logits[:, 1]).abs() / 16
    for eps in (0.05, 0.3):
        wanted = float((nearness < eps).double().mean())
        assert at(matrix, "first", "first", eps)["fooled_rate"] == pytest.approx(wanted)


def test_a_target_that_refuses_everything_is_never_fooled() -> None:
    first, _, data = halves()
    weight = torch.cat([first.body.weight.data, torch.zeros(1, 16)])
    swallows = linear(weight, torch.tensor([0.0, 0.0, 100.0]), has_null=True)
    matrix = transfer_matrix({"a": first}, {"b": swallows}, data, eps=[0.3], num_images=40)
    line = at(matrix, "a", "b", 0.3)
    assert (line["correct_rate"], line["null_rate"], line["fooled_rate"]) == (0, 1, 0)
    assert line["num_transferable"] == 0, "it gets nothing right when clean"
    assert math.isnan(line["transfer_rate"])


def test_a_target_that_refuses_what_has_moved_is_never_fooled_either() -> None:
    class RefusesMoved(nn.Module):
        def __init__(self, clean: Tensor) -> None:
            super().__init__()
            self.clean = clean.flatten(1)

        def forward(self, images: Tensor) -> Tensor:
            off = torch.cdist(images.flatten(1), self.clean).amin(dim=1, keepdim=True)
            return torch.cat([first(images), 1000 * off - 1], dim=1)

    first, _, data = halves()
    target = Classifier(RefusesMoved(data.images), 2)
    matrix = transfer_matrix({"a": first}, {"b": target}, data, eps=[0.3], num_images=40)
    line = at(matrix, "a", "b", 0.3)
    assert (line["null_rate"], line["fooled_rate"], line["transfer_rate"]) == (1, 0, 0)
    assert line["num_transferable"] > 30


@pytest.mark.parametrize("attack", [MIFGSM(loss="margin"), MIFGSM(), PGD(loss="margin"), "pgd"])
def test_sources_with_null_are_attacked_with_null_as_a_defence(attack: Any) -> None:
    # The exact test: fooled if and only if eps exceeds b; the other way leads into null.
    model, image, label = two_input_world(a=0.1, b=0.1)
    matrix = transfer_matrix(
        {"m": model},
        {"m": model},
        (image, label),
        attack=attack,
        eps=[0.095, 0.105],
        num_images=1,
    )
    assert matrix["fooled_rate"].tolist() == [0, 1]


SOURCES: dict[str, Callable[[Digits], Classifier]] = {
    "plain": lambda digits: digits.plain,
    "guarded": lambda digits: digits.guarded,
}


@pytest.mark.parametrize("attack", [None, PGD(num_steps=5, num_restarts=2), "fgsm"])
def test_every_cell_from_the_images_themselves(digits: Digits, attack: Any) -> None:
    num, budgets, seed = 150, [0.05, 0.2], 4
    models = {name: model(digits) for name, model in SOURCES.items()}
    data = LabelledImages(digits.images, digits.labels)
    matrix = transfer_matrix(
        models, models, data, attack=attack, eps=budgets, num_images=num, seed=seed
    )
    assert len(matrix) == 2 * 2 * 2
    images, labels = data.images[:num], data.labels[:num]
    made_by = {None: MIFGSM(), "fgsm": FGSM("fool")}.get(attack, attack)
    for source_name, source in models.items():
        made = craft(source, data, made_by, budgets, num_images=num, seed=seed).images
        for target_name, target in models.items():
            clean = outcome_of(target, images, labels)
            for eps in budgets:
                assert is_allowed(made[eps], images, eps, "linf").all()
                line = at(matrix, source_name, target_name, eps)
                told = outcome_of(target, made[eps], labels)
                for outcome in OUTCOME_NAMES:
                    assert line[f"{outcome}_rate"] == pytest.approx(told.count(outcome) / num)
                interval = binomtest(told.count("fooled"), num).proportion_ci(method="wilson")
                assert (line["low"], line["high"]) == pytest.approx(tuple(interval), abs=1e-6)
                triples = zip(outcome_of(source, made[eps], labels), clean, told, strict=True)
                tried = [t for s, c, t in triples if (s, c) == ("fooled", "correct")]
                assert line["num_transferable"] == len(tried) > 0
                wanted = tried.count("fooled") / len(tried)
                assert line["transfer_rate"] == pytest.approx(wanted)
                assert line["num_images"] == num
    assert (matrix.query("source == target")["transfer_rate"] == 1).all()


@pytest.mark.parametrize("attack", [MIFGSM(), PGD(num_steps=3, num_restarts=2)])
def test_the_same_rows_as_an_attack_scored_with_a_source(
    digits: Digits, attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, budgets = LabelledImages(digits.images, digits.labels), [0.03, 0.2]
    for module in (crafted_module, run_attack):
        monkeypatch.setattr(module, "BATCH_SIZE", 40)  # each batch has its own seed
    crafted = craft(digits.plain, data, attack, budgets, num_images=100, seed=7, name="a")
    for target, source, rows, costs in (
        (digits.guarded, digits.plain, None, None),
        (digits.plain, digits.plain, crafted.rows, crafted.costs),
    ):
        wanted = score_attack(
            target,
            data,
            torch.arange(100),
            "a",
            attack,
            budgets,
            norm="linf",
            source=source,
            source_name="self" if rows is not None else "plain",
            seed=7,
        )
        if rows is None:
            found = score_crafted(target, data, crafted, name="a", source_name="plain")
            rows, costs = found.rows, found.costs
            assert found.examples == []
            fooled = wanted.rows[wanted.rows["outcome"] == "fooled"]
            assert costs["num_successes"].tolist() == [
                (fooled["eps_pixels"] == eps).sum() for eps in budgets
            ]
        assert costs is not None
        order = ["eps_pixels", "image"]
        told, expected = (
            table.sort_values(order, ignore_index=True)[list(ROW_COLUMNS)].drop(columns="member")
            for table in (rows, wanted.rows)
        )
        pd.testing.assert_frame_equal(told, expected)
        is_fooled = rows.sort_values(order, ignore_index=True)["outcome"] == "fooled"
        members = rows.sort_values(order, ignore_index=True)["member"]
        assert (members == is_fooled.map({True: "a", False: "no-success"})).all()
        assert list(costs.columns) == list(COST_COLUMNS)
        same = [c for c in COST_COLUMNS if c != "seconds"]
        pd.testing.assert_frame_equal(costs[same], wanted.costs[same])


def test_nothing_is_carried_from_a_smaller_eps(digits: Digits) -> None:
    data = LabelledImages(digits.images[:60], digits.labels[:60])
    together = craft(digits.plain, data, PGD(num_steps=5), [0.1, 0.3], num_images=60)
    alone = PGD(num_steps=5)(digits.plain, *data.batch(slice(None)), eps=0.3)
    assert torch.equal(together.images[0.3], alone)
    before = digits.plain.predict(data.images) == data.labels
    fell = torch.tensor(together.rows.query("eps_pixels == 0.1")["outcome"].eq("fooled").tolist())
    is_further = (together.images[0.3] != together.images[0.1]).flatten(1).any(dim=1)
    assert is_further[before & fell].all()
    assert (before & fell).sum() > 10


def test_an_attack_that_wants_images_gets_all_of_them(digits: Digits) -> None:
    data = LabelledImages(digits.images, digits.labels)
    made = craft(digits.plain, data, DatasetAttack(), [0.5], num_images=10).images[0.5]
    wanted = DatasetAttack().with_reference_images(data)(
        digits.plain, *data.batch(slice(0, 10)), eps=0.5
    )
    assert torch.equal(made, wanted)


def test_a_module_of_one_s_own() -> None:
    first, second, data = halves()
    plain = {"first": first.body, "second": second.body}
    with pytest.warns(UserWarning, match="no more than 2 logits"):
        found = transfer_matrix(plain, plain, data, eps=0.3, num_images=9, num_classes=2)
    wrapped = {"first": first, "second": second}
    pd.testing.assert_frame_equal(
        found, transfer_matrix(wrapped, wrapped, data, eps=[0.3], num_images=9)
    )


def rows_of(outcomes: dict[int, str]) -> pd.DataFrame:
    return pd.DataFrame({"image": list(outcomes), "outcome": list(outcomes.values())})


def test_a_cell_by_hand() -> None:
    on_source = rows_of({0: "fooled", 1: "fooled", 2: "fooled", 3: "null", 4: "fooled"})
    on_target = rows_of({4: "null", 3: "fooled", 2: "fooled", 1: "fooled", 0: "correct"})
    clean = rows_of({0: "correct", 1: "correct", 2: "null", 3: "correct", 4: "correct", 9: "null"})
    told = transfer_rates(on_source, on_target, clean)  # transferable: 0, 1 and 4; 1 of them fools
    assert told["num_transferable"] == 3
    assert told["transfer_rate"] == pytest.approx(1 / 3)
    assert (told["correct_rate"], told["null_rate"], told["fooled_rate"]) == (0.2, 0.2, 0.6)
    nobody = transfer_rates(
        rows_of({0: "correct"}), rows_of({0: "fooled"}), rows_of({0: "correct"})
    )
    assert nobody["num_transferable"] == 0
    assert math.isnan(nobody["transfer_rate"])
    assert nobody["fooled_rate"] == 1


# The attack that does not stop.


def test_the_default_attack_goes_to_the_end_of_the_budget() -> None:
    first, _, data = halves()
    images, labels = data.batch(slice(None))
    weight = first.body.weight.data
    away = (weight[1 - labels] - weight[labels]).view_as(images)
    full = MIFGSM()(first, images, labels, eps=0.2)
    assert torch.equal(full, (images + 0.2 * away.sign()).clamp(0, 1))
    stopped = PGD()(first, images, labels, eps=0.2)
    fell = first.predict(stopped) != labels
    assert fell.sum() > 10
    assert (BALLS["linf"].size(stopped - images)[fell] < 0.19).any(), "PGD stops on the way"


# Bad input.


def test_images_that_left_their_budget_are_refused(digits: Digits) -> None:
    data = LabelledImages(digits.images[:30], digits.labels[:30])
    crafted = craft(digits.plain, data, MIFGSM(), [0.1], num_images=20)

    def show(images: Tensor, to: LabelledImages = data) -> None:
        score_crafted(
            digits.plain, to, replace(crafted, images={0.1: images}), name="a", source_name="b"
        )

    good = crafted.images[0.1]
    show(good)
    told = r"images of attack .a. are not within linf eps 0.1 of these images"
    further = good + 0.01 * (good - data.images[:20]).sign()
    for wrong in (
        further.clamp(0, 1),
        good + 1e-3 * (good == 1),
        good.masked_fill(good > 0.5, math.nan),
    ):
        with pytest.raises(UserError, match=told):
            show(wrong)
    with pytest.raises(UserError, match=told):
        show(good, data.subset(range(29, -1, -1)))  # other images under these places
    with pytest.raises(UserError, match=told):
        show(good[:, :, :4])
    with pytest.raises(UserError, match="asked for the first 20 images: choose 1 to 10"):
        show(good, data.first(10))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sources": {}}, "at least one source and one target"),
        ({"targets": {}}, "at least one source and one target"),
        ({"targets": [1]}, "at least one source and one target"),
        ({"eps": []}, "at least one eps"),
        ({"eps": "0.1"}, "eps must be a number"),
        ({"eps": [0.1, 1.5]}, r"eps 1.5 is outside \[0, 1\]"),
        ({"eps": -0.1}, "eps -0.1 is outside"),
        ({"num_images": 0}, "asked for the first 0 images: choose 1 to 40"),
        ({"num_images": 41}, "asked for the first 41 images: choose 1 to 40"),
        ({"norm": "l7"}, "norm must be one of"),
        ({"attack": "nonsense"}, "attack must be one of"),
        ({"attack": 3}, "is no attack"),
        (
            {"attack": FGSM("untargeted")},
            "untargeted counts a source's null as a success",
        ),
        ({"attack": "worst-case-force-null"}, "objective force-null counts"),
        ({"num_classes": 3}, "the model has 2 classes, not 3"),
    ],
)
def test_senseless_input(changed: dict[str, Any], told: str) -> None:
    first, second, data = halves()
    given: dict[str, Any] = {
        "sources": {"a": first},
        "targets": {"b": second},
        "data": data,
        "eps": [0.1],
        "num_images": 10,
    }
    with pytest.raises(UserError, match=told):
        transfer_matrix(**(given | changed))


def test_models_and_labels_that_do_not_go_together() -> None:
    first, _, data = halves()
    three = linear(torch.rand(3, 16))
    with pytest.raises(UserError, match="source 'a' has 2 classes, but the target 'b' has 3"):
        transfer_matrix({"a": first}, {"b": three}, data, eps=0.1, num_images=5)
    labels = torch.full((40,), 4)
    with pytest.raises(UserError, match="labels run from 4 to 4"):
        transfer_matrix({"a": first}, {"b": first}, (data.images, labels), eps=0.1, num_images=5)
    with pytest.raises(UserError, match="labels run from -1 to -1"):
        craft(
            first,
            LabelledImages(data.images, -torch.ones(40).long(), 2),
            MIFGSM(),
            [0.1],
            num_images=5,
        )
    clean = score_clean(first, data, norm="linf", on_images=silent)
    assert (clean["outcome"] == "correct").all()

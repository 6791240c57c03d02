"""Thresholds on the null score: the rule itself, its calibration, and attacks that know it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import Affine, Digits, two_input_world

from nullclass.attacks import PGD, MultiTargetedPGD
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.evaluation.run import evaluate
from nullclass.models import Classifier
from nullclass.rejection import Threshold, calibrate, null_scores, overlap, with_threshold

K = 3

finite = st.floats(-1e6, 1e6, width=32)
tied = st.integers(-3, 3).map(float)
"""So that logits, scores and thresholds often agree exactly."""


def rows_of(num_logits: int) -> st.SearchStrategy[list[list[float]]]:
    values = st.one_of(finite, tied)
    row = st.lists(values, min_size=num_logits, max_size=num_logits)
    return st.lists(row, min_size=1, max_size=6)


def bare(*, has_null: bool) -> Classifier:
    """A classifier whose images are its logits."""
    return Classifier(nn.Flatten(), K, has_null=has_null)


def as_images(logits: Tensor) -> Tensor:
    return logits[:, None, None, :]


class AttackResult(nn.Module):
    """Logits 0, -1 and, as null, the first pixel."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, :1]
        return torch.cat([torch.zeros_like(pixel), torch.zeros_like(pixel) - 1, pixel], dim=1)


def scored(scores: Any) -> tuple[Classifier, LabelledImages]:
    """A model, and images whose null scores are the given ones, in [0,1]."""
    pixels = torch.tensor(np.asarray(scores), dtype=torch.float32).view(-1, 1, 1, 1)
    return Classifier(AttackResult(), 2), LabelledImages(pixels, torch.zeros(len(pixels)).long(), 2)


# Null scores


@given(rows_of(K + 1))
def test_null_score_is_the_lead_of_null(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows)
    scores = null_scores(logits, K)
    wanted = [np.float32(row[K]) - np.float32(max(row[:K])) for row in rows]
    assert scores.tolist() == [float(value) for value in wanted]
    assert ((scores > 0) == (logits.argmax(dim=1) == K)).all()


@given(rows_of(K))
def test_null_score_without_null_is_the_doubt(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows)
    scores = null_scores(logits, K)
    wanted = -logits.double().log_softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(scores.double(), wanted, rtol=1e-5, atol=1e-6)
    assert (scores >= 0).all()


def test_doubt_is_told_apart_where_probabilities_are_1() -> None:
    logits = torch.tensor([[30.0, 0, 0], [40, 0, 0], [50, 0, 0]])
    assert (logits.softmax(dim=1)[:, 0] == 1).all()
    wanted = 2 * torch.exp(-logits[:, 0].double())
    torch.testing.assert_close(null_scores(logits, 3).double(), wanted, rtol=1e-6, atol=0)


def test_null_scores_have_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    for num_logits in (K, K + 1):
        logits = torch.randn(5, num_logits, generator=generator, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda z: null_scores(z, K), logits.requires_grad_())


def test_null_scores_of_low_precision_are_float32() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.bfloat16)
    assert null_scores(logits, K).dtype == torch.float32
    assert null_scores(logits.double(), K).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, K - 1), (2, K + 2), (K,), (2, K, 1)])
def test_null_scores_refuse_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="logits have shape"):
        null_scores(torch.zeros(shape), K)


# The rule


@given(st.booleans(), st.data())
def test_null_exactly_above_the_threshold(has_null: bool, data: st.DataObject) -> None:
    """Any logits, any threshold; at equality the image is answered."""
    logits = torch.tensor(data.draw(rows_of(K + has_null)))
    scores = null_scores(logits, K)
    at_one = st.sampled_from(scores.tolist())
    tau = data.draw(st.one_of(finite, tied, at_one))
    model = with_threshold(bare(has_null=has_null), tau)
    is_null = scores > torch.tensor(tau)
    real = logits[:, :K].argmax(dim=1)
    assert model.predict(as_images(logits)).tolist() == torch.where(is_null, -1, real).tolist()
    # Its own null score says the same.
    new_scores = null_scores(model(as_images(logits)), K)
    torch.testing.assert_close(new_scores, scores - tau)
    assert ((new_scores > 0) == is_null).all()


@pytest.mark.parametrize("has_null", [True, False])
def test_logits_and_gradients_are_the_shifted_ones(has_null: bool) -> None:
    """Up to a constant of each image, the logits are the real ones and z_null - tau."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, K + has_null, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, K + 1, generator=generator, dtype=torch.float64)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    model = with_threshold(bare(has_null=has_null), 0.7).double()
    ours = model(as_images(first))
    null = second[:, K] if has_null else second.logsumexp(dim=1)
    plain = torch.cat([second[:, :K], null[:, None] - 0.7], dim=1)
    torch.testing.assert_close(ours.log_softmax(dim=1), plain.log_softmax(dim=1))
    (ours * weights).sum().backward()  # any loss: it is linear here, and not blind to shifts
    (plain * weights).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_thresholds_add_up() -> None:
    logits = torch.randn(50, K + 1, generator=torch.Generator().manual_seed(2))
    once = with_threshold(bare(has_null=True), 0.75)
    twice = with_threshold(with_threshold(bare(has_null=True), 0.5), 0.25)
    assert once.predict(as_images(logits)).tolist() == twice.predict(as_images(logits)).tolist()


def test_the_model_inside_standardises_and_is_left_alone() -> None:
    inner = Classifier(
        nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(4, 3)),
        2,
        mean=(0.3,),
        std=(0.2,),
        image_shape=(1, 2, 2),
    )
    inner.eval()
    inner.body[0].train()
    wrapped = with_threshold(inner, 0.0)
    assert not wrapped.training
    assert inner.body[0].training
    assert not inner.training
    assert wrapped.image_shape == (1, 2, 2)
    assert wrapped.num_outputs == 3
    inner.eval()
    images = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    assert wrapped.predict(images).tolist() == inner.predict(images).tolist()
    assert with_threshold(inner.train(), 0.0).training


def test_always_and_never_null(digits: Digits) -> None:
    for model in (digits.guarded, digits.plain):
        assert (with_threshold(model, -1e9).predict(digits.images) == -1).all()
        never = with_threshold(model, 1e9).predict(digits.images)
        real = model(digits.images)[:, :10].argmax(dim=1)
        assert never.tolist() == real.tolist()


# Attacks know the threshold


@pytest.mark.parametrize("tau", [0.0, 0.25, -0.03])
def test_deny_needs_what_the_threshold_takes(tau: float) -> None:
    """The null logit 3 x1 - a reaches tau at eps (a + tau) / 3, before any class moves."""
    a = 0.2
    model, image, label = two_input_world(a=a, b=0.45)
    wrapped = with_threshold(model, tau)
    bound = (a + tau) / 3
    for eps, is_denied in ((0.95 * bound, False), (1.05 * bound, True)):
        adv_images = PGD(objective="force-null")(wrapped, image, label, eps=eps)
        assert (int(wrapped.predict(adv_images)) == -1) == is_denied


def test_fooling_a_model_without_null_needs_confidence() -> None:
    """Two classes of logits 0 and x1 - x2 + c: doubt log(1 + exp(-d)) at a lead of d. The lead is
    2 eps - 0.3 at most, so fooling takes 2 eps >= 0.3 + lead where merely erring takes 2 eps > 0.3.
    """
    weight = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    model = Classifier(Affine(weight, torch.tensor([0.0, -0.3])), 2, has_null=False)
    image, label = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    lead = 0.2
    wrapped = with_threshold(model, math.log1p(math.exp(-lead)))
    assert int(wrapped.predict(image)) == 0  # its own lead is 0.3
    bound = (0.3 + lead) / 2
    for eps, is_fooled in ((0.95 * bound, False), (1.05 * bound, True)):
        for attack in (PGD(), MultiTargetedPGD()):
            adv_images = attack(wrapped, image, label, eps=eps)
            assert (int(wrapped.predict(adv_images)) == 1) == is_fooled
    assert int(model.predict(attack(model, image, label, eps=0.95 * bound))) == 1


@pytest.mark.parametrize("name", ["guarded", "plain"])
def test_evaluate_takes_it(digits: Digits, name: str) -> None:
    model, chosen = getattr(digits, name), slice(0, 40)
    held_out = (digits.images[200:], digits.labels[200:])
    wrapped = with_threshold(model, calibrate(model, held_out, 0.05))
    data = LabelledImages(digits.images[chosen], digits.labels[chosen], 10)
    rows = evaluate(wrapped, data, attacks={"pgd": MultiTargetedPGD(num_steps=5)}, eps=0.1).rows
    clean = rows[rows["attack"] == "clean"]
    assert clean["prediction"].tolist() == wrapped.predict(data.images).tolist()
    assert rows["null_loss"].notna().all()


# Calibration

shares = st.sampled_from([0.02, 0.1, 0.25, 0.29, 0.5, 0.9])
pixels = st.one_of(st.integers(0, 4).map(lambda i: i / 4), st.floats(0, 1, width=32))


@given(st.lists(pixels, min_size=1, max_size=60), shares)
def test_held_out_rate_is_never_exceeded(scores: list[float], rate: float) -> None:
    model, data = scored(scores)
    most = math.floor(rate * (len(scores) + 1) + 1e-9) - 1
    if most < 0:
        with pytest.raises(UserError, match="needs at least"):
            calibrate(model, data, rate)
        return
    threshold = calibrate(model, data, rate)
    told = with_threshold(model, threshold).predict(data.images)
    num_null = int((told == -1).sum())
    assert num_null <= most <= rate * len(scores) + 1e-9
    assert threshold.held_out_null_rate == num_null / len(scores)
    # No more could be refused without exceeding it: the next tie is too many.
    accepted = np.float32([s for s in scores if np.float32(s) <= np.float32(threshold.value)])
    assert num_null + (accepted == accepted.max()).sum() > most


@given(st.lists(pixels, min_size=3, max_size=25), shares)
def test_a_further_image_is_null_at_most_at_the_rate(scores: list[float], rate: float) -> None:
    """Each image in turn is the further one: exactly the promise, for images in any order."""
    if math.floor(rate * len(scores) + 1e-9) < 1:
        return
    num_null = 0
    for index, own in enumerate(scores):
        model, data = scored(scores[:index] + scores[index + 1 :])
        num_null += np.float32(own) > calibrate(model, data, rate).value
    assert num_null <= rate * len(scores) + 1e-9


def test_threshold_lies_between_two_images() -> None:
    scores = torch.randperm(200, generator=torch.Generator().manual_seed(4)) / 256
    model, data = scored(scores)
    threshold = calibrate(model, data, 0.1)
    # floor(0.1 * 201) - 1 = 19 are refused: 181 to 199
    assert threshold.value == 180.5 / 256
    assert threshold.held_out_null_rate == 19 / 200


@pytest.mark.parametrize(("rate", "needed"), [(0.001, 999), (0.01, 99), (0.3, 3), (0.07, 14)])
def test_as_many_images_as_the_rate_needs(rate: float, needed: int) -> None:
    with pytest.raises(UserError, match=f"at least {needed} held-out images"):
        calibrate(*scored(np.linspace(0, 1, needed - 1)), rate)
    threshold = calibrate(*scored(np.linspace(0, 1, needed)), rate)
    assert (threshold.value, threshold.held_out_null_rate) == (1.0, 0.0)


def test_calibrated_digits_keep_the_rate(digits: Digits) -> None:
    for model in (digits.guarded, digits.plain):
        held_out = LabelledImages(digits.images[:400], digits.labels[:400], 10)
        threshold = calibrate(model, held_out, 0.05)
        is_null = with_threshold(model, threshold).predict(held_out.images) == -1
        assert int(is_null.sum()) == 19 == round(400 * threshold.held_out_null_rate)


def test_calibration_leaves_the_model_as_it_was(digits: Digits) -> None:
    model = digits.guarded.train()
    try:
        calibrate(model, (digits.images, digits.labels), 0.05)
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.eval()


# Who chose it


def test_overlap_counts_images_seen(digits: Digits) -> None:
    data = LabelledImages((digits.images * 255).round().to(torch.uint8), digits.labels, 10)
    held_out = data.subset(range(100))
    threshold = calibrate(digits.guarded, held_out, 0.05)
    assert threshold.is_calibrated
    assert threshold.num_images == 100
    assert overlap(threshold, held_out) == 100
    assert overlap(threshold, held_out.as_float()) == 100  # stored otherwise, the same images
    others = data.subset(range(100, 200))
    num_twins = sum(
        bool((held_out.images == image).all((1, 2, 3)).any()) for image in others.images
    )
    assert overlap(threshold, others) == num_twins < 5
    mixed = data.subset([5, 150, 7, 5])
    assert overlap(threshold, mixed) - overlap(threshold, data.subset([150])) == 3


def test_a_given_threshold_was_chosen_by_nobody(digits: Digits) -> None:
    threshold = Threshold(0.3)
    assert not threshold.is_calibrated
    assert overlap(threshold, LabelledImages(digits.images, digits.labels, 10)) == 0
    assert threshold.to_dict() == {
        "value": 0.3,
        "clean_null_rate": None,
        "held_out_null_rate": None,
        "num_images": 0,
        "images_sha256": None,
    }


def test_told_as_json() -> None:
    model, data = scored(np.linspace(0, 1, 40))
    told = calibrate(model, data, 0.1).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["clean_null_rate"] == 0.1
    assert told["num_images"] == 40
    reordered = calibrate(model, data.subset(range(39, -1, -1)), 0.1).to_dict()
    assert reordered == told
    assert calibrate(model, data.subset(range(1, 40)), 0.1).to_dict() != told


# Bad input


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_threshold_must_be_finite(value: float) -> None:
    with pytest.raises(UserError, match="finite"):
        Threshold(value)
    with pytest.raises(UserError, match="finite"):
        with_threshold(bare(has_null=True), value)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, math.nan])
def test_rate_must_be_a_rate(rate: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        calibrate(*scored([0.1, 0.2]), rate)


def test_bad_held_out_images() -> None:
    model, data = scored(np.linspace(0, 1, 40))
    with pytest.raises(UserError, match="no images"):
        calibrate(model, (data.images[:0], data.labels[:0]), 0.1)
    with pytest.raises(UserError, match="no batches"):
        calibrate(model, [], 0.1)
    labels = data.labels.clone()
    labels[3] = -1
    with pytest.raises(UserError, match="labelled null"):
        calibrate(model, LabelledImages(data.images, labels, 2), 0.1)
    broken = Classifier(Affine(torch.full((3, 1), math.nan), torch.zeros(3)), 2)
    with pytest.raises(UserError, match="not finite"):
        calibrate(broken, data, 0.1)

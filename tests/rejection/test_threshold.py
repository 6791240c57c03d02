"""Thresholds on the null score: the rule, its calibration, and attacks that know it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from disturbed import left_as_found
from hypothesis import given
from hypothesis import strategies as st
from tiny import as_floats
from torch import Tensor, nn
from worlds import Affine, Digits, two_input_world

from nullclass.attacks import PGD, MultiTargetedPGD
from nullclass.core.errors import UserError
from nullclass.core.outcomes import predictions
from nullclass.data import LabelledImages
from nullclass.evaluation.run import evaluate
from nullclass.models import Classifier
from nullclass.rejection import Threshold, calibrate, null_scores, overlap, with_threshold

K = 3

finite = st.floats(-1e6, 1e6, width=32)
tied = st.integers(-3, 3).map(float)
"""Values for which logits, scores and thresholds are often equal."""


def rows_of(num_logits: int) -> st.SearchStrategy[list[list[float]]]:
    row = st.lists(st.one_of(finite, tied), min_size=num_logits, max_size=num_logits)
    return st.lists(row, min_size=1, max_size=6)


def bare(*, has_null: bool) -> Classifier:
    """A classifier whose logits are its images."""
    return Classifier(nn.Flatten(), K, has_null=has_null)


def as_images(logits: Tensor) -> Tensor:
    return logits[:, None, None, :]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class PixelAsNull(nn.Module):
    """Logits 0, -1 and, as null, the first pixel."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, :1]
        return torch.cat([torch.zeros_like(pixel), torch.zeros_like(pixel) - 1, pixel], dim=1)


def scored(scores: Any) -> tuple[Classifier, LabelledImages]:
    """A model, and images with these null scores, in [0,1]."""
    pixels = torch.tensor(np.asarray(scores), dtype=torch.float32).view(-1, 1, 1, 1)
    return Classifier(PixelAsNull(), 2), LabelledImages(pixels, torch.zeros(len(pixels)).long(), 2)


# Null scores


@given(rows_of(K + 1))
def test_the_null_score_is_the_margin_of_null(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows)
    scores = null_scores(logits, K)
    expected = [np.float32(row[K]) - np.float32(max(row[:K])) for row in rows]
    assert scores.tolist() == [float(value) for value in expected]
    assert ((scores > 0) == (logits.argmax(dim=1) == K)).all()


@given(rows_of(K))
def test_without_null_it_is_minus_the_log_confidence(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows)
    scores = null_scores(logits, K)
    expected = -logits.double().log_softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)
    assert (scores >= 0).all()
    logits = torch.tensor([[30.0, 0, 0], [40, 0, 0], [50, 0, 0]])  # probabilities round to 1
    expected = 2 * torch.exp(-logits[:, 0].double())
    torch.testing.assert_close(null_scores(logits, 3).double(), expected, rtol=1e-6, atol=0)


def test_types_gradients_and_shapes_of_null_scores() -> None:
    for num_logits in (K, K + 1):
        logits = torch.randn(5, num_logits, generator=generator(0), dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda z: null_scores(z, K), logits.requires_grad_())
        assert null_scores(logits.bfloat16(), K).dtype == torch.float32
    for shape in ((2, K - 1), (2, K + 2), (K,), (2, K, 1)):
        with pytest.raises(ValueError, match="logits have shape"):
            null_scores(torch.zeros(shape), K)


# The rule


@given(st.booleans(), st.data())
def test_null_exactly_above_the_threshold(has_null: bool, data: st.DataObject) -> None:
    """For any logits and threshold; at equality the image is answered."""
    logits = torch.tensor(data.draw(rows_of(K + has_null)))
    scores = null_scores(logits, K)
    tau = data.draw(st.one_of(finite, tied, st.sampled_from(scores.tolist())))
    model = with_threshold(bare(has_null=has_null), tau)
    is_null = scores > torch.tensor(tau)
    real = logits[:, :K].argmax(dim=1)
    predicted = predictions(model(as_images(logits)), K)
    assert torch.equal(predicted, torch.where(is_null, -1, real))
    new_scores = null_scores(model(as_images(logits)), K)
    torch.testing.assert_close(new_scores, scores - tau)
    assert ((new_scores > 0) == is_null).all()


@pytest.mark.parametrize("has_null", [True, False])
def test_logits_and_gradients_are_the_shifted_ones(has_null: bool) -> None:
    """Up to a constant per image, the logits are the real ones and z_null - tau."""
    stream = generator(1)
    logits = torch.randn(6, K + has_null, generator=stream, dtype=torch.float64)
    weights = torch.randn(6, K + 1, generator=stream, dtype=torch.float64)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    ours = with_threshold(bare(has_null=has_null), 0.7).double()(as_images(first))
    null = second[:, K] if has_null else second.logsumexp(dim=1)
    plain = torch.cat([second[:, :K], null[:, None] - 0.7], dim=1)
    torch.testing.assert_close(ours.log_softmax(dim=1), plain.log_softmax(dim=1))
    (ours * weights).sum().backward()  # a linear loss, which sees a shift of all logits
    (plain * weights).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_the_model_inside_standardises_and_keeps_its_mode() -> None:
    body = nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(4, 3))
    inner = Classifier(body, 2, mean=(0.3,), std=(0.2,), image_shape=(1, 2, 2)).eval()
    body[0].train()
    wrapped = with_threshold(inner, 0.0)
    assert (wrapped.training, body[0].training, inner.training) == (False, True, False)
    assert (wrapped.image_shape, wrapped.num_outputs) == ((1, 2, 2), 3)
    assert (wrapped.model, wrapped.threshold) == (inner, Threshold(0.0))
    inner.eval()
    images = torch.rand(20, 1, 2, 2, generator=generator(3))
    assert torch.equal(wrapped.predict(images), inner.predict(images))
    assert with_threshold(inner.train(), 0.0).training


# Attacks know the threshold


@pytest.mark.parametrize("tau", [0.0, 0.25, -0.03])
def test_forcing_null_needs_what_the_threshold_requires(tau: float) -> None:
    """The null logit 3 x1 - a reaches tau at eps (a + tau) / 3, before any class changes."""
    model, image, label = two_input_world(a=0.2, b=0.45)
    wrapped = with_threshold(model, tau)
    bound = (0.2 + tau) / 3
    for eps, is_null in ((0.95 * bound, False), (1.05 * bound, True)):
        adv_images = PGD(objective="force-null")(wrapped, image, label, eps=eps)
        assert (int(wrapped.predict(adv_images)) == -1) == is_null


def test_fooling_a_model_without_null_needs_confidence() -> None:
    """Two classes with logits 0 and x1 - x2 - 0.3: null score log(1 + exp(-d)) at a margin of d.

    The margin is at most 2 eps - 0.3, so fooling takes 2 eps >= 0.3 + margin where an error takes
    2 eps > 0.3.
    """
    weight = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    model = Classifier(Affine(weight, torch.tensor([0.0, -0.3])), 2, has_null=False)
    image, label = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    margin = 0.2
    wrapped = with_threshold(model, math.log1p(math.exp(-margin)))
    assert int(wrapped.predict(image)) == 0  # its own margin is 0.3
    bound = (0.3 + margin) / 2
    for attack in (PGD(), MultiTargetedPGD()):
        for eps, is_fooled in ((0.95 * bound, False), (1.05 * bound, True)):
            adv_images = attack(wrapped, image, label, eps=eps)
            assert (int(wrapped.predict(adv_images)) == 1) == is_fooled
        assert int(model.predict(attack(model, image, label, eps=0.95 * bound))) == 1


@pytest.mark.parametrize("name", ["guarded", "plain"])
def test_real_models_are_calibrated_and_evaluated(digits: Digits, name: str) -> None:
    model = getattr(digits, name)
    held_out = LabelledImages(digits.images[:400], digits.labels[:400], 10)
    with left_as_found(model.train(), held_out.images, held_out.labels):
        threshold = calibrate(model, held_out, 0.05)
    model.eval()
    wrapped = with_threshold(model, threshold)
    assert threshold.held_out_null_rate is not None
    num_null = int((wrapped.predict(held_out.images) == -1).sum())
    assert num_null == 19 == round(400 * threshold.held_out_null_rate)
    data = LabelledImages(digits.images[400:440], digits.labels[400:440], 10)
    attacks = {"pgd": MultiTargetedPGD(num_steps=5)}
    rows = evaluate(wrapped, data, attacks=attacks, eps=0.1, checks=False).rows
    clean = rows[rows["eps_pixels"] == 0]
    assert clean["prediction"].tolist() == wrapped.predict(data.images).tolist()
    assert rows["null_loss"].notna().all()
    assert (with_threshold(model, -1e9).predict(data.images) == -1).all()
    never = with_threshold(model, 1e9).predict(data.images)
    assert torch.equal(never, model(data.images)[:, :10].argmax(dim=1))


# Calibration

rates = st.sampled_from([0.02, 0.1, 0.25, 0.29, 0.5, 0.9])
pixels = st.one_of(st.integers(0, 4).map(lambda i: i / 4), st.floats(0, 1, width=32))


@given(st.lists(pixels, min_size=1, max_size=60), rates)
def test_the_held_out_rate_is_never_exceeded(scores: list[float], rate: float) -> None:
    model, data = scored(scores)
    most = math.floor(rate * (len(scores) + 1) + 1e-9) - 1
    if most < 0:
        with pytest.raises(UserError, match="needs at least"):
            calibrate(model, data, rate)
        return
    threshold = calibrate(model, data, rate)
    num_null = int((with_threshold(model, threshold).predict(data.images) == -1).sum())
    assert num_null <= most <= rate * len(scores) + 1e-9
    assert threshold.held_out_null_rate == num_null / len(scores)
    # No more could be refused: the next tied scores are too many.
    accepted = np.float32([s for s in scores if np.float32(s) <= np.float32(threshold.value)])
    assert num_null + (accepted == accepted.max()).sum() > most


@given(st.lists(pixels, min_size=3, max_size=25), rates)
def test_a_new_image_is_null_at_most_at_the_rate(scores: list[float], rate: float) -> None:
    """Each image in turn is the new one: the exact guarantee, for exchangeable images."""
    if math.floor(rate * len(scores) + 1e-9) < 1:
        return
    num_null = 0
    for index, own in enumerate(scores):
        model, data = scored(scores[:index] + scores[index + 1 :])
        num_null += np.float32(own) > calibrate(model, data, rate).value
    assert num_null <= rate * len(scores) + 1e-9


@pytest.mark.parametrize(("rate", "needed"), [(0.001, 999), (0.01, 99), (0.3, 3), (0.07, 14)])
def test_as_many_images_as_the_rate_needs(rate: float, needed: int) -> None:
    with pytest.raises(UserError, match=f"at least {needed} held-out images"):
        calibrate(*scored(np.linspace(0, 1, needed - 1)), rate)
    threshold = calibrate(*scored(np.linspace(0, 1, needed)), rate)
    assert (threshold.value, threshold.held_out_null_rate) == (1.0, 0.0)


def test_the_threshold_is_between_two_images() -> None:
    threshold = calibrate(*scored(torch.randperm(200, generator=generator(4)) / 256), 0.1)
    # floor(0.1 * 201) - 1 = 19 are refused: 181 to 199
    assert (threshold.value, threshold.held_out_null_rate) == (180.5 / 256, 19 / 200)


def test_overlap_counts_the_images_of_the_calibration(digits: Digits) -> None:
    data = LabelledImages((digits.images * 255).round().to(torch.uint8), digits.labels, 10)
    held_out, others = data.subset(range(100)), data.subset(range(100, 200))
    threshold = calibrate(digits.guarded, held_out, 0.05)
    assert (threshold.is_calibrated, threshold.num_images) == (True, 100)
    assert overlap(threshold, held_out) == 100
    assert overlap(threshold, as_floats(held_out)) == 100  # the same images as floats
    duplicates = [(held_out.images == image).all((1, 2, 3)).any() for image in others.images]
    assert overlap(threshold, others) == sum(duplicates) < 5
    assert overlap(threshold, data.subset([5, 7, 5])) == 3
    assert overlap(Threshold(0.3), held_out) == 0


def test_thresholds_as_json() -> None:
    given_ = {"value": 0.3, "clean_null_rate": None, "held_out_null_rate": None}
    assert Threshold(0.3).to_dict() == given_ | {"num_images": 0, "images_sha256": None}
    assert not Threshold(0.3).is_calibrated
    model, data = scored(np.linspace(0, 1, 40))
    info = calibrate(model, data, 0.1).to_dict()
    assert json.loads(json.dumps(info)) == info
    assert (info["clean_null_rate"], info["num_images"]) == (0.1, 40)
    assert calibrate(model, data.subset(range(39, -1, -1)), 0.1).to_dict() == info
    assert calibrate(model, data.subset(range(1, 40)), 0.1).to_dict() != info


# Invalid input


def test_invalid_thresholds_rates_and_images_are_refused() -> None:
    model, data = scored(np.linspace(0, 1, 40))
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(UserError, match="finite"):
            with_threshold(model, value)
    with pytest.raises(UserError, match="already has a threshold"):
        with_threshold(with_threshold(model, 0.5), 0.25)
    for rate in (0, 1, -0.1, 1.5, math.nan):
        with pytest.raises(UserError, match="clean_null_rate must be"):
            calibrate(model, data, rate)
    labelled_null = LabelledImages(data.images, data.labels - (torch.arange(40) == 3).long(), 2)
    broken = Classifier(Affine(torch.full((3, 1), math.nan), torch.zeros(3)), 2)
    for model_, held_out, message in (
        (model, (data.images[:0], data.labels[:0]), "no images"),
        (model, [], "no batches"),
        (model, labelled_null, "labelled null"),
        (broken, data, "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            calibrate(model_, held_out, 0.1)

"""Robust losses: their formulas by hand, their ε, and that what they train can be proved."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_cases import learnable_images
from worlds import seeded

from nullclass.certify import interval_bounds, label_margins, read_network
from nullclass.core.errors import UserError
from nullclass.models import Classifier, build_model
from nullclass.training.config import TrainConfig
from nullclass.training.eps_schedule import RAMPS, EpsSchedule
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe
from nullclass.training.robust import ROBUST_LOSSES, make_robust
from nullclass.training.robust.abstain import AbstainLoss
from nullclass.training.robust.adversarial import AdversarialLoss, perturbed
from nullclass.training.robust.interval import IntervalLoss, worst_logits

RECIPE = Recipe(batch_size=16, epochs=12, learning_rate=5e-3, schedule="late-cosine")


def tiny(has_null: bool = False, seed: int = 3) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(
            "certifiable-small", image_shape=(1, 8, 8), num_classes=3, has_null=has_null
        )


def linear(has_null: bool = False) -> Classifier:
    """Two pixels, whose worst logits are known exactly."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 2 + has_null))
    with torch.no_grad():
        rows = [[1.0, -2.0], [0.5, 1.0], [2.0, 2.0]][: 2 + has_null]
        body[1].weight.copy_(torch.tensor(rows))  # type: ignore[operator]
        body[1].bias.copy_(torch.tensor([0.1, -0.2, 0.3])[: 2 + has_null])  # type: ignore[operator]
    return Classifier(body, 2, has_null=has_null, image_shape=(1, 1, 2))


def corners(image: Tensor, eps: float) -> list[Tensor]:
    """All corners of the ball, cut at 0 and 1."""
    pixels = image.flatten().tolist()
    ends = [(max(0.0, pixel - eps), min(1.0, pixel + eps)) for pixel in pixels]
    return [torch.tensor(corner).view(image.shape) for corner in itertools.product(*ends)]


def test_worst_logits_of_a_linear_model_are_those_of_its_worst_corner() -> None:
    model = linear()
    images = torch.tensor([[0.3, 0.6], [0.05, 0.95]]).view(2, 1, 1, 2)
    labels = torch.tensor([0, 1])
    worst = worst_logits(read_network(model, images.shape[1:]), images, labels, 0.1)
    for image, label, found in zip(images, labels, worst, strict=True):
        at_corners = torch.stack([model(corner[None])[0] for corner in corners(image, 0.1)])
        expected = (at_corners - at_corners[:, label, None]).amax(dim=0)
        assert torch.allclose(found, expected, atol=1e-6)


def loss_by_hand(loss: IntervalLoss, model: Classifier, images: Tensor, labels: Tensor) -> float:
    """At full ε, without attack and regulariser: from the worst corner of a linear model."""
    worst = []
    for image, label in zip(images, labels, strict=True):
        at_corners = torch.stack([model(corner[None])[0] for corner in corners(image, loss.eps)])
        worst.append((at_corners - at_corners[:, label, None]).amax(dim=0).tolist())
    of_bounds = -sum(
        row[label] - math.log(sum(map(math.exp, row)))
        for row, label in zip(worst, labels.tolist(), strict=True)
    ) / len(worst)
    of_clean = float(F.cross_entropy(model(images), labels).detach())
    return (1 - loss.natural_weight) * of_bounds + loss.natural_weight * of_clean


@pytest.mark.parametrize("natural_weight", [0.0, 0.3])
def test_the_interval_loss_is_its_formula(natural_weight: float) -> None:
    model, loss = linear(), IntervalLoss(0.15, natural_weight=natural_weight)
    images, labels = torch.rand(5, 1, 1, 2, generator=seeded()), torch.tensor([0, 1, 0, 1, 1])
    output = loss.bind(model)(images, labels, 0.9, seeded())
    assert output.loss.item() == pytest.approx(loss_by_hand(loss, model, images, labels), abs=1e-6)
    network = read_network(model, images.shape[1:])
    proved = label_margins(network, images, labels, 0.15, verifier=interval_bounds) > 0
    assert output.num_robust == int(proved.sum())


def test_bounds_of_a_float64_model_are_trained_on_float32_images() -> None:
    images, labels = torch.rand(5, 1, 1, 2, generator=seeded()), torch.tensor([0, 1, 0, 1, 1])
    for loss, has_null in ((IntervalLoss(0.15), False), (AbstainLoss(0.15), True)):
        model = linear(has_null)
        expected = loss.bind(model)(images, labels, 0.9, seeded()).loss.item()
        output = loss.bind(model.double())(images, labels, 0.9, seeded())
        assert output.loss.dtype == torch.float64
        assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_mtl_ibp_mixes_bounds_and_attacked_images() -> None:
    model, images = tiny(), learnable_images(8).images
    labels = torch.arange(8) % 3
    full = IntervalLoss(0.1).bind(model)(images, labels, 0.9, seeded()).loss
    adv_images = perturbed(model, images, labels, 0.1, 1, seeded())
    of_attacked = F.cross_entropy(model(adv_images), labels)
    mixed = IntervalLoss(0.1, bound_weight=0.3).bind(model)(images, labels, 0.9, seeded()).loss
    assert float(mixed) == pytest.approx(0.3 * float(full) + 0.7 * float(of_attacked), rel=1e-5)


def test_sabr_bounds_a_small_box_around_the_attacked_image() -> None:
    """Of a linear model, the corners of all small boxes are those of the ball."""
    model, labels = linear(), torch.tensor([0, 1, 0, 1, 1])
    images = 0.4 + 0.2 * torch.rand(5, 1, 1, 2, generator=seeded())
    whole = IntervalLoss(0.15).bind(model)(images, labels, 0.9, seeded()).loss
    parts = IntervalLoss(0.15, box_share=0.3).bind(model)(images, labels, 0.9, seeded()).loss
    assert float(parts) == pytest.approx(float(whole), rel=1e-5)
    curved, images, labels = tiny(), learnable_images(8).images, torch.arange(8) % 3
    whole = IntervalLoss(0.1).bind(curved)(images, labels, 0.9, seeded()).loss
    parts = IntervalLoss(0.1, box_share=0.3).bind(curved)(images, labels, 0.9, seeded()).loss
    assert float(parts) < float(whole)


def test_the_adversarial_loss_is_its_formula() -> None:
    model = linear(has_null=True)
    images, labels = torch.rand(6, 1, 1, 2, generator=seeded()), torch.tensor([0, 1] * 3)
    output = AdversarialLoss(0.2, num_steps=3).bind(model)(images, labels, 0.9, seeded(4))
    adv_images = perturbed(model, images, labels, 0.2, 3, seeded(4))
    assert float((adv_images - images).abs().max()) <= 0.2 + 1e-6
    probs = model(adv_images).softmax(dim=1)
    refused = -(probs[torch.arange(6), labels] + probs[:, 2]).log().mean()
    clean = F.cross_entropy(model(images), labels)
    assert float(output.loss) == pytest.approx(float(refused + clean) / 2, rel=1e-5)
    fooled = model.predict(adv_images) == 1 - labels
    assert output.num_robust == int((~fooled).sum())


def test_the_attack_of_training_climbs_towards_what_fools() -> None:
    model = tiny(has_null=True)
    images, labels = learnable_images(12).images, torch.arange(12) % 3
    adv_images = perturbed(model, images, labels, 0.3, 10, seeded())
    assert bool(((adv_images >= 0) & (adv_images <= 1)).all())

    def margin(at: Tensor) -> Tensor:
        logits = model(at).detach()
        own = torch.stack([logits[torch.arange(12), labels], logits[:, 3]]).logsumexp(dim=0)
        wrong = logits[:, :3].scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
        return wrong - own

    assert float((margin(adv_images) - margin(images)).mean()) > 0
    assert all(p.requires_grad for p in model.parameters())


def test_null_is_as_good_as_the_label_for_the_abstain_loss() -> None:
    """By hand, from the corners of a linear model: each wrong class is beaten by label or null."""
    model, loss = linear(has_null=True), AbstainLoss(0.1, label_weight=0.5, natural_weight=2.0)
    images, labels = torch.rand(4, 1, 1, 2, generator=seeded(2)), torch.tensor([0, 1, 1, 0])
    output = loss.bind(model)(images, labels, 0.9, seeded())
    total, num_robust = 0.0, 0
    for image, label in zip(images, labels.tolist(), strict=True):
        z = torch.stack([model(corner[None])[0] for corner in corners(image, 0.1)])
        wrong = 1 - label
        either = max(float((z[:, place] - z[:, wrong]).min()) for place in (label, 2))
        num_robust += either > 0
        of_either = math.log(1 + math.exp(-either))
        lows = [float((z[:, label] - z[:, other]).min()) for other in (wrong, 2)]
        total += of_either + 0.5 * math.log(1 + sum(math.exp(-low) for low in lows))
        total += 2.0 * float(F.cross_entropy(model(image[None]), torch.tensor([label])))
    assert float(output.loss) == pytest.approx(total / 4, rel=1e-5)
    assert output.num_robust == num_robust


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.4, 0.8])
def test_eps_rises_from_the_warmup_to_the_ramp(progress: float) -> None:
    expected = min(1.0, max(0.0, (progress - 0.1) / 0.3))
    assert EpsSchedule(0.3, 0.1, 0.4).fraction(progress) == pytest.approx(expected)


def test_before_eps_rises_the_loss_is_the_clean_one() -> None:
    model, images = tiny(), learnable_images(8).images
    labels = torch.arange(8) % 3
    output = IntervalLoss(0.3, warmup=0.2).bind(model)(images, labels, 0.1, seeded())
    assert float(output.loss) == pytest.approx(float(F.cross_entropy(model(images), labels)))
    model = tiny(has_null=True)
    for weight in (0.0, 2.0):
        loss = AbstainLoss(0.3, warmup=0.2, natural_weight=weight)
        output = loss.bind(model)(images, labels, 0.1, seeded())
        assert float(output.loss) == pytest.approx(float(F.cross_entropy(model(images), labels)))


def test_while_eps_rises_the_abstain_loss_weighs_its_bounds_by_the_share_reached() -> None:
    model, images = linear(has_null=True), torch.rand(4, 1, 1, 2, generator=seeded(2))
    labels = torch.tensor([0, 1, 1, 0])
    halfway = AbstainLoss(0.2, warmup=0.0, ramp=0.8, natural_weight=2.0)
    there = AbstainLoss(0.1, warmup=0.0, ramp=0.1, natural_weight=2.0)
    natural = 2 * float(F.cross_entropy(model(images), labels))
    half = float(halfway.bind(model)(images, labels, 0.4, seeded()).loss)
    full = float(there.bind(model)(images, labels, 0.4, seeded()).loss)
    assert half - natural == pytest.approx((full - natural) / 2, rel=1e-4)


def test_certified_training_makes_images_provable_and_clean_training_does_not() -> None:
    data = learnable_images(128)
    plain, certified = tiny(), tiny()
    train(plain, data, TrainConfig(RECIPE))
    train(certified, data, TrainConfig(RECIPE, robust=IntervalLoss(0.1)))

    def proved(model: Classifier) -> float:
        found = label_margins(
            read_network(model, data.images.shape[1:]),
            data.images,
            data.labels,
            0.1,
            norm="linf",
            verifier=interval_bounds,
        )
        return float((found > 0).float().mean())

    assert proved(certified) > 0.9
    assert proved(plain) < 0.5


@pytest.mark.parametrize("name", ROBUST_LOSSES)
def test_settings_and_default_ramp(name: str) -> None:
    loss = make_robust(name, {"eps": 0.25})
    settings = json.loads(json.dumps(loss.settings()))
    assert settings == asdict(loss)
    assert type(loss)(**settings) == loss
    assert RAMPS[name] == (loss.warmup, loss.ramp)


BAD: list[tuple[str, dict[str, Any], str]] = [
    *(("interval", {"eps": eps}, "the training eps must be in") for eps in (0.0, 1.5, math.nan)),
    ("interval", {"eps": 0.1, "warmup": 0.5, "ramp": 0.4}, "warmup must be at least 0 and below"),
    ("interval", {"eps": 0.1, "natural_weight": 1.0}, "natural_weight must be in"),
    ("mtl-ibp", {"eps": 0.1, "bound_weight": 0.0}, "bound_weight must be in"),
    ("interval", {"eps": 0.1, "box_share": 0.0}, "box_share must be in"),
    ("mtl-ibp", {"eps": 0.1, "num_steps": 0}, "num_steps must be a whole number"),
    ("adversarial", {"eps": 0.1, "num_steps": 0}, "num_steps must be a whole number"),
    ("abstain", {"eps": 0.1, "label_weight": -1.0}, "must not be negative"),
    ("abstain", {"eps": 0.1, "label_weight": 0.0, "natural_weight": 0.0}, "would become null"),
    ("abstain", {"eps": 0.1, "alpha": 1}, "does not take these settings"),
    ("ibp", {"eps": 0.1}, "the robust loss must be one of interval"),
]


@pytest.mark.parametrize(("name", "settings", "says"), BAD)
def test_settings_out_of_range(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_robust(name, settings)


def test_models_that_a_loss_does_not_apply_to() -> None:
    with pytest.raises(UserError, match="needs a model with one null logit"):
        AbstainLoss(0.1).bind(tiny())
    with pytest.raises(UserError, match="at most one null logit"):
        AdversarialLoss(0.1).bind(Classifier(nn.Linear(4, 6), 3, num_nulls=3))
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(UserError, match="gelu"):
        IntervalLoss(0.1).bind(Classifier(body, 2, has_null=False, image_shape=(1, 2, 2)))


def with_batch_norm(num_outputs: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Flatten(), nn.Linear(4 * 64, num_outputs),
        )  # fmt: skip


@pytest.mark.parametrize("name", ["interval", "mtl-ibp", "abstain"])
def test_bounds_are_not_trained_through_batch_norm_and_folding_it_helps(name: str) -> None:
    has_null = name == "abstain"
    robust = make_robust(name, {"eps": 0.05})
    body = with_batch_norm(3 + has_null)
    model = Classifier(body, 3, has_null=has_null)
    for is_training in (True, False):
        with pytest.raises(UserError, match=r"layer '1' is batch norm.*fuse_conv_bn_eval"):
            train(model.train(is_training), learnable_images(), TrainConfig(RECIPE, robust=robust))
    train(model, learnable_images(), TrainConfig(RECIPE))  # trained without bounds it works
    fused = nn.utils.fusion.fuse_conv_bn_eval(body[0].eval(), body[1].eval())
    folded = Classifier(nn.Sequential(fused, *body[2:]), 3, has_null=has_null)
    images = learnable_images().images
    torch.testing.assert_close(folded.eval()(images), model.eval()(images), atol=1e-4, rtol=1e-4)
    recipe = replace(RECIPE, epochs=4, learning_rate=1e-3)
    history = train(folded, learnable_images(), TrainConfig(recipe, robust=robust))
    assert history[-1].train_accuracy > 0.5


def test_adversarial_training_of_a_network_with_batch_norm() -> None:
    model = Classifier(with_batch_norm(4), 3)
    history = train(model, learnable_images(), TrainConfig(RECIPE, robust=AdversarialLoss(0.05)))
    assert history[-1].train_accuracy > 0.9


@pytest.mark.parametrize(
    "robust", [AbstainLoss(eps=0.2), IntervalLoss(eps=0.5, natural_weight=0.1)]
)
def test_a_robust_loss_above_that_of_guessing_is_no_failure(robust: Any) -> None:
    images = torch.zeros(64, 1, 1, 2)
    labels = torch.arange(64) % 2
    images[torch.arange(64), 0, 0, labels] = 1.0
    model = linear(has_null=isinstance(robust, AbstainLoss))
    recipe = Recipe(batch_size=16, epochs=20, learning_rate=1e-3)
    (*_, last) = train(model, (images, labels), TrainConfig(recipe, robust=robust))
    assert last.loss >= math.log(2)

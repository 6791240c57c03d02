"""Auto-PGD: its schedule by hand, its steps against a plain transcription and the authors' code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from worlds import Digits, fooled, outcome_of, seeded

from nullclass.attacks import APGD, MultiTargetedAPGD
from nullclass.attacks.apgd import ALPHA, RHO, _run_steps, checkpoints
from nullclass.attacks.counters import count_passes
from nullclass.attacks.losses import LossName, find_objective
from nullclass.attacks.state import AttackState
from nullclass.core.norms import BALLS, is_allowed
from nullclass.models import Classifier

EPS = {"linf": 0.1, "l2": 0.6, "l1": 2.0}


def test_checkpoints_by_hand() -> None:
    # p: 0, 0.22, then + max(0.22 - 0.03, 0.06) = 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99.
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]  # 2.2, 4.1, 5.7, 7, 8, 8.7, 9.3, 9.9
    assert checkpoints(1) == [1]


def bumpy_model() -> Classifier:
    """Sines of the pixels: no step size is right everywhere. It never answers a wrong class."""

    class Bumpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            draws = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)).double()
            self.register_buffer("waves", draws)

        def forward(self, images: Tensor) -> Tensor:
            phases = 25 * images.flatten(1)[:, None] * self.waves[0]
            bumps = (phases.sin() * self.waves[1]).sum(dim=2)
            return bumps + torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64)

    return Classifier(Bumpy(), num_classes=2).double()


def plain_apgd(
    model: Classifier, image: Tensor, eps: float, norm: str, num_steps: int
) -> tuple[float, list[float]]:
    """Algorithm 1 line by line for one image: f_max and all step sizes."""
    objective, label = find_objective("fool"), torch.zeros(1, dtype=torch.int64)
    project, step_along = BALLS[norm].project, BALLS[norm].step

    def f(x: Tensor) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_()
        value = objective.loss(model(x), label, 2, "margin")
        return float(value.detach()), torch.autograd.grad(value.sum(), x)[0]

    eta, etas, x, x_before = 2 * eps, [], image, image
    value, gradient = f(x)
    x_max, f_max, gradient_max = x, value, gradient
    rises, eta_then, f_max_then, last = 0, eta, f_max, 0
    for k in range(num_steps):
        z = project(x + eta * step_along(gradient, x), image, eps)
        if k == 0:
            new = z
        else:
            new = project(x + ALPHA * (z - x) + (1 - ALPHA) * (x - x_before), image, eps)
        new_value, new_gradient = f(new)
        rises += new_value > value
        x_before, x, value, gradient = x, new, new_value, new_gradient
        if value > f_max:
            x_max, f_max, gradient_max = x, value, gradient
        if k + 1 in checkpoints(num_steps):
            is_slow = rises < RHO * (k + 1 - last)
            is_stuck = eta_then == eta and f_max_then == f_max
            eta_then, f_max_then, rises, last = eta, f_max, 0, k + 1
            if is_slow or is_stuck:
                eta, x, value, gradient = eta / 2, x_max, f_max, gradient_max
            etas.append(eta)
    return f_max, etas


@pytest.mark.parametrize("norm", BALLS)
def test_the_steps_are_algorithm_1_image_by_image(norm: str) -> None:
    model = bumpy_model()
    num_images, num_steps = 3 if norm == "l1" else 6, 60
    images = torch.rand(num_images, 1, 2, 3, generator=seeded(1)).double()
    labels = torch.zeros(num_images, dtype=torch.int64)
    eps = EPS[norm] * torch.linspace(0.3, 1, num_images).double()

    def margin(logits: Tensor, indices: Tensor) -> Tensor:
        return find_objective("fool").loss(logits, labels[indices], 2, "margin")

    num_halvings = set()
    for index in range(num_images):  # alone: on such a function the last bit of a sum soon matters
        one, budget = images[index : index + 1], float(eps[index])
        state = AttackState(model, one, labels[:1], eps=budget, norm=norm, objective="fool")
        _run_steps(state, torch.tensor([0]), one, margin, num_steps)
        best, etas = plain_apgd(model, one, budget, norm, num_steps)
        assert state.active.all()
        assert float(state.best) == pytest.approx(best, abs=1e-5)
        reached = margin(model(state.adv_images), torch.tensor([0]))
        assert float(reached.detach()) == pytest.approx(best, abs=1e-5)
        num_halvings.add(round(math.log2(2 * budget / etas[-1])))
    assert len(num_halvings) > 1, "not every checkpoint halves"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_authors_code_takes_the_same_steps(digits: Digits, norm: str) -> None:
    theirs = pytest.importorskip("pyautoattack.autopgd_base")
    model, images, labels = digits.plain, digits.images[:200], digits.labels[:200]
    eps = {"linf": 0.06, "l2": 0.35}[norm]
    attack = theirs.APGDAttack(model, eps=eps, norm=norm.capitalize(), loss="dlr", device="cpu")
    attack.init_hyperparam(images)
    with torch.random.fork_rng():
        _, is_active, best, _ = attack.attack_single_run(images, labels, x_init=images)
    state = AttackState(model, images, labels, eps=eps, norm=norm, objective="fool")

    largest = torch.full_like(best, -torch.inf)

    def dlr(logits: Tensor, indices: Tensor) -> Tensor:
        losses = state.loss("dlr")(logits, indices)
        largest[indices] = largest[indices].maximum(losses.detach())
        return losses

    for indices in state.batches():
        _run_steps(state, indices, images[indices], dlr, 100)
    assert 20 < int(state.active.sum()) < 180, "a budget that decides something"
    assert (state.active == is_active.bool()).double().mean() >= 0.99
    both = state.active & is_active.bool()
    is_same = (largest - best)[both].abs() < 1e-3
    # Theirs halves at exactly rho too, and not for want of progress at the first checkpoint.
    assert is_same.double().mean() > 0.9


@pytest.mark.parametrize("norm", ["linf", "l2", pytest.param("l1", marks=pytest.mark.slow)])
def test_no_weaker_than_the_authors_attack(digits: Digits, norm: str) -> None:
    theirs = pytest.importorskip("pyautoattack.autopgd_base")
    model, images, labels = digits.plain, digits.images[:25], digits.labels[:25]
    eps = {"linf": 0.06, "l2": 0.35, "l1": 1.2}[norm]
    setting = {"eps": eps, "norm": norm.capitalize(), "n_iter": 50, "device": "cpu"}
    with torch.random.fork_rng():
        plain = theirs.APGDAttack(model, loss="ce", **setting).perturb(images, labels)
        targeted = theirs.APGDAttack_targeted(model, n_target_classes=9, **setting)
        targeted = targeted.perturb(images, labels)
    for ours, other in ((APGD(num_steps=50), plain), (MultiTargetedAPGD(num_steps=50), targeted)):
        adv_images = ours(model, images, labels, eps=eps, norm=norm)
        assert is_allowed(adv_images, images, eps, norm).all()
        counts = [int(fooled(model, tried, labels).sum()) for tried in (adv_images, other)]
        assert 3 < counts[1] < 23, "a budget that decides something"
        assert counts[0] >= counts[1] - 1, counts  # theirs starts at random


@pytest.mark.parametrize("loss", ["logsumexp-margin", "dlr"])
def test_restarts_targets_and_steps_only_add(digits: Digits, loss: LossName) -> None:
    model, images, labels = digits.guarded, digits.images[:100], digits.labels[:100]

    def found(attack: APGD | MultiTargetedAPGD) -> Tensor:
        adv_images = attack(model, images, labels, eps=0.08, generator=seeded())
        return fooled(model, adv_images, labels)

    once, thrice = (found(APGD(loss=loss, num_steps=10, num_restarts=n)) for n in (1, 3))
    assert (thrice | ~once).all()
    few, many = (
        found(MultiTargetedAPGD(loss=loss, num_steps=10, num_targets=t)) for t in (1, None)
    )
    assert (many | ~few).all()
    assert many.sum() > few.sum()
    long = found(APGD(loss=loss, num_steps=50))
    assert long.sum() >= once.sum()  # another schedule, so not image by image


@pytest.mark.parametrize("norm", EPS)
def test_null_does_not_stop_it(digits: Digits, norm: str) -> None:
    model, images, labels = digits.guarded, digits.images[:100], digits.labels[:100]
    untargeted, fool = (
        fooled(
            model, APGD(goal, num_steps=50)(model, images, labels, eps=EPS[norm], norm=norm), labels
        ).sum()
        for goal in ("untargeted", "fool")  # type: ignore[arg-type]
    )
    assert fool >= untargeted + 3


def test_successes_and_images_without_a_gradient_cost_one_pass() -> None:
    class Ramp(nn.Module):
        """Other class grows with the first pixel above 0.5, and is flat below."""

        def forward(self, x: Tensor) -> Tensor:
            first = x.flatten(1)[:, 0]
            return torch.stack([first * 0, 100 * (first - 0.5).relu() - 20, first * 0 - 50], dim=1)

    model = Classifier(Ramp(), 2)
    images = torch.tensor([0.1, 0.6, 0.75]).view(3, 1, 1, 1)
    labels = torch.zeros(3, dtype=torch.int64)
    assert outcome_of(model, images, labels) == ["correct", "correct", "fooled"]
    with count_passes(model) as passes:
        adv_images = APGD(num_steps=50)(model, images, labels, eps=0.05)
    # Flat: one pass. Success: one pass. The second moves, but not far enough: 51.
    assert passes.forward == 1 + 1 + 51
    assert passes.backward == 3 + 49, "one per step, none at the last pass"
    torch.testing.assert_close(adv_images.flatten(), torch.tensor([0.1, 0.65, 0.75]))
    with count_passes(model) as passes:
        adv_images = APGD(num_steps=50)(model, images, labels, eps=0.2)
    assert outcome_of(model, adv_images, labels)[1] == "fooled"
    assert passes.forward < 10, "as soon as it succeeds"


def test_steps_shrink_to_what_is_needed() -> None:
    # A narrow ridge that steps of the size of the ball jump over, and halved ones find.
    class Ridge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = x.flatten(1)[:, 0]
            return torch.stack([first * 0, 0.004 - (first - 0.613).abs(), first * 0 - 50], dim=1)

    model, image = Classifier(Ridge(), 2), torch.full((1, 1, 1, 1), 0.5)
    label = torch.zeros(1, dtype=torch.int64)
    adv_images = APGD(loss="margin")(model, image, label, eps=0.4)
    assert outcome_of(model, adv_images, label) == ["fooled"]

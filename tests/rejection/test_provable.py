"""The claim itself, where f is known everywhere; and that the model is one as any other."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proof_worlds import line_world, square_grid, tiny_net
from torch import nn

from nullclass.attacks import PGD, DatasetAttack, MultiTargetedPGD
from nullclass.attacks.base import frozen
from nullclass.attacks.counters import counted
from nullclass.core.errors import UserError
from nullclass.evaluation.run import evaluate
from nullclass.models import Classifier
from nullclass.models.dropout import Dropout
from nullclass.rejection import provable as provable_module
from nullclass.rejection.provable import ProvableNull
from nullclass.rejection.threshold import with_threshold
from nullclass.scoring.prove import proof_rows


def test_of_a_line_it_answers_exactly_beyond_the_radius() -> None:
    x = torch.linspace(0, 1, 1001)
    for radius in (0.0, 0.1, 0.25):
        answers = ProvableNull(line_world(), radius).predict(x.view(-1, 1, 1, 1))
        exact = torch.where(x > 0.5 + radius, 0, torch.where(x < 0.5 - radius, 1, -1))
        is_clear = ((x - 0.5).abs() - radius).abs() > 1e-4  # within that, rounding may refuse
        assert torch.equal(answers[is_clear], exact[is_clear])
        wrong = (answers >= 0) & (answers != (x < 0.5).long())
        assert not wrong.any()


def test_in_l2_of_a_line_through_the_plane_the_distance_is_exact() -> None:
    across, rest = nn.Linear(2, 1), nn.Linear(1, 2)
    with torch.no_grad():
        across.weight.copy_(torch.tensor([[3.0, 4.0]]))
        across.bias.fill_(-3.5)
        rest.weight.copy_(torch.tensor([[1.0], [0.0]]))
        rest.bias.zero_()
    model = Classifier(nn.Sequential(nn.Flatten(), across, rest), 2, has_null=False)
    images = square_grid(41)
    distance = (images.flatten(1) @ torch.tensor([3.0, 4.0]) - 3.5) / 5
    answers = ProvableNull(model, 0.2, norm="l2").predict(images)
    exact = torch.where(distance > 0.2, 0, torch.where(distance < -0.2, 1, -1))
    is_clear = (distance.abs() - 0.2).abs() > 1e-4
    assert torch.equal(answers[is_clear], exact[is_clear])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("radius", "eps"), [(0.05, 0.1), (0.03, 0.1), (0.08, 0.1), (0.1, 0.04)])
def test_the_claim_holds_everywhere_on_a_grid(seed: int, radius: float, eps: float) -> None:
    model = tiny_net(seed)
    images = square_grid(51)
    points = images.flatten(1).double()
    truth = copy.deepcopy(model).double().predict(images.double())
    guarded = ProvableNull(model, radius)
    answers = guarded.predict(images)
    apart = torch.cdist(points, points, p=torch.inf)
    answered = answers >= 0
    assert answered.any()
    assert not answered.all()
    # Sound: where it answers k, f says k all around.
    near = apart <= radius + 1e-9
    assert not (near & answered[:, None] & (truth[None] != answers[:, None])).any()
    # The claim, with the truth as labels and with labels that are wrong.
    within = apart <= eps + 1e-9
    for labels in (truth, (truth + 1) % 3):
        rows = proof_rows(guarded, (images, labels), eps)
        never = torch.tensor(rows["is_never_fooled"].to_numpy())
        fooling = (answers >= 0)[None] & (answers[None] != labels[:, None])
        assert not (within & never[:, None] & fooling).any()
        always = torch.tensor(rows["is_correct_proved"].to_numpy())
        assert not (within & always[:, None] & (answers[None] != labels[:, None])).any()
        rar = torch.tensor(rows["is_rar_proved"].to_numpy())
        assert torch.equal(rar, never & (answers == labels))
        if labels is truth:
            assert never.any()
            assert bool(always.any()) or eps + radius > 0.12
        else:
            assert not never.any()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["linf", "l2"]), st.floats(0.01, 0.2))
def test_no_random_point_of_the_ball_is_answered_wrongly(
    seed: int, norm: str, radius: float
) -> None:
    model = tiny_net(seed, num_classes=4, pixels=5)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((40, 1, 1, 5), generator=generator)
    labels = model.predict(images)
    guarded = ProvableNull(model, radius, norm=norm)
    eps = 1.7 * radius
    rows = proof_rows(guarded, (images, labels), eps, norm=norm)
    never = torch.tensor(rows["is_never_fooled"].to_numpy())
    for _ in range(20):
        delta = 2 * torch.rand(images.shape, generator=generator) - 1
        if norm == "l2":
            delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        moved = (images + eps * delta).clamp(0, 1)
        answers = guarded.predict(moved)
        assert not (never & (answers >= 0) & (answers != labels)).any()


@pytest.mark.parametrize("seed", range(5))
def test_attacks_through_the_bounds_never_beat_the_proof(seed: int) -> None:
    model = tiny_net(seed, num_classes=4, pixels=9, scale=2.0, hidden=16)
    images = torch.rand((120, 1, 3, 3), generator=torch.Generator().manual_seed(seed))
    labels = model.predict(images)
    found = evaluate(
        ProvableNull(model, 0.02),
        (images, labels),
        attacks={
            "pgd": PGD(num_steps=20),
            "targets": MultiTargetedPGD(num_steps=20),
            "swap": DatasetAttack(),
            "force-null": PGD(objective="force-null", num_steps=10),
        },
        eps=[0.02, 0.04, 0.08, 0.3],
        proofs="interval",
        num_smallest=30,
        seed=seed,
    )
    assert "proof-broken" not in {flag.name for flag in found.flags}
    rates = found.summary().set_index(["attack", "metric", "eps_pixels"])["value"]
    assert rates["proof", "rar_proved", 0.04] > 0.1, "nothing was proved: the test says nothing"
    for eps in (0.02, 0.04, 0.08, 0.3):
        assert rates["proof", "rar_proved", eps] <= rates["union", "rar", eps]
        assert rates["proof", "strict_proved", eps] <= rates["union", "strict", eps]
        assert rates["proof", "aer_bound", eps] >= rates["union", "aer", eps]
    # The attacks do find something where nothing is proved: they can climb through the bounds.
    assert rates["union", "aer", 0.3] > 0.1


def test_gradients_flow_and_the_model_is_left_as_found() -> None:
    model = tiny_net(1)
    guarded = ProvableNull(model, 0.05)
    images = square_grid(9).requires_grad_()
    with frozen(guarded), counted(guarded) as passes:
        logits = guarded(images)
        (gradient,) = torch.autograd.grad(logits[:, :3].amax(dim=1).sum(), images)
    assert passes.forward == passes.backward == 81
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).float().mean() > 0.9
    assert all(parameter.requires_grad for parameter in model.parameters())
    # And it is the gradient of the bound: by differences.
    logits = guarded.double()(images.detach().double().requires_grad_())
    at = images.detach().double()
    step = 1e-6 * torch.tensor([1.0, 0.0]).double().view(1, 1, 1, 2)
    rise = (guarded(at + step) - guarded(at - step))[:, 0] / 2e-6
    x = at.clone().requires_grad_()
    (exact,) = torch.autograd.grad(guarded(x)[:, 0].sum(), x)
    is_smooth = (rise - exact[:, 0, 0, 0]).abs() < 1e-4
    inner = ((at > 0.06) & (at < 0.94)).flatten(1).all(dim=1)
    assert is_smooth[inner].float().mean() > 0.9


def test_its_logits_say_null_exactly_where_no_margin_is_positive() -> None:
    guarded = ProvableNull(tiny_net(2), 0.05)
    with torch.no_grad():
        margins = guarded(square_grid(31))[:, :3]
    answers = guarded.predict(square_grid(31))
    assert torch.equal(answers >= 0, (margins > 0).any(dim=1))
    assert ((margins > 0).sum(dim=1) <= 1).all()
    thresholded = with_threshold(guarded, 0.0)
    assert torch.equal(thresholded.predict(square_grid(31)), answers)
    stricter = with_threshold(guarded, -0.5).predict(square_grid(31))
    assert torch.equal(stricter, torch.where(margins.amax(dim=1) > 0.5, answers, -1))


def test_a_tie_is_null() -> None:
    model = tiny_net(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (ProvableNull(model, 0.0).predict(square_grid(5)) == -1).all()


def test_with_many_classes_the_top_one_alone_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = ProvableNull(tiny_net(3, num_classes=6), 0.03)
    images = square_grid(31)
    by_pairs, logits = guarded.predict(images), guarded(images)
    monkeypatch.setattr(provable_module, "MOST_PAIRED", 2)
    assert torch.equal(guarded.predict(images), by_pairs)
    answered = by_pairs >= 0
    torch.testing.assert_close(
        guarded(images)[answered].amax(dim=1), logits[answered].amax(dim=1), atol=1e-5, rtol=0
    )


def test_bounds_follow_the_weights_and_the_statistics() -> None:
    body = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )
    model = Classifier(body, 3, has_null=False, mean=(0.3,), std=(0.5,))
    guarded, images = ProvableNull(model, 0.02), square_grid(11)
    before = guarded(images)
    with torch.no_grad():
        body[1].running_mean.add_(0.5)
        body[1].weight.mul_(1.5)
        body[4].weight.mul_(2)
    after = guarded(images)
    assert not torch.allclose(before, after)
    assert torch.equal(after, ProvableNull(copy.deepcopy(model), 0.02)(images))
    guarded.train()
    assert not body[1].training, "bounds are of the model in evaluation mode"
    expand_eps = guarded.double()(images)
    assert expand_eps.dtype == torch.float64
    assert (expand_eps[:, :3].amax(dim=1) >= after[:, :3].amax(dim=1)).all()


def test_batches_do_not_matter() -> None:
    guarded, images = ProvableNull(tiny_net(4), 0.04), square_grid(21)
    whole = guarded(images)
    parts = torch.cat([guarded(part) for part in images.split(17)])
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    assert guarded(images[:0]).shape == (0, 4)


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).sin()


def test_bad_input_is_refused_in_a_sentence() -> None:
    model = tiny_net(0)
    for radius in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="radius"):
            ProvableNull(model, radius)
    with pytest.raises(UserError, match="no null of its own"):
        ProvableNull(tiny_net(0, num_nulls=1), 0.1)
    with pytest.raises(UserError, match="linf or l2"):
        ProvableNull(model, 0.1, norm="l1")
    with pytest.raises(UserError, match="there is no verifier 'guess'"):
        ProvableNull(model, 0.1, verifier="guess")
    with pytest.raises(UserError, match="sin"):
        ProvableNull(Classifier(Odd(), 2, has_null=False), 0.1)
    soft = nn.Sequential(nn.Softmax(dim=1), nn.Flatten(), nn.Linear(2, 3))
    with pytest.raises(UserError, match=r"'0'.*Softmax"):
        ProvableNull(Classifier(soft, 3, has_null=False), 0.1)


def test_dropout_is_off() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), Dropout(0.5), nn.Linear(8, 3))
    model = Classifier(body, 3, has_null=False).train()
    guarded, images = ProvableNull(model, 0.01), square_grid(5)
    assert torch.equal(guarded(images), guarded(images))

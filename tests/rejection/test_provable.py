"""ProvableNull: the claim where f is known everywhere, and a model like any other."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proof_worlds import distances, line_world, random_moves, square_grid, tiny_net
from torch import Tensor, nn

from nullclass.attacks import PGD, DatasetAttack, MultiTargetedPGD
from nullclass.attacks.counters import count_passes
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.rng import fork_rng
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import find_violations
from nullclass.models import Classifier, build_model
from nullclass.models.dropout import Dropout
from nullclass.rejection import ProvableNull, provable, with_proof, with_threshold
from nullclass.results.schema import LEFT_OUT
from nullclass.scoring import audit
from nullclass.scoring.proofs import prove


def test_on_a_line_it_predicts_exactly_beyond_the_radius() -> None:
    x = torch.linspace(0, 1, 1001)
    for radius in (0.0, 0.1, 0.25):
        predicted = ProvableNull(line_world(), radius).predict(x.view(-1, 1, 1, 1))
        exact = torch.where(x > 0.5 + radius, 0, torch.where(x < 0.5 - radius, 1, -1))
        is_clear = ((x - 0.5).abs() - radius).abs() > 1e-4  # closer, rounding may refuse
        assert torch.equal(predicted[is_clear], exact[is_clear])
        assert not ((predicted >= 0) & (predicted != (x < 0.5).long())).any()


def test_in_l2_the_distance_from_a_line_is_exact() -> None:
    across, rest = nn.Linear(2, 1), nn.Linear(1, 2)
    with torch.no_grad():
        across.weight.copy_(torch.tensor([[3.0, 4.0]]))
        across.bias.fill_(-3.5)
        rest.weight.copy_(torch.tensor([[1.0], [0.0]]))
        rest.bias.zero_()
    model = Classifier(nn.Sequential(nn.Flatten(), across, rest), 2, has_null=False)
    images = square_grid(41)
    distance = (images.flatten(1) @ torch.tensor([3.0, 4.0]) - 3.5) / 5
    predicted = ProvableNull(model, 0.2, norm="l2").predict(images)
    exact = torch.where(distance > 0.2, 0, torch.where(distance < -0.2, 1, -1))
    is_clear = (distance.abs() - 0.2).abs() > 1e-4
    assert torch.equal(predicted[is_clear], exact[is_clear])


@pytest.fixture(scope="module")
def grid() -> tuple[Tensor, Tensor]:
    """All images on a grid, and their distances."""
    images = square_grid(51)
    return images, distances(images)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("radius", "eps"), [(0.05, 0.1), (0.03, 0.1), (0.08, 0.1), (0.1, 0.04)])
def test_the_claim_holds_everywhere_on_a_grid(
    seed: int, radius: float, eps: float, grid: tuple[Tensor, Tensor]
) -> None:
    model, (images, distance) = tiny_net(seed), grid
    truth = copy.deepcopy(model).double().predict(images.double())
    guarded = ProvableNull(model, radius)
    predicted = guarded.predict(images)
    is_answered = predicted >= 0
    assert is_answered.any()
    assert not is_answered.all()
    # Sound: where it predicts k, f predicts k on the ball.
    is_claimed = (distance <= radius + 1e-9) & is_answered[:, None]
    assert not (is_claimed & (truth[None] != predicted[:, None])).any()
    # The claim, with the true labels and with wrong ones.
    is_near = distance <= eps + 1e-9
    for labels in (truth, (truth + 1) % 3):
        rows = prove(guarded, (images, labels), eps)
        never, always, rar = (
            torch.tensor(rows[name].to_numpy())
            for name in ("is_never_fooled", "is_correct_proved", "is_rar_proved")
        )
        is_wrong = is_near & (predicted[None] != labels[:, None])
        assert not (is_wrong & never[:, None] & is_answered[None]).any()
        assert not (is_wrong & always[:, None]).any()
        assert torch.equal(rar, never & (predicted == labels))
        assert never.any() == (labels is truth)
        assert labels is not truth or bool(always.any()) or eps + radius > 0.12


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["linf", "l2"]), st.floats(0.01, 0.2))
def test_no_random_point_of_the_ball_is_misclassified(seed: int, norm: str, radius: float) -> None:
    model = tiny_net(seed, num_classes=4, pixels=5)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((40, 1, 1, 5), generator=generator)
    labels = model.predict(images)
    guarded, eps = ProvableNull(model, radius, norm=norm), 1.7 * radius
    rows = prove(guarded, (images, labels), eps, norm=norm)
    never = torch.tensor(rows["is_never_fooled"].to_numpy())
    predicted = guarded.predict(random_moves(images, eps, norm, generator, 20)).view(20, -1)
    assert not (never & (predicted >= 0) & (predicted != labels)).any()


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]


@pytest.mark.parametrize("seed", SEEDS)
def test_attacks_through_the_bounds_never_beat_the_proof(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "NUM_AUDITED", 1000)  # proved images are attacked
    model = tiny_net(seed, num_classes=4, pixels=9, scale=2.0, hidden=16)
    num_images = 120 if seed else 60
    images = torch.rand((num_images, 1, 3, 3), generator=torch.Generator().manual_seed(seed))
    found = evaluate(
        ProvableNull(model, 0.02),
        (images, model.predict(images)),
        attacks={
            "pgd": PGD(num_steps=20),
            "targets": MultiTargetedPGD(num_steps=20),
            "dataset": DatasetAttack(),
            "force-null": PGD(objective="force-null", num_steps=10),
        },
        eps=[0.02, 0.04, 0.08, 0.3],
        proofs="interval",
        checks=False,
        seed=seed,
    )
    assert LEFT_OUT not in set(found.rows["member"])
    assert find_violations(found.rows, found.certified).violations.empty
    rates = found.summary().set_index(["attack", "metric", "eps_pixels"])["value"]
    assert rates["proof", "rar_proved", 0.04] > 0.1, "nothing is proved: the test is empty"
    for eps in (0.02, 0.04, 0.08, 0.3):
        assert rates["proof", "rar_proved", eps] <= rates["union", "rar", eps]
        assert rates["proof", "strict_proved", eps] <= rates["union", "strict", eps]
        assert rates["proof", "aer_bound", eps] >= rates["union", "aer", eps]
    # Where nothing is proved the attacks succeed: they can climb through the bounds.
    assert rates["union", "aer", 0.3] > 0.1


def test_gradients_are_those_of_the_bound_and_the_model_is_left_as_it_was() -> None:
    model = tiny_net(1)
    guarded = ProvableNull(model, 0.05)
    images = square_grid(9).requires_grad_()
    with frozen(guarded), count_passes(guarded) as passes:
        (gradient,) = torch.autograd.grad(guarded(images)[:, :3].amax(dim=1).sum(), images)
    assert passes.forward == passes.backward == 81
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).float().mean() > 0.9
    assert all(parameter.requires_grad for parameter in model.parameters())
    at = images.detach().double()
    guarded.double()
    step = 1e-6 * torch.tensor([1.0, 0.0]).double().view(1, 1, 1, 2)
    slope = (guarded(at + step) - guarded(at - step))[:, 0] / 2e-6
    x = at.clone().requires_grad_()
    (exact,) = torch.autograd.grad(guarded(x)[:, 0].sum(), x)
    is_equal = (slope - exact[:, 0, 0, 0]).abs() < 1e-4
    is_inside = ((at > 0.06) & (at < 0.94)).flatten(1).all(dim=1)
    assert is_equal[is_inside].float().mean() > 0.9


def test_its_logits_are_null_exactly_where_no_margin_is_positive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guarded, images = ProvableNull(tiny_net(2), 0.05), square_grid(31)
    with torch.no_grad():
        margins = guarded(images)[:, :3]
    predicted = guarded.predict(images)
    assert torch.equal(predicted >= 0, (margins > 0).any(dim=1))
    assert ((margins > 0).sum(dim=1) <= 1).all()
    assert torch.equal(with_threshold(guarded, 0.0).predict(images), predicted)
    stricter = with_threshold(guarded, -0.5).predict(images)
    assert torch.equal(stricter, torch.where(margins.amax(dim=1) > 0.5, predicted, -1))
    monkeypatch.setattr(provable, "MAX_PAIRED_CLASSES", 2)  # only the largest logit is bounded
    assert torch.equal(guarded.predict(images), predicted)
    top = [each[predicted >= 0].amax(dim=1) for each in (guarded(images)[:, :3], margins)]
    torch.testing.assert_close(*top, atol=1e-5, rtol=0)


def test_bounds_follow_layers_weights_and_statistics() -> None:
    with fork_rng(0):  # some first weights leave all units at zero
        body = nn.Sequential(
            nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
        )
    model = Classifier(body, 3, has_null=False, mean=(0.3,), std=(0.5,))
    guarded, images = ProvableNull(model, 0.02), square_grid(11)
    with torch.no_grad():
        for change in (
            lambda: body[1].running_mean.add_(0.5),
            lambda: body[4].weight.mul_(2),
            lambda: setattr(body, "2", nn.Tanh()),
        ):
            before = guarded(images)
            change()
            after = guarded(images)
            assert not torch.allclose(before, after)
            assert torch.equal(after, ProvableNull(copy.deepcopy(model), 0.02)(images))
    guarded.train()
    assert not body[1].training, "bounds are of the model in evaluation mode"
    double = guarded.double()(images)
    assert double.dtype == torch.float64
    assert (double[:, :3].amax(dim=1) >= after[:, :3].amax(dim=1)).all()


def test_batches_and_dropout_do_not_matter() -> None:
    guarded, images = ProvableNull(tiny_net(4), 0.04), square_grid(21)
    parts = torch.cat([guarded(part) for part in images.split(17)])
    torch.testing.assert_close(guarded(images), parts, atol=1e-5, rtol=0)
    assert guarded(images[:0]).shape == (0, 4)
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), Dropout(0.5), nn.Linear(8, 3))
    dropping = ProvableNull(Classifier(body, 3, has_null=False).train(), 0.01)
    assert torch.equal(dropping(images), dropping(images))


def test_nothing_is_proved_without_finite_numbers_or_outside_the_range() -> None:
    model = tiny_net(0)
    guarded, images = ProvableNull(model, 0.02), square_grid(5)
    assert (guarded.predict(images * float("nan")) == -1).all()
    assert (guarded(images + 2).argmax(dim=1) == 3).all()
    with pytest.raises(UserError, match=r"in \[0,1\]"):
        guarded.predict(images + 0.1)
    for value in (float("nan"), 0.0):  # with all logits equal, no class is proved
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        assert (guarded.predict(images) == -1).all()


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sin()


def test_pixels_beyond_the_range_by_rounding_are_moved_into_it() -> None:
    model = ProvableNull(
        build_model("small", image_shape=(1, 8, 8), num_classes=3, has_null=False), 0
    )
    images = torch.rand(2, 1, 8, 8)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1 + 1e-6, torch.nan
    labels = model.predict(images)
    assert torch.equal(labels, model.predict(images.clamp(0, 1)))
    assert labels[1] == -1
    assert model.predict(images[:0]).shape == (0,)
    with pytest.raises(UserError, match=r"from 0 to 1.01"):
        model.predict(torch.tensor([0.0, 1.01]).repeat(32).view(1, 1, 8, 8))


def test_with_proof_changes_what_is_given_and_keeps_the_rest() -> None:
    network = tiny_net(0)
    assert with_proof(network) is network
    with pytest.raises(UserError, match="within a radius: give one"):
        with_proof(network, verifier="interval")
    model = with_proof(network, 0.1, norm="l2")
    assert isinstance(model, ProvableNull)
    assert with_proof(model) is model
    for values, expected in (
        ({"verifier": "crown-ibp"}, (0.1, "l2", "crown-ibp")),
        ({"radius": 0.2, "norm": "l2"}, (0.2, "l2", "interval")),
        ({"radius": 0.2, "verifier": "crown-ibp"}, (0.2, "linf", "crown-ibp")),
    ):
        changed = with_proof(model, **values)  # type: ignore[arg-type]
        assert isinstance(changed, ProvableNull)
        assert changed.model is network
        assert (changed.radius, changed.norm, changed.verifier) == expected


def test_invalid_arguments_are_refused() -> None:
    model = tiny_net(0)
    for radius in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="radius"):
            ProvableNull(model, radius)
    with pytest.raises(UserError, match="no null of its own"):
        ProvableNull(tiny_net(0, num_nulls=1), 0.1)
    with pytest.raises(UserError, match="one of linf, l2"):
        ProvableNull(model, 0.1, norm="l1")
    with pytest.raises(UserError, match=r"verifier must be one of .*'guess'"):
        ProvableNull(model, 0.1, verifier="guess")
    with pytest.raises(UserError, match="sin"):
        ProvableNull(Classifier(Sine(), 2, has_null=False, image_shape=(1, 1, 2)), 0.1)
    shaped = Classifier(model.body, 3, has_null=False, image_shape=(1, 1, 2))
    with pytest.raises(UserError, match=r"shape \(1, 1, 2\) each"):
        ProvableNull(shaped, 0.1).predict(torch.rand(2, 1, 2, 1))

"""The cascade against exact minima by MILP, and planted mistakes."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from msgspec import structs
from torch import Tensor, nn

from nullclass.attacks import PGD, worst_case
from nullclass.attacks.base import run_on
from nullclass.certify import (
    BUDGET,
    CASCADE,
    MARGIN,
    STAGES,
    VERIFIERS,
    VERSION,
    Box,
    Network,
    branching,
    cascade,
    interval_bounds,
    label_spec,
    read_network,
    record_stages,
)
from nullclass.certify.branching import BoundedBall, branch
from nullclass.certify.layers import Linear
from nullclass.core.errors import UserError
from nullclass.core.modules import searched
from nullclass.core.outcomes import NULL_LABEL
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import find_violations
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull, check_certificates, with_proof, with_threshold
from nullclass.scoring import parts, proofs
from nullclass.scoring.parts import Parts
from nullclass.scoring.prediction_cost import seconds_per_image, settled_rows, stage_table
from nullclass.scoring.proofs import prove

RADIUS = 0.4

CUT = 0.6 * RADIUS
"""Within which one of the first images of one model needs branch and bound, and few its bounds."""


def tiny_model(seed: int) -> Classifier:
    """Four pixels, two hidden layers, three classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(
            nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        )
        for parameter in body.parameters():
            parameter.data.mul_(2)
    return Classifier(body, 3, has_null=False, image_shape=(1, 2, 2)).eval().double()


def images_of(seed: int, num: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num, 1, 2, 2, generator=generator, dtype=torch.float64)


def exact_minimum(model: Classifier, image: Tensor, row: Tensor, radius: float) -> float:
    """Minimum of ``row * z`` on the ball, by a mixed-integer programme with big-M ReLUs."""
    lower, upper = (image - radius).clamp(0).flatten(), (image + radius).clamp(max=1).flatten()
    layers = [layer for layer in model.body if isinstance(layer, nn.Linear)]
    lows, highs = [lower.numpy()], [upper.numpy()]
    constraints, sizes = [], [4, 8, 8, 6, 6]  # pixels, then units and binaries of both layers
    starts = np.cumsum([0, *sizes])
    total, inputs = starts[-1], slice(0, 4)
    integral, kinds = np.zeros(total), [(lower.numpy(), upper.numpy())]
    for number, layer in enumerate(layers[:-1]):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        low = np.maximum(weight, 0) @ lows[-1] + np.minimum(weight, 0) @ highs[-1] + bias
        high = np.maximum(weight, 0) @ highs[-1] + np.minimum(weight, 0) @ lows[-1] + bias
        units = slice(starts[2 * number + 1], starts[2 * number + 2])
        binaries = slice(starts[2 * number + 2], starts[2 * number + 3])
        width = len(bias)
        line = np.zeros((width, total))
        line[:, inputs], line[:, units] = -weight, np.eye(width)
        constraints.append(scipy.optimize.LinearConstraint(line, bias, np.inf))  # a >= z
        below = line.copy()  # a <= z - l (1 - d)
        below[:, binaries] = -np.diag(np.minimum(low, 0))
        constraints.append(
            scipy.optimize.LinearConstraint(below, -np.inf, bias - np.minimum(low, 0))
        )
        above = np.zeros((width, total))  # a <= u d
        above[:, units], above[:, binaries] = np.eye(width), -np.diag(np.maximum(high, 0))
        constraints.append(scipy.optimize.LinearConstraint(above, -np.inf, 0))
        integral[binaries] = 1
        lows.append(np.maximum(low, 0))
        highs.append(np.maximum(high, 0))
        kinds += [(lows[-1], highs[-1]), (np.zeros(width), np.ones(width))]
        inputs = units
    last = layers[-1]
    cost = np.zeros(total)
    cost[inputs] = (row @ last.weight.detach()).numpy()
    bounds = scipy.optimize.Bounds(*(np.concatenate(ends) for ends in zip(*kinds, strict=True)))
    found = scipy.optimize.milp(cost, constraints=constraints, integrality=integral, bounds=bounds)
    assert found.success
    return float(found.fun + row @ last.bias.detach())


def rows_at(network: Network, image: Tensor) -> Tensor:
    return label_spec(network.values(image).argmax(dim=1), 3, torch.float64)[0]


@pytest.mark.slow
@torch.no_grad()
def test_everything_is_decided_as_by_mixed_integer_programmes() -> None:
    stages, num_proved = set(), 0
    for seed in (0, 3, 4):
        model = tiny_model(seed)
        network = read_network(model, (1, 2, 2))
        for image in images_of(seed, 12).split(1):
            rows = rows_at(network, image)
            least = min(exact_minimum(model, image, row, RADIUS) for row in rows)
            found = cascade.settle(network, image[0], rows, RADIUS, "linf")
            assert abs(least) > 1e-4, "too close to call"
            assert found.is_proved == (least > 0)
            num_proved += found.is_proved
            stages.add((found.stage, found.is_proved))
    assert 10 < num_proved < 30
    assert {("branch-and-bound", True), ("alpha-crown", True), ("attack", False)} <= stages


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_cutting_proves_only_what_is_above_every_found_value(norm: str) -> None:
    for seed in range(2):
        model = tiny_model(seed)
        network = read_network(model, (1, 2, 2))
        for image in images_of(seed, 2).split(1):
            rows = rows_at(network, image)
            noise = torch.randn(4000, 1, 2, 2, dtype=torch.float64)
            size = noise.abs().amax((1, 2, 3)) if norm == "linf" else noise.flatten(1).norm(dim=1)
            points = (image + RADIUS * noise / size[:, None, None, None]).clamp(0, 1)
            least = (network.values(points) @ rows.T).amin()
            above = least + 1e-3
            shifted = replace_last_bias(network, rows, above)
            assert not branch(BoundedBall(shifted, image, RADIUS, norm), rows, 40, 0.0)[0]


def replace_last_bias(network: Network, rows: Tensor, shift: Tensor) -> Network:
    """The network with ``shift`` subtracted from all rows: their label has +1, the others -1."""
    last = network.steps[-1]
    assert isinstance(last.layer, Linear)
    bias = last.layer.bias - shift * rows.amax(dim=0)  # 1 at the label
    layer = replace(last.layer, bias=bias)
    return replace(network, steps=(*network.steps[:-1], replace(last, layer=layer)))


@pytest.mark.slow
@torch.no_grad()
def test_a_planted_mistake_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_ever_wrong() -> bool:
        for seed in range(2):
            model = tiny_model(seed)
            network = read_network(model, (1, 2, 2))
            for image in images_of(seed, 12).split(1):
                rows = rows_at(network, image)
                least = min(exact_minimum(model, image, row, RADIUS) for row in rows)
                proved, _ = branch(BoundedBall(network, image, RADIUS, "linf"), rows, 128, MARGIN)
                if proved and least <= 0:
                    return True
        return False

    assert not is_ever_wrong()
    between = Box.between
    monkeypatch.setattr(
        Box,
        "between",
        staticmethod(lambda *args: replace(between(*args), radius=0.7 * between(*args).radius)),
    )
    assert is_ever_wrong()


@torch.no_grad()
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_inside_the_network_do_not_depend_on_how_many_are_computed_at_once(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, (image,) = read_network(tiny_model(0), (1, 2, 2)), images_of(0, 1)
    together = BoundedBall(network, image[None], RADIUS, norm)
    num_parts = []
    bound = BoundedBall.bound
    monkeypatch.setattr(
        BoundedBall,
        "bound",
        lambda ball, parts, *a, **b: num_parts.append(len(parts)) or bound(ball, parts, *a, **b),
    )
    monkeypatch.setattr(branching, "MAX_COEFFICIENTS", 4 * 8)  # two units of a layer of eight
    apart = BoundedBall(network, image[None], RADIUS, norm)
    assert len(num_parts) > 1
    assert max(num_parts) == 4
    assert together.known.keys() == apart.known.keys()
    for source, box in together.known.items():
        torch.testing.assert_close(box.lower, apart.known[source].lower, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(box.upper, apart.known[source].upper, rtol=1e-9, atol=1e-12)


def test_a_relu_whose_inputs_are_all_positive() -> None:
    model = tiny_model(0)
    with torch.no_grad():
        model.body[3].bias += 50
        model.body[5].bias -= model.body[5].weight @ torch.full((6,), 50.0).double()
    found = ProvableNull(model, RADIUS, verifier=CASCADE).predict(images_of(0, 10))
    assert set((found == model.predict(images_of(0, 10)))[found >= 0].tolist()) <= {True}


def test_an_exhausted_budget_proves_nothing() -> None:
    network = read_network(tiny_model(0), (1, 2, 2))
    for image in images_of(0, 12).split(1):
        rows = rows_at(network, image)
        found = cascade.settle(network, image[0], rows, RADIUS, "linf")
        if found.stage == "branch-and-bound" and found.is_proved:
            assert found.num_parts > 0
            assert found.status == "proved"
            few = cascade.settle(network, image[0], rows, RADIUS, "linf", budget=0)
            assert (few.status, few.num_parts) == ("open", 0)
            return
    pytest.fail("no image needs branch and bound")


@functools.cache
def needs_parts() -> Tensor:
    """An image of which only branch and bound proves ``tiny_model(0)`` within :data:`CUT`."""
    images = images_of(0, 12)
    with record_stages() as settled:
        ProvableNull(tiny_model(0), CUT, verifier=CASCADE).predict(images)
    cut = [each.index for each in settled if each.is_proved and each.num_parts]
    assert cut
    return images[cut[:1]]


def test_the_budget_is_part_of_the_model(tmp_path: Path) -> None:
    model = tiny_model(0)
    images = needs_parts()
    some, none = (ProvableNull(model, CUT, verifier=CASCADE, budget=b) for b in (None, 0))
    assert (some.budget, none.budget) == (BUDGET, 0)
    assert (some.predict(images) != NULL_LABEL).all()
    assert (none.predict(images) == NULL_LABEL).all()
    # Proofs have it too, and the parts of one model are not those of the other.
    labels = model.predict(images)
    proved = [
        prove(each, (images, labels), 2 * CUT, verifier=CASCADE)["is_never_fooled"]
        for each in (some, none)
    ]
    assert proved[0].sum() > proved[1].sum()
    few = [Parts(tmp_path).of(models=[each], images=images).fingerprint for each in (some, none)]
    assert few[0] != few[1]
    changed = with_proof(none, CUT / 2), with_proof(none, verifier="interval")
    assert [each.budget for each in changed if isinstance(each, ProvableNull)] == [0, None]


def test_certificates_state_the_budget() -> None:
    model = tiny_model(0)
    images = needs_parts()
    for budget in (0, 8):
        provable = ProvableNull(model, CUT, verifier=CASCADE, budget=budget)
        certificates = provable.certificates(images)
        assert certificates.settings == {"budget": budget, "version": VERSION}
        check_certificates(certificates, model, images)
    none = ProvableNull(model, CUT, verifier=CASCADE, budget=0).certificates(images)
    assert none.num_proved == 0
    for settings, says in (
        ({"budget": 128, "version": VERSION}, "claims that nothing is proved"),
        ({"budget": 0, "version": VERSION + 1}, "of version 2 of the cascade"),
        ({}, "do not have the settings"),
        ({"budget": 0.5, "version": VERSION}, "budget must be a whole number"),
    ):
        with pytest.raises(UserError, match=says):
            check_certificates(structs.replace(none, settings=settings), model, images)


def test_other_verifiers_have_no_budget() -> None:
    with pytest.raises(UserError, match="only the cascade has a budget"):
        ProvableNull(tiny_model(0), CUT, verifier="crown-ibp", budget=8)
    with pytest.raises(UserError, match="budget must be a whole number"):
        ProvableNull(tiny_model(0), CUT, verifier=CASCADE, budget=-1)


def test_finished_parts_keep_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(proofs, "FEW_AT_ONCE", 5)
    model, images = tiny_model(0), images_of(0, 12)
    data = images, model.predict(images)
    found = []
    for _ in range(2):
        with record_stages() as settled:
            rows = prove(model, data, CUT, verifier=CASCADE, parts=Parts(tmp_path))
        found.append((settled, rows))
        monkeypatch.setattr(cascade, "crown_ibp_bounds", None)  # nothing is computed again
    (first, rows), (second, again) = found
    assert first == second
    pd.testing.assert_frame_equal(rows, again)
    table = settled_rows(rows, first, CUT)
    assert table["image"].tolist() == list(range(12))
    assert len(first) < 12, "some by intervals"
    is_proved = table["status"] == "proved"
    assert (is_proved == rows["is_never_fooled"]).all()
    assert set(table["status"]) == {"proved", "refuted"}
    assert (table["num_parts"] > 0).any()
    for each in first:
        assert table["stage"][each.index] == each.stage
        assert table["branch_and_bound_seconds"][each.index] == each.seconds.get(STAGES[4], 0)


def test_provable_null_answers_more_and_never_something_else() -> None:
    model = tiny_model(2)
    images = images_of(2, 40)
    plain = ProvableNull(model, RADIUS).predict(images)
    wide = ProvableNull(model, RADIUS, verifier=CASCADE)
    answers = wide.predict(images)
    was_answered = plain != NULL_LABEL
    assert torch.equal(answers[was_answered], plain[was_answered])
    assert (answers != NULL_LABEL).sum() > was_answered.sum()
    assert torch.equal(answers[answers != NULL_LABEL], model.predict(images)[answers != NULL_LABEL])
    one_by_one = torch.cat([wide.predict(image) for image in images.split(1)])
    assert torch.equal(answers, one_by_one), "independent of the batch"
    with pytest.raises(UserError, match="a cascade searches for proofs"):
        wide.layers()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(wide(images).sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.slow
def test_attacks_search_by_intervals_and_the_cascade_decides() -> None:
    model = ProvableNull(tiny_model(2), RADIUS / 2, verifier=CASCADE)
    plain = ProvableNull(model.model, RADIUS / 2)
    images = images_of(2, 25)
    labels = model.model.predict(images)
    labels[::5] = (labels[::5] + 1) % 3
    with torch.no_grad(), searched(model):
        torch.testing.assert_close(model(images), plain(images), rtol=0, atol=0)
    assert not model.is_searched
    attacks = {"worst-case": worst_case(), "deny": worst_case("force-null"), "pgd": PGD()}
    found = evaluate(model, (images, labels), attacks=attacks, eps=[RADIUS], num_smallest=5)
    assert find_violations(found.rows, found.certified).violations.empty
    assert "proof-broken" not in {flag.name for flag in found.flags}
    rows = found.rows[found.rows["attack"] == "worst-case"]
    assert (rows["outcome"] == "fooled").sum() >= 5
    assert found.certified["verifier"].eq(CASCADE).all()
    assert (
        found.certified["is_rar_proved"].sum()
        > prove(plain, (images, labels), RADIUS)["is_rar_proved"].sum()
    )
    for example in found.examples:
        shown = model.predict(torch.from_numpy(example.adv_images).double())
        assert shown.tolist() == example.predictions


def test_a_cascade_inside_a_threshold_is_searched_by_its_first_stage() -> None:
    inner = ProvableNull(tiny_model(2), RADIUS, verifier=CASCADE)
    model = with_threshold(inner, 0.5)
    with searched(model):
        assert inner.is_searched
    assert not inner.is_searched


def test_finds_of_a_member_are_judged_by_the_whole_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = ProvableNull(tiny_model(2), RADIUS / 2, verifier=CASCADE), images_of(2, 3)
    attack = PGD(num_steps=1)
    state = attack.begin(model, images, model.model.predict(images), eps=RADIUS)
    judged: list[bool] = []
    monkeypatch.setattr(state, "evaluate_all", lambda *_: judged.append(model.is_searched))
    with searched(model):  # as in an ensemble that is called
        run_on(attack, state, torch.arange(3), None)
        assert model.is_searched
    assert judged == [False]


@pytest.mark.slow
@torch.no_grad()
def test_the_table_of_stages_counts_every_image() -> None:
    model, images = tiny_model(0), images_of(0, 30)
    guarded = ProvableNull(model, RADIUS, verifier=CASCADE)
    with record_stages() as outer, record_stages() as settled:
        answers = guarded.predict(images)
    assert outer == settled
    assert {each.radius for each in settled} == {RADIUS}
    table = stage_table(settled, len(images), 0.5).set_index("stage")
    assert tuple(table.index) == STAGES
    plain = ProvableNull(model, RADIUS).predict(images)
    assert table["proved"]["interval"] == (plain != NULL_LABEL).sum()
    assert table["proved"].sum() == (answers != NULL_LABEL).sum()
    first, later = ["interval", "crown-ibp", "attack"], ["alpha-crown", "branch-and-bound"]
    arrived = [*table["images"][first[1:]], table["images"][later].sum()]
    assert table["left"][first].tolist() == arrived
    assert table["refuted"].sum() > 0
    assert not any(each.is_proved and each.is_refuted for each in settled)
    most = np.percentile([each.seconds["crown-ibp"] for each in settled], [50, 99])
    spent = ["median", "percentile_99"]
    assert table.loc["crown-ibp", spent].tolist() == pytest.approx(most.tolist())
    assert table.loc["interval", spent].tolist() == [0.5, 0.5]
    seconds = seconds_per_image(settled, len(images), 0.5)
    assert len(seconds) == len(images)
    assert seconds.sum() == pytest.approx(table["seconds"].sum())
    assert (np.sort(seconds)[: len(images) - len(settled)] == 0.5).all()


@torch.no_grad()
def test_proofs_and_bounds_by_the_cascade() -> None:
    model = tiny_model(2)
    images = images_of(2, 40)
    labels = model.predict(images)
    network = read_network(model, (1, 2, 2))
    spec = label_spec(labels, 3, torch.float64)
    loose = interval_bounds(network, images, RADIUS, "linf")(spec)
    tight = VERIFIERS[CASCADE](network, images, RADIUS, "linf")(spec)
    is_changed = tight != loose
    assert is_changed.any()
    torch.testing.assert_close(tight[is_changed], torch.full_like(tight[is_changed], MARGIN))
    rows = prove(
        ProvableNull(model, RADIUS, verifier=CASCADE),
        (images, labels),
        2 * RADIUS,
        verifier=CASCADE,
    )
    few = prove(ProvableNull(model, RADIUS), (images, labels), 2 * RADIUS)
    assert rows["is_rar_proved"].sum() > few["is_rar_proved"].sum()
    answered = rows["prediction"] != NULL_LABEL
    assert (rows["is_rar_proved"] == answered).mean() > 0.9  # 1e-6 more is proved


class Branches(nn.Module):
    """A ReLU from the image beside a deeper one, and one that no logit uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.beside = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(4, 6)
        self.unused, self.last = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.flatten(1)
        deep = self.second(self.first(images).relu()).relu()
        unused = self.unused(deep).relu()
        return self.last(deep + self.beside(images).relu()), unused


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_branches_from_the_image_and_unused_ones(norm: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(Branches(), 3, has_null=False, image_shape=(1, 2, 2)).eval()
    network = read_network(model, (1, 2, 2))
    assert len(network.steps) == 10  # scale, flatten, four linear, three ReLUs, sum
    images = images_of(1, 6).float()
    radius = 0.1
    cascade_model = ProvableNull(model, radius, norm=norm, verifier="cascade")
    answers = cascade_model.predict(images)
    ball = torch.rand(2000, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if norm == "l2":
        ball = ball / ball.norm(dim=1, keepdim=True).clamp(min=1)
    for image, answer in zip(images, answers.tolist(), strict=True):
        near = (image + radius * ball.view(-1, 1, 2, 2)).clamp(0, 1)
        assert answer in {NULL_LABEL, *model.predict(near).tolist()}
        assert answer == NULL_LABEL or model.predict(near).unique().tolist() == [answer]
    assert (answers != NULL_LABEL).any()


def test_a_bound_of_the_cascade_is_below_every_value() -> None:
    """Also where the interval bound is positive by less than the margin of later stages."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        body[1].weight.zero_()
        body[1].bias.copy_(torch.tensor([5e-7, 0.0]))
    model = Classifier(body, 2, has_null=False, image_shape=(1, 2, 2)).eval().double()
    network, images = read_network(model, (1, 2, 2)), images_of(0, 1)
    row = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    lower = cascade.cascade_bounds(network, images, 0.1, "linf")(row).detach()
    assert 0 < float(lower) <= 5e-7


@pytest.mark.parametrize("verifier", ["interval", CASCADE])
def test_answers_that_are_proofs_are_not_proved_again(
    verifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = tiny_model(0), images_of(0, 30)
    data = images, model.predict(images)
    guarded = ProvableNull(model, RADIUS, verifier=verifier)
    budgets = [RADIUS, 1.9 * RADIUS, 2.1 * RADIUS]
    found = []
    for is_spared in (True, False):
        if not is_spared:
            monkeypatch.setattr(proofs, "_is_open", lambda margins, *_: torch.isfinite(margins))
        with record_stages() as settled:
            found.append((prove(guarded, data, budgets, verifier=verifier), settled))
    (spared, few), (rows, many) = found
    decided = [name for name in rows if name != "margin"]
    pd.testing.assert_frame_equal(spared[decided], rows[decided])
    assert len(set(rows.groupby("eps_pixels")["is_never_fooled"].sum())) > 1
    if verifier == CASCADE:
        everything = {(each.radius, each.index): each.is_proved for each in many}
        kept = {(each.radius, each.index): each.is_proved for each in few}
        assert 0 < len(kept) < len(everything)
        assert kept.items() <= everything.items(), "each stage is recorded with its image"

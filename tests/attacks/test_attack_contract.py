"""One contract for every attack, walked from the dictionary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from disturbed import left_as_found, small_batch, small_model
from torch import Tensor, nn

from nullclass.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    FMN,
    PGD,
    Attack,
    AttackEnsemble,
    MultiTargetedAPGD,
    MultiTargetedPGD,
    RayS,
    SelectivePGD,
    Square,
    null_aware_pgd,
)
from nullclass.attacks.base import LinearAttack
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, step_along
from nullclass.models import Classifier

ENSEMBLES = ("worst-case", "worst-case-force-null")
"""Cascades of members that are walked here themselves (test_worst_case.py)."""

CHEAP = {
    "apgd": lambda: APGD(num_steps=9),
    "apgd-targeted": lambda: MultiTargetedAPGD(num_steps=7),
    "minimum-norm": lambda: FMN(num_steps=9),
    "selective-pgd": lambda: SelectivePGD(num_steps=7),
    "square": lambda: Square(num_queries=30),
    "rays": lambda: RayS(num_queries=30),
}
"""The same attacks with less effort: what they promise does not hang on it."""

MAKERS = {
    **{name: make for name, make in ATTACKS.items() if name not in ENSEMBLES},
    **CHEAP,
    "fgsm, fool": lambda: FGSM("fool"),
    "fgsm, deny": lambda: FGSM("force-null"),
    "pgd, momentum": lambda: PGD(num_steps=7, momentum=0.75),
    "apgd, dlr, restarts": lambda: APGD(loss="dlr", num_steps=7, num_restarts=2),
    "apgd, deny": lambda: APGD(objective="force-null", num_steps=7),
    "apgd-targeted, evade": lambda: MultiTargetedAPGD(objective="untargeted", num_steps=5),
    "selective-pgd, orthogonal": lambda: SelectivePGD("orthogonal", num_steps=7),
    "selective-pgd, restarts": lambda: SelectivePGD(num_steps=5, num_restarts=3),
    "minimum-norm, deny": lambda: FMN(objective="force-null", num_steps=9),
    "minimum-norm, one target": lambda: FMN(loss="margin", num_steps=9, num_targets=1),
    "pgd, hard": lambda: PGD(loss="margin", num_steps=7),
    "pgd, evade": lambda: PGD(objective="untargeted", num_steps=7),
    "pgd, deny": lambda: PGD(objective="force-null", num_steps=7),
    "pgd, restarts": lambda: PGD(num_steps=5, num_restarts=3),
    "targeted, two nearest": lambda: MultiTargetedPGD(num_steps=5, num_targets=2, num_restarts=2),
    "pgd, bfloat16": lambda: PGD(num_steps=5, precision="bfloat16"),
    "null-aware-pgd, bfloat16": lambda: null_aware_pgd(5, 3, precision="bfloat16"),
    "cascade": lambda: AttackEnsemble(
        (PGD(num_steps=3), MultiTargetedPGD(num_steps=3, num_restarts=2))
    ),
}
EPS = {"linf": 0.1, "l2": 0.7, "l1": 3.0}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return small_batch()


def size(delta: Tensor, norm: str) -> Tensor:
    flat = delta.double().flatten(1)
    return {"linf": flat.abs().amax(1), "l2": flat.norm(dim=1), "l1": flat.abs().sum(1)}[norm]


SOME_NORMS = {"square": ("linf", "l2"), "rays": ("linf",)}


@pytest.fixture(autouse=True)
def skip_norms_an_attack_does_not_have(request: pytest.FixtureRequest) -> None:
    told = getattr(request.node, "callspec", None)
    norm = told and told.params.get("norm")
    if told and norm and norm not in SOME_NORMS.get(told.params.get("name"), EPS):
        pytest.skip("says so itself: test_square.py, test_rays.py")


def run(
    attack: Attack, model: Classifier, batch: tuple[Tensor, Tensor], eps: Eps, norm: str
) -> Tensor:
    return attack(model, *batch, eps=eps, norm=norm, generator=torch.Generator().manual_seed(5))


# Without null there is nothing to deny with.
CASES = [
    (name, has_null)
    for name, make in MAKERS.items()
    for has_null in (False, True)
    if has_null or make().objective != "force-null"
]


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize(("name", "has_null"), CASES)
def test_contract(name: str, norm: str, has_null: bool, batch: tuple[Tensor, Tensor]) -> None:
    attack = MAKERS[name]()
    model = small_model(has_null)
    images, labels = batch

    with left_as_found(model, images, labels):
        adv_images = run(attack, model, batch, EPS[norm], norm)

    assert adv_images.shape == images.shape
    assert adv_images.dtype == images.dtype
    assert not adv_images.requires_grad
    assert adv_images.isfinite().all()
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1
    assert (size(adv_images - images, norm) <= EPS[norm] + 1e-6).all()
    assert (adv_images != images).any(), "an attack that does nothing"
    # Same generator, same result.
    assert torch.equal(adv_images, run(attack, model, batch, EPS[norm], norm))


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("name", MAKERS)
def test_eps_zero_returns_the_clean_images(
    name: str, norm: str, batch: tuple[Tensor, Tensor]
) -> None:
    assert torch.equal(run(MAKERS[name](), small_model(True), batch, 0.0, norm), batch[0])


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_of_one_is_like_the_batch_and_of_none_is_none(
    name: str, norm: str, batch: tuple[Tensor, Tensor]
) -> None:
    attack, model = MAKERS[name](), small_model(True)
    images, labels = batch
    whole = run(attack, model, batch, EPS[norm], norm)
    single = run(attack, model, (images[2:3], labels[2:3]), EPS[norm], norm)
    exact = name in REPEATABLE
    if exact:
        torch.testing.assert_close(single, whole[2:3], atol=1e-5, rtol=0)
    assert single.shape == (1, 1, 6, 6)
    nothing = run(attack, model, (images[:0], labels[:0]), EPS[norm], norm)
    assert nothing.shape == (0, 1, 6, 6)


# Random numbers of a batch and of single images come from different places of the stream, the
# donors of swap and rays are the batch's own images, and bfloat16 is rounded differently in batches
# of other sizes.
BY_BATCH = ("restarts", "two nearest", "cascade", "bfloat16", "square", "noise", "swap", "rays")
REPEATABLE = [name for name in MAKERS if not any(word in name for word in BY_BATCH)]


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("name", REPEATABLE)
def test_a_budget_for_each_image_is_like_attacking_one_by_one(
    name: str, norm: str, batch: tuple[Tensor, Tensor]
) -> None:
    attack, model = MAKERS[name](), small_model(True).double()
    images, labels = batch[0].double(), batch[1]
    budgets = EPS[norm] * torch.tensor([0.0, 1.0, 0.3, 3.0, 0.05, 2.0, 1.5, 0.01, 0.6])
    before = budgets.clone()
    together = run(attack, model, (images, labels), budgets, norm)
    assert torch.equal(budgets, before)
    assert (size(together - images, norm) <= budgets.double() * (1 + 1e-6)).all()
    assert torch.equal(together[0], images[0]), "nothing allowed, nothing done"
    for index, eps in enumerate(budgets.tolist()):
        one = slice(index, index + 1)
        alone = run(attack, model, (images[one], labels[one]), eps, norm)
        torch.testing.assert_close(together[one], alone, atol=1e-9, rtol=0)
    shuffled = torch.tensor([4, 2, 8, 0, 6, 1, 3, 7, 5])
    again = run(attack, model, (images[shuffled], labels[shuffled]), budgets[shuffled], norm)
    torch.testing.assert_close(again, together[shuffled], atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("name", MAKERS)
def test_equal_budgets_for_each_image_are_one_budget(
    name: str, norm: str, batch: tuple[Tensor, Tensor]
) -> None:
    attack, model = MAKERS[name](), small_model(True)
    equal = torch.full((9,), EPS[norm])
    torch.testing.assert_close(
        run(attack, model, batch, equal, norm), run(attack, model, batch, EPS[norm], norm),
        atol=1e-6, rtol=0,
    )  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_budgets_that_are_not_one_for_each_image_are_refused(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    attack, model = MAKERS[name](), small_model(True)
    for shape in ((8,), (10,), (9, 1)):
        budgets = torch.full(shape, 0.1)
        with pytest.raises(UserError, match=r"eps has shape .* for 9 images"):
            run(attack, model, batch, budgets, "linf")
    for value in (-0.1, 1.01, float("nan")):
        budgets = torch.full((9,), 0.1)
        budgets[4] = value
        with pytest.raises(UserError, match=r"eps .* outside \[0, 1\]"):
            run(attack, model, batch, budgets, "linf")


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("name", MAKERS)
def test_all_images_of_a_ray_lie_along_its_direction(
    name: str, norm: str, batch: tuple[Tensor, Tensor]
) -> None:
    attack, model = MAKERS[name](), small_model(True)
    assert isinstance(attack, LinearAttack) is name.startswith("fgsm"), (
        "nothing else claims to be one"
    )
    if not isinstance(attack, LinearAttack):
        return
    images, labels = batch
    direction = attack.direction(model, images, labels, norm=norm)
    torch.testing.assert_close(size(direction, norm).float(), torch.ones(9), atol=1e-5, rtol=0)
    assert not direction.requires_grad
    for eps in (0.0, 0.01, 0.3, 1.0):
        adv_images = run(attack, model, batch, eps, norm)
        assert torch.equal(adv_images, step_along(direction, images, eps, norm))
        plain = (images + eps * direction).clamp(0, 1)
        torch.testing.assert_close(adv_images, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_wanted_or_forbidden_by_the_caller_do_not_matter(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    attack, model = MAKERS[name](), small_model(True)
    images, labels = batch
    expected = run(attack, model, batch, 0.1, "linf")
    with torch.no_grad():
        assert torch.equal(run(attack, model, batch, 0.1, "linf"), expected)
    graded = images.clone().requires_grad_()
    adv_images = run(attack, model, (graded, labels), 0.1, "linf")
    assert torch.equal(adv_images, expected)
    assert not adv_images.requires_grad, "no graph hangs on the result"
    assert graded.grad is None


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("eps", [-0.1, 1.01, 8.0, float("nan"), float("inf")])
def test_senseless_budgets_are_refused(name: str, eps: float, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match=r"eps .* outside \[0, 1\].*pixel units"):
        run(MAKERS[name](), small_model(True), batch, eps, "linf")


@pytest.mark.parametrize("name", [name for name in MAKERS if "l2" in SOME_NORMS.get(name, EPS)])
def test_l2_budgets_reach_to_the_diagonal(name: str, batch: tuple[Tensor, Tensor]) -> None:
    adv_images = run(MAKERS[name](), small_model(True), batch, 6.0, "l2")
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1
    with pytest.raises(UserError, match=r"outside \[0, 6\]"):
        run(MAKERS[name](), small_model(True), batch, 6.01, "l2")


@pytest.mark.parametrize("name", MAKERS)
def test_an_unknown_norm_is_refused(name: str, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="norm must be one of linf, l2, l1, not 'l0'"):
        run(MAKERS[name](), small_model(True), batch, 0.1, "l0")


def test_deny_needs_null(batch: tuple[Tensor, Tensor]) -> None:
    for make in (PGD, MultiTargetedPGD, APGD, MultiTargetedAPGD, FMN):
        with pytest.raises(UserError, match="deny needs a model with a null class"):
            run(make(objective="force-null"), small_model(False), batch, 0.1, "linf")


def test_the_dictionary_names_what_the_command_line_promises() -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \| `[A-Z_a-z(]", page, re.MULTILINE)) == set(ATTACKS)
    for name, make in ATTACKS.items():
        attack = make()
        assert attack.objective in ("fool", "force-null", "untargeted"), name
        assert attack == make(), "settings are values"


def test_senseless_settings_are_refused() -> None:
    for make in (
        lambda: PGD(num_steps=0),
        lambda: PGD(num_restarts=0),
        lambda: PGD(relative_step=0.0),
        lambda: PGD(relative_step=float("nan")),
        lambda: PGD(objective="annoy"),  # type: ignore[arg-type]
        lambda: PGD(form="soft"),  # type: ignore[arg-type]
        lambda: PGD(precision="float8"),  # type: ignore[arg-type]
        lambda: MultiTargetedPGD(num_steps=-1),
        lambda: MultiTargetedPGD(num_targets=0),
        lambda: APGD(num_steps=0),
        lambda: APGD(num_restarts=0),
        lambda: APGD(form="soft"),  # type: ignore[arg-type]
        lambda: APGD(objective="annoy"),  # type: ignore[arg-type]
        lambda: APGD(precision="float8"),  # type: ignore[arg-type]
        lambda: MultiTargetedAPGD(num_targets=0),
        lambda: MultiTargetedAPGD(form="soft"),  # type: ignore[arg-type]
        lambda: FMN(num_steps=0),
        lambda: FMN(num_targets=0),
        lambda: FMN(form="soft"),  # type: ignore[arg-type]
        lambda: FMN(objective="annoy"),  # type: ignore[arg-type]
        lambda: SelectivePGD(num_steps=0),
        lambda: SelectivePGD(relative_step=3.0),
        lambda: SelectivePGD(variant="diagonal"),  # type: ignore[arg-type]
        lambda: AttackEnsemble(()),
        lambda: AttackEnsemble((PGD(), PGD(objective="force-null"))),
    ):
        with pytest.raises(UserError):
            make()


def test_random_starts_stay_in_the_ball_and_depend_on_the_generator() -> None:
    images = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(300, dtype=torch.int64)

    class Flat(nn.Module):  # never fooled, and no gradient: what comes back is where it started
        def forward(self, x: Tensor) -> Tensor:
            return (
                torch.tensor([1.0, 0.0, 0.0]).repeat(len(x), 1) + 0 * x.flatten(1).sum(1)[:, None]
            )

    model = Classifier(Flat(), 2)
    attack = PGD(num_restarts=2, num_steps=1)
    for norm, eps in (("linf", 0.2), ("l2", 0.5), ("l1", 1.5)):
        one = attack(model, images, labels, eps=eps, norm=norm, generator=torch.Generator())
        assert (size(one - images, norm) <= eps + 1e-6).all()

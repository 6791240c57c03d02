"""One contract for every attack, walked from the dictionary: attack once, assert everything."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from disturbed import NUM_CLASSES, left_as_found, relatives, small_batch, small_model
from torch import Tensor, nn
from worlds import Digits, fooled, seeded, two_input_world, wide_colour_world

from nullclass.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    FMN,
    MIFGSM,
    PGD,
    Attack,
    AttackEnsemble,
    DatasetAttack,
    DiversifiedPGD,
    MultiTargetedAPGD,
    MultiTargetedPGD,
    NearestFirstPGD,
    Noise,
    RayS,
    RefinedPGD,
    SelectivePGD,
    Square,
    Transfer,
    WholeBallPGD,
    find_attack,
    null_aware_pgd,
    worst_case,
)
from nullclass.attacks.base import supported_norms
from nullclass.attacks.conditional import OnSample, OnZeroGradient
from nullclass.attacks.counters import count_passes
from nullclass.attacks.losses import find_objective, is_success
from nullclass.core.devices import default_batch_size
from nullclass.core.errors import UserError
from nullclass.core.norms import BALLS, Eps, is_allowed, step_along
from nullclass.data import LabelledImages
from nullclass.models import Classifier

REFERENCE = LabelledImages(
    torch.rand(40, 1, 6, 6, generator=seeded(8)), torch.arange(40) % NUM_CLASSES
)


EXACT: dict[str, Callable[[], Attack]] = {
    "fgsm": FGSM,
    "fgsm, untargeted": partial(FGSM, "untargeted"),
    "fgsm, force-null": partial(FGSM, "force-null"),
    "mi-fgsm": partial(MIFGSM, num_steps=5),
    "pgd": partial(PGD, num_steps=7),
    "pgd, momentum": partial(PGD, num_steps=7, momentum=0.75),
    "pgd, margin": partial(PGD, loss="margin", num_steps=7),
    "pgd, untargeted": partial(PGD, "untargeted", num_steps=7),
    "pgd, force-null": partial(PGD, "force-null", num_steps=7),
    "multi-targeted-pgd": partial(MultiTargetedPGD, num_steps=5),
    "apgd": partial(APGD, num_steps=9),
    "apgd, force-null": partial(APGD, "force-null", num_steps=7),
    "multi-targeted-apgd": partial(MultiTargetedAPGD, num_steps=7),
    "multi-targeted-apgd, untargeted": partial(MultiTargetedAPGD, "untargeted", num_steps=5),
    "fmn": partial(FMN, num_steps=9),
    "fmn, force-null": partial(FMN, "force-null", num_steps=9),
    "fmn, one target": partial(FMN, loss="margin", num_steps=9, num_targets=1),
    "selective-pgd": partial(SelectivePGD, num_steps=7),
    "selective-pgd, orthogonal": partial(SelectivePGD, "orthogonal", num_steps=7),
    "nearest-first-pgd": partial(NearestFirstPGD, num_steps=5, num_first_steps=9, num_restarts=2),
    "whole-ball-pgd": partial(WholeBallPGD, num_steps=6),
    "null-aware-pgd": partial(null_aware_pgd, 5, 3),
    "dataset": partial(DatasetAttack, REFERENCE, num_nearest=3),
    "dataset, force-null": partial(DatasetAttack, REFERENCE, "force-null"),
    "rays": partial(RayS, REFERENCE, num_queries=30),
    "rays, untargeted": partial(RayS, REFERENCE, "untargeted", num_queries=30),
    "transfer": lambda: Transfer(relatives(), MultiTargetedPGD(num_steps=3)),
}
"""Attacks whose result for an image depends on that image alone."""

MAKERS: dict[str, Callable[[], Attack]] = {
    **EXACT,
    "pgd, restarts": partial(PGD, num_steps=5, num_restarts=3),
    "pgd, bfloat16": partial(PGD, num_steps=5, precision="bfloat16"),
    "apgd, bfloat16": partial(APGD, num_steps=5, precision="bfloat16"),
    "apgd, dlr, restarts": partial(APGD, loss="dlr", num_steps=7, num_restarts=2),
    "multi-targeted-pgd, restarts": partial(
        MultiTargetedPGD, num_steps=5, num_targets=2, num_restarts=2
    ),
    "selective-pgd, restarts": partial(SelectivePGD, num_steps=5, num_restarts=3),
    "square": partial(Square, num_queries=30),
    "square, restarts": partial(Square, "untargeted", num_queries=10, num_restarts=3),
    "noise": partial(Noise, num_draws=4),
    "noise, untargeted": partial(Noise, "untargeted"),
    "dataset, own images": DatasetAttack,
    "rays, own images": partial(RayS, num_queries=30),
    "diversified-pgd": partial(DiversifiedPGD, num_start_steps=2, num_steps=3, num_restarts=5),
    "diversified-pgd, force-null": partial(DiversifiedPGD, "force-null", num_steps=3),
    "refined-pgd": partial(RefinedPGD, num_steps=3, num_restarts=5),
    "refined-pgd, along the gradient": partial(RefinedPGD, num_steps=3, along_gradient=True),
    "refined-pgd, force-null": partial(RefinedPGD, "force-null", num_steps=3),
    "on zero gradient": lambda: OnZeroGradient(Noise()),
    "on sample": lambda: OnSample(PGD(num_steps=3), share=0.2),
    "ensemble": lambda: AttackEnsemble(
        (PGD(num_steps=3), MultiTargetedPGD(num_steps=3, num_restarts=2))
    ),
}
SETTINGS = {"linf": (0.1, 1.0), "l2": (0.7, 6.0), "l1": (3.0, 36.0)}
"""A budget per norm, and the diagonal of the box."""
CASES = [(name, norm) for name, make in MAKERS.items() for norm in supported_norms(make())]
BUDGETS = torch.tensor([0.0, 1.0, 0.3, 3.0, 0.05, 2.0, 1.5, 0.01, 0.6])


def run(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, eps: Eps, norm: str,
        **more: int) -> Tensor:  # fmt: skip
    return attack(model, images, labels, eps=eps, norm=norm, generator=seeded(5), **more)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_contract(name: str, norm: str) -> None:
    attack, (eps, largest) = MAKERS[name](), SETTINGS[norm]
    images, labels = small_batch()
    # Most images are active at first.
    predicted = copy.deepcopy(small_model()).eval().predict(images)
    labels = torch.where((predicted >= 0) & (torch.arange(9) > 2), predicted, labels)
    for has_null in (False, True) if attack.objective != "force-null" else (True,):
        model = small_model(has_null)
        with left_as_found(model, images, labels), count_passes(model) as passes:
            adv_images = run(attack, model, images, labels, eps, norm)
        assert (adv_images.shape, adv_images.dtype) == (images.shape, images.dtype)
        assert not adv_images.requires_grad
        assert is_allowed(adv_images, images, eps, norm).all()
        assert name == "on zero gradient" or (adv_images != images).any(), "it does nothing"
        assert (passes.backward > 0) is (attack.access == "white-box") or name.startswith("on zero")
        # No image is further from success than the clean one, and successes are left alone.
        if attack.is_iterative:
            objective, judge = find_objective(attack.objective), copy.deepcopy(model).eval()
            with torch.no_grad():
                before, after = (
                    objective.loss(judge(x), labels, NUM_CLASSES, "margin")
                    for x in (images, adv_images)
                )
                succeeded = is_success(judge(images), labels, NUM_CLASSES, objective)
            assert torch.equal(adv_images[succeeded], images[succeeded])
            assert (after >= before - 1e-5).all()

    # The same generator gives the same images in any gradient mode of the caller.
    graded = images.clone().requires_grad_()
    with torch.no_grad():
        assert torch.equal(run(attack, model, graded, labels, eps, norm), adv_images)
    assert graded.grad is None
    # Budgets: none, one per image, the diagonal of the box, and impossible ones.
    assert torch.equal(run(attack, model, images, labels, 0.0, norm), images)
    equal = run(attack, model, images, labels, torch.full((9,), eps), norm)
    torch.testing.assert_close(equal, adv_images, atol=1e-6, rtol=0)
    own = run(attack, model, images, labels, eps * BUDGETS, norm)
    assert is_allowed(own, images, eps * BUDGETS, norm).all()
    assert torch.equal(own[0], images[0])
    farthest = run(attack, model, images, labels, largest, norm)
    assert is_allowed(farthest, images, largest, norm).all()
    for wrong in (-0.1, 1.001 * largest, float("nan"), float("inf"), torch.full((9,), -0.1)):
        with pytest.raises(UserError, match=r"eps .* outside \[0, .*pixel units"):
            run(attack, model, images, labels, wrong, norm)
    for shape in ((8,), (9, 1)):
        with pytest.raises(UserError, match=r"eps has shape .* for 9 images"):
            run(attack, model, images, labels, torch.full(shape, 0.1), norm)
    # No image.
    for none in (eps, torch.zeros(0)):
        assert run(attack, model, images[:0], labels[:0], none, norm).shape == (0, 1, 6, 6)
    if name not in EXACT:  # those are tested in double precision below
        double = run(attack, model.double(), images.double(), labels, eps, norm)
        assert double.dtype == torch.float64
        assert is_allowed(double, images, eps, norm).all()


@pytest.mark.parametrize(("name", "norm"), [case for case in CASES if case[0] in EXACT])
def test_an_image_does_not_depend_on_its_batch(name: str, norm: str) -> None:
    attack, model = EXACT[name](), small_model().double()
    images, labels = small_batch()
    images, budgets = images.double(), SETTINGS[norm][0] * BUDGETS
    if isinstance(attack, Transfer):
        for source in attack.sources:
            source.double()
    together = run(attack, model, images, labels, budgets, norm)
    assert together.dtype == torch.float64
    assert is_allowed(together, images, budgets, norm).all()
    for index in (2, 5, 8):
        one, eps = slice(index, index + 1), float(budgets[index])
        alone = run(attack, model, images[one], labels[one], eps, norm)
        torch.testing.assert_close(together[one], alone, atol=1e-9, rtol=0)
    small = run(attack, model, images, labels, budgets, norm, batch_size=2)
    torch.testing.assert_close(small, together, atol=1e-9, rtol=0)


def test_every_attack_of_the_dictionary_is_walked_and_documented() -> None:
    assert {name for name in ATTACKS if not name.startswith("worst-case")} <= set(MAKERS)
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \| `[A-Z_a-z(]", page, re.MULTILINE)) == set(ATTACKS)
    for name, make in ATTACKS.items():
        assert make() == make() == find_attack(name), "settings are values"
        assert make().objective == ("force-null" if name.endswith("force-null") else "fool")
    with pytest.raises(UserError, match=r"attack must be one of fgsm, mi-fgsm.*not 'cw'"):
        find_attack("cw")


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("objective", ["fool", "untargeted", "force-null"])
def test_images_of_fgsm_lie_on_one_line(objective: str, norm: str) -> None:
    attack, model, (images, labels) = FGSM(objective), small_model(), small_batch()  # type: ignore[arg-type]
    direction = attack.direction(model, images, labels, norm=norm)
    torch.testing.assert_close(BALLS[norm].size(direction), torch.ones(9), atol=1e-5, rtol=0)
    for eps in (0.0, 0.01, 0.3, 1.0):
        adv_images = run(attack, model, images, labels, eps, norm)
        assert torch.equal(adv_images, step_along(direction, images, eps, norm))
        plain = (images + eps * direction).clamp(0, 1)
        torch.testing.assert_close(adv_images, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", BALLS)
def test_images_need_not_be_square_or_grey(norm: str) -> None:
    model, images, labels = wide_colour_world()
    for attack in (Square(num_queries=60), Noise(), DatasetAttack(), RayS(num_queries=20), PGD()):
        if norm in supported_norms(attack):
            for eps in (0.02, 0.3):
                adv_images = run(attack, model, images, labels, eps, norm)
                assert is_allowed(adv_images, images, eps, norm).all()
                moved = (adv_images != images).flatten(1).any(dim=1)
                assert not isinstance(attack, Square) or moved.double().mean() > 0.9


@pytest.mark.parametrize(
    ("setting", "makers"),
    [
        ({"num_steps": 0}, (PGD, MultiTargetedPGD, APGD, FMN, MIFGSM, SelectivePGD)),
        ({"num_steps": True}, (PGD,)),
        ({"num_restarts": 0}, (PGD, APGD, Square, SelectivePGD)),
        ({"num_targets": 0}, (MultiTargetedPGD, MultiTargetedAPGD, FMN)),
        ({"num_queries": 0}, (Square, RayS)),
        ({"num_draws": 0}, (Noise,)),
        ({"num_starts": -1}, (RayS,)),
        ({"num_candidates": 0}, (RayS, DatasetAttack)),
        ({"num_nearest": 0}, (DatasetAttack,)),
        ({"relative_step": 0.0}, (PGD, MIFGSM)),
        ({"relative_step": 3.0}, (SelectivePGD,)),
        ({"relative_step": math.nan}, (PGD,)),
        ({"momentum": -0.1}, (PGD, MIFGSM)),
        ({"momentum": math.nan}, (MIFGSM,)),
        ({"p_init": 0.0}, (Square,)),
        ({"p_init": math.nan}, (Square,)),
        ({"tolerance": 0.0}, (RayS,)),
        ({"tolerance": 0.2}, (RayS,)),
        ({"objective": "annoy"}, (FGSM, PGD, APGD, FMN, Square, Noise, DatasetAttack, RayS)),
        ({"loss": "soft"}, (PGD, APGD, MultiTargetedAPGD, FMN, Square)),
        ({"precision": "float8"}, (PGD, APGD)),
        ({"variant": "diagonal"}, (SelectivePGD,)),
    ],
)
def test_settings_out_of_range_are_refused(
    setting: dict[str, object], makers: tuple[Callable[..., Attack], ...]
) -> None:
    for make in makers:
        with pytest.raises(UserError, match=next(iter(setting))):
            make(**setting)


@pytest.mark.parametrize("name", ["fgsm", "mi-fgsm", "apgd", "fmn", "noise", "square", "ensemble",
                                  "dataset, own images", "rays, own images"])  # fmt: skip
def test_inputs_are_checked(name: str) -> None:
    attack, (model, images, label) = MAKERS[name](), two_input_world(a=0.1, b=0.1)
    images, labels = images.repeat(2, 1, 1, 1), label.repeat(2)
    standardise = r"\[0,1\].*mean and std of Classifier or evaluate, or --mean and --std"
    for wrong in ((images - 0.3) / 0.1, images * 255):
        with pytest.raises(UserError, match=standardise):
            attack(model, wrong, labels, eps=8 / 255)
    with pytest.raises(UserError, match="NaN or infinite"):
        attack(model, images * math.nan, labels, eps=8 / 255)
    for wrong in ((images * 255).to(torch.uint8), images[0]):
        with pytest.raises(UserError, match="images must be a floating-point"):
            attack(model, wrong, labels[: len(wrong)], eps=0.1)
    with pytest.raises(UserError, match="2 images, but labels of"):
        attack(model, images, label, eps=0.1)
    for value in (-1, 2):
        with pytest.raises(UserError, match=r"labels range from .* classes from 0 to 1"):
            attack(model, images, labels.clone().fill_(value), eps=0.1)
    with pytest.raises(UserError, match="batch_size must be a whole number of at least 1"):
        attack(model, images, labels, eps=0.1, batch_size=0)
    with pytest.raises(UserError, match=r"give num_classes, .* a plain network has none"):
        attack(lambda x: x, images, labels, eps=0.1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"norm .*must be one of linf.*not 'l7'"):
        attack(model, images, labels, eps=0.1, norm="l7")


def test_a_class_or_a_function_is_no_attack() -> None:
    def function(*_: object) -> None: ...

    def with_an_objective(*_: object) -> None: ...

    with_an_objective.objective = "fool"  # type: ignore[attr-defined]
    from_relatives = partial(Transfer, relatives())
    for make in (lambda attack: AttackEnsemble((attack,)), OnZeroGradient, from_relatives):
        with pytest.raises(UserError, match=r"PGD is a class: write PGD\(\)"):
            make(PGD)
        for wrong in (function, with_an_objective):
            with pytest.raises(UserError, match="is no attack: give an instance such as PGD"):
                make(wrong)


def test_force_null_needs_null() -> None:
    for make in (FGSM, PGD, MultiTargetedPGD, APGD, FMN, Square, Noise, RayS, DatasetAttack):
        with pytest.raises(UserError, match="force-null needs a model with a null class"):
            run(make(objective="force-null"), small_model(False), *small_batch(), 0.1, "linf")


def test_plain_modules_are_attacked_with_their_number_of_classes(digits: Digits) -> None:
    images, labels, module = digits.images[:20], digits.labels[:20], digits.guarded.body
    for attack in (FGSM(), PGD(num_steps=5), Noise(), null_aware_pgd(3, 2)):
        wanted = run(attack, digits.guarded, images, labels, 0.1, "linf")
        found = run(attack, module, images, labels, 0.1, "linf", num_classes=10)
        assert torch.equal(found, wanted)
        with pytest.raises(UserError, match="num_classes"):
            run(attack, module, images, labels, 0.1, "linf")
        # K logits where K + 1 are expected are an error that says the fix, as in evaluate.
        k_logits = digits.plain.body
        with pytest.raises(UserError, match=r"10 logits .*pass has_null=False .*with_null_class"):
            run(attack, k_logits, images, labels, 0.1, "linf", num_classes=10)
        found = run(attack, k_logits, images, labels, 0.1, "linf", num_classes=10, has_null=False)
        assert torch.equal(found, run(attack, digits.plain, images, labels, 0.1, "linf"))
        with pytest.raises(UserError, match="10 classes, not 7"):
            run(attack, digits.guarded, images, labels, 0.1, "linf", num_classes=7)


def test_the_batch_size_is_the_callers(digits: Digits) -> None:
    images, labels, sizes = digits.images[:50], digits.labels[:50], set()
    hook = digits.guarded.register_forward_hook(lambda *args: sizes.add(len(args[2])))
    try:
        for attack in (FGSM(), MIFGSM(num_steps=2), PGD(num_steps=2), FMN(num_steps=2), Noise(),
                       MultiTargetedAPGD(num_steps=2), Square(num_queries=3), DatasetAttack(),
                       RayS(num_queries=5), worst_case().members[6]):  # fmt: skip
            sizes.clear()
            run(attack, digits.guarded, images, labels, 0.05, "linf", batch_size=7)
            assert max(sizes) == 7, attack
    finally:
        hook.remove()
    assert default_batch_size(torch.zeros(1, 1, 28, 28)) == 64
    assert default_batch_size(torch.zeros(1, 3, 224, 224)) < 32
    assert default_batch_size(torch.zeros(0, 3, 2000, 2000)) >= 1


class Detaching(nn.Module):
    """A forward pass that hides its gradient, in one of three ways."""

    def __init__(self, body: nn.Module, kind: str) -> None:
        super().__init__()
        self.body, self.kind = body, kind

    def forward(self, images: Tensor) -> Tensor:
        if self.kind == "no_grad":
            with torch.no_grad():
                return self.body(images)
        if self.kind == "detach":
            return self.body(images.detach()).detach()
        return self.body(torch.from_numpy(np.array(images.numpy())))


@pytest.mark.parametrize("kind", ["no_grad", "detach", "numpy"])
def test_without_gradients_the_ensemble_continues(digits: Digits, kind: str) -> None:
    model = Classifier(Detaching(digits.guarded, kind), 10)
    images, labels = digits.images[:12], digits.labels[:12]
    for attack in (FGSM(), MIFGSM(), PGD(), APGD(), FMN(), SelectivePGD()):
        with pytest.raises(UserError, match=r"no gradient .*detaches .*such as Square\(\)"):
            attack(model, images, labels, eps=0.1)
    ensemble = AttackEnsemble(
        (
            DatasetAttack(),
            PGD(),
            MultiTargetedPGD(),
            APGD(),
            OnZeroGradient(Square(num_queries=200)),
        ),
        ("dataset", "pgd", "targets", "apgd", "square"),
    )
    result = ensemble.run_members(model, images, labels, eps=0.3, generator=seeded())
    stats = {member.member: member for member in result.member_stats}
    skipped = [name for name, member in stats.items() if member.status == "no-gradient"]
    assert skipped == ["pgd", "targets", "apgd"]
    assert all(stats[name].num_images == stats[name].num_successes == 0 for name in skipped)
    assert stats["dataset"].status == stats["square"].status == "ran"
    assert stats["square"].num_images > 0
    # Exactly the images of the same ensemble without its gradient members.
    without = AttackEnsemble((ensemble.members[0], Square(num_queries=200)))
    expected = without(digits.guarded, images, labels, eps=0.3, generator=seeded())
    assert torch.equal(result.adv_images, expected)
    assert fooled(digits.guarded, result.adv_images, labels).sum() > 6

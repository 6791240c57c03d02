"""Adapters with their real libraries: same images as the library, the contract, exact worlds."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from disturbed import left_as_found, small_batch, small_model
from label_only import labels_for_logits
from torch import Tensor, nn
from worlds import Digits, fooled, outcome_of, seeded, two_input_world

from nullclass.attacks import MultiTargetedPGD, describe
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.counters import count_passes
from nullclass.attacks.external import (
    EXTERNAL,
    ARTAttack,
    AutoAttackAttack,
    ExternalAttack,
    FoolboxAttack,
    TorchattacksAttack,
)
from nullclass.core.norms import is_allowed, size_of
from nullclass.data import LabelledImages
from nullclass.models import Classifier, build_model

EPS = {"linf": 0.1, "l2": 0.7}
LINF, L2, BOTH = ("linf",), ("l2",), ("linf", "l2")


def hop_skip_jump(num_steps: int) -> FoolboxAttack:
    names = dict.fromkeys(BOTH, "HopSkipJumpAttack")
    return FoolboxAttack(names, {"steps": num_steps}, access="labels")


Maker = tuple[str, Callable[[], ExternalAttack], tuple[str, ...]]
"""A library, a function that makes an attack of it, and the norms to test it in."""
STEPS = {"steps": 20}
foolbox_pgd = partial(FoolboxAttack, {"linf": "LinfPGD", "l2": "L2PGD"}, STEPS)
apgd = partial(AutoAttackAttack, attacks=("apgd-ce",))
boundary = partial(FoolboxAttack, {"l2": "BoundaryAttack"}, STEPS, access="scores")
NOISE = {"linf": "LinearSearchBlendedUniformNoiseAttack"}
FAST: dict[str, Maker] = {
    "foolbox pgd": ("foolbox", foolbox_pgd, BOTH),
    "art fgsm": ("art", lambda: ARTAttack({"linf": "FastGradientMethod"}), LINF),
    "torchattacks apgd": (
        "torchattacks",
        lambda: TorchattacksAttack(dict.fromkeys(BOTH, "APGD"), {"steps": 9}),
        BOTH,
    ),
}
SLOW: dict[str, Maker] = {
    "autoattack": ("pyautoattack", apgd, LINF),
    "foolbox fmn": ("foolbox", EXTERNAL["foolbox-fmn"], BOTH),
    "foolbox pgd, plain": ("foolbox", partial(foolbox_pgd, view="plain"), BOTH),
    "foolbox hop skip jump": ("foolbox", lambda: hop_skip_jump(2), BOTH),
    "foolbox boundary, targeted": ("foolbox", partial(boundary, view="targeted"), L2),
    "foolbox noise": ("foolbox", lambda: FoolboxAttack(NOISE, STEPS, access="scores"), LINF),
    "autoattack, plain": ("pyautoattack", partial(apgd, view="plain"), LINF),
    "art pgd": ("art", EXTERNAL["art-pgd"], BOTH),
    "art deepfool": ("art", lambda: ARTAttack({"l2": "DeepFool"}, {"max_iter": 20}), L2),
    "torchattacks pgd": ("torchattacks", EXTERNAL["torchattacks-pgd"], BOTH),
    "torchattacks cw": ("torchattacks", lambda: TorchattacksAttack({"l2": "CW"}, STEPS), L2),
}
MAKERS = {**FAST, **SLOW}
EACH = pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)


def maker(name: str) -> ExternalAttack:
    pytest.importorskip(MAKERS[name][0])
    return MAKERS[name][1]()


@EACH
def test_contract(name: str) -> None:
    attack, (images, labels) = maker(name), small_batch()
    description = json.loads(json.dumps(describe(attack)))
    assert description["objective"] == ("untargeted" if attack.view == "plain" else "fool")
    assert pickle.loads(pickle.dumps(attack)) == attack
    for norm in MAKERS[name][2]:
        for has_null in (False, True):
            model, eps = small_model(has_null), EPS[norm]
            with left_as_found(model, images, labels), count_passes(model) as passes:
                adv_images = attack(model, images, labels, eps=eps, norm=norm, generator=seeded(5))
            assert (adv_images.shape, adv_images.dtype) == (images.shape, images.dtype)
            assert not adv_images.requires_grad
            assert is_allowed(adv_images, images, eps, norm).all()
            assert (adv_images != images).any(), "an attack that does nothing"
            assert (passes.backward > 0) is (attack.access == "white-box")
        # Same generator, same result; nothing allowed, nothing done; no image, no image.
        again = attack(model, images, labels, eps=eps, norm=norm, generator=seeded(5))
        assert torch.equal(adv_images, again)
        assert torch.equal(attack(model, images, labels, eps=0.0, norm=norm), images)
        nothing = attack(model, images[:0], labels[:0], eps=eps, norm=norm)
        assert nothing.shape == (0, 1, 6, 6)


@pytest.mark.parametrize(("library", "norm"), [("torchattacks", "l2"), ("foolbox", "linf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_in_colour_and_of_float64(library: str, norm: str, dtype: torch.dtype) -> None:
    pytest.importorskip(library)
    attack = EXTERNAL["torchattacks-pgd" if library == "torchattacks" else "foolbox-fmn"]()
    model = build_model("small", image_shape=(3, 9, 7), num_classes=3).eval()
    images = torch.rand(3, 3, 9, 7, generator=seeded(0)).to(dtype)
    labels = torch.arange(3)
    adv_images = attack(model, images, labels, eps=0.5, norm=norm, generator=seeded(1))
    assert adv_images.dtype == dtype
    assert is_allowed(adv_images, images, 0.5, norm).all()


# What each library does itself, on a K-class model, to images of one class.


def of_one_class(digits: Digits) -> tuple[Tensor, Tensor]:
    chosen = (digits.labels == 3) & (digits.plain.predict(digits.images) == 3)
    return digits.images[chosen], digits.labels[chosen]


def check_same(
    digits: Digits, attack: ExternalAttack, theirs: Tensor, eps: float, norm: str
) -> None:
    model, (images, labels) = digits.plain, of_one_class(digits)
    ours = attack(model, images, labels, eps=eps, norm=norm, generator=seeded(5))
    is_fooled = fooled(model, theirs, labels)
    assert 0 < is_fooled.sum() < len(is_fooled), "a budget that decides something"
    torch.testing.assert_close(ours[is_fooled], theirs[is_fooled], atol=1e-6, rtol=0)
    assert set(outcome_of(model, ours[~is_fooled], labels[~is_fooled])) == {"correct"}


@pytest.mark.parametrize(
    ("norm", "name", "minimum_norm"),
    [
        ("linf", "LinfPGD", False),
        pytest.param("l2", "L2PGD", False, marks=pytest.mark.slow),
        pytest.param("linf", "LInfFMNAttack", True, marks=pytest.mark.slow),
        pytest.param("l2", "DDNAttack", True, marks=pytest.mark.slow),
    ],
)
def test_same_as_foolbox(digits: Digits, norm: str, name: str, minimum_norm: bool) -> None:
    foolbox = pytest.importorskip("foolbox")
    images, labels = of_one_class(digits)
    settings = {} if minimum_norm else {"steps": 20, "random_start": False}
    eps = {"linf": 0.09, "l2": 0.6}[norm]
    network = foolbox.PyTorchModel(digits.plain, bounds=(0, 1), device="cpu")
    attack = getattr(foolbox.attacks, name)(**settings)
    nearest, clipped, _ = attack(network, images, labels, epsilons=eps)
    is_inside = (size_of(nearest, images, norm) <= eps).view(-1, 1, 1, 1)
    theirs = torch.where(is_inside, nearest, images) if minimum_norm else clipped
    for view in ("grouped", "plain"):
        ours = FoolboxAttack({norm: name}, settings, view=view)  # type: ignore[arg-type]
        check_same(digits, ours, theirs, eps, norm)


@pytest.mark.parametrize("norm", BOTH)
def test_same_as_art(digits: Digits, norm: str) -> None:
    pytest.importorskip("art")
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    images, labels = of_one_class(digits)
    eps = {"linf": 0.09, "l2": 0.6}[norm]
    estimator = PyTorchClassifier(
        copy.deepcopy(digits.plain),
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    theirs = ProjectedGradientDescentPyTorch(
        estimator,
        norm={"linf": float("inf"), "l2": 2}[norm],
        eps=eps,
        eps_step=eps / 8,
        max_iter=20,
        batch_size=len(images),
        verbose=False,
    ).generate(images.numpy(), labels.numpy())
    attack = ARTAttack(
        {norm: "ProjectedGradientDescentPyTorch"}, {"max_iter": 20}, {"eps_step": 1 / 8}
    )
    check_same(digits, attack, torch.from_numpy(theirs), eps, norm)


@pytest.mark.parametrize(("norm", "name"), [("linf", "PGD"), ("l2", "PGDL2")])
def test_same_as_torchattacks(digits: Digits, norm: str, name: str) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    images, labels = of_one_class(digits)
    eps = {"linf": 0.09, "l2": 0.6}[norm]
    settings = {"steps": 20, "random_start": False}
    theirs = getattr(torchattacks, name)(digits.plain, eps=eps, alpha=eps / 8, **settings)
    attack = TorchattacksAttack({norm: name}, settings, {"alpha": 1 / 8})
    check_same(digits, attack, theirs(images, labels), eps, norm)


@pytest.mark.parametrize("name", ["apgd-ce", pytest.param("apgd-t", marks=pytest.mark.slow)])
def test_same_as_autoattack(digits: Digits, name: str) -> None:
    pyautoattack = pytest.importorskip("pyautoattack")
    images, labels = of_one_class(digits)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=seeded(5))))
        seed = int(torch.randint(2**31, ()))
        auto_attack = pyautoattack.AutoAttack(digits.plain, norm="Linf", eps=0.09, seed=seed)
        auto_attack.attacks_to_run = [name]
        theirs, _ = auto_attack.run_standard_evaluation(images, labels)
    check_same(digits, AutoAttackAttack(attacks=(name,)), theirs, 0.09, "linf")


@pytest.mark.slow
def test_the_standard_version_of_autoattack(digits: Digits) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = (part[:4] for part in of_one_class(digits))
    adv_images = AutoAttackAttack()(digits.guarded, images, labels, eps=0.4)
    assert outcome_of(digits.guarded, adv_images, labels) == ["fooled"] * 4


# On models with null.


@pytest.mark.slow
def test_stock_attacks_hide_what_their_adapters_find(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:40], digits.labels[:40]
    ours = MultiTargetedPGD()(model, images, labels, eps=0.15)
    strongest = int(fooled(model, ours, labels).sum())
    for name, (library, make, norms) in MAKERS.items():
        weak = name in ("art fgsm", "foolbox noise", "foolbox hop skip jump")
        if "linf" not in norms or weak:
            continue
        pytest.importorskip(library)
        attack = make()
        adv_images = attack(model, images, labels, eps=0.15, generator=seeded(5))
        scored = outcome_of(model, adv_images, labels)
        if attack.view == "plain":
            assert scored.count("null") > 30, "null is success for a stock attack"
            assert scored.count("fooled") < 8
        else:
            is_strong = name in ("foolbox fmn", "art pgd", "torchattacks pgd", "autoattack")
            assert scored.count("fooled") >= (strongest - 4 if is_strong else 10), name


# Not FMN: on a linear model its first step ends on the boundary itself, and it never leaves it.
@pytest.mark.parametrize(
    "name",
    [
        "foolbox pgd",
        "autoattack",
        pytest.param("art pgd", marks=pytest.mark.slow),
        pytest.param("torchattacks pgd", marks=pytest.mark.slow),
        pytest.param("torchattacks apgd", marks=pytest.mark.slow),
    ],
)
def test_two_inputs(name: str) -> None:
    attack = maker(name)
    if isinstance(attack, AutoAttackAttack):
        attack = AutoAttackAttack(attacks=("apgd-ce",))
    for b in (0.05, 0.3):
        model, image, label = two_input_world(a=b, b=b, scale=10)
        images, labels = image.repeat(2, 1, 1, 1), label.repeat(2)
        eps = b * torch.tensor([0.95, 1.05])
        adv_images = attack(model, images, labels, eps=eps, generator=seeded(5))
        assert fooled(model, adv_images, labels).tolist() == [False, True], b


@pytest.mark.slow
def test_boundary_attacks_start_at_images_of_another_class(digits: Digits) -> None:
    # From noise foolbox fails here: the model predicts null, or the right class.
    pytest.importorskip("foolbox")
    model, attack = digits.guarded, hop_skip_jump(2)
    images, labels = digits.images[:40], digits.labels[:40]
    adv_images = attack(model, images, labels, eps=0.9, generator=seeded(5))
    assert fooled(model, adv_images, labels).sum() >= 38
    # Alone, an image has no such start, unless there are reference images.
    is_right = (model.predict(digits.images) == digits.labels) & (digits.labels == 3)
    images, labels = digits.images[is_right][:12], digits.labels[is_right][:12]
    reference = LabelledImages(digits.train_images[:300], digits.train_labels[:300])
    attack = EXTERNAL["foolbox-hopskipjump"]()
    with_images = with_reference_images(attack, reference)
    assert with_reference_images(with_images, reference.first(5)) is with_images
    assert with_images == attack, "settings are values, reference images are not"
    for norm, eps in (("linf", 0.25), ("l2", 1.5)):
        alone = attack(model, images[:1], labels[:1], eps=eps, norm=norm)
        assert torch.equal(alone, images[:1])
        with count_passes(model) as passes:
            adv_images = with_images(model, images, labels, eps=eps, norm=norm, generator=seeded(5))
        assert is_allowed(adv_images, images, eps, norm).all()
        assert fooled(model, adv_images, labels).sum() >= 6, norm
        assert passes.backward == 0
        assert passes.forward < 12 * 2000 + 300
    # Reference images that the model predicts as the same class do not help.
    same = with_reference_images(attack, LabelledImages(images[:1], labels[:1]))
    assert torch.equal(same(model, images[:1], labels[:1], eps=0.9), images[:1])
    # Other attacks take no reference images.
    pgd = FoolboxAttack({"linf": "LinfPGD"}, {"steps": 3})
    assert with_reference_images(pgd, reference) is pgd


@pytest.mark.slow
def test_hop_skip_jump_uses_labels_only(digits: Digits) -> None:
    pytest.importorskip("foolbox")
    model, attack = digits.guarded, hop_skip_jump(3)
    chosen = (digits.labels % 5 == 3).nonzero().flatten()[:30]  # two classes, one call each
    images, labels = digits.images[chosen], digits.labels[chosen]
    with_scores, without = (
        attack(m, images, labels, eps=0.3, generator=seeded(5))
        for m in (model, labels_for_logits(model))
    )
    is_fooled = fooled(model, with_scores, labels)
    assert 10 < is_fooled.sum() < 30, "a budget that decides something"
    assert torch.equal(is_fooled, fooled(model, without, labels))
    assert torch.equal(with_scores[is_fooled], without[is_fooled])


def test_a_bad_start_does_not_cost_the_other_images_theirs() -> None:
    # Class 1 ties with null: the model predicts the first of them, which fools; a K-class view, in
    # which null counts for the true class 0, predicts 0. Foolbox would reject the batch.
    pytest.importorskip("foolbox")

    class Tied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            left, right = (x.flatten(1) > 0.9).float().unbind(dim=1)
            either = torch.maximum(left, right)
            return torch.stack([1 - either, either, left], dim=1)

    model = Classifier(Tied(), 2)
    left, right = torch.tensor([[[[1.0, 0.1]]]]), torch.tensor([[[[0.1, 1.0]]]])
    reference = LabelledImages(torch.cat([left, right]), torch.tensor([1, 1]))
    assert model.predict(reference.images).tolist() == [1, 1]
    attack = with_reference_images(EXTERNAL["foolbox-hopskipjump"](), reference)
    images, labels = torch.cat([left - 0.1, right - 0.1]).clamp(0, 0.9), torch.tensor([0, 0])
    adv_images = attack(model, images, labels, eps=0.2)
    assert torch.equal(adv_images[0], images[0])
    assert outcome_of(model, adv_images[1:], labels[1:]) == ["fooled"]


def test_a_class_by_its_dotted_path(digits: Digits) -> None:
    pytest.importorskip("foolbox")
    dotted = FoolboxAttack({"linf": "foolbox.attacks.fast_gradient_method.LinfFastGradientAttack"})
    listed = FoolboxAttack({"linf": "LinfFastGradientAttack"})
    images, labels = digits.images[:20], digits.labels[:20]
    results = [
        a(digits.guarded, images, labels, eps=0.1, generator=seeded(5)) for a in (dotted, listed)
    ]
    assert torch.equal(*results)
    assert (results[0] != images).any()

"""Adapters with their real libraries: same images as the library, the contract, exact worlds."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import pytest
import torch
from disturbed import left_as_found, small_batch, small_model
from label_only import labels_for_logits
from torch import Tensor, nn
from worlds import Digits, outcome_of, two_input_world

from nullclass.attacks import MultiTargetedPGD, describe
from nullclass.attacks.base import TakesReferenceImages
from nullclass.attacks.counters import count_passes
from nullclass.attacks.external import (
    EXTERNAL,
    ARTAttack,
    AutoAttackAttack,
    ExternalAttack,
    FoolboxAttack,
    TorchattacksAttack,
)
from nullclass.core.norms import is_allowed
from nullclass.data import LabelledImages
from nullclass.models import Classifier

EPS = {"linf": 0.1, "l2": 0.7}
ART_PGD = "ProjectedGradientDescentPyTorch"

MAKERS: dict[str, tuple[str, Callable[[], ExternalAttack]]] = {
    "foolbox fmn": ("foolbox", EXTERNAL["foolbox-fmn"]),
    "foolbox pgd": ("foolbox", lambda: FoolboxAttack({"linf": "LinfPGD", "l2": "L2PGD"})),
    "foolbox pgd, plain": (
        "foolbox",
        lambda: FoolboxAttack({"linf": "LinfPGD", "l2": "L2PGD"}, {"steps": 20}, view="plain"),
    ),
    "foolbox hop skip jump": (
        "foolbox",
        lambda: FoolboxAttack(
            {"linf": "HopSkipJumpAttack", "l2": "HopSkipJumpAttack"}, {"steps": 2}, access="labels"
        ),
    ),
    "foolbox boundary, targeted": (
        "foolbox",
        lambda: FoolboxAttack(
            {"l2": "BoundaryAttack"}, {"steps": 20}, view="targeted", access="scores"
        ),
    ),
    "foolbox noise": (
        "foolbox",
        lambda: FoolboxAttack(
            {"linf": "LinearSearchBlendedUniformNoiseAttack"}, {"steps": 20}, access="scores"
        ),
    ),
    "autoattack": (
        "pyautoattack",
        lambda: AutoAttackAttack(attacks=("apgd-ce",), merge="logsumexp"),
    ),
    "autoattack, plain": (
        "pyautoattack",
        lambda: AutoAttackAttack(attacks=("apgd-ce",), view="plain"),
    ),
    "art pgd": ("art", EXTERNAL["art-pgd"]),
    "art fgsm": ("art", lambda: ARTAttack({"linf": "FastGradientMethod"}, batch_size=4)),
    "art deepfool": ("art", lambda: ARTAttack({"l2": "DeepFool"}, {"max_iter": 20})),
    "torchattacks pgd": ("torchattacks", EXTERNAL["torchattacks-pgd"]),
    "torchattacks apgd": (
        "torchattacks",
        lambda: TorchattacksAttack({"linf": "APGD", "l2": "APGD"}, {"steps": 9}),
    ),
    "torchattacks cw": ("torchattacks", lambda: TorchattacksAttack({"l2": "CW"}, {"steps": 20})),
}


def maker(name: str) -> ExternalAttack:
    library, make = MAKERS[name]
    pytest.importorskip(library)
    return make()


def norms(name: str) -> list[str]:
    only = {"boundary": ["l2"], "noise": ["linf"], "fgsm": ["linf"]}
    only |= {"deepfool": ["l2"], "cw": ["l2"], "autoattack": ["linf"]}
    return next((norms for word, norms in only.items() if word in name), ["linf", "l2"])


CASES = [(name, norm) for name in MAKERS for norm in norms(name)]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return small_batch()


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "norm", "has_null"),
    [(*case, has_null) for case in CASES for has_null in (True, False)],
)
def test_contract(name: str, norm: str, has_null: bool, batch: tuple[Tensor, Tensor]) -> None:
    attack = maker(name)
    model = small_model(has_null)
    images, labels = batch

    with left_as_found(model, images, labels), count_passes(model) as passes:
        adv_images = attack(model, images, labels, eps=EPS[norm], norm=norm, generator=seeded())

    assert adv_images.shape == images.shape
    assert adv_images.dtype == images.dtype
    assert adv_images.device == images.device
    assert not adv_images.requires_grad
    assert is_allowed(adv_images, images, EPS[norm], norm).all()
    assert (adv_images != images).any(), "an attack that does nothing"
    assert (passes.backward > 0) is (attack.access == "white-box")
    # Same generator, same result.
    again = attack(model, images, labels, eps=EPS[norm], norm=norm, generator=seeded())
    assert torch.equal(adv_images, again)
    # Nothing allowed, nothing done; nothing given, nothing back.
    assert torch.equal(attack(model, images, labels, eps=0.0, norm=norm), images)
    assert attack(model, images[:0], labels[:0], eps=EPS[norm], norm=norm).shape == (0, 1, 6, 6)


@pytest.mark.parametrize("name", [*MAKERS, *EXTERNAL])
def test_what_it_is_can_be_written_down_and_sent(name: str) -> None:
    if name in MAKERS:
        attack = maker(name)
    else:
        pytest.importorskip(
            {"autoattack": "pyautoattack"}.get(name.split("-")[0], name.split("-")[0])
        )
        attack = EXTERNAL[name]()
    told = json.loads(json.dumps(describe(attack)))
    assert told["objective"] == ("untargeted" if attack.view == "plain" else "fool")
    assert told["view"] == attack.view
    assert pickle.loads(pickle.dumps(attack)) == attack


# What each library does itself, on a K-class model, to images of one class.


def of_one_class(digits: Digits) -> tuple[Tensor, Tensor]:
    chosen = (digits.labels == 3) & (digits.plain.predict(digits.images) == 3)
    return digits.images[chosen], digits.labels[chosen]


def check_same(
    digits: Digits, attack: ExternalAttack, theirs: Tensor, eps: float, norm: str
) -> None:
    model, (images, labels) = digits.plain, of_one_class(digits)
    ours = attack(model, images, labels, eps=eps, norm=norm, generator=seeded())
    fell = torch.tensor([told == "fooled" for told in outcome_of(model, theirs, labels)])
    assert 0 < fell.sum() < len(fell), "a budget that decides something"
    torch.testing.assert_close(ours[fell], theirs[fell], atol=1e-6, rtol=0)
    assert (outcome_of(model, ours[~fell], labels[~fell])) == ["correct"] * int((~fell).sum())


@pytest.mark.parametrize("view", ["grouped", "plain"])
@pytest.mark.parametrize(("norm", "name"), [("linf", "LinfPGD"), ("l2", "L2PGD")])
def test_same_as_foolbox(digits: Digits, norm: str, name: str, view: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    images, labels = of_one_class(digits)
    settings, eps = {"steps": 20, "random_start": False}, {"linf": 0.09, "l2": 0.6}[norm]
    network = foolbox.PyTorchModel(digits.plain, bounds=(0, 1), device="cpu")
    _, theirs, _ = getattr(foolbox.attacks, name)(**settings)(network, images, labels, epsilons=eps)
    attack = FoolboxAttack({norm: name}, settings, view=view)  # type: ignore[arg-type]
    check_same(digits, attack, theirs, eps, norm)


@pytest.mark.parametrize(("norm", "name"), [("linf", "LInfFMNAttack"), ("l2", "DDNAttack")])
def test_same_as_foolbox_minimum_norm(digits: Digits, norm: str, name: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    images, labels = of_one_class(digits)
    eps = {"linf": 0.09, "l2": 0.6}[norm]
    network = foolbox.PyTorchModel(digits.plain, bounds=(0, 1), device="cpu")
    theirs, _, _ = getattr(foolbox.attacks, name)()(network, images, labels, epsilons=eps)
    delta = theirs - images
    size = delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
    theirs = torch.where((size <= eps).view(-1, 1, 1, 1), theirs, images)
    check_same(digits, FoolboxAttack({norm: name}), theirs, eps, norm)


@pytest.mark.parametrize("norm", ["linf", "l2"])
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
    attack = ARTAttack({norm: ART_PGD}, {"max_iter": 20}, {"eps_step": 1 / 8})
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


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t"])
def test_same_as_autoattack(digits: Digits, name: str) -> None:
    pyautoattack = pytest.importorskip("pyautoattack")
    images, labels = of_one_class(digits)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=seeded())))
        seed = int(torch.randint(2**31, ()))
        auto_attack = pyautoattack.AutoAttack(digits.plain, norm="Linf", eps=0.09, seed=seed)
        auto_attack.attacks_to_run = [name]
        theirs, _ = auto_attack.run_standard_evaluation(images, labels)
    attack = AutoAttackAttack(attacks=(name,))
    check_same(digits, attack, theirs, 0.09, "linf")


def test_the_standard_version_of_autoattack(digits: Digits) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = (part[:4] for part in of_one_class(digits))
    adv_images = AutoAttackAttack()(digits.guarded, images, labels, eps=0.4)
    assert outcome_of(digits.guarded, adv_images, labels) == ["fooled"] * 4


# On models with null.

WEAK = ("art fgsm", "foolbox noise", "foolbox hop skip jump")


def test_stock_attacks_hide_what_their_adapters_find(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:40], digits.labels[:40]
    found = {}
    for name in MAKERS:
        try:
            attack = maker(name)
        except pytest.skip.Exception:
            continue
        if "linf" not in norms(name) or name in WEAK:
            continue
        adv_images = attack(model, images, labels, eps=0.15, generator=seeded())
        told = outcome_of(model, adv_images, labels)
        found[name] = told.count("fooled")
        if attack.view == "plain":
            assert told.count("null") > 30, "it is content with null"
            assert told.count("fooled") < 8
    ours = MultiTargetedPGD()(model, images, labels, eps=0.15)
    strongest = outcome_of(model, ours, labels).count("fooled")
    for name in ("foolbox fmn", "art pgd", "torchattacks pgd", "autoattack"):
        assert found.get(name, strongest) >= strongest - 4, (name, found)
    for name, num_fooled in found.items():
        assert num_fooled >= (0 if "plain" in name else 10), (name, found)


# Not FMN: on a linear model its first step ends on the boundary itself, and there it stays.
@pytest.mark.parametrize(
    "name",
    ["foolbox pgd", "art pgd", "torchattacks pgd", "torchattacks apgd", "autoattack, only ce"],
)
@pytest.mark.parametrize("b", [0.05, 0.3])
def test_two_inputs(name: str, b: float) -> None:
    model, image, label = two_input_world(a=b, b=b, scale=10)
    if name == "autoattack, only ce":  # DLR needs more classes
        pytest.importorskip("pyautoattack")
        attack: ExternalAttack = AutoAttackAttack(attacks=("apgd-ce",))
    else:
        attack = maker(name)
    for share, may_fool in ((0.95, False), (1.05, True)):
        adv_images = attack(model, image, label, eps=share * b, generator=seeded())
        assert (outcome_of(model, adv_images, label) == ["fooled"]) is may_fool, share


def test_walkers_start_at_images_of_another_class(digits: Digits) -> None:
    # From noise foolbox gives up here: the model calls it null, or the right class.
    attack = maker("foolbox hop skip jump")
    images, labels = digits.images[:40], digits.labels[:40]
    adv_images = attack(digits.guarded, images, labels, eps=0.9, generator=seeded())
    told = outcome_of(digits.guarded, adv_images, labels)
    assert told.count("fooled") >= 38
    # Alone, an image has no such start.
    is_right = digits.guarded.predict(images) == labels
    one = slice(int(is_right.nonzero()[0]), int(is_right.nonzero()[0]) + 1)
    assert torch.equal(attack(digits.guarded, images[one], labels[one], eps=0.9), images[one])


def test_a_walker_given_a_pool_needs_no_company(digits: Digits) -> None:
    pytest.importorskip("foolbox")
    model, attack = digits.guarded, EXTERNAL["foolbox-hopskipjump"]()
    is_right = (model.predict(digits.images) == digits.labels) & (digits.labels == 3)
    images, labels = digits.images[is_right][:12], digits.labels[is_right][:12]
    pool = LabelledImages(digits.train_images[:300], digits.train_labels[:300])
    assert isinstance(attack, TakesReferenceImages)
    given = attack.with_reference_images(pool)
    assert given.with_reference_images(pool.first(5)) is given, "a pool of one's own is kept"
    assert given == attack, "settings are values, a pool is not"
    for norm, eps in (("linf", 0.25), ("l2", 1.5)):
        alone = [attack(model, images[:1], labels[:1], eps=eps, norm=norm)]
        assert torch.equal(alone[0], images[:1]), "nowhere to start from"
        with count_passes(model) as passes:
            adv_images = given(model, images, labels, eps=eps, norm=norm, generator=seeded())
        assert is_allowed(adv_images, images, eps, norm).all()
        assert outcome_of(model, adv_images, labels).count("fooled") >= 6, norm
        assert passes.backward == 0
        assert passes.forward < 12 * 2000 + 300, "what it says of its queries"
    # A pool that the model takes for nothing else is no help.
    same = LabelledImages(images[:1], labels[:1])
    assert torch.equal(
        attack.with_reference_images(same)(model, images[:1], labels[:1], eps=0.9), images[:1]
    )
    # What does not walk does not ask for images.
    pgd = FoolboxAttack({"linf": "LinfPGD"}, {"steps": 3})
    assert pgd.with_reference_images(pool) is pgd


def test_a_walker_sees_labels_only(digits: Digits) -> None:
    pytest.importorskip("foolbox")
    attack = FoolboxAttack({"linf": "HopSkipJumpAttack"}, {"steps": 3}, access="labels")
    chosen = (digits.labels % 5 == 3).nonzero().flatten()[:30]  # two classes: one task each
    images, labels = digits.images[chosen], digits.labels[chosen]
    told = [
        attack(model, images, labels, eps=0.3, generator=seeded())
        for model in (digits.guarded, labels_for_logits(digits.guarded))
    ]
    fell, without = (
        torch.tensor([word == "fooled" for word in outcome_of(digits.guarded, found, labels)])
        for found in told
    )
    assert 10 < fell.sum() < 30, "a budget that decides something"
    assert torch.equal(fell, without)
    assert torch.equal(told[0][fell], told[1][fell])


def test_a_bad_start_does_not_cost_the_other_images_theirs() -> None:
    # Class 1 ties with null: the model takes the first of them, which fools; a K-class view, in
    # which null counts for the true class 0, takes that one. Foolbox would refuse the whole batch.
    pytest.importorskip("foolbox")

    class Tied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            left, right = (x.flatten(1) > 0.9).float().unbind(dim=1)
            either = torch.maximum(left, right)
            return torch.stack([1 - either, either, left], dim=1)

    model = Classifier(Tied(), 2)
    left, right = torch.tensor([[[[1.0, 0.1]]]]), torch.tensor([[[[0.1, 1.0]]]])
    pool = LabelledImages(torch.cat([left, right]), torch.tensor([1, 1]))
    assert model.predict(pool.images).tolist() == [1, 1]
    attack = EXTERNAL["foolbox-hopskipjump"]()
    assert isinstance(attack, TakesReferenceImages)
    images, labels = torch.cat([left - 0.1, right - 0.1]), torch.tensor([0, 0])
    adv_images = attack.with_reference_images(pool)(model, images.clamp(0, 0.9), labels, eps=0.2)
    assert torch.equal(adv_images[0], images[0].clamp(0, 0.9))
    assert outcome_of(model, adv_images[1:], labels[1:]) == ["fooled"]


def test_a_class_from_elsewhere(digits: Digits) -> None:
    pytest.importorskip("foolbox")
    dotted = FoolboxAttack({"linf": "foolbox.attacks.fast_gradient_method.LinfFastGradientAttack"})
    listed = FoolboxAttack({"linf": "LinfFastGradientAttack"})
    images, labels = digits.images[:20], digits.labels[:20]
    results = [
        a(digits.guarded, images, labels, eps=0.1, generator=seeded()) for a in (dotted, listed)
    ]
    assert torch.equal(*results)
    assert (results[0] != images).any()

"""Libraries that are missing, broken, or asked for what they do not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from worlds import linear_world, outcome_of, two_input_world

from nullclass.attacks.base import TakesReferenceImages
from nullclass.attacks.external import (
    EXTERNAL,
    ARTAttack,
    AutoAttackAttack,
    FoolboxAttack,
    TorchattacksAttack,
)
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages

MAKERS = {
    "foolbox": (lambda: FoolboxAttack({"linf": "LinfPGD"}), "nullclass[foolbox]"),
    "pyautoattack": (AutoAttackAttack, "nullclass[autoattack]"),
    "art": (lambda: ARTAttack({"linf": "FastGradientMethod"}), "nullclass[art]"),
    "torchattacks": (lambda: TorchattacksAttack({"linf": "PGD"}), "--no-deps torchattacks"),
}


def forget(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for name in [m for m in sys.modules if m == library or m.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("library", MAKERS)
def test_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, install = MAKERS[library]
    forget(monkeypatch, library)
    monkeypatch.setitem(sys.modules, library, None)  # what the import system takes for missing
    with pytest.raises(UserError) as error:
        make()
    assert f"needs {library}: pip install" in str(error.value)
    assert install in str(error.value)


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('operator nms does not exist')", "RuntimeError: operator nms"),
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        ("from math import no_such_name", "ImportError: cannot import name"),
    ],
)
def test_installed_but_broken(
    library: str, code: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, _ = MAKERS[library]
    forget(monkeypatch, library)
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="installed but does not import") as error:
        make()
    assert reason in str(error.value)
    assert "pip install" not in str(error.value), "it would not help"


def test_no_library_is_loaded_before_it_is_wanted() -> None:
    code = (
        "import sys, nullclass.attacks.external as a; "
        f"loaded = {set(MAKERS)!r} & set(sys.modules); "
        "assert a.EXTERNAL and not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_foolbox_is_asked_for_what_it_does_not_have() -> None:
    pytest.importorskip("foolbox")
    model, image, label = two_input_world(0.3, 0.3)
    for attack, message in (
        (FoolboxAttack({"l2": "L2PGD"}), "for l2, not for linf"),
        (FoolboxAttack({"linf": "L2PGD"}), "measures in L2.*not in linf"),
        (FoolboxAttack({"linf": "LinfPDG"}), "no attack 'LinfPDG'"),
        (FoolboxAttack({"linf": "no.such.Attack"}), "no attack 'no.such.Attack'"),
        (FoolboxAttack({"linf": "LinfPGD"}, {"stepps": 3}), "stepps"),
    ):
        with pytest.raises(UserError, match=message):
            attack(model, image, label, eps=0.1)


def test_foolbox_attacks_that_take_no_target() -> None:
    pytest.importorskip("foolbox")
    model, image, label = two_input_world(0.3, 0.3)
    attack = FoolboxAttack({"l2": "VirtualAdversarialAttack"}, {"steps": 2}, view="targeted")
    with pytest.raises(UserError, match="VirtualAdversarialAttack refuses: unsupported criterion"):
        attack(model, image, label, eps=0.1, norm="l2")


def test_autoattack_is_asked_for_what_it_does_not_have() -> None:
    pytest.importorskip("pyautoattack")
    for settings, message in (
        ({"version": "custom"}, "no version 'custom'"),
        ({"attacks": ("apgd-ce", "pgd")}, "no 'pgd'"),
        ({"view": "targeted"}, "picks its targets itself"),
    ):
        with pytest.raises(UserError, match=message):
            AutoAttackAttack(**settings)
    model, image, label = two_input_world(0.3, 0.3)
    with pytest.raises(UserError, match="apgd-t needs 4 classes"):
        AutoAttackAttack()(model, image, label, eps=0.1)


def test_art_is_asked_for_what_it_does_not_have() -> None:
    pytest.importorskip("art")
    model, image, label = two_input_world(0.3, 0.3)
    pgd = {"linf": "ProjectedGradientDescentPyTorch"}
    for attack, message in (
        (ARTAttack(pgd, {"max_itr": 3}), "max_itr"),
        (ARTAttack(pgd, {"eps": 3}), "'eps' is no setting"),
        (ARTAttack(pgd, relative={"eps": 3}), "'eps' is no setting"),
        (ARTAttack(pgd, {"max_iter": -1}), "makes no Proj"),
        (ARTAttack({"linf": "PGD"}), "no attack 'PGD'"),
        (ARTAttack({"linf": "DeepFool"}, view="targeted"), "cannot be targeted"),
    ):
        with pytest.raises(UserError, match=message):
            attack(model, image, label, eps=0.2)


def test_torchattacks_is_asked_for_what_it_does_not_have() -> None:
    pytest.importorskip("torchattacks")
    model, image, label = two_input_world(0.3, 0.3)
    for attack, message in (
        (TorchattacksAttack({"linf": "PGD"}, {"stepps": 3}), "stepps"),
        (TorchattacksAttack({"linf": "PDG"}), "no attack 'PDG'"),
        (TorchattacksAttack({"linf": "TPGD"}, view="targeted"), "cannot be targeted"),
    ):
        with pytest.raises(UserError, match=message):
            attack(model, image, label, eps=0.1)


@pytest.mark.parametrize("name", EXTERNAL)
def test_norms_an_attack_has(name: str) -> None:
    try:
        attack = EXTERNAL[name]()
    except UserError:
        pytest.skip("not installed")
    if not hasattr(attack, "names"):
        return
    world = linear_world(3, scale=100)
    model, image, label = world.model, world.image, torch.tensor([world.label])
    if isinstance(attack, TakesReferenceImages):  # alone, an image has no other to start from
        others = torch.rand(300, *image.shape[1:], generator=torch.Generator().manual_seed(0))
        attack = attack.with_reference_images(
            LabelledImages(others, torch.zeros(300, dtype=torch.int64))
        )
    for norm in ("linf", "l2", "l1"):
        eps = 1.5 * world.optimum.get(norm, 9 * world.optimum["linf"])
        if norm in attack.names:
            adv_images = attack(model, image, label, eps=eps, norm=norm)
            assert outcome_of(model, adv_images, label) == ["fooled"], norm
        else:
            with pytest.raises(UserError, match=f"not for {norm}"):
                attack(model, image, label, eps=eps, norm=norm)

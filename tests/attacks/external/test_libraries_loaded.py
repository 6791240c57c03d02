"""Libraries that are missing or broken, and attacks that they do not have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from worlds import linear_world, outcome_of, seeded, two_input_world

from nullclass.attacks.base import with_reference_images
from nullclass.attacks.external import (
    EXTERNAL,
    ARTAttack,
    AutoAttackAttack,
    ExternalAttack,
    FoolboxAttack,
    TorchattacksAttack,
)
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages

MAKERS: dict[str, tuple[Callable[[], ExternalAttack], str]] = {
    "foolbox": (lambda: FoolboxAttack({"linf": "LinfPGD"}), "nullclass[foolbox]"),
    "pyautoattack": (AutoAttackAttack, "nullclass[autoattack]"),
    "art": (lambda: ARTAttack({"linf": "FastGradientMethod"}), "nullclass[art]"),
    "torchattacks": (lambda: TorchattacksAttack({"linf": "PGD"}), "--no-deps torchattacks"),
}
BROKEN = {
    "raise RuntimeError('operator nms does not exist')": "RuntimeError: operator nms",
    "import no_such_dependency": "No module named 'no_such_dependency'",
    "from math import no_such_name": "ImportError: cannot import name",
}


def forget(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for name in [m for m in sys.modules if m == library or m.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("library", MAKERS)
def test_missing_and_broken_libraries(
    library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, install = MAKERS[library]
    with monkeypatch.context() as patch:
        forget(patch, library)
        patch.setitem(sys.modules, library, None)  # the import system then reports it missing
        with pytest.raises(UserError, match=f"{library} is not installed: pip install") as error:
            make()
        assert install in str(error.value)
    for number, (code, reason) in enumerate(BROKEN.items()):
        folder = tmp_path / str(number) / library
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code)
        with monkeypatch.context() as patch:
            forget(patch, library)
            patch.syspath_prepend(folder.parent)
            with pytest.raises(UserError, match="installed but does not import") as error:
                make()
            assert reason in str(error.value)
            assert "pip install" not in str(error.value), "it would not help"


def test_no_library_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, nullclass.attacks as a; "
        f"loaded = {set(MAKERS)!r} & set(sys.modules); "
        "assert a.find_attack and not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PGD = {"linf": "ProjectedGradientDescentPyTorch"}


@pytest.mark.parametrize(
    ("library", "make", "says"),
    [
        ("foolbox", lambda: FoolboxAttack({"l2": "L2PGD"}), "must be one of l2, not 'linf'"),
        ("foolbox", lambda: FoolboxAttack({"linf": "L2PGD"}), "L2PGD is for L2.*not linf"),
        ("foolbox", lambda: FoolboxAttack({"linf": "LinfPDG"}), "no attack 'LinfPDG'"),
        ("foolbox", lambda: FoolboxAttack({"linf": "no.such.Attack"}), "no attack 'no.such"),
        ("foolbox", lambda: FoolboxAttack({"linf": "LinfPGD"}, {"stepps": 3}), "stepps"),
        ("pyautoattack", lambda: AutoAttackAttack(version="custom"), "version must be one of"),  # type: ignore[arg-type]
        ("pyautoattack", lambda: AutoAttackAttack(attacks=("apgd-ce", "pgd")), "not 'pgd'"),
        ("pyautoattack", lambda: AutoAttackAttack(view="targeted"), "picks its targets itself"),
        ("pyautoattack", AutoAttackAttack, "apgd-t needs 4 classes"),
        ("art", lambda: ARTAttack(PGD, {"max_itr": 3}), "max_itr"),
        ("art", lambda: ARTAttack(PGD, {"eps": 3}), "'eps' is no setting"),
        ("art", lambda: ARTAttack(PGD, relative={"eps": 3}), "'eps' is no setting"),
        ("art", lambda: ARTAttack(PGD, {"max_iter": -1}), "refuses to create Proj"),
        ("art", lambda: ARTAttack({"linf": "PGD"}), "no attack 'PGD'"),
        ("art", lambda: ARTAttack({"linf": "DeepFool"}, view="targeted"), "takes no targets"),
        ("torchattacks", lambda: TorchattacksAttack({"linf": "PGD"}, {"stepps": 3}), "stepps"),
        ("torchattacks", lambda: TorchattacksAttack({"linf": "PDG"}), "no attack 'PDG'"),
        (
            "torchattacks",
            lambda: TorchattacksAttack({"linf": "TPGD"}, view="targeted"),
            "takes no targets",
        ),
    ],
)
def test_what_a_library_does_not_have(
    library: str, make: Callable[[], ExternalAttack], says: str
) -> None:
    pytest.importorskip(library)
    model, image, label = two_input_world(0.3, 0.3)
    with pytest.raises(UserError, match=says):
        make()(model, image, label, eps=0.2)


def test_foolbox_attacks_that_take_no_target() -> None:
    pytest.importorskip("foolbox")
    model, image, label = two_input_world(0.3, 0.3)
    attack = FoolboxAttack({"l2": "VirtualAdversarialAttack"}, {"steps": 2}, view="targeted")
    with pytest.raises(UserError, match="VirtualAdversarialAttack refuses: unsupported criterion"):
        attack(model, image, label, eps=0.1, norm="l2")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTERNAL)
def test_norms_of_ready_made_attacks(name: str) -> None:
    try:
        attack = EXTERNAL[name]()
    except UserError:
        pytest.skip("not installed")
    if not hasattr(attack, "names"):
        return
    world = linear_world(3, scale=100)
    model, image, label = world.model, world.image, world.label
    others = torch.rand(300, *image.shape[1:], generator=seeded())
    reference = LabelledImages(others, torch.zeros(300, dtype=torch.int64))
    attack_with = with_reference_images(attack, reference)
    for norm in ("linf", "l2", "l1"):
        eps = 1.5 * world.optimum.get(norm, 9 * world.optimum["linf"])
        if norm in attack.names:
            adv_images = attack_with(model, image, label, eps=eps, norm=norm)
            assert outcome_of(model, adv_images, label) == ["fooled"], norm
        else:
            with pytest.raises(UserError, match=f"not '{norm}'"):
                attack_with(model, image, label, eps=eps, norm=norm)

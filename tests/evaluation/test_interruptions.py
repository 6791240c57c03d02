"""An evaluation that is interrupted anywhere goes on there; what would fail late fails first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from interruptions import (
    Calls,
    InterruptError,
    keep_everything,
    make_data,
    make_model,
    passes,
    until_done,
)
from torch import nn

import nullclass
from nullclass.attacks import FGSM, PGD, AttackEnsemble, DatasetAttack, Noise, Square, Transfer
from nullclass.attacks.fmn import FMN
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.diagnostics import attack_probes
from nullclass.evaluation import Evaluation
from nullclass.evaluation import run as run_module
from nullclass.models import Classifier
from nullclass.rejection import SmoothedNull


@pytest.fixture(autouse=True)
def everything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_everything(monkeypatch)
    monkeypatch.setattr(run_module, "FMN", lambda: FMN(num_steps=2))
    reference = AttackEnsemble((PGD(num_steps=2), Noise(num_draws=1)), ("pgd", "noise"))
    monkeypatch.setattr(attack_probes, "REFERENCE", reference)


@pytest.fixture
def model() -> Classifier:
    return make_model()


@pytest.fixture
def data(model: Classifier) -> LabelledImages:
    return make_data(model)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def full(model: Classifier, data: LabelledImages, **more: Any) -> Evaluation:
    """An evaluation with every step that there is."""
    ensemble = AttackEnsemble((PGD(num_steps=1), Noise(num_draws=2)), ("pgd", "noise"))
    settings: dict[str, Any] = {
        "attacks": {"fgsm": FGSM(), "both": ensemble},
        "eps": [0.1, 0.2],
        "held_out": (data.images.flip(0), data.labels.flip(0)),
        "ood": ("noise", "blank"),
        "num_smallest": 8,
        "proofs": "interval",
        "num_examples": 2,
        "checks": True,
        "seed": np.int64(2),
    }
    return nullclass.evaluate(model, data, **settings | more)


def assert_same(found: Evaluation, expected: Evaluation) -> None:
    """Everything is equal to the last bit, except times."""
    for name in ("rows", "costs", "held_out", "ood", "certified"):
        one, other = (
            getattr(each, name).drop(columns="seconds", errors="ignore")
            for each in (found, expected)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert (found.threat, found.probes, found.flags) == (
        expected.threat,
        expected.probes,
        expected.flags,
    )
    for one, other in zip(found.examples, expected.examples, strict=True):
        for name, value in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), value)


def test_it_goes_on_after_every_step(
    model: Classifier, data: LabelledImages, calls: Calls, tmp_path: Path
) -> None:
    expected = full(model, data)
    uninterrupted = calls.take()
    found, num_interrupts = until_done(
        lambda on_images: full(model, data, progress=on_images, parts=tmp_path), every=4
    )
    assert num_interrupts > 5
    assert_same(found, expected)
    assert calls.take() == uninterrupted, "no attack is made twice"
    assert found.costs["seconds"].gt(0).any()
    assert_same(full(model, data, parts=tmp_path), expected)
    assert calls.take() == []
    assert list(tmp_path.iterdir()), "the caller removes it"


def test_it_goes_on_after_any_pass(
    model: Classifier, data: LabelledImages, calls: Calls, tmp_path: Path
) -> None:
    with passes(model) as seen:
        expected = full(model, data, parts=tmp_path / "all")
    uninterrupted = calls.take()
    # before the first part, in the attacks, and in the checks, which make several attacks each
    for stop in (3, len(seen) // 3, len(seen) - 16, len(seen) - 2):
        parts = tmp_path / str(stop)
        with pytest.raises(InterruptError), passes(model, stop):
            full(model, data, parts=parts)
        with passes(model) as resumed:
            assert_same(full(model, data, parts=parts), expected)
        assert len(resumed) <= len(seen)
        # the interrupted attack is made again; it may be an ensemble of two
        assert len(calls.take()) <= len(uninterrupted) + 3


def test_another_evaluation_in_the_same_folder_is_not_mixed(
    model: Classifier, data: LabelledImages, tmp_path: Path
) -> None:
    models, settings = (model, make_model(5)), {"checks": False, "num_smallest": 0}
    expected = [full(used, data, **settings) for used in models]
    for number in (0, 1, 0):
        assert_same(full(models[number], data, parts=tmp_path, **settings), expected[number])


# What would fail late


def constant(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.full(shape, 0.5)


WITHOUT_NULL = make_model(num_outputs=3)
TWO_CLASSES = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 2)


class NoBound(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(images.flatten(1)).real[:, :4]


LATE: dict[str, tuple[dict[str, Any], str]] = {
    "norm of an attack": ({"attacks": {"a": Square()}, "norm": "l1"}, "norm of Square"),
    "objective": (
        {"model": WITHOUT_NULL, "attacks": "worst-case-force-null"},
        "force-null needs a model with a null class",
    ),
    "target": ({"attacks": {"a": PGD(targets=3)}}, "targets must be from 0 to 2"),
    "classes of a source": (
        {"source": TWO_CLASSES},
        "labels run from 0 to 2",
    ),
    "name of an attack": ({"attacks": {"null": FGSM()}}, "'null' cannot be an attack's name"),
    "no name": ({"attacks": {3: FGSM()}}, "3 cannot be an attack's name"),
    "half a character": ({"attacks": {"\udc80": FGSM()}}, "cannot be an attack's name"),
    "name of a member": (
        {"attacks": {"a": AttackEnsemble((FGSM(),), ("None",))}},
        "'None' cannot be an attack's name",
    ),
    "classes of a transfer": (
        {"attacks": {"a": Transfer((make_model(num_outputs=3), TWO_CLASSES), FGSM())}},
        "a source has 2 classes",
    ),
    "source of no class": ({"ood": ("noise", "nothing")}, "ood must be"),
    "images of no class": ({"ood": {"mine": constant((3, 1, 4, 4)) * 3}}, "must be in"),
    "unsuitable images of no class": ({"ood": ("fashion-mnist",)}, "28"),
    "verifier": ({"proofs": "guess"}, "verifier"),
    "norm of proofs": ({"proofs": "interval", "norm": "l1"}, "l1"),
    "a layer without bounds": (
        {"model": Classifier(NoBound(), 3), "proofs": "interval"},
        "bound",
    ),
    "proofs of a model without proofs": (
        {"model": SmoothedNull(WITHOUT_NULL, 0.1, sigma=0.1), "proofs": "interval"},
        "proves nothing",
    ),
    "selected_on": ({"selected_on": "validation"}, "selected_on must be"),
    "held-out labels": ({"held_out": (constant((2, 1, 4, 4)), torch.tensor([0, 7]))}, "labels run"),
}


@pytest.mark.parametrize("case", LATE)
def test_what_would_fail_late_fails_first(
    case: str,
    data: LabelledImages,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("images were scored before this was refused")

    monkeypatch.setattr(run_module, "score_clean", too_late)
    settings, message = LATE[case]
    arguments: dict[str, Any] = {"model": make_model(), "attacks": {"a": FGSM()}, "eps": [0.1]}
    arguments |= {"data": data, "parts": tmp_path / "parts", "checks": False} | settings
    with pytest.raises(UserError, match=message):
        nullclass.evaluate(**arguments)
    assert calls.take() == []
    assert list(tmp_path.iterdir()) == [], "a refused call leaves nothing"


def test_a_folder_that_cannot_be_written_is_refused_first(
    model: Classifier, data: LabelledImages, calls: Calls, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        full(model, data, parts=tmp_path / "file")
    assert calls.take() == []


def test_attacks_inside_others_are_allowed_to_wait(model: Classifier, data: LabelledImages) -> None:
    """Checks before the start call no attack, not even one that has no images yet."""
    attacks = {"a": DatasetAttack(), "b": Transfer((make_model(3),), PGD(num_steps=1))}
    rows = nullclass.evaluate(model, data, attacks=attacks, eps=0.1, checks=False).rows
    assert set(rows["attack"]) == {"clean", "a", "b"}

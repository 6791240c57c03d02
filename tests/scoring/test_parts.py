"""Interrupted evaluations go on exactly where they were, and repeat nothing that was finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from interruptions import (
    NUM_CLASSES,
    Calls,
    InterruptError,
    keep_everything,
    make_data,
    make_model,
    passes,
    until_done,
)
from torch import Tensor, nn

from nullclass.attacks import (
    FGSM,
    PGD,
    Attack,
    AttackEnsemble,
    DatasetAttack,
    MultiTargetedPGD,
    Noise,
    Square,
    Transfer,
)
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.fmn import FMN
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.nulls.perturb import make_perturbation
from nullclass.rejection import ProvableNull, with_threshold
from nullclass.scoring import audit
from nullclass.scoring import parts as parts_module
from nullclass.scoring.attacked import AttackResult, score_attack
from nullclass.scoring.crafted import craft, score_crafted
from nullclass.scoring.ood import score_ood
from nullclass.scoring.parts import NOTHING, Parts
from nullclass.scoring.proofs import prove
from nullclass.scoring.score import score_clean
from nullclass.scoring.smallest import score_smallest
from nullclass.scoring.sweeps import score_radii, score_sizes

BUDGETS = (0.1, 0.2, 0.3)
PROOFS = pd.DataFrame(
    {
        "image": [1, 5, 8, 9],
        "norm": "linf",
        "eps_pixels": [0.3, 0.2, 0.3, 0.3],
        "is_never_fooled": [True, True, True, False],
    }
)
ENSEMBLE = AttackEnsemble(
    (Noise(num_draws=2), PGD(num_steps=2, num_restarts=2), Square(num_queries=3), DatasetAttack()),
    ("noise", "pgd", "square", "dataset"),
)


@pytest.fixture(autouse=True)
def everything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_everything(monkeypatch)


@pytest.fixture
def model() -> Classifier:
    return make_model()


@pytest.fixture
def data(model: Classifier) -> LabelledImages:
    return make_data(model)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def assert_same(found: AttackResult, expected: AttackResult) -> None:
    """Everything is equal to the last bit, except times."""
    pd.testing.assert_frame_equal(found.rows, expected.rows, check_exact=True)
    pd.testing.assert_frame_equal(
        found.costs.drop(columns="seconds"), expected.costs.drop(columns="seconds")
    )
    assert len(found.examples) == len(expected.examples)
    for one, other in zip(found.examples, expected.examples, strict=True):
        for name, value in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), value)
    assert found.adv_images.keys() == expected.adv_images.keys()
    for eps, images in expected.adv_images.items():
        assert torch.equal(found.adv_images[eps], images)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


ATTACKS: dict[str, Attack] = {
    "single step": FGSM(),
    "random restarts": PGD(num_steps=2, num_restarts=3),
    "targets": MultiTargetedPGD(num_steps=2),
    "square": Square(num_queries=4),
    "ensemble": ENSEMBLE,
    "largest eps first": replace(ENSEMBLE, largest_eps_first=True),
}


@pytest.fixture(
    params=[*ATTACKS, "from another model", "per image", "transfer inside", "proved images"]
)
def attack_of(
    request: pytest.FixtureRequest,
    model: Classifier,
    data: LabelledImages,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., AttackResult]:
    """A call of ``score_attack`` on two batches at three eps."""
    name, settings = request.param, dict[str, Any](num_examples=2)
    attack = ATTACKS.get(name, ATTACKS["random restarts"])
    budgets: tuple[float, ...] | Tensor = BUDGETS
    if name == "from another model":
        settings |= {"source": make_model(1), "source_name": "other", "keep_images": True}
    if name == "per image":
        budgets = torch.linspace(0.02, 0.2, len(data))
    if name == "transfer inside":
        attack = Transfer((make_model(1),), PGD(num_steps=2, num_restarts=2))
    if name == "proved images":
        monkeypatch.setattr(audit, "NUM_AUDITED", 1)
        attack, settings["certified"] = ATTACKS["largest eps first"], PROOFS

    def call(**more: Any) -> AttackResult:
        chosen, used = torch.arange(len(data)).flip(0), with_reference_images(attack, data)
        arguments = settings | {"norm": "linf", "seed": 3} | more
        return score_attack(model, data, chosen, "name", used, budgets, **arguments)

    return call


@pytest.mark.parametrize("name", ["random restarts", "largest eps first"])
def test_the_attacks_have_work(name: str, model: Classifier, data: LabelledImages) -> None:
    """Some images succeed at each eps, so that a batch starts the next one with their images."""
    attack = with_reference_images(ATTACKS[name], data)
    result = score_attack(model, data, torch.arange(6), "a", attack, BUDGETS, norm="linf")
    rows = result.rows
    num_fooled = rows["outcome"].eq("fooled").groupby(rows["eps_pixels"]).sum().tolist()
    assert 0 < num_fooled[0] < num_fooled[1] < num_fooled[2] < 6
    assert result.costs.groupby("eps_pixels")["num_images"].max().gt(0).all()


def test_an_attack_goes_on_after_every_batch_and_eps(
    attack_of: Callable[..., AttackResult], calls: Calls, tmp_path: Path
) -> None:
    expected = attack_of()
    uninterrupted = calls.take()
    found, num_interrupts = until_done(
        lambda on_images: attack_of(parts=Parts(tmp_path), on_images=on_images)
    )
    assert num_interrupts in (2, 6)
    assert calls.take() == uninterrupted, "nothing finished is repeated"
    assert_same(found, expected)
    assert_same(attack_of(parts=Parts(tmp_path)), expected)
    assert calls.take() == []


def test_an_attack_goes_on_after_any_pass(
    attack_of: Callable[..., AttackResult], model: Classifier, tmp_path: Path
) -> None:
    expected = attack_of()
    with passes(model) as seen:
        attack_of(parts=Parts(tmp_path / "all"))
    for stop in range(1, len(seen) + 1, max(1, len(seen) // 2)):
        parts = Parts(tmp_path / str(stop))
        with pytest.raises(InterruptError), passes(model, stop):
            attack_of(parts=parts)
        assert_same(attack_of(parts=parts), expected)


def test_finished_members_of_an_ensemble_are_not_repeated(
    model: Classifier, data: LabelledImages, calls: Calls, tmp_path: Path
) -> None:
    attack = with_reference_images(ENSEMBLE, data)

    def call(**more: Any) -> AttackResult:
        return score_attack(
            model, data, torch.arange(6), "name", attack, [0.2], norm="linf", **more
        )

    expected = call()
    members = calls.take()
    assert members == ["Noise", "PGD", "Square", "DatasetAttack"]
    with passes(model) as seen:
        call(parts=Parts(tmp_path / "all"))
    calls.take()
    repeated = set()
    for stop in range(1, len(seen) + 1, 4):
        parts = Parts(tmp_path / str(stop))
        with pytest.raises(InterruptError), passes(model, stop):
            call(parts=parts)
        before = calls.take()
        assert_same(call(parts=parts), expected)
        after = calls.take()
        assert members in (before + after, before[:-1] + after), "at most the interrupted one"
        repeated.add(len(before) + len(after) - len(members))
    assert repeated == {0, 1}


# Everything else that is scored in batches


def crafted_by(model: Classifier, data: LabelledImages, **more: Any) -> Any:
    return craft(model, data, PGD(num_steps=2), [0.05, 0.1], num_images=len(data), **more)


STEPS: dict[str, Callable[..., pd.DataFrame | AttackResult]] = {
    "clean": lambda model, data, **more: score_clean(model, data, **more),
    "proofs": lambda model, data, **more: prove(model, data, [0.01, 0.05], **more),
    "smallest": lambda model, data, **more: score_smallest(
        model, data, "smallest", FMN(num_steps=3), norm="linf", num_examples=2, **more
    ),
    "crafted": lambda model, data, **more: crafted_by(model, data, **more).rows,
    "scored": lambda model, data, **more: score_crafted(
        model, data, crafted_by(model, data), name="a", source_name="b", **more
    ),
    "sizes": lambda model, data, **more: score_sizes(
        model, data, make_perturbation("pgd", {"num_steps": 2}), "linf", [0.0, 0.1], **more
    ),
    "radii": lambda model, data, **more: score_radii(
        ProvableNull(make_model(num_outputs=NUM_CLASSES), 0.01), data, [0.0, 0.02], **more
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_goes_on_after_every_batch(
    name: str,
    model: Classifier,
    data: LabelledImages,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    saved: list[dict[str, Any]] = []
    save = Parts.save

    def recorded(parts: Parts, values: Any, seconds: float) -> bool:
        saved.extend([values] if parts.folder else [])
        return save(parts, values, seconds)

    monkeypatch.setattr(Parts, "save", recorded)
    expected = STEPS[name](model, data)
    STEPS[name](model, data, parts=Parts(tmp_path / "uninterrupted"))
    num_saved = len(saved)
    saved.clear()
    step = partial(STEPS[name], model, data, parts=Parts(tmp_path / "interrupted"))
    found, num_interrupts = until_done(lambda on_images: step(on_images=on_images))
    assert num_interrupts >= 2
    assert len(saved) == num_saved, "nothing finished is repeated"
    again = step()
    assert len(saved) == num_saved
    for result in (found, again):
        if isinstance(expected, AttackResult):
            assert isinstance(result, AttackResult)
            assert_same(result, expected)
        else:
            assert isinstance(result, pd.DataFrame)
            pd.testing.assert_frame_equal(result, expected, check_exact=True)


class Step(torch.autograd.Function):
    """A layer without a backward pass."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return (images > 0.5).float() * images


def test_a_model_that_cannot_be_differentiated_is_kept_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_everything(monkeypatch)
    layer = nn.Linear(16, NUM_CLASSES)
    model = Classifier(lambda x: layer(Step.apply(x).flatten(1)), NUM_CLASSES, has_null=False)
    images = torch.rand(8, 1, 4, 4)
    assert Parts(tmp_path).of("a", models=[model], images=images).folder is not None


def test_a_gradient_that_varies_in_its_last_digits_is_no_other_model(tmp_path: Path) -> None:
    layer, calls = nn.Linear(16, NUM_CLASSES), []

    def network(images: Tensor) -> Tensor:
        if images.requires_grad:
            calls.append(images)
            images.register_hook(lambda gradient: gradient * (1 + 1e-6 * len(calls)))
        return layer(images.flatten(1))

    model = Classifier(network, NUM_CLASSES, has_null=False)
    images = torch.rand(8, 1, 4, 4)
    first, second = (Parts(tmp_path).of("a", models=[model], images=images) for _ in range(2))
    assert first.fingerprint == second.fingerprint != ""
    assert len(calls) == 2


def test_images_of_no_class_are_kept(
    model: Classifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("nullclass.core.devices.BATCH_SIZE", 6)
    images = torch.rand((10, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    expected = score_ood(model, images, "noise")
    pd.testing.assert_frame_equal(
        score_ood(model, images, "noise", parts=Parts(tmp_path)), expected
    )
    assert len(files_in(tmp_path)) == 2
    with passes(model) as seen:
        found = score_ood(model, images, "noise", parts=Parts(tmp_path))
    assert seen == [8] * 4, "the behaviour that identifies the model, no image anew"
    pd.testing.assert_frame_equal(found, expected)


# What is not reused


def attack_with(model: Classifier, data: LabelledImages, **changed: Any) -> AttackResult:
    arguments: dict[str, Any] = {
        "chosen": torch.arange(6),
        "name": "name",
        "attack": PGD(num_steps=2, num_restarts=2),
        "budgets": [0.2],
        "norm": "linf",
    }
    return score_attack(model, data, **arguments | changed)


def with_other_pixels(data: LabelledImages) -> LabelledImages:
    images = data.images.clone()
    images[2, 0, 0, 0] = 0.25
    return LabelledImages(images, data.labels, NUM_CLASSES)


def with_other_labels(data: LabelledImages) -> LabelledImages:
    return LabelledImages(data.images, (data.labels + 1) % NUM_CLASSES, NUM_CLASSES)


CHANGES: dict[str, dict[str, Any]] = {
    "eps": {"budgets": [0.21]},
    "eps per image": {"budgets": torch.full((6,), 0.2)},
    "norm": {"norm": "l2"},
    "seed": {"seed": 1},
    "batch size": {"batch_size": 2},
    "settings": {"attack": PGD(num_steps=3, num_restarts=2)},
    "objective": {"attack": PGD("untargeted", num_steps=2, num_restarts=2)},
    "class": {"attack": MultiTargetedPGD(num_steps=2, num_restarts=2)},
    "reference images": {"attack": DatasetAttack()},
    "a source": {"source": make_model()},
    "more images to show": {"num_examples": 2},
    "all images": {"keep_images": True},
    "the images attacked": {"chosen": torch.arange(6).flip(0)},
    "pixels": {"data": with_other_pixels},
    "labels": {"data": with_other_labels},
    "weights": {"model": make_model(2)},
    "a threshold": {"model": with_threshold(make_model(), 0.1)},
    "proofs": {"certified": PROOFS},
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_of_other_settings_are_not_reused(
    change: str,
    model: Classifier,
    data: LabelledImages,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(audit, "NUM_AUDITED", 1)
    attack_with(model, data, parts=Parts(tmp_path))
    calls.take()
    changed = dict(CHANGES[change])
    used_model = changed.pop("model", model)
    used_data = changed.pop("data", lambda same: same)(data)
    expected = attack_with(used_model, used_data, **changed)
    uninterrupted = calls.take()
    assert_same(attack_with(used_model, used_data, parts=Parts(tmp_path), **changed), expected)
    assert calls.take() == uninterrupted, "all of it is computed"


def test_parts_of_other_reference_images_are_not_reused(
    model: Classifier, data: LabelledImages, calls: Calls, tmp_path: Path
) -> None:
    for reference in (data, with_other_pixels(data), data):
        attack = with_reference_images(DatasetAttack(), reference)
        attack_with(model, data, attack=attack, parts=Parts(tmp_path))
        assert calls.take() == ["DatasetAttack"]


def test_parts_of_another_source_of_a_transfer_are_not_reused(
    model: Classifier, data: LabelledImages, calls: Calls, tmp_path: Path
) -> None:
    def transfer(activation: nn.Module) -> Attack:
        source = make_model(2)
        assert isinstance(source.body, nn.Sequential)
        source.body[2] = activation
        return Transfer((source,), PGD(num_steps=3))

    found = []
    for activation in (nn.ReLU(), nn.Hardshrink(5.0), nn.ReLU()):
        attack = transfer(activation)
        found.append(attack_with(model, data, attack=attack, parts=Parts(tmp_path)))
        assert_same(found[-1], attack_with(model, data, attack=attack))
        calls.take()
    attack_with(model, data, attack=transfer(nn.ReLU()), parts=Parts(tmp_path))
    assert calls.take() == []


def test_parts_of_other_code_are_not_reused(
    model: Classifier,
    data: LabelledImages,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    attack_with(model, data, parts=Parts(tmp_path))
    monkeypatch.setattr(torch, "__version__", "0.0")
    calls.take()
    attack_with(model, data, parts=Parts(tmp_path))
    assert calls.take() == ["PGD"]


class OwnAttack:
    """A user's attack."""

    objective, is_iterative, access = "fool", True, "none"

    def __call__(self, model: object, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        return images.clone()


class OwnPGD(PGD):
    """A user's variant of ours."""


@pytest.mark.parametrize(
    "attack",
    [OwnAttack(), OwnPGD(num_steps=2), AttackEnsemble((PGD(num_steps=2), OwnPGD(num_steps=2)))],
)
def test_nothing_is_kept_of_an_attack_of_the_user(
    attack: Any, model: Classifier, data: LabelledImages, tmp_path: Path
) -> None:
    expected = attack_with(model, data, attack=attack)
    assert_same(attack_with(model, data, attack=attack, parts=Parts(tmp_path)), expected)
    assert files_in(tmp_path) == []


def test_nothing_is_kept_of_a_model_with_random_answers(
    data: LabelledImages, tmp_path: Path
) -> None:
    class Noisy(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.flatten(1)) + 0.01 * torch.randn(4)

    model = Classifier(Noisy(16, 4), NUM_CLASSES)
    score_clean(model, data, parts=Parts(tmp_path))
    assert files_in(tmp_path) == []


# The file of a part


VALUES: dict[str, Any] = {
    "table": pd.DataFrame(
        {
            "loss": np.array([0.1, np.nan, np.inf], dtype=np.float32),
            "image": [2, 0, 1],
            "outcome": ["null", "correct", "fooled"],
            "is": [True, False, True],
            "eps": [0.1, 1e-300, -0.0],
        }
    ),
    "nested": [{"tensor": torch.tensor([[1.0, -0.0], [torch.nan, 2.0]])}, [torch.zeros(0)]],
    "bytes": torch.Generator().manual_seed(1).get_state(),
    "values": {"seconds": 0.1 + 0.2, "none": None, "names": ["a", "ä", ""], "large": 2**53 + 1},
}


def test_values_are_read_back_as_they_were(tmp_path: Path) -> None:
    parts = Parts(tmp_path).of("step", settings={"a": 1})
    assert parts.load() is None
    assert parts.save(VALUES, 1.0)
    found = parts.load()
    assert found is not None
    pd.testing.assert_frame_equal(found["table"], VALUES["table"], check_exact=True)
    assert np.signbit(found["table"]["eps"][2])
    (one, (empty,)), (expected, _) = found["nested"], VALUES["nested"]
    assert one["tensor"].numpy().tobytes() == expected["tensor"].numpy().tobytes()
    assert empty.shape == (0,)
    assert torch.equal(found["bytes"], VALUES["bytes"])
    assert found["values"] == VALUES["values"]


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path).of("step")
    value = {"a": torch.arange(3), "b": [0.5]}
    parts.keep(lambda: value)
    (file,) = files_in(tmp_path)
    whole = file.read_bytes()
    tried = 0
    for position in range(len(whole)):
        for damaged in (
            whole[:position],
            whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
            whole[:position] + b"\0" + whole[position:],
        ):
            file.write_bytes(damaged)
            tried += 1
            assert parts.load() is None
    file.write_bytes(whole + b"x")
    assert parts.load() is None
    assert tried > 1000
    found = parts.keep(lambda: {"a": torch.arange(4)})
    assert len(found["a"]) == 4
    again: dict[str, Any] = parts.keep(dict)
    assert torch.equal(again["a"], torch.arange(4))


@pytest.mark.parametrize("position", [0, 70, 0.3, 0.6, 0.999])
def test_a_damaged_part_of_an_attack_is_computed_again(
    position: float, model: Classifier, data: LabelledImages, calls: Calls, tmp_path: Path
) -> None:
    def call(**more: Any) -> AttackResult:
        more |= {"chosen": torch.arange(10), "attack": ENSEMBLE, "budgets": BUDGETS}
        return attack_with(model, data, **more)

    expected = call(parts=Parts(tmp_path))
    calls.take()
    (file,) = (path for path in files_in(tmp_path) if path.parent.name == "6")
    content = bytearray(file.read_bytes())
    content[int(position * len(content)) if position < 1 else int(position)] ^= 16
    file.write_bytes(content)
    assert_same(call(parts=Parts(tmp_path)), expected)
    assert len(calls.take()) == len(BUDGETS) * len(ENSEMBLE.members), "the second batch only"


def test_something_else_in_the_place_of_a_part(tmp_path: Path) -> None:
    parts = Parts(tmp_path).of("step")
    assert parts.folder is not None
    parts.folder.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("safe")
    (parts.folder / parts_module.FILE).symlink_to(elsewhere)
    assert parts.keep(lambda: 7) == 7
    assert elsewhere.read_text() == "safe", "replaced, not followed"
    assert parts.keep(lambda: 8) == 7


def test_names_become_safe_folders(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    for name in ("../../x", "/etc", "a/b", ".", "x" * 300, "é\n"):
        assert Parts(folder).of(name).keep(lambda: 1) == 1
    assert len(files_in(folder)) == 6
    assert files_in(tmp_path) == files_in(folder)
    assert all(path.parent.parent == folder for path in files_in(folder))


def test_what_took_little_time_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts_module, "MIN_SECONDS", 60.0)
    assert Parts(tmp_path).of("step").keep(lambda: 1) == 1
    assert not Parts(tmp_path).of("step").save({"a": 1}, seconds=59.0)
    assert files_in(tmp_path) == []
    assert Parts(tmp_path).of("step").save({"a": 1}, seconds=60.0)
    assert len(files_in(tmp_path)) == 1


def test_nothing_is_kept_without_a_folder(model: Classifier, data: LabelledImages) -> None:
    with passes(model) as seen:
        score_clean(model, data, parts=NOTHING)
    assert seen == [6, 4]
    assert NOTHING.of("a", models=[model], images=data.images).load() is None

"""Rows, rates and costs of an evaluation, against plain loops."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from worlds import Affine, Digits, outcome_of

import nullclass
from nullclass.attacks import FGSM, PGD, Attack, null_aware_pgd
from nullclass.core import devices
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.evaluation import Evaluation
from nullclass.models import Classifier
from nullclass.rejection import calibrate, with_threshold
from nullclass.results.schema import CLEAN, ROW_COLUMNS
from nullclass.scoring.attacked import score_attack

EPS = (0.03, 0.08)
STEP = FGSM("untargeted")
Small = tuple[Tensor, Tensor]


def evaluate(*args: Any, **settings: Any) -> Evaluation:
    """Without checks, which run attacks and models more often than the evaluation does."""
    return nullclass.evaluate(*args, **{"checks": False} | settings)


class Recorder:
    """An attack that records its calls and delegates them to another one, or does nothing."""

    objective = "fool"
    access = "white-box"

    def __init__(self, inner: Attack | None = None, is_iterative: bool = True) -> None:
        self.inner, self.is_iterative = inner, is_iterative
        self.calls: list[tuple[float, Tensor]] = []
        self.models: list[nn.Module] = []
        self.batch_sizes: set[int | None] = set()

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, **more: Any
    ) -> Tensor:
        self.calls.append((eps, images.clone()))
        self.models.append(model)
        self.batch_sizes.add(more["batch_size"])
        if self.inner is None:
            return images.clone()
        return self.inner(model, images, labels, eps=eps, **more)


@pytest.fixture(scope="module")
def small(digits: Digits) -> Small:
    return digits.images[:60], digits.labels[:60]


def check_answers(rows: pd.DataFrame, model: Classifier, images: Tensor, labels: Tensor) -> None:
    """Compare rows with the model's answers on the images."""
    assert rows["outcome"].tolist() == outcome_of(model, images, labels)
    with torch.no_grad():
        p = model(images).double().softmax(dim=1)
    np.testing.assert_allclose(rows["confidence"], p.max(dim=1).values, atol=1e-6)
    np.testing.assert_allclose(rows["loss"], -p[range(len(labels)), labels].log(), atol=1e-4)
    np.testing.assert_allclose(rows["null_loss"], -p[:, 10].log(), atol=1e-4)
    answers = p.argmax(dim=1)
    assert rows["prediction"].tolist() == answers.where(answers < 10, -1).tolist()


@pytest.mark.parametrize("is_transfer", [False, True])
def test_rows_and_examples_of_a_plain_loop(is_transfer: bool, digits: Digits, small: Small) -> None:
    images, labels = small
    attacks: dict[str, Any] = {"fgsm": STEP, "pgd": PGD(num_steps=4)}
    if not is_transfer:
        del attacks["pgd"]  # an iterative attack is not repeated after a success
    source = digits.plain if is_transfer else None
    result = evaluate(
        digits.guarded, small, attacks=attacks, eps=EPS, source=source, num_examples=3
    )
    rows = result.rows
    assert list(rows.columns) == list(ROW_COLUMNS)
    assert rows.groupby(["attack", "eps_pixels"]).size().to_dict() == {(CLEAN, 0.0): 60} | {
        (name, eps): 60 for name in attacks for eps in EPS
    }
    assert set(rows.loc[rows["attack"] != CLEAN, "source"]) == {"source" if source else "self"}
    check_answers(rows[rows["attack"] == CLEAN], digits.guarded, images, labels)
    for name, attack in attacks.items():
        for eps in EPS:
            adv_images = attack(source or digits.guarded, images, labels, eps=eps)
            group = rows[(rows["attack"] == name) & (rows["eps_pixels"] == eps)]
            assert group["image"].tolist() == list(range(60))
            assert group["label"].tolist() == labels.tolist()
            check_answers(group, digits.guarded, adv_images, labels)
            (shown,) = (e for e in result.examples if (e.attack, e.eps_pixels) == (name, eps))
            np.testing.assert_array_equal(shown.clean, images[:3])
            np.testing.assert_allclose(shown.adv_images, adv_images[:3], atol=1e-6)
            assert shown.predictions == digits.guarded.predict(adv_images[:3]).tolist()
            assert shown.labels == labels[:3].tolist()
            assert shown.budgets == [eps] * 3


def test_the_same_rows_however_images_and_models_are_passed(digits: Digits, small: Small) -> None:
    images, labels = small
    settings: dict[str, Any] = {"attacks": {"pgd": PGD(num_steps=5, num_restarts=2)}}

    def rows(model: nn.Module = digits.guarded, data: Any = small, **changed: Any) -> pd.DataFrame:
        return evaluate(model, data, **{"eps": EPS} | settings | changed).rows

    expected = rows()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), batch_size=7
    )
    halves = [(images[:9], labels[:9]), (images[9:], labels[9:])]
    for data in (loader, LabelledImages(images, labels, 10), halves):
        pd.testing.assert_frame_equal(rows(data=data), expected)
    pd.testing.assert_frame_equal(rows(digits.guarded.body, num_classes=10), expected)
    for eps in ([0.08, 0.03, 0.08], np.array(EPS), torch.tensor(EPS, dtype=torch.float64)):
        pd.testing.assert_frame_equal(rows(eps=eps), expected)
    for eps in (np.float64(0.08), torch.tensor(0.08, dtype=torch.float64), 0.08):
        assert set(rows(eps=eps)["eps_pixels"]) == {0.0, 0.08}
    pd.testing.assert_frame_equal(rows(digits.guarded.train()), expected)
    assert digits.guarded.training, "left as found"
    digits.guarded.eval()
    transfer = rows(digits.plain, source=digits.guarded)
    plain_source = rows(digits.plain, source=digits.guarded.body, num_classes=10)
    pd.testing.assert_frame_equal(plain_source, transfer)
    without_null = rows(source=digits.plain.body, num_classes=10)
    pd.testing.assert_frame_equal(without_null, rows(source=digits.plain))


def test_the_model_itself_as_a_source_is_a_transfer(digits: Digits, small: Small) -> None:
    """So a success at a smaller eps does not count at a larger one."""
    recorder = Recorder()
    result = evaluate(
        digits.guarded, small, attacks={"a": recorder}, eps=EPS, source=digits.guarded
    )
    assert [len(images) for _, images in recorder.calls] == [60, 60]
    assert result.threat["attacks"]["a"]["source"] == "source"


def test_the_seed_decides_the_random_starts(digits: Digits, small: Small) -> None:
    state = torch.get_rng_state()
    one, again, two = (
        evaluate(digits.guarded, small, attacks="noise", eps=0.3, seed=seed).rows
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, again)
    assert not one.equals(two)
    assert torch.equal(torch.get_rng_state(), state)


def test_successes_are_not_attacked_again(digits: Digits, small: Small) -> None:
    images, labels = small
    labels = labels.clone()
    labels[:5] = (labels[:5] + 1) % 10  # fooled without an attack
    clean = outcome_of(digits.guarded, images, labels)
    assert clean[:5] == ["fooled"] * 5
    search = Recorder(null_aware_pgd(10, 5))
    single, transfer = Recorder(STEP, is_iterative=False), Recorder(PGD(num_steps=4))
    eps = [0.1, 0.02, 0.05]
    rows = evaluate(
        digits.guarded, (images, labels), attacks={"a": search, "b": single}, eps=eps
    ).rows
    assert [budget for budget, _ in search.calls] == [0.02, 0.05, 0.1], "smallest first"
    active = [image for image in range(60) if clean[image] != "fooled"]
    for budget, attacked in search.calls:
        assert torch.equal(attacked, images[active]), "always from the clean image"
        outcomes = rows[(rows["attack"] == "a") & (rows["eps_pixels"] == budget)]["outcome"]
        active = [image for image in active if outcomes.tolist()[image] != "fooled"]
    table = rows[rows["attack"] == "a"].pivot(index="image", columns="eps_pixels", values="outcome")
    is_fooled = (table == "fooled").to_numpy().astype(int)
    assert (np.diff(is_fooled, axis=1) >= 0).all(), "a success counts at every larger eps"
    assert is_fooled[:, -1].sum() > 10
    # A single step, and any transfer, attacks every image at every eps.
    evaluate(digits.guarded, small, attacks={"a": transfer}, eps=EPS, source=digits.plain)
    assert [budget for budget, _ in transfer.calls] == list(EPS)
    assert all(torch.equal(x, images) for _, x in [*single.calls, *transfer.calls])
    assert all(model is digits.plain for model in transfer.models)


def test_budgets_numbers_of_images_and_progress(
    digits: Digits, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "attacks": {"a": STEP, "b": PGD(num_steps=2)},
        "eps": {"a": [0.1], "b": [0.2, 0.3]},
        "num_images": {"a": 20, "b": 10},
    }
    counts: list[int] = []
    rows = evaluate(digits.guarded, small, progress=counts.append, **settings).rows
    sizes = rows.groupby(["attack", "eps_pixels"]).size().to_dict()
    assert sizes == {(CLEAN, 0.0): 60, ("a", 0.1): 20, ("b", 0.2): 10, ("b", 0.3): 10}
    assert sum(counts) == len(rows)
    assert capsys.readouterr() == ("", "")
    evaluate(digits.guarded, small, progress=True, checks=True, **settings)
    lines = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["clean images", "a", "b", "checks"]


def test_the_origin_of_a_threshold_is_that_of_the_model_itself(
    digits: Digits, small: Small
) -> None:
    threshold = calibrate(digits.guarded, small, 0.1)
    settings: dict[str, Any] = {"attacks": {"a": STEP}, "eps": 0.1}
    passed = evaluate(digits.guarded, small, threshold=threshold, **settings)
    inside = evaluate(with_threshold(digits.guarded, threshold), small, **settings)
    pd.testing.assert_frame_equal(passed.rows, inside.rows)
    for result in (passed, inside):
        assert result.threat["threshold"]["num_overlapping"] == 60
        assert result.threat["threshold"]["origin"] == "held-out"
    number = evaluate(digits.guarded, small, threshold=0.3, **settings).threat["threshold"]
    assert (number["value"], number["origin"]) == (0.3, "unknown")
    assert evaluate(digits.guarded, small, **settings).threat["threshold"] is None


# Batches


@pytest.fixture
def batches_of_96(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "BATCH_SIZE", 96)


@pytest.mark.usefixtures("batches_of_96")
def test_more_images_than_a_batch(digits: Digits) -> None:
    data = (digits.images[:140], digits.labels[:140])
    settings: dict[str, Any] = {"attacks": {"pgd": PGD(num_steps=4)}, "eps": [0.05]}
    rows = evaluate(digits.guarded, data, **settings).rows
    attacked = rows[rows["attack"] == "pgd"]
    assert attacked["image"].tolist() == list(range(140))
    first = evaluate(digits.guarded, data, num_images=96, **settings).rows
    pd.testing.assert_frame_equal(
        first[first["attack"] == "pgd"].reset_index(drop=True),
        attacked[attacked["image"] < 96].reset_index(drop=True),
    )
    chosen, budgets = torch.arange(140).flip(0), torch.linspace(0, 0.3, 140)
    labelled = LabelledImages(*data, 10)
    own = score_attack(digits.guarded, labelled, chosen, "a", STEP, budgets, norm="linf").rows
    adv_images = STEP(digits.guarded, *labelled.batch(chosen), eps=budgets)
    assert own["image"].tolist() == chosen.tolist()
    assert own["prediction"].tolist() == digits.guarded.predict(adv_images).tolist()


def test_the_batch_size_is_passed_to_every_pass(digits: Digits, small: Small) -> None:
    sizes: list[int] = []
    hook = digits.guarded.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    recorder = Recorder(PGD(num_steps=2))
    try:
        chosen = evaluate(digits.guarded, small, attacks={"a": recorder}, eps=0.1, checks=True)
        assert recorder.batch_sizes == {chosen.threat["batch_size"]} == {64}
        sizes.clear()
        evaluate(
            digits.guarded, small, attacks={"a": recorder}, eps=0.1, batch_size=7, ood=("noise",)
        )
    finally:
        hook.remove()
    assert max(sizes) == 7
    assert recorder.batch_sizes == {64, 7}
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(UserError, match="batch_size must be a whole number"):
            evaluate(digits.guarded, small, attacks={"a": STEP}, eps=0.1, batch_size=wrong)


def test_one_gradient_serves_every_eps_of_a_single_step(digits: Digits, small: Small) -> None:
    calls: list[int] = []
    hook = digits.plain.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    try:
        evaluate(digits.guarded, small, attacks={"fgsm": STEP}, eps=[0.01, 0.1, 0.2, 0.5, 1.0],
                 source=digits.plain, batch_size=60)  # fmt: skip
    finally:
        hook.remove()
    assert calls == [60]


@pytest.mark.parametrize("attack", [STEP, PGD(num_steps=4), null_aware_pgd(4, 2)])
@pytest.mark.parametrize("is_transfer", [False, True])
def test_each_image_at_its_own_budget(attack: Attack, is_transfer: bool, digits: Digits) -> None:
    data = LabelledImages(digits.images[:60], digits.labels[:60], 10)
    chosen = torch.tensor([50, 3, 17, 4, 29])
    budgets = torch.tensor([0.3, 0.0, 0.02, 0.15, 0.08])
    source = digits.plain if is_transfer else None
    counts: list[int] = []
    scored = score_attack(
        digits.guarded, data, chosen, "name", attack, budgets, norm="linf", source=source,
        source_name="base", num_examples=2, on_images=counts.append,
    )  # fmt: skip
    rows = scored.rows
    assert rows["image"].tolist() == chosen.tolist(), "in the order they were chosen"
    assert rows["has_own_eps"].all()
    assert set(rows["source"]) == {"base"}
    np.testing.assert_allclose(rows["eps_pixels"], budgets, rtol=1e-7)
    assert counts == [5]
    for row, (index, eps) in enumerate(zip(chosen.tolist(), budgets.tolist(), strict=True)):
        images, labels = data.batch([index])
        adv_images = images
        is_fooled = outcome_of(digits.guarded, images, labels) == ["fooled"]
        if source is not None or not is_fooled or attack is STEP:
            adv_images = attack(source or digits.guarded, images, labels, eps=eps)
        assert [rows["outcome"][row]] == outcome_of(digits.guarded, adv_images, labels)
        assert rows["label"][row] == labels.item()
    (example,) = scored.examples
    assert np.isnan(example.eps_pixels)
    assert example.budgets == pytest.approx([0.3, 0.0])
    assert example.labels == digits.labels[chosen[:2]].tolist()
    np.testing.assert_array_equal(example.clean, digits.images[chosen[:2]])
    largest = np.abs(example.adv_images - example.clean).reshape(2, -1).max(axis=1)
    assert (largest <= np.array([0.3, 0.0]) + 1e-6).all()


def test_a_model_without_null_and_another_norm(digits: Digits, small: Small) -> None:
    rows = evaluate(digits.plain, small, attacks={"pgd": PGD(num_steps=5)}, eps=3.0, norm="l2").rows
    assert set(rows["outcome"]) == {"correct", "fooled"}
    assert rows["null_loss"].isna().all()
    assert set(rows["norm"]) == {"l2"}
    with pytest.raises(UserError, match=r"eps 8\.1 is outside \[0, 8\]"):
        evaluate(digits.guarded, small, attacks={"pgd": PGD()}, eps=[8.1], norm="l2")


# Invalid input


class Cheat:
    """An attack that leaves its budget or the box at one pixel."""

    objective: ClassVar[str] = "fool"
    is_iterative: ClassVar[bool] = False
    access: ClassVar[str] = "none"

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, model: Any, images: Tensor, labels: Tensor, **_: Any) -> Tensor:
        adv_images = images.clone()
        adv_images[-1, 0, 0, 0] = self.value
        return adv_images


@pytest.mark.parametrize("value", [0.5, -0.01, float("nan")])
def test_an_attack_that_leaves_its_budget(value: float, digits: Digits, small: Small) -> None:
    with pytest.raises(UserError, match="'cheat' left its budget"):
        evaluate(digits.guarded, small, attacks={"cheat": Cheat(value)}, eps=[0.1])


def test_invalid_images_and_labels(digits: Digits) -> None:
    def pixel(value: float) -> Tensor:
        images = digits.images[:4].clone()
        images[3, 0, 2, 2] = value
        return images

    good = digits.images[:4], digits.labels[:4]
    for images, labels, says in (
        (pixel(math.nan), good[1], "pixels that are NaN or infinite"),
        (pixel(math.inf), good[1], "pixels that are NaN or infinite"),
        (pixel(1.1), good[1], r"range from 0 to 1\.1: divide by 255, or .* std of Classifier or"),
        (pixel(-0.2), good[1], r"range from -0\.2 to 1"),
        (good[0], [0, 1, 2, 10], "labels run from 0 to 10; the model has the classes 0 to 9"),
        (good[0], [0, 1, 2, -1], "labels run from -1 to 2; the model has the classes 0 to 9"),
        (good[0], [0, 1, 2], "4 images but 3 labels"),
        (good[0], [0.0, 1.0, 2.0, 3.0], "labels are torch.float32"),
    ):
        data = (images, torch.as_tensor(labels))
        for settings in ({"data": data}, {"data": good, "held_out": data}):
            with pytest.raises(UserError, match=says):
                evaluate(digits.guarded, attacks={}, eps=0.1, **settings)
    small = torch.zeros(4, 1, 2, 2)
    for of, others in (("held_out", {"held_out": (small, good[1])}), ("a", {"ood": {"a": small}})):
        with pytest.raises(UserError, match=rf"images of {of} have the shape \(1, 2, 2\)"):
            evaluate(digits.guarded, good, attacks={}, eps=0.1, **others)


@pytest.mark.parametrize(
    ("eps", "says"),
    [
        *((eps, r"is outside \[0, 1\].*divide by 255") for eps in (-0.1, 1.5, 76.5)),
        *((float(eps), r"is outside \[0, 1\]") for eps in ("nan", "inf")),
        *((eps, "eps must be a number") for eps in ("0.1", None, True, [0.1, None], {"a": "0.1"})),
        ([], "at least one eps"),
        ({"b": [0.1]}, "eps has no entry for the attack 'a'"),
    ],
)
def test_invalid_budgets(eps: Any, says: str, digits: Digits, small: Small) -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match=says):
        evaluate(digits.guarded, small, attacks={"a": recorder}, eps=eps)
    assert recorder.calls == [], "refused before any work"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"norm": "l0"}, "norm must be one of"),
        ({"num_classes": 9}, "has 10 classes, not 9"),
        ({"num_classes": "10"}, "num_classes must be a whole number"),
        ({"ood": {"arrays": np.zeros((2, 1, 8, 8))}}, "images must be a floating-point tensor"),
        ({"num_images": {}}, "num_images has no entry for the attack 'fgsm'"),
        ({"num_images": -5}, "num_images must be a whole number"),
        ({"num_images": True}, "num_images must be a whole number"),
        ({"attacks": {"a": PGD}}, "PGD is a class: write PGD()"),
        ({"attacks": {"a": lambda *args: args[1]}}, "is no attack"),
        ({"attacks": PGD()}, "attacks must be names, or a dictionary"),
        ({"attacks": {"union": PGD()}}, "the name 'union' is reserved"),
        ({"attacks": {"a": PGD(targets=torch.tensor([1, 2]))}}, "has one target per image, but"),
        ({"attacks": "pdg"}, "attack must be one of fgsm"),
        ({"ood": ("cats",)}, "ood must be one of noise"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**63}, "seed must be a whole number"),
        ({"checks": "none"}, "checks must be True or False"),
        ({"progress": 3}, "progress must be True, False or a function"),
        ({"num_examples": -2}, "num_examples must be a whole number of at least 0"),
        ({"num_smallest": -1}, "num_smallest must be a whole number of at least 0"),
        ({"threshold": "a"}, "threshold must be a finite number, not 'a'"),
    ],
)
def test_other_slips(changed: dict[str, Any], says: str, digits: Digits, small: Small) -> None:
    settings: dict[str, Any] = {"attacks": {"fgsm": STEP}, "eps": [0.1]}
    with pytest.raises(UserError, match=says):
        evaluate(digits.guarded, small, **(settings | changed))


def test_slips_of_models_and_data(digits: Digits, small: Small) -> None:
    settings: dict[str, Any] = {"attacks": {"fgsm": STEP}, "eps": [0.1]}
    for model, data, changed, says in (
        (digits.guarded.body, small, {}, "give num_classes"),
        (
            digits.plain.body,
            small,
            {"num_classes": 10},
            "pass has_null=False",
        ),
        (digits.guarded, small[0], {}, "expected a pair"),
        (digits.guarded, (small[0], -torch.ones_like(small[1])), {}, "all labels are -1"),
        (digits.guarded.body, small, {"num_classes": "10"}, "num_classes must be a whole number"),
        (
            digits.plain,
            small,
            {"attacks": "worst-case-force-null"},
            "needs a model with a null class",
        ),
    ):
        with pytest.raises(UserError, match=says):
            evaluate(model, data, **(settings | changed))
    assert len(evaluate(digits.plain.body, small, num_classes=10, has_null=False, **settings).rows)


def test_logits_that_are_not_finite(small: Small) -> None:
    broken = Classifier(Affine(torch.full((11, 64), math.nan), torch.zeros(11)), 10)
    with pytest.raises(UserError, match="logits are not finite"):
        evaluate(broken, small, attacks={"fgsm": STEP}, eps=[0.1])

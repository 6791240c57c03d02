from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from worlds import Digits, outcome_of

from nullclass.attacks import FGSM, PGD, Attack, MultiTargetedPGD, null_aware_pgd
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.evaluation.run import Evaluation
from nullclass.evaluation.run import evaluate as evaluate_and_check
from nullclass.models import Classifier
from nullclass.results.schema import ROW_COLUMNS
from nullclass.scoring import run_attack
from nullclass.scoring.run_attack import score_attack

EPS = (0.03, 0.08)
STEP = FGSM("untargeted")


def evaluate(*args: Any, **settings: Any) -> Evaluation:
    """Without red flags, whose probes ask attacks and models more than the evaluation does."""
    return evaluate_and_check(*args, **{"checks": "none"} | settings)


class Recorder:
    """An attack of somebody else, that tells what it was asked."""

    objective = "fool"

    def __init__(self, inner: Attack | None = None, is_iterative: bool = True) -> None:
        self.inner, self.is_iterative = inner, is_iterative
        self.asked: list[tuple[float, Tensor]] = []

    def __call__(
        self, model: Classifier, images: Tensor, labels: Tensor, *, eps: float, **more: Any
    ) -> Tensor:
        self.asked.append((eps, images.clone()))
        if self.inner is None:
            return images.clone()
        return self.inner(model, images, labels, eps=eps, **more)


@pytest.fixture(scope="module")
def small(digits: Digits) -> tuple[Tensor, Tensor]:
    return digits.images[:60], digits.labels[:60]


def test_rows_are_what_a_plain_loop_finds(digits: Digits, small: tuple[Tensor, Tensor]) -> None:
    images, labels = small
    model = digits.guarded
    found = evaluate(model, small, attacks={"fgsm": STEP}, eps=EPS, num_examples=3)
    rows = found.rows
    assert list(rows.columns) == list(ROW_COLUMNS)
    assert len(rows) == 60 * 3
    for eps in (0.0, *EPS):
        of_eps = rows[rows["eps_pixels"] == eps]
        assert of_eps["image"].tolist() == list(range(60))
        assert of_eps["label"].tolist() == labels.tolist()
        assert set(of_eps["attack"]) == {"fgsm" if eps else "none"}
        adv_images = STEP(model, images, labels, eps=eps)
        assert of_eps["outcome"].tolist() == outcome_of(model, adv_images, labels)
        with torch.no_grad():
            p = model(adv_images).double().softmax(dim=1)
        np.testing.assert_allclose(of_eps["confidence"], p.max(dim=1).values, atol=1e-6)
        np.testing.assert_allclose(of_eps["loss"], -p[range(60), labels].log(), atol=1e-4)
        np.testing.assert_allclose(of_eps["null_loss"], -p[:, 10].log(), atol=1e-4)
        answers = p.argmax(dim=1)
        assert of_eps["prediction"].tolist() == answers.where(answers < 10, -1).tolist()
    assert [(e.attack, e.eps_pixels) for e in found.examples] == [("fgsm", eps) for eps in EPS]
    for example in found.examples:
        np.testing.assert_array_equal(example.clean, images[:3])
        adv_images = STEP(model, images, labels, eps=example.eps_pixels)[:3]
        np.testing.assert_allclose(example.adv_images, adv_images, atol=1e-6)
        assert example.labels == labels[:3].tolist()


def test_rates_never_hang_on_how_the_images_come(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    images, labels = small
    settings: dict[str, Any] = {"attacks": {"pgd": PGD(num_steps=5, num_restarts=2)}, "eps": EPS}
    expected = evaluate(digits.guarded, small, **settings).rows
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), batch_size=7
    )
    for data in (loader, LabelledImages(images, labels, 10), [(images[:9], labels[:9]),
                 (images[9:], labels[9:])]):  # fmt: skip
        pd.testing.assert_frame_equal(evaluate(digits.guarded, data, **settings).rows, expected)
    plain = evaluate(digits.guarded.body, small, num_classes=10, **settings).rows
    pd.testing.assert_frame_equal(plain, expected)
    in_training = digits.guarded.train()
    pd.testing.assert_frame_equal(evaluate(in_training, small, **settings).rows, expected)
    assert in_training.training, "left as found"
    in_training.eval()


def test_the_seed_decides_the_random_starts_and_nothing_else_does(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    class Random:
        objective, is_iterative = "untargeted", False

        def __call__(self, model: Any, images: Tensor, labels: Tensor, *, eps: float, norm: str,
                     generator: torch.Generator, **_: Any) -> Tensor:  # fmt: skip
            noise = torch.rand(images.shape, generator=generator)
            return (images + eps * (2 * noise - 1)).clamp(0, 1)

    stream = torch.get_rng_state()

    def run(seed: int) -> pd.DataFrame:
        return evaluate(
            digits.guarded, small, attacks={"random": Random()}, eps=[0.5], seed=seed
        ).rows

    one = run(1)
    pd.testing.assert_frame_equal(one, run(1))
    assert not one.equals(run(2))
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_search_is_not_run_again_on_what_has_fallen(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    images, labels = small
    labels = labels.clone()
    labels[:5] = (labels[:5] + 1) % 10  # fooled already when clean
    clean = outcome_of(digits.guarded, images, labels)
    assert clean[:5] == ["fooled"] * 5
    recorder = Recorder(null_aware_pgd(10, 5))
    rows = evaluate(
        digits.guarded, (images, labels), attacks={"a": recorder}, eps=[0.1, 0.02, 0.05]
    ).rows
    assert [eps for eps, _ in recorder.asked] == [0.02, 0.05, 0.1], "smallest first"
    standing = [image for image in range(60) if clean[image] != "fooled"]
    for eps, asked in recorder.asked:
        assert torch.equal(asked, images[standing]), "only what still stands, always from clean"
        outcomes = rows[(rows["attack"] == "a") & (rows["eps_pixels"] == eps)]["outcome"].tolist()
        standing = [image for image in standing if outcomes[image] != "fooled"]
    fooled = rows[rows["attack"] == "a"].pivot(
        index="image", columns="eps_pixels", values="outcome"
    )
    is_fooled = (fooled == "fooled").to_numpy().astype(int)
    assert (np.diff(is_fooled, axis=1) >= 0).all(), "what succeeded at a smaller eps counts"
    assert is_fooled[:, -1].sum() > 10


def test_a_fixed_recipe_is_run_on_every_image_at_every_eps(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    recorder = Recorder(STEP, is_iterative=False)
    evaluate(digits.guarded, small, attacks={"a": recorder}, eps=EPS)
    assert all(torch.equal(asked, small[0]) for _, asked in recorder.asked)


def test_the_summary_is_the_worst_case_over_attacks(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    found = evaluate(
        digits.guarded,
        small,
        attacks={
            "pgd": PGD(num_steps=5),
            "targets": MultiTargetedPGD(num_steps=5),
            "fgsm": STEP,
        },
        eps=EPS,
    )
    rows, summary = found.rows, found.summary()
    for eps in EPS:
        within = rows[rows["eps_pixels"] <= eps]
        fooled = {i for i, o in zip(within["image"], within["outcome"], strict=True)
                  if o == "fooled"}  # fmt: skip
        correct = {i for i, a, o in zip(rows["image"], rows["attack"], rows["outcome"], strict=True)
                   if a == "none" and o == "correct"}  # fmt: skip
        worst = summary[(summary["attack"] == "union") & (summary["eps_pixels"] == eps)]
        values = worst.set_index("metric")["value"]
        assert values["aer"] == pytest.approx(len(fooled) / 60)
        assert values["rar"] == pytest.approx(len(correct - fooled) / 60)


def test_budgets_and_numbers_of_images_by_attack(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    told: list[int] = []
    rows = evaluate(
        digits.guarded,
        small,
        attacks={"a": STEP, "b": PGD(num_steps=2)},
        eps={"a": [0.1], "b": [0.2, 0.3]},
        num_images={"a": 20, "b": 10},
        progress=told.append,
    ).rows
    counts = rows.groupby(["attack", "eps_pixels"]).size().to_dict()
    assert counts == {("none", 0.0): 60, ("a", 0.1): 20, ("b", 0.2): 10, ("b", 0.3): 10}
    assert sum(told) == len(rows)


BATCH_SIZE = 96


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_attack, "BATCH_SIZE", BATCH_SIZE)


@pytest.mark.usefixtures("small_batches")
def test_more_images_than_a_batch(digits: Digits) -> None:
    num = BATCH_SIZE + 44
    data = (digits.images[:num], digits.labels[:num])
    settings: dict[str, Any] = {"attacks": {"pgd": PGD(num_steps=4)}}
    whole = evaluate(digits.guarded, data, eps=[0.05], **settings).rows
    assert whole[whole["attack"] == "pgd"]["image"].tolist() == list(range(num))
    part = evaluate(digits.guarded, data, eps=[0.05], num_images=BATCH_SIZE, **settings).rows
    adv_images = whole[(whole["attack"] == "pgd") & (whole["image"] < BATCH_SIZE)]
    pd.testing.assert_frame_equal(
        part[part["attack"] == "pgd"].reset_index(drop=True), adv_images.reset_index(drop=True)
    )


# Transfers


def test_transfers_are_made_on_the_source_and_scored_on_the_model(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    images, labels = small
    attacks = {"fgsm": STEP, "pgd": PGD(num_steps=4)}
    found = evaluate(
        digits.guarded, small, attacks=attacks, eps=EPS, source=digits.plain, num_examples=4
    )
    rows = found.rows
    assert set(rows.loc[rows["attack"] == "none", "source"]) == {"none"}
    assert set(rows.loc[rows["attack"] != "none", "source"]) == {"source"}
    for name, attack in attacks.items():
        for eps in EPS:
            adv_images = attack(digits.plain, images, labels, eps=eps)
            of_eps = rows[(rows["attack"] == name) & (rows["eps_pixels"] == eps)]
            assert of_eps["outcome"].tolist() == outcome_of(digits.guarded, adv_images, labels)
            with torch.no_grad():
                p = digits.guarded(adv_images).double().softmax(dim=1)
            np.testing.assert_allclose(of_eps["confidence"], p.max(dim=1).values, atol=1e-6)
            np.testing.assert_allclose(of_eps["null_loss"], -p[:, 10].log(), atol=1e-4)
            (shown,) = (e for e in found.examples if (e.attack, e.eps_pixels) == (name, eps))
            np.testing.assert_allclose(shown.adv_images, adv_images[:4], atol=1e-6)
            assert shown.predictions == digits.guarded.predict(adv_images[:4]).tolist()
            assert shown.budgets == [eps] * 4
    own = evaluate(digits.guarded, small, attacks=attacks, eps=EPS).rows
    assert set(own.loc[own["attack"] != "none", "source"]) == {"self"}
    assert not own["outcome"].equals(rows["outcome"]), "on itself it is another attack"


def test_a_transfer_is_run_on_every_image_at_every_eps_whatever_fell_before(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    asked_of = []

    class Asking(Recorder):
        def __call__(self, model: Classifier, *args: Any, **more: Any) -> Tensor:
            asked_of.append(model)
            return super().__call__(model, *args, **more)

    recorder = Asking(PGD(num_steps=4), is_iterative=True)
    rows = evaluate(
        digits.guarded, small, attacks={"a": recorder}, eps=EPS, source=digits.plain
    ).rows
    assert [eps for eps, _ in recorder.asked] == list(EPS)
    assert all(torch.equal(asked, small[0]) for _, asked in recorder.asked)
    assert all(model is digits.plain for model in asked_of)
    assert rows.groupby(["attack", "eps_pixels"]).size().to_dict() == {
        ("none", 0.0): 60, ("a", EPS[0]): 60, ("a", EPS[1]): 60
    }  # fmt: skip


def test_a_plain_module_is_a_source_too(digits: Digits, small: tuple[Tensor, Tensor]) -> None:
    settings: dict[str, Any] = {"attacks": {"fgsm": STEP}, "eps": EPS}
    expected = evaluate(digits.plain, small, source=digits.guarded, **settings).rows
    found = evaluate(
        digits.plain, small, source=digits.guarded.body, num_classes=10, **settings
    ).rows
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(UserError, match="give num_classes"):
        evaluate(digits.plain, small, source=digits.guarded.body, **settings)


# Budgets of their own


@pytest.mark.parametrize("attack", [STEP, PGD(num_steps=4), null_aware_pgd(4, 2)])
@pytest.mark.parametrize("is_transfer", [False, True])
def test_images_at_budgets_of_their_own_are_scored_as_if_one_by_one(
    attack: Attack, is_transfer: bool, digits: Digits
) -> None:
    data = LabelledImages(digits.images[:60], digits.labels[:60], 10)
    chosen = torch.tensor([50, 3, 17, 4, 29])
    budgets = torch.tensor([0.3, 0.0, 0.02, 0.15, 0.08])
    source = digits.plain if is_transfer else None
    told: list[int] = []
    scored = score_attack(
        digits.guarded, data, chosen, "name", attack, budgets, norm="linf", source=source,
        source_name="base", num_examples=2, on_images=told.append,
    )  # fmt: skip
    rows, examples = scored.rows, scored.examples
    assert rows["image"].tolist() == chosen.tolist(), "in the order they were chosen"
    assert set(rows["budget"]) == {"threshold"}
    assert set(rows["source"]) == {"base"}
    np.testing.assert_allclose(rows["eps_pixels"], budgets, rtol=1e-7)
    assert told == [5]
    for place, (index, eps) in enumerate(zip(chosen.tolist(), budgets.tolist(), strict=True)):
        images, labels = data.batch([index])
        clean = outcome_of(digits.guarded, images, labels)
        adv_images = images
        if source is not None or clean != ["fooled"] or isinstance(attack, FGSM):
            adv_images = attack(source or digits.guarded, images, labels, eps=eps)
        row = rows.iloc[place]
        assert row["label"] == labels.item()
        assert [row["outcome"]] == outcome_of(digits.guarded, adv_images, labels), (index, eps)
    (example,) = examples
    assert np.isnan(example.eps_pixels)
    assert example.budgets == pytest.approx([0.3, 0.0])
    assert example.labels == digits.labels[chosen[:2]].tolist()
    np.testing.assert_array_equal(example.clean, digits.images[chosen[:2]])
    assert (np.abs(example.adv_images - example.clean).reshape(2, -1).max(axis=1)
            <= np.array([0.3, 0.0]) + 1e-6).all()  # fmt: skip


@pytest.mark.usefixtures("small_batches")
def test_more_images_at_budgets_of_their_own_than_a_batch(digits: Digits) -> None:
    num = BATCH_SIZE + 44
    data = LabelledImages(digits.images[:num], digits.labels[:num], 10)
    chosen = torch.arange(num).flip(0)
    budgets = torch.linspace(0, 0.3, num)
    settings: dict[str, Any] = {"norm": "linf"}
    rows = score_attack(digits.guarded, data, chosen, "a", STEP, budgets, **settings).rows
    adv_images = STEP(digits.guarded, *data.batch(chosen), eps=budgets)
    assert rows["image"].tolist() == chosen.tolist()
    assert rows["prediction"].tolist() == digits.guarded.predict(adv_images).tolist()


def test_one_gradient_serves_every_eps_of_a_ray(
    digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    calls: list[int] = []
    hook = digits.plain.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    try:
        evaluate(digits.guarded, small, attacks={"fgsm": STEP}, eps=[0.01, 0.1, 0.2, 0.5, 1.0],
                 source=digits.plain)  # fmt: skip
    finally:
        hook.remove()
    assert calls == [60]


def test_a_budget_named_twice_counts_once(digits: Digits, small: tuple[Tensor, Tensor]) -> None:
    twice = evaluate(digits.guarded, small, attacks={"a": STEP}, eps=[0.1, 0.05, 0.1]).rows
    once = evaluate(digits.guarded, small, attacks={"a": STEP}, eps=[0.05, 0.1]).rows
    pd.testing.assert_frame_equal(twice, once)


def test_a_model_without_null(digits: Digits, small: tuple[Tensor, Tensor]) -> None:
    rows = evaluate(digits.plain, small, attacks={"pgd": PGD(num_steps=5)}, eps=[0.1]).rows
    assert set(rows["outcome"]) == {"correct", "fooled"}
    assert rows["null_loss"].isna().all()


def test_l2(digits: Digits, small: tuple[Tensor, Tensor]) -> None:
    rows = evaluate(
        digits.guarded, small, attacks={"pgd": PGD(num_steps=5)}, eps=[0.5, 3.0], norm="l2"
    ).rows
    assert set(rows["norm"]) == {"l2"}
    with pytest.raises(UserError, match=r"eps 8\.1 is outside \[0, 8\]"):
        evaluate(digits.guarded, small, attacks={"pgd": PGD()}, eps=[8.1], norm="l2")


# Bad input


class Cheat:
    """An attack whose results would mean nothing."""

    objective: ClassVar[str] = "fool"
    is_iterative: ClassVar[bool] = False

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, model: Any, images: Tensor, labels: Tensor, **_: Any) -> Tensor:
        adv_images = images.clone()
        adv_images[-1, 0, 0, 0] = {"far": 0.5, "outside": -0.01, "nan": float("nan")}[self.how]
        return adv_images


@pytest.mark.parametrize("how", ["far", "outside", "nan"])
def test_an_attack_that_cheats_is_caught(
    how: str, digits: Digits, small: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(UserError, match="'cheat' left its budget"):
        evaluate(digits.guarded, small, attacks={"cheat": Cheat(how)}, eps=[0.1])


def changed(images: Tensor, value: float) -> Tensor:
    images = images.clone()
    images[3, 0, 2, 2] = value
    return images


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "images hold NaN"),
        (float("inf"), r"pixels run from 0 to inf, not within \[0, 1\]"),
        (1.1, r"pixels run from 0 to 1\.1, not within \[0, 1\]"),
        (-0.2, r"pixels run from -0\.2 to 1, not within"),
    ],
)
def test_bad_pixels(value: float, says: str, digits: Digits) -> None:
    bad = changed(digits.images[:9], value)
    labels = digits.labels[:9]
    loader = [(digits.images[:9], labels), (bad, labels)]
    for data in ((bad, labels), loader):
        with pytest.raises(UserError, match=says):
            evaluate(digits.guarded, data, attacks={"fgsm": STEP}, eps=[0.1])


def test_bad_labels(digits: Digits) -> None:
    images = digits.images[:4]
    for labels, says in (
        ([0, 1, 2, 10], "labels run from 0 to 10; the model has the classes 0 to 9"),
        ([0, 1, 2, -1], "labels run from -1 to 2; the model has the classes 0 to 9"),
        ([0, 1, 2, -5], "labels run from -5 to 2"),
        ([0, 1, 2], "4 images but 3 labels"),
        ([0.0, 1.0, 2.0, 3.0], "labels are torch.float32"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate(digits.guarded, (images, torch.tensor(labels)), attacks={}, eps=[])


@pytest.mark.parametrize("eps", [-0.1, 1.5, 76.5, float("nan"), float("inf")])
def test_bad_budgets(eps: float, digits: Digits, small: tuple[Tensor, Tensor]) -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match=r"is outside \[0, 1\].*divide by 255"):
        evaluate(digits.guarded, small, attacks={"a": recorder}, eps=[0.1, eps])
    assert recorder.asked == [], "refused before any work"


def test_other_mistakes(digits: Digits, small: tuple[Tensor, Tensor]) -> None:
    def run(model: nn.Module = digits.guarded, **changed: Any) -> None:
        settings: dict[str, Any] = {"attacks": {"fgsm": STEP}, "eps": [0.1]}
        evaluate(model, changed.pop("data", small), **(settings | changed))

    with pytest.raises(UserError, match="norm must be one of"):
        run(norm="l0")
    with pytest.raises(UserError, match="give num_classes"):
        run(digits.guarded.body)
    with pytest.raises(UserError, match="with_null_class"):
        run(digits.guarded.body, num_classes=20)
    with pytest.raises(UserError, match="expected a pair"):
        run(data=small[0])
    with pytest.raises(UserError, match="needs a model with a null class"):
        run(digits.plain, attacks={"force-null": PGD(objective="force-null")})
    with pytest.raises(UserError, match="has 10 classes, not 9"):
        run(num_classes=9)
    with pytest.raises(UserError, match="eps has no entry for the attack 'fgsm'"):
        run(eps={"pgd": [0.1]})
    with pytest.raises(UserError, match="num_images has no entry for the attack 'fgsm'"):
        run(num_images={})
    with pytest.raises(UserError, match="at least one eps"):
        run(eps=[])
    with pytest.raises(UserError, match="num_images"):
        run(num_images=-5)
    with pytest.raises(UserError, match="num_images"):
        run(num_images=0)


@pytest.fixture
def broken(digits: Digits) -> Iterator[Classifier]:
    weight = digits.guarded.body[1].weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = float("nan")
    yield digits.guarded
    with torch.no_grad():
        weight.copy_(before)


def test_a_broken_model(broken: Classifier, small: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="logits are not finite"):
        evaluate(broken, small, attacks={"fgsm": STEP}, eps=[0.1])

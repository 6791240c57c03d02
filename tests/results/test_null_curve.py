"""The null curve: f where it is known, the isotonic fit, files, and bad input."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from disturbed import left_as_found, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas_defaults import check_tables
from sklearn.isotonic import IsotonicRegression
from torch import Tensor
from worlds import Affine

from nullclass.attacks.counters import count_passes
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.nulls.estimate_curve import MIN_IMAGES, NUM_COARSE, estimate_curve
from nullclass.nulls.perturb import PERTURBATIONS, Perturbation, make_perturbation
from nullclass.results.null_curve import NullCurve, PerturbationName, read_curve, write_curve

TABLE = NullCurve("linf", (0.1, 0.2, 0.4), (0.0, 0.5, 1.0))


def two_class_world(spread: float = 0.08) -> tuple[Classifier, LabelledImages, np.ndarray]:
    """A linear model of two classes, 120 images near the middle of the box, and their margins."""
    rng = np.random.default_rng(5)
    normal = rng.normal(size=12)
    images = (0.5 + rng.uniform(-spread, spread, (120, 12))).astype(np.float32)
    weight = np.stack([np.zeros(12), normal]).astype(np.float32)
    bias = np.array([0, -0.5 * weight[1].sum()], dtype=np.float32)
    gaps = images.astype(float) @ weight[1].astype(float) + float(bias[1])
    model = Classifier(Affine(torch.tensor(weight), torch.tensor(bias)), 2, has_null=False)
    data = LabelledImages(torch.tensor(images).view(-1, 1, 3, 4), torch.tensor(gaps > 0).long(), 2)
    return model, data, np.abs(gaps)


def share_below(thresholds: np.ndarray, sizes: tuple[float, ...]) -> list[float]:
    """The empirical distribution of thresholds."""
    nearest = np.abs(thresholds[:, None] / np.array(sizes) - 1).min()
    assert nearest > 1e-6, "rounding in float32 would decide"
    return [float((thresholds < size).sum()) / len(thresholds) for size in sizes]


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_f_is_the_distribution_of_the_thresholds_of_a_linear_model(
    name: str, norm: str, dual: int
) -> None:
    model, data, gaps = two_class_world()
    # A step of size s in the steepest direction changes the gap by s times the dual norm.
    thresholds = gaps / np.linalg.norm(model.body.weight[1].detach().double().numpy(), dual)
    always = 0.95
    curve = estimate_curve(model, data, make_perturbation(name), norm, num_sizes=20, always=always)
    raw = share_below(thresholds, curve.sizes)
    assert list(curve.fooled) == raw
    assert curve.probabilities == pytest.approx([min(1, share / always) for share in raw])
    assert curve.perturbation == name
    assert curve.norm == norm
    assert curve.num_images == len(data)
    # Evenly spaced, up to at most a coarse step beyond the point where "always" begins.
    end = float(np.sort(thresholds)[math.ceil(always * len(data)) - 1])
    assert np.diff((0.0, *curve.sizes)) == pytest.approx(curve.sizes[-1] / 20)
    assert end < curve.sizes[-1] < math.sqrt(2) * end
    assert curve.largest == next(
        s for s, share in zip(curve.sizes, raw, strict=True) if share >= always
    )


def test_always_is_99_percent_by_default() -> None:
    model, data, _ = two_class_world()
    curve = estimate_curve(model, data, make_perturbation("fgsm"), "linf")
    assert len(curve.sizes) == 32
    assert curve.probabilities == pytest.approx([min(1, share / 0.99) for share in curve.fooled])


def test_null_is_not_fooled() -> None:
    # Three classes and null: along its ray an image may be fooled, then null, then fooled.
    rng = np.random.default_rng(1)
    weight = 3 * rng.normal(size=(4, 12))
    images = 0.5 + rng.uniform(-0.1, 0.1, (300, 12))
    bias = -weight.sum(axis=1) / 2
    logits = images @ weight.T + bias
    labels = logits[:, :3].argmax(axis=1)
    is_right = logits.argmax(axis=1) == labels
    model = Classifier(
        Affine(torch.tensor(weight).float(), torch.tensor(bias).float()), num_classes=3
    )
    data = LabelledImages(torch.tensor(images).float().view(-1, 1, 3, 4), torch.tensor(labels), 3)
    curve = estimate_curve(model, data, make_perturbation("fgsm"), "linf", always=0.3, largest=0.35)
    assert curve.num_images == is_right.sum() < 300

    def is_fooled(image: np.ndarray, label: int, size: float) -> bool:
        logits = weight @ image + bias
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        ascent = weight.T @ (softmax - np.eye(4)[label])
        answer = int((weight @ (image + size * np.sign(ascent)) + bias).argmax())
        return answer not in (label, 3)

    pairs = [(i, int(y)) for i, y, right in zip(images, labels, is_right, strict=True) if right]
    raw = [np.mean([is_fooled(i, y, size) for i, y in pairs]) for size in curve.sizes]
    assert list(curve.fooled) == raw
    fitted = IsotonicRegression().fit_transform(np.arange(len(raw)), raw)
    assert curve.probabilities == pytest.approx(np.minimum(fitted / 0.3, 1))
    assert curve.probabilities[-1] == 1


def test_f_of_pixel_counts_is_that_of_brute_force() -> None:
    model, data, gaps = two_class_world(spread=0.48)
    weight, images = model.body.weight[1].detach().double().numpy(), data.images.double().numpy()
    fewest = []
    for image, gap, label in zip(images.reshape(-1, 12), gaps, data.labels.tolist(), strict=True):
        # What the true label's margin loses with each pixel at the better end of the box.
        losses = np.max([(label * 2 - 1) * weight * (image - end) for end in (0, 1)], axis=0)
        fewest.append(
            next(
                count
                for count in range(13)
                if any(sum(c) > gap for c in itertools.combinations(losses, count))
            )
        )
    curve = estimate_curve(model, data, make_perturbation("sparse"), "l0", always=0.99)
    counts = np.rint(np.array(curve.sizes) * 12)
    assert counts.tolist() == list(range(1, len(counts) + 1)), "every whole number of pixels"
    assert list(curve.fooled) == [float(np.mean(np.array(fewest) <= count)) for count in counts]
    assert curve.largest * 12 == pytest.approx(np.sort(fewest)[math.ceil(0.99 * 120) - 1])


def test_random_perturbations_depend_on_the_seed() -> None:
    model, data, _ = two_class_world()
    arguments: dict[str, Any] = {"always": 0.4, "num_sizes": 8}
    one, again, other = (
        estimate_curve(model, data, make_perturbation("noise"), "l2", seed=seed, **arguments)
        for seed in (1, 1, 2)
    )
    assert one == again != other
    # The same direction at every size: a linear model, once fooled, stays fooled.
    assert list(one.fooled) == sorted(one.fooled)


def test_an_estimate_changes_nothing_and_needs_few_passes() -> None:
    model = small_model()
    images = torch.rand(1200, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model.eval()(images)[:, :-1].argmax(dim=1)
    model.train()
    model.body[1].eval()
    labels[::7] = -1  # of no class: never correct, even where the model answers null
    data = LabelledImages(images, labels, 4)
    counts: list[int] = []
    arguments: dict[str, Any] = {"num_sizes": 4, "always": 0.1, "on_images": counts.append}
    with left_as_found(model, images, labels), count_passes(model) as passes:
        curve = estimate_curve(model, data, make_perturbation("fgsm"), "l2", **arguments)
    num_sizes, remainder = divmod(sum(counts), curve.num_images)
    assert remainder == 0
    assert 4 < num_sizes <= 4 + NUM_COARSE
    assert max(counts) <= 500
    assert passes.backward == curve.num_images, "one gradient serves all sizes"
    assert passes.forward == 1200 + curve.num_images + sum(counts)
    is_right = model.eval().predict(images) == labels
    assert curve.num_images == int((is_right & (labels >= 0)).sum())


def test_the_curve_between_its_points() -> None:
    sizes = np.array([[0.0, 0.05, 0.1], [0.15, 0.3, 7.0]])
    expected = np.array([[0.0, 0.0, 0.0], [0.25, 0.75, 1.0]])
    np.testing.assert_allclose(TABLE(sizes), expected)
    assert NullCurve("l2", (2.0,), (0.5,))(1.0) == 0.25
    assert TABLE.largest == 0.4
    assert NullCurve("l0", (0.1, 0.2, 0.3), (0.5, 1, 1)).largest == 0.2
    assert NullCurve("l0", (0.1, 0.2), (0.5, 0.9)).largest == 0.2


points = st.lists(st.floats(0.001, 1), min_size=1, max_size=9, unique=True).flatmap(
    lambda sizes: st.tuples(
        st.just(tuple(sorted(sizes))),
        *[st.lists(st.floats(0, 1), min_size=len(sizes), max_size=len(sizes))] * 2,
    )
)


@given(points)
@settings(max_examples=20)
def test_a_curve_survives_json_and_csv(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[tuple[float, ...], list[float], list[float]],
) -> None:
    sizes, probabilities, fooled = drawn
    estimated = {"num_images": 77, "perturbation": "pgd", "perturbation_settings": {"steps": 3}}
    for raw, origin in ((tuple(fooled), estimated), ((), {})):
        curve = NullCurve("l0", sizes, tuple(sorted(probabilities)), raw, **origin)  # type: ignore[arg-type]
        assert NullCurve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve
        path = tmp_path_factory.mktemp("curve") / "f.csv"
        write_curve(path, curve)
        assert read_curve(path) == read_curve(path, "l0") == curve
        assert check_tables(path.parent) == {"f.csv"}, "no value is read as missing"
        assert [child.name for child in path.parent.iterdir()] == ["f.csv"]


def test_files_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("\ufeffprobability,size,fooled\n0,0,\n\n0.5, 0.1,\n1,0.2,\n")
    assert read_curve(path, "linf") == NullCurve("linf", (0.1, 0.2), (0.5, 1.0))
    with pytest.raises(UserError, match="does not give the norm of its sizes: give it, as one of"):
        read_curve(path)
    for content, message in (
        ("size\n0.1\n", "has no column 'probability'"),
        ("size,probability,beer\n0.1,1,2\n", "must have the columns size, probability, .*'beer'"),
        ("size,probability,size\n0.1,1,0.1\n", "once each, and not 'size'"),
        ("size,probability\n0.1\n", "has 1 cells in row 2, and 2 columns"),
        ("size,probability\n0.1,1,7\n", "has 3 cells in row 2, and 2 columns"),
        ("size,probability\n0.1,half\n", r"is damaged in row 2: .*\$\.probability"),
        ("size,probability\n0.1,1.5\n", r"is damaged in row 2: .*<= 1.0"),
        ("size,probability\ninf,1\n", r"is damaged in row 2: .*\$\.size"),
        ("size,probability,fooled\n0.1,0.5,0.5\n0.2,1,\n", "2 sizes but 1 shares fooled"),
        ("size,probability,norm\n0.1,0.5,linf\n0.2,1,l2\n", "the same norm, num_images"),
        ("size,probability,perturbation\n0.1,1,prayer\n", "row 2: Invalid enum value 'prayer'"),
        ("size,probability,num_images\n0.1,1,-1\n", "row 2: .*num_images"),
        ("size,probability,perturbation_settings\n0.1,1,[]\n", "settings in the null curve"),
        (
            "size,probability,perturbation_settings\n0.1,1," + "[" * 99 + "]" * 99,
            "nested over 64 levels",
        ),
        ("size,probability\n", "is invalid: a null curve needs at least one size"),
        ("", "has no column 'size'"),
        ("size,probability\n0,0.5\n0.05,1\n", "is invalid: .*must rise, from above 0"),
        ("size,probability\n0.1,nan\n", "is damaged in row 2"),
        ("size,probability,norm\n0.1,1,l0\n", "has sizes in l0, not in linf"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=f"the null curve {re.escape(str(path))} .*{message}"):
            read_curve(path, "linf")
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"f\.csv cannot be read as the null curve"):
        read_curve(path, "linf")
    path.unlink()
    with pytest.raises(UserError, match=r"f\.csv is missing"):
        read_curve(path, "linf")


def test_every_perturbation_has_its_name_in_files() -> None:
    assert get_args(PerturbationName) == tuple(PERTURBATIONS)


@pytest.mark.parametrize(
    ("norm", "sizes", "probabilities", "message"),
    [
        ("l3", (0.1,), (1.0,), "norm must be one of linf, l2, l1, l0, not 'l3'"),
        ("linf", (), (), "at least one size"),
        ("linf", (0.1, 0.2), (1.0,), "has 2 sizes but 1 probabilities"),
        ("linf", (0.1, math.nan), (0.5, 1.0), "hold NaN"),
        ("linf", (0.2, 0.1), (0.5, 1.0), "must rise, from above 0: put them in order"),
        ("linf", (0.1, 0.1), (0.5, 1.0), "must rise"),
        ("linf", (-0.1, 0.1), (0.0, 1.0), "must rise, from above 0"),
        ("linf", (0.1, 25.5), (0.5, 1.0), "go up to 25.5, but none is above 1 in its norm"),
        ("l0", (0.1, 30), (0.5, 1.0), "counts of pixels are shares"),
        ("l2", (0.1, math.inf), (0.5, 1.0), "go up to inf"),
        ("linf", (0.1, 0.2), (0.6, 0.5), "fall with size: give ones that never fall"),
        ("linf", (0.1, 0.2), (0.6, 1.5), "1.5 is outside"),
        ("linf", (0.1, 0.2), (-0.1, 0.5), "-0.1 is outside"),
        ("linf", (0.1, 0.2), (math.nan, 0.5), "nan is outside"),
    ],
)
def test_invalid_curves(
    norm: str, sizes: tuple[float, ...], probabilities: tuple[float, ...], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        NullCurve(norm, sizes, probabilities)


def test_other_invalid_values() -> None:
    assert NullCurve("linf", (0.1, 0.2), (0.5, 1.0), (0.6, 0.4)).fooled == (0.6, 0.4)
    with pytest.raises(UserError, match="has 2 sizes but 1 shares fooled"):
        NullCurve("linf", (0.1, 0.2), (0.5, 1.0), (0.6,))
    with pytest.raises(UserError, match=r"2 is outside .* shares fooled"):
        NullCurve("linf", (0.1, 0.2), (0.5, 1.0), (0.6, 2))
    for values in (
        {},
        {"norm": "linf", "sizes": ["x"], "probabilities": [1]},
        {"norm": "linf", "sizes": 3, "probabilities": [1]},
        {**TABLE.to_dict(), "colour": 1},
        {**TABLE.to_dict(), "perturbation": 3},
        {**TABLE.to_dict(), "perturbation_settings": []},
        [],
    ):
        with pytest.raises(UserError, match="no null curve"):
            NullCurve.from_dict(values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Inverting(Perturbation):
    """Fools a share of the images, by size: inverts the last ones."""

    share: Callable[[float], float]
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pass

    def settings(self) -> dict[str, Any]:
        return {}

    def perturb(self, images: Tensor, sizes: Tensor, *_: Any) -> Tensor:
        num_kept = round(len(images) * (1 - self.share(float(sizes[0]))))
        return torch.cat([images[:num_kept], 1 - images[num_kept:]])


@pytest.mark.parametrize(
    ("share", "arguments", "message"),
    [
        (0.0, {}, "no perturbation of a size up to 1 fools the model, so there is no null curve"),
        (0.0, {"largest": 0.2}, "no perturbation of a size up to 0.2 fools"),
        (
            0.75,
            {"always": 0.9},
            "perturbations of sizes up to 1 fool the model on at most 75.0% of the images and "
            "never on 90.0%: set a smaller always",
        ),
        (1.0, {}, "the smallest perturbation, of size 0.000345, already fools the model on 100.0%"),
    ],
)
def test_models_without_a_curve(share: float, arguments: dict[str, Any], message: str) -> None:
    model, data, _ = two_class_world()
    with pytest.raises(UserError, match=re.escape(message)):
        estimate_curve(model, data, Inverting(lambda size: share), "linf", **arguments)


def test_shares_that_fall_are_pooled() -> None:
    def share(size: float) -> float:
        return 0.6 if 0.2 < size < 0.3 else 0.2 if size < 0.6 else 1.0

    model, data, _ = two_class_world()
    arguments: dict[str, Any] = {"num_sizes": 10, "largest": 0.75, "always": 0.8}
    curve = estimate_curve(model, data, Inverting(share), "linf", **arguments)
    assert curve.sizes == pytest.approx([0.075 * k for k in range(1, 11)])
    assert curve.fooled == (0.2, 0.2, 0.6, 0.2, 0.2, 0.2, 0.2, 1, 1, 1)
    pooled = (0.6 + 4 * 0.2) / 5
    expected = [0.2 / 0.8] * 2 + [pooled / 0.8] * 5 + [1] * 3
    assert curve.probabilities == pytest.approx(expected)
    assert curve.perturbation == "Inverting", "the name of its type"


@pytest.mark.parametrize(
    ("norm", "arguments", "message"),
    [
        ("l3", {}, "norm must be one of linf, l2, l1, l0, not 'l3'"),
        ("l0", {}, "FGSMPerturbation does not support l0: choose one of linf, l2"),
        ("linf", {"always": 0.0}, "always must be a rate in (0, 1], not 0.0"),
        ("linf", {"always": 1.01}, "always must be a rate in (0, 1], not 1.01"),
        ("linf", {"largest": 0}, "the largest size must be in (0, 1] in linf, not 0"),
        ("linf", {"largest": 76.5}, "the largest size must be in (0, 1] in linf, not 76.5"),
        ("l2", {"largest": math.nan}, "the largest size must be in (0, 3.4641] in l2, not nan"),
        ("linf", {"num_sizes": 1}, "from 2 to 10000, not 1"),
    ],
)
def test_bad_arguments(norm: str, arguments: dict[str, Any], message: str) -> None:
    model, data, _ = two_class_world()
    with pytest.raises(UserError, match=re.escape(message)):
        estimate_curve(model, data, make_perturbation("fgsm"), norm, **arguments)


def test_too_few_correct_images() -> None:
    model, data, _ = two_class_world()
    wrong = LabelledImages(data.images, 1 - data.labels, 2)
    wrong.labels[: MIN_IMAGES - 1] = data.labels[: MIN_IMAGES - 1]
    with pytest.raises(UserError, match=r"classifies 49 of 120 .* needs 50"):
        estimate_curve(model, wrong, make_perturbation("fgsm"), "linf")
    wrong.labels[MIN_IMAGES - 1] = data.labels[MIN_IMAGES - 1]
    curve = estimate_curve(model, wrong, make_perturbation("fgsm"), "linf")
    assert curve.num_images == 50

"""Which images are attacked at which eps, in worlds where it is known what can be found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from worlds import linear_batch

from nullclass.attacks import FGSM, PGD, Attack, AttackEnsemble, null_aware_pgd
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.results.schema import LEFT_OUT, NO_MEMBER
from nullclass.scoring import audit
from nullclass.scoring.attacked import score_attack
from nullclass.scoring.audit import find_proved_eps

EPS = (0.1, 0.2, 0.3)
START = 0.2


class Window(nn.Module):
    """Images of three pixels (x, middle, width): class 1 where x is within width of the middle."""

    def forward(self, images: Tensor) -> Tensor:
        x, middle, width = images.flatten(1).unbind(dim=1)
        inside = width + 1e-3 - (x - middle).abs()
        return torch.stack([torch.zeros_like(inside), inside], dim=1)


MODEL = Classifier(Window(), 2, has_null=False)


@dataclass(frozen=True)
class Push:
    """Moves the first pixel up by eps, and records which images it got at which eps."""

    objective: ClassVar[str] = "fool"
    access: ClassVar[str] = "none"
    is_iterative: bool = True
    calls: list[tuple[float, list[int]]] = field(default_factory=list)
    """Eps and the images, by the last digit of their width."""

    def __call__(self, model: object, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        names = (images[:, 0, 0, 2] * 1e5).round().long() % 10
        self.calls.append((options["eps"], names.tolist()))
        adv_images = images.clone()
        adv_images[:, 0, 0, 0] += options["eps"]
        return adv_images


# Middle and width of the window; the pixel starts at 0.2, and Push takes it to 0.3, 0.4 or 0.5.
WINDOWS = {
    0: (0.5, 0.05),  # found at 0.3 only
    1: (0.4, 0.05),  # at 0.2 only
    2: (0.3, 0.05),  # at 0.1 only
    3: (0.4, 0.15),  # at every eps
    4: (0.45, 0.07),  # at 0.2 and 0.3
    5: (0.9, 0.05),  # never
    6: (0.2, 0.05),  # when clean
}


def windows() -> LabelledImages:
    rows = [[START, middle, width + 1e-5 * name] for name, (middle, width) in WINDOWS.items()]
    images = torch.tensor(rows).view(-1, 1, 1, 3)
    return LabelledImages(images, torch.zeros(len(rows), dtype=torch.long), 2)


def score(attack: Attack, **settings: Any) -> pd.DataFrame:
    data = windows()
    chosen = torch.arange(len(data))
    return score_attack(MODEL, data, chosen, "name", attack, EPS, norm="linf", **settings).rows


def by_eps(rows: pd.DataFrame, column: str) -> dict[int, list[Any]]:
    table = rows.pivot(index="image", columns="eps_pixels", values=column)
    return {int(image): values for image, *values in table.itertuples()}


def test_the_largest_eps_first() -> None:
    push = Push()
    rows = score(AttackEnsemble((push,), ("push",), largest_eps_first=True))
    # 1 and 2 are missed at 0.3, and found by the projection of what was tried there.
    assert push.calls == [(0.3, [0, 1, 2, 3, 4, 5]), (0.2, [0]), (0.1, [1, 4])]
    is_fooled = {i: [o == "fooled" for o in of] for i, of in by_eps(rows, "outcome").items()}
    assert is_fooled == {
        0: [False, False, True],
        1: [False, True, True],
        2: [True, True, True],
        3: [True, True, True],
        4: [False, True, True],
        5: [False, False, False],
        6: [True, True, True],
    }
    nan = math.nan
    attacked_eps = pd.DataFrame(by_eps(rows, "attacked_eps_pixels"), index=EPS)
    expected = {
        0: [0.2, 0.2, 0.3],
        1: [0.1, 0.3, 0.3],
        2: [0.3, 0.3, 0.3],
        3: [0.3, 0.3, 0.3],
        4: [0.1, 0.3, 0.3],
        5: [0.3, 0.3, 0.3],
        6: [nan, nan, nan],
    }
    pd.testing.assert_frame_equal(attacked_eps, pd.DataFrame(expected, index=EPS))
    members = by_eps(rows, "member")
    assert members[0] == [NO_MEMBER, NO_MEMBER, "push"]
    assert members[3] == ["push"] * 3
    assert members[2] == ["name"] * 3, "by the ensemble, but no member found it at its own eps"
    assert members[5] == members[6] == [NO_MEMBER] * 3


def test_the_smallest_eps_first() -> None:
    push = Push()
    rows = score(AttackEnsemble((push,), ("push",)))
    assert push.calls == [(0.1, [0, 1, 2, 3, 4, 5]), (0.2, [0, 1, 4, 5]), (0.3, [0, 5])]
    expected = {
        0: [0.1, 0.2, 0.3],
        1: [0.1, 0.2, 0.2],
        2: [0.1, 0.1, 0.1],
        3: [0.1, 0.1, 0.1],
        4: [0.1, 0.2, 0.2],
        5: [0.1, 0.2, 0.3],
    }
    attacked_eps = by_eps(rows, "attacked_eps_pixels")
    assert {image: attacked_eps[image] for image in expected} == expected
    assert all(map(math.isnan, attacked_eps[6]))


@pytest.mark.parametrize("settings", [{"is_iterative": False}, {"source": MODEL}])
def test_single_steps_and_transfers_attack_every_image_at_every_eps(
    settings: dict[str, Any],
) -> None:
    push = Push(settings.pop("is_iterative", True))
    attack = AttackEnsemble((push,), largest_eps_first=True) if settings else push
    rows = score(attack, **settings)
    assert push.calls == [(eps, list(WINDOWS)) for eps in EPS]
    assert (rows["attacked_eps_pixels"] == rows["eps_pixels"]).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inferred_outcomes_are_those_of_attacks_at_each_eps(norm: str) -> None:
    world = linear_batch(0)
    data = LabelledImages(world.images, world.labels, 4)
    optima = world.optima[norm]
    budgets = optima.sort().values[[3, 10, 17, 24]].mul(1.001).tolist()
    ensemble = replace(null_aware_pgd(20, 20), largest_eps_first=True)
    chosen = torch.arange(len(data))
    result = score_attack(world.model, data, chosen, "a", ensemble, budgets, norm=norm)
    for eps, rows in result.rows.groupby("eps_pixels"):
        expected = torch.where(optima <= float(str(eps)), 1, 0).tolist()
        assert rows["outcome"].eq("fooled").astype(int).tolist() == expected
    # Every image pays for one failing ensemble at most: the sums of failures over eps.
    last = result.costs[result.costs["member"] == "targets"]
    num_failures = int((last["num_images"] - last["num_successes"]).sum())
    assert num_failures <= len(data)
    smallest_first = score_attack(
        world.model, data, chosen, "a", null_aware_pgd(20, 20), budgets, norm=norm
    )
    passes = ["num_forwards", "num_backwards"]
    assert (result.costs[passes].sum() < smallest_first.costs[passes].sum()).all()


def test_the_examples_are_the_images_of_the_rows() -> None:
    data = windows()
    result = score_attack(
        MODEL, data, torch.arange(7), "name", AttackEnsemble((Push(),), largest_eps_first=True),
        EPS, norm="linf", num_examples=7, keep_images=True,
    )  # fmt: skip
    for example in result.examples:
        adv_images = result.adv_images[example.eps_pixels]
        rows = result.rows[result.rows["eps_pixels"] == example.eps_pixels]
        assert example.predictions == rows["prediction"].tolist()
        assert MODEL.predict(adv_images).tolist() == rows["prediction"].tolist()
        assert torch.equal(torch.from_numpy(example.adv_images), adv_images)
        assert ((adv_images - data.images).abs() <= example.eps_pixels + 1e-6).all()


# Proofs


def proofs(**proved: list[int]) -> pd.DataFrame:
    """Proofs by eps, such as ``_0_1=[2]``, of images that are never fooled."""
    lines = [
        {"image": image, "norm": "linf", "eps_pixels": float(eps[1:].replace("_", ".")),
         "is_never_fooled": image in images}
        for eps, images in proved.items()
        for image in range(100)
    ]  # fmt: skip
    return pd.DataFrame(lines)


@pytest.fixture
def one_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "NUM_AUDITED", 1)


@pytest.mark.usefixtures("one_audited")
@pytest.mark.parametrize("largest_eps_first", [False, True])
def test_proved_images_are_left_out(largest_eps_first: bool) -> None:
    push = Push()
    attack = AttackEnsemble((push,), ("push",), largest_eps_first=largest_eps_first)
    # 5 is audited. 0, 1 and 4 are proved where they cannot be fooled, 2 by a proof that is wrong.
    certified = proofs(_0_3=[5], _0_2=[0], _0_1=[0, 1, 2, 4])
    rows = score(attack, certified=certified)
    calls = {eps: images for eps, images in push.calls if images}
    if largest_eps_first:
        assert calls == {0.3: [0, 1, 2, 3, 4, 5]}
    else:
        assert calls == {0.1: [3, 5], 0.2: [1, 2, 4, 5], 0.3: [0, 2, 5]}
    is_proved = {i: [m == LEFT_OUT for m in of] for i, of in by_eps(rows, "member").items()}
    if largest_eps_first:  # what is found at a larger eps is tried at no cost
        assert not any(map(any, is_proved.values()))
    else:
        none = [False] * 3
        first = [True, False, False]
        assert is_proved == {
            0: [True, True, False], 1: first, 2: first, 3: none, 4: first, 5: none, 6: none,
        }  # fmt: skip
        left_out = rows[rows["member"] == LEFT_OUT]
        assert left_out["attacked_eps_pixels"].isna().all()
        assert (left_out["outcome"] == "correct").all()
    with_proofs, without = by_eps(rows, "outcome"), by_eps(score(attack), "outcome")
    assert [of for i, of in with_proofs.items() if i != 2] == [
        of for i, of in without.items() if i != 2
    ]
    assert with_proofs[2][0] == ("fooled" if largest_eps_first else "correct")


@pytest.mark.usefixtures("one_audited")
def test_what_is_never_attacked_has_the_clean_answer() -> None:
    push = Push()
    attack = AttackEnsemble((push,), largest_eps_first=True)
    rows = score(attack, certified=proofs(_0_3=[0, 3, 5]))
    # 3, the middle one of the three, is audited.
    assert push.calls == [(0.3, [1, 2, 3, 4]), (0.1, [1, 4])]
    of_proved = rows[rows["member"] == LEFT_OUT]
    assert of_proved["image"].tolist() == [0, 5] * 3
    assert (of_proved["outcome"] == "correct").all()
    assert of_proved["attacked_eps_pixels"].isna().all()


@pytest.mark.parametrize(
    ("attack", "settings"),
    [(Push(), {"source": MODEL}), (PGD("untargeted"), {}), (FGSM("fool"), {})],
)
def test_transfers_single_steps_and_other_objectives_attack_proved_images(
    attack: Attack, settings: dict[str, Any]
) -> None:
    rows = score(attack, certified=proofs(_0_3=list(range(100))), **settings)
    assert LEFT_OUT not in set(rows["member"])


def test_the_audit_is_fixed_by_the_proofs_alone() -> None:
    def audited(chosen: Tensor, certified: pd.DataFrame) -> list[int]:
        left = find_proved_eps(certified, chosen, "linf")
        proved = set(certified.loc[certified["is_never_fooled"], "image"])
        pairs = zip(chosen.tolist(), left.tolist(), strict=True)
        return sorted(image for image, eps in pairs if image in proved and eps == -math.inf)

    many = proofs(_0_3=list(range(0, 100, 2)), _0_1=list(range(90)))
    found = audited(torch.arange(100), many)
    assert found == list(range(2, 100, 4)), "25 of the 50 proved at the largest eps, evenly"
    assert audited(torch.arange(100).flip(0), many) == found
    few = proofs(_0_3=[5, 50], _0_1=list(range(100)))
    found = audited(torch.arange(100), few)
    assert len(found) == 25
    assert {5, 50} < set(found), "completed by images proved at a smaller eps"
    left = find_proved_eps(few, torch.arange(100), "linf")
    assert set(left.tolist()) == {-math.inf, 0.1}
    assert set(find_proved_eps(few, torch.arange(100), "l2").tolist()) == {-math.inf}
    assert audited(torch.arange(60, 80), few) == list(range(60, 80)), "all, if they are few"


def test_an_image_with_a_budget_of_its_own_is_left_out_up_to_it(one_audited: None) -> None:
    data, chosen = windows(), torch.arange(7)
    budgets = torch.tensor([0.3, 0.05, 0.25, 0.1, 0.1, 0.3, 0.3], dtype=torch.float64)
    certified = proofs(_0_3=[5], _0_1=[0, 1, 4])
    push = Push()
    attack = AttackEnsemble((push,), ("push",), largest_eps_first=True)
    rows = score_attack(
        MODEL, data, chosen, "a", attack, budgets, norm="linf", certified=certified
    ).rows
    assert [images for _, images in push.calls] == [[0, 2, 3, 5]]
    assert rows["member"].tolist()[1] == rows["member"].tolist()[4] == LEFT_OUT
    is_attacked = rows["attacked_eps_pixels"].notna()
    assert is_attacked.tolist() == [True, False, True, True, False, True, False]
    assert (rows["attacked_eps_pixels"] == rows["eps_pixels"])[is_attacked].all()

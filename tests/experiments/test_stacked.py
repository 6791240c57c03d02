"""A stack of models against the same models trained one by one.

Both are the same float32 sums in another order. The weights of the one and the other end about
1e-6 of the way they went apart (measured over all cases here: at most 1.3e-5), while another order
of two batches, another mask or another number of null images sends them apart by about as much as
they went (0.8 to 1.0). ``CLOSE`` lies between, far from both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from tiny import learnable_dataset
from torch import Tensor

from nullclass.core.devices import supports_bfloat16
from nullclass.core.errors import UserError
from nullclass.data import Dataset, load_dataset
from nullclass.experiments import stacked
from nullclass.experiments.config import LAST, NullPlan, RobustPlan, Training, Trial
from nullclass.experiments.jobs import place_of
from nullclass.experiments.stacked import can_stack, do_stacked
from nullclass.experiments.tasks import do
from nullclass.experiments.trained import Trained, load_trained
from nullclass.models import Classifier
from nullclass.results import frames, schema, store
from nullclass.studies.null_samples.config import NULL_SAMPLES
from nullclass.training.recipes import Recipe

CPU = torch.device("cpu")
HELD_OUT = 30
RECIPE = Recipe(batch_size=16, epochs=4, learning_rate=2e-3)
SELECTIONS = ("test", "held-out")
CLOSE = 1e-4
"""Distance of two models, as a share of the way they went."""

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "u": ("uniform", {}),
    "s": ("tile-shuffle", {"faithful": True}),
    "m": ("mixed", {}),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """130 images: eight batches of 16, and two images left."""
    folder = learnable_dataset(tmp_path_factory.mktemp("data"))
    return load_dataset("idx", data_dir=folder, validation=HELD_OUT)


def plan(name: str) -> NullPlan | None:
    sources = {KINDS[letter][0]: KINDS[letter][1] for letter in name if name != "base"}
    return NullPlan("any-of", {"sources": sources}, share=0.5) if sources else None


def training(name: str, seed: int, **changed: Any) -> Training:
    usual = Training(
        name=name,
        architecture="report",
        dataset="idx",
        validation=HELD_OUT,
        seed=seed,
        weight_decay=0.0,
        nulls=plan(name),
        recipe=RECIPE,
        selections=SELECTIONS,
    )
    return replace(usual, **changed)


def group(**changed: Any) -> list[Training]:
    return [training(*which, **changed) for which in (("base", 0), ("u", 1), ("sm", 2), ("usm", 2))]


def train_alone(trainings: Sequence[Training], folder: Path, dataset: Dataset) -> None:
    for one in trainings:
        do(one, folder, dataset, device=CPU)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """A run folder with the group, trained one by one."""
    folder = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    train_alone(group(), folder, dataset)
    torch.set_num_threads(before)
    return folder


def history_of(one: Training, folder: Path, dataset: Dataset) -> pd.DataFrame:
    table = frames.read_frame(folder / place_of(one, dataset.checksum) / schema.HISTORY)
    return table.drop(columns="seconds")


def distance(one: Training, folder: Path, other: Path, dataset: Dataset) -> float:
    """How far the weights in two run folders lie apart, as a share of the way they went."""
    first = Trained(one, dataset, device=CPU).model

    def vector(model: Classifier) -> Tensor:
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    shares = []
    for selection in one.selections or (LAST,):
        a, b = (
            vector(load_trained(one, selection, where, dataset, CPU)) for where in (folder, other)
        )
        assert (a - vector(first)).norm() > 0.1, "it moved"
        shares.append(float((a - b).norm() / (a - vector(first)).norm()))
    return max(shares)


def assert_same_trainings(
    trainings: Sequence[Training], folder: Path, other: Path, dataset: Dataset, tolerance: float
) -> None:
    for one in trainings:
        places = [where / place_of(one, dataset.checksum) for where in (folder, other)]
        assert all(map(store.is_complete, places))
        told = [json.loads((place / schema.RESULT).read_text()) for place in places]
        assert told[0]["epochs"] == told[1]["epochs"]
        assert told[0]["config"] == told[1]["config"]
        names = [sorted(path.name for path in place.rglob("*")) for place in places]
        assert names[0] == names[1]
        pd.testing.assert_frame_equal(
            history_of(one, folder, dataset),
            history_of(one, other, dataset),
            rtol=tolerance,
            atol=tolerance,
        )
        assert distance(one, folder, other, dataset) < tolerance


def test_a_stack_is_the_models_trained_one_by_one(
    alone: Path, dataset: Dataset, tmp_path: Path
) -> None:
    stream = torch.get_rng_state()
    told: list[float] = []
    do_stacked(group(), tmp_path, dataset, device=CPU, advance=told.append)
    assert sum(told) == pytest.approx(1)
    assert torch.equal(torch.get_rng_state(), stream), "the caller's stream goes on undisturbed"
    assert_same_trainings(group(), alone, tmp_path, dataset, CLOSE)
    histories = [history_of(one, tmp_path, dataset) for one in group()]
    assert all(len(history) == RECIPE.epochs for history in histories)
    assert histories[0].null_loss.isna().all()
    assert not any(history.null_loss.isna().any() for history in histories[1:])
    # Done: the same call again trains nothing.
    told.clear()
    do_stacked(group(), tmp_path, dataset, device=CPU, advance=told.append)
    assert told == [0.25] * 4


CHANGES: list[dict[str, Any]] = [
    {"architecture": "notebook", "weight_decay": 1e-3, "selections": ()},
    {"recipe": replace(RECIPE, epochs=2, schedule="triangle", dropout=0.5)},
    # Batches larger than the data, and ones whose last is smaller than the others.
    {"recipe": replace(RECIPE, batch_size=200, epochs=2)},
    {"recipe": replace(RECIPE, batch_size=24, epochs=2)},
]


@pytest.mark.parametrize("changed", CHANGES)
def test_so_is_one_of_other_settings(
    changed: dict[str, Any], dataset: Dataset, tmp_path: Path
) -> None:
    trainings = group(**changed)[1:]
    train_alone(trainings, tmp_path / "alone", dataset)
    do_stacked(trainings, tmp_path / "stacked", dataset, device=CPU)
    assert_same_trainings(trainings, tmp_path / "alone", tmp_path / "stacked", dataset, CLOSE)


def test_bfloat16_is_as_near_as_its_rounding_allows(dataset: Dataset, tmp_path: Path) -> None:
    recipes = {
        "alone": replace(RECIPE, epochs=1, precision="bfloat16"),
        "stacked": replace(RECIPE, epochs=1, precision="bfloat16"),
        "exact": replace(RECIPE, epochs=1),
    }
    groups = {name: group(recipe=recipe)[1:] for name, recipe in recipes.items()}
    train_alone(groups["alone"], tmp_path / "alone", dataset)
    for name in ("stacked", "exact"):
        do_stacked(groups[name], tmp_path / name, dataset, device=CPU)
    for trio in zip(*groups.values(), strict=True):
        losses = [
            float(history_of(one, tmp_path / name, dataset).loss.iloc[0])
            for name, one in zip(groups, trio, strict=True)
        ]
        assert losses[0] == pytest.approx(losses[1], abs=5e-3)
        if supports_bfloat16(CPU):
            assert losses[1] != pytest.approx(losses[2], abs=1e-6)


# The tolerance is tight: whatever is drawn otherwise shows


def masks_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stacked._masks_of
    monkeypatch.setattr(stacked, "_masks_of", lambda *given: found(*given)[::-1])


def streams_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    train = stacked._train

    def swapped(members: list[Any], *rest: Any) -> None:
        members[1].stream, members[2].stream = members[2].stream, members[1].stream
        train(members, *rest)

    monkeypatch.setattr(stacked, "_train", swapped)


def one_step_of_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffle = stacked._Member.shuffle

    def shuffled(self: Any) -> None:
        shuffle(self)
        self.order[:32] = self.order[:32].roll(16)  # the first two steps change places

    monkeypatch.setattr(stacked._Member, "shuffle", shuffled)


def another_share_of_nulls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stacked, "mix_within", lambda *given, mix=stacked.mix_within: mix(*given[:-1], 0.4)
    )


@pytest.mark.parametrize(
    "spoil",
    [
        masks_in_another_order,
        streams_swapped,
        one_step_of_another_order,
        another_share_of_nulls,
    ],
)
def test_anything_drawn_otherwise_is_seen(
    spoil: Callable[[pytest.MonkeyPatch], None],
    alone: Path,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch)
    do_stacked(group(), tmp_path, dataset, device=CPU)
    assert distance(group()[2], alone, tmp_path, dataset) > 0.1


# Stopped, and gone on with


class Stopped(Exception):  # noqa: N818
    pass


def stop_at(share: float) -> Callable[[float], None]:
    done = 0.0

    def advance(more: float) -> None:
        nonlocal done
        done += more
        if done >= share:
            raise Stopped

    return advance


def read_state(one: Training, folder: Path, dataset: Dataset) -> tuple[Any, dict[str, Tensor]]:
    path = folder / place_of(one, dataset.checksum) / schema.STATE
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_state_of_a_stopped_stack_is_that_of_models_alone(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        do_stacked(group(), tmp_path / "stacked", dataset, device=CPU, advance=stop_at(0.6))
    for one in group():
        with pytest.raises(Stopped):
            do(one, tmp_path / "alone", dataset, device=CPU, advance=stop_at(0.6))
        told, tensors = read_state(one, tmp_path / "stacked", dataset)
        expected_told, expected = read_state(one, tmp_path / "alone", dataset)
        assert told["fingerprint"] == expected_told["fingerprint"]
        assert len(json.loads(told["history"])) == len(json.loads(expected_told["history"])) == 2
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == expected[name].dtype
            if name in ("stream", "generator"):
                assert torch.equal(tensor, expected[name]), "the same draws"
            else:
                torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_a_stopped_stack_goes_on_stacked_to_the_same_bits(
    alone: Path, dataset: Dataset, tmp_path: Path
) -> None:
    do_stacked(group(), tmp_path / "whole", dataset, device=CPU)
    for share in (0.3, 0.8):
        with pytest.raises(Stopped):
            do_stacked(group(), tmp_path / "part", dataset, device=CPU, advance=stop_at(share))
    told: list[float] = []
    do_stacked(group(), tmp_path / "part", dataset, device=CPU, advance=told.append)
    assert told[0] == 0.75
    assert sum(told) == pytest.approx(1)
    assert_same_trainings(group(), alone, tmp_path / "part", dataset, CLOSE)
    for one in group():
        assert distance(one, tmp_path / "whole", tmp_path / "part", dataset) == 0


def test_a_stopped_stack_goes_on_one_by_one(alone: Path, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        do_stacked(group(), tmp_path, dataset, device=CPU, advance=stop_at(0.6))
    train_alone(group(), tmp_path, dataset)
    assert_same_trainings(group(), alone, tmp_path, dataset, CLOSE)


def test_models_that_are_further_are_finished_first(
    alone: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *others = group()
    train_alone([first], tmp_path, dataset)
    with pytest.raises(Stopped):
        do(second, tmp_path, dataset, device=CPU, advance=stop_at(0.3))
    sizes: list[int] = []
    train = stacked._train

    def counted(members: list[Any], *rest: Any) -> None:
        sizes.append(len(members))
        assert store.is_complete(tmp_path / place_of(second, dataset.checksum))
        train(members, *rest)

    monkeypatch.setattr(stacked, "_train", counted)
    told: list[float] = []
    do_stacked(group(), tmp_path, dataset, device=CPU, advance=told.append)
    assert sizes == [len(others)]
    assert sum(told) == pytest.approx(1)
    assert_same_trainings(group(), alone, tmp_path, dataset, CLOSE)


def test_several_threads_draw_the_same(
    alone: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do for a GPU."""
    drawing = stacked._drawing
    monkeypatch.setattr(stacked.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(stacked, "_drawing", lambda num, _: drawing(num, torch.device("cuda")))
    do_stacked(group(), tmp_path, dataset, device=CPU)
    assert_same_trainings(group(), alone, tmp_path, dataset, CLOSE)


def test_threads_that_draw_keep_their_number_of_threads_to_themselves() -> None:
    torch.set_num_threads(2)
    with stacked._drawing(3, torch.device("cuda")) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2


def test_a_stack_of_one(alone: Path, dataset: Dataset, tmp_path: Path) -> None:
    one = group()[2]
    do_stacked([one], tmp_path, dataset, device=CPU)
    assert distance(one, alone, tmp_path, dataset) == 0, "trained as any other, to the bit"


# What must not pass as a result


def test_a_model_that_diverges_is_named(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = stacked._Member.draw

    def spoiled(self: Any, step: int, masks: Any) -> Any:
        drawn = draw(self, step, masks)
        is_bad = self.training.name == "sm" and self.num_epochs == 1 and step == 3
        return replace(drawn, images=drawn.images * float("nan")) if is_bad else drawn

    monkeypatch.setattr(stacked._Member, "draw", spoiled)
    with pytest.raises(
        UserError, match=r"^sm, seed 2: training diverged: the loss is nan.*step 4 of epoch 2"
    ):
        do_stacked(group(), tmp_path, dataset, device=CPU)
    for one in group():
        assert not store.is_complete(tmp_path / place_of(one, dataset.checksum))
        told, tensors = read_state(one, tmp_path, dataset)
        assert len(json.loads(told["history"])) == 1, "all are left at the same epoch"
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_a_model_that_learned_nothing_does_not_keep_the_others(
    alone: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *others = group()

    def check(model: Classifier, loss: float, num_steps: int, recipe: Recipe) -> None:
        assert num_steps == 8
        if loss == lost[0]:
            raise UserError("the model learned nothing")

    lost: list[float] = []
    end_epoch = stacked._Member.end_epoch

    def noted(self: Any, *given: Any) -> None:
        end_epoch(self, *given)
        if self.training == bad:
            lost[:] = [self.state.history[-1].loss]

    monkeypatch.setattr(stacked._Member, "end_epoch", noted)
    monkeypatch.setattr(stacked, "check_learned", check)
    with pytest.raises(UserError, match=r"^base, seed 0: the model learned nothing$"):
        do_stacked(group(), tmp_path, dataset, device=CPU)
    assert not store.is_complete(tmp_path / place_of(bad, dataset.checksum))
    assert_same_trainings(others, alone, tmp_path, dataset, CLOSE)


def test_what_cannot_be_drawn_is_told_with_the_models_name(
    dataset: Dataset, tmp_path: Path
) -> None:
    odd = NullPlan("tile-shuffle", {"sides": [3]}, share=0.5)
    trainings = [training("u", 0), training("s", 1, nulls=odd, selections=())]
    trainings[0] = replace(trainings[0], selections=())
    with pytest.raises(UserError, match=r"^s, seed 1: tiles of 3 pixels"):
        do_stacked(trainings, tmp_path, dataset, device=CPU)


# What stacks


LESS = NullPlan("uniform", {}, share=0.1)

STACKED = [
    training("u", 1),
    training("base", 0),
    training("usm", 7),
    training("u", 0, nulls=LESS),
]
OTHERWISE = [
    training("u", 1, architecture="notebook"),
    training("u", 1, dataset="mnist"),
    training("u", 1, validation=20),
    training("u", 1, weight_decay=1e-4),
    training("u", 1, recipe=replace(RECIPE, epochs=5)),
    training("base", 1, has_null=False),
    training("u", 1, selections=("test",)),
]
NEVER = [
    training("u", 1, start=replace(training("base", 1), selections=())),
    training("u", 1, recipe=replace(RECIPE, jitter=1.0)),
    training("u", 1, nulls=None, robust=RobustPlan("interval", {"eps": 0.1})),
    training("u", 1, nulls=NullPlan("adversarial", {"eps": 0.1}, weight=0.1)),
    training("u", 1, nulls=NullPlan("uniform", {}, weight=0.1)),
    training("u", 1, nulls=NullPlan("adversarial", {"eps": 0.1}, share=0.5)),
    training(
        "u",
        1,
        nulls=NullPlan(
            "any-of", {"sources": {"uniform": {}, "adversarial": {"eps": 0.1}}}, share=0.5
        ),
    ),
]


@pytest.mark.parametrize("other", STACKED)
def test_what_stacks(other: Training) -> None:
    first = training("u", 0)
    assert can_stack(first, other)
    assert can_stack(other, first)


@pytest.mark.parametrize("other", OTHERWISE + NEVER)
def test_what_does_not_stack(other: Training) -> None:
    first = training("u", 0)
    assert not can_stack(first, other)
    assert not can_stack(other, first)
    assert can_stack(other, other), "there is always a stack of one"


@pytest.mark.parametrize("other", NEVER)
def test_what_never_stacks(other: Training) -> None:
    assert not can_stack(other, replace(other, seed=5))


def test_a_trial_does_not_stack() -> None:
    assert not can_stack(
        training("u", 0), Trial(training("u", 0), (), num_clean=10, selection="test")
    )


def test_the_reports_models_stack_whatever_their_set() -> None:
    trials = NULL_SAMPLES.trials("quick", [0, 1], NULL_SAMPLES.variants)
    trainings = [trial.training for trial in trials]
    assert all(can_stack(trainings[0], other) for other in trainings)

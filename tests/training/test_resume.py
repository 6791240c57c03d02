"""The same seed gives the same weights, and so does a stopped and resumed training."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.optim import SGD, AdamW, RMSprop
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset
from training_cases import (
    RECIPE,
    Stopped,
    assert_same_bits,
    assert_same_history,
    fresh_model,
    learnable_images,
    make_case,
    stop_at,
)

from nullclass.core.errors import DamagedStateError, UserError
from nullclass.core.tensor_files import load_state, save_state
from nullclass.models import Classifier
from nullclass.nulls import AdversarialNulls, CCATNulls, MixedNulls, NullProbabilities, UniformNulls
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import STATE
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe
from nullclass.training.robust import ROBUST_LOSSES, make_robust
from nullclass.training.selection import BestCheckpoints
from nullclass.training.state import _Info

STEPS_PER_EPOCH = 5  # 80 images in batches of 16
CURVE = NullCurve("linf", (0.1, 0.3), (0.4, 1.0), perturbation="fgsm")
CONSTANT = replace(RECIPE, schedule="constant")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums in this process and in the ones it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Augmented(Dataset[tuple[Tensor, int]]):
    """Adds noise from torch's global stream to every image it returns."""

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = learnable_images().images[index], index % 3
        return (image + 0.2 * torch.rand(1, 8, 8)).clamp(0, 1), label


def augmented_loader(**settings: Any) -> DataLoader[Any]:
    return DataLoader(Augmented(), batch_size=16, shuffle=True, **settings)


def own_generator() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(
        TensorDataset(learnable_images().images, learnable_images().labels),
        batch_size=16, shuffle=True, generator=generator,
    )  # fmt: skip


def own_batch_sampler() -> DataLoader[Any]:
    data = TensorDataset(learnable_images().images, learnable_images().labels)
    order = RandomSampler(data, generator=torch.Generator().manual_seed(3))
    return DataLoader(data, batch_sampler=BatchSampler(order, 16, drop_last=False))


def case(
    config: TrainConfig,
    nulls: Callable[[Classifier], Any] = lambda model: None,
    data: Callable[[], Any] = learnable_images,
    architecture: str = "report",
    **model: Any,
) -> Callable[..., tuple[Classifier, list[Any], BestCheckpoints]]:
    """A training with selections on two sets; it has dropout, unless it is of another network."""

    def run(**settings: Any) -> tuple[Classifier, list[Any], BestCheckpoints]:
        network = fresh_model(architecture, **model)
        source = nulls(network)
        sets = {"test": learnable_images(30, seed=1), "held-out": learnable_images(20, seed=9)}
        selections = BestCheckpoints(sets, source if hasattr(source, "settings") else None)
        history = train(network, data(), config, nulls=source, selections=selections, **settings)
        return network, history, selections

    return run


BFLOAT16 = replace(RECIPE, precision="bfloat16")
LATE = replace(RECIPE, schedule="late-cosine")
ROBUST = {
    f"robust {name}": case(
        TrainConfig(LATE, 5, robust=make_robust(name, {"eps": 0.1})),
        architecture="certifiable-small",
        has_null=name in ("adversarial", "abstain"),
    )
    for name in ROBUST_LOSSES
}

CASES = {
    "adversarial": case(
        TrainConfig(RECIPE, 5, weight_decay=1e-4, null_weight=0.3),
        lambda model: AdversarialNulls(model, 0.15), architecture="notebook",
    ),
    "bfloat16": case(TrainConfig(BFLOAT16, 5), lambda model: "uniform"),
    "frozen first layer": case(TrainConfig(replace(RECIPE, stem_epochs=1), 5)),
    "clipped gradients": case(
        TrainConfig(replace(RECIPE, max_gradient=0.5), 5, replace_rate=0.4),
        lambda model: [UniformNulls(), MixedNulls()],
    ),
    "best epoch not the last": case(
        TrainConfig(Recipe(batch_size=16, epochs=3, learning_rate=8e-3), 3, replace_rate=0.4),
        lambda model: [UniformNulls(), MixedNulls()],
    ),
    "probabilities": case(TrainConfig(CONSTANT, 5), lambda model: NullProbabilities(model, CURVE)),
    "probabilities, noise": case(
        TrainConfig(CONSTANT, 5), lambda model: NullProbabilities(model, CURVE, "noise")
    ),
    "ccat": case(TrainConfig(CONSTANT, 5), lambda model: CCATNulls(model, 0.2, num_steps=2)),
    "SGD, milestones": case(
        TrainConfig(
            CONSTANT, 5, optimizer=partial(SGD, lr=0.05, momentum=0.9),
            scheduler=lambda optimizer: MultiStepLR(optimizer, [1, 2], 0.3),
        )
    ),
    "AdamW, one cycle": case(
        TrainConfig(
            CONSTANT, 5, optimizer=partial(AdamW, lr=1e-4),
            scheduler=lambda optimizer: OneCycleLR(optimizer, 0.01, 15), scheduler_interval="step",
        )
    ),
    "RMSprop, plateau": case(
        TrainConfig(
            CONSTANT, 5, optimizer=partial(RMSprop, lr=1e-3),
            scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=0.9),
        )
    ),
    "augmented loader": case(TrainConfig(RECIPE, 5), lambda model: "mixed", augmented_loader),
    "loader with a generator": case(TrainConfig(RECIPE, 5), data=own_generator),
    "batch sampler with a generator": case(TrainConfig(RECIPE, 5), data=own_batch_sampler),
    **ROBUST,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_stopped_and_resumed_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    run = CASES[name]
    stream = torch.get_rng_state()
    expected, history, selections = run()
    assert torch.equal(torch.get_rng_state(), stream), "the caller's stream is not disturbed"
    for step in (7, 13):  # in the second epoch, then in the third
        torch.rand(7)  # the caller's draws do not matter
        with pytest.raises(Stopped):
            run(state_folder=tmp_path, on_step=stop_at(step))
    steps: list[int] = []
    resumed, resumed_history, resumed_selections = run(
        state_folder=tmp_path, on_step=lambda done, *_: steps.append(done)
    )
    assert steps == list(range(10, 16)), "at most the current epoch is lost"
    assert_same_bits(expected, resumed)
    assert_same_history(history, resumed_history)
    assert resumed_selections.best == selections.best
    for key, weights in selections.weights.items():
        losses = [r.selection_losses[key] for r in history if r.selection_losses]
        assert selections.best[key][0] == min(losses)
        for name, value in weights.items():
            assert torch.equal(resumed_selections.weights[key][name], value), (key, name)
    # All done: the same call again trains nothing.
    again, *_ = run(state_folder=tmp_path, on_step=lambda done, *_: (done == 15) or 1 / 0)
    assert_same_bits(expected, again)


def test_another_seed_gives_other_weights() -> None:
    one, other = (make_case("report", seed=seed)()[0] for seed in (5, 6))
    assert not torch.equal(one.body.output.weight, other.body.output.weight)


@pytest.mark.parametrize("step", [3, 5])
def test_stopped_in_or_at_the_end_of_the_first_epoch(step: int, tmp_path: Path) -> None:
    run = make_case("notebook")
    with pytest.raises(Stopped):
        run(state_folder=tmp_path, on_step=stop_at(step))
    assert not (tmp_path / STATE).exists()
    assert_same_bits(run()[0], run(state_folder=tmp_path)[0])


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "kill_me.py"
    architectures = ["notebook", "report"]
    command = [sys.executable, str(script), str(tmp_path), "8", *architectures]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert killed.stdout.splitlines() == [f"{name} {-signal.SIGKILL}" for name in architectures]
    for name in architectures:
        assert (tmp_path / name / STATE).exists()
        expected, history = make_case(name)()
        resumed, resumed_history = make_case(name)(state_folder=tmp_path / name)
        assert_same_bits(expected, resumed)
        assert_same_history(history, resumed_history)


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    def run(**changed: Any) -> None:
        model = changed.pop("model", None) or fresh_model()
        settings: dict[str, Any] = {
            "data": learnable_images(),
            "config": TrainConfig(RECIPE, 5, null_weight=0.3),
            "nulls": NullProbabilities(model, CURVE),
            "selections": BestCheckpoints({"test": learnable_images(30, seed=1)}, None),
        }
        train(model, **(settings | changed), state_folder=tmp_path)

    with pytest.raises(Stopped):
        run(on_step=stop_at(6))
    state = (tmp_path / STATE).read_bytes()
    config = TrainConfig(RECIPE, 5, null_weight=0.3)
    others: list[dict[str, Any]] = [
        {"config": replace(config, seed=6)},
        {"config": replace(config, recipe=replace(RECIPE, epochs=4))},
        {"config": replace(config, recipe=replace(RECIPE, learning_rate=1e-3))},
        {"config": replace(config, weight_decay=1e-4)},
        {"config": replace(config, optimizer=partial(SGD, lr=0.1))},
        {"config": replace(config, recipe=CONSTANT)},
        {
            "config": replace(
                config, recipe=CONSTANT, scheduler=lambda optimizer: MultiStepLR(optimizer, [1])
            )
        },
        {"nulls": None},
        {"nulls": UniformNulls()},
        {"nulls": NullProbabilities(fresh_model(), replace(CURVE, probabilities=(0.5, 1.0)))},
        {"model": fresh_model("report")},
        {"data": learnable_images(seed=1)},
        {"data": augmented_loader()},
        {"selections": BestCheckpoints({"test": learnable_images(30, seed=2)}, None)},
        {"selections": BestCheckpoints({"test": learnable_images(30, seed=1)}, UniformNulls())},
    ]
    for other in others:
        with pytest.raises(UserError, match="belongs to a training with other settings"):
            run(**other)
    assert (tmp_path / STATE).read_bytes() == state
    run()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    """Cut anywhere, or one flipped bit anywhere: never other weights."""
    with pytest.raises(Stopped):
        make_case("small")(state_folder=tmp_path, on_step=stop_at(6))
    path = tmp_path / STATE
    content = path.read_bytes()
    damaged = [content[:keep] for keep in (0, 7, 1000, -1)]
    header = int.from_bytes(content[:8], "little")
    for position in (*range(0, header + 8, 97), *range(header + 8, len(content), 40_009)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        damaged.append(bytes(flipped))
    assert len(damaged) > 40
    for content_now in damaged:
        path.write_bytes(content_now)
        with pytest.raises(DamagedStateError, match=rf"{STATE}.*remove"):
            load_state(path, "", _Info)
    with pytest.raises(DamagedStateError, match=rf"{STATE}.*remove"):
        make_case("small")(state_folder=tmp_path)
    path.write_bytes(content)
    make_case("small")(state_folder=tmp_path)


def test_a_state_with_other_tensors_is_refused(tmp_path: Path) -> None:
    """As if written by another version: the checksum is right, a shape or a name is not."""
    with pytest.raises(Stopped):
        make_case("small")(state_folder=tmp_path, on_step=stop_at(6))
    path = tmp_path / STATE
    with safe_open(path, framework="pt") as file:
        mark = file.metadata()["fingerprint"]
    info, tensors = load_state(path, mark, _Info)
    bias = tensors["model.body.output.bias"]
    for changed in (
        {"model.body.output.bias": bias[:-1]},
        {"model.body.output.bias": bias.double()},
        {"model.body.output.bias": torch.zeros(2**20)},
        {"rng": tensors["rng"][:-1]},
        {"generator.0": tensors["generator.0"].float()},
        {"generator.1": tensors["generator.0"]},
        {"optimizer.99.step": torch.zeros(())},
    ):
        save_state(path, mark, tensors | changed, info)
        with pytest.raises(DamagedStateError, match="does not hold the tensors"):
            make_case("small")(state_folder=tmp_path)
    save_state(path, mark, tensors, info)
    make_case("small")(state_folder=tmp_path)


def test_states_that_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_case("notebook")(state_folder=tmp_path / "file")
    loader = augmented_loader(num_workers=1, persistent_workers=True)
    with pytest.raises(UserError, match="persistent workers keep random states"):
        train(fresh_model(), loader, RECIPE, state_folder=tmp_path)

    class Listing(SGD):
        def step(self, closure: Any = None) -> Any:
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["steps"] = [1]
            return super().step(closure)

    config = TrainConfig(RECIPE, optimizer=Listing)
    with pytest.raises(UserError, match="the state of Listing cannot be saved"):
        train(fresh_model(), learnable_images(), config, state_folder=tmp_path)


def test_looking_at_validation_and_selections_changes_no_weight() -> None:
    config = TrainConfig(RECIPE, replace_rate=0.4)
    plain, watched = fresh_model("report"), fresh_model("report")
    loader = augmented_loader()
    train(plain, learnable_images(), config, nulls=UniformNulls())
    selections = BestCheckpoints({"test": learnable_images(30, seed=1)}, UniformNulls())
    train(
        watched, learnable_images(), config,
        nulls=UniformNulls(), selections=selections, validation=loader,
    )  # fmt: skip
    assert_same_bits(plain, watched)

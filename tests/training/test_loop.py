from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import (
    NUM_CLASSES,
    RECIPE,
    fresh_model,
    learnable_images,
    make_case,
)

from nullclass.core.devices import supports_bfloat16
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier, build_model
from nullclass.models.dropout import Dropout
from nullclass.nulls import (
    AdversarialNulls,
    AnyOf,
    CCATNulls,
    MixedNulls,
    NullImages,
    NullProbabilities,
    NullSource,
    UniformNulls,
)
from nullclass.results.null_curve import NullCurve
from nullclass.training.loop import STATE, TrainConfig, train
from nullclass.training.recipes import FAITHFUL, FAST, Recipe, find_recipe
from nullclass.training.selection import BestCheckpoints

STEPS_PER_EPOCH = 5  # 80 images in batches of 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums in this process and in the ones it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    others = other.state_dict()
    for key, value in one.state_dict().items():
        assert torch.equal(value, others[key]), key


def plain_history(history: list[Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in asdict(record).items() if k != "seconds"} for record in history]


def assert_same_history(one: list[Any], other: list[Any]) -> None:
    for left, right in zip(plain_history(one), plain_history(other), strict=True):
        assert left.pop("selection_losses") == right.pop("selection_losses")
        assert left == pytest.approx(right, rel=0, abs=0, nan_ok=True)


# The notebook's protocol


def plain_net(seed: int) -> nn.Sequential:
    """The notebook's net in its own order, without anything of ours."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 128),
        nn.ReLU(),
        nn.Linear(128, NUM_CLASSES + 1),
    )


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_training_is_the_notebooks_own_loop_written_plainly(weight_decay: float) -> None:
    mean, std, notebook_eps, alpha, num_steps = 0.1307, 0.3081, 0.5, 1 / 11, 4
    data = learnable_images(64)

    with torch.random.fork_rng():
        net = plain_net(4)
        torch.manual_seed(4)
        model = build_model(
            "notebook", image_shape=(1, 8, 8), num_classes=NUM_CLASSES, mean=(mean,), std=(std,)
        ).double()  # so that rounding cannot flip the sign of a gradient, in either loop
    net.double()
    for ours, theirs in zip(model.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    first = [p.detach().clone() for p in net.parameters()]

    # The notebook: standardised images, gradient of the image from the same backward pass.
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=weight_decay)
    low, high = (0 - mean) / std, (1 - mean) / std
    losses, null_losses = [], []
    for _ in range(num_steps):
        x = ((data.images.double() - mean) / std).requires_grad_()
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), data.labels)
        loss.backward()
        x_null = (x.detach() + notebook_eps * x.grad.sign()).clamp(low, high)
        null_loss = F.cross_entropy(net(x_null), torch.full_like(data.labels, NUM_CLASSES))
        (alpha * null_loss).backward()
        optimizer.step()
        losses.append(loss.item())
        null_losses.append(null_loss.item())

    # Ours: one batch an epoch, so that the order of images does not matter.
    recipe = Recipe(batch_size=64, epochs=num_steps, learning_rate=1e-3)
    config = TrainConfig(recipe, seed=0, weight_decay=weight_decay, null_weight=alpha)
    nulls = AdversarialNulls(model, std * notebook_eps)
    history = train(model, data, config, nulls=nulls)

    assert [record.loss for record in history] == pytest.approx(losses, abs=1e-6)
    assert [record.null_loss for record in history] == pytest.approx(null_losses, abs=1e-6)
    for ours, theirs, before in zip(model.parameters(), net.parameters(), first, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
        assert (ours - before).abs().max() > 1e-3, "it moved"


def test_a_step_is_two_forward_passes_not_three() -> None:
    model = fresh_model()
    calls: list[int] = []
    model.body.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    nulls = AdversarialNulls(model, 0.15)
    train(model, learnable_images(48), TrainConfig(replace(RECIPE, epochs=1)), nulls=nulls)
    assert calls == [16, 16] * 3
    calls.clear()
    part = replace(RECIPE, epochs=1, nulls_per_image=0.25)
    train(model, learnable_images(48), TrainConfig(part), nulls=nulls)
    assert calls == [16, 4] * 3


def test_null_images_are_made_from_the_clean_ones_and_labelled_null() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    class Spy:
        needs_image_gradient = True
        is_soft = False

        def settings(self) -> dict[str, Any]:
            return {}

        def __call__(
            self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
        ) -> NullImages:
            assert generator is not None
            seen.append((images.clone(), labels.clone(), images.grad))
            return NullImages(torch.ones_like(images))

    model, data = fresh_model(), learnable_images(32)
    recipe = Recipe(batch_size=16, epochs=30, learning_rate=3e-3)
    train(model, data, TrainConfig(recipe, null_weight=1.0), nulls=Spy())
    assert model.predict(torch.ones(1, 1, 8, 8)).tolist() == [-1]
    assert model.predict(data.images).tolist() == data.labels.tolist()
    first_epoch = torch.cat([images for images, _, _ in seen[:2]])
    order = [(data.images - image).abs().flatten(1).sum(1).argmin() for image in first_epoch]
    assert sorted(map(int, order)) == list(range(32)), "every image once an epoch"
    assert torch.equal(first_epoch, data.images[torch.stack(order)])
    assert all(grad is not None and grad.abs().sum() > 0 for _, _, grad in seen[:2])


@pytest.mark.parametrize(
    ("num_images", "sizes"),
    [
        (48, [16, 16, 16]),
        (47, [16, 16, 15]),
        (40, [16, 16, 8]),  # half a batch is enough
        (39, [16, 16]),  # less would be noise
        (17, [16]),
        (7, [7]),  # but something is always trained on
    ],
)
def test_a_last_batch_of_less_than_half_the_size_is_left_out(
    num_images: int, sizes: list[int]
) -> None:
    model = fresh_model(has_null=False)
    calls: list[int] = []
    model.body.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    told: list[tuple[int, int]] = []
    train(
        model,
        learnable_images(num_images),
        TrainConfig(replace(RECIPE, epochs=2)),
        on_step=lambda done, steps, loss: told.append((done, steps)),
    )
    assert calls == sizes * 2
    assert told == [(step, 2 * len(sizes)) for step in range(1, 2 * len(sizes) + 1)]


def as_pixels(standardised: Tensor) -> Tensor:
    """What a network saw, as the images they were (:func:`fresh_model` has both at 0.3)."""
    return standardised.detach() * 0.3 + 0.3


def test_what_is_left_out_of_an_epoch_is_drawn_anew_in_every_epoch() -> None:
    model, data = fresh_model(has_null=False), learnable_images(35)
    seen: list[Tensor] = []
    model.body.register_forward_hook(lambda module, args, out: seen.append(as_pixels(args[0])))
    train(model, data, TrainConfig(replace(RECIPE, epochs=30)))
    epochs = [torch.cat(seen[i : i + 2]) for i in range(0, len(seen), 2)]
    met: set[int] = set()
    for images in epochs:
        found = [int((data.images - image).abs().flatten(1).sum(1).argmin()) for image in images]
        assert len(set(found)) == 32
        met |= set(found)
    assert met == set(range(35))


def test_null_images_within_the_batch_leave_its_size_and_are_counted() -> None:
    model, data = fresh_model(), learnable_images(64)
    calls: list[Tensor] = []
    model.register_forward_hook(lambda module, args, out: calls.append(args[0].detach().clone()))

    class White:
        needs_image_gradient = False
        is_soft = False

        def settings(self) -> dict[str, Any]:
            return {}

        def __call__(
            self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
        ) -> NullImages:
            return NullImages(torch.ones_like(images))

    recipe = Recipe(batch_size=16, epochs=20, learning_rate=3e-3)
    history = train(model, data, TrainConfig(recipe, replace_rate=0.5), nulls=White())
    assert [len(images) for images in calls] == [16] * 80, "one pass a step"
    counts = [int((images == 1).flatten(1).all(dim=1).sum()) for images in calls]
    assert 0.42 < sum(counts) / (16 * 80) < 0.58
    assert len(set(counts)) > 3, "a binomial number, not a fixed one"
    assert model.predict(torch.ones(1, 1, 8, 8)).tolist() == [-1]
    assert model.predict(data.images).tolist() == data.labels.tolist()
    assert history[-1].train_accuracy == 1, "of null images too"
    assert history[-1].null_loss < history[0].null_loss


def test_a_share_without_a_source_trains_on_the_batches_as_they_are() -> None:
    with_share, plain = fresh_model(), fresh_model()
    train(with_share, learnable_images(), TrainConfig(RECIPE, replace_rate=0.5))
    history = train(plain, learnable_images(), TrainConfig(RECIPE))
    assert_same_bits(with_share, plain)
    assert math.isnan(history[-1].null_loss)


def test_the_recipes_factor_on_dropout_holds_during_training_only() -> None:
    def trained(factor: float, *, epochs: int = 1) -> Classifier:
        model = fresh_model("report", has_null=False)
        recipe = replace(RECIPE, epochs=epochs, dropout=factor)
        train(model, learnable_images(), TrainConfig(recipe))
        return model

    levels: list[list[int]] = []
    model = fresh_model("report", has_null=False)
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    model.body.register_forward_hook(lambda *_: levels.append([layer.level for layer in layers]))
    train(model, learnable_images(), TrainConfig(replace(RECIPE, epochs=1, dropout=0.5)))
    assert levels == [[32, 64]] * STEPS_PER_EPOCH
    assert [layer.level for layer in layers] == [64, 128]
    none, again = trained(0.0), trained(0.0)
    assert_same_bits(none, again)
    assert not torch.equal(none.body.output.weight, trained(1.0).body.output.weight)


def stem_of(model: Classifier) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.body.conv1.parameters()]


def test_the_first_layer_stops_learning_after_its_epochs_and_nothing_else_does() -> None:
    recipe = replace(RECIPE, schedule="constant", stem_epochs=2)
    model = fresh_model("report")
    seen: list[list[Tensor]] = []
    others: list[Tensor] = []

    def on_step(done: int, steps: int, loss: float) -> None:
        seen.append(stem_of(model))
        others.append(model.body.conv2.weight.detach().clone())

    train(model, learnable_images(), TrainConfig(recipe, replace_rate=0.3), nulls=UniformNulls(),
          on_step=on_step)  # fmt: skip
    for step in range(1, 15):
        moved = any(not torch.equal(a, b) for a, b in zip(seen[step], seen[step - 1], strict=True))
        assert moved is (step < 2 * STEPS_PER_EPOCH), step
        assert not torch.equal(others[step], others[step - 1])
    assert all(parameter.requires_grad for parameter in model.parameters()), "as found"
    # Up to there nothing is different.
    free = fresh_model("report")
    train(free, learnable_images(), TrainConfig(replace(recipe, stem_epochs=None, epochs=2),
          replace_rate=0.3), nulls=UniformNulls())  # fmt: skip
    for one, other in zip(stem_of(free), seen[-1], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("step", [8, 13])
def test_a_training_with_a_frozen_first_layer_resumes_to_the_same_bits(
    step: int, tmp_path: Path
) -> None:
    case = make_case("report", replace(RECIPE, stem_epochs=1))
    whole, history = case()
    with pytest.raises(Stopped):
        case(state_folder=tmp_path, on_step=stop_at(step))
    resumed, resumed_history = case(state_folder=tmp_path)
    assert_same_bits(whole, resumed)
    assert_same_history(history, resumed_history)


def test_null_labels_in_the_data_are_trained_as_null() -> None:
    data = learnable_images(40)
    labels = data.labels.clone()
    images = data.images.clone()
    images[::4], labels[::4] = 1.0, -1
    model = fresh_model()
    recipe = Recipe(batch_size=20, epochs=25, learning_rate=3e-3)
    history = train(model, LabelledImages(images, labels, NUM_CLASSES), TrainConfig(recipe))
    assert model.predict(images).tolist() == labels.tolist()
    assert history[-1].train_accuracy == 1
    assert math.isnan(history[-1].null_loss)


def test_history_says_what_happened() -> None:
    model, data = fresh_model(has_null=False), learnable_images(80)
    told: list[tuple[int, int]] = []
    history = train(
        model,
        data,
        TrainConfig(replace(RECIPE, epochs=8)),
        validation=learnable_images(30, seed=1),
        on_step=lambda done, steps, loss: told.append((done, steps)),
    )
    assert told == [(step, 40) for step in range(1, 41)]
    assert [record.epoch for record in history] == list(range(1, 9))
    assert history[-1].loss < history[0].loss
    right = (
        model.predict(learnable_images(30, seed=1).images) == learnable_images(30).labels
    ).sum()
    assert history[-1].validation_accuracy == pytest.approx(int(right) / 30)
    assert not model.training


@pytest.mark.parametrize("schedule", ["constant", "triangle", "late-cosine"])
def test_the_learning_rate_follows_the_schedule(
    schedule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    original = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    recipe = Recipe(batch_size=16, epochs=4, learning_rate=0.01, schedule=schedule)
    train(fresh_model(has_null=False), learnable_images(80), TrainConfig(recipe))
    shares = [rate / 0.01 for rate in rates]
    if schedule == "constant":
        assert shares == [1.0] * 20
    elif schedule == "late-cosine":
        late = [(1 + math.cos(math.pi * (i / 20 - 0.4) / 0.6)) / 2 for i in range(8, 20)]
        assert shares == pytest.approx([1e-3, *[1.0] * 7, *late])
    else:
        expected = [min(i / 4, (20 - i) / 16) for i in range(20)]
        assert shares == pytest.approx([max(share, 1e-3) for share in expected])


# Same seed, same weights; stopped and resumed, same weights


@pytest.mark.parametrize("architecture", ["notebook", "report"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(architecture: str) -> None:
    stream = torch.get_rng_state()
    one, history = make_case(architecture)()
    assert torch.equal(torch.get_rng_state(), stream), "the caller's stream goes on undisturbed"
    torch.rand(7)  # whatever the caller draws has no say
    two, again = make_case(architecture)()
    assert_same_bits(one, two)
    assert_same_history(history, again)
    other, _ = make_case(architecture, seed=6)()
    assert not torch.equal(one.body.output.weight, other.body.output.weight)


class Stopped(Exception):  # noqa: N818
    pass


def stop_at(step: int) -> Any:
    def on_step(done: int, steps: int, loss: float) -> None:
        if done == step:
            raise Stopped

    return on_step


@pytest.mark.parametrize("architecture", ["notebook", "report"])
@pytest.mark.parametrize("step", [3, 5, 8, 14])
def test_stopped_and_resumed_gives_the_same_bits(
    architecture: str, step: int, tmp_path: Path
) -> None:
    case = make_case(architecture)
    whole, history = case()
    with pytest.raises(Stopped):
        case(state_folder=tmp_path, on_step=stop_at(step))
    redone: list[int] = []
    resumed, resumed_history = case(
        state_folder=tmp_path, on_step=lambda done, steps, loss: redone.append(done)
    )
    assert_same_bits(whole, resumed)
    assert_same_history(history, resumed_history)
    assert len(resumed_history) == 3
    whole_epochs = (step - 1) // STEPS_PER_EPOCH if step % STEPS_PER_EPOCH else step // 5 - 1
    first = whole_epochs * STEPS_PER_EPOCH
    assert redone == list(range(first if first else 1, 16)), "at most the current epoch is lost"


def test_stopped_twice(tmp_path: Path) -> None:
    case = make_case("report")
    whole, _ = case()
    for step in (7, 12):
        with pytest.raises(Stopped):
            case(state_folder=tmp_path, on_step=stop_at(step))
    resumed, history = case(state_folder=tmp_path)
    assert_same_bits(whole, resumed)
    assert [record.epoch for record in history] == [1, 2, 3]
    # All done: the same call again changes nothing and trains nothing.
    again, _ = case(state_folder=tmp_path, on_step=lambda done, *_: (done == 15) or 1 / 0)
    assert_same_bits(whole, again)


def select(*, seed: int = 1, nulls: bool = True) -> BestCheckpoints:
    """Two sets to select on."""
    sets = {"test": learnable_images(30, seed=seed), "held-out": learnable_images(20, seed=9)}
    return BestCheckpoints(sets, UniformNulls() if nulls else None)


def within_case(**settings: Any) -> tuple[Classifier, list[Any], BestCheckpoints]:
    """A training with null images within its batches, dropout and selections."""
    model, selections = fresh_model("report"), select()
    recipe = Recipe(batch_size=16, epochs=4, learning_rate=8e-3)  # restless: the best is not last
    config = TrainConfig(recipe, seed=3, replace_rate=0.4)
    nulls = AnyOf({"uniform": UniformNulls(), "mixed": MixedNulls()})
    history = train(model, learnable_images(), config, nulls=nulls, selections=selections,
                    **settings)  # fmt: skip
    return model, history, selections


@pytest.mark.parametrize("step", [7, 13, 20])
def test_a_resumed_training_keeps_the_same_best(step: int, tmp_path: Path) -> None:
    whole, history, selections = within_case()
    with pytest.raises(Stopped):
        within_case(state_folder=tmp_path, on_step=stop_at(step))
    resumed, resumed_history, resumed_selections = within_case(state_folder=tmp_path)
    assert_same_bits(whole, resumed)
    assert_same_history(history, resumed_history)
    assert resumed_selections.best == selections.best
    assert set(selections.weights) == {"test", "held-out"}
    for name, weights in selections.weights.items():
        assert weights.keys() == whole.state_dict().keys()
        for key, value in weights.items():
            assert torch.equal(resumed_selections.weights[name][key], value), (name, key)
        told = [record.selection_losses[name] for record in history]
        loss, epoch = selections.best[name]
        assert (loss, epoch) == (min(told), told.index(min(told)) + 1)


def test_selecting_on_other_images_is_another_training(tmp_path: Path) -> None:
    def run(selections: BestCheckpoints, **settings: Any) -> None:
        train(fresh_model(), learnable_images(), TrainConfig(RECIPE), selections=selections,
              state_folder=tmp_path, **settings)  # fmt: skip

    with pytest.raises(Stopped):
        run(select(), on_step=stop_at(6))
    with pytest.raises(UserError, match="other settings"):
        run(select(seed=2))


def test_looking_at_selections_changes_no_weight() -> None:
    plain, looked = fresh_model("report"), fresh_model("report")
    train(plain, learnable_images(), TrainConfig(RECIPE, replace_rate=0.4), nulls=UniformNulls())
    train(looked, learnable_images(), TrainConfig(RECIPE, replace_rate=0.4), nulls=UniformNulls(),
          selections=select())  # fmt: skip
    assert_same_bits(plain, looked)


def test_where_the_learning_rate_falls_to_zero_only_the_last_epoch_may_be_selected() -> None:
    for schedule, looked in (("triangle", [False, False, True]), ("constant", [True] * 3)):
        selections = select()
        history = train(
            fresh_model(),
            learnable_images(),
            TrainConfig(replace(RECIPE, schedule=schedule)),  # type: ignore[arg-type]
            selections=selections,
        )
        assert [bool(record.selection_losses) for record in history] == looked
        if schedule == "triangle":
            assert {epoch for _, epoch in selections.best.values()} == {3}


@pytest.mark.parametrize("architecture", ["notebook", "report"])
def test_killed_by_the_kernel_and_resumed_gives_the_same_bits(
    architecture: str, tmp_path: Path
) -> None:
    script = Path(__file__).parents[1] / "support" / "kill_me.py"
    killed = subprocess.run(
        [sys.executable, str(script), str(tmp_path), architecture, "8"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / STATE).exists()
    whole, history = make_case(architecture)()
    resumed, resumed_history = make_case(architecture)(state_folder=tmp_path)
    assert_same_bits(whole, resumed)
    assert_same_history(history, resumed_history)


CURVE = NullCurve("linf", (0.1, 0.3), (0.4, 1.0), perturbation="fgsm")

SOFT: dict[str, Callable[[Classifier], NullSource]] = {
    "probabilities": lambda model: NullProbabilities(model, CURVE),
    "probabilities, noise": lambda model: NullProbabilities(model, CURVE, "noise"),
    "ccat": lambda model: CCATNulls(model, 0.2, num_steps=2),
}


@pytest.mark.parametrize("step", [6, 13])
@pytest.mark.parametrize("name", SOFT)
def test_a_training_with_null_in_part_resumes_to_the_same_bits(
    name: str, step: int, tmp_path: Path
) -> None:
    def run(**settings: Any) -> tuple[Classifier, list[Any], BestCheckpoints]:
        model = fresh_model("report")
        source = SOFT[name](model)
        selections = BestCheckpoints({"test": learnable_images(30, seed=1)}, source)
        recipe = replace(RECIPE, schedule="constant")
        history = train(model, learnable_images(), TrainConfig(recipe, 5, null_weight=0.5),
                        nulls=source, selections=selections, **settings)  # fmt: skip
        return model, history, selections

    whole, history, selections = run()
    with pytest.raises(Stopped):
        run(state_folder=tmp_path, on_step=stop_at(step))
    resumed, resumed_history, resumed_selections = run(state_folder=tmp_path)
    assert_same_bits(whole, resumed)
    assert_same_history(history, resumed_history)
    assert resumed_selections.best == selections.best


def test_another_curve_is_another_training(tmp_path: Path) -> None:
    def run(curve: NullCurve, **settings: Any) -> None:
        model = fresh_model()
        train(model, learnable_images(), TrainConfig(RECIPE), nulls=NullProbabilities(model, curve),
              state_folder=tmp_path, **settings)  # fmt: skip

    with pytest.raises(Stopped):
        run(CURVE, on_step=stop_at(6))
    with pytest.raises(UserError, match="other settings"):
        run(replace(CURVE, probabilities=(0.5, 1.0)))
    run(CURVE)


def test_a_plan_with_bfloat16_resumes_to_the_same_bits(tmp_path: Path) -> None:
    case = make_case("notebook", replace(RECIPE, precision="bfloat16"))
    whole, _ = case()
    with pytest.raises(Stopped):
        case(state_folder=tmp_path, on_step=stop_at(12))
    resumed, _ = case(state_folder=tmp_path)
    assert_same_bits(whole, resumed)


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make_case("notebook")(state_folder=tmp_path, on_step=stop_at(6))
    state = (tmp_path / STATE).read_bytes()
    for other in (
        make_case("notebook", seed=6),
        make_case("notebook", replace(RECIPE, epochs=4)),
        make_case("notebook", replace(RECIPE, learning_rate=1e-3)),
        make_case("notebook", has_nulls=False),
        make_case("report"),
        make_case("notebook", replace_rate=0.3),
    ):
        with pytest.raises(UserError, match="belongs to a training with other settings"):
            other(state_folder=tmp_path)
    model = fresh_model()
    nulls = AdversarialNulls(model, 0.2)
    config = TrainConfig(RECIPE, 5, weight_decay=1e-4, null_weight=0.3)
    with pytest.raises(UserError, match="other settings"):
        train(model, learnable_images(), config, nulls=nulls, state_folder=tmp_path)
    assert (tmp_path / STATE).read_bytes() == state


def test_other_images_of_the_same_labels_are_another_training(tmp_path: Path) -> None:
    def run(data: LabelledImages, **settings: Any) -> None:
        train(fresh_model(), data, TrainConfig(RECIPE), state_folder=tmp_path, **settings)

    with pytest.raises(Stopped):
        run(learnable_images(), on_step=stop_at(6))
    with pytest.raises(UserError, match="other settings"):
        run(learnable_images(seed=1))


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_a_damaged_state_is_told(keep: int, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make_case("notebook")(state_folder=tmp_path, on_step=stop_at(6))
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"{STATE}.*remove"):
        make_case("notebook")(state_folder=tmp_path)


def test_the_state_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_case("notebook")(state_folder=tmp_path / "file")


# What must not pass as a result


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    data = learnable_images()

    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(NUM_CLASSES, 64))

        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1) @ self.weight.T * 1e18) ** 3

    model = Classifier(Exploding(), NUM_CLASSES, has_null=False)
    with pytest.raises(UserError, match=r"diverged: the loss is nan.*step 1 of epoch 1; lower"):
        train(model, data, TrainConfig(RECIPE), state_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_huge_learning_rate_is_no_result() -> None:
    model = fresh_model()
    nulls = AdversarialNulls(model, 0.15)
    recipe = Recipe(batch_size=4, epochs=4, learning_rate=9.9)
    with pytest.raises(UserError, match=r"learned nothing|diverged"):
        train(model, learnable_images(80), TrainConfig(recipe), nulls=nulls)


def test_labels_that_say_nothing_are_no_result() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(240, 1, 8, 8, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (240,), generator=generator)
    recipe = Recipe(batch_size=4, epochs=1, learning_rate=1e-3)
    model = fresh_model()
    with pytest.raises(UserError, match=r"learned nothing: its loss is still 1\.1"):
        train(model, LabelledImages(images, labels), TrainConfig(recipe))


def test_labels_beyond_the_model_are_refused() -> None:
    data = learnable_images()
    too_many = LabelledImages(data.images, data.labels + 1, NUM_CLASSES + 1)
    # With null, label K is the index of the null logit: it must not pass for null in silence.
    for has_null in (True, False):
        with pytest.raises(UserError, match="a label 3, but the model has the classes 0 to 2"):
            train(fresh_model(has_null=has_null), too_many, TrainConfig(RECIPE))


def test_null_labels_need_a_null_class() -> None:
    data = learnable_images()
    labels = data.labels.clone()
    labels[0] = -1
    own = LabelledImages(data.images, labels, NUM_CLASSES)
    for model in (fresh_model(has_null=False), twins_model()):  # a twin of which class?
        for config in (
            TrainConfig(RECIPE),
            TrainConfig(RECIPE, uniform_targets=not model.has_null),
        ):
            with pytest.raises(UserError, match="labels of -1 need a model with one null logit"):
                train(model, own, config)


def test_null_images_need_a_null_class() -> None:
    model = fresh_model(has_null=False)
    with pytest.raises(UserError, match="null images need a model with a null class"):
        train(model, learnable_images(), TrainConfig(RECIPE), nulls=AdversarialNulls(model, 0.1))


def twins_model(num_nulls: int = NUM_CLASSES) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build_model("notebook", image_shape=(1, 8, 8), num_classes=NUM_CLASSES,
                           num_nulls=num_nulls, mean=(0.3,), std=(0.3,))  # fmt: skip


def test_null_is_spread_over_the_classes_of_a_model_without_null_and_of_no_other() -> None:
    config = TrainConfig(replace(RECIPE, epochs=1), uniform_targets=True)
    for model in (fresh_model(), twins_model()):
        with pytest.raises(UserError, match="spreads_null is for models without a null class"):
            train(model, learnable_images(), config, nulls=UniformNulls())
    model = fresh_model(has_null=False)
    for source in (UniformNulls(), CCATNulls(model, num_steps=1), AdversarialNulls(model, 0.1)):
        (record,) = train(model, learnable_images(), config, nulls=source)
        assert math.isfinite(record.null_loss)
    # Without null images it says nothing.
    one, other = fresh_model(), fresh_model()
    train(one, learnable_images(), config)
    train(other, learnable_images(), replace(config, uniform_targets=False))
    assert_same_bits(one, other)


def test_null_within_the_batch_is_all_null_and_has_one_logit() -> None:
    config = TrainConfig(replace(RECIPE, epochs=1), replace_rate=0.3)
    model = fresh_model()
    refused: list[tuple[Classifier, NullSource]] = [
        *((model, make(model)) for make in SOFT.values()),
        (model, AnyOf({"uniform": UniformNulls(), "soft": NullProbabilities(model, CURVE)})),
        (twins_model(), UniformNulls()),
    ]
    for of, source in refused:
        with pytest.raises(UserError, match=r"within the batch.*give null_weight instead"):
            train(of, learnable_images(), config, nulls=source)
    spread = replace(config, uniform_targets=True)
    with pytest.raises(UserError, match="within the batch"):
        train(fresh_model(has_null=False), learnable_images(), spread, nulls=UniformNulls())
    train(model, learnable_images(), config, nulls=UniformNulls())


@pytest.mark.parametrize("num_nulls", [NUM_CLASSES - 1, NUM_CLASSES + 1])
def test_null_images_need_a_twin_of_every_class(num_nulls: int) -> None:
    with pytest.raises(UserError, match=rf"one a class \(3\), and the model has {num_nulls}"):
        train(twins_model(num_nulls), learnable_images(), TrainConfig(RECIPE), nulls=UniformNulls())


# What null in part, twins and a spread null come to


LEARNING = Recipe(batch_size=16, epochs=20, learning_rate=3e-3, schedule="triangle")


def test_twins_learn_which_class_a_null_image_was_made_from() -> None:
    model, data = twins_model(), learnable_images(seed=2)
    source = AdversarialNulls(model, 0.12)
    history = train(model, learnable_images(), TrainConfig(LEARNING, null_weight=1.0), nulls=source)
    assert model.predict(data.images).tolist() == data.labels.tolist()
    nulls = source(data.images, data.labels).images
    assert (model.predict(nulls) == -1).float().mean() > 0.95
    with torch.no_grad():
        answers = model.all_logits(nulls).argmax(dim=1)
    assert (answers == NUM_CLASSES + data.labels).float().mean() > 0.95
    assert history[-1].train_accuracy == 1
    assert history[-1].null_loss < 0.1 < history[0].null_loss


def test_a_spread_null_ends_in_no_confidence() -> None:
    model, data = fresh_model(has_null=False), learnable_images(seed=2)
    white = torch.ones(4, 1, 8, 8)

    class White:
        needs_image_gradient = is_soft = False

        def settings(self) -> dict[str, Any]:
            return {}

        def __call__(
            self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
        ) -> NullImages:
            return NullImages(torch.ones_like(images))

    config = TrainConfig(LEARNING, null_weight=1.0, uniform_targets=True)
    history = train(model, learnable_images(), config, nulls=White())
    with torch.no_grad():
        on_white, on_images = (model(x).softmax(dim=1) for x in (white, data.images))
    assert model.predict(data.images).tolist() == data.labels.tolist()
    assert on_white.flatten().tolist() == pytest.approx([1 / 3] * 12, abs=0.05)
    assert on_images.amax(dim=1).min() > 0.9
    assert history[-1].null_loss == pytest.approx(math.log(3), abs=0.01), "its least"


def test_probabilities_of_null_follow_the_curve() -> None:
    """Grey added to all of an image, twice the more of it the more null: no more can be learned."""
    model, data = fresh_model(), learnable_images(seed=2)
    curve = NullCurve("linf", (0.1, 0.3), (0.1, 1.0))

    class Grey:
        measures = ("linf",)
        needs_gradient = False

        def settings(self) -> dict[str, Any]:
            return {}

        def __call__(self, model: Classifier, images: Tensor, labels: Tensor, sizes: Tensor,
                     measure: str, generator: Any, *, gradient: Any) -> Tensor:  # fmt: skip
            return (images + sizes[:, None, None, None]).clamp(0, 1)

    source = NullProbabilities(model, curve, "noise")
    source.perturbation = Grey()
    recipe = replace(LEARNING, epochs=40)
    train(model, learnable_images(), TrainConfig(recipe, null_weight=2.0), nulls=source)
    told = []
    for size in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25):
        sizes = torch.full((len(data),), size)
        images = Grey()(model, data.images, data.labels, sizes, "linf", None, gradient=None)
        with torch.no_grad():
            probabilities = model(images).softmax(dim=1)
        own = probabilities.gather(1, data.labels[:, None])
        told.append(float(probabilities[:, -1].mean()))
        assert told[-1] == pytest.approx(float(curve(size)), abs=0.12)
        assert float((probabilities[:, -1] + own[:, 0]).mean()) > 0.97, "the rest is the label's"
    assert told == sorted(told)


def test_senseless_settings_are_refused() -> None:
    for settings in (
        {"batch_size": 0},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": 1000.0},
        {"learning_rate": float("nan")},
        {"nulls_per_image": 0.0},
        {"nulls_per_image": 1.5},
        {"schedule": "cosine"},
        {"precision": "float16"},
        {"dropout": -0.1},
        {"dropout": 1.5},
        {"dropout": float("nan")},
        {"stem_epochs": 0},
    ):
        with pytest.raises(UserError):
            replace(RECIPE, **settings)
    for weights in ({"weight_decay": -1.0}, {"null_weight": float("nan")},
                    {"null_weight": float("inf")}):  # fmt: skip
        with pytest.raises(UserError, match="finite and not negative"):
            TrainConfig(RECIPE, **weights)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"share of null images must be in \[0, 1\)"):
            TrainConfig(RECIPE, replace_rate=share)
    for seed in (-1, 2**63):
        with pytest.raises(UserError, match="seed must be in"):
            TrainConfig(RECIPE, seed=seed)


# Recipes


def test_the_published_recipes() -> None:
    assert FAITHFUL["notebook"] == Recipe(64, 5, 1e-3, "constant", "float32", 1.0, 1.0)
    assert FAITHFUL["report"] == Recipe(32, 20, 1e-3, "constant", "float32", 1.0, 1.0)
    assert find_recipe("faithful", "notebook") is FAITHFUL["notebook"]
    assert find_recipe("fast", "report") is FAST["report"]
    assert find_recipe("fast", "anything") is FAST["notebook"]
    with pytest.raises(UserError, match="no recipe 'slow': choose fast or faithful"):
        find_recipe("slow", "notebook")
    with pytest.raises(UserError, match="no published recipe for 'own'"):
        find_recipe("faithful", "own")


def test_bfloat16_learns_and_keeps_float32_weights() -> None:
    model, data = fresh_model(), learnable_images(80)
    dtypes = set()
    model.body.output.register_forward_hook(lambda m, a, out: dtypes.add(out.dtype))
    recipe = Recipe(batch_size=16, epochs=8, learning_rate=3e-3, precision="bfloat16")
    history = train(model, data, TrainConfig(recipe), nulls=AdversarialNulls(model, 0.1))
    native = supports_bfloat16(torch.device("cpu"))
    assert dtypes == {torch.bfloat16 if native else torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert history[-1].train_accuracy > 0.9
    assert model(data.images[:1]).dtype == torch.float32

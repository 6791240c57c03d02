"""The training loop: the notebook's protocol, the null images in it, and what trainings learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from training_cases import (
    NUM_CLASSES,
    RECIPE,
    MadeBy,
    fresh_model,
    learnable_images,
)

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier, build_model
from nullclass.models.dropout import Dropout
from nullclass.nulls import (
    AdversarialNulls,
    CCATNulls,
    NullProbabilities,
    NullSource,
    UniformNulls,
)
from nullclass.nulls.perturb import Perturbation
from nullclass.results.null_curve import NullCurve
from nullclass.training.batches import steps_per_epoch
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe

STEPS_PER_EPOCH = 5  # 80 images in batches of 16
CURVE = NullCurve("linf", (0.1, 0.3), (0.4, 1.0), perturbation="fgsm")
LEARNING = Recipe(batch_size=16, epochs=20, learning_rate=3e-3, schedule="triangle")


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

    # Ours: one batch per epoch, so that the order of images does not matter.
    recipe = Recipe(batch_size=64, epochs=num_steps, learning_rate=1e-3)
    config = TrainConfig(recipe, seed=0, weight_decay=weight_decay, null_weight=alpha)
    history = train(model, data, config, nulls=AdversarialNulls(model, std * notebook_eps))

    assert [record.loss for record in history] == pytest.approx(losses, abs=1e-6)
    assert [record.null_loss for record in history] == pytest.approx(null_losses, abs=1e-6)
    for ours, theirs, before in zip(model.parameters(), net.parameters(), first, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
        assert (ours - before).abs().max() > 1e-3, "it moved"


def recorded(model: Classifier) -> list[Tensor]:
    """The images that the network gets from now on (:func:`fresh_model` standardises by 0.3)."""
    images: list[Tensor] = []
    model.body.register_forward_hook(
        lambda module, args, out: images.append(args[0].detach() * 0.3 + 0.3)
    )
    return images


def test_a_step_is_two_forward_passes_not_three() -> None:
    model = fresh_model()
    nulls, images = AdversarialNulls(model, 0.15), recorded(model)
    for fraction, num_nulls in ((1.0, 16), (0.25, 4)):
        images.clear()
        recipe = replace(RECIPE, epochs=1, nulls_per_image=fraction)
        train(model, learnable_images(48), TrainConfig(recipe), nulls=nulls)
        assert [len(batch) for batch in images] == [16, num_nulls] * 3


def test_null_images_are_made_from_the_clean_ones_and_labelled_null() -> None:
    source = MadeBy(needs_image_gradient=True)
    model, data = fresh_model(), learnable_images(32)
    recipe = Recipe(batch_size=16, epochs=30, learning_rate=3e-3)
    train(model, data, TrainConfig(recipe, null_weight=1.0), nulls=source)
    assert model.predict(torch.ones(1, 1, 8, 8)).tolist() == [-1]
    assert model.predict(data.images).tolist() == data.labels.tolist()
    first_epoch = torch.cat([images for images, _, _ in source.calls[:2]])
    order = [(data.images - image).abs().flatten(1).sum(1).argmin() for image in first_epoch]
    assert sorted(map(int, order)) == list(range(32)), "every image once per epoch"
    assert torch.equal(first_epoch, data.images[torch.stack(order)])
    assert all(grad is not None and grad.abs().sum() > 0 for _, _, grad in source.calls[:2])


@pytest.mark.parametrize(
    ("num_images", "sizes"),
    [
        (48, [16, 16, 16]),
        (47, [16, 16, 15]),
        (40, [16, 16, 8]),  # half a batch is enough
        (39, [16, 16]),  # less would be noise
        (7, [7]),  # but something is always trained on
    ],
)
def test_a_last_batch_of_less_than_half_the_size_is_left_out(
    num_images: int, sizes: list[int]
) -> None:
    model = fresh_model(has_null=False)
    images, steps = recorded(model), []
    train(
        model,
        learnable_images(num_images),
        replace(RECIPE, epochs=2),
        on_step=lambda done, total, loss: steps.append((done, total)),
    )
    assert [len(batch) for batch in images] == sizes * 2
    assert steps == [(step, 2 * len(sizes)) for step in range(1, 2 * len(sizes) + 1)]
    assert steps_per_epoch(num_images, 16) == len(sizes)


def test_the_images_left_out_of_an_epoch_are_drawn_anew_in_every_epoch() -> None:
    model, data = fresh_model(has_null=False), learnable_images(35)
    images = recorded(model)
    train(model, data, replace(RECIPE, epochs=30))
    met: set[int] = set()
    for epoch in (torch.cat(images[i : i + 2]) for i in range(0, len(images), 2)):
        found = [int((data.images - image).abs().flatten(1).sum(1).argmin()) for image in epoch]
        assert len(set(found)) == 32
        met |= set(found)
    assert met == set(range(35))


def test_null_images_that_replace_others_keep_the_batch_size_and_are_counted() -> None:
    model, data = fresh_model(), learnable_images(64)
    images = recorded(model)
    recipe = Recipe(batch_size=16, epochs=20, learning_rate=3e-3)
    history = train(model, data, TrainConfig(recipe, replace_rate=0.5), nulls=MadeBy())
    assert [len(batch) for batch in images] == [16] * 80, "one pass per step"
    counts = [int((batch > 0.999).flatten(1).all(dim=1).sum()) for batch in images]
    assert 0.42 < sum(counts) / (16 * 80) < 0.58
    assert len(set(counts)) > 3, "a binomial number, not a fixed one"
    assert model.predict(torch.ones(1, 1, 8, 8)).tolist() == [-1]
    assert model.predict(data.images).tolist() == data.labels.tolist()
    assert history[-1].train_accuracy == 1, "of null images too"
    assert history[-1].null_loss < history[0].null_loss


def test_the_dropout_factor_applies_during_training_only() -> None:
    levels: list[list[int]] = []
    model = fresh_model("report", has_null=False)
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    model.body.register_forward_hook(lambda *_: levels.append([layer.level for layer in layers]))
    train(model, learnable_images(), replace(RECIPE, epochs=1, dropout=0.5))
    assert levels == [[32, 64]] * STEPS_PER_EPOCH
    assert [layer.level for layer in layers] == [64, 128]


def test_the_first_layer_is_frozen_after_its_epochs_and_nothing_else_is() -> None:
    recipe = replace(RECIPE, schedule="constant", stem_epochs=2)
    model = fresh_model("report")
    weights: list[tuple[list[Tensor], Tensor]] = []

    def stem_of(network: Classifier) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in network.body.conv1.parameters()]

    def on_step(done: int, steps: int, loss: float) -> None:
        weights.append((stem_of(model), model.body.conv2.weight.detach().clone()))

    config = TrainConfig(recipe, replace_rate=0.3)
    train(model, learnable_images(), config, nulls="uniform", on_step=on_step)
    for step in range(1, 15):
        (stem, other), (last_stem, last_other) = weights[step], weights[step - 1]
        moved = any(not torch.equal(a, b) for a, b in zip(stem, last_stem, strict=True))
        assert moved is (step < 2 * STEPS_PER_EPOCH), step
        assert not torch.equal(other, last_other)
    assert all(parameter.requires_grad for parameter in model.parameters()), "restored"
    free = fresh_model("report")  # before that, nothing is different
    config = replace(config, recipe=replace(recipe, stem_epochs=None, epochs=2))
    train(free, learnable_images(), config, nulls="uniform")
    for one, other in zip(stem_of(free), weights[-1][0], strict=True):
        assert torch.equal(one, other)


def test_history() -> None:
    model, data = fresh_model(has_null=False), learnable_images(30, seed=1)
    history = train(
        model, learnable_images(80), replace(RECIPE, epochs=8),
        validation=(data.images, data.labels),
    )  # fmt: skip
    assert [record.epoch for record in history] == list(range(1, 9))
    assert history[-1].loss < history[0].loss
    accuracy = (model.predict(data.images) == data.labels).float().mean()
    assert history[-1].validation_accuracy == pytest.approx(float(accuracy))
    assert not model.training


# What must not pass as a result


class Exploding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(NUM_CLASSES + 1, 64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight.T * 1e18) ** 3


@pytest.mark.parametrize("only_null", [False, True])
def test_a_loss_that_is_not_finite_stops(only_null: bool, tmp_path: Any) -> None:
    data, nulls = learnable_images(), None
    model = Classifier(Exploding(), NUM_CLASSES)
    if only_null:
        data = LabelledImages(torch.zeros_like(data.images), data.labels, NUM_CLASSES)
        nulls = MadeBy()
    says = r"null loss nan\)" if only_null else "the loss is nan"
    with pytest.raises(UserError, match=rf"diverged: .*{says}.*step 1 of epoch 1; lower"):
        train(model, data, RECIPE, nulls=nulls, state_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


class ReadOnce:
    """A loader of four batches that can be read once."""

    def __init__(self) -> None:
        images, labels = learnable_images().batch(slice(0, 16))
        self.batches = iter([(images, labels)] * 4)

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        return self.batches


def test_a_loader_that_can_be_read_once_is_refused() -> None:
    with pytest.raises(UserError, match="the loader gives no batch in epoch 2"):
        train(fresh_model(), ReadOnce(), replace(RECIPE, epochs=2))


def test_trainings_that_learn_nothing_are_refused() -> None:
    wild = Recipe(batch_size=4, epochs=4, learning_rate=9.9)
    model = fresh_model()
    with pytest.raises(UserError, match=r"learned nothing|diverged"):
        train(model, learnable_images(80), wild, nulls=AdversarialNulls(model, 0.15))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(240, 1, 8, 8, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (240,), generator=generator)
    with pytest.raises(UserError, match=r"learned nothing: its loss is still 1\.1"):
        train(fresh_model(), (images, labels), Recipe(batch_size=4, epochs=1, learning_rate=1e-3))


SOFT: dict[str, Callable[[Classifier], NullSource]] = {
    "probabilities": lambda model: NullProbabilities(model, CURVE),
    "ccat": lambda model: CCATNulls(model, 0.2, num_steps=2),
}


def test_null_images_and_labels_that_the_model_cannot_learn() -> None:
    def refused(
        says: str, model: Classifier, nulls: Any = None, data: Any = None, **config: Any
    ) -> None:
        data = learnable_images() if data is None else data
        with pytest.raises(UserError, match=says):
            train(model, data, TrainConfig(RECIPE, **config), nulls=nulls)

    images, labels = learnable_images().images, learnable_images().labels
    without, per_class = fresh_model(has_null=False), fresh_model(num_nulls=NUM_CLASSES)
    # With null, label K is the index of the null logit: it must not pass for null in silence.
    for model in (fresh_model(), without):
        refused("a label 3, but the model has the classes 0 to 2", model, data=(images, labels + 1))
    with_null = (images, labels.index_fill(0, torch.tensor([0]), -1))
    for model in (without, per_class):
        refused("labels of -1 need a model with one null logit", model, data=with_null)
    refused("labels of -1 need", without, data=with_null, uniform_targets=True)
    refused("null class: add one by nullclass.with_null_class", without, UniformNulls())
    for model in (fresh_model(), per_class):
        refused(
            "uniform_targets is for models without", model, UniformNulls(), uniform_targets=True
        )
    for num_nulls in (2, 4):
        says = rf"one per class \(3\), and the model has {num_nulls}"
        refused(says, fresh_model(num_nulls=num_nulls), UniformNulls())
    says = "set null_weight instead of replace_rate"
    for make in SOFT.values():
        model = fresh_model()
        refused(says, model, make(model), replace_rate=0.3)
        refused(says, model, [UniformNulls(), make(model)], replace_rate=0.3)
    refused(says, per_class, UniformNulls(), replace_rate=0.3)
    refused(says, without, UniformNulls(), replace_rate=0.3, uniform_targets=True)


# What trainings learn


def test_null_labels_in_the_data_are_trained_as_null() -> None:
    data = learnable_images(40)
    images, labels = data.images.clone(), data.labels.clone()
    images[::4], labels[::4] = 1.0, -1
    model = fresh_model()
    recipe = Recipe(batch_size=20, epochs=25, learning_rate=3e-3)
    history = train(model, (images, labels), recipe)
    assert model.predict(images).tolist() == labels.tolist()
    assert history[-1].train_accuracy == 1
    assert math.isnan(history[-1].null_loss)


def test_a_null_per_class_learns_which_class_a_null_image_was_made_from() -> None:
    model, data = fresh_model(num_nulls=NUM_CLASSES), learnable_images(seed=2)
    source = AdversarialNulls(model, 0.12)
    history = train(model, learnable_images(), TrainConfig(LEARNING, null_weight=1.0), nulls=source)
    assert model.predict(data.images).tolist() == data.labels.tolist()
    nulls = source(data.images, data.labels).images
    assert (model.predict(nulls) == -1).float().mean() > 0.95
    with torch.no_grad():
        outputs = model.all_logits(nulls).argmax(dim=1)
    assert (outputs == NUM_CLASSES + data.labels).float().mean() > 0.95
    assert history[-1].train_accuracy == 1
    assert history[-1].null_loss < 0.1 < history[0].null_loss


def test_uniform_targets_end_in_no_confidence() -> None:
    model, data = fresh_model(has_null=False), learnable_images(seed=2)
    white = torch.ones(4, 1, 8, 8)
    config = TrainConfig(LEARNING, null_weight=1.0, uniform_targets=True)
    history = train(model, learnable_images(), config, nulls=MadeBy())
    with torch.no_grad():
        on_white, on_images = (model(x).softmax(dim=1) for x in (white, data.images))
    assert model.predict(data.images).tolist() == data.labels.tolist()
    assert on_white.flatten().tolist() == pytest.approx([1 / 3] * 12, abs=0.05)
    assert on_images.amax(dim=1).min() > 0.9
    assert history[-1].null_loss == pytest.approx(math.log(3), abs=0.01), "its minimum"


class Brighter(Perturbation):
    """Adds the size to every pixel."""

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    needs_gradient = False

    def settings(self) -> dict[str, Any]:
        return {}

    def perturb(self, images: Tensor, sizes: Tensor, *_: Any) -> Tensor:
        return (images + sizes[:, None, None, None]).clamp(0, 1)


def test_probabilities_of_null_follow_the_curve() -> None:
    """The curve is all that can be learned about uniformly brighter images."""
    model, data = fresh_model(), learnable_images(seed=2)
    curve = NullCurve("linf", (0.1, 0.3), (0.1, 1.0))
    recipe = replace(LEARNING, epochs=40)
    source = NullProbabilities(model, curve, Brighter())
    train(model, learnable_images(), TrainConfig(recipe, null_weight=2.0), nulls=source)
    null_probs = []
    for size in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25):
        with torch.no_grad():
            probabilities = model((data.images + size).clamp(0, 1)).softmax(dim=1)
        of_label = probabilities.gather(1, data.labels[:, None])
        null_probs.append(float(probabilities[:, -1].mean()))
        assert null_probs[-1] == pytest.approx(float(curve(size)), abs=0.12)
        assert float((probabilities[:, -1] + of_label[:, 0]).mean()) > 0.97, "the rest"
    assert null_probs == sorted(null_probs)


def test_gradients_are_clipped_to_their_norm() -> None:
    """With SGD of rate 1 the first step is the gradient itself."""
    steps: dict[float | None, list[Tensor]] = {}
    for largest in (None, 0.01, 1e9):
        model = fresh_model("notebook")
        before = [p.detach().clone() for p in model.parameters()]
        recipe = replace(
            LEARNING, epochs=1, batch_size=80, schedule="constant", max_gradient=largest
        )
        config = TrainConfig(recipe, optimizer=lambda parameters: SGD(parameters, lr=1.0))
        train(model, learnable_images(), config)
        after = [p.detach() for p in model.parameters()]
        steps[largest] = [old - new for old, new in zip(before, after, strict=True)]
    norms = {k: math.sqrt(sum(float(t.square().sum()) for t in v)) for k, v in steps.items()}
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3)
    assert norms[None] > 0.1
    for free, large, small in zip(*(steps[k] for k in (None, 1e9, 0.01)), strict=True):
        assert torch.equal(free, large)
        # the same direction; the weights are rounded
        assert torch.allclose(small, free * (0.01 / norms[None]), atol=1e-6)

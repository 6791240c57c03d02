"""The guard: input of every kind, answers of the model, counters, log, alarm."""

from __future__ import annotations

import io
import json
import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nullclass import Guard
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier, build_model
from nullclass.rejection import ProvableNull, calibrate, reject_by, with_threshold
from nullclass.serving import InvalidInputError, null_band
from nullclass.zoo import load_zoo

SHAPE = (1, 2, 2)


class Brightness(nn.Module):
    """Two classes by the first pixel; null if the last one is above 0.5; NaN if both are 1."""

    def forward(self, images: Tensor) -> Tensor:
        first, last = images.flatten(1)[:, 0], images.flatten(1)[:, -1]
        logits = torch.stack([0.5 - first, first - 0.5, 2 * (last - 0.5)], dim=1)
        return logits.masked_fill(((first == 1) & (last == 1))[:, None], torch.nan)


def model() -> Classifier:
    return Classifier(Brightness(), 2, image_shape=SHAPE)


def image(first: float, last: float) -> list[Any]:
    return [[[first, 0.0], [0.0, last]]]


def test_answers_are_the_models() -> None:
    guard = Guard(model())
    answers = guard.answer([image(0.2, 0.4), image(0.9, 0.1), image(0.2, 1.0), image(1.0, 1.0)])
    assert [answer.label for answer in answers] == [0, 1, -1, -1]
    assert [answer.reason for answer in answers] == [
        None,
        None,
        "null has the largest logit",
        "the logits are not finite",
    ]
    assert answers[3].null_score is None
    assert answers[2].null_score == pytest.approx(1 - 0.3)
    assert guard.counters() == {
        "requests": 1,
        "images": 4,
        "nulls": {"null has the largest logit": 1, "the logits are not finite": 1},
        "invalid": {},
        "alarms": 0,
        "lines_lost": 0,
        "alarm": None,
    }


def test_reasons_name_the_rule() -> None:
    plain = build_model("small", image_shape=(1, 8, 8), num_classes=3, has_null=False)
    images = torch.rand(4, 1, 8, 8)
    rule = Guard(with_threshold(plain, -100.0)).answer(images)
    assert {answer.reason for answer in rule} == {
        "the null score less the threshold, -100, is above 0"
    }
    proof = Guard(ProvableNull(plain, 0.5)).answer(images)
    assert {answer.reason for answer in proof} == {"no class is proved within 0.5 (linf)"}


GOOD: dict[str, Any] = {
    "floats": np.full((3, *SHAPE), 0.25),
    "half": np.full((3, *SHAPE), 0.25, dtype=np.float16),
    "bytes": np.full((3, *SHAPE), 51, dtype=np.uint8),
    "tensor": torch.full((3, *SHAPE), 0.25, requires_grad=True),
    "bfloat16": torch.full((3, *SHAPE), 0.25, dtype=torch.bfloat16),
    "one image": torch.full(SHAPE, 0.25),
    "lists of ints": [[[[0, 0], [0, 0]]]],
    "rounding": torch.full((3, *SHAPE), 1 + 1e-6),
    "not contiguous": np.full((2, 2, 1, 3), 0.25).T,
    "read-only": np.broadcast_to(np.float32(0.25), (3, *SHAPE)),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_input_is_taken(name: str) -> None:
    checked = Guard(model()).check(GOOD[name])
    assert checked.dtype == torch.float32
    assert tuple(checked.shape[1:]) == SHAPE
    assert float(checked.min()) >= 0
    assert float(checked.max()) <= 1
    assert not checked.requires_grad


BAD: dict[str, tuple[Any, str]] = {
    "none": (None, "type"),
    "text": ("image", "type"),
    "bytes": (b"\x00\x01", "type"),
    "number": (3, "type"),
    "mapping": ({"images": 1}, "type"),
    "empty list": ([], "shape"),
    "ragged": ([[[[0.1, 0.2], [0.3]]]], "type"),
    "strings": ([[[["0.1", "0.2"], ["0.3", "0.4"]]]], "type"),
    "booleans": ([[[[True, False], [True, False]]]], "type"),
    "nones": ([[[[None, 0.1], [0.2, 0.3]]]], "type"),
    "huge integer": ([[[[10**400, 0], [0, 0]]]], "type"),
    "self-nested": ([[[[[[[[[[0.1]]]]]]]]]], "shape"),
    "complex": (np.zeros((1, *SHAPE), dtype=complex), "type"),
    "int64 array": (np.zeros((1, *SHAPE), dtype=np.int64), "type"),
    "bool tensor": (torch.zeros(1, *SHAPE, dtype=torch.bool), "type"),
    "objects": (np.array([[object()]]), "type"),
    "dates": (np.zeros((1, *SHAPE), dtype="datetime64[s]"), "type"),
    "big-endian": (np.zeros((1, *SHAPE), dtype=">f4"), "type"),
    "sparse": (torch.zeros(1, *SHAPE).to_sparse(), "type"),
    "meta": (torch.zeros(1, *SHAPE, device="meta"), "type"),
    "too few pixels": (np.zeros((1, 1, 2, 1)), "shape"),
    "channel last": (np.zeros((1, 2, 2, 1)), "shape"),
    "flat": (np.zeros(4), "shape"),
    "scalar": (np.zeros(()), "shape"),
    "five dimensions": (np.zeros((1, 1, *SHAPE)), "shape"),
    "no images": (np.zeros((0, *SHAPE)), "number"),
    "too many": (np.zeros((9, *SHAPE)), "number"),
    "NaN": ([image(float("nan"), 0.0)], "not-finite"),
    "infinite": ([image(0.0, float("inf"))], "not-finite"),
    "negative": ([image(-0.01, 0.0)], "range"),
    "above": ([image(0.0, 255.0)], "range"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_counted(name: str) -> None:
    log = io.StringIO()
    guard = Guard(model(), max_images=8, log=log)
    images, kind = BAD[name]
    with pytest.raises(InvalidInputError) as refused:
        guard.answer(images)
    assert refused.value.kind == kind
    assert guard.counters()["invalid"] == {kind: 1}
    assert guard.counters()["images"] == 0
    line = json.loads(log.getvalue())
    assert (line["event"], line["kind"]) == ("invalid", kind)


def test_an_alarm_goes_off_and_is_logged() -> None:
    log = io.StringIO()
    guard = Guard(model(), band=(0.0, 0.01), mean_images=10_000, log=log)
    assert guard.answer([image(0.2, 0.0)] * 200)
    assert guard.counters()["alarms"] == 0
    guard.answer([image(0.2, 0.9)] * 20)
    counters = guard.counters()
    assert counters["alarms"] == 1
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["answers", "answers", "alarm"]
    assert events[1]["nulls"] == {"null has the largest logit": 20}
    assert events[2]["mean_images_between_false_alarms"] == 10_000


def test_the_band_is_measured_or_that_of_the_threshold() -> None:
    clean = torch.zeros(400, *SHAPE)
    clean[:8, 0, 1, 1] = 1.0
    data = LabelledImages(clean, torch.zeros(400, dtype=torch.int64), 2)
    measured = Guard(model()).calibrate(data).alarm
    assert measured is not None
    assert (measured.low, measured.high) == null_band(8, 400)

    clean[:, 0, 1, 1] = torch.linspace(0, 1, 400)
    threshold = calibrate(model(), LabelledImages(clean, data.labels, 2), 0.05)
    of_threshold = Guard(with_threshold(model(), threshold)).alarm
    assert of_threshold is not None
    assert (of_threshold.low, of_threshold.high) == threshold.band()
    assert of_threshold.low < 0.05 < of_threshold.high


def test_text_in_lists_takes_no_memory_for_every_entry() -> None:
    """As an array of NumPy, this request of 60 kB would take 400 MB."""
    guard = Guard(model())
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="must hold numbers"):
            guard.answer([["x" * 10_000], *[[""]] * 10_000])
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


class FirstPixel(nn.Module):
    """Two classes by the first pixel; NaN if it is 1."""

    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, :1]
        return torch.cat([0.5 - first, first - 0.5], dim=1).masked_fill(first == 1, torch.nan)


@pytest.mark.parametrize("score", ["softmax", "last pixel", "not finite"])
def test_an_image_that_a_detector_refuses_takes_no_other_with_it(score: str) -> None:
    def last(images: Tensor, logits: Tensor) -> Tensor:
        first, last = images.flatten(1)[:, 0], images.flatten(1)[:, -1]
        return last / (first != 1) if score == "not finite" else last - 0.5

    network = Classifier(FirstPixel(), 2, has_null=False, image_shape=SHAPE)
    guard = Guard(reject_by(network, "softmax" if score == "softmax" else last, 0.6))
    answers = guard.answer([image(0.2, 0.4), image(1.0, 0.9), image(0.9, 0.1)])
    assert [answer.label for answer in answers] == [0, -1, 1]
    assert (answers[1].reason, answers[1].null_score) == ("the logits are not finite", None)
    assert (guard.counters()["requests"], guard.counters()["images"]) == (1, 3)


def test_threads_lose_no_count() -> None:
    guard = Guard(model(), band=(0.0, 0.9))

    def work() -> None:
        for _ in range(50):
            guard.answer([image(0.2, 0.0)] * 3)
            with pytest.raises(InvalidInputError):
                guard.answer([])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = guard.counters()
    assert (counters["requests"], counters["images"]) == (400, 600)
    assert counters["invalid"] == {"shape": 200}


def test_models_without_null_or_shape_are_refused() -> None:
    with pytest.raises(UserError, match="never answers null"):
        Guard(build_model("small", image_shape=(1, 8, 8), num_classes=3, has_null=False))
    with pytest.raises(UserError, match="image_shape"):
        Guard(Classifier(Brightness(), 2))


class Known(Classifier):
    """Returns known logits: what is left is the guard's own time."""

    logits: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


@pytest.mark.slow
def test_the_guard_costs_little_beside_the_model() -> None:
    """Seconds of the process for 64 images: the guard's are under 5 % of those of the network."""
    zoo = load_zoo("notebook-null")
    images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    known = Known(nn.Flatten(), 10, image_shape=(1, 28, 28))
    known.logits = zoo(images).detach()
    guard, array = Guard(known, band=(0.0, 0.01)), images.numpy()
    calls = {"network": lambda: zoo.predict(images), "guard": lambda: guard.answer(array)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        for _ in range(30):
            started = time.process_time()
            call()
            seconds[name].append(time.process_time() - started)
    share = np.median(seconds["guard"]) / np.median(seconds["network"])
    print(f"guard: {100 * share:.2f} % of the forward pass")
    assert share < 0.05


def test_a_model_that_fails_costs_its_own_request() -> None:
    class Odd(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) == 2:
                raise RuntimeError("out of memory")
            return torch.zeros(len(images), 3)

    guard = Guard(Classifier(Odd(), 2, image_shape=SHAPE))
    with pytest.raises(
        InvalidInputError, match=r"model failed: RuntimeError: out of memory"
    ) as info:
        guard.answer([image(0, 0)] * 2)
    assert info.value.kind == "model"
    assert len(guard.answer([image(0, 0)])) == 1
    assert guard.counters()["invalid"] == {"model": 1}


def test_a_log_on_a_full_disk_costs_no_answer() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    guard = Guard(model(), log=Full())
    assert [answer.label for answer in guard.answer([image(0.2, 0.4)])] == [0]
    assert guard.counters()["lines_lost"] == 1

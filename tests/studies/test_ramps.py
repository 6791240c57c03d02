"""The page of the study ramps: its cube against slow counting, its page from made-up runs."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fake_run import DATA, rows_table, trial_folder
from fake_study import write_run, write_training, write_trial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec import structs
from page_checks import check_html, check_same_bytes, terminal_lines, text_of
from safetensors.numpy import save_file

from nullclass import report
from nullclass.data import ramps as data
from nullclass.report.blocks import Page, Section, Text
from nullclass.report.render import render
from nullclass.results import schema
from nullclass.studies.ramps.config import RAMPS
from nullclass.studies.ramps.cube import (
    BOX_VOLUME,
    CENTRES,
    CLASS_NAMES,
    HALF_WIDTH,
    NULL,
    exposed_faces,
    face_corners,
    optimal,
    run_lengths,
    shares,
)
from nullclass.studies.ramps.figures import sample_kinds, scene, spaces
from nullclass.studies.ramps.page import best_possible, page
from nullclass.studies.reports import read_run, summary_table, write_report

SIDE = 9
MODELS = ["base", "uniform", "shuffled"]
FIGURES = [
    "fig_ramp_samples",
    "fig_decision_space_optimal",
    "fig_decision_space_baseline",
    "fig_decision_space_uniform",
    "fig_decision_space_shuffled",
    "fig_ramp_training_histories-loss",
    "fig_ramp_training_histories-train_accuracy",
]

small_spaces = st.integers(2, 6).flatmap(
    lambda side: arrays(np.int8, (side,) * 3, elements=st.sampled_from([-1, 0, 1]))
)


def true_class(point: tuple[float, float, float]) -> int:
    for label, centre in CENTRES:
        if all(abs(a - b) <= HALF_WIDTH for a, b in zip(point, centre, strict=True)):
            return label
    return NULL


def cells(side: int) -> Iterator[tuple[int, int, int]]:
    yield from product(range(side), repeat=3)


# The cube


def test_the_boxes_are_those_of_the_data() -> None:
    boxes = {(label, centre) for label, centre in CENTRES}
    assert boxes == {
        (label, (*ramp, 0.0) if place == 0 else (0.0, *ramp))
        for label, ramp in enumerate(data.RAMPS)
        for place in (0, 1)
    }
    assert (HALF_WIDTH, CLASS_NAMES) == (data.NOISE, data.CLASS_NAMES)
    drawn = data.draw_ramps(500, torch.Generator().manual_seed(1))
    points = drawn.images.view(-1, 3).double().numpy().round(6)  # .05 is not exact in float32
    assert [true_class(tuple(point)) for point in points] == drawn.labels.tolist()


@pytest.mark.parametrize("side", [2, 9, 21, 49])
def test_the_optimal_space_point_by_point(side: int) -> None:
    grid = np.linspace(0, 1, side)
    space = optimal(side)
    for cell in cells(side):
        assert space[cell] == true_class((grid[cell[0]], grid[cell[1]], grid[cell[2]]))


def test_the_boxes_volume_by_counting() -> None:
    assert pytest.approx(4 * 0.1 * 0.1 * 0.05) == BOX_VOLUME
    points = np.random.default_rng(0).random((400_000, 3))
    inside = sum(
        (np.abs(points - centre) <= HALF_WIDTH).all(axis=1).mean() for _, centre in CENTRES
    )
    assert inside == pytest.approx(BOX_VOLUME, rel=0.1)


@given(arrays(bool, st.tuples(*[st.integers(1, 4)] * 3)))
def test_exposed_faces_are_those_a_slow_loop_finds(shown: npt.NDArray[np.bool_]) -> None:
    slow = set()
    for cell in product(*map(range, shown.shape)):
        for axis, direction in product(range(3), (-1, 1)):
            beside = list(cell)
            beside[axis] += direction
            is_inside = 0 <= beside[axis] < shown.shape[axis]
            if shown[cell] and not (is_inside and shown[tuple(beside)]):
                slow.add((axis, direction, cell))
    fast = [
        (axis, direction, tuple(cell))
        for axis, direction, found in exposed_faces(shown)
        for cell in found.tolist()
    ]
    assert len(fast) == len(set(fast))
    assert set(fast) == slow


@pytest.mark.parametrize("side", [2, 5, 9])
def test_the_faces_of_a_full_cube_are_its_six_walls(side: int) -> None:
    area = 0.0
    for axis, direction, found in exposed_faces(np.ones((side,) * 3, bool)):
        corners = face_corners(found, axis, direction, side)
        assert (corners[..., axis] == (direction > 0)).all()
        one, other = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
        area += np.linalg.norm(np.cross(one, other), axis=1).sum()
    assert area == pytest.approx(6)


def test_a_face_lies_half_a_step_beside_its_point() -> None:
    corners = face_corners(np.array([[2, 3, 1]]), 1, -1, 5)[0]
    assert corners[:, 1].tolist() == [2.5 / 4] * 4
    assert sorted(map(tuple, corners[:, [0, 2]].tolist())) == sorted(
        product((1.5 / 4, 2.5 / 4), (0.5 / 4, 1.5 / 4))
    )


@given(small_spaces)
def test_shares_are_those_counted_point_by_point(space: npt.NDArray[np.int8]) -> None:
    side = space.shape[0]
    grid = np.linspace(0, 1, side)
    wrong = in_box = right = 0
    for cell in cells(side):
        true = true_class((grid[cell[0]], grid[cell[1]], grid[cell[2]]))
        wrong += space[cell] != NULL and space[cell] != true
        in_box += true != NULL
        right += true != NULL and space[cell] == true
    found = shares(space)
    assert found["down"] + found["up"] + found["null"] == pytest.approx(1)
    assert found["up"] == pytest.approx(np.count_nonzero(space == 1) / side**3)
    assert found["wrong"] == pytest.approx(wrong / side**3)
    if in_box:
        assert found["right"] == pytest.approx(right / in_box)
    else:
        assert math.isnan(found["right"])


# Run lengths


def unpacked(text: str, side: int) -> npt.NDArray[np.int8]:
    answers: list[int] = []
    number = scale = 0
    for byte in base64.b64decode(text):
        number += (byte & 127) << scale
        scale += 7
        if byte < 128:
            answers += [number % 4] * (number // 4)
            number = scale = 0
    space = np.array(answers, np.int8).reshape((side,) * 3)
    return np.where(space == 2, NULL, space).astype(np.int8)


@given(small_spaces)
def test_run_lengths_there_and_back(space: npt.NDArray[np.int8]) -> None:
    assert (unpacked(run_lengths(space), space.shape[0]) == space).all()


def test_run_lengths_of_a_large_space_are_short() -> None:
    space = optimal(49)
    encoded = run_lengths(space)
    assert (unpacked(encoded, 49) == space).all()
    assert len(encoded) < 500
    assert len(run_lengths(np.ones((49,) * 3, np.int8))) == 4


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@settings(max_examples=5)
@given(small_spaces)
def test_the_script_reads_the_same_run_lengths(space: npt.NDArray[np.int8]) -> None:
    script = (Path(report.__file__).parent / "scene.js").read_text(encoding="utf-8")
    (unpack,) = re.findall(r"  function unpack.*?\n  }\n", script, re.DOTALL)
    program = (
        f"const side = {space.shape[0]}; {unpack}"
        f"console.log(JSON.stringify([...unpack('{run_lengths(space)}')]))"
    )
    answers = json.loads(subprocess.check_output(["node", "-e", program]))
    assert answers == np.where(space == NULL, 2, space).ravel().tolist()


# What could be reached at best


def test_four_of_six_orders_of_a_ramp_are_ramps() -> None:
    for _, centre in CENTRES:
        assert sum(true_class(order) != NULL for order in permutations(centre)) == 4
    assert best_possible("shuffled")["train_accuracy"] == pytest.approx(2 / 3)
    assert best_possible("base") == {"loss": 0.0, "train_accuracy": 1.0}


def test_the_best_possible_of_uniform_nulls_by_drawing() -> None:
    rng = np.random.default_rng(0)
    num = 300_000
    # ramps: whose dark pixel is 0 cannot be uniform; others have the box's density
    is_clipped = rng.random(num) < 0.5
    density = 0.25 / (0.1 * 0.1 * 0.1)  # of a ramp in one of four boxes, before clipping
    real = density / (density + 1)
    of_real = np.where(is_clipped, 0.0, -math.log(real))
    points = rng.random((num, 3))
    inside = np.zeros(num, bool)
    for _, centre in CENTRES:
        inside |= (np.abs(points - centre) <= HALF_WIDTH).all(axis=1)
    of_null = np.where(inside, -math.log(1 - real), 0.0)
    best = best_possible("uniform")
    assert best["loss"] == pytest.approx((of_real.mean() + of_null.mean()) / 2, rel=0.1)
    assert best["train_accuracy"] == pytest.approx(1 - inside.mean() / 2, abs=2e-4)


def test_samples_are_what_their_names_say() -> None:
    kinds = sample_kinds(np.random.default_rng(0), 50)
    assert len(kinds) == 6
    for name, images in kinds.items():
        assert images.shape == (50, 3)
        assert ((images >= 0) & (images <= 1)).all()
        found = {true_class(tuple(image)) for image in images.round(12)}
        kind = name.split(",")[0]
        assert kind == "null" or found == {CLASS_NAMES.index(kind)}
    for image in kinds["null, shuffled"].round(12):
        assert any(true_class(order) != NULL for order in permutations(image))


# The page


def write_ramp_run(
    folder: Path,
    seeds: tuple[int, ...] = (0,),
    models: list[str] = MODELS,
    has_results: bool = True,
) -> Path:
    for seed, model in product(seeds, models):
        rng = np.random.default_rng([seed, len(model)])
        variant = model if model in MODELS else "base"
        (trial,) = RAMPS.trials("quick", [seed], [variant])
        trial = replace(trial, training=replace(trial.training, name=model))
        epochs = np.arange(1, 4)
        losses = {"loss": (0.2 + 0.02 * seed) / epochs}
        losses["train_accuracy"] = 0.96 - 0.1 / epochs + 0.01 * seed
        path = trial_folder(folder, model, seed)
        path.mkdir(parents=True)
        history = {"epoch": epochs, **losses} if has_results else {"epoch": []}
        write_training(folder, trial.training, history)
        if has_results:
            space = optimal(SIDE)
            if model != "uniform":
                space[space == NULL] = rng.integers(-1 if model != "base" else 0, 2, 1)[0]
            space[0, 0, : seed + 1] = 0
            save_file({"predictions": space}, path / schema.DECISIONS)
        labels = np.arange(40) % 2
        rows = rows_table(labels, np.where((np.arange(40) == 0) & (model == "uniform"), -1, labels))
        write_trial(path, trial, [rows], [])
    planned = MODELS if models[0] in MODELS else models
    data = structs.replace(DATA, name="ramps", num_training_images=32_000)
    return write_run(folder, RAMPS, planned, len(seeds), seeds=list(seeds), data=data)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_ramp_run(tmp_path_factory.mktemp("ramps"), (0, 1)))


@pytest.mark.slow
def test_the_written_page(two_seeds: Path) -> None:
    check_html(two_seeds, has_script=True)
    check_same_bytes(two_seeds)
    found = {path.name for path in (two_seeds.parent / schema.FIGURES).iterdir()}
    assert found == {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    html = two_seeds.read_text(encoding="utf-8")
    assert html.count("<svg") == len(FIGURES)
    script = html[html.index("<script>") :]
    for banned in ("eval", "fetch", "XMLHttp", "import", "innerHTML", "Function("):
        assert banned not in script
    page = Page("Title", "subtitle", [], [Section("One", [Text("words")])])
    assert "<script" not in render(page)


def test_the_scene_has_the_spaces_of_the_first_seed(two_seeds: Path) -> None:
    run = read_run(two_seeds.parent)
    drawn = scene(run)
    assert [name for name, _ in drawn.spaces] == ["optimal", *MODELS]
    assert drawn.side == SIDE
    html = two_seeds.read_text(encoding="utf-8")
    for name, text in drawn.spaces:
        assert f'<option value="{text}">{name}</option>' in html
        assert (unpacked(text, SIDE) == spaces(run)[name]).all()
    assert (spaces(run)["uniform"][0, 0] == 0).sum() == 1  # seed 1 has two such points
    assert "Models of seed 0." in html
    assert 'aria-label="A cube of all images' in html


def test_tables_and_findings_over_seeds(two_seeds: Path) -> None:
    text = text_of(two_seeds.read_text(encoding="utf-8"))
    num = SIDE**3
    values = [(seed + 1) / num for seed in (0, 1)]  # a class outside its boxes, by uniform
    mean, sd = 100 * np.mean(values), 100 * np.std(values, ddof=1)
    boxes = 100 * 2 / num
    assert (
        f"uniform {boxes + mean:.2f} ± {sd:.2f} {boxes:.2f} ± 0.00 "
        f"{100 - 2 * boxes - mean:.2f} ± {sd:.2f} {mean:.2f} ± {sd:.2f} 100.00 ± 0.00"
    ) in text
    # accuracy .9267 and .9367: 2 sd are 1.41 points, 94.3 is 1.13 away
    assert "93.17 ± 0.71 pub. near 94.3 ✓ 99.90 0.0700 ± 0.0047 pub. near 0.168 ✗ 0.0065" in text
    assert "uniform 97.50 ± 0.00 2.50 ± 0.00 0.00 ± 0.00" in text
    assert "at least 97.50 ± 0.00 % (n = 40 per seed) of the test ramps correctly" in text
    assert "2 seeds (0–1)" in text
    assert f"uniform {2 * boxes + mean:.2f} ± {sd:.2f} % (n = 729 per seed)" in text
    assert "ours at 93.17 ± 0.71 % (n = 32,000 per seed) and" in text
    assert "no model can be correct on more than 66.7 %" in text


def test_tables_on_the_terminal(two_seeds: Path) -> None:
    text = " ".join(" ".join(terminal_lines(summary_table(read_run(two_seeds.parent)))).split())
    assert "Shares of the cube" in text
    assert "The end of training" in text


@pytest.mark.slow
def test_a_run_with_one_variant_or_a_hostile_name_has_a_page(tmp_path: Path) -> None:
    write_ramp_run(tmp_path / "a", (3,), ["uniform"])
    text = text_of(render(page(read_run(tmp_path / "a"))))
    assert "not finished: 2 of 3 evaluations are missing, all of base, shuffled." in text
    assert "Models of seed 3." in text
    name = '"><b>x'
    write_ramp_run(tmp_path / "b", models=[name])
    html = render(page(read_run(tmp_path / "b")))
    assert "<b>x" not in html
    assert "&lt;b&gt;x</option>" in html


def test_a_run_without_decisions_or_histories_has_a_page(tmp_path: Path) -> None:
    write_ramp_run(tmp_path, has_results=False)
    drawn = page(read_run(tmp_path))
    text = text_of(render(drawn))
    assert "base – – – – –" in text
    assert "The end of training" not in text
    files = {panel.file for panel in drawn.panels()}
    assert files == {"fig_ramp_samples", "fig_decision_space_optimal"}

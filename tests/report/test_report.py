"""The page: self-contained, the same every time, escaped, and never written half."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_run import MODELS, with_files, write_fake_run

from nullclass.core.errors import UserError
from nullclass.report.common import flat
from nullclass.report.measures import Measures
from nullclass.report.pictures import LARGEST_SIDE
from nullclass.results import schema, store
from nullclass.results.store import Run, read_run
from nullclass.studies.fgsm_null.figures import FIGURES
from nullclass.studies.write_report import PAGES, summary_table, write_report


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    return write_fake_run(folder, 1, num_images=60, num_attacked=40)


@pytest.fixture(scope="module")
def five_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("five")
    return write_fake_run(folder, 5, num_images=60, num_attacked=40, num_epochs=5)


@pytest.fixture(scope="module")
def no_null(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("none")
    return write_fake_run(
        folder, 1, models=["clean-wd"], num_images=60, num_attacked=40, study="evaluate"
    )


@pytest.fixture(scope="module")
def pages(one_seed: Path, five_seeds: Path, no_null: Path) -> dict[str, Path]:
    folders = {"one_seed": one_seed, "five_seeds": five_seeds, "no_null": no_null}
    return {name: write_report(folder) for name, folder in folders.items()}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_fake_run(tmp_path, 1, models=MODELS[:2], num_images=30, num_attacked=20)


def changed_info(folder: Path, **changes: object) -> None:
    path = folder / schema.RUN
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("folder", ["one_seed", "five_seeds", "no_null"])
def test_every_figure_draws_any_run(name: str, folder: str, request: pytest.FixtureRequest) -> None:
    run = read_run(request.getfixturevalue(folder))
    drawing = FIGURES[name](run)
    assert drawing is not None
    assert drawing.panels
    assert "seed" in drawing.caption
    for panel in drawing.panels:
        assert "<svg" in panel.html or "<img" in panel.html
        assert "nan" not in re.sub(r"base64,[^\"]*", "", panel.html).lower()
        assert "mathdefault" not in panel.html


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_anything_to_show_is_left_out(name: str, no_null: Path) -> None:
    run = read_run(no_null)
    bare = Run(
        run.folder,
        {"study": "evaluate"},
        run.summary[run.summary["attack"] == "none"],
        [
            with_files(
                trial,
                rows=trial.rows[trial.rows["attack"] == "none"],
                history=pd.DataFrame(),
                examples=[],
            )
            for trial in run.trials
        ],
    )
    drawing = FIGURES[name](bare)
    assert (drawing is not None) == (name == "outcomes")  # the clean outcomes are always there
    assert PAGES["evaluate"](bare).findings


@pytest.mark.parametrize("folder", ["one_seed", "five_seeds", "no_null"])
def test_the_page_needs_nothing_from_outside(folder: str, pages: dict[str, Path]) -> None:
    path = pages[folder]
    html = path.read_text(encoding="utf-8")
    assert path.name == "report.html"
    assert path.stat().st_size < 3_000_000
    outside = re.findall(
        r'(?<!xmlns=")(?<!xmlns:xlink=")\b(?:https?:|//)[\w./-]+', without_data(html)
    )
    assert outside == []
    for reference in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert reference.startswith(("#", "data:image/png;base64,"))
    assert "<script" not in html
    assert "@import" not in html
    for anchor in re.findall(r'href="#([^"]*)"', html):
        assert f'id="{anchor}"' in html


def without_data(html: str) -> str:
    return re.sub(r"data:image/png;base64,[^\"]*", "", html)


def test_the_same_run_gives_the_same_bytes_without_torch(pages: dict[str, Path]) -> None:
    first = pages["one_seed"].read_bytes()
    script = (
        "import sys, pathlib\n"
        "from nullclass.studies.write_report import write_report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib; matplotlib.rcParams['lines.linewidth'] = 9\n"
        "write_report(pathlib.Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    folder = pages["one_seed"].parent
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    assert (folder / schema.REPORT).read_bytes() == first


def test_text_from_a_run_is_escaped(tmp_path: Path) -> None:
    name = "<script>a&b"
    write_fake_run(tmp_path, 1, models=[name.replace("/", "")], num_images=30, num_attacked=20)
    changed_info(tmp_path, machine={"processor": "</style><script>alert(1)</script>"})
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;a&amp;b" in html


def test_five_seeds_say_so_and_one_seed_says_what_it_cannot_know(pages: dict[str, Path]) -> None:
    one, five = (pages[name].read_text(encoding="utf-8") for name in ("one_seed", "five_seeds"))
    assert "1 seed (0)" in one
    assert "how much training varies is unknown" in one
    assert "5 seeds (0–4)" in five
    assert "standard deviation" in five


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing", "scrambled"])
@pytest.mark.parametrize("name", ["run.json", "trials/null-0.5-seed0/rows.csv.gz"])
def test_damage_is_told_in_a_sentence_and_the_old_report_stays(
    name: str, damage: str, run_folder: Path
) -> None:
    report = run_folder / schema.REPORT
    report.write_text("old")
    path = run_folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif damage == "scrambled":
        path.write_bytes(content[:200] + b"\x00\xff\x81" * 40 + content[320:])
    else:
        path.write_bytes(b"" if damage == "empty" else b"\x80\x81 nothing of the kind")
    with pytest.raises(UserError) as told:
        write_report(run_folder)
    message = str(told.value)
    assert str(run_folder) in message
    assert "\n" not in message.strip()
    assert report.read_text() == "old"
    assert [p.name for p in run_folder.iterdir() if p.name.startswith(".")] == []


def test_impossible_numbers_are_refused(run_folder: Path) -> None:
    path = run_folder / schema.SUMMARY
    good = pd.read_csv(path, keep_default_na=False)
    for column, value in [("value", 1.5), ("value", "many"), ("eps_pixels", "wide"), ("seed", "x")]:
        bad = good.astype(object)
        bad.loc[0, column] = value
        bad.to_csv(path, index=False)
        with pytest.raises(UserError, match=r"summary\.csv is damaged"):
            Measures(store.read_run(run_folder))
    good.drop(columns="metric").to_csv(path, index=False)
    with pytest.raises(UserError, match="lacks the column 'metric'"):
        Measures(store.read_run(run_folder))


def test_a_report_is_drawn_from_the_rows_alone(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    summary = (run_folder / schema.SUMMARY).read_bytes()
    (run_folder / schema.SUMMARY).write_text("stale")
    assert write_report(run_folder).read_bytes() == first
    assert (run_folder / schema.SUMMARY).read_bytes() == summary
    for rows in run_folder.glob("trials/*/rows.csv.gz"):
        rows.unlink()
    with pytest.raises(UserError, match="is damaged"):
        write_report(run_folder)
    for result in run_folder.glob("trials/*/result.json"):
        result.unlink()
    with pytest.raises(UserError, match="no results yet"):
        write_report(run_folder)


def test_unknown_studies_and_missing_folders_are_told(run_folder: Path, tmp_path: Path) -> None:
    changed_info(run_folder, study="astrology")
    with pytest.raises(UserError, match="astrology"):
        write_report(run_folder)
    with pytest.raises(UserError, match="there is no run folder"):
        write_report(tmp_path / "nowhere")


def test_a_run_that_says_little_of_itself_still_has_a_page(run_folder: Path) -> None:
    path = run_folder / schema.RUN
    path.write_text(json.dumps({"study": "fgsm-null"}))
    html = write_report(run_folder).read_text(encoding="utf-8")
    assert "0.154 px" in html  # the unit is the study's own


def test_an_unfinished_run_says_so(run_folder: Path) -> None:
    changed_info(run_folder, models=[*MODELS[:2], "null-9"])
    html = write_report(run_folder).read_text(encoding="utf-8")
    assert "not finished: nothing yet of null-9." in html


def test_notes_of_the_study_are_shown(run_folder: Path) -> None:
    changed_info(run_folder, notes=["Two epochs too few."])
    assert "Two epochs too few." in write_report(run_folder).read_text(encoding="utf-8")


def test_large_colour_images_are_shrunk(run_folder: Path) -> None:
    run = read_run(run_folder)
    trial = run.trials[0]
    example = trial.examples[0]
    big = example.clean.repeat(20, axis=2).repeat(20, axis=3).repeat(3, axis=1)
    trial = with_files(trial, examples=[replace(example, clean=big, attacked=big)])
    drawing = FIGURES["gallery"](replace(run, trials=[trial]))
    assert drawing is not None
    assert f"averaged down to {LARGEST_SIDE}" in drawing.caption
    assert len(drawing.panels[0].html) < 100_000


@pytest.mark.parametrize("folder", ["one_seed", "five_seeds", "no_null"])
def test_the_terminal_table(folder: str, request: pytest.FixtureRequest) -> None:
    from rich.console import Console

    run = read_run(request.getfixturevalue(folder))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(run))
    text = console.export_text()
    assert "clean-wd" in text
    assert "0.154" in text
    assert all(name in text for name in ("AER", "RAR", "strict", "null-DoS"))
    assert "…" not in text  # nothing is cut off
    assert ("published" in text) == (folder != "no_null")


def test_settings_are_flattened_by_name() -> None:
    told = {"recipe": {"epochs": 1, "schedule": None}, "attacks": [{"eps": [0.1, 3.0]}], "on": True}
    assert flat(told) == [
        ("recipe.epochs", "1"),
        ("recipe.schedule", "–"),
        ("attacks.1.eps", "0.1, 3"),
        ("on", "yes"),
    ]

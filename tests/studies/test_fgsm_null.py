"""The study fgsm-null: tables against a run small enough to count by hand, and its page."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_evaluation import FLAGS
from fake_fgsm import MODELS, write_fake_fgsm
from fake_run import PROVENANCE, run_info, with_files
from fake_study import group
from msgspec import structs
from page_checks import check_blocks, check_html, check_same_bytes, row, terminal_lines, text_of

from nullclass.cli.main import main
from nullclass.core.errors import UserError
from nullclass.metrics.rates import summarise, wilson
from nullclass.report.blocks import Cell, Page
from nullclass.report.evaluation_page import findings as evaluation_findings
from nullclass.report.figures.gallery import gallery
from nullclass.report.formatting import (
    attack_name,
    eps_text,
    loss_text,
    percent,
    rate_text,
    value_cell,
)
from nullclass.report.measures import Measure, Measures, differ
from nullclass.report.pictures import LARGEST_SIDE
from nullclass.report.render import render, write_page
from nullclass.report.sections import fill, flat
from nullclass.report.tables import outcome_table, white_box_table
from nullclass.results import schema
from nullclass.results.info import ThreatModel, TrialResult
from nullclass.results.run import Run, Trial
from nullclass.results.schema import CLEAN
from nullclass.results.store import read_info, write_info
from nullclass.studies.fgsm_null import loop
from nullclass.studies.fgsm_null.config import PUBLISHED_CLEAN, PUBLISHED_FGSM, pixels
from nullclass.studies.fgsm_null.figures import FIGURES
from nullclass.studies.fgsm_null.page import SENTENCES, numbers
from nullclass.studies.fgsm_null.page import page as draw_page
from nullclass.studies.fgsm_null.tables import (
    better_text,
    clean_table,
    compared,
    fgsm_table,
    published_table,
    reproduced,
    undetected,
    undetected_table,
)
from nullclass.studies.reports import read_run, summary_table, write_report

ROOT = Path(__file__).resolve().parents[2]
HALF = 0.15405
"""The notebook's 0.5 in pixel units."""

# outcomes of five images: clean, FGSM at the notebook's 0.5, the worst case at 0.154
SEEDS = {
    0: ("ccccf", "nnncf", "ffncf"),
    1: ("cccff", "nnffc", "fnccf"),
}
WORD = {"c": "correct", "n": "null", "f": "fooled"}
PLANS = [(CLEAN, CLEAN, 0.0), ("fgsm", "untargeted", HALF), ("worst-case", "fool", 0.154)]


def rows_of(seed: int) -> pd.DataFrame:
    tables = [
        group(attack, eps, np.array([WORD[x] for x in letters]), objective=goal, loss=0.5 + seed)
        for letters, (attack, goal, eps) in zip(SEEDS[seed], PLANS, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def tiny_run(seeds: tuple[int, ...], published: float | None = None) -> Run:
    trials = []
    for seed in seeds:
        rows = rows_of(seed)
        threat = ThreatModel(norm="linf", num_classes=10)
        result = TrialResult(model="null-0.5", seed=seed, threat=threat, provenance=PROVENANCE)
        files = {"rows": rows, "summary": summarise(rows), "history": pd.DataFrame()}
        trials.append(with_files(Trial(Path("run"), result), **files, examples=[]))
    values = {"study": "fgsm-null", "models": ["null-0.5"], "seeds": [*seeds]}

    def published_rate(model: str, attack: str, eps: float, metric: str) -> float | None:
        return published if (attack, metric) == ("fgsm", "null_rate") else None

    return Run(Path("run"), run_info(Path("run"), **values), trials, published_rate)


@pytest.fixture
def made_up_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook's loop over two seeds: null rates of 50 and 60 %, and losses."""
    key = "null-0.5", "fgsm"
    figures = {
        (*key, "null_rate", HALF): (0.5, 0.6),
        (*key, "null_loss", HALF): (0.05, 0.05),
    }
    monkeypatch.setattr(loop, "_figures", lambda: figures)


# Tables


@pytest.mark.usefixtures("made_up_loop")
def test_tables_of_two_seeds() -> None:
    run = tiny_run((0, 1), published=0.75)
    measures = loop.measures_of(run)
    clean = row(clean_table(measures), "null-0.5")
    # 4/5 and 3/5 correct: mean 70 %, sd sqrt(2) * 10 points; losses 0.5 and 1.5
    assert (clean[1].text, clean[1].small) == ("70.00", "± 14.14")
    assert clean[2].text == "100.00"
    assert (clean[3].text, clean[3].small) == ("1.0000", "± 0.7071")
    # null rates 3/5 and 2/5: mean 50 %, sd 14.14 points
    table = fgsm_table(measures, "null")
    assert (table.columns[1].text, table.columns[1].small) == ("ε 0.5", "0.154 px")
    cell = Cell("50.00", "± 14.14", "75.00, loop 55.00 ± 7.07", "within")
    assert row(table, "null-0.5")[1] == cell
    rows = [[cell.text for cell in line] for line in published_table(measures).rows]
    figure = ["null-0.5", "null rate at ε 0.5", "50.00 ± 14.14", "75.00", "55.00±7.07", "✓"]
    assert rows == [figure]
    # The union at 0.154: the worst case, and what is fooled when clean; FGSM's ε is larger.
    # Seed 0: fooled 0, 1, 4; correct and never fooled 2, 3. Seed 1: fooled 0, 3, 4; correct 1, 2.
    aer = row(white_box_table(measures, "aer"), "null-0.5")
    assert (aer[1].text, aer[1].small) == ("60.00", "± 0.00")
    rar = row(white_box_table(measures, "rar"), "null-0.5")
    assert [cell.text for cell in rar] == ["null-0.5", "70.00", "0.00", "30.00", "40.00"]
    counts = undetected(run)
    # seed 0: image 4, wrong when clean; seed 1: images 2 and 3, of which 2 is correct when clean
    columns = ["num_images", "num_fooled", "num_turned"]
    assert counts[columns].to_numpy().tolist() == [[10, 3, 1]]
    assert row(undetected_table(measures, counts), "null-0.5")[1] == Cell("3", "1 turned")


def test_tables_of_one_seed() -> None:
    measures = Measures(tiny_run((0,)))
    cells = row(clean_table(measures), "null-0.5")
    low, high = wilson(4, 5)
    assert (cells[1].text, cells[1].small) == ("80.00", f"{100 * low:.2f} to {100 * high:.2f}")
    assert (cells[3].text, cells[3].small) == ("0.5000", "")
    assert [
        [cell.text for cell in cells] for cells in outcome_table(measures, "null-0.5").rows
    ] == [
        ["clean", "80.00", "0.00", "20.00", "5"],
        ["FGSM, ε 0.154", "20.00", "60.00", "20.00", "5"],
        ["worst-case ensemble, ε 0.154", "20.00", "20.00", "60.00", "5"],
    ]
    assert measures.find("null-0.5", "fgsm", "null", 0.5 * 0.3081) is not None
    assert measures.find("null-0.5", "fgsm", "null", 0.154) is None  # another budget


# Sentences


@pytest.mark.usefixtures("made_up_loop")
def test_findings_have_these_numbers() -> None:
    run = tiny_run((0, 1), published=0.75)
    text = " ".join(fill(SENTENCES, numbers(loop.measures_of(run), undetected(run))))
    assert (
        "null-0.5 answers null to 50.00 ± 14.14 % (n = 5 per seed) of them at ε 0.154 (0.5" in text
    )
    assert "At the same ε a null-aware attacker fools null-0.5 on 60.00 ± 0.00 % (n = 5" in text
    assert "an AER of 60.0 % (null-0.5) and" in text
    assert "(RAR) of 40.0 % (null-0.5), on 5 images each." in text
    assert "1 of 1 published rates are reproduced, judged by the notebook's own loop" in text
    assert "this does not hold" in text
    assert "turns 10.00 % (1.79 – 40.42, n = 10) of the images" in text
    one = tiny_run((0,))  # the only FGSM image that is fooled is wrong when clean too
    text = " ".join(fill(SENTENCES, numbers(Measures(one), undetected(one))))
    assert "this is open" in text  # 0 of 5: up to 43 %
    text = " ".join(evaluation_findings(Measures(run), "null-0.5"))
    assert "null-0.5 answers 70.00 ± 14.14 % (n = 5 per seed) correctly" in text
    assert "it is fooled, when clean or by an attack, on 60.00 ± 0.00 %" in text


@pytest.mark.parametrize(
    ("num_turned", "finding"),
    [(69, "this holds"), (95, "this is open"), (131, "this does not hold")],  # of 10,000
)
def test_the_conclusion_of_the_notebook_is_judged_by_the_interval(
    num_turned: int, finding: str
) -> None:
    run = tiny_run((0,))
    counts = undetected(run).head(1).assign(num_images=10_000, num_turned=num_turned)
    text = " ".join(fill(SENTENCES, numbers(Measures(run), counts)))
    assert finding in text


@pytest.mark.parametrize(
    ("clean", "num_images", "is_compared"),
    [
        ((0.5, 0.6), 1000, True),
        ((0.35, 0.5), 1000, False),  # seeds overlap
        ((0.5, 0.6), 20, False),  # means 35 and 55 %: 18 to 57 and 34 to 74 % of 20 images
    ],
)
def test_models_are_compared_only_where_intervals_are_disjoint(
    clean: tuple[float, ...], num_images: int, is_compared: bool
) -> None:
    run = tiny_run((0, 1))
    run.summary["num_images"] = num_images
    of_clean = run.summary[run.summary["metric"] != "null_loss"].assign(model="clean-wd")
    is_aer = run.summary["metric"] == "aer"
    assert len(clean) == is_aer.sum()
    summary = run.summary.copy()
    summary.loc[is_aer, "value"] = [0.3, 0.4]
    of_clean.loc[of_clean["metric"] == "aer", "value"] = clean
    of_clean.loc[of_clean["metric"] == "null_rate", "value"] = 0.0
    both = with_files(run, summary=pd.concat([summary, of_clean]))
    text = " ".join(fill(SENTENCES, numbers(Measures(both), undetected(both))))
    assert ("a lower AER than clean-wd" in text) == is_compared
    assert "a higher" not in text


def measure(values: tuple[float, ...], published: float | None, metric: str = "null") -> Measure:
    return Measure("m", "fgsm", metric, values, published=published, eps=0.1, num_images=100)


@pytest.mark.parametrize(
    ("values", "published", "metric", "verdict"),
    [
        ((0.90, 0.92), 0.9382, "null", "within"),  # mean 0.91, 2 sd = 0.02828
        ((0.90, 0.92), 0.9383, "null", "outside"),
        ((0.90, 0.90), 0.903, "null", "within"),  # sd 0: 0.3 points
        ((0.90, 0.90), 0.9031, "null", "outside"),
        ((0.90,), 0.897, "null", "within"),  # one seed: 0.3 points
        ((0.90,), 0.8969, "null", "outside"),
        ((0.90,), None, "null", ""),
        ((0.05,), 0.05, "loss", ""),  # one seed: no verdict on a loss
        ((0.05, 0.07), 0.088, "loss", "within"),  # mean 0.06, 2 sd = 0.02828
        ((0.05, 0.07), 0.089, "loss", "outside"),
        ((1e-7, 2e-7), 0.0, "null_loss", "within"),
    ],
)
def test_when_a_value_is_reproduced(
    values: tuple[float, ...], published: float | None, metric: str, verdict: str
) -> None:
    assert measure(values, published, metric).verdict == verdict


@pytest.mark.usefixtures("made_up_loop")
@pytest.mark.parametrize(
    ("values", "metric", "verdict"),
    [
        ((0.692,), "null_rate", "outside"),  # mean 0.55, 2 sd = 0.14142
        ((0.691,), "null_rate", "within"),
        ((0.308, 0.510), "null_rate", "within"),  # our mean counts, not our spread
        ((0.306, 0.510), "null_rate", "outside"),
        ((0.0529,), "null_loss", "within"),  # the loop does not vary: 0.003
        ((0.0531,), "null_loss", "outside"),
    ],
)
def test_the_loop_decides(values: tuple[float, ...], metric: str, verdict: str) -> None:
    ours = Measure("null-0.5", "fgsm", metric, values, eps=HALF, rule=loop.loop_spread)
    assert ours.verdict == verdict
    assert not replace(ours, eps=0.1, published=values[0]).verdict  # the loop does not have it


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.904, " (1 clean accuracy is better)"), (0.9, ""), (0.896, "")],  # reproduced; worse
)
def test_a_better_accuracy_is_named(
    value: float, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {("null-0.5", CLEAN, "correct_rate", 0.0): (0.9, 0.9)}
    monkeypatch.setattr(loop, "_figures", lambda: figures)
    ours = Measure("null-0.5", CLEAN, "correct_rate", (value,), rule=loop.loop_spread)
    assert better_text([ours]) == text


def test_the_loop_has_the_published_figures() -> None:
    with (ROOT / "results" / "notebook-loop.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for model, seed in {(line["model"], line["seed"]) for line in rows}:
        own = [line for line in rows if (line["model"], line["seed"]) == (model, seed)]
        values = {(line["metric"], float(line["eps"])): float(line["value"]) for line in own}
        metrics = [name if name == "loss" else f"{name}_rate" for name in PUBLISHED_CLEAN[model]]
        budgets = PUBLISHED_FGSM.get(model, {})
        wanted = {(metric, 0.0) for metric in metrics}
        wanted |= {(metric, eps) for eps in budgets for metric in ("null_rate", "null_loss")}
        assert len(own) == len(values)
        assert values.keys() == wanted
        for (metric, eps), value in values.items():
            attack = "fgsm" if eps else CLEAN
            figure = loop.loop_figure(Measure(model, attack, metric, (0.0,), eps=pixels(eps)))
            assert figure is not None
            assert value in figure.values


def test_how_numbers_are_written() -> None:
    assert percent(0.98755) in ("98.75", "98.76")
    losses = [loss_text(x) for x in (0.0, 2e-7, 0.03771, 17.07276)]
    assert losses == ["0.0000", "<0.0001", "0.0377", "17.07"]
    assert [eps_text(x) for x in (0.15405, 0.000308, 0.9243)] == ["0.154", "0.000308", "0.924"]
    assert value_cell(None) == Cell("–")
    assert rate_text(measure((0.5,), None)) == "50.00 % (n = 100)"
    assert rate_text(measure((0.5, 0.5), None), has_n=False) == "50.00 ± 0.00 %"
    assert attack_name("fgsm-1.5-thresholds") == "FGSM at 1.5 thresholds"
    assert attack_name("worst-case-threshold") == "worst-case ensemble at threshold"
    assert attack_name("another") == "another"
    assert differ(measure((0.1, 0.2), None), measure((0.4, 0.5), None))
    assert not differ(measure((0.1, 0.3), None), measure((0.3, 0.4), None))
    # seeds apart, but means of 15 and 28 % of 100 images: 9 to 23 and 20 to 37 %
    assert not differ(measure((0.15, 0.15), None), measure((0.28, 0.28), None))
    within, judged = reproduced(compared(Measures(tiny_run((0, 1), published=0.0))), are_rates=True)
    assert (within, judged) == (0, 1)
    settings = {"recipe": {"epochs": 1, "schedule": None}, "attacks": [{"eps": [0.1, 3.0]}]}
    assert flat(settings) == [
        ("recipe.epochs", "1"),
        ("recipe.schedule", "–"),
        ("attacks.1.eps", "0.1, 3"),
    ]


# The page


@pytest.fixture(scope="module", params=[1, 2], ids=["one seed", "two seeds"])
def drawn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Page]:
    num_seeds, folder = request.param, tmp_path_factory.mktemp("fgsm")
    flags = FLAGS if num_seeds > 1 else ()
    write_fake_fgsm(folder, num_seeds, models=MODELS[:2], num_epochs=num_seeds, flags=flags)
    page = draw_page(read_run(folder))
    write_page(folder, page)
    return folder, page


@pytest.mark.slow
def test_the_written_page(drawn: tuple[Path, Page]) -> None:
    folder, page = drawn
    check_blocks(page)
    check_html(folder / schema.REPORT)
    text = text_of((folder / schema.REPORT).read_text(encoding="utf-8"))
    if "preset full" not in text:
        assert "1 seed (0)" in text
        assert "its own code, run again" in text
        assert "Red flags" not in text
        check_same_bytes(folder / schema.REPORT)
    else:
        assert "2 seeds (0–1)" in text
        assert "pub. 98.71 to 98.80" in text  # two runs of the notebook
        assert "pub. 0.0474 to 0.0481" in text
        assert text.count("zero-gradients clean-wd, seed 0 and 1 more evaluation ") == 1
        assert "4 of 4 evaluations were checked" in text
    titles = [getattr(block, "title", "") for block in page.blocks()]
    assert {"Outcomes against ε", "Security curves", "Gallery", "Training"} <= set(titles)


def test_the_terminal_tables(drawn: tuple[Path, Page]) -> None:
    text = "".join(terminal_lines(summary_table(read_run(drawn[0]))))
    for word in ("clean-wd", "0.154", "AER", "RAR", "strict", "null-DoS", "published"):
        assert word in text


def test_figures_without_data_are_left_out(run_folder: Path) -> None:
    run = read_run(run_folder)
    is_clean = run.summary["attack"] == CLEAN
    trials = [
        with_files(
            trial,
            rows=trial.rows[trial.rows["attack"] == CLEAN],
            history=pd.DataFrame(),
            examples=[],
        )
        for trial in run.trials
    ]
    bare = with_files(run, summary=run.summary[is_clean], trials=trials)
    shown = {name for name, draw in FIGURES.items() if draw(Measures(bare)) is not None}
    assert shown == {"outcomes"}  # the clean outcomes are always there
    check_blocks(draw_page(bare))


# Runs that are damaged, incomplete or hostile


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    return write_fake_fgsm(folder, models=MODELS[:1], num_images=32)


@pytest.fixture
def run_folder(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "run")


def change_info(folder: Path, **changes: object) -> None:
    write_info(folder, structs.replace(read_info(folder), **changes))


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing", "scrambled"])
@pytest.mark.parametrize("name", [schema.RUN, f"trials/clean-wd-seed0/{schema.ROWS}"])
def test_damage_is_reported_in_a_sentence_and_the_old_report_stays(
    name: str, damage: str, run_folder: Path
) -> None:
    report = run_folder / schema.REPORT
    report.write_text("old")
    path = run_folder / name
    content = path.read_bytes()
    changed = {
        "cut": content[: len(content) * 2 // 3],
        "empty": b"",
        "noise": b"\x80\x81 nothing of the kind",
        "scrambled": content[:200] + b"\x00\xff\x81" * 40 + content[320:],
    }
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(UserError) as error:
        write_report(run_folder)
    assert str(run_folder) in str(error.value)
    assert "\n" not in str(error.value).strip()
    assert report.read_text() == "old"
    assert [p.name for p in run_folder.iterdir() if p.name.startswith(".")] == []


def test_a_damaged_trial_costs_its_own_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_fake_fgsm(tmp_path / "run", models=MODELS[:2], num_images=32)
    damaged, sound = MODELS[:2]
    (folder / f"trials/{damaged}-seed0" / schema.ROWS).write_bytes(b"cut short")
    assert main(["report", str(folder)]) == 1
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("damaged: "))
    assert f"{damaged}-seed0: {folder}/trials/{damaged}-seed0/rows.parquet has changed" in line
    page = (folder / schema.REPORT).read_text()
    assert "1 damaged result is left out." in page
    assert f"damaged: {damaged}-seed0" in page
    assert f"trials/{damaged}-seed0/rows.parquet has changed since it was written" in page
    assert str(folder) not in page
    assert set(pd.read_csv(folder / schema.SUMMARY)["model"]) == {sound}


def test_a_report_is_drawn_from_the_rows_alone(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    summary = (run_folder / schema.SUMMARY).read_bytes()
    (run_folder / schema.SUMMARY).write_text("stale")
    assert write_report(run_folder).read_bytes() == first
    assert (run_folder / schema.SUMMARY).read_bytes() == summary
    for result in run_folder.glob("trials/*/result.json"):
        result.unlink()
    with pytest.raises(UserError, match=r"result\.json is missing"):
        write_report(run_folder)
    write_info(run_folder, read_info(run_folder))
    with pytest.raises(UserError, match="no results yet"):
        write_report(run_folder)


def test_unknown_studies_and_missing_folders_are_reported(run_folder: Path) -> None:
    change_info(run_folder, study="astrology")
    with pytest.raises(UserError, match="astrology"):
        write_report(run_folder)
    with pytest.raises(UserError, match="there is no run folder"):
        write_report(run_folder / "nowhere")


def test_the_made_up_run_of_all_models(tmp_path: Path) -> None:
    assert len(read_run(write_fake_fgsm(tmp_path, num_images=8)).trials) == len(MODELS)


def test_budgets_near_each_other_are_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [(CLEAN, CLEAN, 0.0), ("fgsm", "untargeted", 0.3081), ("worst-case", "fool", 0.3)]
    monkeypatch.setitem(globals(), "PLANS", plans)
    assert "At the same ε" not in " ".join(draw_page(tiny_run((0, 1))).findings)


def test_names_notes_and_missing_models(tmp_path: Path) -> None:
    write_fake_fgsm(tmp_path, models=["<script>a&b"], num_images=32)
    change_info(
        tmp_path,
        models=["<script>a&b", "null-9"],
        trials=read_info(tmp_path).trials | {"null-9": "trials/null-9"},
        notes=["Two epochs too few."],
        device="</style><script>alert(1)</script>",
    )
    html = render(draw_page(read_run(tmp_path)))
    assert "<script" not in html
    assert "&lt;script&gt;a&amp;b" in html
    assert "not finished: 1 of 2 evaluations are missing, all of null-9." in text_of(html)
    assert "Two epochs too few." in html
    assert "0.154 px" in html  # the unit is the study's


def test_large_colour_images_are_shrunk(run_folder: Path) -> None:
    run = read_run(run_folder)
    trial = run.trials[0]
    example = trial.examples[0]
    big = example.clean.repeat(20, axis=2).repeat(20, axis=3).repeat(3, axis=1)
    trial = with_files(trial, examples=[replace(example, clean=big, adv_images=big)])
    drawing = gallery(replace(run, trials=[trial]))
    assert drawing is not None
    assert f"averaged down to {LARGEST_SIDE}" in drawing.caption
    assert len(drawing.panels[0].html) < 100_000

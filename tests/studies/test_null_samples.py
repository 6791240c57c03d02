"""The study null-samples: tables and sentences against a run to count by hand, and its page."""

from __future__ import annotations

import importlib.util
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from fake_run import with_files
from fake_samples import CURVE_EPS, NUM_SHOWN, write_fake_samples
from msgspec import structs
from page_checks import check_blocks, check_html, check_same_bytes, row, terminal_text, text_of
from pandas_defaults import check_tables

from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Bullets, Cell, Drawing, Page
from nullclass.report.measures import OWN_BUDGET, Measure, Measures, on_common_seeds
from nullclass.report.render import write_page
from nullclass.report.sections import unfinished
from nullclass.results import schema
from nullclass.results.run import Run, Trial
from nullclass.results.schema import CLEAN
from nullclass.studies.null_samples.config import VARIANTS, training
from nullclass.studies.null_samples.figures import FIGURES
from nullclass.studies.null_samples.images import mixed, shuffled
from nullclass.studies.null_samples.page import findings
from nullclass.studies.null_samples.page import page as draw_page
from nullclass.studies.null_samples.record import (
    KEYS,
    METRICS,
    joined,
    read_record,
    record_of,
    write_record,
)
from nullclass.studies.null_samples.tables import (
    accuracy_table,
    difference_table,
    kept_epochs,
    landmark_table,
    measures_of,
    selection_table,
    source_spread,
    standard_errors,
    threshold_table,
    training_differences,
    within_errors,
)
from nullclass.studies.reports import read_run, write_report

MODELS = VARIANTS[:5]
SHEETS = [f"fig_adversarial_samples_{n}" for n in ("baseline", *MODELS[1:], "baseline_1.5")]
HISTORIES = ("loss", "train_accuracy", "test_loss", "held-out_loss")
FILES = [
    "fig_null_image_examples",
    "fig_epsilon_thresholds_hist_cdf",
    "fig_test_set_scores",
    "fig_scores_at_threshold",
    "fig_scores_versus_epsilon",
    "fig_scores_versus_epsilon_model_compare",
    *SHEETS,
    *(f"fig_training_histories-{column}" for column in HISTORIES),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two sets of five models."""
    return read_run(write_fake_samples(tmp_path_factory.mktemp("run"), 2, models=MODELS))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One set of two models, with its page."""
    folder = tmp_path_factory.mktemp("small")
    write_report(write_fake_samples(folder, 1, models=("base", "sm")))
    return read_run(folder)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    """Drawn and written without the rows of any trial: a page of 240 models must not load them."""

    def refuse(trial: Trial) -> None:
        raise AssertionError("rows were loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "rows", property(refuse))
        page = draw_page(run)
    write_page(run.folder, page)
    return page


def sentences(run: Run) -> str:
    measures = measures_of(run)
    return " ".join(findings(measures, kept_epochs(measures)))


# Numbers


def test_the_first_selection_is_the_default(run: Run) -> None:
    measures, other = Measures(run), Measures(run, "held-out")
    assert (measures.selection, measures.selections) == ("test", ["test", "held-out"])
    found = [m.find("u", "fgsm-threshold", "fooled", OWN_BUDGET) for m in (measures, other)]
    assert [measure and measure.values for measure in found] == [(0.2, 0.25), (0.25, 0.3)]
    assert other.budgets("fgsm") == []
    assert measures.budgets("fgsm") == list(CURVE_EPS)
    assert [math.isnan(eps) for eps in measures.budgets("fgsm-threshold")] == [True]
    assert measures.find("u", "fgsm-threshold", "null", 0.2) is None, "images have their own ε"
    assert measures.find("u", "fgsm", "null", OWN_BUDGET) is None


def test_tables(run: Run) -> None:
    measures = measures_of(run)
    table = threshold_table(measures)
    # u: 15 and 15, 4 and 5, 1 and 0 of 20 images
    sd = 100 * statistics.stdev([0.2, 0.25])
    assert row(table, "u")[:4] == [
        Cell("u"),
        Cell("75.0", "± 0.0", "78.8 ± 7.6", "within"),
        Cell("22.5", f"± {sd:.1f}", "19.1 ± 8.5", "within"),
        Cell("2.5", f"± {sd:.1f}", "2.0 ± 3.4", "within"),
    ]
    # m is fooled on 20 %, published are 3.0 ± 1.2; 70 % null, published 92.7 ± 2.1
    assert [cell.mark for cell in row(table, "m")[:4]] == ["", "outside", "outside", "outside"]
    assert [cell.mark for cell in row(table, "base")[:4]] == ["", "within", "within", "within"]
    assert [cell.text for cell in row(table, "s")] == [
        "s", "55.0", "10.0", "35.0", "15.0", "85.0", "0.0"
    ]  # fmt: skip
    heads = [cell.small for cell in table.columns[1:]]
    assert heads == ["transfer, %, n 20"] * 3 + ["white-box, %, n 10"] * 3
    # u: null 2.5 ± 3.5 in 2 sets, 2.0 ± 3.4 in 30; m: fooled 20 and 20 %
    error = 100 * math.sqrt(statistics.variance([0.05, 0.0]) / 2 + 0.034**2 / 30)
    differences = difference_table(measures)
    assert row(differences, "u")[3] == Cell("+0.5", f"+{0.5 / error:.1f} SE", mark="within")
    assert row(differences, "m")[2].mark == "outside"
    # 49 and 48 of 50 are 97 %, two points off
    clean = row(accuracy_table(measures), "u")
    assert clean[1] == Cell("97.00", "± 1.41", "about 99.0", "outside")
    assert [cell.text for cell in clean[2:]] == ["0.00", "3.00"]
    # base is fooled on 3/5 of 20 images at the fourth of six eps
    points = landmark_table(measures)
    assert row(points, "base: fooled at ε 0.5")[1:] == [Cell("60.0", "± 0.0"), Cell("about 90")]
    assert row(points, "m: null at ε 0.08")[1].text == "20.0"
    selections = row(selection_table(measures, kept_epochs(measures)), "u")
    assert selections[1] == Cell("97.00 ± 1.41", "held-out 97.00 ± 1.41")
    assert selections[3] == Cell("22.5 ± 3.5", "held-out 27.5 ± 3.5")
    assert selections[5:] == [Cell("3", "held-out 2.5"), Cell("1 of 2")]


def test_selections_are_compared_over_the_sets_that_have_both(tmp_path: Path) -> None:
    write_fake_samples(tmp_path, 2, models=("base", "u"), lacking=[("u", 1, "held-out")])
    run = read_run(tmp_path)
    measures = measures_of(run)
    cells = row(selection_table(measures, kept_epochs(measures)), "u")
    assert cells[3] == Cell("20.0", "held-out 25.0")  # of set 0 alone
    assert "1 of 8 evaluations are missing" in " ".join(unfinished(measures))


def test_a_run_is_finished_with_what_it_planned(tmp_path: Path) -> None:
    """Base alone has a second set."""
    lacking = [("u", 1, selection) for selection in ("test", "held-out")]
    write_fake_samples(tmp_path, 2, models=("base", "u"), lacking=lacking)
    run = read_run(tmp_path)
    assert "2 of 8 evaluations are missing" in " ".join(unfinished(measures_of(run)))
    planned = {t: name for t, name in run.info.trials.items() if (tmp_path / name).exists()}
    run = replace(run, info=structs.replace(run.info, trials=planned))
    assert unfinished(measures_of(run)) == []


def test_what_is_true_by_construction_is_not_counted(run: Run) -> None:
    assert within_errors(measures_of(run))[1] == 3 * (len(MODELS) - 1), "without those of base"


def test_the_training_that_differs_from_the_reports(run: Run) -> None:
    assert training_differences(run) == {"recipe": None, "shares": None}
    trainings = {name: json_values(training(name, 0, "full")) for name in MODELS}
    settings = structs.replace(run.info.settings, trainings=trainings)
    fast = replace(run, info=structs.replace(run.info, settings=settings))
    found = training_differences(fast)
    assert found["shares"] == "0.3 of a batch on average (0.5)"
    for text in ("epochs 4 (20)", "learning rate 0.003 (0.001)", "max gradient 1 (none)"):
        assert text in str(found["recipe"])
    assert "by the fast recipe, not the report's" in sentences(fast)
    settings = structs.replace(settings, trainings={"u": {"recipe": 3, "nulls": 1}})
    damaged = replace(run, info=structs.replace(run.info, settings=settings))
    with pytest.raises(UserError, match="does not record how its models were trained"):
        training_differences(damaged)


def test_sentences(run: Run) -> None:
    text = sentences(run)
    assert "missing" not in text
    assert "trained with null images, fools them on 2.5 % (us) to 22.5 % (u)" in text
    assert "they answer null to 2.5 % (u) to 90.0 % (us) (n = 20 per set)" in text
    # white-box 9 and 8 of 10 for every model, transferred 0 and 1 of 20 for us
    assert "fools them on 85.0 % (u)" in text
    assert "on the first of the same images (n = 10 per set)" in text
    assert "that of us: 2.5 ± 3.5 % transferred, 85.0 ± 7.1 % white-box" in text
    assert "and 0 of 5 (within 0.15 points) test accuracies" in text
    # one image of 20 more is fooled under the other selection
    assert "mean scores at threshold by at most 5.0 (" in text
    assert "the same epoch in 5 of 10 trainings" in text


def test_no_gap_is_reported_where_intervals_overlap(run: Run) -> None:
    """The white-box rates equal the transferred ones."""
    is_own = run.summary["attack"] == "worst-case-threshold"
    same = run.summary[run.summary["attack"] == "fgsm-threshold"].assign(
        attack="worst-case-threshold"
    )
    same = same[same["selection"] == "test"]
    text = sentences(with_files(run, summary=pd.concat([run.summary[~is_own], same])))
    assert "The largest difference" not in text
    assert "fools them on 2.5 % (us) to 22.5 % (u)" in text


@pytest.mark.slow
def test_rates_that_are_not_reproduced_are_listed(run: Run, page: Page) -> None:
    outside, reasons = [b.items for b in page.sections[0].blocks if isinstance(b, Bullets)]
    measures = measures_of(run)
    cells = [*threshold_table(measures).rows, *accuracy_table(measures).rows]
    assert len(outside) == [cell.mark for of in cells for cell in of].count("outside")
    far = (
        "m, fooled: measured 20.0 ± 0.0 % (n = 20 per set), published 3.0 ± 1.2 %, +17.0 points, "
        "14.2 of its sd"
    )
    assert far in outside
    text = " ".join(reasons)
    assert "55,000" in text
    assert "Sets: 2; the report has 30" in text
    assert "Recipe" not in text  # it is the report's


def measure(attack: str, model: str, metric: str, value: float, published: float) -> Measure:
    return Measure(
        model,
        attack,
        metric,
        (value,),
        eps=math.nan,
        published=published,
        num_images=1000,
        rule=source_spread,
    )


@pytest.mark.parametrize(
    ("attack", "model", "metric", "value", "published", "verdict"),
    [
        ("fgsm-threshold", "u", "fooled", 0.361, 0.191, "within"),  # 2 sd are 17 points
        ("fgsm-threshold", "u", "fooled", 0.3611, 0.191, "outside"),
        ("fgsm-threshold", "sm", "null", 0.797, 0.909, "within"),  # 11.2 points
        ("fgsm-threshold", "sm", "null", 0.7969, 0.909, "outside"),
        ("fgsm-threshold", "base", "fooled", 0.9995, 1.0, "within"),  # sd 0: prints as 100.0
        ("fgsm-threshold", "base", "fooled", 0.999, 1.0, "outside"),
        (CLEAN, "base", "correct", 0.9905, 0.992, "within"),  # 0.15 points
        (CLEAN, "base", "correct", 0.9904, 0.992, "outside"),
        ("fgsm-threshold", "another", "fooled", 0.5, 0.5, ""),  # no published sd, no verdict
    ],
)
def test_the_rule_of_reproduction(
    attack: str, model: str, metric: str, value: float, published: float, verdict: str
) -> None:
    assert measure(attack, model, metric, value, published).verdict == verdict


def test_standard_errors() -> None:
    # u, fooled: published 19.1 ± 8.5 over 30 sets
    one = measure("fgsm-threshold", "u", "fooled", 0.2, 0.191)
    assert standard_errors(one) is None, "one set"
    values = (0.20, 0.24, 0.28)
    error = math.sqrt(0.04**2 / 3 + 0.085**2 / 30)
    assert standard_errors(replace(one, values=values)) == pytest.approx((0.24 - 0.191) / error)
    base = measure("fgsm-threshold", "base", "fooled", 1.0, 1.0)
    assert standard_errors(replace(base, values=(1.0, 1.0))) == 0
    assert standard_errors(replace(base, values=(0.9, 0.9))) == math.inf
    assert standard_errors(replace(one, model="another", values=values)) is None


@pytest.mark.parametrize("values", [(0.1, 0.1, 0.1), (0.7,) * 30, (0.2, 0.4)])
def test_intervals_span_the_sets(values: tuple[float, ...]) -> None:
    of = replace(measure("fgsm", "u", "fooled", 0.0, 0.0), values=values)
    low, high = of.interval
    assert low <= of.mean <= high  # although the mean of equal numbers may round up
    assert (low, high) == pytest.approx((min(values), max(values)))


def test_measures_over_common_seeds() -> None:
    one = measure("fgsm", "u", "null", 0.1, 0.0)
    first = replace(one, values=(0.1, 0.2, 0.3), seeds=(0, 1, 2))
    second = replace(one, values=(0.5, 0.6), seeds=(2, 1))
    kept = on_common_seeds([first, second])
    assert [m and dict(zip(m.seeds, m.values, strict=True)) for m in kept] == [
        {1: 0.2, 2: 0.3},
        {1: 0.6, 2: 0.5},
    ]
    assert on_common_seeds([first, None]) == [None, None]
    assert on_common_seeds([first, replace(second, seeds=(7, 8))]) == [None, None]


# The page and its files


@pytest.mark.slow
def test_the_written_page(run: Run, page: Page) -> None:
    check_blocks(page)
    check_html(run.folder / schema.REPORT)
    figures = run.folder / schema.FIGURES
    expected = {f"{name}.{ending}" for name in FILES for ending in ("svg", "png")}
    assert {path.name for path in figures.iterdir()} == {*expected, "table_scores.csv"}
    assert {block.title for block in page.blocks() if isinstance(block, Drawing)} == {
        "Test accuracy", "Scores at threshold", "Thresholds of the base models",
        "Scores against ε", "Models compared", "Null images", "Adversarial samples",
        "Training histories",
    }  # fmt: skip
    sheets = {panel.file: str(panel.html) for panel in page.panels()}
    assert all(sheets[name].count("→") == NUM_SHOWN for name in SHEETS)
    assert check_tables(run.folder) >= {"table_scores.csv", "summary.csv", "thresholds.parquet"}
    table = pd.read_csv(figures / "table_scores.csv")
    assert len(table) == 15
    (line,) = table[(table["model"] == "u") & (table["metric"] == "fooled_rate")].to_dict("records")
    assert line["mean"] == pytest.approx(0.225)
    assert line["sd"] == pytest.approx(statistics.stdev([0.2, 0.25]), rel=1e-6)
    expected_line = {
        "num_sets": 2,
        "num_images": 20,
        "published_mean": 0.191,
        "published_sd": 0.085,
    }
    assert expected_line.items() <= line.items()
    assert line["within_2_sd"] == "yes"
    assert line["standard_errors"] == pytest.approx(standard_errors_of_u(), rel=1e-6)


def standard_errors_of_u() -> float:
    return (0.225 - 0.191) / math.sqrt(statistics.variance([0.2, 0.25]) / 2 + 0.085**2 / 30)


@pytest.mark.slow
def test_one_set_and_two_models(small: Run) -> None:
    low, high = wilson(18, 20)
    assert row(threshold_table(measures_of(small)), "sm")[3] == Cell(
        "90.0", f"{100 * low:.1f} to {100 * high:.1f}", "90.9 ± 5.6", "within"
    )
    text = text_of((small.folder / schema.REPORT).read_text(encoding="utf-8"))
    check_html(small.folder / schema.REPORT)
    assert "1 set (0)" in text
    assert "leaves out u, s, m, us, um, usm" in text
    assert "the same epoch in 2 of 2 trainings. So this run cannot show" in text
    drawn = {path.stem for path in (small.folder / schema.FIGURES).glob("*.png")}
    kept = {f"fig_adversarial_samples_{name}" for name in ("baseline", "sm", "baseline_1.5")}
    assert drawn == set(FILES) - set(SHEETS) | kept


@pytest.mark.slow
def test_an_unfinished_run(tmp_path: Path) -> None:
    lacking = [(name, 0, of) for name in ("u", "s") for of in ("test", "held-out")]
    lacking.append(("base", 0, "held-out"))
    run = read_run(write_fake_samples(tmp_path, 1, models=("base", "u", "s"), lacking=lacking))
    page = draw_page(run)
    check_blocks(page)
    assert "5 of 6 evaluations are missing, all of u, s" in " ".join(page.findings)


@pytest.mark.slow
def test_figures_without_data_are_left_out(run: Run) -> None:
    nothing = {"history": pd.DataFrame(), "examples": [], "thresholds": pd.DataFrame()}
    bare = with_files(
        run,
        summary=run.summary[run.summary["attack"] == CLEAN],
        trials=[with_files(trial, **nothing) for trial in run.trials],
    )
    measures = Measures(bare)
    assert [name for name, draw in FIGURES.items() if draw(measures)] == ["clean-scores"]


@pytest.mark.slow
def test_the_same_rows_give_the_same_bytes(small: Run) -> None:
    check_same_bytes(small.folder / schema.REPORT)


def test_the_terminal_table(run: Run) -> None:
    text = terminal_text(run, 80)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert lines["u"] == ["u", "97.00", "75.0/2.5/22.5", "78.8/2.0/19.1", "✓", "85.0"]
    assert lines["m"][4] == "✗"
    assert "of 12 scores, 0 of 5 accuracies" in text
    assert "…" not in text


@pytest.fixture
def script() -> ModuleType:
    """``docs/report_study.py``."""
    path = Path(__file__).parents[2] / "docs" / "report_study.py"
    spec = importlib.util.spec_from_file_location("report_study", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_a_run_without_the_records_of_its_trainings(tmp_path: Path) -> None:
    write_fake_samples(tmp_path, 1, models=("base", "u"))
    shutil.rmtree(tmp_path / "models")
    page = draw_page(read_run(tmp_path))
    assert "Selection on the test set" not in [section.title for section in page.sections]


def test_the_record_is_the_run_without_its_images(run: Run, tmp_path: Path) -> None:
    write_record(run, tmp_path)
    record = read_record(tmp_path)
    rates = pd.read_csv(tmp_path / "rates.csv").query("selection == 'test' and model == 'u'")
    at_threshold = rates[rates["attack"] == "fgsm-threshold"]
    assert at_threshold["fooled_rate"].tolist() == [0.2, 0.25]
    assert sorted(set(rates["eps_pixels"].dropna())) == sorted({*CURVE_EPS, 0.1, 0.3})
    union = rates[(rates["attack"] == "union") & (rates["eps_pixels"] == 0.3)]
    assert union["aer"].tolist() == [0.9, 0.8]
    assert len(record.thresholds.query("selection == 'test'")) == 2 * 20
    assert len(record.histories.query("selection == 'test'")) == 2 * len(MODELS) * 3
    keys = [*KEYS, "metric"]
    ours, theirs = (
        of[of["metric"].isin(METRICS)].sort_values(keys).reset_index(drop=True)
        for of in (record.summary, run.summary)
    )
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)
    for name, draw in FIGURES.items():
        drawing, other = draw(Measures(run)), draw(Measures(record))
        assert drawing is not None
        if name in ("null-images", "adversarial-samples"):
            assert other is None
            continue
        assert other is not None
        assert (other.title, other.caption) == (drawing.title, drawing.caption)
        assert [panel.file for panel in other.panels] == [panel.file for panel in drawing.panels]


def test_pieces_are_joined_in_any_order(tmp_path: Path, script: ModuleType) -> None:
    models, pieces = ("base", "u"), []
    run = read_run(write_fake_samples(tmp_path / "both", 2, models=models))
    for seed, missing in ((1, "u-seed0-*"), (0, "*-seed1-*")):
        folder = write_fake_samples(tmp_path / str(seed), 2, models=models)
        for trial in (folder / "trials").glob(missing):
            shutil.rmtree(trial)
        pieces.append(folder)
    script.RESULTS, script.DOCS = tmp_path / "results", tmp_path
    figures = tmp_path / "results" / "figures"
    script.main(pieces[0])
    page = tmp_path / "null-samples.md"
    assert "1 set (1), 2 models" in page.read_text()
    sheet = figures / "fig_adversarial_samples_u.png"
    assert not sheet.exists(), "the run has not finished its first set"
    script.main(pieces[1])
    joined_text = page.read_text()
    assert "| u | misclassified | 22.5 ± 3.5 | 19.1 ± 8.5 | yes | +3.4 (+1.2 SE) |" in joined_text
    assert joined_text == script.page(run)
    assert "3 of 3 published scores of the models with null images" in joined_text
    assert "each set's first 10 that base classifies correctly" in joined_text
    assert sheet.exists()
    for trial in (pieces[0] / "trials").glob("u-seed1-*"):
        shutil.rmtree(trial)
    with pytest.raises(UserError, match=r"no set in .* is finished"):
        script.main(pieces[0])
    other = replace(run, info=structs.replace(run.info, preset="quick"))
    with pytest.raises(UserError, match="other settings"):
        joined(read_record(script.RESULTS), other)
    other = replace(run, info=structs.replace(run.info, models=["base"]))
    with pytest.raises(UserError, match=r"other models than .* \(u\)"):
        joined(read_record(script.RESULTS), other)
    elsewhere = replace(run, info=structs.replace(run.info, device="cuda:0"))
    assert "cuda:0" in joined(read_record(script.RESULTS), elsewhere).info.notes[0]


def test_a_set_without_its_second_selection_is_not_finished(tmp_path: Path) -> None:
    lacking = [("u", 1, "held-out")]
    write_fake_samples(tmp_path, 2, models=("base", "u"), lacking=lacking)
    assert record_of(read_run(tmp_path)).info.seeds == [0]


# Null images of the figure


def test_shuffled_tiles_are_the_same_tiles_in_another_order() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((3, 28, 28), dtype=np.float32)

    def tiles(image: np.ndarray, side: int) -> list[bytes]:
        steps = range(0, 28, side)
        cut = [image[top : top + side, left : left + side] for top in steps for left in steps]
        return [np.ascontiguousarray(tile).tobytes() for tile in cut]

    for side in (1, 2, 4, 7, 14):
        moved = shuffled(images, side, np.random.default_rng(1))
        orders = []
        for before, after in zip(images, moved, strict=True):
            old, new = tiles(before, side), tiles(after, side)
            assert sorted(old) == sorted(new)
            orders.append([old.index(tile) for tile in new])
        assert orders[0] == orders[1] == orders[2]  # one order for all


def test_mixed_images_are_the_mean_of_two_classes() -> None:
    labels = np.array([0, 0, 1, 2])
    images = np.eye(4, dtype=np.float32).reshape(4, 2, 2)
    for index, image in enumerate(mixed(images, labels, np.random.default_rng(0))):
        partners = np.flatnonzero(2 * image.ravel() - images[index].ravel())
        assert len(partners) == 1
        assert labels[partners[0]] != labels[index]

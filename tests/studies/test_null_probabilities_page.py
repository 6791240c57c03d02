"""The study null-probabilities: numbers against a run to count by hand, and its page."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_probabilities import LARGEST, write_fake_probabilities
from fake_run import with_files
from page_checks import check_blocks, check_html, check_same_bytes, row

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Cell, Drawing, Page
from nullclass.report.measures import Measures
from nullclass.results import schema
from nullclass.results.null_curve import NullCurve
from nullclass.results.store import Run, read_run
from nullclass.studies.null_probabilities.figures import FIGURES
from nullclass.studies.null_probabilities.measured import (
    TRANSFERRED,
    Criterion,
    Transfers,
    by_size,
    criteria,
    curve_fits,
)
from nullclass.studies.null_probabilities.page import findings, holds
from nullclass.studies.null_probabilities.page import page as draw_page
from nullclass.studies.null_probabilities.tables import (
    criteria_table,
    label_attack_table,
    matrix_table,
    queries_table,
    substitute_table,
)
from nullclass.studies.reports import write_report

MODELS = ("clean", "np-l2", "np-l0", "ccat")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("two")
    return read_run(write_fake_probabilities(folder, 2, models=MODELS))


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return draw_page(run)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A single model and seed, with its page."""
    folder = tmp_path_factory.mktemp("one")
    write_report(write_fake_probabilities(folder, 1, models=("np-l0",)))
    return read_run(folder)


def found(run: Run) -> tuple[Measures, Transfers, list[Criterion]]:
    measures = Measures(run)
    transfers = Transfers(run, measures)
    return measures, transfers, criteria(measures, transfers, curve_fits(run, by_size(run)))


def sentences(run: Run) -> str:
    return " ".join(findings(run, *found(run)))


# Numbers


def test_sentences(run: Run) -> None:
    text = sentences(run)
    assert "missing" not in text
    # np-l0 is fooled on 1 of 10 at 0.3, one more in the odd seed: 95, 95 and 85 % of 10 images
    assert "by these defences: ε 0.1: none; ε 0.2: none; ε 0.3: none." in text
    assert "Undecided with 10 images: ε 0.1: NULL prob. L0; ε 0.2: NULL prob. L0; ε 0.3:" in text
    assert "15.0 % (NULL prob. L0) to 100.0 % (NULL prob. L2 and 1 more), the clean" in text
    # of 20: 6 and 7 of the clean model; 0 and 1, 2 and 3, 4 and 5 of np-l2
    assert "fool the clean model on 32.5 ± 3.5 / 72.5 ± 3.5 / 97.5 ± 3.5 %" in text
    assert "NULL prob. L2 on 2.5 ± 3.5 / 12.5 ± 3.5 / 22.5 ± 3.5 %" in text
    assert "RayS, which sees only labels, fools the defences on 0.0 % (NULL prob. L0) to" in text
    assert "meet 5 of 14 criteria of the table below (NULL prob. L2: 1 of 7, NULL" in text


@pytest.mark.parametrize(
    ("rate", "num_images", "verdict"),
    [
        (1.0, 25, None),  # 86.7 to 100 %
        (1.0, 35, True),  # 90.1 to 100 %
        (0.92, 25, None),
        (0.92, 2500, True),
        (0.7, 25, False),  # 52.4 to 85.7 %
        (0.0, 1, False),  # 0 to 79.3 %
    ],
)
def test_a_model_holds_only_by_its_whole_interval(
    run: Run, rate: float, num_images: int, verdict: bool | None
) -> None:
    (rar,) = Measures(run).find_all(["clean"], "union", "rar", 0.1)
    assert holds(replace(rar, values=(rate,), num_images=num_images)) is verdict


def test_criteria_are_met_or_missed(run: Run, alone: Run) -> None:
    measures, transfers, of = found(run)
    table = criteria_table(measures, of, transfers, curve_fits(run, by_size(run)))
    verdicts = [cell.small.split()[1].strip(",") for cell in row(table, "NULL prob. L2")[1:]]
    assert verdicts == ["missed"] * 6 + ["met"]
    cells = row(table, "NULL prob. L0")
    assert cells[1] == Cell("0.00 ± 0.00", "✓ met")
    assert cells[5] == Cell("7.50 ± 3.54", "✗ missed")
    assert row(table, "NULL prob. L2")[6] == Cell("0.20 ± 0.00", "✗ missed, size 2.5")
    assert [cell.text for cell in row(table, "clean")[3:6]] == ["32.50", "72.50", "97.50"]
    (transferred, *_) = [criterion for criterion in found(alone)[2] if criterion.eps]
    assert transferred.what == TRANSFERRED
    assert replace(transferred, values=(0.02,)).is_met
    assert not replace(transferred, values=(0.0201,)).is_met
    assert replace(transferred, values=(0.01, 0.03)).is_met  # the mean counts


def test_transfer_rates_are_counted_by_hand(run: Run) -> None:
    transfers = Transfers(run, Measures(run))
    # At 0.1 the first 10 of 20 images fool the source; 6 and 7 of them fool the clean model.
    # All of them are correct when clean: the wrong one is the last of 100.
    rate = transfers.rate("mi-fgsm", "sub-clean", "clean", 0.1)
    assert rate is not None
    assert rate.values == (0.6, 0.7)
    assert rate.num_images == 10
    # At 0.3 all 20 fool the source, 19 and 20 of them the target.
    rate = transfers.rate("mi-fgsm", "sub-clean", "clean", 0.3)
    assert rate is not None
    assert rate.values == (0.95, 1.0)


def test_only_images_that_are_correct_when_clean_count(run: Run) -> None:
    (trial,) = [t for t in run.trials if (t.model, t.seed) == ("clean", 0)]
    rows = trial.rows.copy()
    is_wrong = (rows["attack"] == "clean") & (rows["image"] < 4)
    rows.loc[is_wrong, "outcome"] = "fooled"
    changed = replace(run, trials=[with_files(trial, rows=rows)])
    rate = Transfers(changed, Measures(run)).rate("fgsm", "sub-clean", "clean", 0.1)
    assert rate is not None
    assert rate.values == (2 / 6,)  # of images 4 to 9, 4 and 5


def test_without_an_image_that_fools_the_source_there_is_no_rate(run: Run) -> None:
    changed = replace(run)
    changed.__dict__["sources"] = [
        replace(source, rows=source.rows.assign(outcome="null")) for source in run.sources
    ]
    transfers = Transfers(changed, Measures(run))
    assert transfers.rate("fgsm", "sub-clean", "clean", 0.1) is None
    cells = row(matrix_table(transfers, Measures(run), "fgsm", 0.1), "clean substitute")
    assert cells[1] == Cell("32.5 ± 3.5", "–")


def test_a_matrix_has_every_source_and_target(run: Run) -> None:
    measures = Measures(run)
    transfers = Transfers(run, measures)
    table = matrix_table(transfers, measures, "mi-fgsm", 0.2)
    assert [cells[0].text for cells in table.rows] == [
        "clean substitute", "null substitute", "clean", "hard null", "NULL prob. L∞",
        "NULL prob. L2", "NULL prob. L0", "CCAT", "background", "2N labels", "by queries",
    ]  # fmt: skip
    targets = [cell.text for cell in table.columns[1:]]
    assert targets == ["clean", "NULL prob. L2", "NULL prob. L0", "CCAT"]
    # a model's own images are its white-box cell: 10 of 20
    assert row(table, "clean")[1] == Cell("50.0 ± 0.0", "white-box")
    assert row(table, "by queries")[1] == Cell("72.5 ± 3.5", "72.5 ± 3.5 % of 20")
    cells = transfers.table()
    assert len(cells) == 2 * 3 * 11 * 4
    line = cells[(cells["source"] == "sub-queries") & (cells["target"] == "np-l2")].iloc[0]
    assert (line["fooled_rate"], line["num_images"], line["num_seeds"]) == (0.025, 20, 2)


def test_tables_of_attackers_without_the_model(run: Run, alone: Run) -> None:
    measures = Measures(run)
    cells = row(substitute_table(Transfers(run, measures), measures), "NULL prob. L2")
    sd = 100 * statistics.stdev([0.1, 0.15])
    assert cells[2] == Cell("12.50", f"± {sd:.2f}")
    assert row(label_attack_table(measures), "clean")[1].text == "30.00"  # 7 // 2 of 10
    # of 150, 150 and 300 answers 0, 15 and 60 are null
    queries = [cell.text for cell in row(queries_table(run, measures), "CCAT")[1:]]
    assert queries == ["3", "600", "12.5 ± 0.0", "75.0 ± 0.0", "98.0 ± 0.0"]
    one = Measures(alone)
    low, high = wilson(1, 20)
    cells = row(substitute_table(Transfers(alone, one), one), "NULL prob. L0")
    assert cells[3] == Cell("5.00", f"{100 * low:.2f} to {100 * high:.2f}")


def test_distance_from_the_curve_and_falls(run: Run) -> None:
    trial = next(t for t in run.trials if t.model == "np-l2")
    sizes = trial.sizes[trial.sizes["norm"] == "l2"].copy()
    given = {0.0: 0.0, 1.0: 0.5, 1.25: 0.47, 2.5: 1.0, 3.0: 0.0}
    sizes = sizes[sizes["size"].isin(list(given))]
    sizes["p_null"] = sizes["size"].map(given)
    changed = replace(run, trials=[with_files(trial, sizes=sizes)])
    (one,) = curve_fits(changed, by_size(changed))
    # f(1) is 0.4 and f(1.25) 0.5; 3 is beyond the trained range
    assert one.distance == pytest.approx(0.1)
    assert one.size == 1.0
    assert one.fall == pytest.approx(0.03)
    assert (one.end, one.num_sizes) == (LARGEST["l2"], 4)


def test_the_curve_is_read_at_the_sizes_that_were_reached(run: Run) -> None:
    trial = next(t for t in run.trials if t.model == "np-l2")
    sizes = trial.sizes[trial.sizes["norm"] == "l2"].assign(actual_size=1.0)
    changed = replace(run, trials=[with_files(trial, sizes=sizes)])
    assert np.allclose(by_size(changed)["f"], 1 / LARGEST["l2"])


def test_each_seed_has_its_own_curve(run: Run) -> None:
    half = NullCurve("l2", (5.0,), (1.0,))
    changed = replace(run)
    changed.__dict__["curves"] = [
        replace(c, curve=half) if (c.curve.norm, c.seed) == ("l2", 1) else c for c in run.curves
    ]
    of = [fit for fit in curve_fits(changed, by_size(changed)) if fit.norm == "l2"]
    assert [fit.end for fit in of] == [2.5, 5.0]


def test_shares_of_a_stack_sum_to_one(run: Run) -> None:
    means = by_size(run)
    for columns in (["p_null", "rest", "p_label"], ["null", "fooled", "correct"]):
        assert np.allclose(means[columns].sum(axis=1), 1)
    assert set(means["num_images"]) == {8}


# Page and figures


def test_the_page(run: Run, page: Page, alone: Run) -> None:
    check_blocks(page)
    check_html(alone.folder / schema.REPORT)
    drawings = [block for block in page.blocks() if isinstance(block, Drawing)]
    assert len(drawings) == len(FIGURES)
    names = [panel.file for panel in page.panels() if panel.file]
    # null curves, panels by size, worst case, heat maps
    assert len(set(names)) == len(names) == 3 + 4 + 3 + 2 * 3
    assert list(page.files) == ["table_transfers.csv"]


def test_the_same_rows_give_the_same_bytes(alone: Run) -> None:
    check_same_bytes(alone.folder / schema.REPORT)


def test_a_single_model(alone: Run) -> None:
    text = sentences(alone)
    assert "leaves out clean, hard, np-linf, np-l2, ccat, background, twins" in text
    assert "the clean model" not in text
    assert "Undecided with 10 images: ε 0.1: NULL prob. L0" in text


def test_figures_without_data_are_left_out(run: Run) -> None:
    nothing = {"sizes": pd.DataFrame(columns=list(schema.SIZE_COLUMNS))}
    bare = replace(
        run,
        folder=run.folder / "nowhere",
        summary=run.summary[run.summary["attack"] == schema.CLEAN],
        trials=[with_files(trial, **nothing) for trial in run.trials],
    )
    drawn = [name for name, draw in FIGURES.items() if draw(bare) is not None]
    assert drawn == ["gallery", "training"]


def test_an_unfinished_run(tmp_path: Path) -> None:
    write_fake_probabilities(
        tmp_path,
        1,
        models=("clean", "np-l2"),
        lacking=[("np-l2", 0)],
        has_sources=False,
        has_sizes=False,
    )
    page = draw_page(read_run(tmp_path))
    check_blocks(page)
    assert "1 of 2 evaluations are missing, all of np-l2" in " ".join(page.findings)
    curves = {f"fig_null_curve_{norm}" for norm in LARGEST}
    drawn = {panel.file for panel in page.panels() if panel.file}
    assert drawn == curves | {f"fig_white_box_{eps}" for eps in (0.1, 0.2, 0.3)}

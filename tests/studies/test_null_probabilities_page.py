"""The study null-probabilities: numbers against a run to count by hand, and its page."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from fake_probabilities import LARGEST, write_fake_probabilities
from fake_run import with_files
from page_checks import check_blocks, check_html, check_same_bytes, row, text_of, texts
from pandas_defaults import check_tables

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Cell, Drawing, Page
from nullclass.report.measures import Measures
from nullclass.results import schema
from nullclass.results.null_curve import NullCurve
from nullclass.results.run import Run, Source
from nullclass.studies.null_probabilities.figures import FIGURES
from nullclass.studies.null_probabilities.measured import (
    _transfer_rates,
    by_size,
    criteria,
    curve_fits,
    transfer_table,
)
from nullclass.studies.null_probabilities.page import findings, holds
from nullclass.studies.null_probabilities.page import page as draw_page
from nullclass.studies.null_probabilities.tables import (
    criteria_table,
    label_attack_table,
    queries_table,
    substitute_table,
)
from nullclass.studies.reports import read_run, write_report

pytestmark = pytest.mark.slow  # half a minute of pages

MODELS = ("clean", "np-l2", "np-l0", "ccat")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("two")
    return read_run(write_fake_probabilities(folder, 2, models=MODELS))


@pytest.fixture(scope="module")
def measures(run: Run) -> Measures:
    return Measures(run)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return draw_page(run)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A single model and seed, with its page."""
    folder = tmp_path_factory.mktemp("one")
    write_report(write_fake_probabilities(folder, 1, models=("np-l0",)))
    return read_run(folder)


def sentences(run: Run) -> str:
    measures = Measures(run)
    found = criteria(measures, curve_fits(by_size(run)))
    return " ".join(findings(measures, transfer_table(measures), found))


# Numbers


def test_sentences(run: Run) -> None:
    text = sentences(run)
    assert "missing" not in text
    # np-l0 is fooled on 1 of 10 at 0.3, one more in the odd seed: 95, 95 and 85 % of 10 images
    assert "interval, for: ε 0.1: none; ε 0.2: none; ε 0.3: none." in text
    assert "Undecided with 10 images: ε 0.1: NULL prob. L0; ε 0.2: NULL prob. L0; ε 0.3:" in text
    assert "15.0 % (NULL prob. L0) to 100.0 % (NULL prob. L2), the clean model" in text
    # of 20: 6 and 7 of the clean model; 0 and 1, 2 and 3, 4 and 5 of np-l2
    assert "fool the clean model on 32.5 ± 3.5 / 72.5 ± 3.5 / 97.5 ± 3.5 %" in text
    assert "NULL prob. L2 on 2.5 ± 3.5 / 12.5 ± 3.5 / 22.5 ± 3.5 %" in text
    assert "RayS, which sees only labels, fools the defences on 0.0 % (NULL prob. L0) to" in text
    assert "meet 5 of 14 criteria (NULL prob. L2: 1 of 7, NULL" in text


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
    measures: Measures, rate: float, num_images: int, verdict: bool | None
) -> None:
    (rar,) = measures.find_all(["clean"], "union", "rar", 0.1)
    assert holds(replace(rar, values=(rate,), num_images=num_images)) is verdict


def test_criteria_are_met_or_missed(run: Run, measures: Measures, alone: Run) -> None:
    fits = curve_fits(by_size(run))
    table = criteria_table(measures, criteria(measures, fits), fits)
    verdicts = [cell.small.split()[1].strip(",") for cell in row(table, "NULL prob. L2")[1:]]
    assert verdicts == ["missed"] * 6 + ["met"]
    cells = row(table, "NULL prob. L0")
    assert cells[1] == Cell("0.00 ± 0.00", "✓ met")
    assert cells[5] == Cell("7.50 ± 3.54", "✗ missed")
    assert row(table, "NULL prob. L2")[6] == Cell("20.00 ± 0.00", "✗ missed, size 2.5")
    assert [cell.text for cell in row(table, "clean")[3:6]] == ["32.50", "72.50", "97.50"]
    summary = alone.summary.copy()
    is_first = summary["attack"].str.endswith("on sub-clean") & (summary["eps_pixels"] == 0.1)
    for value, is_met in ((0.02, True), (0.0201, False)):
        summary.loc[is_first & (summary["metric"] == "fooled_rate"), "value"] = value
        found = criteria(Measures(with_files(alone, summary=summary)), fits)
        assert found.set_index(["criterion", "eps"]).loc[("fooled", 0.1), "is_met"] == is_met


def rate(table: pd.DataFrame, source: str, target: str, eps: float) -> tuple[float, int]:
    """Transfer rate of MI-FGSM, and the number of images it is of."""
    of = table.set_index(["attack", "source", "target", "eps_pixels"])
    line = of.loc[("mi-fgsm", source, target, eps)]
    return line["transfer_rate"], int(line["num_transferable"])


@pytest.mark.parametrize("seed", [0, 1000])
def test_sources_are_found_for_any_seed(seed: int) -> None:
    """The seeds of substitutes are 1000 larger."""
    pair = {"image": [0, 1], "eps_pixels": 0.1, "outcome": ["fooled", "fooled"]}
    clean = {"image": [0, 1], "attack": "clean", "eps_pixels": 0.0, "outcome": "correct"}
    sources = [
        Source("clean", seed, "fgsm", pd.DataFrame(pair)),
        Source("sub-clean", seed + 1000, "fgsm", pd.DataFrame(pair)),
    ]
    tables = [pd.DataFrame(clean)]
    for source in sources:
        tables.append(pd.DataFrame(pair | {"attack": f"fgsm on {source.model}"}))
    tables[2]["outcome"] = ["fooled", "null"]
    trial = SimpleNamespace(model="hard", seed=seed, rows=pd.concat(tables))
    found = _transfer_rates(cast(Run, SimpleNamespace(sources=sources, trials=[trial])))
    rates = found.set_index("source")["transfer_rate"]
    assert rates.to_dict() == {"clean": 1.0, "sub-clean": 0.5}


def test_transfer_rates_are_counted_by_hand(measures: Measures) -> None:
    table = transfer_table(measures)
    # At 0.1 the first 10 of 20 images fool the source; 6 and 7 of them fool the clean model.
    # All of them are correct when clean: the wrong one is the last of 100.
    assert rate(table, "sub-clean", "clean", 0.1) == (pytest.approx(0.65), 10)
    # At 0.3 all 20 fool the source, 19 and 20 of them the target.
    assert rate(table, "sub-clean", "clean", 0.3) == (pytest.approx(0.975), 20)
    assert rate(table, "sub-queries", "clean", 0.2) == (pytest.approx(0.725), 20)
    assert len(table) == 2 * 3 * 11 * 4
    line = table[(table["source"] == "sub-queries") & (table["target"] == "np-l2")].iloc[0]
    assert (line["fooled_rate"], line["num_images"], line["num_seeds"]) == (0.025, 20, 2)


def test_only_images_that_are_correct_when_clean_count(run: Run) -> None:
    (trial,) = [t for t in run.trials if (t.model, t.seed) == ("clean", 0)]
    rows = trial.rows.copy()
    is_wrong = (rows["attack"] == "clean") & (rows["image"] < 4)
    rows.loc[is_wrong, "outcome"] = "fooled"
    table = transfer_table(Measures(replace(run, trials=[with_files(trial, rows=rows)])))
    # of images 4 to 9, 4 and 5
    assert rate(table, "sub-clean", "clean", 0.1) == (pytest.approx(2 / 6), 6)


def test_without_an_image_that_fools_the_source_there_is_no_rate(run: Run) -> None:
    changed = replace(run)
    changed.__dict__["sources"] = [
        replace(source, rows=source.rows.assign(outcome="null")) for source in run.sources
    ]
    table = transfer_table(Measures(changed))
    assert table["transfer_rate"].isna().all()
    assert not table["num_transferable"].any()
    assert table["fooled_rate"].max() == 0.975


def test_a_heat_map_has_every_source_and_target(page: Page) -> None:
    (panel,) = [panel for panel in page.panels() if panel.file == "fig_transfer_mi-fgsm_0.2"]
    sources = [
        "clean substitute", "null substitute", "clean", "hard null", "NULL prob. L∞",
        "NULL prob. L2", "NULL prob. L0", "CCAT", "background", "null per class", "by queries",
    ]  # fmt: skip
    shown = texts(panel.html)
    targets = ["clean", "NULL prob. L2", "NULL prob. L0", "CCAT"]
    assert [text for text in shown if text[0].isalpha()] == targets + sources
    # of 20 images: 14 and 15 of the clean model, 10 of those made on it
    assert [text for text in shown if text[0].isdigit()][8:12] == ["50", "12", "2.5", "2.5"]


def test_tables_of_attackers_without_the_model(run: Run, measures: Measures, alone: Run) -> None:
    cells = row(substitute_table(measures), "NULL prob. L2")
    sd = 100 * statistics.stdev([0.1, 0.15])
    assert cells[2] == Cell("12.50", f"± {sd:.2f}")
    assert row(label_attack_table(measures), "clean")[1].text == "30.00"  # 7 // 2 of 10
    # of 150, 150 and 300 answers 0, 15 and 60 are null
    queries = [cell.text for cell in row(queries_table(measures), "CCAT")[1:]]
    assert queries == ["3", "600", "12.5 ± 0.0", "75.0 ± 0.0", "98.0 ± 0.0"]
    one = Measures(alone)
    low, high = wilson(1, 20)
    cells = row(substitute_table(one), "NULL prob. L0")
    assert cells[3] == Cell("5.00", f"{100 * low:.2f} to {100 * high:.2f}")


def test_distance_from_the_curve_and_falls(run: Run) -> None:
    trial = next(t for t in run.trials if t.model == "np-l2")
    sizes = trial.sizes[trial.sizes["norm"] == "l2"].copy()
    given = {0.0: 0.0, 1.0: 0.5, 1.25: 0.47, 2.5: 1.0, 3.0: 0.0}
    sizes = sizes[sizes["size"].isin(list(given))]
    sizes["p_null"] = sizes["size"].map(given)
    changed = replace(run, trials=[with_files(trial, sizes=sizes)])
    (one,) = curve_fits(by_size(changed)).to_dict("records")
    # f(1) is 0.4 and f(1.25) 0.5; 3 is beyond the trained range
    assert one["distance"] == pytest.approx(0.1)
    assert one["size"] == 1.0
    assert one["decrease"] == pytest.approx(0.03)
    assert one["num_sizes"] == 4


def test_the_curve_is_read_at_the_sizes_that_were_reached(run: Run) -> None:
    trial = next(t for t in run.trials if t.model == "np-l2")
    sizes = trial.sizes[trial.sizes["norm"] == "l2"].assign(actual_size=1.0)
    changed = replace(run, trials=[with_files(trial, sizes=sizes)])
    assert np.allclose(by_size(changed)["f"], 1 / LARGEST["l2"])
    other = replace(changed, trials=[with_files(trial, sizes=sizes.assign(norm="linf"))])
    assert by_size(other)["f"].isna().all(), "the curve is of another norm"


def test_each_seed_has_its_own_curve(run: Run) -> None:
    half = NullCurve("l2", (5.0,), (1.0,))
    changed = replace(run)
    changed.__dict__["curves"] = [
        replace(c, curve=half) if (c.curve.norm, c.seed) == ("l2", 1) else c for c in run.curves
    ]
    of = by_size(changed)
    assert [*of.loc[of["model"] == "np-l2", "end"].dropna().unique()] == [2.5, 5.0]


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
    # null curves, panels by size, heat maps
    assert len(set(names)) == len(names) == 3 + 4 + 2 * 3
    assert check_tables(alone.folder) >= {"table_transfers.csv", "summary.csv", "rows.parquet"}


def test_the_same_rows_give_the_same_bytes(alone: Run) -> None:
    check_same_bytes(alone.folder / schema.REPORT)


def test_a_single_model(alone: Run) -> None:
    text = text_of((alone.folder / schema.REPORT).read_text(encoding="utf-8"))
    assert "leaves out clean, hard, np-linf, np-l2, ccat, background, per-class-null" in text
    assert "the clean model" not in sentences(alone)
    assert "Undecided with 10 images: ε 0.1: NULL prob. L0" in text


def test_figures_without_data_are_left_out(run: Run) -> None:
    nothing = {"sizes": pd.DataFrame(columns=list(schema.SIZE_COLUMNS))}
    bare = with_files(
        run,
        curves=[],
        summary=run.summary[run.summary["attack"] == schema.CLEAN],
        trials=[with_files(trial, **nothing) for trial in run.trials],
    )
    drawn = [name for name, draw in FIGURES.items() if draw(Measures(bare)) is not None]
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
    drawn = {panel.file for panel in page.panels() if panel.file}
    assert drawn == {f"fig_null_curve_{norm}" for norm in LARGEST}

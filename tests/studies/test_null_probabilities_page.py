"""The page of the study ``null-probabilities``: its numbers, figures, and runs cut short."""

from __future__ import annotations

import hashlib
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_probabilities import LARGEST, write_fake_probabilities
from fake_run import with_files

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Bullets, Cell, Drawing, Page, Table
from nullclass.report.measures import Measures
from nullclass.results import schema
from nullclass.results.null_curve import NullCurve
from nullclass.results.store import Curve, Run, read_run
from nullclass.studies.null_probabilities.by_size import by_size, followings
from nullclass.studies.null_probabilities.figures import FIGURES as NULL_PROBABILITIES
from nullclass.studies.null_probabilities.page import findings, standing
from nullclass.studies.null_probabilities.page import page as draw_page
from nullclass.studies.null_probabilities.transfer_tables import (
    asked,
    asked_table,
    matrix_table,
    queries_table,
    query_attack_table,
    substitute_table,
)
from nullclass.studies.null_probabilities.transferred import Transfers, table_of
from nullclass.studies.reports import write_report

MODELS = ("clean", "np-l2", "np-l0", "ccat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_probabilities(tmp_path_factory.mktemp("two"), 2, models=MODELS)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return draw_page(run)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single variant and seed."""
    return write_fake_probabilities(tmp_path_factory.mktemp("one"), 1, models=("np-l0",))


def threshold_info(run: Run) -> str:
    measures = Measures(run)
    transfers = Transfers(run, measures)
    following = followings(run, by_size(run))
    return " ".join(
        findings(run, measures, transfers, asked(measures, transfers, following), following)
    )


def row(table: Table, name: str) -> list[Cell]:
    (found,) = [cells for cells in table.rows if cells[0].text == name]
    return found


# Numbers


def test_the_findings_tell_these_numbers(run: Run) -> None:
    told = threshold_info(run)
    assert "lacking" not in told
    # np-l0 stands but for 1 of 10 at 0.3; transfers fool one more of the odd seed at every eps
    assert "Of the 3 defences (NULL prob. L2, NULL prob. L0, CCAT) these survive" in told
    # 95, 95 and 85 % of 10 images: the interval reaches over 90 %
    assert "at ε 0.3 none for sure, perhaps NULL prob. L0 (10 images cannot tell)." in told
    assert (
        "At ε 0.3 they are fooled on 15.0 % (NULL prob. L0) to 100.0 % (NULL prob. L2 and 1 more)"
        in told
    )
    assert "the clean model on 70.0 ± 0.0 % (AER)" in told
    # of 20: 6 and 7 of the clean model; 0 and 1, 2 and 3, 4 and 5 of np-l2
    assert "fools the clean model on 32.5 ± 3.5 / 72.5 ± 3.5 / 97.5 ± 3.5 %" in told
    assert "NULL prob. L2 on 2.5 ± 3.5 / 12.5 ± 3.5 / 22.5 ± 3.5 % (missed)" in told
    assert "asked: at most 2 %" in told
    assert "NULL prob. L2 0.20 ± 0.00 (at size 2.5; missed)" in told
    assert "It never falls as the size grows." in told
    assert "the clean model 99.00 ± 0.00 %; NULL prob. L2 98.00 ± 0.00 %, null 1.00" in told
    assert "(missed: 1.00 ± 0.00 points lost and null)" in told
    assert "NULL prob. L0 99.00 ± 0.00 %, null 0.00 ± 0.00 % (reached)" in told


def test_every_model_is_told_whether_it_survives(page: Page) -> None:
    (section,) = [s for s in page.sections if s.title.startswith("Which survive")]
    (items,) = [block.items for block in section.blocks if isinstance(block, Bullets)]
    assert [item.split(":")[0] for item in items] == [
        "clean (no null class)",
        "NULL prob. L2 (f of the Euclidean length)",
        "NULL prob. L0 (f of the share of pixels changed)",
        "CCAT (refuses by a threshold)",
    ]
    assert "does not survive. AER 90.0 / 100.0 / 100.0 %, RAR 10.0 / 0.0 / 0.0 %" in items[1]
    assert "ε 0.1, 0.2 and 0.3: cannot be told. AER 5.0 / 5.0 / 15.0 %, RAR 95.0" in items[2]


@pytest.mark.parametrize(
    ("share", "num_images", "word"),
    [
        (1.0, 25, "cannot be told"),  # 86.7 to 100 %
        (1.0, 35, "survives"),  # 90.1 to 100 %
        (0.92, 25, "cannot be told"),
        (0.92, 2500, "survives"),
        (0.7, 25, "does not survive"),  # 52.4 to 85.7 %
        (0.0, 1, "does not survive"),  # 0 to 79.3 %
    ],
)
def test_survival_is_said_where_the_images_can_tell(
    run: Run, share: float, num_images: int, word: str
) -> None:
    rar = Measures(run).find("clean", "union", "rar", 0.1)
    assert rar is not None
    assert standing(replace(rar, values=(share,), num_images=num_images)) == word


def test_what_was_asked_is_reached_or_missed(run: Run) -> None:
    measures = Measures(run)
    transfers = Transfers(run, measures)
    told = asked(measures, transfers, followings(run, by_size(run)))
    table = asked_table(measures, told, transfers)
    verdicts = [cell.small.split()[-1] for cell in row(table, "NULL prob. L2")[1:]]
    assert verdicts == ["missed", "missed", "missed", "missed", "missed", "missed", "reached"]
    cells = row(table, "NULL prob. L0")
    assert cells[1] == Cell("0.00 ± 0.00", "✓ reached")
    assert cells[5] == Cell("7.50 ± 3.54", "✗ missed")
    assert [cell.text for cell in row(table, "clean")[3:6]] == ["32.50", "72.50", "97.50"]


def test_the_limits_belong_to_what_is_asked(alone: Path) -> None:
    run = read_run(alone)
    measures = Measures(run)
    (transferred,) = [
        [a for a in found if a.what == "transferred"]
        for found in asked(measures, Transfers(run, measures), []).values()
    ]
    at = replace(transferred[0], values=(0.02,))
    assert at.is_reached
    assert not replace(at, values=(0.0201,)).is_reached
    assert replace(at, values=(0.01, 0.03)).is_reached  # the mean counts


def test_transfer_rates_are_counted_by_hand(run: Run) -> None:
    transfers = Transfers(run, Measures(run))
    # At 0.1 the first 10 of 20 images fool the source; 6 and 7 of them fool the clean model.
    # Which images are right when clean: all, as the wrong one is the last of 100.
    rate = transfers.rate("mi-fgsm", "sub-clean", "clean", 0.1)
    assert rate is not None
    assert rate.values == (0.6, 0.7)
    assert rate.num_images == 10
    # At 0.3 all 20 fool the source, 19 and 20 of them the target.
    rate = transfers.rate("mi-fgsm", "sub-clean", "clean", 0.3)
    assert rate is not None
    assert rate.values == (0.95, 1.0)


def test_only_images_that_are_right_when_clean_can_transfer(run: Run) -> None:
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
        "clean substitute",
        "null substitute",
        "clean",
        "hard null",
        "NULL prob. L∞",
        "NULL prob. L2",
        "NULL prob. L0",
        "CCAT",
        "background",
        "2N labels",
        "by queries",
    ]
    assert [cell.text for cell in table.columns[1:]] == [
        "clean",
        "NULL prob. L2",
        "NULL prob. L0",
        "CCAT",
    ]
    # a model's own images are its white-box cell: 10 of 20
    assert row(table, "clean")[1] == Cell("50.0 ± 0.0", "white-box")
    assert row(table, "by queries")[1] == Cell("72.5 ± 3.5", "72.5 ± 3.5 % of 20")
    cells = table_of(transfers)
    assert len(cells) == 2 * 3 * 11 * 4
    line = cells[(cells["source"] == "sub-queries") & (cells["target"] == "np-l2")].iloc[0]
    assert (line["fooled"], line["num_images"], line["num_seeds"]) == (0.025, 20, 2)


def test_tables_of_attackers_without_the_model(run: Run, alone: Path) -> None:
    measures = Measures(run)
    cells = row(substitute_table(Transfers(run, measures), measures), "NULL prob. L2")
    sd = 100 * statistics.stdev([0.1, 0.15])
    assert cells[2] == Cell("12.50", f"± {sd:.2f}")
    assert row(query_attack_table(measures), "clean")[1].text == "30.00"  # 7 // 2 of 10
    queries = queries_table(run, measures)
    assert queries is not None
    # of 150, 150 and 300 answers 0, 15 and 60 are null
    assert [cell.text for cell in row(queries, "CCAT")[1:]] == [
        "3",
        "600",
        "12.5 ± 0.0",
        "75.0 ± 0.0",
        "98.0 ± 0.0",
    ]
    one = Measures(read_run(alone))
    low, high = wilson(1, 20)
    cells = row(substitute_table(Transfers(read_run(alone), one), one), "NULL prob. L0")
    assert cells[3] == Cell("5.00", f"{100 * low:.2f} to {100 * high:.2f}")


def test_distance_and_falls_of_p_null(run: Run) -> None:
    trial = next(t for t in run.trials if t.model == "np-l2")
    sizes = trial.sizes[trial.sizes["norm"] == "l2"].copy()
    given = {0.0: 0.0, 1.0: 0.5, 1.25: 0.47, 2.5: 1.0, 3.0: 0.0}
    sizes = sizes[sizes["size"].isin(list(given))]
    sizes["p_null"] = sizes["size"].map(given)
    changed = replace(run, trials=[with_files(trial, sizes=sizes)])
    (one,) = followings(changed, by_size(changed))
    # f(1) is 0.4 and f(1.25) 0.5; what is beyond the range, 3, does not count
    assert one.distance == pytest.approx(0.1)
    assert one.size == 1.0
    assert one.fall == pytest.approx(0.03)
    assert (one.largest, one.num_sizes) == (LARGEST["l2"], 4)
    assert "falls back by 3.0 points (missed)" in threshold_info(changed)


def test_f_is_read_at_the_size_that_came_out(run: Run) -> None:
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
    of = [f for f in followings(changed, by_size(changed)) if f.norm == "l2"]
    assert [f.largest for f in of] == [2.5, 5.0]
    assert isinstance(changed.curves[0], Curve)


# Page and figures


def test_the_same_rows_give_the_same_bytes_without_torch(alone: Path) -> None:
    write_report(alone)

    def digests() -> dict[str, str]:
        paths = [alone / schema.REPORT, *(alone / schema.FIGURES).iterdir()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    first = digests()
    script = (
        "import sys, pathlib\n"
        "from nullclass.studies.reports import write_report\n"
        "write_report(pathlib.Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(alone)], check=True)
    assert digests() == first
    html = (alone / schema.REPORT).read_text(encoding="utf-8")
    html = re.sub(r"data:image/png;base64,[^\"]*", "data:", html)
    assert re.findall(r'(?<!xmlns=")(?<!xmlns:xlink=")\b(?:https?:|//)[\w./-]+', html) == []
    assert "nan" not in html.lower()
    assert "&lt;svg" not in html


def test_a_single_variant_is_compared_with_nothing(alone: Path) -> None:
    told = threshold_info(read_run(alone))
    assert "clean, hard null, NULL prob. L∞, NULL prob. L2, CCAT, background, 2N labels" in told
    assert "were left out" in told
    assert "the clean model" not in told
    assert "Of the one defence (NULL prob. L0) these survive" in told


def test_every_figure_says_what_it_shows(page: Page) -> None:
    blocks = [block for section in page.sections for block in section.blocks]
    drawings = {block.title: block for block in blocks if isinstance(block, Drawing)}
    assert len(drawings) == len(NULL_PROBABILITIES)
    for title, drawing in drawings.items():
        assert re.search(r"\bseed", drawing.caption), title
        if title != "Training":
            assert "pixel units" in drawing.caption or title == "Gallery"
            assert re.search(r"\d images|\d test images|\d held-out|first test", drawing.caption)
        for panel in drawing.panels:
            assert "nan" not in re.sub(r"base64,[^\"]*", "", panel.html).lower()
    names = [panel.file for panel in page.panels() if panel.file]
    assert len(set(names)) == len(names) == 3 + 4 + 4 + 3 + 3 + 3
    assert list(page.files) == ["table_transfers.csv"]


def test_the_shares_of_a_stack_sum_to_one(run: Run) -> None:
    means = by_size(run)
    for columns in (["p_null", "rest", "p_label"], ["null", "fooled", "correct"]):
        assert np.allclose(means[columns].sum(axis=1), 1)
    assert set(means["num_images"]) == {8}


OWN = [name for name in NULL_PROBABILITIES if name not in ("gallery", "training")]


@pytest.mark.parametrize("name", OWN)
def test_a_figure_without_anything_to_show_is_left_out(name: str, run: Run) -> None:
    nothing = {"sizes": pd.DataFrame(columns=list(schema.SIZE_COLUMNS))}
    bare = replace(
        run,
        folder=run.folder / "nowhere",
        summary=run.summary[run.summary["attack"] == "clean"],
        trials=[with_files(trial, **nothing) for trial in run.trials],
    )
    assert NULL_PROBABILITIES[name](bare) is None


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    write_fake_probabilities(
        tmp_path,
        1,
        models=("clean", "np-l2"),
        lacking=[("np-l2", 0)],
        has_sources=False,
        has_sizes=False,
    )
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "1 of 2 evaluations are lacking; nothing yet of NULL prob. L2" in html
    drawn = {path.stem for path in (tmp_path / schema.FIGURES).glob("*.png")}
    curves = {f"fig_null_curve_{norm}" for norm in LARGEST}
    assert drawn == curves | {f"fig_white_box_{eps}" for eps in (0.1, 0.2, 0.3)}
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower()

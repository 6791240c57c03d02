"""Numbers in the tables, against a run small enough to count by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from fake_run import with_files

from nullclass.metrics.rates import summarise, wilson
from nullclass.report.blocks import Cell, Table
from nullclass.report.evaluation_page import findings as evaluated_findings
from nullclass.report.measures import (
    Measure,
    Measures,
    eps_text,
    loss_text,
    percent,
    pixel_per_unit,
    value_cell,
)
from nullclass.report.tables import (
    clean_table,
    compare,
    fgsm_table,
    outcome_table,
    unnoticed,
    unnoticed_table,
    white_box_table,
)
from nullclass.results.schema import ROW_COLUMNS, SUMMARY_COLUMNS
from nullclass.results.store import Run, Trial
from nullclass.studies.fgsm_null.page import findings

UNIT = 0.3081
HALF = 0.15405
"""The notebook's 0.5 in pixel units."""

# outcomes of five images: clean, FGSM at the notebook's 0.5, the worst case at 0.154
SEEDS = {
    0: ("ccccf", "nnncf", "ffncf"),
    1: ("cccff", "nnffc", "fnccf"),
}
WORD = {"c": "correct", "n": "null", "f": "fooled"}


def said(letter: str, seed: int) -> tuple[object, ...]:
    """Member and prediction to null score."""
    return "none", 0, WORD[letter], 0.9, 0.5 + seed, 2.0, 0, -1.0


def rows_of(seed: int) -> pd.DataFrame:
    plans = zip(
        SEEDS[seed],
        [("none", "none", 0.0), ("fgsm", "untargeted", HALF), ("worst-case", "fool", 0.154)],
        strict=True,
    )
    lines = [
        (number, 7, attack, objective, "self", "linf", "given", eps, *said(letter, seed))
        for letters, (attack, objective, eps) in plans
        for number, letter in enumerate(letters)
    ]
    return pd.DataFrame(lines, columns=list(ROW_COLUMNS))


def tiny_run(seeds: tuple[int, ...], published: float | None = None) -> Run:
    tables, trials = [], []
    for seed in seeds:
        rows = rows_of(seed)
        table = summarise(rows).assign(study="fgsm-null", model="null-0.5", seed=seed)
        table["selection"] = "last"
        is_share = (table["metric"] == "null") & (table["attack"] == "fgsm")
        table["published"] = math.nan
        table.loc[is_share, "published"] = published
        tables.append(table)
        trial = Trial(Path("run"), "null-0.5", seed, "last", {})
        trials.append(with_files(trial, rows=rows, history=pd.DataFrame(), examples=[]))
    info = {"study": "fgsm-null", "models": ["null-0.5"]}
    return Run(Path("run"), info, pd.concat(tables)[SUMMARY_COLUMNS], trials)


def row(table: Table, name: str) -> list[Cell]:
    (found,) = [cells for cells in table.rows if cells[0].text == name]
    return found


def test_clean_table_of_two_seeds() -> None:
    cells = row(clean_table(Measures(tiny_run((0, 1)))), "null-0.5")
    # 4/5 and 3/5 correct: mean 70 %, sd sqrt(2) * 10 points; losses 0.5 and 1.5
    assert cells[1].text == "70.00"
    assert cells[1].small == "± 14.14"
    assert cells[2].text == "100.00"
    assert (cells[3].text, cells[3].small) == ("1.0000", "± 0.7071")


def test_clean_table_of_one_seed_has_the_interval() -> None:
    cells = row(clean_table(Measures(tiny_run((0,)))), "null-0.5")
    low, high = wilson(4, 5)
    assert (cells[1].text, cells[1].small) == ("80.00", f"{100 * low:.2f} to {100 * high:.2f}")
    assert (cells[3].text, cells[3].small) == ("0.5000", "")


def test_null_share_and_its_published_value() -> None:
    # null shares 3/5 and 2/5: mean 50 %, sd 14.14 points
    table = fgsm_table(Measures(tiny_run((0, 1), published=0.75)), "null", UNIT)
    assert (table.columns[1].text, table.columns[1].small) == ("ε 0.5", "0.154 px")
    assert row(table, "null-0.5")[1] == Cell("50.00", "± 14.14", "75.00", "within")


def test_white_box_tables() -> None:
    measures = Measures(tiny_run((0, 1)))
    # The union at 0.154: the white-box attack, and what was fooled when clean; FGSM is above it.
    # Seed 0: fooled 0, 1, 4; right and never fooled 2, 3. Seed 1: fooled 0, 3, 4; right 1, 2.
    assert row(white_box_table(measures, "aer"), "null-0.5")[1] == Cell("60.00", "± 0.00")
    rar = row(white_box_table(measures, "rar"), "null-0.5")
    assert [cell.text for cell in rar] == ["null-0.5", "70.00", "0.00", "30.00", "40.00"]


def test_outcomes_of_every_attack() -> None:
    rows = outcome_table(Measures(tiny_run((0,))), "null-0.5").rows
    assert [[cell.text for cell in cells] for cells in rows] == [
        ["clean", "80.00", "0.00", "20.00", "5"],
        ["FGSM, ε 0.154", "20.00", "60.00", "20.00", "5"],
        ["worst-case ensemble, ε 0.154", "20.00", "20.00", "60.00", "5"],
    ]


def test_what_goes_unnoticed() -> None:
    run = tiny_run((0, 1))
    counts = unnoticed(run)
    told = counts[["seed", "num_images", "num_unnoticed", "num_fooled", "num_turned"]]
    # seed 1: images 2 and 3 are fooled under FGSM, of which 2 was right before
    assert told.to_numpy().tolist() == [[0, 5, 2, 1, 0], [1, 5, 3, 2, 1]]
    table = unnoticed_table(Measures(run), counts, UNIT)
    assert row(table, "null-0.5")[1] == Cell("3", "1 turned")


def test_findings_tell_these_numbers() -> None:
    run = tiny_run((0, 1), published=0.75)
    measures = Measures(run)
    told = " ".join(findings(run, measures, compare(measures)))
    assert "null-0.5 answers null to 50.00 ± 14.14 % of 5 FGSM images at ε 0.154 (0.5 in" in told
    assert "fools that model on 60.00 ± 0.00 % of 5 images" in told
    assert "the null models are fooled on 60.0 % of the images" in told
    assert "(RAR) is 40.0 %" in told
    assert "1 were judged and 1 are reproduced" in told
    assert "does not hold even for FGSM" in told
    assert "turned 10.00 % of the images" in told


def test_the_conclusion_holds_where_no_unnoticed_image_was_turned() -> None:
    run = tiny_run((0,))  # the one FGSM image that fooled was wrong when clean too
    measures = Measures(run)
    told = " ".join(findings(run, measures, compare(measures)))
    assert "influence the model, holds for FGSM" in told


def test_findings_of_an_evaluation() -> None:
    told = " ".join(evaluated_findings(Measures(tiny_run((0, 1)))))
    assert "null-0.5 is 70.00 ± 14.14 % correct" in told
    assert "fooled on 60.00 ± 0.00 % of 5 images by at least one attack (AER)" in told


def measure(values: tuple[float, ...], published: float | None, metric: str = "null") -> Measure:
    return Measure(
        "m", "fgsm", "untargeted", "linf", 0.1, metric, values, published, math.nan, math.nan, 100
    )


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
        ((0.05,), 0.05, "loss", ""),  # one seed: a loss is not judged
        ((0.05, 0.07), 0.088, "loss", "within"),  # mean 0.06, 2 sd = 0.02828
        ((0.05, 0.07), 0.089, "loss", "outside"),
        ((1e-7, 2e-7), 0.0, "null_loss", "within"),
    ],
)
def test_the_rule_of_reproduction(
    values: tuple[float, ...], published: float | None, metric: str, verdict: str
) -> None:
    assert measure(values, published, metric).verdict == verdict


def test_comparison_counts_rates_and_losses_apart() -> None:
    measures = Measures(tiny_run((0, 1), published=0.0))
    comparison = compare(measures)
    assert comparison.rates == (0, 1)
    assert comparison.losses == (0, 0)
    assert [m.metric for m in comparison.outside] == ["null"]


def test_budgets_are_found_although_a_table_rounds_them() -> None:
    measures = Measures(tiny_run((0,)))
    assert measures.find("null-0.5", "fgsm", "null", 0.5 * UNIT) is not None
    assert measures.find("null-0.5", "fgsm", "null", 0.154) is None  # another budget


def test_numbers_are_written_with_the_digits_that_mean_something() -> None:
    assert percent(0.98755) == "98.75" or percent(0.98755) == "98.76"
    assert [loss_text(x) for x in (0.0, 2e-7, 0.03771, 17.07276)] == [
        "0.0000",
        "<0.0001",
        "0.0377",
        "17.07",
    ]
    assert [eps_text(x) for x in (0.15405, 0.000308, 0.9243)] == ["0.154", "0.000308", "0.924"]
    assert value_cell(None) == Cell("–")


def test_the_unit_is_where_the_run_says() -> None:
    assert pixel_per_unit({"study": "x", "settings": {"pixel_per_notebook_eps": 0.5}}) == 0.5
    nested = {"settings": {"unit": {"pixel_per_notebook_eps": 0.25}}}
    assert pixel_per_unit(nested) == 0.25
    assert pixel_per_unit({"study": "fgsm-null"}) == UNIT
    assert pixel_per_unit({"study": "evaluate"}) is None

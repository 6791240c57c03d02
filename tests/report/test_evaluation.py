"""The page of one evaluation: its numbers against slow counting from the rows, and its parts."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_evaluation import FLAGS, MEMBERS, write_fake_evaluation
from fake_run import with_files
from msgspec import structs
from page_checks import (
    check_blocks,
    check_html,
    check_same_bytes,
    drawing,
    row,
    terminal_lines,
    text_of,
    texts,
)

from nullclass.diagnostics.red_flags import CHECKS
from nullclass.metrics.distribution import quantile, robustness_distribution
from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Cell, Page, Section, Table, Terms
from nullclass.report.evaluation_page import findings
from nullclass.report.evaluation_page import page as draw_page
from nullclass.report.evaluation_tables import (
    OPTIMISTIC,
    cost_table,
    ood_table,
    selective_table,
    separation_table,
    threat_model,
)
from nullclass.report.figures.confusion import MOST_CLASSES, counted
from nullclass.report.figures.null_scores import null_scores
from nullclass.report.figures.security_curves import points, security_curves
from nullclass.report.figures.smallest_eps import distribution_table, smallest_eps
from nullclass.report.formatting import SMALLEST, WORST_CASE, percent
from nullclass.report.measures import Measures
from nullclass.report.render import on_terminal, render, write_page
from nullclass.report.sections import trial_flags
from nullclass.report.tables import outcome_table, union_table
from nullclass.report.worst_case import strongest, subsample, worst_case_table
from nullclass.results import schema
from nullclass.results.info import ProofInfo, ThresholdInfo
from nullclass.results.run import Run, Trial
from nullclass.results.schema import CLEAN, NO_MEMBER, Flag
from nullclass.studies.reports import read_run, summary_table

EPS = (0.05, 0.1, 0.2, 0.3)
NUM = 120

SMALL: dict[str, Any] = {"eps": (0.1,), "ood": (), "num_held_out": 0, "num_smallest": 0}
"""Leaves out what a test does not need."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_evaluation(tmp_path_factory.mktemp("evaluation"), flags=FLAGS)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.fixture(scope="module")
def trial(run: Run) -> Trial:
    (only,) = run.trials
    return only


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return draw_page(run)


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("proved")
    return read_run(write_fake_evaluation(folder, **(SMALL | {"eps": EPS}), proved=(0.1, 0.3, 0.4)))


def outcomes_up_to(trial: Trial, eps: float) -> dict[int, set[str]]:
    """Outcomes of each image, clean or under any attack at that ε or below."""
    found: dict[int, set[str]] = {}
    for line in trial.rows.itertuples():
        if line.eps_pixels <= eps + 1e-9:
            found.setdefault(int(line.image), set()).add(str(line.outcome))
    return found


def clean_outcomes(trial: Trial) -> dict[int, str]:
    clean = trial.rows[trial.rows["attack"] == CLEAN]
    return dict(zip(clean["image"], clean["outcome"], strict=True))


def rates(trial: Trial, eps: float) -> dict[str, int]:
    """Counts behind the rates of the union, image by image."""
    clean, outcomes = clean_outcomes(trial), outcomes_up_to(trial, eps)
    correct = [image for image in outcomes if clean[image] == "correct"]
    return {
        "aer": sum("fooled" in of for of in outcomes.values()),
        "rar": sum("fooled" not in outcomes[image] for image in correct),
        "strict": sum(outcomes[image] == {"correct"} for image in correct),
        "null_dos": sum("null" in outcomes[image] for image in correct),
    }


def share_cell(num: int, total: int = NUM) -> Cell:
    low, high = wilson(num, total)
    return Cell(percent(num / total), f"{percent(low)} to {percent(high)}")


# Rates


def test_rates_image_by_image(run: Run, trial: Trial) -> None:
    measures = Measures(run)
    clean = row(outcome_table(measures, "made-up"), "clean")
    counts = [
        [*clean_outcomes(trial).values()].count(name) for name in ("correct", "null", "fooled")
    ]
    assert clean[1:] == [*map(share_cell, counts), Cell(str(NUM))]
    table, clean_rows = union_table(measures), worst_case_table(trial.rows).clean["outcome"]
    assert [cell.text for cell in table.columns[1:5]] == ["AER", "RAR", "strict", "null-DoS"]
    for eps in EPS:
        assert row(table, f"ε {eps}")[1:] == [
            *map(share_cell, rates(trial, eps).values()),
            Cell(str(NUM)),
        ]
    for metric in ("aer", "rar", "strict", "null_dos"):
        curve = points(measures, clean_rows, "made-up", metric)
        assert [point.eps for point in curve] == [0, *EPS]  # from the clean images on
        for point in curve:
            num = rates(trial, point.eps)[metric]
            assert point.mean == pytest.approx(num / NUM, abs=1e-6)
            assert point.interval == pytest.approx(wilson(num, NUM), abs=1e-6)


def test_proved_bounds_next_to_the_rates_under_attack(proved: Run) -> None:
    (trial,) = proved.trials
    measures = Measures(proved)
    table = union_table(measures)
    headings = [cell.text for cell in table.columns]
    assert headings[1:8] == ["AER", "AER ≤", "RAR", "RAR ≥", "strict", "strict ≥", "null-DoS"]
    assert headings[8:] == ["clean null", "n"]
    num_null = [*clean_outcomes(trial).values()].count("null")
    for eps in (0.1, 0.3):
        aer, rar, strict, dos = rates(trial, eps).values()
        of = trial.certified[trial.certified["eps_pixels"] == eps]
        columns = ["is_never_fooled", "is_rar_proved", "is_correct_proved"]
        never, rar_proved, strict_proved = (int(of[column].sum()) for column in columns)
        assert aer <= NUM - never
        assert rar_proved <= rar
        counts = [aer, NUM - never, rar, rar_proved, strict, strict_proved, dos, num_null]
        assert row(table, f"ε {eps}")[1:] == [*map(share_cell, counts), Cell(str(NUM))]
    only_proved, only_attacked = row(table, "ε 0.4"), row(table, "ε 0.2")
    assert [cell.text == "–" for cell in only_proved[1:8]] == [True, False] * 3 + [True]
    assert [cell.text == "–" for cell in only_attacked[1:8]] == [False, True] * 3 + [False]
    sentences = findings(measures, "made-up")
    assert any("The proved lower bound of RAR at that ε" in text for text in sentences)
    curves = security_curves(trial, measures)
    assert curves is not None
    assert "the proved lower bound of RAR" in curves.caption
    assert "RAR, proved lower bound" in texts(curves.panels[0].html)


def test_the_union_is_over_images_that_every_attack_was_run_on(trial: Trial) -> None:
    rows = trial.rows
    of = worst_case_table(rows[(rows["attack"] != "fgsm") | (rows["image"] < 30)])
    assert list(of.clean.index) == list(range(30))
    assert set(of.attacked["image"]) == set(range(30))
    assert SMALLEST in set(of.attacked["attack"])  # its successes count
    without = worst_case_table(rows[rows["attack"] != SMALLEST])
    assert list(without.clean.index) == list(range(NUM))  # it need not run on all images


def test_the_worst_answer_per_image(trial: Trial) -> None:
    of = worst_case_table(trial.rows)
    labels = of.clean["label"]
    for eps in (0.0, *EPS):
        answers, outcomes = of.answers(eps), outcomes_up_to(trial, eps)
        for image, answer in answers.items():
            found = outcomes[int(str(image))]
            assert (answer not in (-1, labels[image])) == ("fooled" in found)
            assert (answer == -1) == ("null" in found and "fooled" not in found)
        assert int((answers == labels).sum()) == rates(trial, eps)["strict"]


def test_the_first_wrong_class_counts() -> None:
    lines = [
        # image, attack, ε, prediction, outcome; the true class is 0
        (0, CLEAN, 0.0, 0, "correct"),
        (0, "a", 0.2, 3, "fooled"),
        (0, "b", 0.1, 2, "fooled"),
        (1, CLEAN, 0.0, 5, "fooled"),
        (1, "a", 0.2, 0, "correct"),
        (1, "b", 0.1, -1, "null"),
        (2, CLEAN, 0.0, 0, "correct"),
        (2, "a", 0.2, -1, "null"),
        (2, "b", 0.1, 0, "correct"),
    ]
    columns = ["image", "attack", "eps_pixels", "prediction", "outcome"]
    of = worst_case_table(pd.DataFrame(lines, columns=columns).assign(label=0, has_own_eps=False))
    assert of.answers(0.1).tolist() == [2, 5, 0]
    assert of.answers(0.2).tolist() == [2, 5, -1]


# Confusion matrices


def test_matrices_count_the_answers(page: Page, trial: Trial) -> None:
    of = worst_case_table(trial.rows)
    labels, panels = of.clean["label"], drawing(page, "Confusion matrices").panels
    headings = ["Clean", "Worst case over all attacks, ε 0.2"]
    assert [panel.heading for panel in panels] == headings
    for panel, answers in zip(panels, (of.clean["prediction"], of.answers(0.2)), strict=True):
        counts: dict[tuple[int, int], int] = {}
        for label, answer in zip(labels, answers, strict=True):
            counts[label, answer] = counts.get((label, answer), 0) + 1
        ticks = [*map(str, range(10)), "null", *map(str, range(10)), "answer", "true class"]
        assert sorted(texts(panel.html)) == sorted([*map(str, counts.values()), *ticks])
        table = counted(labels, answers, 10, True)
        assert table.sum() == NUM
        for (label, answer), count in counts.items():
            assert table[label, answer] == count  # -1 is the last column


# Successes and cost


def new_successes(trial: Trial, attack: str, aim: str, member: str | None) -> list[int]:
    """Per ε: images that become what the attack aims at, by one member or any."""
    done = {image for image, outcome in clean_outcomes(trial).items() if outcome == aim}
    counts = []
    for eps in EPS:
        rows = trial.rows
        of = rows[(rows["attack"] == attack) & np.isclose(rows["eps_pixels"], eps)]
        new = of[(of["outcome"] == aim) & ~of["image"].isin(done)]
        counts.append(int((new["member"] == member).sum()) if member else len(new))
        done |= set(new["image"])
    return counts


@pytest.mark.parametrize(
    ("attack", "aim"), [("worst-case", "fooled"), ("worst-case-force-null", "null")]
)
def test_successes_of_each_member(attack: str, aim: str, trial: Trial) -> None:
    table = cost_table(trial)
    names = [cells[0].text for cells in table.rows]
    start = names.index("worst-case ensemble" + " (force-null)" * (aim == "null"))
    assert names[start + 1 : start + 4] == [f"· {member}" for member in MEMBERS]
    total, *parts = table.rows[start : start + 4]
    assert [int(cell.text) for cell in total[1:5]] == new_successes(trial, attack, aim, None)
    for cells, member in zip(parts, MEMBERS, strict=True):
        assert [int(cell.text) for cell in cells[1:5]] == new_successes(trial, attack, aim, member)
    # the first member gets the active images, the others those that remain
    num_active = sum(outcome != aim for outcome in clean_outcomes(trial).values())
    for column in range(1, 5):
        assert total[column].small == parts[0][column].small == f"of {num_active}"
        for cells in parts:
            assert cells[column].small == f"of {num_active}"
            num_active -= int(cells[column].text)
    assert total[5].text == "–"
    costs = trial.costs[trial.costs["attack"] == attack]
    assert total[6].text == f"{costs['num_forwards'].sum() / NUM:.1f}"
    for column in (6, 7, 8):
        added = sum(float(cells[column].text) for cells in parts)
        assert added == pytest.approx(float(total[column].text), abs=0.2)


def test_single_attacks_are_one_row_each(trial: Trial) -> None:
    table = cost_table(trial)
    assert [cell.text for cell in row(table, "FGSM")[5:]] == ["–", "4.0", "4.0", "1.0"]
    cells = row(table, "search for the smallest ε")
    assert [cell.text for cell in cells[1:5]] == ["–"] * 4
    found = int((trial.rows["member"] == SMALLEST).sum())
    assert cells[5] == Cell(str(found), "of 40")
    assert (cells[6].text, cells[7].text) == ("20.0", "10.0")


# The null score


def slow_auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    return float(np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative]))


def test_areas_are_those_of_all_pairs(page: Page, trial: Trial) -> None:
    rows = trial.rows
    clean = rows.loc[rows["attack"] == CLEAN, "null_score"].to_numpy()
    attacked, ood = drawing(page, "ROC of the null score").panels
    for eps in EPS:
        is_it = (rows["attack"] == "worst-case") & np.isclose(rows["eps_pixels"], eps)
        area = slow_auroc(rows.loc[is_it, "null_score"].to_numpy(), clean)
        name = f"worst-case ensemble, ε {eps}"
        assert f"{name}: {100 * area:.1f} % (120)" in texts(attacked.html)
        cells = row(separation_table(trial), name)
        assert (cells[0].small, cells[1].text) == (OPTIMISTIC, percent(area))
    for source, of in trial.ood.groupby("source"):
        area = slow_auroc(of["null_score"].to_numpy(), clean)
        assert f"{source}: {100 * area:.1f} % (120)" in texts(ood.html)
        cells = row(ood_table(trial), str(source))
        assert cells[1] == share_cell(int((of["prediction"] == -1).sum()))
        assert cells[2].text == percent(area)
        # the highest threshold that rejects 114 of 120
        threshold = np.sort(of["null_score"])[6]
        assert cells[3].text == percent(float((clean >= threshold).mean()))


def test_rejection_by_the_null_score(trial: Trial) -> None:
    clean = trial.rows[trial.rows["attack"] == CLEAN].sort_values("null_score")
    wrong = (clean["real_prediction"] != clean["label"]).to_numpy()
    risks = wrong.cumsum() / np.arange(1, NUM + 1)
    table = selective_table(trial)
    assert row(table, "AURC, clean")[1].text == percent(float(risks.mean()), 3)
    held_out = trial.held_out
    correct = held_out[held_out["real_prediction"] == held_out["label"]]["null_score"]
    threshold = np.sort(correct)[math.ceil(0.99 * len(correct)) - 1]
    given = trial.rows[~trial.rows["has_own_eps"]]
    for eps in EPS:
        within = given[given["eps_pixels"] <= eps + 1e-9]
        accepted = within[within["null_score"] <= threshold]
        failed = accepted[accepted["real_prediction"] != accepted["label"]]
        expected = failed["image"].nunique() / accepted["image"].nunique()
        cells = row(table, f"RErr at 99 % TPR, ε {eps}")
        assert (cells[0].small, cells[1].text) == (OPTIMISTIC, percent(expected))
    informed = with_files(trial, scores=trial.scores.assign(is_optimistic=False))
    for known in (separation_table(informed), selective_table(informed)):
        assert not any(cells[0].small for cells in known.rows)


@pytest.mark.parametrize("scores", [[5.0] * 9, [0.0] * 9, [-1e4, 0, 1, 2, 3, 4, 5, 6, 1e4]])
def test_histograms_of_unusual_scores(scores: list[float], run: Run, trial: Trial) -> None:
    clean = trial.rows[trial.rows["attack"] == CLEAN].head(9).assign(null_score=scores)
    odd = with_files(trial, rows=clean, ood=trial.ood.head(0))
    histograms = null_scores(odd, Measures(run))
    assert histograms is not None
    assert "clean (9)" in texts(histograms.panels[0].html)


def test_the_attack_and_the_budgets_to_show(trial: Trial) -> None:
    rows = trial.rows
    assert strongest(rows) == WORST_CASE
    assert strongest(rows[rows["attack"] != WORST_CASE]) == "fgsm"
    renamed = rows.replace({"attack": {WORST_CASE: "pgd", "fgsm": "another"}})
    assert strongest(renamed) == "pgd"
    assert strongest(rows[rows["attack"].isin([CLEAN, SMALLEST])]) is None
    expected = {1: [0], 2: [0, 9], 4: [0, 3, 6, 9], 99: [*range(10)]}
    assert {num: subsample(range(10), num) for num in expected} == expected


# The smallest ε


def test_the_distribution_of_the_smallest_eps(page: Page, run: Run, trial: Trial) -> None:
    rows = trial.rows[trial.rows["attack"] == SMALLEST]
    sizes = sorted(
        eps if member == SMALLEST else math.inf
        for eps, member in zip(rows["eps_pixels"], rows["member"], strict=True)
    )
    assert sorted(robustness_distribution(trial.rows, trial.proved_eps)["fooled_at"]) == sizes
    shown = drawing(page, "The smallest ε that fools")
    never = sum(map(math.isinf, sizes))
    assert never > 0
    assert f"Not fooled by any ε: {percent(never / 40)} %" in shown.caption
    assert f"ε {sizes[19]:.3g} or less (median)" in shown.caption
    none = rows.assign(member=NO_MEMBER, eps_pixels=1.0)
    nothing = smallest_eps(with_files(trial, rows=none), Measures(run))
    assert nothing is not None
    assert "More than half of the images are never fooled" in nothing.caption


def test_the_distribution_between_attack_and_proof(tmp_path: Path) -> None:
    settings = SMALL | {"num_smallest": 40}
    run = read_run(write_fake_evaluation(tmp_path, **settings, has_proved_eps=True))
    (trial,) = run.trials
    found = robustness_distribution(trial.rows, trial.proved_eps)
    shown = smallest_eps(trial, Measures(run))
    assert shown is not None
    assert "The true curve is between the two (interval bounds)." in shown.caption
    assert {"not proved safe", "open: neither"} <= set(texts(shown.panels[0].html))
    table = distribution_table(trial, Measures(run))
    proved, fooled = (sorted(found[name]) for name in ("proved_to", "fooled_at"))
    assert [cell.text for cell in row(table, "50 %")[1:]] == [
        f"{proved[19]:.3g}",
        f"{fooled[19]:.3g}",
    ]
    assert [cell.text for cell in row(table, "95 %")[1:]] == [f"{proved[37]:.3g}", "–"]
    assert table is not None
    num_none = proved.count(-math.inf)
    assert 6 <= num_none < 20
    assert f"Nothing is proved of {num_none} images. Images fooled within" in table.caption
    assert "within their proved ε: 0 (any" in table.caption
    broken = with_files(trial, proved_eps=trial.proved_eps.assign(eps_pixels=0.5))
    table = distribution_table(broken, Measures(run))
    num = sum(p > -math.inf and f <= 0.5 for p, f in found[["proved_to", "fooled_at"]].to_numpy())
    assert num
    assert table is not None
    assert f"within their proved ε: {num} (any" in table.caption


@pytest.mark.parametrize("sizes", [[0.3], [0.1, 0.2], [0.1, 0.2, math.inf], [0.1, *[math.inf] * 2]])
def test_half_of_the_images_are_fooled_at_the_median(sizes: list[float]) -> None:
    values = np.array(sizes)
    median = quantile(pd.Series(values), 0.5)
    assert np.mean(values <= median) >= 0.5
    assert np.mean(values < median) < 0.5


def test_the_gallery_names_the_smallest_eps_of_each_image(page: Page, trial: Trial) -> None:
    (panel,) = drawing(page, "Gallery").panels
    answer = r"(\w+) <small>0.\d+</small>"
    shown = re.findall(
        rf"true (\d) <span>\w+ <small>0.95</small> → {answer} at ε ([\d.e-]+)", panel.html
    )
    rows = trial.rows[(trial.rows["attack"] == SMALLEST) & (trial.rows["member"] == SMALLEST)]
    expected = rows.sort_values("eps_pixels", kind="stable").head(len(shown))
    assert len(shown) == 6
    for (label, answer, eps), line in zip(shown, expected.itertuples(), strict=True):
        assert (int(label), int(answer)) == (line.label, line.prediction)
        assert float(eps) == pytest.approx(line.eps_pixels, rel=5e-3)


# Red flags and the threat model


def test_no_flags_and_no_checks_differ(trial: Trial) -> None:
    def shown(**changes: object) -> str:
        of = replace(trial, result=structs.replace(trial.result, **changes))
        return render(Page("", "", [], [Section("Red flags", trial_flags(of))]))

    assert f"None of the {len(CHECKS)} automatic checks found a reason" in shown(flags=[])
    assert "Not checked" in shown(flags=[], probes={})
    flag = Flag(name="zero-gradients", message="<script>alert(1)</script>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown(flags=[flag])


def with_threat(trial: Trial, **changes: Any) -> Trial:
    threat = structs.replace(trial.result.threat, **changes)
    return replace(trial, result=structs.replace(trial.result, threat=threat))


def test_the_threat_model_has_every_attack(run: Run, trial: Trial) -> None:
    attacks = trial.result.threat.attacks
    attacks |= {"pgd": structs.replace(attacks["fgsm"], source="substitute")}
    of = with_files(with_threat(trial, attacks=attacks), rows=trial.rows)
    table = next(block for block in threat_model(of, Measures(run)) if isinstance(block, Table))
    assert row(table, "worst-case ensemble") == [
        Cell("worst-case ensemble", "worst-case 1"),
        Cell("a wrong class"),
        Cell("gradients and scores"),
        Cell("the model itself"),
        Cell("0.05, 0.1, 0.2, 0.3"),
        Cell(str(NUM)),
    ]
    assert row(table, "worst-case ensemble (force-null)")[1] == Cell("null")
    assert row(table, "FGSM")[:2] == [Cell("FGSM"), Cell("anything but the true class")]
    assert row(table, "PGD")[3] == Cell("another model (substitute)")


def test_the_threshold_and_its_origin(run: Run, trial: Trial) -> None:
    def rule(**changes: Any) -> str:
        known = {"origin": "held-out", "clean_null_rate": 0.01, "held_out_null_rate": 0.0096}
        known |= {"value": 1.5, "num_images": 5000, "num_overlapping": 0, "images_sha256": None}
        threshold = ThresholdInfo(**(known | changes))
        of = with_files(with_threat(trial, threshold=threshold), rows=trial.rows)
        terms = next(block for block in threat_model(of, Measures(run)) if isinstance(block, Terms))
        return dict(terms.pairs)["null"]

    assert rule() == (
        "null score above 1.5, calibrated on 5,000 held-out clean images for a null rate of at "
        "most 1.00 %; on these images it is 0.96 %"
    )
    assert rule(num_overlapping=40).endswith("0.96 %; 40 of them are also test images")
    for unknown in (rule(origin="unknown"), rule(num_images=0, clean_null_rate=None)):
        assert unknown.endswith("above 1.5; the images it was calibrated on are not recorded")


@pytest.mark.parametrize("verifier", ["interval", "cascade"])
def test_null_of_a_proved_model(verifier: str, run: Run, trial: Trial) -> None:
    budget = 64 if verifier == "cascade" else None
    of = with_threat(trial, proof=ProofInfo(0.15, "linf", verifier, budget))
    (terms,) = (each for each in threat_model(of, Measures(run)) if isinstance(each, Terms))
    text = dict(terms.pairs)["null"]
    parts = " with 64 parts per image" if budget else ""
    assert text.startswith(
        f"unless the verifier {verifier}{parts} proves one class within 0.15 (L∞)"
    )
    assert ("interval bounds, and the whole cascade answers" in text) == (verifier == "cascade")


def test_what_the_weights_were_selected_on(run: Run, trial: Trial) -> None:
    for selected_on, text in ((None, "unknown"), ("nothing", "nothing: the last epoch; ")):
        of = with_threat(trial, selected_on=selected_on)
        (terms,) = (each for each in threat_model(of, Measures(run)) if isinstance(each, Terms))
        assert dict(terms.pairs)["weights selected on"].startswith(text)


# Missing parts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (
            SMALL | {"num_classes": MOST_CLASSES + 1},
            [
                "Inputs of no class",
                "RErr at 99",
                "smallest ε that",
                "Rows: ",
            ],
        ),
        (
            SMALL | {"attacks": ("fgsm",), "norm": "l2", "num_classes": 2},
            ["(force-null)", "L∞, "],
        ),
        (
            SMALL | {"attacks": ("worst-case-force-null",), "num_classes": MOST_CLASSES},
            ["AER</", "RAR</", "AER:"],
        ),
        (
            {"has_null": False, "attacks": ("worst-case",), "eps": (0.0, 0.3)},
            ["dashed line", "(null-DoS).", "the model's own decision", "(force-null)", ">null</t"],
        ),
    ],
    ids=["only rates", "one step", "only force-null", "no null"],
)
def test_missing_parts_leave_nothing_empty(
    settings: dict[str, Any], missing: list[str], tmp_path: Path
) -> None:
    write_fake_evaluation(tmp_path, num_images=40, **settings)
    run = read_run(tmp_path)
    shown = draw_page(run)
    check_blocks(shown)
    html = render(shown).split("Definitions</h2>")[0].replace("\u00a0", " ")
    assert [text for text in missing if text in html and not text.startswith(">null")] == []
    if ">null</t" in missing:
        assert all("null" not in texts(p.html) for p in drawing(shown, "Confusion matrices").panels)
    assert ("No matrix is drawn" in html) == (settings.get("num_classes", 0) > MOST_CLASSES)
    summary_table(run)


# The page


def test_the_written_page(folder: Path, page: Page) -> None:
    check_blocks(page)
    path = write_page(folder, page)
    check_html(path)
    check_same_bytes(path)
    names = {panel.file for panel in page.panels() if panel.file}
    assert len(names) == 8
    assert {path.name for path in (folder / schema.FIGURES).iterdir()} == {
        f"{name}.{ending}" for name in names for ending in ("svg", "png")
    }
    for name in names:
        assert (folder / schema.FIGURES / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    html = path.read_text(encoding="utf-8")
    positions = [html.index(f"<b>{flag.name}</b>") for flag in FLAGS]
    assert html.index('class="found"') < html.index("<h2>") < min(positions)
    assert max(positions) < html.index("<h2>Threat model</h2>") < html.index("<h2>Results</h2>")
    for flag in FLAGS:
        assert f"{flag.message} See docs/red-flags.md#{flag.name}" in text_of(html)
    scores = texts(drawing(page, "The null score").panels[0].html)
    names = ["clean", *(f"worst-case ensemble, ε {eps}" for eps in EPS), "noise", "blank", "tiles"]
    assert [text for text in scores if "(120)" in text] == [f"{name} (120)" for name in names]


def test_the_terminal_tables(run: Run, trial: Trial) -> None:
    lines = terminal_lines(summary_table(run))
    heads = next(index for index, line in enumerate(lines) if "null-DoS" in line)
    assert lines[heads].split() == ["budget", "AER", "RAR", "strict", "null-DoS", "n"]
    shown = [line.split() for line in lines[heads + 2 : heads + 6]]
    assert shown == [
        ["ε", str(eps), *(percent(num / NUM) for num in rates(trial, eps).values()), str(NUM)]
        for eps in EPS
    ]
    hostile = Table("[b]title", [Cell("[red]x")], [[Cell("[/]")]])
    assert "[/]" in "".join(terminal_lines(on_terminal([hostile])))


def test_rates_of_null_need_an_attack_that_forces_it(tmp_path: Path) -> None:
    run = read_run(write_fake_evaluation(tmp_path, attacks=("worst-case",), num_images=30))
    assert [c.text for c in union_table(Measures(run)).columns[1:]] == ["AER", "RAR", "n"]
    assert "null-DoS" not in " ".join(findings(Measures(run), "made-up"))


def test_default_attacks_have_display_names() -> None:
    from nullclass.evaluation.record import DEFAULT_ATTACKS
    from nullclass.report.formatting import NAMES

    assert {name for names in DEFAULT_ATTACKS.values() for name in names} <= set(NAMES)

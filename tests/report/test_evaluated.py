"""The page of one evaluation: its numbers against slow counting from the rows, its parts."""

from __future__ import annotations

import html as html_text
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_evaluation import FLAGS, MEMBERS, write_fake_evaluation
from fake_run import with_files, write_fake_run

from nullclass.core.errors import UserError
from nullclass.diagnostics.red_flags import CHECKS, Flag
from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Cell, Drawing, Page, Section, Table, Terms
from nullclass.report.evaluation_page import evaluated
from nullclass.report.evaluation_tables import (
    clean_table,
    cost_table,
    ood_table,
    selective_table,
    separation_table,
    union_table,
)
from nullclass.report.figures import EVALUATED
from nullclass.report.figures.confusion import MOST_CLASSES, counted
from nullclass.report.figures.contribution import FALLEN, shares_felled
from nullclass.report.figures.security_curves import clean_counts, points
from nullclass.report.figures.smallest_eps import Smallest, smallest_of
from nullclass.report.flags import flags_of
from nullclass.report.judged import judged, strongest
from nullclass.report.measures import SMALLEST, WORST_CASE, Measures, percent
from nullclass.report.populations import some_of
from nullclass.report.threat import threat_card
from nullclass.results import frames, schema, store
from nullclass.results.store import Run, Trial, read_run
from nullclass.studies.write_report import render, summary_table, write_report

EPS = (0.05, 0.1, 0.2, 0.3)

SMALL: dict[str, Any] = {"eps": (0.1,), "ood": (), "num_held_out": 0, "num_smallest": 0}
"""What a test that looks at something else leaves out."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_evaluation(tmp_path_factory.mktemp("whole"), flags=FLAGS)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.fixture(scope="module")
def trial(run: Run) -> Trial:
    (only,) = run.trials
    return only


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def row(table: Table | None, name: str) -> list[Cell]:
    assert table is not None
    (found,) = [cells for cells in table.rows if cells[0].text == name]
    return found


def flags_in(folder: Path) -> str:
    (only,) = read_run(folder).trials
    return render(Page("", "", [], [Section("Red flags", flags_of(only))]))


def drawn(run: Run, name: str) -> Drawing:
    drawing = EVALUATED[name](run)
    assert drawing is not None
    return drawing


def texts(svg: str) -> list[str]:
    """What is written in a figure."""
    return [html_text.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def became(trial: Trial, eps: float) -> dict[int, set[str]]:
    """Outcomes that each image had, clean or under any attack at eps or below."""
    found: dict[int, set[str]] = {}
    for line in trial.rows.itertuples():
        if line.eps_pixels <= eps + 1e-9:
            found.setdefault(int(line.image), set()).add(str(line.outcome))
    return found


def clean_outcomes(trial: Trial) -> dict[int, str]:
    clean = trial.rows[trial.rows["attack"] == "none"]
    return dict(zip(clean["image"], clean["outcome"], strict=True))


def rates(trial: Trial, eps: float) -> dict[str, int]:
    was, did = clean_outcomes(trial), became(trial, eps)
    right = [image for image in did if was[image] == "correct"]
    return {
        "AER": sum("fooled" in of for of in did.values()),
        "RAR": sum("fooled" not in did[image] for image in right),
        "strict": sum(did[image] == {"correct"} for image in right),
        "null-DoS": sum("null" in did[image] for image in right),
    }


def share_cell(num: int, total: int, digits: int = 2) -> Cell:
    low, high = wilson(num, total)
    return Cell(percent(num / total, digits), f"{percent(low)} to {percent(high)}")


# Rates


def test_the_clean_triple(run: Run, trial: Trial) -> None:
    (cells,) = clean_table(Measures(run), "made-up").rows
    was = list(clean_outcomes(trial).values())
    for cell, word in zip(cells[1:4], ("correct", "null", "fooled"), strict=True):
        assert cell == share_cell(was.count(word), 120)
    assert cells[4].text == "120"


def test_rates_of_the_union_image_by_image(run: Run, trial: Trial) -> None:
    table = union_table(Measures(run), "made-up")
    assert table is not None
    assert [cell.text for cell in table.columns[1:5]] == ["AER", "RAR", "strict", "null-DoS"]
    for eps in EPS:
        expected = [share_cell(num, 120) for num in rates(trial, eps).values()]
        assert row(table, f"ε {eps}")[1:] == [*expected, Cell("120")]


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("proved")
    return read_run(write_fake_evaluation(folder, **(SMALL | {"eps": EPS}), proved=(0.1, 0.3, 0.4)))


def test_what_is_proved_stands_beside_what_attacks_left(proved: Run) -> None:
    (trial,) = proved.trials
    table = union_table(Measures(proved), "made-up")
    assert table is not None
    headings = [cell.text for cell in table.columns]
    assert headings[1:8] == ["AER", "AER ≤", "RAR", "RAR ≥", "strict", "strict ≥", "null-DoS"]
    assert headings[8:] == ["clean null", "n"]
    clean_null = clean_outcomes(trial).values()
    for eps in (0.1, 0.3):
        attacked = list(rates(trial, eps).values())
        of = trial.certified[trial.certified["eps_pixels"] == eps]
        bounds = [
            120 - int(of["is_never_fooled"].sum()),
            int(of["is_rar_proved"].sum()),
            int(of["is_correct_proved"].sum()),
        ]
        aer, rar, strict, dos = attacked
        assert aer <= bounds[0]
        assert bounds[1] <= rar
        expected = [aer, bounds[0], rar, bounds[1], strict, bounds[2], dos]
        cells = [*map(share_cell, expected, [120] * 7)]
        cells.append(share_cell([*clean_null].count("null"), 120))
        assert row(table, f"ε {eps}")[1:] == [*cells, Cell("120")]
    only = row(table, "ε 0.4")  # proved only
    assert [cell.text for cell in only[1:8:2]] == ["–"] * 4
    assert only[4].text != "–"
    assert row(table, "ε 0.2")[4].text == "–"  # attacked only


def test_proofs_are_drawn_and_told(proved: Run) -> None:
    page = evaluated(proved)
    assert any("Proved, whatever the attack: at that ε RAR is at least" in t for t in page.findings)
    drawn = EVALUATED["security-curves"](proved)
    assert drawn is not None
    assert "the RAR that is proved" in drawn.caption
    (drawing,) = drawn.panels
    assert "RAR proved" in str(drawing.html)
    from rich.console import Console

    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary_table(proved))
    told = console.export_text()
    assert "RAR ≥" in told
    assert "proved, against every attack" in told


def test_curves_begin_at_the_clean_images(run: Run, trial: Trial) -> None:
    measures, start = Measures(run), clean_counts(judged(trial.rows))
    metrics = ("aer", "rar", "strict", "null_dos")
    for metric, name in zip(metrics, ("AER", "RAR", "strict", "null-DoS"), strict=True):
        told = points(measures, "made-up", metric, start[metric])
        assert [eps for eps, *_ in told] == [0, *EPS]
        for eps, rate, low, high in told:
            num = rates(trial, eps)[name]
            assert rate == pytest.approx(num / 120, abs=1e-6)
            assert (low, high) == pytest.approx(wilson(num, 120), abs=1e-6)


def test_only_images_that_every_attack_saw_are_judged(trial: Trial) -> None:
    rows = trial.rows
    fewer = rows[(rows["attack"] != "fgsm") | (rows["image"] < 30)]
    of = judged(fewer)
    assert list(of.clean.index) == list(range(30))
    assert set(of.adv_images["image"]) == set(range(30))
    assert SMALLEST in set(of.adv_images["attack"])  # whoever falls to it has fallen
    without = judged(rows[rows["attack"] != SMALLEST])
    assert list(without.clean.index) == list(range(120))  # it need not see all


def test_every_image_has_one_answer_and_the_worst(trial: Trial) -> None:
    of = judged(trial.rows)
    labels = of.clean["label"]
    for eps in (0.0, *EPS):
        answers, did = of.answers(eps), became(trial, eps)
        for image, answer in answers.items():
            told = did[int(str(image))]
            is_fooled = answer not in (-1, labels[image])
            assert is_fooled == ("fooled" in told)
            assert (answer == -1) == ("null" in told and "fooled" not in told)
        num = rates(trial, eps)
        assert int((answers == labels).sum()) == num["strict"]


def test_the_first_fooling_answer_counts() -> None:
    lines = [
        # image, attack, eps, prediction, outcome, of true class 0
        (0, "none", 0.0, 0, "correct"),
        (0, "a", 0.2, 3, "fooled"),
        (0, "b", 0.1, 2, "fooled"),
        (1, "none", 0.0, 5, "fooled"),
        (1, "a", 0.2, 0, "correct"),
        (1, "b", 0.1, -1, "null"),
        (2, "none", 0.0, 0, "correct"),
        (2, "a", 0.2, -1, "null"),
        (2, "b", 0.1, 0, "correct"),
    ]
    columns = ["image", "attack", "eps_pixels", "prediction", "outcome"]
    rows = pd.DataFrame(lines, columns=columns).assign(label=0, budget="given")
    of = judged(rows)
    assert of.answers(0.1).tolist() == [2, 5, 0]
    assert of.answers(0.2).tolist() == [2, 5, -1]


# Confusion


def test_matrices_count_the_answers(run: Run, trial: Trial) -> None:
    of = judged(trial.rows)
    labels = of.clean["label"]
    drawing = drawn(run, "confusion")
    assert [panel.heading for panel in drawing.panels] == ["Clean", "Under all attacks, ε 0.2"]
    for panel, answers in zip(
        drawing.panels, (of.clean["prediction"], of.answers(0.2)), strict=True
    ):
        counts: dict[tuple[int, int], int] = {}
        for label, answer in zip(labels, answers, strict=True):
            counts[label, answer] = counts.get((label, answer), 0) + 1
        ticks = [*map(str, range(10)), "null", *map(str, range(10)), "answer", "true class"]
        assert sorted(texts(panel.html)) == sorted([*map(str, counts.values()), *ticks])
        table = counted(labels, answers, 10, True)
        assert table.sum() == 120
        for (label, answer), count in counts.items():
            assert table[label, answer] == count  # -1 is the last column


def test_without_null_there_is_no_column_for_it(tmp_path: Path) -> None:
    plain = read_run(write_fake_evaluation(tmp_path, has_null=False, attacks=("worst-case",)))
    for panel in drawn(plain, "confusion").panels:
        assert "null" not in texts(panel.html)
    assert "dashed" not in " ".join(texts(drawn(plain, "null-scores").panels[0].html))


@pytest.mark.parametrize("num_classes", [2, MOST_CLASSES, MOST_CLASSES + 1])
def test_many_classes_get_no_matrix(num_classes: int, tmp_path: Path) -> None:
    write_fake_evaluation(tmp_path, num_classes=num_classes, num_images=40, **SMALL)
    drawing = EVALUATED["confusion"](read_run(tmp_path))
    assert (drawing is not None) == (num_classes <= MOST_CLASSES)


def test_instead_of_a_matrix_stands_a_sentence(tmp_path: Path) -> None:
    write_fake_evaluation(tmp_path, num_classes=1000, num_images=40, **SMALL)
    assert "Of 1,000 classes no matrix is drawn" in render(evaluated(read_run(tmp_path)))


# What each attack did


def newly_felled(trial: Trial, attack: str, aim: str, member: str | None) -> list[int]:
    """By eps: images that came to be what the attack wants, by a member or any."""
    done = {image for image, outcome in clean_outcomes(trial).items() if outcome == aim}
    counts = []
    for eps in EPS:
        rows = trial.rows
        here = rows[(rows["attack"] == attack) & np.isclose(rows["eps_pixels"], eps)]
        fell = here[(here["outcome"] == aim) & ~here["image"].isin(done)]
        counts.append(int((fell["member"] == member).sum()) if member else len(fell))
        done |= set(fell["image"])
    return counts


@pytest.mark.parametrize(
    ("attack", "aim"), [("worst-case", "fooled"), ("worst-case-force-null", "null")]
)
def test_what_each_member_felled(attack: str, aim: str, trial: Trial) -> None:
    table = cost_table(trial)
    assert table is not None
    names = [cells[0].text for cells in table.rows]
    start = names.index("worst-case ensemble" + " (deny)" * (attack == "worst-case-force-null"))
    assert names[start + 1 : start + 4] == [f"· {member}" for member in MEMBERS]
    whole, *parts = table.rows[start : start + 4]
    assert [int(cell.text) for cell in whole[1:5]] == newly_felled(trial, attack, aim, None)
    for cells, member in zip(parts, MEMBERS, strict=True):
        assert [int(cell.text) for cell in cells[1:5]] == newly_felled(trial, attack, aim, member)
    # The first is given what stands, the others what it left.
    standing = sum(outcome != aim for outcome in clean_outcomes(trial).values())
    for column in range(1, 5):
        assert whole[column].small == parts[0][column].small == f"of {standing}"
        for cells in parts:
            assert cells[column].small == f"of {standing}"
            standing -= int(cells[column].text)
    assert whole[5].text == "–"
    costs = trial.costs[trial.costs["attack"] == attack]
    assert whole[6].text == f"{costs['num_forward'].sum() / 120:.1f}"
    for place in (6, 7, 8):
        added = sum(float(cells[place].text) for cells in parts)
        assert added == pytest.approx(float(whole[place].text), abs=0.2)


def test_single_attacks_are_a_line_each(trial: Trial) -> None:
    table = cost_table(trial)
    assert [cell.text for cell in row(table, "FGSM")[5:]] == ["–", "4.0", "4.0", "1.0"]
    cells = row(table, "search for the smallest ε")
    assert [cell.text for cell in cells[1:5]] == ["–"] * 4
    found = int((trial.rows["member"] == SMALLEST).sum())
    assert cells[5] == Cell(str(found), "of 40")
    assert (cells[6].text, cells[7].text) == ("20.0", "10.0")


def test_bars_add_up_to_what_has_fallen(trial: Trial) -> None:
    costs = trial.costs[trial.costs["attack"] == "worst-case"]
    shares = shares_felled(costs, 120)
    assert list(shares.columns) == [FALLEN, "margin", "targets"]  # square felled nothing
    for eps in EPS:
        here = trial.rows[
            (trial.rows["attack"] == "worst-case") & np.isclose(trial.rows["eps_pixels"], eps)
        ]
        fooled = int((here["outcome"] == "fooled").sum())
        assert shares.loc[eps].sum() == pytest.approx(fooled / 120)
    assert shares[FALLEN].iloc[1] == pytest.approx(shares.iloc[0].sum())


def test_a_panel_an_ensemble(run: Run) -> None:
    drawing = drawn(run, "contribution")
    assert [panel.file for panel in drawing.panels] == [
        "fig_contribution_worst-case",
        "fig_contribution_worst-case-force-null",
    ]
    for panel in drawing.panels:
        assert {"fallen before", "margin", "targets"} <= set(texts(panel.html))
        assert "square" not in texts(panel.html)


# The null score


def slow_auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return float(np.mean(pairs))


def test_areas_are_those_of_all_pairs(run: Run, trial: Trial) -> None:
    rows = trial.rows
    clean = rows.loc[rows["attack"] == "none", "null_score"].to_numpy()
    attacked, outside = drawn(run, "roc").panels
    for eps in EPS:
        is_it = (rows["attack"] == "worst-case") & np.isclose(rows["eps_pixels"], eps)
        area = slow_auroc(rows.loc[is_it, "null_score"].to_numpy(), clean)
        told = f"worst-case ensemble, ε {eps}"
        assert f"{told}: {100 * area:.1f} % (120)" in texts(attacked.html)
        assert row(separation_table(trial), told)[1].text == percent(area)
    for source, of in trial.ood.groupby("source"):
        area = slow_auroc(of["null_score"].to_numpy(), clean)
        assert f"{source}: {100 * area:.1f} % (120)" in texts(outside.html)
        cells = row(ood_table(trial), str(source))
        assert cells[1] == share_cell(int((of["prediction"] == -1).sum()), 120)
        assert cells[2].text == percent(area)
        # the highest threshold that refuses 114 of 120
        threshold = np.sort(of["null_score"])[6]
        assert cells[3].text == percent(float((clean >= threshold).mean()))


def test_refusing_by_the_null_score(run: Run, trial: Trial) -> None:
    clean = trial.rows[trial.rows["attack"] == "none"].sort_values("null_score")
    wrong = (clean["real_prediction"] != clean["label"]).to_numpy()
    risks = wrong.cumsum() / np.arange(1, 121)
    table = selective_table(trial)
    assert row(table, "AURC, clean")[1].text == percent(float(risks.mean()), 3)
    legend = texts(drawn(run, "risk-coverage").panels[0].html)
    assert any(text.startswith(f"clean: AURC {100 * risks.mean():.3g} %") for text in legend)
    held_out = trial.held_out
    right = held_out[held_out["real_prediction"] == held_out["label"]]["null_score"]
    threshold = np.sort(right)[math.ceil(0.99 * len(right)) - 1]
    given = trial.rows[trial.rows["budget"] == "given"]
    for eps in EPS:
        within = given[given["eps_pixels"] <= eps + 1e-9]
        accepted = within[within["null_score"] <= threshold]
        failed = accepted[accepted["real_prediction"] != accepted["label"]]
        expected = failed["image"].nunique() / accepted["image"].nunique()
        assert row(table, f"RErr at 99 % TPR, ε {eps}")[1].text == percent(expected)


def test_histograms_name_what_they_count(run: Run) -> None:
    told = texts(drawn(run, "null-scores").panels[0].html)
    names = ["clean", *(f"worst-case ensemble, ε {eps}" for eps in EPS), "noise", "blank", "tiles"]
    assert [text for text in told if "(120)" in text] == [f"{name} (120)" for name in names]
    assert any("null score" in text for text in told)


@pytest.mark.parametrize("scores", [[5.0] * 9, [0.0] * 9, [-1e4, 0, 1, 2, 3, 4, 5, 6, 1e4]])
def test_histograms_of_odd_scores(scores: list[float], run: Run, trial: Trial) -> None:
    clean = trial.rows[trial.rows["attack"] == "none"].head(9).assign(null_score=scores)
    nothing = trial.ood.head(0)
    odd = replace(run, trials=[with_files(trial, rows=clean, ood=nothing)])
    assert "clean (9)" in texts(drawn(odd, "null-scores").panels[0].html)


def test_the_attack_to_show_is_the_strongest(trial: Trial) -> None:
    rows = trial.rows
    assert strongest(rows) == WORST_CASE
    assert strongest(rows[rows["attack"] != WORST_CASE]) == "fgsm"
    renamed = rows.replace({"attack": {WORST_CASE: "pgd", "fgsm": "evading"}})
    assert strongest(renamed) == "pgd"
    assert strongest(rows[rows["attack"].isin(["none", SMALLEST])]) is None


@pytest.mark.parametrize(
    ("num", "expected"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (99, [*range(10)])]
)
def test_some_of_many(num: int, expected: list[int]) -> None:
    assert some_of(range(10), num) == expected


# The smallest eps


def test_the_smallest_eps_are_counted(run: Run, trial: Trial) -> None:
    found = smallest_of(run)
    assert found is not None
    rows = trial.rows[trial.rows["attack"] == SMALLEST]
    sizes = [
        eps if member == SMALLEST else math.inf
        for eps, member in zip(rows["eps_pixels"], rows["member"], strict=True)
    ]
    assert found[0].sizes.tolist() == sorted(sizes)
    assert found[0].num_found == sum(map(math.isfinite, sizes))
    caption = drawn(run, "smallest-eps").caption
    never = len(sizes) - found[0].num_found
    assert never > 0
    assert f"Never fooled, by any ε: {percent(never / 40)} %" in caption
    assert f"ε {sorted(sizes)[19]:.3g} or less (median)" in caption
    assert f"median ε {sorted(sizes)[19]:.3g}" in texts(drawn(run, "smallest-eps").panels[0].html)


@pytest.mark.parametrize(
    ("sizes", "median"),
    [
        ([0.3], 0.3),
        ([0.1, 0.2], 0.1),
        ([0.1, 0.2, math.inf], 0.2),
        ([0.1, math.inf, math.inf], math.inf),
    ],
)
def test_half_of_the_images_fall_by_the_median(sizes: list[float], median: float) -> None:
    assert Smallest(np.array(sizes)).median == median
    assert np.mean(np.array(sizes) <= median) >= 0.5
    assert np.mean(np.array(sizes) < median) < 0.5


def test_nothing_found_has_no_median(run: Run, trial: Trial) -> None:
    rows = trial.rows[trial.rows["attack"] == SMALLEST].assign(member="none", eps_pixels=1.0)
    odd = replace(run, trials=[with_files(trial, rows=rows)])
    drawing = drawn(odd, "smallest-eps")
    assert "More than half of the images were never fooled" in drawing.caption
    assert "median ε" not in " ".join(texts(drawing.panels[0].html))


def test_images_that_fall_first_stand_first(run: Run, trial: Trial) -> None:
    (panel,) = drawn(run, "first-to-fall").panels
    told = re.findall(r"(\d) → (\w+) at ε ([\d.e-]+) <span>difference × ([\d.]+)<", panel.html)
    rows = trial.rows[(trial.rows["attack"] == SMALLEST) & (trial.rows["member"] == SMALLEST)]
    falls = rows[rows["eps_pixels"] > 0].sort_values("eps_pixels")
    num_wrong = int((rows["eps_pixels"] == 0).sum())
    assert len(told) == 8 - num_wrong  # the others were wrong when clean
    expected = falls.head(len(told))
    for (label, answer, eps, times), line in zip(told, expected.itertuples(), strict=True):
        assert (int(label), int(answer)) == (line.label, line.prediction)
        assert float(eps) == pytest.approx(line.eps_pixels, rel=5e-3)
        # the made-up attack moves pixels by eps and no more
        assert float(times) == pytest.approx(1 / line.eps_pixels, rel=0.02)


def test_images_wrong_when_clean_have_not_fallen(run: Run, trial: Trial) -> None:
    examples = next(e for e in trial.examples if e.attack == SMALLEST)
    still = replace(examples, budgets=[0.0] * len(examples.labels))
    bare = replace(run, trials=[with_files(trial, examples=[still])])
    assert EVALUATED["first-to-fall"](bare) is None
    stands = replace(examples, predictions=examples.labels)
    bare = replace(run, trials=[with_files(trial, examples=[stands])])
    assert EVALUATED["first-to-fall"](bare) is None


# Red flags and the threat model


def test_red_flags_come_first(page: str) -> None:
    places = [page.index(f"<b>{flag.name}</b>") for flag in FLAGS]
    first_section = page.index("<h2>")
    assert page.index('class="found"') < first_section < min(places)
    assert max(places) < page.index("<h2>Threat model</h2>") < page.index("<h2>What holds</h2>")
    for flag in FLAGS:
        assert flag.message.replace(" %", "\u00a0%") in page
        assert f"<code>docs/red-flags.md#{flag.name}</code>" in page


def test_no_flags_and_no_checks_are_two_things(tmp_path: Path) -> None:
    calm = write_fake_evaluation(tmp_path / "a", num_images=30, **SMALL)
    told = flags_in(calm)
    assert f"None of the {len(CHECKS)} automatic checks found a reason" in told
    blind = write_fake_evaluation(tmp_path / "b", num_images=30, is_checked=False, **SMALL)
    told = flags_in(blind)
    assert "None were looked for" in told
    assert "automatic checks found" not in told


def test_a_flag_from_a_folder_is_escaped(tmp_path: Path) -> None:
    flag = Flag("zero-gradients", "<script>alert(1)</script>")
    write_fake_evaluation(tmp_path, num_images=30, flags=[flag], **SMALL)
    told = flags_in(tmp_path)
    assert "<script" not in told
    assert "&lt;script&gt;alert(1)" in told


def test_the_threat_model_tells_every_attack(trial: Trial) -> None:
    table = next(block for block in threat_card(trial) if isinstance(block, Table))
    eps = Cell("0.05, 0.1, 0.2, 0.3")
    assert row(table, "worst-case ensemble") == [
        Cell("worst-case ensemble", "worst-case 1"),
        Cell("a wrong class"),
        Cell("gradients and answers"),
        Cell("the model itself"),
        eps,
        Cell("120"),
    ]
    assert row(table, "worst-case ensemble (deny)")[1] == Cell("null")
    assert row(table, "FGSM")[:2] == [Cell("FGSM"), Cell("anything but the true class")]


THRESHOLD = {
    "value": 1.5,
    "origin": "held-out",
    "clean_null_rate": 0.01,
    "held_out_null_rate": 0.0096,
    "num_images": 5000,
    "num_overlapping": 0,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "null score above 1.5, calibrated on 5,000 held-out clean images to refuse at most "
            "1.00 % of such images; of these it refuses 0.96 %",
        ),
        ({"num_overlapping": 40}, "0.96 %; 40 of them are among the test images"),
        ({"origin": "unknown"}, "above 1.5; nothing says on which images that was chosen"),
        (
            {"num_images": 0, "clean_null_rate": None, "held_out_null_rate": None},
            "above 1.5; nothing says on which images that was chosen",
        ),
    ],
)
def test_the_threshold_and_where_it_comes_from(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    write_fake_evaluation(tmp_path, num_images=20, threshold=THRESHOLD | changes, **SMALL)
    (of,) = read_run(tmp_path).trials
    terms = next(block for block in threat_card(of) if isinstance(block, Terms))
    assert dict(terms.pairs)["null"].endswith(expected)


# Parts that are missing


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (SMALL, ["Inputs of no class", "RErr at 99", "smallest ε that", "that fall first"]),
        ({"attacks": ("fgsm",), "norm": "l2"}, ["What each member added", "(deny)", "L∞, "]),
        ({"attacks": ("worst-case-force-null",)}, ["AER</", "RAR</", "AER:"]),
        (
            {"has_null": False, "attacks": ("worst-case",), "eps": (0.0, 0.3)},
            ["dashed line", "(null-DoS).", "where the model itself refuses", "(deny)"],
        ),
    ],
    ids=["only rates", "one step", "only denied", "no null"],
)
def test_what_is_missing_leaves_nothing_empty(
    settings: dict[str, Any], missing: list[str], tmp_path: Path
) -> None:
    write_fake_evaluation(tmp_path, num_images=40, **settings)
    run = read_run(tmp_path)
    shown = evaluated(run)
    for section in shown.sections:
        assert section.blocks
        for block in section.blocks:
            if isinstance(block, Drawing):
                assert block.panels
                for panel in block.panels:
                    bare = re.sub(r'base64,[^"]*', "", panel.html).lower()
                    assert "nan" not in bare
                    assert "<svg" in bare or "<img" in bare
            if isinstance(block, Table):
                assert block.rows
    told = render(shown).split("What the words mean</h2>")[0]
    for text in missing:
        assert text not in told.replace("\u00a0", " ")
    summary_table(run)


def test_a_run_without_trials_says_so(tmp_path: Path) -> None:
    write_fake_evaluation(tmp_path, num_images=20, **SMALL)
    for result in tmp_path.glob("trials/*/result.json"):
        result.unlink()
    with pytest.raises(UserError, match="no results yet"):
        write_report(tmp_path)


def test_rows_that_lack_a_column_are_told(tmp_path: Path) -> None:
    write_fake_evaluation(tmp_path, num_images=20, **SMALL)
    (place,) = tmp_path.glob("trials/*")
    rows = frames.read_frame(place / schema.ROWS)
    frames.write_frame(place / schema.ROWS, rows.drop(columns="null_score"))
    result = json.loads((place / schema.RESULT).read_text())
    store.finalize(place, {key: value for key, value in result.items() if key != "files"})
    with pytest.raises(UserError, match="lacks the column 'null_score'"):
        write_report(tmp_path)


# The page as a whole


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    bare = re.sub(r'data:image/png;base64,[^"]*', "data:", page)
    assert re.findall(r'(?<!xmlns=")(?<!xmlns:xlink=")\b(?:https?:|//)[\w./-]+', bare) == []
    assert "<script" not in page
    for reference in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert reference.startswith(("#", "data:image/png;base64,"))
    for anchor in re.findall(r'href="#([^"]*)"', page):
        assert page.count(f'id="{anchor}"') == 1
    assert "nan" not in bare.lower().replace("finance", "")
    assert len(page) < 3_000_000


FILES = [
    "fig_security_curves",
    "fig_contribution_worst-case",
    "fig_contribution_worst-case-force-null",
    "fig_confusion_clean",
    "fig_confusion_attacked",
    "fig_null_scores",
    "fig_roc_attacked",
    "fig_roc_ood",
    "fig_risk_coverage",
    "fig_smallest_eps",
]


def test_every_drawn_figure_is_also_two_files(folder: Path, page: str) -> None:
    assert {path.name for path in (folder / schema.FIGURES).iterdir()} == {
        f"{name}.{ending}" for name in FILES for ending in ("svg", "png")
    }
    for name in FILES:
        assert (folder / schema.FIGURES / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_bytes_without_torch(folder: Path, page: str) -> None:
    script = (
        "import sys, pathlib\n"
        "from nullclass.studies.write_report import write_report\n"
        "write_report(pathlib.Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    assert (folder / schema.REPORT).read_text(encoding="utf-8") == page


def test_the_terminal_table(run: Run, trial: Trial) -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(run))
    lines = console.export_text().splitlines()
    assert "…" not in "".join(lines)
    heads = next(place for place, line in enumerate(lines) if "null-DoS" in line)
    assert lines[heads].split() == ["model", "ε", "AER", "RAR", "strict", "null-DoS"]
    shown = [line.split()[-5:] for line in lines[heads + 2 : heads + 6]]
    assert shown == [
        [str(eps), *(percent(num / 120) for num in rates(trial, eps).values())] for eps in EPS
    ]


def test_names_are_those_of_the_evaluation() -> None:
    from nullclass.evaluation.record import DEFAULT_ATTACKS
    from nullclass.evaluation.run import SMALLEST as NAME_IN_ROWS
    from nullclass.report.measures import NAMES

    assert NAME_IN_ROWS == SMALLEST
    assert {name for names in DEFAULT_ATTACKS.values() for name in names} <= set(NAMES)


# Red flags of a study


def test_a_study_tells_the_flags_of_its_trials(tmp_path: Path) -> None:
    write_fake_run(tmp_path, 3, models=["null-0.5"], num_images=30, num_attacked=20, flags=FLAGS)
    told = write_report(tmp_path).read_text(encoding="utf-8")
    assert told.count("<b>zero-gradients</b>") == 1
    assert "null-0.5, seed 0 and 2 more evaluations" in told
    assert "looked for in every evaluation" in told


def test_a_study_without_checks_has_no_such_section(tmp_path: Path) -> None:
    write_fake_run(tmp_path, 1, models=["null-0.5"], num_images=30, num_attacked=20)
    assert "Red flags" not in write_report(tmp_path).read_text(encoding="utf-8")

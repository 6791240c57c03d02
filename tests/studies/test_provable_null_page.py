"""The page of the study ``provable-null``: its numbers, broken proofs, figures, runs cut short."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_provable import NUM_SHOWN, write_fake_provable
from fake_run import with_files

from nullclass.core.files import read_json, write_json
from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Drawing, Table
from nullclass.report.measures import Measures
from nullclass.results import schema
from nullclass.results.store import Run, read_run
from nullclass.studies import STUDIES
from nullclass.studies.provable_null.figures import FIGURES as PROVABLE_NULL
from nullclass.studies.provable_null.figures.answered_refused import rows_of
from nullclass.studies.provable_null.figures.certified_training import mean_eps
from nullclass.studies.provable_null.figures.proved_and_attacked import proved_and_attacked
from nullclass.studies.provable_null.page import findings
from nullclass.studies.provable_null.page import page as draw_page
from nullclass.studies.provable_null.proof_tables import bracket_table, radius_table, rates_table
from nullclass.studies.provable_null.proved import bracket, by_radius, checked, minutes, radii
from nullclass.studies.provable_null.recorded import recorded
from nullclass.studies.reports import page_module, summary_table, write_report
from nullclass.zoo import FOLDER, read_zoo
from nullclass.zoo.members import CHECKPOINTS
from nullclass.zoo.results import result_rows, update_results

MODELS = ("provable-0.3", "abstain", "clean")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One seed of three models."""
    return read_run(write_fake_provable(tmp_path_factory.mktemp("one"), models=MODELS))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds of the two provable models."""
    models = ("provable-0.3", "provable-0.4")
    return read_run(write_fake_provable(tmp_path_factory.mktemp("two"), 2, models=models))


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = ("provable-0.3", "abstain")
    folder = write_fake_provable(tmp_path_factory.mktemp("page"), models=models)
    write_report(folder)
    return folder


def threshold_info(run: Run) -> str:
    return " ".join(findings(run, Measures(run), checked(run)))


def changed(run: Run, model: str, **contents: pd.DataFrame) -> Run:
    """The run with other files in one model's trial."""
    return replace(
        run, trials=[with_files(t, **contents) if t.model == model else t for t in run.trials]
    )


# Numbers


def test_the_findings_tell_these_numbers(run: Run) -> None:
    told = threshold_info(run)
    # of 200: 6 null and 1 fooled when clean, 1 not proved at 0.3
    assert "keeps, against every attack there is" in told
    assert "provable-0.3 on 96.00 % (92.31 to 97.96) at ε 0.3 (L∞, 200 test images)" in told
    # of the first 40, 2 null when clean and 3 others fooled
    assert "at ε 0.3 abstain 87.50 %" in told
    # of the same 40, 2 null when clean and 1 not proved
    low, high = wilson(37, 40)
    assert (
        "Of the same images is proved, against every attack there is: at ε 0.3 of provable-0.3 "
        f"92.50 % ({100 * low:.2f} to {100 * high:.2f}, 40 images), which the intervals do not "
        "tell from abstain."
    ) in told
    assert "were trained for: abstain 0.3" in told
    assert "beyond" not in told, "there is no model for more than 0.3 in this run"
    assert "provable-0.3 with 7 epochs; abstain with 5 epochs; clean with 2 epochs" in told
    assert "RAR under attack is never below the proved RAR" in told
    low, high = wilson(6, 200)
    assert f"refuses 3.00 % ({100 * low:.2f} to {100 * high:.2f}) of clean images" in told
    assert "silences it on 72.50 %" in told  # 29 of 40
    assert "adversarial-null were left out" in told
    assert "BROKEN" not in told


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.4, 0.5), "more than is left to abstain"),
        ((0.98, 0.99), "less than is left to abstain"),
        ((0.9, 0.95), "which the intervals do not tell from abstain"),
    ],
)
def test_more_and_less_are_said_only_of_intervals_apart(
    run: Run, ends: tuple[float, float], verdict: str
) -> None:
    summary = run.summary.copy()
    at = (summary["model"] == "abstain") & (summary["metric"] == "rar")
    summary.loc[at, ["value", "low", "high"]] = [sum(ends) / 2, *ends]
    told = threshold_info(replace(run, summary=summary))
    assert f"40 images), {verdict}." in told


def test_the_bracket_holds_what_is_proved_and_what_was_left(run: Run) -> None:
    points = {point.eps: point for point in bracket(Measures(run), "abstain")}
    assert sorted(points) == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
    at = points[0.3]
    assert at.proved is not None
    assert at.adv_images is not None
    # unproved: images 39 … 0 and 199 … 196; null when clean 8, one of every 25 from the fourth on,
    # of which images 3 and 28 are unproved too; 199 and 198 are fooled
    assert at.proved.mean == (200 - 44 - 6) / 200
    assert at.adv_images.mean == 35 / 40
    assert points[0.5].adv_images is None


def test_seeds_are_a_mean_with_a_spread(seeds: Run) -> None:
    measures = Measures(seeds)
    table = rates_table(seeds, measures, 0.4)
    (row,) = [cells for cells in table.rows if cells[0].text == "provable-0.3"]
    assert row[0].small == "r 0.15"
    names = [cell.text for cell in table.columns]
    # 38 of 40 right when clean; of seed 0 one of them is fooled at 0.4, of seed 1 two
    assert row[names.index("RAR")].text == "91.25"
    assert row[names.index("RAR")].small.startswith("±")
    assert row[-1].text == "10"  # 7 epochs of 1 minute, and of 2
    assert minutes(seeds, "provable-0.3") == (7.0, 14.0)


def test_every_table_has_clean_null_and_null_dos_beside_rar(run: Run) -> None:
    columns = [cell.text for cell in rates_table(run, Measures(run), 0.3).columns]
    assert columns[1:4] == ["correct", "null", "fooled"]
    assert columns.count("RAR") == 2, "left by attacks, and proved"
    assert "null-DoS" in columns
    table = bracket_table(run, Measures(run))
    cells = next(row for row in table.rows if row[0].text == "provable-0.3")
    at = [column.text for column in table.columns].index("ε 0.3")
    assert (cells[at].text, cells[at].small) == ("96.00", "≤ 95.0")


def test_other_radii_are_counted_by_hand(run: Run) -> None:
    at = by_radius(run).set_index("radius").loc[0.15]
    assert at["model"] == "provable-0.3"
    assert (at["correct"], at["null"], at["fooled"]) == (169 / 200, 30 / 200, 1 / 200)
    assert at["num_images"] == 200
    assert radii(run) == {"provable-0.3": 0.15}
    table = radius_table(run)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["provable-0.3"]


@pytest.mark.parametrize(
    ("settings", "begin", "end", "eps"),
    [
        # the loss's own rise: from 0.04 to 0.4 of all steps
        ({}, 0.0, 0.04, 0.0),
        ({}, 0.04, 0.4, 0.1),
        ({}, 0.22, 0.4, 0.15),
        ({}, 0.4, 1.0, 0.2),
        ({"warmup": 0.0, "ramp": 1.0}, 0.0, 1.0, 0.1),
    ],
)
def test_the_eps_of_a_training_rises_as_its_loss_says(
    run: Run, settings: dict[str, float], begin: float, end: float, eps: float
) -> None:
    robust = {"loss": "interval", "settings": {"eps": 0.2} | settings}
    trial = replace(run.trials[0], result={"config": {"training": {"robust": robust}}})
    assert mean_eps(trial, begin, end) == pytest.approx(eps)
    clean = replace(trial, result={"config": {"training": {"robust": None}}})
    assert mean_eps(clean, begin, end) == 0


# Proofs held against attacks


def test_a_broken_proof_is_told_before_everything_else(tmp_path: Path) -> None:
    folder = write_fake_provable(tmp_path, models=("provable-0.3", "clean"), is_broken=True)
    page = draw_page(read_run(folder))
    assert page.findings[0].startswith("A PROOF IS BROKEN: 1 image did what had been proved")
    assert "test image 20 of provable-0.3" in page.findings[0]
    assert "never below" not in " ".join(page.findings)
    assert page.sections[0].title == "A proof is broken"


@pytest.mark.parametrize(
    ("outcome", "eps", "proved", "column", "is_broken"),
    [
        ("fooled", 0.1, 0.1, "is_never_fooled", True),
        ("fooled", 0.1, 0.2, "is_never_fooled", True),  # within a larger ball that is proved
        ("fooled", 0.2, 0.1, "is_never_fooled", False),
        ("null", 0.1, 0.1, "is_never_fooled", False),
        ("null", 0.1, 0.1, "is_correct_proved", True),
        ("null", 0.2, 0.1, "is_correct_proved", False),
        ("correct", 0.1, 0.1, "is_correct_proved", False),
        ("fooled", 0.1, 0.1, "is_rar_proved", True),
        ("null", 0.1, 0.1, "is_rar_proved", False),
    ],
)
def test_what_breaks_a_proof(
    run: Run, outcome: str, eps: float, proved: float, column: str, is_broken: bool
) -> None:
    (trial,) = [t for t in run.trials if t.model == "provable-0.3"]
    is_one = (trial.rows["image"] == 5) & (trial.rows["attack"] == "worst-case")
    rows = trial.rows[is_one].head(1).assign(outcome=outcome, eps_pixels=eps)
    certified = trial.certified.head(1).assign(
        image=5,
        eps_pixels=proved,
        is_never_fooled=False,
        is_correct_proved=False,
        is_rar_proved=False,
    )
    certified[column] = True
    one = replace(run, trials=[with_files(trial, rows=rows, certified=certified)])
    found = checked(one)
    assert (len(found.broken) == 1) == is_broken
    assert found.num_pairs == (eps <= proved)


def test_a_proof_of_another_image_promises_nothing(run: Run) -> None:
    (trial,) = [t for t in run.trials if t.model == "provable-0.3"]
    other = trial.certified[trial.certified["image"] != 5]
    rows = trial.rows[trial.rows["image"] == 5].assign(outcome="fooled")
    found = checked(replace(run, trials=[with_files(trial, rows=rows, certified=other)]))
    assert (found.num_pairs, len(found.broken)) == (0, 0)


# The zoo


def member(zoo: Path, name: str, data: str = "mnist") -> None:
    """Add a member to a zoo, with a card and results but no weights."""
    card = read_json(FOLDER / CHECKPOINTS / "abstain" / "card.json", "card")
    card |= {"weights_sha256": name, "data": data}
    write_json(zoo / CHECKPOINTS / name / "card.json", card)
    for kind, eps, num_images, hits in (
        ("clean", 0.0, 100, {"correct_rate": 99, "null_rate": 1, "fooled_rate": 0}),
        ("attack", 0.3, 100, {"aer": 90, "rar": 10}),
        ("attack", 0.1, 100, {"aer": 40, "rar": 60}),
        ("proof", 0.1, 50, {"rar_proved": 15}),
        ("proof", 0.1, 100, {"rar_proved": 20}),
    ):
        rows = result_rows(read_zoo(zoo)[name], kind, hits, num_images, method="m", eps=eps)
        update_results(zoo, rows)


def test_models_of_the_zoo_stand_beside_as_recorded(run: Run, tmp_path: Path) -> None:
    member(tmp_path, "other")
    member(tmp_path, "clean")
    member(tmp_path, "elsewhere", "fashion-mnist")
    on_mnist = replace(run, info=run.info | {"data": {"name": "mnist"}})
    (found,) = recorded(on_mnist, {"clean"}, tmp_path)
    assert found.name == "other"
    assert found.clean == 0.99
    assert found.attacked == [(0.1, 0.6), (0.3, 0.1)]
    assert found.proved == [(0.1, 0.2)]
    drawing = proved_and_attacked(on_mnist, tmp_path)
    assert drawing is not None
    assert "From the zoo, as recorded there: elsewhere" not in drawing.caption
    assert "other." in drawing.caption
    assert recorded(run, set(), tmp_path) == [], "they were evaluated on other data"


def test_rows_of_other_weights_do_not_stand_beside(run: Run, tmp_path: Path) -> None:
    member(tmp_path, "other")
    on_mnist = replace(run, info=run.info | {"data": {"name": "mnist"}})
    assert len(recorded(on_mnist, set(), tmp_path)) == 1
    card = tmp_path / CHECKPOINTS / "other" / "card.json"
    card.write_text(card.read_text().replace('"weights_sha256": "other"', '"weights_sha256": "x"'))
    assert recorded(on_mnist, set(), tmp_path) == []


# Page and figures


def test_every_study_has_a_page() -> None:
    for study in STUDIES:
        assert page_module(study).page


def test_pictures_are_sorted_by_what_the_model_says(run: Run) -> None:
    (trial,) = [t for t in run.trials if t.model == "provable-0.3"]
    rows = dict(rows_of(trial))
    assert list(rows) == [
        "clean, answered",
        "worst-case ensemble, ε 0.3",
        "PGD (force-null), ε 0.3",
        f"clean, refused (of the first {NUM_SHOWN})",
        "these, worst-case ensemble, ε 0.3",
    ]
    assert [shown.label for shown in rows["clean, answered"]] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert {shown.margin for shown in rows["clean, answered"]} == {2.0}
    refused = next(shown for name, shown in rows.items() if name.startswith("clean, refused"))
    assert [shown.prediction for shown in refused] == [-1, -1]
    assert {shown.margin for shown in refused} == {-0.25}


def test_the_page_is_whole(page_folder: Path) -> None:
    page = draw_page(read_run(page_folder))
    blocks = [block for section in page.sections for block in section.blocks]
    drawings = [block for block in blocks if isinstance(block, Drawing)]
    assert len(drawings) == len(PROVABLE_NULL)
    for drawing in drawings:
        assert re.search(r"\bseed", drawing.caption), drawing.title
    for table in (block for block in blocks if isinstance(block, Table)):
        assert re.search(r"\d test images", table.caption), table.title
    html = (page_folder / schema.REPORT).read_text(encoding="utf-8")
    html = re.sub(r"data:image/png;base64,[^\"]*", "data:", html)
    assert "nan" not in html.lower()
    drawn = {path.stem for path in (page_folder / schema.FIGURES).glob("*.png")}
    assert drawn == {
        "fig_proved_and_attacked",
        "fig_radius",
        "fig_answered_refused_provable-0.3",
    }


def test_the_results_go_into_the_docs(run: Run) -> None:
    place = Path(__file__).resolve().parents[2] / "docs" / "provable_study.py"
    script = runpy.run_path(str(place))
    before = f"# A page\n\n{script['BEGIN']}\nold\n{script['END']}\nafter\n"
    told = script["page"](before, run)
    assert "old" not in told
    assert told.startswith("# A page\n\n<!-- results")
    assert told.endswith(f"{script['END']}\nafter\n")
    (line,) = [
        line
        for line in told[told.index("| ε 0.3 |") : told.index("| ε 0.4 |")].splitlines()
        if line.startswith("| `provable-0.3`")
    ]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "96.50 / 3.00 / 0.50"
    assert cells[4] == "96.00 (92.3 – 98.0)"
    assert cells[6] == "72.50 (57.2 – 83.9)"
    assert script["page"](told, run) == told, "written twice it is the same"
    assert script["PAGE"].read_text(encoding="utf-8").count(script["BEGIN"]) == 1


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = write_fake_provable(
        tmp_path,
        models=("abstain", "clean"),
        lacking=[("clean", 0)],
        has_proofs=False,
        has_radii=False,
    )
    run = read_run(folder)
    told = threshold_info(run)
    assert "1 of 2 evaluations are lacking; nothing yet of clean" in told
    assert "Nothing was proved of any attacked image" in told
    for name in ("proved-and-attacked", "radius", "answered-refused"):
        assert PROVABLE_NULL[name](run) is None


def test_the_terminal_has_proved_and_left_beside_each_other(run: Run) -> None:
    from rich.console import Console

    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(run))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["0.3", "96.00", "95.0", "0.0", "72.5"] in lines

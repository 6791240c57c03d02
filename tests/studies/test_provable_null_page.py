"""The study provable-null: numbers against a run to count by hand, broken proofs, its page."""

from __future__ import annotations

import hashlib
import runpy
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from fake_provable import NUM_SHOWN, write_fake_provable
from fake_run import DATA, with_files
from fake_study import write_training
from msgspec import structs
from page_checks import check_blocks, check_html, check_same_bytes, row, terminal_text
from pandas_defaults import check_tables

from nullclass.core.documents import json_values, write_document
from nullclass.experiments.config import RobustPlan
from nullclass.experiments.jobs import folder_of
from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Cell, Drawing
from nullclass.report.measures import Measures
from nullclass.results import schema, store
from nullclass.results.info import TrialResult
from nullclass.results.run import Run
from nullclass.studies import find_study
from nullclass.studies.provable_null.figures import (
    FIGURES,
    picture_rows,
    proved_and_attacked,
)
from nullclass.studies.provable_null.measured import (
    brackets,
    by_radius,
    radii,
    run_violations,
    training_eps,
    training_minutes,
    zoo_brackets,
)
from nullclass.studies.provable_null.page import findings
from nullclass.studies.provable_null.page import page as draw_page
from nullclass.studies.provable_null.tables import models_table, radius_table
from nullclass.studies.reports import read_run, write_report
from nullclass.training.card import CARD, read_card
from nullclass.zoo import FOLDER, read_zoo
from nullclass.zoo.members import CHECKPOINTS
from nullclass.zoo.results import result_rows, update_results

pytestmark = pytest.mark.slow  # half a minute of pages

PROVED = "provable-r0.15"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One seed of three models."""
    models = (PROVED, "abstain", "clean")
    return read_run(write_fake_provable(tmp_path_factory.mktemp("one"), models=models))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds of the two provable models."""
    models = (PROVED, "provable-r0.2")
    return read_run(write_fake_provable(tmp_path_factory.mktemp("two"), 2, models=models))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sentences(run: Run) -> str:
    return " ".join(findings(Measures(run), *run_violations(run)))


# Numbers


def test_sentences(run: Run) -> None:
    text = sentences(run)
    # of 200: 6 null and 1 fooled when clean, 1 not proved at 0.3
    assert "below 96.00 % (92.31 to 97.96) of provable-r0.15 at ε 0.3 (interval bounds" in text
    # of the first 40, 2 null when clean and 3 others fooled
    assert "at ε 0.3 abstain 87.50 %" in text
    # of the same 40, 2 null when clean and 1 not proved
    low, high = wilson(37, 40)
    assert (
        f"the proved RAR is 92.50 % ({100 * low:.2f} to {100 * high:.2f}) of provable-r0.15 at ε "
        "0.3 (n = 40), not distinguishable from abstain."
    ) in text
    assert "larger than the training ε" not in text, "no model here is for more than 0.3"
    assert "provable-r0.15 7 epochs; abstain 5 epochs; clean 2 epochs" in text
    assert "No proof is broken" in text
    low, high = wilson(6, 200)
    assert f"null on 3.00 % ({100 * low:.2f} to {100 * high:.2f}) of clean images" in text
    assert "makes it null on 72.50 %" in text  # 29 of 40
    assert "A PROOF IS BROKEN" not in text


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.4, 0.5), "more than abstain"),
        ((0.995, 0.999), "less than abstain"),
        ((0.9, 0.95), "not distinguishable from abstain"),
    ],
)
def test_more_and_less_need_disjoint_intervals(
    run: Run, ends: tuple[float, float], verdict: str
) -> None:
    summary = run.summary.copy()
    at = (summary["model"] == "abstain") & (summary["metric"] == "rar")
    summary.loc[at, ["value", "low", "high"]] = [sum(ends) / 2, *ends]
    summary.loc[at, "num_images"] = 40_000  # of which the interval is shorter than between the ends
    assert f"(n = 40), {verdict}." in sentences(with_files(run, summary=summary))


def test_the_bracket_has_proved_and_attacked_rates(run: Run) -> None:
    rates = brackets(Measures(run)).set_index(["model", "kind", "eps"]).loc["abstain"]["rate"]
    assert sorted(rates["proved"].index) == pytest.approx([0.05 * n for n in range(1, 11)])
    # unproved: images 39 … 0 and 199 … 196; null when clean 8, one of every 25 from the fourth on,
    # of which images 3 and 28 are unproved too; 199 and 198 are fooled
    assert rates["proved", 0.3] == (200 - 44 - 6) / 200
    assert rates["attacked", 0.3] == 35 / 40
    assert rates["clean", 0.0] == 190 / 200
    assert ("attacked", 0.5) not in rates.index


def test_tables_of_two_seeds(seeds: Run) -> None:
    measures = Measures(seeds)
    table = models_table(measures, 0.4)
    cells = row(table, PROVED)
    assert cells[0].small == "r 0.15"
    names = [cell.text for cell in table.columns]
    # 38 of 40 correct when clean; of seed 0 one of them is fooled at 0.4, of seed 1 two
    assert cells[names.index("RAR")].text == "91.25"
    assert cells[names.index("RAR")].small.startswith("±")
    assert cells[-1].text == "10"  # 7 epochs of 1 minute, and of 2
    assert training_minutes(seeds)[PROVED] == 10.5


def test_minutes_and_epochs_are_those_of_all_stages(tmp_path: Path) -> None:
    folder = write_fake_provable(tmp_path, models=(PROVED, "clean"))
    (trial,) = find_study("provable-null").trials("full", [0], [PROVED])
    first = trial.training.start
    assert first is not None
    path = folder / schema.TRIALS / f"{PROVED}-seed0"
    result = store.read_result(path, TrialResult)
    store.finalize(path, structs.replace(result, config=json_values(trial)))
    store.write_info(folder, store.read_info(folder))
    assert PROVED not in training_minutes(read_run(folder)), "those of the first stage are unknown"
    history = {"epoch": [1, 2], "loss": 0.5, "train_accuracy": 0.9, "seconds": 60.0}
    written = write_training(folder, first, history, last=2)
    (folder / written).rename(folder / folder_of(first, DATA.checksum))
    run = read_run(folder)
    assert training_minutes(run)[PROVED] == 7 + 2
    (text,) = (s for s in findings(Measures(run), *run_violations(run)) if "differ:" in s)
    assert f"{PROVED} network certifiable-medium, 50 + 10 epochs" in text


def test_tables_have_clean_null_null_dos_and_n_next_to_rar(run: Run) -> None:
    table = models_table(Measures(run), 0.3)
    columns = [cell.text for cell in table.columns]
    assert columns[1:4] == ["correct", "null", "fooled"]
    assert columns.count("RAR") == 2, "attacked and proved"
    assert "null-DoS" in columns
    assert all("n = " in cell.small for cell in table.columns[1:-1])


def test_other_radii(run: Run) -> None:
    at = by_radius(run).set_index("radius").loc[0.15]
    assert at["model"] == PROVED
    assert (at["correct"], at["null"], at["fooled"]) == (169 / 200, 30 / 200, 1 / 200)
    assert at["num_images"] == 200
    assert radii(run) == {PROVED: 0.15}
    assert row(radius_table(run), PROVED)[4] == Cell("84.50", "15.00 / 0.50")


@pytest.mark.parametrize(
    ("settings", "eps"),
    [
        # the loss's own schedule: 0 up to 0.04 of all steps, then linear up to 0.4
        ({}, [0.2 * 0.8 * 0.16 / 0.36 / 2, 0.2 * (0.16 + 0.36) / 0.36 / 2, 0.2, 0.2, 0.2]),
        ({"warmup": 0.0, "ramp": 1.0}, [0.02, 0.06, 0.1, 0.14, 0.18]),
    ],
)
def test_the_eps_of_an_epoch(settings: dict[str, float], eps: list[float]) -> None:
    (trial,) = find_study("provable-null").trials("quick", [0], ["clean"])
    robust = RobustPlan("interval", {"eps": 0.2} | settings)
    assert training_eps(replace(trial.training, robust=robust), 5) == pytest.approx(eps)
    assert list(training_eps(trial.training, 3)) == [0, 0, 0]


# Proofs against attacks


def test_a_broken_proof_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nullclass.studies.provable_null.page.FIGURES", {})
    folder = write_fake_provable(tmp_path, models=(PROVED, "clean"), is_broken=True)
    page = draw_page(read_run(folder))
    assert page.findings[0].startswith(
        "A PROOF IS BROKEN (images: 1). The first is test image 20 of"
    )
    assert "No proof is broken" not in " ".join(page.findings)
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
    (trial,) = [t for t in run.trials if t.model == PROVED]
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
    num_checked, violations = run_violations(one)
    assert (len(violations) == 1) == is_broken
    assert num_checked == (eps <= proved)


def test_a_proof_of_another_image_does_not_count(run: Run) -> None:
    (trial,) = [t for t in run.trials if t.model == PROVED]
    other = trial.certified[trial.certified["image"] != 5]
    rows = trial.rows[trial.rows["image"] == 5].assign(outcome="fooled")
    one = replace(run, trials=[with_files(trial, rows=rows, certified=other)])
    num_checked, violations = run_violations(one)
    assert (num_checked, len(violations)) == (0, 0)


# The zoo


def member(zoo: Path, name: str, data: str = "mnist") -> None:
    """Add a member to a zoo, with a card and results but no weights."""
    card = read_card(FOLDER / CHECKPOINTS / "abstain")
    origin = msgspec.structs.replace(card.origin, data=data)
    card = msgspec.structs.replace(card, weights_sha256=sha256(name), origin=origin)
    write_document(zoo / CHECKPOINTS / name / CARD, card)
    for kind, eps, num_images, hits in (
        ("clean", 0.0, 100, {"correct_rate": 99, "null_rate": 1, "fooled_rate": 0}),
        ("attack", 0.3, 100, {"aer": 90, "rar": 10}),
        ("attack", 0.1, 100, {"aer": 40, "rar": 60}),
        ("proof", 0.1, 50, {"rar_proved": 15}),
        ("proof", 0.1, 100, {"rar_proved": 20}),
    ):
        rows = result_rows(read_zoo(zoo)[name], kind, hits, num_images, method="m", eps=eps)
        update_results(zoo, rows)


def test_models_of_the_zoo(run: Run, tmp_path: Path) -> None:
    member(tmp_path, "other")
    member(tmp_path, "clean")
    member(tmp_path, "elsewhere", "fashion-mnist")
    data = structs.replace(run.info.data, name="mnist")
    on_mnist = replace(run, info=structs.replace(run.info, data=data))
    found = zoo_brackets(on_mnist, {"clean"}, tmp_path)
    assert set(found["model"]) == {"other"}
    of = found.set_index(["kind", "eps"])
    assert of["rate"].to_dict() == {
        ("clean", 0.0): 0.99,
        ("attacked", 0.1): 0.6,
        ("attacked", 0.3): 0.1,
        ("proved", 0.1): 0.2,
    }
    assert of.loc[("proved", 0.1), "num_images"] == 100, "the rate of most images"
    drawing = proved_and_attacked(Measures(on_mnist), tmp_path)
    assert drawing is not None
    assert "Models of the zoo (n): other 100." in drawing.caption
    assert zoo_brackets(run, set(), tmp_path).empty, "they are for another dataset"
    path = tmp_path / CHECKPOINTS / "other"
    card = msgspec.structs.replace(read_card(path), weights_sha256=sha256("others"))
    write_document(path / CARD, card)
    assert zoo_brackets(on_mnist, {"clean"}, tmp_path).empty, "results of other weights"


# Page and figures


def test_pictures_by_answer(run: Run) -> None:
    (trial,) = [t for t in run.trials if t.model == PROVED]
    rows = picture_rows(trial, 0.15)
    assert list(rows) == [
        "clean, answered",
        "worst-case ensemble, ε 0.3",
        "worst-case ensemble (force-null), ε 0.3",
        f"clean, null (of the first {NUM_SHOWN})",
        "the same, worst-case ensemble, ε 0.3",
    ]
    assert [*rows["clean, answered"]["label"]] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert set(rows["clean, answered"]["margin"]) == {2.0}
    refused = rows[f"clean, null (of the first {NUM_SHOWN})"]
    assert refused[["prediction", "margin"]].to_numpy().tolist() == [[-1, -0.25], [-1, -0.25]]


def test_the_page(tmp_path: Path) -> None:
    folder = write_fake_provable(tmp_path, models=(PROVED, "abstain"))
    report = write_report(folder)
    page = draw_page(read_run(folder))
    check_blocks(page)
    check_html(report)
    drawings = [block for block in page.blocks() if isinstance(block, Drawing)]
    assert len(drawings) == len(FIGURES)
    drawn = {path.stem for path in (folder / schema.FIGURES).glob("*.png")}
    assert "leaves out provable-r0.2, adversarial-null, clean" in " ".join(page.findings)
    assert check_tables(folder) >= {"summary.csv", "rows.parquet", "certified.parquet"}
    names = ("proved_and_attacked", "radius", f"answered_refused_{PROVED}")
    assert drawn == {f"fig_{name}" for name in names}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    check_same_bytes(write_report(write_fake_provable(tmp_path, models=(PROVED, "abstain"))))


def test_the_results_of_the_docs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "provable_study.py"
    monkeypatch.syspath_prepend(path.parent)
    script = runpy.run_path(str(path))
    replace, results = script["replace_results"], script["results"](run)
    page, begin = tmp_path / "page.md", "<!-- results: written by docs/provable_study.py, do not"
    page.write_text(f"# A page\n\n{begin} edit -->\nold\n<!-- end of results -->\nafter\n")
    replace(page, str(path), results)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith(f"# A page\n\n{begin}")
    assert text.endswith("<!-- end of results -->\nafter\n")
    table = text[text.index("| ε 0.3 |") : text.index("| ε 0.4 |")].splitlines()
    (line,) = [line for line in table if line.startswith(f"| `{PROVED}`")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "96.50 / 3.00 / 0.50"
    assert cells[4] == "96.00 (92.3 – 98.0)"
    assert cells[6] == "72.50 (57.2 – 83.9)"
    assert "- Rates under attack are of 40 images, a preview" in text
    assert "- This run leaves out " in text
    replace(page, str(path), results)
    assert page.read_text() == text, "written twice it is the same"
    assert script["PAGE"].read_text(encoding="utf-8").count(begin) == 1


def test_an_unfinished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(
        write_fake_provable(
            tmp_path,
            models=("abstain", "clean"),
            lacking=[("clean", 0)],
            has_proofs=False,
            has_radii=False,
        )
    )
    monkeypatch.setattr("nullclass.studies.provable_null.page.FIGURES", {})
    text = " ".join(draw_page(run).findings)
    assert "1 of 2 evaluations are missing, all of clean" in text
    assert "No attacked image has a proof" in text
    for name in ("proved-and-attacked", "radius", "answered-refused"):
        assert FIGURES[name](Measures(run)) is None


def test_the_terminal_table(run: Run) -> None:
    lines = [line.split() for line in terminal_text(run, 150).splitlines()]
    assert ["0.3", "96.00", "95.00", "0.00", "72.50"] in lines

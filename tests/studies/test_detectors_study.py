"""The study ``detectors``: its protocol, and its page against a run to count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_detectors import COST, FOOLED, UNAWARE_FOOLED, write_fake_detectors
from page_checks import check_blocks, check_html, row, terminal_lines

from nullclass.experiments.config import ModelSpec
from nullclass.experiments.detector_plan import CONSISTENCY, DetectorPlan
from nullclass.rejection import DETECTORS, SCORES
from nullclass.report.measures import Measures
from nullclass.report.render import on_terminal
from nullclass.report.tables import prediction_costs
from nullclass.results.run import Run
from nullclass.results.schema import UNION
from nullclass.studies.detectors import config
from nullclass.studies.detectors.measured import (
    least_not_fooled,
    not_fooled,
    survivors,
)
from nullclass.studies.detectors.page import findings, summary_tables
from nullclass.studies.detectors.page import page as draw_page
from nullclass.studies.detectors.tables import aware_table, cost_cells, unaware_table
from nullclass.studies.reports import read_run, write_report

# Protocol


def test_every_detector_of_the_package_is_in_the_study() -> None:
    assert set(config.DETECTORS) | set(config.LOGIT_SCORES) == set(DETECTORS)
    assert set(config.LOGIT_SCORES) == set(SCORES) - {"null-logit"}


@pytest.mark.parametrize("preset", ["quick", "full"])
def test_every_way_to_refuse_is_on_the_same_networks(preset: Any) -> None:
    planned = {trial.model: trial for trial in config.trials(preset, [0], config.VARIANTS)}
    left_out = set(config.VARIANTS) - set(planned)
    assert left_out == ({"strong-none", "strong-consistency"} if preset == "quick" else set())
    for name, trial in planned.items():
        network, rule = name.split("-", 1)
        base = config.network_training(network, 0)
        if rule == config.NULL_CLASS:
            assert trial.training.has_null
            assert trial.training.recipe == base.recipe
        else:
            assert trial.training == base
        for craft in trial.crafted:
            assert craft.source == ModelSpec(base), "without the rule"
            assert craft.plan.num_images >= trial.attacks[0].num_images
            assert set(craft.plan.eps) <= set(trial.attacks[0].eps), "no AER of unaware images"
        is_calibrated = rule not in (config.NONE, config.PROOF)
        assert trial.null_rate == (0.01 if is_calibrated else None)
        plan = trial.detector
        assert (plan is None) == (rule in (config.NONE, config.PROOF, config.NULL_CLASS))
        if plan is not None:
            assert plan.name == rule
            assert (plan.num_images == 0) == (rule == CONSISTENCY)
        if trial.attacks:
            assert trial.attacks[0].attack == "worst-case"
            assert trial.attacks[0].eps == (config.EPS if preset == "full" else (0.3,))
            forcing = [plan for plan in trial.attacks if "force-null" in plan.attack]
            assert len(forcing) == (rule != config.NONE), "null-DoS of every model that refuses"
        else:
            assert rule == config.PROOF
            assert trial.proofs


def test_a_detector_excludes_other_ways_to_refuse() -> None:
    plan = DetectorPlan("softmax", 10)
    with pytest.raises(Exception, match="has a detector, so it has no other null"):
        ModelSpec(config.null_class_training("clean", 0), detector=plan)
    with pytest.raises(Exception, match="has a detector, so it has no other null"):
        ModelSpec(config.network_training("clean", 0), radius=0.1, detector=plan)


# Numbers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One seed of some variants."""
    return read_run(write_fake_detectors(tmp_path_factory.mktemp("one")))


def test_rates(run: Run) -> None:
    measures = Measures(run)
    model = "clean-softmax"
    found = measures.find(model, UNION, "aer", 0.1)
    assert found is not None
    assert found.mean == 10 / 40
    for name, num in UNAWARE_FOOLED.items():
        rate = not_fooled(measures, model, name, 0.3)
        assert rate is not None
        assert rate.mean == 1 - num / 40
        assert rate.low < rate.mean < rate.high
    least = least_not_fooled(measures, model, 0.3)
    assert least is not None
    assert least.attack == "nearest on clean"
    assert not_fooled(measures, model, "nearest", 0.1) is None
    models = ["clean-softmax", "clean-consistency", "clean-odds-are-odd"]
    assert survivors(measures, models, 0.3) == ["clean-consistency"]
    assert survivors(measures, models, 0.1) == models


def test_sentences(run: Run) -> None:
    text = " ".join(findings(Measures(run)))
    first = "On the network trained on clean images consistency survives an attacker who knows it"
    # 38 and 39 of 40
    assert text.startswith(f"{first}: with the 2 others it fools 95.0 to 97.5 % of the images")
    assert "(AER, ε 0.3, L∞, 3 ways, n = 40)" in text
    assert "refuses or answers rightly at least 85.00 %" in text  # 34 of 40
    # unaware images fool 12 of 40 without a rule and 6 of softmax, of which 2 are null when clean
    assert "keeps RAR 70.00 %" in text
    assert "The most has softmax, 80.00 %" in text
    assert "not distinguishable" in text
    assert "less: entropy" in text
    strong = "consistency keeps RAR 80.00 % (65.24 to 89.50; n = 40) at clean null 2.00 %"
    assert strong in text
    assert "n = 100); without it the network keeps 70.00 %" in text
    assert "at least 88.00" in text  # of 100: 10 not proved, 2 null when clean
    assert "clean null 2.0 %" in text


def test_nothing_survives(tmp_path: Path) -> None:
    models = ("clean-none", "clean-softmax", "clean-odds-are-odd")
    text = findings(Measures(read_run(write_fake_detectors(tmp_path, models=models))))
    assert text[0].startswith("On the network trained on clean images no way to refuse survives")
    assert not any("adversarially" in sentence for sentence in text)


def test_tables(run: Run) -> None:
    measures = Measures(run)
    table = aware_table(measures, "clean")
    assert [cells[0].text for cells in table.rows] == [
        "none",
        "softmax",
        "consistency",
        "odds-are-odd",
    ]
    cells = row(table, "consistency")
    assert [cell.text for cell in cells[-2:]] == ["13 + 10", "1.2"]
    # at ε 0.3 it fools 12 of 40, 2 others are null when clean; 30 of 40 are forced to null
    assert [cell.text for cell in cells[3:8]] == ["30.0", "85.0", "85.0", "65.0", "70.0"]
    assert row(unaware_table(measures, "clean", 0.3), "none")[-1].text == "70.0"  # 28 of 40
    assert prediction_costs(run) == dict.fromkeys(FOOLED, COST)
    assert cost_cells(None) == ["–", "–"]
    lines = terminal_lines(on_terminal(summary_tables(run)))
    assert any("clean-odds-are-odd" in line and "95.0" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_page(tmp_path: Path, num_seeds: int) -> None:
    folder = write_fake_detectors(tmp_path, num_seeds)
    check_blocks(draw_page(read_run(folder)))
    check_html(write_report(folder))

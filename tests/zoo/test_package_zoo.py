"""The members of the package: cards, sizes, results and page. Nothing is evaluated here."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pandas as pd
import pytest

from nullclass import UserError
from nullclass.core.paths import sha256
from nullclass.rejection import ProvableNull
from nullclass.training.checkpoint import WEIGHTS
from nullclass.zoo import FOLDER, Member, load_zoo, read_zoo
from nullclass.zoo.adopt import MAX_BYTES
from nullclass.zoo.leaderboard import LITERATURE, page
from nullclass.zoo.members import CHECKPOINTS
from nullclass.zoo.results import METRICS, RESULTS, find_rate, read_results

ROOT = Path(__file__).resolve().parents[2]
ZOO = read_zoo()
MEMBERS = [pytest.param(member, id=name) for name, member in ZOO.items()]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_has_small_weights_a_complete_card_and_answers_null(member: Member) -> None:
    weights = member.folder / WEIGHTS
    assert weights.stat().st_size < MAX_BYTES == 3_000_000
    assert sha256(weights) == member.weights_sha256
    origin = member.card.origin
    assert origin.training is not None
    assert origin.training["seed"] >= 0
    assert origin.training["recipe"]["epochs"] >= 1
    assert origin.trained_on is not None
    assert (member.training_minutes or 0) > 0
    assert (member.num_cores or 0) >= 1
    assert (member.card.stored == "exact") == (origin.rounding is None)
    assert "/" not in f"{member.card.provenance.machine} {origin.trained_on.machine}"
    model = load_zoo(member.name)
    assert model.has_null
    assert not model.training
    assert (model.num_classes, model.image_shape) == (10, (1, 28, 28))
    assert isinstance(model, ProvableNull) == member.name.startswith("provable")
    assert sum(p.numel() for p in model.parameters()) == member.card.num_parameters


@pytest.mark.parametrize("member", MEMBERS)
def test_results_are_consistent(member: Member) -> None:
    """Rates fit their counts; on the same images proofs and attacks never contradict."""
    rows = read_results(member)
    assert (rows["rate"] - rows["num_hits"] / rows["num_images"]).abs().max() < 1e-6
    assert ((rows["low"] <= rows["rate"]) & (rows["rate"] <= rows["high"])).all()
    assert all(row["metric"] in METRICS[row["kind"]] for row in rows.to_dict("records"))
    clean = rows[rows["kind"] == "clean"]
    assert clean["num_hits"].sum() == clean["num_images"].iloc[0] == 10_000
    # A strict proof of float64 says who is not null there; in float32 a few more are.
    num_null = 5 if member.name.startswith("provable") else 0
    for bound, metric, sign, slack in (
        ("rar_proved", "rar", 1, 0),
        ("strict_proved", "strict", 1, num_null),
        ("aer_bound", "aer", -1, 0),
    ):
        for row in rows[rows["metric"] == metric].to_dict("records"):
            eps, num_images = row["eps_pixels"], row["num_images"]
            proved = find_rate(rows, "proof", bound, eps, num_images)
            assert proved is None or sign * proved["num_hits"] <= sign * row["num_hits"] + slack
        rates = rows[(rows["metric"] == bound) & (rows["num_images"] == 10_000)]
        assert (sign * rates.sort_values("eps_pixels")["rate"]).is_monotonic_decreasing
    correct = clean.loc[clean["metric"] == "correct_rate", "num_hits"].item()
    proved = rows[(rows["metric"] == "rar_proved") & (rows["num_images"] == 10_000)]
    assert (proved["num_hits"] <= correct).all()


def test_folders_results_and_page_fit_together() -> None:
    assert {path.name for path in (FOLDER / CHECKPOINTS).iterdir()} == set(ZOO)
    results = pd.read_csv(FOLDER / RESULTS)
    assert set(results["member"]) == set(ZOO)
    assert not results.isna().any(axis=None)
    text = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    assert text == page(), "run: nullclass zoo leaderboard"
    quoted = text.split("## Published rates")[1]
    assert quoted.count("\n| ") == len(pd.read_csv(LITERATURE)) + 2


def test_checkpoints_and_tables_are_package_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["nullclass"]
    shipped = {path for pattern in patterns for path in FOLDER.parent.glob(pattern)}
    needed = {path for path in (FOLDER / CHECKPOINTS).rglob("*") if path.is_file()}
    assert needed | set(FOLDER.glob("*.csv")) <= shipped


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="no model 'nobody' in the zoo: choose one of notebook"):
        load_zoo("nobody")
    with pytest.raises(UserError, match="'all' means every model of the zoo: name one"):
        load_zoo("all")

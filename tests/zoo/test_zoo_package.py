"""The package's own zoo: its cards, its sizes, its page. Nothing is evaluated here."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

import nullclass.zoo
from nullclass import UserError
from nullclass.core.files import sha256
from nullclass.training.checkpoint import WEIGHTS, load_checkpoint
from nullclass.zoo import FOLDER, ZOO, Entry, load_zoo
from nullclass.zoo.adopt import MAX_BYTES
from nullclass.zoo.entries import CHECKPOINTS
from nullclass.zoo.leaderboard import page
from nullclass.zoo.literature import LITERATURE
from nullclass.zoo.members import MEMBERS
from nullclass.zoo.results import RESULTS, read_results

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = [pytest.param(entry, id=name) for name, entry in ZOO.items()]


def test_the_order_is_that_of_the_list() -> None:
    assert ZOO
    assert list(ZOO) == [name for name in MEMBERS if name in ZOO]
    folders = {path.name for path in (FOLDER / CHECKPOINTS).iterdir()}
    assert folders == set(ZOO), "a folder without a card, or a card without a line in MEMBERS"


@pytest.mark.parametrize("entry", ENTRIES)
def test_weights_are_small_and_the_cards_own(entry: Entry) -> None:
    weights = entry.folder / WEIGHTS
    assert weights.stat().st_size < MAX_BYTES == 3_000_000
    assert sha256(weights) == entry.card["weights_sha256"]
    model, _ = load_checkpoint(entry.folder)
    assert sum(p.numel() for p in model.parameters()) == entry.num_parameters
    assert model.image_shape == (1, 28, 28)


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_card_tells_what_the_list_tells_and_how_it_was_trained(entry: Entry) -> None:
    assert entry.about == MEMBERS[entry.name]
    for text in asdict(entry.about).values():
        assert text != ""
    card = entry.card
    assert card["training"]["seed"] >= 0
    assert card["training"]["recipe"]["epochs"] >= 1
    assert len(card["data_checksum"]) == 64
    assert entry.training_minutes > 0  # type: ignore[operator]
    assert entry.num_cores >= 1  # type: ignore[operator]
    assert (card["stored"] == "exact") == ("rounding" not in card)
    assert "/" not in str(card["machine"]) + str(card["trained_on"]["machine"])


@pytest.mark.parametrize("entry", ENTRIES)
def test_members_are_loaded_by_name_and_may_refuse(entry: Entry) -> None:
    model = load_zoo(entry.name)
    assert model.has_null
    assert model.num_classes == 10
    assert getattr(model, "radius", None) == entry.radius
    assert not model.training


@pytest.mark.parametrize("entry", ENTRIES)
def test_attack_from_above_and_proof_from_below_never_cross(entry: Entry) -> None:
    rows = read_results(entry)
    table = rows.set_index(["kind", "eps_pixels", "metric"]).sort_index()
    hits, num = table["num_hits"], table["num_images"]
    for eps in set(rows.loc[rows["kind"] == "bracket", "eps_pixels"]):
        attack, bracket = hits["attack", eps], hits["bracket", eps]
        assert num["attack", eps].nunique() == 1
        assert num["attack", eps].iloc[0] == num["bracket", eps].iloc[0]
        assert bracket["rar_proved"] <= attack["rar"]
        assert bracket["strict_proved"] <= attack["strict"]
        assert bracket["aer_bound"] >= attack["aer"]
        assert bracket["broken"] == 0
    for kind, metric, falls in (("proof", "rar_proved", True), ("proof", "aer_bound", False)):
        found = rows[(rows["kind"] == kind) & (rows["metric"] == metric)].sort_values("eps_pixels")
        shares = found["value"].tolist()
        assert shares == sorted(shares, reverse=falls)
    clean = dict(rows.loc[rows["kind"] == "clean", ["metric", "num_hits"]].to_numpy().tolist())
    proved = rows[(rows["kind"] == "proof") & (rows["metric"] == "rar_proved")]
    assert all(value <= clean["correct"] for value in proved["num_hits"])


def test_there_are_no_rows_of_nobody() -> None:
    assert {path.stem for path in (FOLDER / RESULTS).glob("*.csv")} <= set(ZOO)


def test_the_page_is_what_the_rows_make() -> None:
    told = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    assert told == page(), "run: nullclass zoo leaderboard"


def test_what_is_quoted_is_marked() -> None:
    quoted = page().split("## Figures of others, quoted")[1]
    assert quoted.count("\n| ") == len(LITERATURE) + 1
    assert all(told.source and told.source in quoted for told in LITERATURE)


def test_checkpoints_and_rows_are_package_data() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = told["tool"]["setuptools"]["package-data"]["nullclass"]
    package = FOLDER.parent
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    wanted = {p for p in (FOLDER / CHECKPOINTS).rglob("*") if p.is_file()}
    wanted |= set((FOLDER / RESULTS).glob("*.csv"))
    assert wanted <= shipped


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="no model 'nobody' in the zoo: choose one of notebook"):
        load_zoo("nobody")


def test_a_damaged_card_does_not_keep_the_module_from_being_imported(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, nullclass.zoo.entries as e\n"
        "e.read_zoo.__defaults__ = (pathlib.Path(sys.argv[1]),)\n"
        "import nullclass.zoo as z\n"
        "from nullclass import UserError\n"
        "try: z.ZOO\n"
        "except UserError as error: print(error)\n"
    )
    card = tmp_path / CHECKPOINTS / "odd" / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert "is not one of a zoo" in told.stdout
    with pytest.raises(AttributeError, match="no attribute 'MEMBERS_OF'"):
        nullclass.zoo.MEMBERS_OF  # noqa: B018


def test_listing_the_zoo_does_not_wait_for_torch() -> None:
    code = "import sys, nullclass.zoo as z; assert z.ZOO; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

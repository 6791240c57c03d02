"""The page of the leaderboard, of a tiny zoo whose figures are known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_zoo import EPS, TinyZoo, about

from nullclass.cli.main import main
from nullclass.core.errors import UserError
from nullclass.training.checkpoint import CARD
from nullclass.zoo.adopt import adopt
from nullclass.zoo.entries import CHECKPOINTS, find_entry, read_zoo
from nullclass.zoo.leaderboard import page
from nullclass.zoo.results import METRICS, cells_of, read_results


def test_every_figure_of_the_rows_stands_on_the_page(evaluated: TinyZoo) -> None:
    told, _ = page(evaluated.folder).split("## The models")
    table = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line
        for line in told.splitlines()
        if line.startswith("| ")
    }
    for entry in read_zoo(evaluated.folder).values():
        rows = read_results(entry)
        for eps in EPS:
            line = table[entry.name, f"{eps:g}"]
            shown = rows[(rows["eps_pixels"] == eps) | (rows["kind"] == "clean")]
            shown = shown[shown["kind"] != "bracket"]
            assert len(shown) == sum(len(METRICS[k]) for k in ("clean", "proof", "attack"))
            for row in shown.to_dict("records"):
                cell = (
                    f"{100 * row['num_hits'] / row['num_images']:.2f}<br><sub>"
                    f"{100 * row['low']:.2f} – {100 * row['high']:.2f}, n = {row['num_images']}<"
                )
                assert cell in line


def test_every_command_on_the_page_measures_a_cell(evaluated: TinyZoo) -> None:
    commands = re.findall(r"`nullclass zoo (check \w+ --cell \S+)`", page(evaluated.folder))
    expected = [
        f"check {entry.name} --cell {cell.name}"
        for entry in read_zoo(evaluated.folder).values()
        for cell in cells_of(read_results(entry))
    ]
    assert commands == expected
    assert len(commands) == 2 * (1 + 2 * len(EPS))
    first = [*commands[-1].split(), "--data-dir", str(evaluated.data_dir), "--device", "cpu"]
    assert main(["zoo", "--zoo", str(evaluated.folder), *first]) == 0


def test_the_command_writes_the_page_and_the_same_rows_the_same_page(
    evaluated: TinyZoo, tmp_path: Path
) -> None:
    out = tmp_path / "docs" / "page.md"
    for _ in range(2):
        assert main(["zoo", "--zoo", str(evaluated.folder), "leaderboard", "--out", str(out)]) == 0
        assert out.read_text(encoding="utf-8") == page(evaluated.folder)


def test_a_member_nobody_evaluated_has_dashes(zoo: TinyZoo) -> None:
    (zoo.folder / "results" / "proved.csv").unlink()
    told = page(zoo.folder)
    lines = [line for line in told.splitlines() if line.startswith(f"| proved | {EPS[0]:g} |")]
    assert len(lines) == 1
    assert lines[0].count("–") == 10
    assert "check proved" not in told


def test_adopting_what_is_too_large_or_unknown_leaves_the_zoo_as_it_was(
    zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in zoo.folder.rglob("*") if p.is_file()}

    before = files()
    source = zoo.folder / CHECKPOINTS / "learned"
    with pytest.raises(UserError, match="nobody says what 'x' is"):
        adopt(source, "x", zoo=zoo.folder)
    monkeypatch.setattr("nullclass.zoo.adopt.MAX_BYTES", 1000)
    with pytest.raises(UserError, match="store them as float16 or int8"):
        adopt(source, "learned", about=about(), zoo=zoo.folder)
    assert files() == before


def test_adopting_keeps_what_the_training_told(zoo: TinyZoo) -> None:
    card = find_entry("proved", zoo.folder).card
    assert card["training"] == {"name": "proved", "seed": 0}
    assert card["training_seconds"] == 90.0
    assert card["trained_on"]["machine"]["num_cores"] >= 1
    assert "rounded once, to float16" in card["rounding"]
    assert "rounding" not in find_entry("learned", zoo.folder).card
    assert not list((zoo.folder / CHECKPOINTS).glob(f".*/{CARD}"))

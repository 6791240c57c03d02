"""The worst-case benchmark in small: its records resume, and its table counts right."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.models import Classifier

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import worst_case
from worst_case_models import MODELS
from worst_case_records import Record, path_of, read_records, write_records
from worst_case_table import report


def linear_model(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    return Classifier(body, 3, image_shape=(1, 3, 3))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., bool]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 1, 3, 3), generator=generator, dtype=torch.uint8)
    data = LabelledImages(pixels, torch.arange(8) % 3, 3)
    monkeypatch.setattr(worst_case, "mnist", lambda _: SimpleNamespace(test=data))
    monkeypatch.setattr(worst_case, "CHUNK", 3)
    monkeypatch.setitem(MODELS, "tiny", linear_model)

    def run(folder: str = "records", **settings: object) -> bool:
        options = {"models": ("tiny",), "attacks": ("fgsm", "pgd"), "eps": (0.1, 0.2)} | settings
        return worst_case.run(
            worst_case.Options(num_images=8, records=tmp_path / folder, **options)
        )

    return run


def results(folder: Path) -> list[tuple[object, ...]]:
    return [(*r.key, r.outcomes, r.forward, r.backward) for r in read_records("tiny", folder)]


def test_an_interrupted_run_resumes_with_what_is_missing(
    run: Callable[..., bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run("undisturbed")
    attack_chunk, calls = worst_case.attack_chunk, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return attack_chunk(*arguments)

    monkeypatch.setattr(worst_case, "attack_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(read_records("tiny", tmp_path / "records")) == 5
    assert run()
    assert len(calls) == 6 + 12 - 5
    assert results(tmp_path / "records") == results(tmp_path / "undisturbed")
    letters = [record.outcomes for record in read_records("tiny", tmp_path / "records")]
    assert {len(text) for text in letters} == {3, 2}
    assert "?" not in "".join(letters)
    assert run()
    assert len(calls) == 6 + 12 - 5


def test_records_of_other_weights_and_settings_are_replaced(
    run: Callable[..., bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(eps=(0.1,))
    before = read_records("tiny", tmp_path / "records")
    old = [replace(r, settings="old") if r.attack == "pgd" else r for r in before]
    write_records("tiny", old, tmp_path / "records")
    run(eps=(0.1,), attacks=("fgsm",), minutes=0)
    assert len(read_records("tiny", tmp_path / "records")) == len(before)
    run(eps=(0.1,))
    assert {r.settings for r in read_records("tiny", tmp_path / "records")} == {
        r.settings for r in before
    }
    monkeypatch.setitem(MODELS, "tiny", lambda: linear_model(1))
    run(eps=(0.1,), attacks=("fgsm",))
    after = read_records("tiny", tmp_path / "records")
    assert {r.attack for r in after} == {"fgsm"}
    assert {r.weights for r in after}.isdisjoint({r.weights for r in before})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_there(name: str) -> None:
    assert MODELS[name]().num_classes == 10


def test_unknown_models_and_attacks_are_refused(run: Callable[..., bool]) -> None:
    with pytest.raises(UserError, match="no model 'none'"):
        run(models=("none",))
    with pytest.raises(UserError, match="no attack to run"):
        run(attacks=("none",))


def record(attack: str, eps: float, outcomes: str, seconds: float, first: int = 0) -> Record:
    return Record(
        attack=attack,
        settings="1",
        eps=eps,
        first=first,
        outcomes=outcomes,
        cpu_seconds=seconds,
        pass_seconds=1e-3,
        forward=40,
        backward=10,
        weights="0",
        versions="torch",
        processor="a processor",
    )


def test_the_table_counts_what_every_attack_got(tmp_path: Path) -> None:
    records = []
    for eps in (0.1, 0.2, 0.3):
        records += [
            record("worst-case", eps, "wpffc", 1.0),
            record("worst-case", eps, "cccff", 3.0, first=5),
            record("worst-case-1", eps, "wpffc", 10.0),
            record("worst-case-1", eps, "cccff", 20.0, first=5),
            record("autoattack", eps, "wpfcf" if eps == 0.2 else "wpfcc", 20.0),
            record("art-pgd", eps, "wpxcc" if eps == 0.3 else "wpfcc", 5.0),
            record("art-pgd", eps, "fffff", 5.0, first=10),  # after a gap
        ]
    write_records("abstain", records, tmp_path)
    assert path_of("abstain", tmp_path).name == "abstain.csv"
    text = report(("abstain", "adversarial"), tmp_path)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| abstain |")
    ]
    # model, images, wrong, proved, worst-case, worst-case-1, art-pgd, autoattack, union, missed
    counts = [[*row[:9], row[10]] for row in rows]
    assert counts == [
        ["abstain", "10", "1", "1", "5", "5", "2 of 5", "2 of 5", "5", "0"],
        ["abstain", "10", "1", "1", "5", "5", "2 of 5", "3 of 5", "6", "1"],
        ["abstain", "10", "1", "1", "5", "5", "1 of 5 (**1 OUTSIDE**)", "2 of 5", "5", "0"],
    ]
    assert rows[1][9].startswith("83.3 % (43.6 – 97.0)")
    assert "- abstain at 0.2: image 4 (autoattack)" in text
    assert "| abstain, 0.1 | 8 | 0.5 s, 10 / 2 | 3.8 s, 10 / 2 |" in text
    assert "| 0.133 | 0.050 |" in text
    assert "| autoattack | 15 | 60 | 60 | 120 | 30 | 3, 3, 120, 30 | 0.050 |" in text
    assert "over `worst-case-1`'s, 30 images of all cells: 0.133" in text
    assert "open: finds at least 99.5 % of the union: 2 of 3 cells, n ≥ 10" in text
    assert "abstain at 0.3: art-pgd 1" in text


def test_a_table_needs_a_record_of_the_worst_case(tmp_path: Path) -> None:
    write_records("abstain", [record("worst-case-1", 0.1, "fff", 1.0)], tmp_path)
    with pytest.raises(UserError, match="no record of worst-case"):
        report(("abstain",), tmp_path)

"""``nullclass zoo`` on a tiny zoo: what works, and how it says no."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_zoo import EPS, RADIUS, TinyZoo

from nullclass.cli.main import main
from nullclass.rejection import ProvableNull
from nullclass.training.checkpoint import CARD, WEIGHTS, load_checkpoint
from nullclass.zoo.entries import find_entry, read_zoo
from nullclass.zoo.loading import load_entry
from nullclass.zoo.results import RESULT_COLUMNS, read_results

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(zoo: TinyZoo, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["zoo", "--zoo", str(zoo.folder), *map(str, arguments)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return command


def check(run: Run, zoo: TinyZoo, *arguments: object) -> tuple[int, str, str]:
    return run(zoo, "check", *arguments, "--data-dir", zoo.data_dir, "--device", "cpu")


def refused(told: tuple[int, str, str], says: str) -> None:
    status, _, error = told
    assert status == 2, told
    assert len(error.splitlines()) == 1, error
    assert error.startswith("nullclass: ")
    assert re.search(says, error), error


def test_the_list_tells_every_member(run: Run, evaluated: TinyZoo) -> None:
    status, told, _ = run(evaluated)
    assert status == 0
    assert run(evaluated, "list") == (0, told, "")
    clean = [
        f"{100 * value:.2f}"
        for value in read_results(find_entry("proved", evaluated.folder)).query("kind == 'clean'")[
            "value"
        ]
    ]
    assert "learned" in told
    assert "/".join(clean) in told
    assert f"{find_entry('proved', evaluated.folder).num_parameters:,}" in told


def test_show_tells_the_card_and_the_commands(run: Run, evaluated: TinyZoo) -> None:
    status, told, _ = run(evaluated, "show", "proved")
    assert status == 0
    card = find_entry("proved", evaluated.folder).card
    for text in ("in a moment", "little", "much", "a test", "MIT", card["weights_sha256"],
                 evaluated.dataset.checksum, "1.5 minutes", '"seed": 0', "float16",
                 f"nullclass zoo check proved --cell proof@{EPS[1]:g}"):  # fmt: skip
        assert text in told, text


def test_members_load_as_they_answer(evaluated: TinyZoo) -> None:
    zoo = read_zoo(evaluated.folder)
    assert list(zoo) == ["learned", "proved"]
    learned, proved = (load_entry(entry) for entry in zoo.values())
    assert (learned.has_null, isinstance(learned, ProvableNull)) == (True, False)
    assert isinstance(proved, ProvableNull)
    assert (proved.radius, proved.norm, proved.verifier) == (RADIUS, "linf", "interval")
    images, _ = evaluated.dataset.test.batch(slice(None))
    assert set(proved.predict(images).tolist()) <= {-1, 0, 1, 2}


def test_rows_say_what_plain_counting_says(evaluated: TinyZoo) -> None:
    images, labels = evaluated.dataset.test.batch(slice(None))
    for name in ("learned", "proved"):
        entry = find_entry(name, evaluated.folder)
        rows = read_results(entry)
        assert list(rows.columns) == list(RESULT_COLUMNS)
        answers = load_entry(entry).predict(images)
        expected = [int((answers == labels).sum()), int((answers == -1).sum())]
        clean = rows[rows["kind"] == "clean"]
        assert clean["num_hits"].tolist() == [*expected, 40 - sum(expected)]
        assert set(clean["num_images"]) == {40}
        adv_images = rows[rows["kind"] == "attack"]
        assert set(adv_images["num_images"]) == {30}
        assert sorted(set(adv_images["eps_pixels"])) == list(EPS)
        assert set(rows["weights_sha256"]) == {entry.card["weights_sha256"]}
    # By the claim: certified accuracy of the model inside, at max(r, eps - r) = r.
    inner, _ = load_checkpoint(evaluated.folder / "checkpoints" / "proved")
    proved = ProvableNull(inner, EPS[1] - RADIUS + 1e-6)
    by_hand = int((proved.predict(images) == labels).sum())
    rows = read_results(find_entry("proved", evaluated.folder))
    at = rows[(rows["kind"] == "proof") & (rows["metric"] == "rar_proved")]
    assert 0 < by_hand == at.loc[at["eps_pixels"] == EPS[1], "num_hits"].item()


def test_what_is_proved_is_never_above_what_attacks_left(evaluated: TinyZoo) -> None:
    for entry in read_zoo(evaluated.folder).values():
        rows = read_results(entry).set_index(["kind", "eps_pixels", "metric"])
        rows = rows["num_hits"].sort_index()
        for eps in EPS:
            attack, bracket = rows["attack", eps], rows["bracket", eps]
            assert bracket["rar_proved"] <= attack["rar"]
            assert bracket["strict_proved"] <= attack["strict"]
            assert bracket["aer_bound"] >= attack["aer"]
            assert bracket["broken"] == 0


def test_everything_holds_the_attacks_too(run: Run, evaluated: TinyZoo) -> None:
    status, told, _ = check(run, evaluated, "all")
    assert status == 0
    assert told.count("holds  ") == 2 * (1 + 1 + len(EPS))
    assert "attack@" not in told
    status, told, _ = check(run, evaluated, "proved", "--attack")
    assert status == 0
    assert told.count("attack@") == len(EPS)
    status, told, _ = check(run, evaluated, "learned", "--cell", f"attack@{EPS[1]:g}", "clean")
    assert status == 0
    assert re.findall(r"^holds  learned  (\S+):", told, re.M) == ["clean", f"attack@{EPS[1]:g}"]


@pytest.mark.parametrize("place", [-3, 200, -2000])
def test_a_flipped_bit_of_the_weights_is_named(run: Run, zoo: TinyZoo, place: int) -> None:
    path = zoo.folder / "checkpoints" / "proved" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    told = check(run, zoo, "all")
    refused(told, rf"1 of \d cells do not hold: proved weights: .*{WEIGHTS}")
    assert re.search(r"^FAILS  proved  weights: ", told[1], re.M)
    assert "holds  learned  clean" in told[1], "the others are checked all the same"


def test_weights_of_another_training_with_their_own_card(run: Run, zoo: TinyZoo) -> None:
    """Sound files, but the rows are of other weights."""
    folder = zoo.folder / "checkpoints" / "learned"
    model, card = load_checkpoint(folder)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    from nullclass import save_checkpoint

    kept = {key: card[key] for key in ("data", "data_checksum", "zoo", "training")}
    save_checkpoint(model, folder, about=kept)
    refused(check(run, zoo, "learned"), "line 2 of .*learned.csv is of other weights")


def change_rows(zoo: TinyZoo, name: str, where: str, **changed: object) -> None:
    path = zoo.folder / "results" / f"{name}.csv"
    rows = pd.read_csv(path, keep_default_na=False, dtype=RESULT_COLUMNS)
    for column, value in changed.items():
        rows.loc[rows.eval(where), column] = value
    rows.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("where", "column", "value"),
    [
        ("kind == 'proof' and metric == 'rar_proved'", "value", 0.99),
        ("kind == 'attack' and metric == 'rar'", "value", 0.99),
        ("kind == 'attack' and metric == 'rar'", "num_hits", 7),
        ("kind == 'clean' and metric == 'null'", "high", 0.5),
        ("kind == 'clean' and metric == 'null'", "num_images", 1000),
        ("kind == 'attack' and metric == 'aer'", "metric", "rar"),
        ("kind == 'bracket'", "kind", "proof"),
        ("kind == 'clean'", "weights_sha256", "0" * 64),
    ],
)
def test_a_changed_number_is_caught(
    run: Run, zoo: TinyZoo, where: str, column: str, value: object
) -> None:
    change_rows(zoo, "proved", where, **{column: value})
    refused(check(run, zoo, "proved"), "proved.csv")
    refused(run(zoo, "leaderboard", "--out", zoo.folder / "page.md"), "proved.csv")
    assert not (zoo.folder / "page.md").exists()


@pytest.mark.parametrize(
    ("metric", "cell"),
    [("rar_proved", f"proof@{EPS[0]:g}"), ("strict_proved", f"proof@{EPS[0]:g}")],
)
def test_a_figure_that_fits_itself_but_is_not_so_is_caught(
    run: Run, zoo: TinyZoo, metric: str, cell: str
) -> None:
    """Up or down by one image, with the right share and interval."""
    from nullclass.metrics.rates import wilson

    rows = read_results(find_entry("proved", zoo.folder))
    where = f"kind == 'proof' and metric == '{metric}' and eps_pixels == {EPS[0]}"
    hits = int(rows.query(where)["num_hits"].item())
    for other in {max(hits - 1, 0), min(hits + 1, 40)} - {hits}:
        low, high = wilson(other, 40)
        change_rows(zoo, "proved", where, num_hits=other, value=other / 40, low=low, high=high)
        told = check(run, zoo, "proved")
        refused(told, f"1 of 4 cells do not hold: proved {cell}: {metric} {other} of 40 written")
        assert f"{hits} found" in told[2]


def test_an_attack_that_left_less_than_is_written_is_caught(run: Run, zoo: TinyZoo) -> None:
    from nullclass.metrics.rates import wilson

    rows = read_results(find_entry("learned", zoo.folder))
    where = f"kind == 'attack' and metric == 'rar' and eps_pixels == {EPS[1]}"
    hits = int(rows.query(where)["num_hits"].item())
    other = hits + 1 if hits < 30 else hits - 1
    low, high = wilson(other, 30)
    change_rows(zoo, "learned", where, num_hits=other, value=other / 30, low=low, high=high)
    assert check(run, zoo, "learned")[0] == 0, "attacks are made again only when asked"
    told = check(run, zoo, "learned", "--cell", f"attack@{EPS[1]:g}")
    refused(told, f"learned attack@{EPS[1]:g}: rar {other} of 30 written, {hits} found")


def test_figures_of_another_version_of_the_attack_do_not_compare(run: Run, zoo: TinyZoo) -> None:
    change_rows(zoo, "learned", "kind == 'attack'", version="0")
    told = check(run, zoo, "learned", "--cell", f"attack@{EPS[0]:g}")
    refused(told, "version 0 of pgd is written, here is none")


def test_a_cell_evaluated_anew_replaces_the_old_one_only(run: Run, zoo: TinyZoo) -> None:
    before = read_results(find_entry("proved", zoo.folder))
    arguments = ["evaluate", "proved", "--data-dir", zoo.data_dir, "--device", "cpu"]
    again = run(zoo, *arguments, "--attack", "none", "--eps", EPS[0])
    assert again[0] == 0
    pd.testing.assert_frame_equal(read_results(find_entry("proved", zoo.folder)), before)
    assert run(zoo, *arguments, "--attack", "dataset", "--images", 10, "--eps", 0.03)[0] == 0
    after = read_results(find_entry("proved", zoo.folder))
    assert sorted(set(after["eps_pixels"])) == [0.0, EPS[0], 0.03, EPS[1]]
    assert set(after.query("kind == 'attack' and eps_pixels == 0.03")["num_images"]) == {10}
    kept = after[after["eps_pixels"] != 0.03].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "proven"], "no model 'proven' in the zoo: choose one of learned, proved"),
        (["check", "nobody"], "no model 'nobody'"),
        (["check"], "name a model of the zoo, or all"),
        (["evaluate"], "name a model of the zoo, or all"),
        (["evaluate", "../proved"], "no model '../proved'"),
        (["evaluate", "proved", "--eps", "1.5"], r"1\.5"),
        (["evaluate", "proved", "--eps", "-0.1"], r"-0\.1"),
        (["evaluate", "proved", "--eps", "0"], "larger than 0"),
        (["evaluate", "proved", "--images", "0"], "--images must be at least 1"),
        (["evaluate", "proved", "--attack", "hammer"], "hammer"),
        (["evaluate", "proved", "--attack", "worst-case-force-null"], "needs an attack that fools"),
        (["evaluate", "proved", "--proofs", "oracle"], "no verifier 'oracle'"),
        (["check", "proved", "--cell", "proof@0.9"], "has no cell 'proof@0.9': choose one of weig"),
    ],
)
def test_bad_arguments(run: Run, evaluated: TinyZoo, arguments: list[str], says: str) -> None:
    before = {p: p.read_bytes() for p in evaluated.folder.rglob("*") if p.is_file()}
    refused(run(evaluated, *arguments), says)
    assert {p: p.read_bytes() for p in evaluated.folder.rglob("*") if p.is_file()} == before


def test_other_data(run: Run, zoo: TinyZoo, tmp_path: Path) -> None:
    from idx_files import write_dataset
    from tiny import learnable_arrays

    arrays = learnable_arrays()
    for array in arrays.values():
        if array.ndim == 3:
            array[0, 0, 0] ^= 1
    told = run(zoo, "check", "proved", "--data-dir", write_dataset(tmp_path / "other", arrays))
    refused(told, "proved clean .*: the rows are of other data")


def test_a_damaged_zoo(run: Run, zoo: TinyZoo, tmp_path: Path) -> None:
    card = zoo.folder / "checkpoints" / "learned" / CARD
    whole = json.loads(card.read_text())
    for broken in ({"zoo": None}, {"zoo": {**whole["zoo"], "eps": []}}, {"num_parameters": "x"},
                   {"zoo": {**whole["zoo"], "eps": ["a"]}}, {"zoo": {"title": "x"}}):  # fmt: skip
        card.write_text(json.dumps(whole | broken))
        refused(run(zoo), "card.json is not one of a zoo")
    card.write_text("{")
    refused(run(zoo), "cannot be read as the model card")
    card.write_text(json.dumps(whole))
    (zoo.folder / "results" / "learned.csv").write_text("member,kind\n")
    refused(run(zoo, "show", "learned"), "learned.csv lacks the column")
    shutil.rmtree(zoo.folder / "checkpoints")
    refused(run(zoo), "has no members")
    status = main(["zoo", "--zoo", str(tmp_path / "nowhere"), "list"])
    assert status == 2


def test_a_broken_proof_is_told(run: Run, zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted verifier that proves everything: the attack shows that it is wrong."""
    from nullclass.certify import verifiers

    def everything(network, images, radius, norm, spec):  # type: ignore[no-untyped-def]
        return torch.ones(len(images), spec.shape[-2], dtype=images.dtype)

    monkeypatch.setitem(verifiers.VERIFIERS, "everything", everything)
    told = run(zoo, "evaluate", "learned", "--data-dir", zoo.data_dir, "--device", "cpu",
               "--images", 20, "--attack", "pgd", "--eps", 0.5,
               "--proofs", "everything")  # fmt: skip
    *_, last = told[2].splitlines()  # after the progress
    refused((*told[:2], last), "attacks on learned did .* proved to be impossible")


def test_help_and_the_list_do_not_wait_for_torch(evaluated: TinyZoo) -> None:
    code = (
        "import sys\n"
        "from nullclass.cli.main import main\n"
        f"assert main(['zoo', '--zoo', {str(evaluated.folder)!r}, 'list']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""``nullclass zoo`` on a tiny zoo."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from edited import edit_document
from msgspec.structs import replace as replace_field
from tiny_zoo import CARD_OF_TINY, EPS, RADIUS, TinyZoo

from nullclass import UserError, evaluate, load_checkpoint, save_checkpoint
from nullclass.cli.main import main
from nullclass.evaluation.result import Evaluation
from nullclass.rejection import ConsistentNull, ProvableNull, reject_by, with_proof, with_threshold
from nullclass.results.run import read_run
from nullclass.training.checkpoint import CARD, WEIGHTS
from nullclass.zoo import FOLDER, find_member, read_zoo
from nullclass.zoo.adopt import adopt
from nullclass.zoo.evaluate import check_proofs, prove_member
from nullclass.zoo.leaderboard import RATES, page
from nullclass.zoo.load import load_member
from nullclass.zoo.members import CHECKPOINTS
from nullclass.zoo.results import (
    METRICS,
    RESULTS,
    find_rate,
    read_results,
    result_rows,
    update_results,
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(zoo: TinyZoo, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        if arguments and arguments[0] in ("check", "evaluate"):
            arguments = (*arguments, "--data", zoo.data_folder, "--device", "cpu")
        status = main(["zoo", "--zoo", str(zoo.folder), *map(str, arguments)])
        output = capsys.readouterr()
        return status, output.out, output.err

    return command


def refused(result: tuple[int, str, str], message: str) -> None:
    status, _, error = result
    assert status == 2, result
    last = error.splitlines()[-1]
    assert last.startswith("nullclass: ")
    assert re.search(message, last), error


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_list_and_show(run: Run, evaluated: TinyZoo) -> None:
    member = find_member("proved", evaluated.folder)
    rows = read_results(member)
    status, listed, _ = run(evaluated)
    assert status == 0
    assert run(evaluated, "list") == (0, listed, "")
    clean = [find_rate(rows, "clean", metric) for metric in METRICS["clean"]]
    assert "/".join(f"{100 * row['rate']:.2f}" for row in clean if row) + " (40)" in listed
    assert "learned" in listed
    assert f"{member.card.num_parameters:,}" in listed
    status, shown, _ = run(evaluated, "show", "proved")
    assert status == 0
    for text in (*CARD_OF_TINY.values(), member.weights_sha256, evaluated.dataset.checksum,
                 "1.5 minutes", '"seed": 0', "float16", "attack by pgd, eps 0.04, n = 30: aer",
                 "proof by interval, eps 0.02, n = 40: rar_proved"):  # fmt: skip
        assert text in shown, text


def test_loaded_members(evaluated: TinyZoo) -> None:
    zoo = read_zoo(evaluated.folder)
    assert list(zoo) == ["learned", "proved"]
    learned, proved = (load_member(member) for member in zoo.values())
    assert (learned.has_null, isinstance(learned, ProvableNull)) == (True, False)
    assert isinstance(proved, ProvableNull)
    assert (proved.radius, proved.norm, proved.verifier) == (RADIUS, "linf", "interval")
    images, _ = evaluated.dataset.test.batch(slice(None))
    assert set(proved.predict(images).tolist()) <= {-1, 0, 1, 2}


def test_rates_are_counts(evaluated: TinyZoo) -> None:
    images, labels = evaluated.dataset.test.batch(slice(None))
    table = pd.read_csv(evaluated.folder / RESULTS)
    assert not table.isna().any(axis=None)
    for member in read_zoo(evaluated.folder).values():
        rows = read_results(member)
        pd.testing.assert_frame_equal(
            table[table["member"] == member.name].reset_index(drop=True), rows
        )
        predicted = load_member(member).predict(images)
        expected = [int((predicted == labels).sum()), int((predicted == -1).sum())]
        clean = rows[rows["kind"] == "clean"]
        assert clean["num_hits"].tolist() == [*expected, 40 - sum(expected)]
        assert set(rows.loc[rows["kind"] == "attack", "num_images"]) == {30}
        # The run folder holds the same rates, and the rows that they were counted on.
        (trial,) = read_run(evaluated.out / member.name).trials
        fooled = trial.rows[trial.rows["outcome"] == "fooled"]
        for eps in EPS:
            aer = find_rate(rows, "attack", "aer", eps)
            assert aer
            assert aer["num_hits"] == fooled.loc[fooled["eps_pixels"] <= eps, "image"].nunique()
        written = pd.read_csv(evaluated.out / f"{member.name}.csv")
        pd.testing.assert_frame_equal(written, rows)
    # The claim of ProvableNull: RAR is the certified accuracy of its model at max(r, eps - r).
    inner, _ = load_checkpoint(evaluated.folder / CHECKPOINTS / "proved")
    proved = with_proof(inner, EPS[1] - RADIUS + 1e-6)
    rar = find_rate(rows, "proof", "rar_proved", EPS[1])
    assert rar
    assert 0 < int((proved.predict(images) == labels).sum()) == rar["num_hits"]


def test_everything_agrees(run: Run, evaluated: TinyZoo) -> None:
    status, output, _ = run(evaluated, "check", "all")
    assert status == 0
    assert output.count("agrees ") == 2 * (2 + 2 * len(EPS))  # weights, clean, proofs of 30 and 40
    assert "attack" not in output
    status, output, _ = run(evaluated, "check", "proved", "--attack")
    assert status == 0
    assert output.count("attack at") == len(EPS)


def test_answers_by_the_cascade(run: Run, evaluated: TinyZoo, tmp_path: Path) -> None:
    options = ("--verifier", "cascade", "--attack", "none", "--eps", 2 * RADIUS, "--out", tmp_path)
    assert run(evaluated, "evaluate", "proved", *options)[0] == 0
    rows = pd.read_csv(tmp_path / "proved.csv").set_index("metric")
    assert set(rows.loc[rows["kind"] == "proof", "method"]) == {"cascade"}
    inner, _ = load_checkpoint(evaluated.folder / CHECKPOINTS / "proved")
    model = with_proof(inner, verifier="cascade").double()
    images, labels = evaluated.dataset.test.batch(slice(None))
    num = int((model.predict(images.double()) == labels).sum())
    assert rows["num_hits"]["correct_rate"] == num
    assert num - 1 <= rows["num_hits"]["rar_proved"] <= num  # within 1e-6 more


def test_a_flipped_bit_of_the_weights_is_reported(run: Run, zoo: TinyZoo) -> None:
    path = zoo.folder / CHECKPOINTS / "proved" / WEIGHTS
    content = path.read_bytes()
    for position in (-3, 200, -2000):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(bytes(changed))
        refused(run(zoo, "check", "proved"), rf"1 of 1 differ; .* proved files: .*{WEIGHTS}")
    result = run(zoo, "check", "all")
    refused(result, rf"1 of \d differ; the first is proved files: .*{WEIGHTS}")
    assert "agrees   learned  clean" in result[1], "the other model is checked too"


def test_results_of_other_weights_are_reported(run: Run, zoo: TinyZoo) -> None:
    folder = zoo.folder / CHECKPOINTS / "learned"
    model, card = load_checkpoint(folder)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    save_checkpoint(model, folder, origin=card.origin, zoo=card.zoo)
    refused(run(zoo, "check", "learned"), "has results of learned for other weights")
    refused(run(zoo, "leaderboard", "--out", zoo.out / "page.md"), "for other weights")
    options = ("--attack", "none", "--proofs", "none", "--out", zoo.out, "--update")
    assert run(zoo, "evaluate", "learned", *options)[0] == 0
    assert set(read_results(find_member("learned", zoo.folder))["kind"]) == {"clean"}


@pytest.mark.parametrize(("num_images", "kept"), [(20, 30), (35, 35)])
def test_the_rates_of_most_attacked_images_are_kept(
    zoo: TinyZoo, num_images: int, kept: int
) -> None:
    member = find_member("proved", zoo.folder)
    before = read_results(member)
    rows = result_rows(member, "attack", {"aer": 1}, num_images, method="pgd", eps=EPS[1])
    update_results(zoo.folder, rows)
    after = read_results(member)
    aer = after[(after["metric"] == "aer") & (after["eps_pixels"] == EPS[1])]
    assert list(aer["num_images"]) == [kept]
    assert len(after) == len(before)


@pytest.mark.parametrize(
    ("kind", "metric", "change", "is_found"),
    [
        ("clean", "correct_rate", 1, True),
        ("proof", "rar_proved", -1, True),
        ("proof", "strict_proved", 1, True),
        ("attack", "rar", 1, True),
        ("attack", "rar", 1, False),
    ],
)
def test_a_wrong_rate_is_reported(
    run: Run, zoo: TinyZoo, kind: str, metric: str, change: int, is_found: bool
) -> None:
    """Attacks are repeated only with ``--attack``."""
    path = zoo.folder / RESULTS
    rows = pd.read_csv(path)
    rows.loc[(rows["kind"] == "attack") & (rows["member"] == "learned"), "version"] = "old 0"
    wrong = (rows["member"] == "proved") & (rows["kind"] == kind) & (rows["metric"] == metric)
    first = rows[wrong].index[0]
    hits, num_images = rows.loc[first, ["num_hits", "num_images"]]
    rows.loc[first, ["num_hits", "rate"]] = hits + change, (hits + change) / num_images
    rows.to_csv(path, index=False)
    result = run(zoo, "check", "proved", *(["--attack"] if kind == "attack" and is_found else []))
    if is_found:
        recorded = f"{metric} {hits + change} of {num_images} recorded, {hits} of"
        refused(result, f"1 of .* differ; the first is proved {kind}.*: {recorded}")
    else:
        assert result[0] == 0
        refused(run(zoo, "check", "learned", "--attack"), "recorded with version old 0, this is")


def test_an_update_replaces_only_the_same_rates(run: Run, zoo: TinyZoo) -> None:
    member = find_member("proved", zoo.folder)
    before = read_results(member)
    options = ("--out", zoo.out, "--update", "--no-checks")
    assert run(zoo, "evaluate", "proved", "--attack", "none", *options)[0] == 0
    pd.testing.assert_frame_equal(read_results(member), before)
    other = ("--eps", 0.03, "--proofs", "none")
    assert run(zoo, "evaluate", "proved", "--attack", "none", *other, *options[:2])[0] == 0
    pd.testing.assert_frame_equal(read_results(member), before)
    attack = ("--attack", "dataset", "--images", 10)
    assert run(zoo, "evaluate", "proved", *attack, *other, *options)[0] == 0
    after = read_results(member)
    assert set(after.query("kind == 'attack' and eps_pixels == 0.03")["num_images"]) == {10}
    kept = after[after["eps_pixels"] != 0.03].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)


def test_an_installed_package_is_not_updated(
    run: Run, zoo: TinyZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "nullclass" / "zoo"
    shutil.copytree(zoo.folder, installed)
    monkeypatch.setattr("nullclass.zoo.results.FOLDER", installed)
    before = contents(installed)
    status = main(["zoo", "--zoo", str(installed), "evaluate", "proved", "--update"])
    assert status == 2
    assert contents(installed) == before
    assert (FOLDER.parents[2] / "pyproject.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "proven"], "no model 'proven' in the zoo: choose one of learned, proved"),
        (["check", "nobody"], "no model 'nobody'"),
        (["check"], "name a model of the zoo, or all"),
        (["evaluate"], "name a model of the zoo, or all"),
        (["evaluate", "../proved"], "no model '../proved'"),
        (["evaluate", "proved", "--eps", "1.5"], r"1\.5"),
        (["evaluate", "proved", "--eps", "-0.1"], r"-0\.1"),
        (["evaluate", "proved", "--eps", "0"], "larger than 0"),
        (["evaluate", "proved", "--images", "0"], "--images must be"),
        (["evaluate", "proved", "--seed", "-1"], "seed"),
        (["evaluate", "proved", "--attack", "hammer"], "hammer"),
        (["evaluate", "proved", "--attack", "worst-case-force-null"], "needs an attack that fools"),
        (["evaluate", "proved", "--proofs", "oracle"], "verifier must be one of .*oracle"),
        (["evaluate", "proved", "--verifier", "oracle"], "verifier must be one of .*oracle"),
        (["evaluate", "proved", "--verifier", "cascade", "--update"], "leave out --update"),
        (["evaluate", "learned", "--verifier", "cascade", "--attack", "none"], "has no radius"),
    ],
)
def test_bad_arguments(run: Run, evaluated: TinyZoo, arguments: list[str], message: str) -> None:
    before = contents(evaluated.folder)
    refused(run(evaluated, *arguments), message)
    assert contents(evaluated.folder) == before


def test_another_dataset_is_refused(run: Run, zoo: TinyZoo, tmp_path: Path) -> None:
    from idx_files import write_dataset
    from tiny import learnable_arrays

    arrays = learnable_arrays()
    for array in arrays.values():
        if array.ndim == 3:
            array[0, 0, 0] ^= 1
    other = replace(zoo, data_folder=write_dataset(tmp_path / "other", arrays))
    refused(run(other, "check", "proved"), "proved files: .* is not the dataset of proved")


def test_a_damaged_zoo(run: Run, zoo: TinyZoo, tmp_path: Path) -> None:
    path = zoo.folder / CHECKPOINTS / "learned" / CARD
    text, card = path.read_text(), json.loads(path.read_text())
    for broken, says in (
        ({"zoo": None}, "is not one of a zoo"),
        ({"zoo": {**card["zoo"], "eps": []}}, r"eps of a description must be in \(0, 1\]"),
        ({"zoo": {**card["zoo"], "eps": [0.2, 0.1]}}, "eps of a description must increase"),
        ({"zoo": {**card["zoo"], "eps": ["a"]}}, "Expected `float`"),
        ({"zoo": {"title": "x"}}, "missing required field"),
        ({"num_parameters": "x"}, "Expected `int`"),
        ({"origin": {**card["origin"], "data": None}}, "is not one of a zoo"),
    ):
        edit_document(path, **broken)
        refused(run(zoo), says)
        path.write_text(text)
    path.write_text("{")
    refused(run(zoo), "is damaged or of another version")
    path.write_text(text)
    table = (zoo.folder / RESULTS).read_text()
    header, first, *_ = table.splitlines()
    for content, says in (
        ("member,kind\n", "results.csv has no column 'method'"),
        (f"{header},beer\n", "must have the columns .* not 'beer'"),
        (f"{header}\n{first},1\n", "has 15 cells in row 2"),
        (f"{table}{first}\n", "two rows of the same rate"),
        (table.replace(",clean,clean,", ",clear,clean,", 1), "Invalid enum value 'clear'"),
        (table.replace("correct_rate", "rar", 1), "'rar' is no metric of the kind clean"),
        (re.sub(r"(\d+),40,", r"\1,80,", table), "rate is not num_hits / num_images"),
        (re.sub(r"(\d+),40,", r"\1,0,", table), "Expected `int` >= 1"),
        (table.replace(",0,correct_rate", ",nan,correct_rate", 1), "row .: .*eps_pixels"),
        (table[:-2], "matching regex"),
    ):
        (zoo.folder / RESULTS).write_text(content)
        refused(run(zoo, "show", "learned"), says)
    (zoo.folder / RESULTS).unlink()
    shutil.rmtree(zoo.folder / CHECKPOINTS)
    refused(run(zoo), "has no members")


def test_a_broken_proof_is_an_error(
    run: Run, zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted verifier that proves everything: the attack shows that it is wrong."""
    from nullclass.certify import verifiers

    def everything(network, images, radius, norm):  # type: ignore[no-untyped-def]
        return lambda spec: torch.ones(len(images), spec.shape[-2], dtype=images.dtype)

    monkeypatch.setitem(verifiers.VERIFIERS, "everything", everything)
    result = run(zoo, "evaluate", "learned", "--images", 20, "--attack", "pgd", "--eps", 0.5,
                 "--proofs", "everything", "--out", zoo.out)  # fmt: skip
    refused(result, "attacks on learned broke the proofs of")


def test_null_in_float32_breaks_a_proof_of_float32_alone(evaluated: TinyZoo) -> None:
    """Its bounds are looser than those of float64."""
    member = find_member("proved", evaluated.folder)
    proofs = prove_member(member, evaluated.dataset, [0.001], verifier="interval")
    data = evaluated.dataset.test.first(20)
    found = evaluate(load_member(member), data, attacks=["pgd"], eps=0.001, checks=False)
    image = proofs["image"][proofs["is_correct_proved"]].min()
    planted = (found.rows["image"] == image) & (found.rows["attack"] == "pgd")

    def attacked(outcome: str, certified: pd.DataFrame) -> Evaluation:
        rows = found.rows.assign(outcome=found.rows["outcome"].mask(planted, outcome))
        rows["member"] = rows["member"].mask(planted, "")  # not left out as proved
        return replace(found, rows=rows, certified=certified)

    check_proofs(member, attacked("correct", proofs), proofs)
    check_proofs(member, attacked("null", proofs[:0]), proofs)
    for evaluation in (attacked("fooled", proofs[:0]), attacked("null", proofs)):
        with pytest.raises(UserError, match="broke the proofs of 1 images"):
            check_proofs(member, evaluation, proofs)


def test_the_page_shows_every_rate_with_its_n(run: Run, evaluated: TinyZoo) -> None:
    out = evaluated.out / "page.md"
    assert run(evaluated, "leaderboard", "--out", out)[0] == 0
    text = out.read_text(encoding="utf-8")
    assert text == page(evaluated.folder)
    rates = text.split("## Under attack")[1].split("## How the attacks ran")[0]
    lines = {tuple(line.split(" | ")[:2]): line for line in rates.splitlines()}
    for member in read_zoo(evaluated.folder).values():
        rows = read_results(member)
        for eps in EPS:
            for kind, metric in RATES.values():
                row = find_rate(rows, kind, metric, eps)
                assert row
                interval = f"{100 * row['low']:.2f} – {100 * row['high']:.2f}"
                cell = f"{100 * row['rate']:.2f}<br><sub>{interval}, n = {row['num_images']}<"
                assert cell in lines[f"| {member.name}", f"{eps:g}"]
    brackets = text.split("## Proof and attack")[1].split("## The models")[0]
    assert brackets.count("| 30 |") == 2 * len(EPS)


def test_adopting(zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch) -> None:
    proved, learned = (find_member(name, zoo.folder) for name in ("proved", "learned"))
    origin = proved.card.origin
    assert origin.training == {"name": "proved", "seed": 0}
    assert origin.training_seconds == 90.0
    assert (proved.num_cores or 0) >= 1
    assert "rounded to float16" in (origin.rounding or "")
    assert learned.card.origin.rounding is None
    before = contents(zoo.folder)
    monkeypatch.setattr("nullclass.zoo.adopt.MAX_BYTES", 1000)
    with pytest.raises(UserError, match="store them as float16 or int8"):
        adopt(learned.folder, "learned", learned.description, zoo=zoo.folder)
    assert contents(zoo.folder) == before
    (zoo.folder / RESULTS).unlink()
    assert "| proved | – | – | – |" in page(zoo.folder), "a member without results"


def test_what_is_no_member_is_not_adopted(zoo: TinyZoo, tmp_path: Path) -> None:
    proved = find_member("proved", zoo.folder)
    model, card = load_checkpoint(proved.folder)
    assert isinstance(model, ProvableNull)
    network = model.model
    origin, described = card.origin, proved.description
    save_checkpoint(network, tmp_path / "unknown data", origin=replace_field(origin, data=None))
    save_checkpoint(network, tmp_path / "no null", origin=origin)
    proves = ProvableNull(network, 2 * RADIUS, verifier="crown-ibp")
    save_checkpoint(proves, tmp_path / "proves", origin=origin)
    before = contents(zoo.folder)
    for checkpoint, name, says in (
        ("unknown data", "proved", "cannot be a member of a zoo: .*name its data"),
        ("no null", "proved", "never says null"),
        ("no null", "all", "name one"),
    ):
        with pytest.raises(UserError, match=says):
            adopt(tmp_path / checkpoint, name, described, zoo=zoo.folder)
    assert contents(zoo.folder) == before
    member = adopt(tmp_path / "proves", "proved", described, zoo=zoo.folder)
    adopted = load_member(member)
    assert isinstance(adopted, ProvableNull)
    assert (adopted.radius, adopted.verifier) == (2 * RADIUS, "crown-ibp")
    assert member.null_by == "proof within 0.04 (linf, crown-ibp)"
    refusing = {
        "consistency within 0.1": ConsistentNull(network, 0.1),
        "energy": reject_by(network, "energy"),
        "calibrated threshold": with_threshold(
            load_member(find_member("learned", zoo.folder)), 0.0
        ),
    }
    for number, (text, rule) in enumerate(refusing.items()):
        save_checkpoint(rule, tmp_path / str(number), origin=origin)
        assert adopt(tmp_path / str(number), "proved", described, zoo=zoo.folder).null_by == text

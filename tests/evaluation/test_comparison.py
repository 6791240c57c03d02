"""Several evaluations side by side, on made-up ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_evaluation import FLAGS, write_fake_evaluation
from worlds import Digits

from nullclass import Evaluation, UserError, compare, evaluate
from nullclass.cli.main import main
from nullclass.evaluation.comparison import ATTACKED, Comparison
from nullclass.metrics.comparable import Subject, find_differences
from nullclass.report.comparison_page import join_runs
from nullclass.results.info import AttackInfo, ThreatModel
from nullclass.results.run import read_run

EPS = (0.1, 0.3)
NUM_IMAGES = 40


def evaluation_in(folder: Path, **settings: Any) -> Path:
    defaults = {"num_images": NUM_IMAGES, "num_held_out": 10, "num_smallest": 10, "ood": ()}
    return write_fake_evaluation(folder, eps=EPS, **(defaults | settings))


def read(folder: Path) -> Evaluation:
    return Evaluation.read(read_run(folder).trials[0])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two evaluations of the same images; the second has proofs and red flags."""
    folder = tmp_path_factory.mktemp("evaluations")
    one = evaluation_in(folder / "one")
    return one, evaluation_in(folder / "other", proved=EPS, flags=FLAGS)


def test_the_table_is_that_of_each_evaluation(folders: tuple[Path, Path]) -> None:
    found = compare({"a": folders[0], "b": read(folders[1])})
    table = found.table().set_index(["model", "eps"])
    assert found.differences == []
    assert list(table.index) == [("a", 0.1), ("a", 0.3), ("b", 0.1), ("b", 0.3)]
    for (name, eps), row in table.iterrows():
        evaluation = found.evaluations[name]
        for metric in ATTACKED:
            assert row[metric] == evaluation.rate(metric, eps)
        assert row["correct"] == evaluation.rate("correct_rate")
        counts = evaluation.summary().groupby("attack")["num_images"].min()
        assert row["num_clean"] == counts["clean"]
        assert row["num_attacked"] == counts["union"] == NUM_IMAGES
    assert list(table["flags"]) == [0, 0, len(FLAGS), len(FLAGS)]
    assert table.loc["a", "rar_proved"].isna().all()
    proved = table.loc["b", "rar_proved"]
    assert table["num_proved"].notna().tolist() == [False, False, True, True]
    assert list(proved) == [found.evaluations["b"].rate("rar_proved", eps) for eps in EPS]


def test_it_can_be_drawn_and_printed(folders: tuple[Path, Path]) -> None:
    found = compare({"a": folders[0], "b": folders[1]})
    axes = found.plot("rar")
    for line, name in zip(axes.get_lines(), "ab", strict=True):
        rates = [found.evaluations[name].rate("rar", eps) for eps in EPS]
        assert list(line.get_ydata()) == rates
        assert line.get_label() == f"{name} (n = {NUM_IMAGES})"
    assert "rar_proved" in repr(found)
    assert "<table" in found._repr_html_()
    with pytest.raises(UserError, match="choose from aer, rar"):
        found.plot("accuracy")


def test_every_rate_has_its_own_number_of_images(digits: Digits) -> None:
    data = (digits.images[:30], digits.labels[:30])
    settings: dict[str, Any] = {"eps": 0.1, "proofs": "interval", "checks": False}
    one = evaluate(digits.guarded, data, attacks="fgsm", num_images=10, **settings)
    counts = compare({"a": one, "b": one}).table()[["num_clean", "num_attacked", "num_proved"]]
    assert counts.to_numpy().tolist() == [[30, 10, 30]] * 2


def test_rates_of_other_images_are_no_comparison(digits: Digits) -> None:
    """The images of an attack on more images do not hide that the others were on fewer."""
    data = (digits.images[:20], digits.labels[:20])
    settings: dict[str, Any] = {"attacks": ["fgsm", "pgd"], "eps": 0.1, "checks": False}
    one = evaluate(digits.guarded, data, num_images={"pgd": 5, "fgsm": 20}, **settings)
    other = evaluate(digits.guarded, data, num_images=20, **settings)
    with pytest.raises(UserError, match=r"the attacked images of a and b differ \(5 and 20\)"):
        compare({"a": one, "b": other})
    found = compare({"<b>a": one, "b": other}, allow_differences=True)
    assert "<b>a" not in found._repr_html_()


def test_a_model_that_nobody_forced_to_null_has_no_rates_of_it(digits: Digits) -> None:
    data = (digits.images[:10], digits.labels[:10])
    settings: dict[str, Any] = {"eps": 0.1, "checks": False}
    fool = evaluate(digits.guarded, data, attacks=["pgd"], **settings)
    both = evaluate(digits.guarded, data, attacks=["pgd", "worst-case-force-null"], **settings)
    plain = evaluate(digits.plain, data, attacks=["pgd"], **settings)
    models = {"both": both, "fool": fool, "plain": plain}
    table = compare(models, allow_differences=True).table().set_index("model")
    assert table["strict"].isna().tolist() == [False, True, False]
    assert table["null_dos"].isna().tolist() == [False, True, False]
    assert table["rar"].notna().all()


def test_one_evaluation_is_no_comparison(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="at least two"):
        compare({"a": folders[0]})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"norm": "l2"}, "the norms of a and b differ: linf and l2"),
        ({"num_images": 30}, "the attacked images of a and b differ (40 and 30)"),
        ({"attacks": ("fgsm",)}, "only one of a and b was attacked by worst-case"),
    ],
)
def test_what_differs_is_refused_unless_allowed(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    both = {"a": evaluation_in(tmp_path / "a"), "b": evaluation_in(tmp_path / "b", **settings)}
    with pytest.raises(UserError, match="cannot be compared") as caught:
        compare(both)
    assert sentence in str(caught.value)
    found = compare(both, allow_differences=True)
    assert isinstance(found, Comparison)
    assert any(sentence in difference for difference in found.differences)
    assert sentence in repr(found)


def subject(version: str, **changes: Any) -> Subject:
    info = AttackInfo("fool", "white-box", "self", [0.1], 2, {"version": version})
    rows = pd.DataFrame({"image": [0, 1], "label": [3, 4], "attack": "worst-case"})
    rows = pd.concat([rows.assign(attack="clean"), rows]).assign(has_own_eps=False)
    threat = ThreatModel("linf", 10, data="mnist", attacks={"worst-case": info})
    return replace(Subject.of(rows, threat), **changes)


def test_versions_data_and_labels_are_compared() -> None:
    one = subject("worst-case 1")
    assert find_differences({"a": one, "b": subject("worst-case 1")}) == []
    (version,) = find_differences({"a": one, "b": subject("worst-case 2")})
    assert version == ("the attacks of a and b differ: worst-case (worst-case 1 and worst-case 2)")
    (data,) = find_differences({"a": one, "b": subject("worst-case 1", data="other")})
    assert data == "the data of a and b differ (mnist and other)"
    checksums = {name: subject("worst-case 1", checksum=name) for name in "ab"}
    assert find_differences(checksums) == ["the data of a and b differ (mnist)"]
    assert find_differences({"a": one, "b": checksums["b"]}) == [], "one checksum is unknown"
    labels = subject("worst-case 1", labels=pd.Series([3, 5], index=[0, 1]))
    assert find_differences({"a": one, "b": labels}) == [
        "the attacked images of a and b differ (2 and 2)"
    ]


def test_the_command_writes_a_page_and_the_rates(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in ("one/made-up", "other/made-up"):  # both models have the same name
        assert name in page
    assert FLAGS[0].message in page
    assert (out / "figures" / "fig_rar.png").exists()
    rates = pd.read_csv(out / "summary.csv").set_index(["model", "attack", "metric", "eps_pixels"])
    rar = rates.loc[("other/made-up", "union", "rar", 0.3), "value"]
    assert float(rar) == pytest.approx(read(folders[1]).rate("rar", 0.3), abs=1e-6)


def test_the_command_refuses_and_says_how_to_go_on(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = evaluation_in(tmp_path / "l2", norm="l2")
    command = ["compare", str(folders[0]), str(other), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "pass --allow-differences" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--allow-differences"]) == 0
    assert "not comparable: the norms of" in capsys.readouterr().out
    assert "not comparable" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    into_run = ["compare", *map(str, folders), "--out", str(folders[0])]
    assert main(into_run) == 2
    assert "holds 'run.json'" in capsys.readouterr().err
    assert main(["compare", str(folders[0]), str(folders[0]), "--out", str(tmp_path / "x")]) == 2
    assert "give each run folder once" in capsys.readouterr().err


def test_a_search_that_others_lack_is_a_difference(tmp_path: Path) -> None:
    """What the search for the smallest ε finds counts as fooled."""
    folders = [evaluation_in(tmp_path / f"{n}", num_smallest=n) for n in (0, 10)]
    with pytest.raises(UserError, match="of 0 and 10 was searched for 0 and 10 images"):
        compare(dict(zip(("0", "10"), folders, strict=True)))


def test_the_command_refuses_what_is_not_its_own(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_text("precious")
    words = ["compare", *map(str, folders), "--out"]
    assert main([*words, str(tmp_path / "mine")]) == 2
    assert "holds 'photo.png' and is no folder" in capsys.readouterr().err
    for _ in range(2):  # a comparison may be replaced
        assert main([*words, str(tmp_path / "both")]) == 0
    runs = [read_run(folder) for folder in folders]
    with pytest.raises(UserError, match="one holds no finished evaluation"):
        join_runs([replace(runs[0], trials=[]), *runs])

"""What is proved for a model, as rows and rates, and within an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from proof_worlds import distances, line_world, square_grid, tiny_net
from torch import Tensor

from nullclass.attacks import FGSM, PGD, AttackEnsemble, DatasetAttack
from nullclass.certify import VERIFIERS
from nullclass.core.errors import UserError
from nullclass.core.provenance import provenance
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import find_violations
from nullclass.metrics.distribution import QUANTILES, quantile
from nullclass.metrics.rates import proved_rates, wilson
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull, with_threshold
from nullclass.results import schema
from nullclass.results.run import read_trial
from nullclass.scoring import audit
from nullclass.scoring.proofs import COARSENESS, prove

GRID = square_grid(21)


def labelled(model: Classifier) -> tuple[Tensor, Tensor]:
    """The grid with the predicted labels, the first 100 of them wrong."""
    labels = (model.model if isinstance(model, ProvableNull) else model).predict(GRID)
    labels = labels.clamp(min=0)
    labels[:100] = (labels[:100] + 1) % model.num_classes
    return GRID, labels


def line_images(*pixels: float) -> tuple[Tensor, Tensor]:
    """Images of class 0."""
    return torch.tensor(pixels).view(-1, 1, 1, 1), torch.zeros(len(pixels), dtype=torch.long)


def test_on_a_line_every_radius_is_exact() -> None:
    """Class 0 is above 0.5; an image at 0.5 + d is proved up to d, and shifted by r."""
    data = line_images(0.55, 0.65, 0.75, 0.95)
    plain = prove(line_world(), data, [0.1, 0.2])
    assert plain["is_correct_proved"].tolist() == [0, 1, 1, 1, 0, 0, 1, 1]
    assert plain["margin"][1] == pytest.approx(0.5, abs=1e-3)
    rows = prove(ProvableNull(line_world(), 0.1), data, [0.1, 0.2, 0.3])
    # Answered beyond r; never fooled beyond eps - r; always correct beyond eps + r.
    assert rows["prediction"].tolist() == [-1, 0, 0, 0] * 3
    assert rows["is_never_fooled"].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    assert rows["is_rar_proved"].tolist() == [0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    assert rows["is_correct_proved"].tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert rows["status"][8:].tolist() == ["undecided", "undecided", "not-fooled", "correct"]
    # With r above eps / 2 an image may be safe from fooling, and null when clean.
    (row,) = prove(ProvableNull(line_world(), 0.2), line_images(0.62), 0.25).to_dict("records")
    assert (row["prediction"], row["is_never_fooled"], row["is_rar_proved"]) == (-1, True, False)


@pytest.mark.parametrize("num_nulls", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_a_learned_null_and_of_none(seed: int, num_nulls: int) -> None:
    model = tiny_net(seed, num_nulls=num_nulls)
    data = labelled(model)
    rows = prove(model, data, [0.02, 0.1])
    assert rows.dtypes.astype(str).to_dict() == schema.CERTIFIED_COLUMNS
    small, large = rows[: len(GRID)], rows[len(GRID) :].reset_index(drop=True)
    for column in ("is_correct_proved", "is_rar_proved", "is_never_fooled"):
        assert not (large[column] & ~small[column]).any(), "more is proved at a larger eps"
        assert small[column].any()
    assert not (rows["is_correct_proved"] & ~rows["is_rar_proved"]).any()
    assert not (rows["is_rar_proved"] & ~rows["is_never_fooled"]).any()
    assert (rows["is_never_fooled"] == (rows["margin"] > 0)).all()
    assert not rows["is_rar_proved"][rows["prediction"] != rows["label"]].any()
    if not num_nulls:
        assert (rows["is_correct_proved"] == rows["is_never_fooled"]).all()
    is_near, predicted = distances(GRID) <= 0.1 + 1e-9, model.predict(GRID)
    is_wrong = predicted[None] != data[1][:, None]
    for column, violates in (
        ("is_never_fooled", is_wrong & (predicted >= 0)),
        ("is_correct_proved", is_wrong),
    ):
        is_claimed = torch.tensor(large[column].to_numpy())
        assert not (is_near & is_claimed[:, None] & violates).any()


def test_rates_have_their_interval() -> None:
    guarded = ProvableNull(tiny_net(0), 0.03)
    rows = prove(guarded, labelled(guarded), [0.03, 0.06])
    rates = proved_rates(rows).set_index(["eps_pixels", "metric"])
    for eps, group in rows.groupby("eps_pixels"):
        rar = rates.loc[(eps, "rar_proved")]
        assert rar["value"] == group["is_rar_proved"].mean()
        assert (rar["low"], rar["high"]) == wilson(int(group["is_rar_proved"].sum()), len(group))
        assert rates.loc[(eps, "aer_bound"), "value"] == 1 - group["is_never_fooled"].mean()
        assert rates.loc[(eps, "strict_proved"), "value"] == group["is_correct_proved"].mean()
    assert proved_rates(rows.head(0)).empty


def test_float64_and_training_mode_change_only_the_rounding() -> None:
    model = tiny_net(1, num_nulls=1)
    images, labels = labelled(model)
    single = prove(model, (images, labels), 0.05)
    double = prove(model.train().double(), (images.double(), labels), 0.05)
    assert model.training, "the model keeps its mode"
    assert np.allclose(single["margin"], double["margin"], atol=COARSENESS * 1e-3)
    assert (single["is_never_fooled"] <= double["is_never_fooled"]).all()


def test_evaluate_proves_beside_its_attacks(tmp_path: Path) -> None:
    guarded = ProvableNull(tiny_net(0), 0.03)
    data = labelled(guarded)
    attacks = {"pgd": PGD(num_steps=5)}
    found = evaluate(
        guarded, data, attacks=attacks, eps=[0.03, 0.06], proofs="interval", checks=False
    )
    pd.testing.assert_frame_equal(found.certified, prove(guarded, data, [0.03, 0.06]))
    assert found.summary()["attack"].tolist()[-6:] == ["proof"] * 6, "proofs come last"
    folder = tmp_path / "trials" / "a-seed0"
    found.write(folder, model="a", seed=0, provenance=provenance())
    stored = read_trial(folder).certified.drop(columns="margin")
    pd.testing.assert_frame_equal(stored, found.certified.drop(columns="margin"))
    assert (read_trial(folder).summary["metric"] == "rar_proved").sum() == 2
    without = evaluate(guarded, data, attacks={}, eps=0.1, checks=False)  # nothing to spare
    without.write(folder, model="a", seed=0, provenance=provenance())
    assert not (folder / schema.CERTIFIED).exists()
    assert read_trial(folder).certified.empty


@pytest.mark.parametrize("num_nulls", [0, 1])
def test_attacks_find_an_unsound_bound(num_nulls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = VERIFIERS["interval"]
    monkeypatch.setitem(VERIFIERS, "hopeful", lambda *args: lambda spec: sound(*args)(spec) + 3.0)
    model = tiny_net(0, num_nulls=num_nulls)
    model = model if num_nulls else ProvableNull(model, 0.03)
    monkeypatch.setattr(audit, "NUM_AUDITED", 1000)  # proved images are attacked
    attacks, eps = {"pgd": PGD(num_steps=20), "dataset": DatasetAttack()}, [0.1, 0.3]
    rows = evaluate(model, labelled(model), attacks=attacks, eps=eps, checks=False).rows
    assert schema.LEFT_OUT not in set(rows["member"])
    for verifier, is_found in (("interval", False), ("hopeful", True)):
        proofs = prove(model, labelled(model), eps, verifier=verifier)
        assert find_violations(rows, proofs).violations.empty != is_found


@pytest.mark.parametrize("largest_eps_first", [False, True])
@pytest.mark.parametrize("num_nulls", [0, 1])
def test_proved_images_are_not_attacked_and_the_rates_are_equal(
    num_nulls: int, largest_eps_first: bool
) -> None:
    model, eps = tiny_net(0, num_nulls=num_nulls), [0.01, 0.05, 0.1]
    members = (DatasetAttack(), PGD(num_steps=10))
    attack = AttackEnsemble(members, largest_eps_first=largest_eps_first)
    settings: dict[str, Any] = {"attacks": {"a": attack, "fgsm": FGSM("fool")}, "eps": eps}
    found, expected = (
        evaluate(model, labelled(model), checks=False, proofs=proofs, **settings)
        for proofs in ("interval", None)
    )
    for metric in ("aer", "rar"):
        assert [found.rate(metric, e) for e in eps] == [expected.rate(metric, e) for e in eps]
    rows = found.rows[found.rows["attack"] == "a"].set_index(["image", "eps_pixels"])
    never = found.certified.set_index(["image", "eps_pixels"])["is_never_fooled"]
    left_out = rows.index[rows["member"] == schema.LEFT_OUT]
    assert len(left_out) > 100
    assert never[left_out].all()
    is_attacked = rows["attacked_eps_pixels"] == rows.index.get_level_values("eps_pixels")
    num_audited = (is_attacked & never.reindex(rows.index)).groupby("eps_pixels").sum()
    if not largest_eps_first:
        assert num_audited.tolist() == [25, 25, 25]
    clean = found.rows[found.rows["attack"] == schema.CLEAN].set_index("image")["outcome"]
    images = left_out.get_level_values("image")
    assert rows.loc[left_out, "outcome"].tolist() == clean[images].tolist()
    for name in ("a", "fgsm"):
        of_attack = found.costs[found.costs["attack"] == name]
        of_other = expected.costs[expected.costs["attack"] == name]
        is_spared = of_attack["num_images"].sum() < of_other["num_images"].sum()
        assert is_spared == (name == "a"), "a single step costs next to nothing"


def test_a_provable_null_is_proved_by_default() -> None:
    guarded = ProvableNull(tiny_net(0), 0.03)
    data, attacks = labelled(guarded), {"pgd": PGD(num_steps=3)}
    settings: dict[str, Any] = {"eps": [0.03, 0.06], "checks": False}
    found = evaluate(guarded, data, attacks=attacks, **settings)
    expected = evaluate(guarded, data, attacks=attacks, proofs="interval", **settings)
    pd.testing.assert_frame_equal(found.certified, expected.certified)
    pd.testing.assert_frame_equal(found.rows, expected.rows)
    num = (found.rows["member"] == schema.LEFT_OUT).groupby(found.rows["eps_pixels"]).sum()
    assert num[0.06] > 100
    note = f"so left out by iterative attacks: {num[0.03]} at eps 0.03, {num[0.06]} at eps 0.06."
    assert note in str(found)
    for model, more in (
        (guarded, {"norm": "l2"}),
        (guarded, {"source": tiny_net(1)}),
        (guarded, {"attacks": {"pgd": PGD("untargeted", num_steps=3)}}),
        (guarded.model, {"has_null": False}),
        (with_threshold(guarded, 0.0), {}),
    ):
        without = evaluate(model, data, **{"attacks": attacks} | settings | more)
        assert without.certified.empty
        assert schema.LEFT_OUT not in set(without.rows["member"])


@pytest.mark.parametrize("verifier", ["interval", "hopeful"])
def test_the_audit_breaks_a_wrong_proof(verifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that proves every image, of which two in three are fooled."""
    sound = VERIFIERS["interval"]
    monkeypatch.setitem(VERIFIERS, "hopeful", lambda *args: lambda spec: sound(*args)(spec) + 30.0)
    data = line_images(*torch.linspace(0.51, 0.99, 300).tolist())
    ensemble = AttackEnsemble((PGD(num_steps=5),), largest_eps_first=True)
    found = evaluate(line_world(), data, attacks={"pgd": ensemble}, eps=[0.1, 0.3], proofs=verifier)
    rows = found.rows[(found.rows["attack"] == "pgd") & (found.rows["eps_pixels"] == 0.3)]
    num_proved = int((rows["member"] == schema.LEFT_OUT).sum())
    flags = {flag.name for flag in found.flags}
    assert ("proof-broken" in flags) == (verifier == "hopeful")
    assert num_proved == (275 if verifier == "hopeful" else 119 - 25)
    num_fooled = int((rows["outcome"] == "fooled").sum())
    assert num_fooled == (15 if verifier == "hopeful" else 181)


@pytest.mark.parametrize("radius", [None, 0.1])
def test_the_robustness_distribution_on_a_line(radius: float | None) -> None:
    """Class 0 is above 0.5: both ends are the distance to it, plus r where a proof answers."""
    pixels = [0.45, 0.5 + 2**-9, 0.55, 0.65, 0.8, 1.0]
    model = line_world() if radius is None else ProvableNull(line_world(), radius)
    data = line_images(*pixels)
    settings: dict[str, Any] = {"attacks": "fgsm", "eps": 0.1, "num_smallest": 6}
    found = evaluate(model, data, **settings, distribution=True)
    assert "proof-broken" not in {flag.name for flag in found.flags}
    table = found.distribution()
    exact = np.array(pixels) - 0.5 + (radius or 0.0)
    is_proved = np.array(pixels) > 0.5
    assert (table["proved_to"][~is_proved] == -np.inf).all()
    np.testing.assert_allclose(table["proved_to"][is_proved], exact[is_proved], atol=1.5e-3)
    assert (table["proved_to"] < table["fooled_at"]).all()
    assert not table["is_broken"].any()
    in_box = is_proved & (exact <= np.array(pixels))
    np.testing.assert_allclose(table["fooled_at"][in_box], exact[in_box], atol=2e-3)
    proved = sorted(table["proved_to"])
    assert [quantile(table["proved_to"], q) for q in QUANTILES] == [
        proved[i] for i in (0, 1, 2, 4, 5)
    ]
    with pytest.raises(UserError, match="a distribution needs images"):
        evaluate(model, data, attacks="fgsm", eps=0.1, distribution=True)


@pytest.mark.parametrize("proofs", [None, "crown-ibp"])
def test_the_distribution_is_by_intervals_unless_asked(proofs: str | None) -> None:
    model, data = ProvableNull(line_world(), 0.1, verifier="cascade"), line_images(0.55, 0.8)
    settings: dict[str, Any] = {"attacks": "pgd", "eps": 0.1, "num_smallest": 2, "checks": False}
    found = evaluate(model, data, **settings, distribution=True, proofs=proofs)
    assert set(found.certified["verifier"]) == {proofs or "cascade"}
    assert set(found.proved_eps["verifier"]) == {proofs or "interval"}
    proof = {"radius": 0.1, "norm": "linf", "verifier": "cascade", "budget": 128}
    assert found.threat["proof"] == proof


def test_the_distribution_shows_a_wrong_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = VERIFIERS["interval"]
    monkeypatch.setitem(VERIFIERS, "hopeful", lambda *args: lambda spec: sound(*args)(spec) + 0.5)
    data = line_images(0.55, 0.65, 0.8, 0.9)
    settings: dict[str, Any] = {"attacks": "fgsm", "eps": 0.01, "num_smallest": 4}
    for verifier in ("interval", "hopeful"):
        found = evaluate(line_world(), data, **settings, distribution=True, proofs=verifier)
        is_wrong = verifier == "hopeful"
        assert ("proof-broken" in {flag.name for flag in found.flags}) == is_wrong
        assert found.distribution()["is_broken"].tolist() == [is_wrong] * 4


def test_invalid_arguments_are_refused() -> None:
    plain, guarded = tiny_net(0), ProvableNull(tiny_net(0), 0.05)
    data = labelled(plain)
    for message, arguments in (
        ("at least one eps", {"eps": []}),
        *(("eps", {"eps": eps}) for eps in (-0.1, 1.5, float("nan"))),
        ("verifier must be .*'guess'", {"verifier": "guess"}),
        ("norm .*'l1'", {"norm": "l1"}),
        ("labels run from", {"data": (GRID, torch.full((len(GRID),), 3))}),
        ("choose 1 to", {"num_images": 0}),
        ("proves its answers in linf", {"model": guarded, "norm": "l2"}),
        ("threshold", {"model": with_threshold(guarded, 0.0)}),
        ("shape", {"data": (torch.rand(2, 1, 2, 2), torch.zeros(2).long())}),
    ):
        with pytest.raises(UserError, match=message):
            prove(**({"model": plain, "data": data, "eps": 0.1} | arguments))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'proof'"):
        evaluate(plain, data, attacks={"proof": DatasetAttack()}, eps=0.1)


def test_budgets_in_a_tensor() -> None:
    model = tiny_net(0)
    rows = prove(model, (GRID[:5], model.predict(GRID[:5]).clamp(min=0)), torch.tensor([0.1, 0.2]))  # type: ignore[arg-type]
    assert sorted(rows["eps_pixels"].round(6).unique()) == [0.1, 0.2]

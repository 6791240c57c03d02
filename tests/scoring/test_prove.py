"""What is proved of a model's answers, as rows and rates, and within an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from proof_worlds import line_world, square_grid, tiny_net
from torch import Tensor

from nullclass.attacks import PGD, DatasetAttack
from nullclass.certify.verifiers import VERIFIERS
from nullclass.core.errors import UserError
from nullclass.evaluation.run import evaluate
from nullclass.metrics.rates import proved_rates, wilson
from nullclass.models import Classifier
from nullclass.rejection.provable import ProvableNull
from nullclass.rejection.threshold import with_threshold
from nullclass.results import frames, schema, store
from nullclass.results.schema import CERTIFIED_COLUMNS
from nullclass.scoring.prove import COARSER, STATUS, certified_accuracy, certify, proof_rows

GRID = square_grid(21)


def labelled(model: Classifier) -> tuple[Tensor, Tensor]:
    """The grid, the first 100 points labelled wrongly."""
    labels = model.model.predict(GRID) if isinstance(model, ProvableNull) else model.predict(GRID)
    labels = labels.clamp(min=0)
    labels[:100] = (labels[:100] + 1) % model.num_classes
    return GRID, labels


def line_images(*places: float) -> Tensor:
    return torch.tensor(places).view(-1, 1, 1, 1)


def test_of_a_line_every_radius_is_exact() -> None:
    """It says 0 right of 0.5; an image at 0.5 + d is proved up to d, and shifted by r."""
    data = line_images(0.55, 0.65, 0.75, 0.95), torch.zeros(4, dtype=torch.long)
    plain = certified_accuracy(line_world(), data, [0.1, 0.2])
    assert plain["is_proved"].tolist() == [False, True, True, True, False, False, True, True]
    assert plain["margin"][1] == pytest.approx(0.5, abs=1e-3)
    rows = certify(ProvableNull(line_world(), 0.1), data, [0.1, 0.2, 0.3])
    by_eps = dict(list(rows.groupby("eps_pixels")))
    # Answered beyond r; never fooled beyond eps - r; always right beyond eps + r.
    assert rows["prediction"].tolist() == [-1, 0, 0, 0] * 3
    assert by_eps[0.1]["is_never_fooled"].tolist() == [True, True, True, True]
    assert by_eps[0.1]["is_rar_proved"].tolist() == [False, True, True, True]
    assert by_eps[0.1]["is_correct_proved"].tolist() == [False, False, True, True]
    assert by_eps[0.2]["is_never_fooled"].tolist() == [False, True, True, True]
    assert by_eps[0.2]["is_correct_proved"].tolist() == [False, False, False, True]
    assert by_eps[0.3]["is_never_fooled"].tolist() == [False, False, True, True]
    assert by_eps[0.3]["is_rar_proved"].tolist() == [False, False, True, True]
    correct, not_fooled, undecided = STATUS
    assert by_eps[0.3]["status"].tolist() == [undecided, undecided, not_fooled, correct]


def test_what_is_proved_beyond_its_own_radius_counts_as_right_only_if_it_answers() -> None:
    """With r over eps / 2 an image may be safe from fooling, and still be refused."""
    data = line_images(0.62), torch.zeros(1, dtype=torch.long)
    (row,) = certify(ProvableNull(line_world(), 0.2), data, 0.25).to_dict("records")
    assert (row["prediction"], row["is_never_fooled"], row["is_rar_proved"]) == (-1, True, False)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_a_learned_null_and_of_none(seed: int) -> None:
    for model in (tiny_net(seed, num_nulls=1), tiny_net(seed)):
        data = labelled(model)
        rows = proof_rows(model, data, [0.02, 0.1])
        assert rows.dtypes.astype(str).to_dict() == CERTIFIED_COLUMNS
        assert len(rows) == 2 * len(GRID)
        small, large = rows[: len(GRID)], rows[len(GRID) :].reset_index(drop=True)
        for column in ("is_correct_proved", "is_rar_proved", "is_never_fooled"):
            assert not (large[column] & ~small[column]).any(), "more is proved at a larger eps"
            assert small[column].any()
        assert not (rows["is_correct_proved"] & ~rows["is_rar_proved"]).any()
        assert not (rows["is_rar_proved"] & ~rows["is_never_fooled"]).any()
        assert (rows["is_never_fooled"] == (rows["margin"] > 0)).all()
        assert not rows["is_rar_proved"][rows["prediction"] != rows["label"]].any()
        if not model.has_null:
            assert (rows["is_correct_proved"] == rows["is_never_fooled"]).all()
        points = GRID.flatten(1).double()
        within = torch.cdist(points, points, p=torch.inf) <= 0.1 + 1e-9
        answers = model.predict(GRID)
        for column, breaks in (
            ("is_never_fooled", (answers[None] != data[1][:, None]) & (answers[None] >= 0)),
            ("is_correct_proved", answers[None] != data[1][:, None]),
        ):
            claimed = torch.tensor(large[column].to_numpy())
            assert not (within & claimed[:, None] & breaks).any()


def test_rates_are_shares_with_their_interval() -> None:
    guarded = ProvableNull(tiny_net(0), 0.03)
    rows = certify(guarded, labelled(guarded), [0.03, 0.06])
    rates = proved_rates(rows).set_index(["eps_pixels", "metric"])
    for eps, of in rows.groupby("eps_pixels"):
        rar = rates.loc[(eps, "rar_proved")]
        assert rar["value"] == of["is_rar_proved"].mean()
        assert (rar["low"], rar["high"]) == wilson(int(of["is_rar_proved"].sum()), len(of))
        assert rates.loc[(eps, "aer_bound"), "value"] == 1 - of["is_never_fooled"].mean()
        assert rates.loc[(eps, "strict_proved"), "value"] == of["is_correct_proved"].mean()
    assert proved_rates(rows.head(0)).empty


def test_float64_and_other_modes_change_nothing_but_rounding() -> None:
    model = tiny_net(1, num_nulls=1)
    data = labelled(model)
    one = certify(model, data, 0.05)
    other = certify(model.train().double(), (data[0].double(), data[1]), 0.05)
    assert model.training, "the model is left as it was found"
    assert np.allclose(one["margin"], other["margin"], atol=COARSER * 1e-3)
    assert (one["is_never_fooled"] <= other["is_never_fooled"]).all()


def test_evaluate_proves_beside_its_attacks(tmp_path: Path) -> None:
    guarded = ProvableNull(tiny_net(0), 0.03)
    told: list[int] = []
    found = evaluate(
        guarded,
        labelled(guarded),
        attacks={"pgd": PGD(num_steps=5), "swap": DatasetAttack()},
        eps=[0.03, 0.06],
        proofs="interval",
        checks=False,
        on_images=told.append,
    )
    pd.testing.assert_frame_equal(
        found.certified, certify(guarded, labelled(guarded), [0.03, 0.06])
    )
    summary = found.summary()
    proof = summary[summary["attack"] == "proof"]
    assert len(proof) == 6
    assert list(summary["attack"][-6:]) == ["proof"] * 6, "proofs stand last"
    found.write(tmp_path / "trials" / "a-seed0", {"model": "a", "seed": 0})
    trial = store.read_trial(tmp_path / "trials" / "a-seed0")
    assert len(trial.certified) == len(found.certified)
    kept, made = trial.certified.drop(columns="margin"), found.certified.drop(columns="margin")
    pd.testing.assert_frame_equal(kept, made)
    store.write_summary(tmp_path, "a")
    assert (frames.read_frame(tmp_path / schema.SUMMARY)["metric"] == "rar_proved").sum() == 2
    without = evaluate(
        guarded, labelled(guarded), attacks={"swap": DatasetAttack()}, eps=0.1, checks=False
    )
    without.write(tmp_path / "trials" / "a-seed0", {"model": "a", "seed": 0})
    assert not (tmp_path / "trials" / "a-seed0" / schema.CERTIFIED).exists()
    assert store.read_trial(tmp_path / "trials" / "a-seed0").certified.empty


@pytest.mark.parametrize("kind", ["provable", "learned"])
def test_an_unsound_bound_is_caught_by_attacks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = VERIFIERS["interval"]
    monkeypatch.setitem(VERIFIERS, "hopeful", lambda *given: sound(*given) + 3.0)
    model = ProvableNull(tiny_net(0), 0.03) if kind == "provable" else tiny_net(0, num_nulls=1)
    settings = {"attacks": {"pgd": PGD(num_steps=20), "swap": DatasetAttack()}, "eps": [0.1, 0.3]}
    for verifier, is_caught in (("interval", False), ("hopeful", True)):
        found = evaluate(model, labelled(model), proofs=verifier, **settings)  # type: ignore[arg-type]
        told = {flag.name: flag.message for flag in found.flags}
        assert ("proof-broken" in told) == is_caught
    assert "proved to be never fooled were not: image" in told["proof-broken"]


def test_bad_input_is_refused_in_a_sentence() -> None:
    plain, learned = tiny_net(0), tiny_net(0, num_nulls=1)
    guarded = ProvableNull(plain, 0.05)
    data = labelled(plain)
    with pytest.raises(UserError, match=r"no null \(K logits\).*ProvableNull.*certified_accuracy"):
        certify(plain, data, 0.1)
    for model in (learned, guarded):
        with pytest.raises(UserError, match="use certify"):
            certified_accuracy(model, data, 0.1)
    for prove, model in ((certify, learned), (certified_accuracy, plain)):
        with pytest.raises(UserError, match="at least one eps"):
            prove(model, data, [])
        for eps in (-0.1, 1.5, float("nan")):
            with pytest.raises(UserError, match="eps"):
                prove(model, data, eps)
        with pytest.raises(UserError, match="no verifier 'guess'"):
            prove(model, data, 0.1, verifier="guess")
        with pytest.raises(UserError, match="norm 'l1'"):
            prove(model, data, 0.1, norm="l1")
        with pytest.raises(UserError, match="labels run from"):
            prove(model, (GRID, torch.full((len(GRID),), 3)), 0.1)
        with pytest.raises(UserError, match="choose 1 to"):
            prove(model, data, 0.1, num_images=0)
    with pytest.raises(UserError, match="proves its answers in linf"):
        certify(guarded, data, 0.1, norm="l2")
    with pytest.raises(UserError, match="threshold"):
        certify(with_threshold(guarded, 0.0), data, 0.1)
    with pytest.raises(UserError, match="'proof'"):
        evaluate(learned, data, attacks={"proof": DatasetAttack()}, eps=0.1)

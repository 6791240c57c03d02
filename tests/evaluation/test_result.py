"""The result of an evaluation: as text, as a table, as curves."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from worlds import Digits

import nullclass
from nullclass.attacks import FGSM, PGD, AttackEnsemble, MultiTargetedPGD
from nullclass.attacks.state import AttackState
from nullclass.core.errors import UserError
from nullclass.diagnostics.probes import PROBES
from nullclass.evaluation import Evaluation
from nullclass.metrics.rates import wilson
from nullclass.report.measures import Measures
from nullclass.results.schema import UNION

EPS = [0.05, 0.2]


@pytest.fixture(scope="module")
def evaluation(digits: Digits) -> Evaluation:
    return nullclass.evaluate(
        digits.guarded,
        (digits.images[:80], digits.labels[:80]),
        attacks={"pgd": PGD(num_steps=10)},
        eps=EPS,
        proofs="interval",
    )


def test_print_shows_rates_flags_and_times(evaluation: Evaluation) -> None:
    text = str(evaluation)
    lines = text.splitlines()
    assert lines[1].startswith("clean images (n = 80): correct ")
    assert "pgd (linf, eps in pixel units)" in lines[2]
    assert lines[3].split() == ["eps", "n", "aer", "rar", "rar_proved"]
    assert "No attack tries to force null" in text
    aer = evaluation.rate("aer", 0.2)
    low, high = wilson(round(80 * aer), 80)
    assert f"{100 * aer:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in lines[5]
    assert all(flag.message in text and flag.page in text for flag in evaluation.flags)
    assert re.search(r"Attacks took .* s, checks .* s\.", text)
    assert max(map(len, lines[:7])) < 130
    html = evaluation._repr_html_()
    assert html.count("<tr") == 3
    assert "clean images (n = 80)" in html
    assert all(flag.name in html for flag in evaluation.flags)


def test_rate(evaluation: Evaluation) -> None:
    rows = evaluation.rows
    fooled = rows[(rows["attack"] == "pgd") & (rows["eps_pixels"] == 0.2)]["outcome"] == "fooled"
    name = evaluation.summary()["metric"].iloc[2]  # the third of the clean triple
    assert evaluation.rate(name, 0.2, attack="pgd") == pytest.approx(fooled.mean())
    assert evaluation.rate("aer", 0.2) >= fooled.mean()
    assert evaluation.rate(name) == (rows[rows["eps_pixels"] == 0]["outcome"] == "fooled").mean()
    proved = evaluation.certified["is_rar_proved"][evaluation.certified["eps_pixels"] == 0.05]
    assert evaluation.rate("rar_proved", 0.05) == proved.mean()
    assert evaluation.rate("aer", float(torch.tensor(0.2))) == evaluation.rate("aer", 0.2)
    with pytest.raises(UserError, match=r"no such aer: choose eps=0\.05 or eps=0\.2$"):
        evaluation.rate("aer", 0.1)
    with pytest.raises(UserError, match="no metric 'robustness': choose correct_rate, "):
        evaluation.rate("robustness", 0.2)


def test_rates_of_a_budget_of_zero(digits: Digits) -> None:
    data = (digits.images[:20], digits.labels[:20])
    found = nullclass.evaluate(
        digits.guarded, data, attacks=["pgd"], eps=[0.0, 0.1], proofs="interval", checks=False
    )
    assert found.rate("aer", 0) == found.rate("fooled_rate") == 1 - found.rate("correct_rate")
    assert found.rate("rar_proved", 0) <= found.rate("rar", 0)


def test_the_table_says_of_how_many_images_a_proof_is(digits: Digits) -> None:
    data = (digits.images[:20], digits.labels[:20])
    found = nullclass.evaluate(
        digits.guarded,
        data,
        attacks=["pgd"],
        eps=0.1,
        num_images=8,
        proofs="interval",
        checks=False,
    )
    (row,) = found.table().to_dict("records")
    assert (row["n"], row["n proved"]) == ("8", "20")


def test_an_attack_on_one_class_is_no_worst_case(digits: Digits) -> None:
    attacks = {"to 3": PGD(targets=3, num_steps=5), "to null": PGD("force-null", num_steps=5)}
    data = (digits.images[:30], digits.labels[:30])
    result = nullclass.evaluate(digits.guarded, data, attacks=attacks, eps=0.1)
    assert "no-null-aware-attack" in {flag.name for flag in result.flags}
    lines = str(result).splitlines()
    assert lines[3].split() == ["eps", "n", "aer", "rar", "strict", "null_dos"]
    assert "No attack tries to force null" not in str(result)


def test_plot_draws_security_curves(evaluation: Evaluation) -> None:
    ax = evaluation.plot()
    curves = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    names = ["AER", "RAR", "strict", "RAR, proved"]
    assert list(curves) == [f"{name} (n = 80)" for name in names]
    assert next(iter(curves.values())).tolist() == [
        [eps, evaluation.rate("aer", eps)] for eps in EPS
    ]
    assert evaluation.plot(ax) is ax
    plt.close(ax.figure)


def test_checks_have_costs(digits: Digits) -> None:
    data = (digits.images[:30], digits.labels[:30])
    settings: dict[str, Any] = {"attacks": {"pgd": PGD(num_steps=5)}, "eps": 0.1}
    for checks, probes in ((True, [*PROBES]), (False, [])):
        result = nullclass.evaluate(digits.guarded, data, checks=checks, **settings)
        costs = result.costs[result.costs["attack"] == "checks"]
        assert costs["member"].tolist() == probes
        assert (costs["seconds"] > 0).all()
        assert ("No checks were run" in str(result)) != checks
        assert "checks" not in result.threat["attacks"]


class Twice(nn.Module):
    """A network that receives its images divided by 255 once more."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images / 255)


class NoGrad(Twice):
    """A network whose forward pass detaches."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.body(images.detach()).detach().numpy())


def test_flags_of_a_model_that_is_wired_wrongly(digits: Digits) -> None:
    data = (digits.images[:60], digits.labels[:60])

    def flags(body: nn.Module) -> set[str]:
        steps = (PGD(num_steps=5), MultiTargetedPGD(num_steps=5))
        result = nullclass.evaluate(
            nullclass.Classifier(body, 10), data, attacks={"a": AttackEnsemble(steps)}, eps=0.1
        )
        return {flag.name for flag in result.flags}

    assert "clean-near-chance" in flags(Twice(digits.guarded))
    torch.manual_seed(0)
    assert "clean-near-chance" in flags(nn.Sequential(nn.Flatten(), nn.Linear(64, 11)))
    assert "no-gradients" in flags(NoGrad(digits.guarded))
    sound = flags(digits.guarded.body)
    assert not sound & {"clean-near-chance", "no-gradients"}


class Brightness(nn.Module):
    """Class 1 if the first pixel is above a half, in float64; null never."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        above = (images.double().flatten(1)[:, 0] - 0.5) * self.weight
        return torch.stack([-10 * above, 10 * above, 0 * above - 50], dim=1)


def test_each_of_two_close_budgets_has_its_own_rate() -> None:
    images = torch.full((100, 1, 1, 2), 0.5)
    images[:, 0, 0, 0] -= torch.linspace(0.1 - 1e-6, 0.1 + 2e-6, 100)
    data, eps = (images, torch.zeros(100, dtype=torch.int64)), [0.1, 0.1000009]
    found = nullclass.evaluate(
        Brightness(), data, num_classes=2, attacks="pgd", eps=eps, checks=False
    )
    summary = found.summary()
    rates = summary[summary["metric"] == "aer"].set_index("eps_pixels")["value"]
    assert rates[eps[0]] < rates[eps[1]] - 0.1
    assert [found.rate("aer", each) for each in eps] == [rates[each] for each in eps]
    table = summary.assign(study="", model="m", seed=0, selection="last", published=math.nan)
    info = SimpleNamespace(models=["m"], selections=["last"])
    measures = Measures(SimpleNamespace(summary=table, info=info))  # type: ignore[arg-type]
    shown = [measures.find("m", UNION, "aer", each) for each in eps]
    assert [each.mean for each in shown if each] == [rates[each] for each in eps]


@dataclass(frozen=True)
class LeavesAll(FGSM):
    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        pass


def test_a_class_derived_from_fgsm_is_called(digits: Digits) -> None:
    data = (digits.images[:20], digits.labels[:20])
    attacks = {"fgsm": FGSM(), "leaves-all": LeavesAll()}
    found = nullclass.evaluate(digits.guarded, data, attacks=attacks, eps=0.15, checks=False)
    rates = [found.rate("fooled_rate", 0.15, attack=name) for name in attacks]
    assert rates[0] > rates[1] == found.rate("fooled_rate")

"""The leaderboard page, from the results of a zoo. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pandas as pd

from nullclass.core.documents import Schema
from nullclass.core.tables import read_rows
from nullclass.report.render import markdown_table
from nullclass.zoo.members import FOLDER, Member, find_members
from nullclass.zoo.results import (
    ATTACK,
    ATTACK_TOLERANCE,
    CLEAN,
    METRICS,
    PROOF,
    budgets,
    find_rate,
    read_results,
)

LITERATURE = Path(__file__).parent / "literature.csv"
"""Published rates on MNIST, L∞."""


class _Published(Schema, frozen=True):
    """A row of :data:`LITERATURE`, as it is printed."""

    defence: str
    eps: str
    counted: str
    """What the rate counts."""
    percent: str
    source: str


NOTHING = "–"

RATES = {
    "AER (attack)": (ATTACK, "aer"),
    "AER at most (proved)": (PROOF, "aer_bound"),
    "RAR (attack)": (ATTACK, "rar"),
    "RAR at least (proved)": (PROOF, "rar_proved"),
    "strict (attack)": (ATTACK, "strict"),
    "strict at least (proved)": (PROOF, "strict_proved"),
    "null-DoS (attack)": (ATTACK, "null_dos"),
}
"""Columns of the table of rates: kind and metric."""

PAGE = """# Leaderboard

`nullclass zoo leaderboard` writes this page from `src/nullclass/zoo/results.csv`. The models are in
the package (`nullclass zoo`, `nullclass.load_zoo(NAME)`). Each has a card that says what it claims
and what it does not (`nullclass zoo show NAME`).

{datasets}; L∞, ε in pixel units, pixels in [0,1]; the attacker knows the weights. Rates are in %,
with 95 % Wilson intervals; n is the number of test images, from the first. See the
[definitions](definitions.md).

- **attack**: what the attacks below achieve. On these n images the true AER is at least, RAR and
  strict are at most the rate shown.
- **proved**: what the verifier of the model, or interval bounds, prove against every attack. On
  these n images the true AER is at most, RAR and strict are at least the rate shown. "–": not
  measured. Where n differs from the attack's, the two do not bracket the truth; "Proof and attack
  on the same images" does, but for one thing: proofs are of float64, attacks of float32, where
  bounds are looser, so a model that answers what is proved is null on a few more images. Its strict
  rate may be lower by them.
- **null-DoS**: images that are correct when clean and null under some attack, the cost of a defence
  that rejects.

## Clean images

{clean}
## Under attack

{rates}
## How the attacks ran

{attacks}
## Proof and attack on the same images

The true RAR of these n images lies between the two columns. `nullclass zoo evaluate` fails if an
attack breaks a proof.

{brackets}
## The models

{models}
## Check a model

`nullclass zoo check NAME` measures the clean and the proved rates again, from the weights, and
compares: they must agree to the image. `--attack` repeats the attacks too; they may deviate by
{tolerance:g} points, since devices round differently.

## Published rates

Quoted, not measured here. MNIST, L∞. The rates count different things: read the third column before
you compare.

{literature}"""


def page(folder: Path = FOLDER) -> str:
    """Return the page about all members of a zoo.

    Raises:
        UserError: If the zoo has no members, or its results are damaged or of other weights.
    """
    known = [(member, read_results(member)) for member in find_members(("all",), folder)]
    names = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
    datasets = sorted({names.get(member.data, member.data) for member, _ in known})
    quoted = read_rows(LITERATURE, _Published, "table of published rates")
    return PAGE.format(
        datasets=", ".join(datasets),
        clean=markdown_table(
            ("model", "correct", "null", "fooled"),
            ([m.name, *(_rate(r, CLEAN, metric) for metric in METRICS[CLEAN])] for m, r in known),
        ),
        rates=markdown_table(
            ("model", "ε", *RATES),
            (
                [m.name, f"{eps:g}", *(_rate(r, *what, eps) for what in RATES.values())]
                for m, r in known
                for eps in budgets(r)
            ),
        ),
        attacks=markdown_table(
            ("model", "ε", "rates", "n", "attacks", "version", "seed", "computed on"),
            (line for m, r in known for line in _attacks(m, r)),
        ),
        brackets=markdown_table(
            ("model", "ε", "n", "RAR at least (proved)", "RAR at most (attack)", "images between"),
            (line for m, r in known for line in _brackets(m, r)),
        ),
        models=markdown_table(
            (
                "model",
                "what",
                "rule for null",
                "parameters",
                "stored as",
                "training, minutes (cores of the machine)",
            ),
            (_model(m) for m, _ in known),
        ),
        tolerance=100 * ATTACK_TOLERANCE,
        literature=markdown_table(
            ("defence", "ε", "what the rate counts", "%", "source"),
            map(msgspec.structs.astuple, quoted),
        ),
    )


def _rate(rows: pd.DataFrame, kind: str, metric: str, eps: float = 0.0) -> str:
    found = find_rate(rows, kind, metric, eps)
    if found is None:
        return NOTHING
    rate, low, high = (f"{100 * found[name]:.2f}" for name in ("rate", "low", "high"))
    return f"{rate}<br><sub>{low} – {high}, n = {found['num_images']:,}</sub>"


def _attacks(member: Member, rows: pd.DataFrame) -> Iterable[list[str]]:
    attacks = rows[rows["kind"] == ATTACK]
    keys = ["eps_pixels", "num_images", "method", "version", "seed", "computed_on"]
    for (eps, num_images, *rest), group in attacks.groupby(keys):
        metrics = [metric.replace("_", "-") for metric in group["metric"]]
        rates = ", ".join(name.upper() if len(name) == 3 else name for name in metrics)
        yield [member.name, f"{eps:g}", rates, f"{num_images:,}", *map(str, rest)]


def _brackets(member: Member, rows: pd.DataFrame) -> Iterable[list[str]]:
    for eps in budgets(rows):
        above = find_rate(rows, ATTACK, "rar", eps)
        below = above and find_rate(rows, PROOF, "rar_proved", eps, above["num_images"])
        if above and below:
            between = above["num_hits"] - below["num_hits"]
            rates = [f"{100 * found['rate']:.2f}" for found in (below, above)]
            yield [member.name, f"{eps:g}", f"{above['num_images']:,}", *rates, str(between)]


def _model(member: Member) -> list[str]:
    minutes, cores = member.training_minutes, member.num_cores
    time = NOTHING if minutes is None else f"{minutes:.1f}"
    return [
        member.name,
        member.description.title,
        member.null_by,
        f"{member.card.num_parameters:,}",
        "float32" if member.card.stored == "exact" else member.card.stored,
        time if cores is None else f"{time} ({cores})",
    ]

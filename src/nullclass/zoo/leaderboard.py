"""The page of the leaderboard, from the rows of the zoo alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from nullclass.core.files import write_text
from nullclass.zoo.entries import FOLDER, Entry, find_entries
from nullclass.zoo.literature import LITERATURE
from nullclass.zoo.results import (
    ATTACK,
    ATTACK_TOLERANCE,
    BRACKET,
    CLEAN,
    PROOF,
    budgets,
    cells_of,
    command,
    figure,
    read_results,
)

NOTHING = "–"

HEAD = """# Leaderboard

Written by `nullclass zoo leaderboard` from the rows in `src/nullclass/zoo/results`, never by hand. The
models are in the package (`nullclass zoo`, `nullclass.zoo.load_zoo(NAME)`), each with a card that says
what it claims and what it does not (`nullclass zoo show NAME`).

{data}; L∞, ε in pixel units, pixels in [0,1]; the attacker knows the weights. All rates in %, with 95 %
Wilson intervals and n, the number of (the first) test images. The words are those of the
[definitions](definitions.md):

- **attack**: what the attacks named below left. They can only show that an image *can* be fooled: AER
  is at least, RAR and strict at most what stands there.
- **proved**: what interval bounds prove against every attack there is: RAR and strict are at least,
  AER at most what stands there. "–": nothing was asked.
- **null-DoS**: right when clean, and pushed into null by some attack: what a defence by refusal costs.

| model | ε | clean: correct | clean: null | clean: fooled | AER (attack) | AER at most (proved) | RAR (attack) | RAR (proved) | strict (attack) | strict (proved) | null-DoS (attack) |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501

MODELS_HEAD = """
## The models

| model | what | proves within | parameters | stored as | training, minutes (cores) | attacked by |
|---|---|---|---|---|---|---|
"""

BRACKET_HEAD = """
## Attack from above, proof from below, on the same images

The true RAR of these images lies between the two; "broken" counts images of which an attack did
what is proved to be impossible.

| model | ε | n | RAR (proved) | RAR (attack) | between | broken |
|---|---|---|---|---|---|---|
"""

CHECK_HEAD = """
## Measuring a cell anew

Each command loads the weights, measures the cell anew and compares it with the rows: clean and
proved figures must be the same to the image, an attack may differ by {tolerance} points, since
processors round differently. `nullclass zoo check all` does all but the attacks, `--attack` those
too.

| model | columns | command |
|---|---|---|
"""

QUOTED_HEAD = """
## Figures of others, quoted

Not measured here. MNIST, L∞. What was counted differs from line to line: read it before comparing.

| defence | ε | what was counted | % (quoted) | source |
|---|---|---|---|---|
"""

COLUMNS = {
    CLEAN: "clean: correct, null, fooled",
    PROOF: "AER at most, RAR, strict (proved)",
    ATTACK: "AER, RAR, strict, null-DoS (attack), and the bracket",
}
"""What a cell holds of the first table."""


def page(folder: Path = FOLDER) -> str:
    """The whole page, of all members of a zoo.

    Raises:
        UserError: If there are no members, or rows are damaged.
    """
    known = {entry.name: (entry, read_results(entry)) for entry in find_entries(("all",), folder)}
    parts = [HEAD.format(data=_data(entry for entry, _ in known.values()))]
    parts += [line for entry, rows in known.values() for line in _figures(entry, rows)]
    parts.append(MODELS_HEAD)
    parts += [_model(entry, rows) for entry, rows in known.values()]
    bracket = [line for entry, rows in known.values() for line in _bracket(entry, rows)]
    parts += [BRACKET_HEAD, *bracket] if bracket else []
    commands = [line for entry, rows in known.values() for line in _commands(entry, rows)]
    head = CHECK_HEAD.format(tolerance=f"{100 * ATTACK_TOLERANCE:g}")
    parts += [head, *commands] if commands else []
    parts.append(QUOTED_HEAD)
    parts += [
        f"| {told.what} | {told.eps:g} | {told.figure} | {told.value} | {told.source} |\n"
        for told in LITERATURE
    ]
    return "".join(parts)


def write_page(out: Path, folder: Path = FOLDER) -> None:
    """Write the page; raises as :func:`page` and :func:`nullclass.core.files.write_text`."""
    write_text(out, page(folder))


def _data(entries: Iterable[Entry]) -> str:
    names = sorted({str(entry.card.get("data")) for entry in entries})
    return ", ".join({"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}.get(n, n) for n in names)


def _figures(entry: Entry, rows: pd.DataFrame) -> list[str]:
    lines = []
    for eps in budgets(rows) or list(entry.eps):
        cells = [
            *(_cell(rows, CLEAN, 0.0, outcome) for outcome in ("correct", "null", "fooled")),
            _cell(rows, ATTACK, eps, "aer"),
            _cell(rows, PROOF, eps, "aer_bound"),
            _cell(rows, ATTACK, eps, "rar"),
            _cell(rows, PROOF, eps, "rar_proved"),
            _cell(rows, ATTACK, eps, "strict"),
            _cell(rows, PROOF, eps, "strict_proved"),
            _cell(rows, ATTACK, eps, "null_dos"),
        ]
        lines.append(f"| {entry.name} | {eps:g} | {' | '.join(cells)} |\n")
    return lines


def _cell(rows: pd.DataFrame, kind: str, eps: float, metric: str) -> str:
    found = figure(rows, kind, eps, metric)
    if found is None:
        return NOTHING
    value, low, high = (f"{100 * found[name]:.2f}" for name in ("value", "low", "high"))
    return f"{value}<br><sub>{low} – {high}, n = {found['num_images']:,}</sub>"


def _model(entry: Entry, rows: pd.DataFrame) -> str:
    minutes = NOTHING if entry.training_minutes is None else f"{entry.training_minutes:.1f}"
    cores = "" if entry.num_cores is None else f" ({entry.num_cores})"
    radius = NOTHING if entry.radius is None else f"{entry.radius:g}"
    stored = str(entry.card.get("stored", "exact"))
    attacked = rows[rows["kind"] == ATTACK]
    by = sorted(set(zip(attacked["by"], attacked["version"], attacked["seed"], strict=True)))
    told = "; ".join(f"{names} ({version}), seed {seed}" for names, version, seed in by)
    return (
        f"| {entry.name} | {entry.title} | {radius} | {entry.num_parameters:,} | "
        f"{'float32' if stored == 'exact' else stored} | {minutes}{cores} | {told or NOTHING} |\n"
    )


def _commands(entry: Entry, rows: pd.DataFrame) -> list[str]:
    lines = []
    for cell in cells_of(rows):
        at = "" if cell.kind == CLEAN else f", ε {cell.eps_pixels:g}"
        lines.append(f"| {entry.name} | {COLUMNS[cell.kind]}{at} | `{command(entry, cell)}` |\n")
    return lines


def _bracket(entry: Entry, rows: pd.DataFrame) -> list[str]:
    lines = []
    for eps in budgets(rows):
        above, below = figure(rows, ATTACK, eps, "rar"), figure(rows, BRACKET, eps, "rar_proved")
        broken = figure(rows, BRACKET, eps, "broken")
        if above is None or below is None or broken is None:
            continue
        num = int(below["num_images"])
        proved, attacked = (int(found["num_hits"]) for found in (below, above))
        lines.append(
            f"| {entry.name} | {eps:g} | {num:,} | {100 * proved / num:.2f} | "
            f"{100 * attacked / num:.2f} | {attacked - proved} images | "
            f"{broken['num_hits']} |\n"
        )
    return lines

"""What ``worst_case.py`` records of an attack on a model, and the tables and verdicts of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import percent, table, verdict
from nullclass.core.errors import UserError
from nullclass.core.provenance import provenance
from worst_case_models import FOLDER

RESULTS = FOLDER / "results"

SHARE = 0.995
"""Share of all images that anyone fools which worst-case has to fool."""

TIME_RATIO = 0.5
"""Its time, at most, AutoAttack on the K-class view taking 1."""

POINTS = 0.2
"""Points by which its robust accuracy may exceed AutoAttack's on a model without null."""

OURS = "worst-case"
PEER = "autoattack"
"""AutoAttack on the K-class view."""

TITLES = {
    OURS: "worst-case",
    PEER: "AutoAttack, K-class view",
    "autoattack-unmodified": "AutoAttack, unmodified",
    "foolbox-fmn": "foolbox FMN, targeted",
    "art-pgd": "ART PGD, targeted",
    "torchattacks-pgd": "torchattacks PGD, targeted",
}
"""The attacks, and what the tables call them."""


@dataclass(frozen=True)
class Cell:
    """One attack on one model at one eps."""

    model: str
    eps: float
    attack: str
    num_images: int

    @property
    def path(self) -> Path:
        """Its record."""
        slug = "-".join(self.model.replace(",", "").split())
        return RESULTS / str(self.num_images) / slug / f"eps-{self.eps:g}" / f"{self.attack}.json"

    def read(self) -> dict[str, Any] | None:
        """The record, if there is one."""
        return json.loads(self.path.read_text()) if self.path.exists() else None


@dataclass(frozen=True)
class Told:
    """What a whole record says."""

    fooled: frozenset[int]
    """Images fooled, those fooled as they are among them."""
    clean_fooled: int
    clean_null: int
    has_null: bool
    seconds: float
    cpu_seconds: float
    num_passes: float
    """Forward and backward passes for each image attacked."""
    num_outside: int
    members: dict[str, int]
    about: dict[str, Any]


def read(cell: Cell) -> Told | None:
    """A record that is whole."""
    record = cell.read()
    if record is None:
        return None
    chunks, clean = record["chunks"], record["clean_fooled"]
    num_attacked = sum(len(chunk["images"]) for chunk in chunks)
    if num_attacked + len(clean) < cell.num_images:
        return None
    members: dict[str, int] = {}
    for chunk in chunks:
        for member, num_successes in chunk.get("members", ()):
            members[member] = members.get(member, 0) + num_successes
    num_passes = sum(chunk["forward"] + chunk["backward"] for chunk in chunks)
    return Told(
        fooled=frozenset(clean).union(*(chunk["fooled"] for chunk in chunks)),
        clean_fooled=len(clean),
        clean_null=len(record["clean_null"]),
        has_null=record["has_null"],
        seconds=sum(chunk["seconds"] for chunk in chunks),
        cpu_seconds=sum(chunk["cpu_seconds"] for chunk in chunks),
        num_passes=num_passes / max(1, num_attacked),
        num_outside=sum(len(chunk["left the ball or the box"]) for chunk in chunks),
        members=members,
        about={
            name: record[name] for name in ("versions", "commit", "device", "threads", "settings")
        },
    )


@dataclass(frozen=True)
class Row:
    """One model at one eps, as far as it is measured."""

    model: str
    eps: float
    told: dict[str, Told]

    @property
    def union(self) -> frozenset[int]:
        """Images that anyone fooled."""
        return frozenset().union(*(told.fooled for told in self.told.values()))

    @property
    def missed(self) -> frozenset[int]:
        """Images that others fooled and worst-case did not."""
        return self.union - self.told[OURS].fooled

    @property
    def share(self) -> float:
        """Share of the union that worst-case fooled."""
        return 1 - len(self.missed) / max(1, len(self.union))

    @property
    def ratios(self) -> tuple[float, float]:
        """Worst-case's time and CPU time, AutoAttack on the K-class view taking 1."""
        ours, peer = self.told[OURS], self.told[PEER]
        return (
            ours.seconds / max(1e-9, peer.seconds),
            ours.cpu_seconds / max(1e-9, peer.cpu_seconds),
        )


def report(
    models: Sequence[str], attacks: Sequence[str], budgets: Sequence[float], num_images: int
) -> str:
    """The tables and verdicts of what is recorded."""
    found = []
    for eps in budgets:
        for model in models:
            cells = {attack: read(Cell(model, eps, attack, num_images)) for attack in attacks}
            told = {attack: told for attack, told in cells.items() if told is not None}
            if told:
                found.append(Row(model, eps, told))
    if not found:
        raise UserError(f"nothing is recorded for {num_images} images in {RESULTS}")
    sections = [heading(found, num_images)]
    for eps in budgets:
        here = [row for row in found if row.eps == eps]
        if here:
            sections += [f"## eps {eps:g}", fooled_table(here), cost_table(here)]
            sections += [table_ for table_ in [members_table(here)] if table_]
    sections += ["## Numbers to reach", "\n".join(verdicts(found, attacks, num_images))]
    return "\n\n".join(sections) + "\n"


def heading(found: Sequence[Row], num_images: int) -> str:
    about = [told.about for row in found for told in row.told.values()]
    machine = provenance().machine
    packages = {name: v for told in about for name, v in told["versions"].items()}
    threads = sorted({told["threads"] for told in about})
    settings = [row.told[OURS].about["settings"] for row in found if OURS in row.told]
    lines = [
        ("images", f"the first {num_images} of MNIST's test images, L-infinity"),
        ("machine", f"{machine.processor}, {machine.num_cores} cores, {machine.system}"),
        ("device", ", ".join(sorted({told["device"] for told in about}))),
        ("torch threads", ", ".join(map(str, threads))),
        ("commits", ", ".join(sorted({(told["commit"] or "unknown")[:12] for told in about}))),
        ("worst-case", ", ".join(sorted({told.get("version", "") for told in settings})) or "–"),
        *packages.items(),
    ]
    explained = (
        "Worst-case against every attack of other libraries, each run by its adapter "
        "(`nullclass.attacks.external`) on the same images in turns. Outcomes, budgets and the "
        "box are "
        "checked on the images that came back. Fooled counts images that the model takes for "
        "another real class, those it does so with unattacked among them."
    )
    return "\n\n".join(["# Worst case", explained, table(["what", "value"], lines)])


def fooled_table(here: Sequence[Row]) -> str:
    names = _measured(here)
    header = ["model", "clean: fooled", "null", *(TITLES[name] for name in names)]
    header += ["union", "worst-case's share", "missed by it"]
    lines = []
    for row in here:
        first = next(iter(row.told.values()))
        counts = [_shown(row, name) for name in names]
        share = [percent(row.share), len(row.missed)] if OURS in row.told else ["–", "–"]
        lines.append(
            [row.model, first.clean_fooled, first.clean_null, *counts, len(row.union), *share]
        )
    return "Images fooled.\n\n" + table(header, lines)


def _measured(here: Sequence[Row]) -> list[str]:
    return [name for name in TITLES if any(name in row.told for row in here)]


def _shown(row: Row, name: str) -> str:
    if name not in row.told:
        return "–"
    told = row.told[name]
    outside = f" (**{told.num_outside} OUTSIDE**)" if told.num_outside else ""
    return f"{len(told.fooled)}{outside}"


def cost_table(here: Sequence[Row]) -> str:
    names = _measured(here)
    header = ["model", *(TITLES[name] for name in names), "worst-case / AutoAttack, K-class view"]
    lines = []
    for row in here:
        costs = [
            f"{row.told[name].seconds:.0f} s, {row.told[name].num_passes:.0f}"
            if name in row.told
            else "–"
            for name in names
        ]
        ratio = "{:.2f} ({:.2f} of CPU time)".format(*row.ratios) if _has_both(row) else "–"
        lines.append([row.model, *costs, ratio])
    told = "Time, and forward and backward passes for each image attacked."
    return f"{told}\n\n{table(header, lines)}"


def _has_both(row: Row) -> bool:
    return {OURS, PEER} <= row.told.keys()


def members_table(here: Sequence[Row]) -> str:
    ours = [row for row in here if OURS in row.told]
    names = list(dict.fromkeys(name for row in ours for name in row.told[OURS].members))
    lines = [[row.model, *(row.told[OURS].members.get(name, 0) for name in names)] for row in ours]
    if not names:
        return ""
    return "Images that fell to each member of worst-case.\n\n" + table(["model", *names], lines)


def verdicts(found: Sequence[Row], attacks: Sequence[str], num_images: int) -> list[str]:
    """One line a claim, with the cells where it fails."""

    def claim(what: str, asked: Sequence[Row], fails: Callable[[Row], str]) -> str:
        failed = [f"{row.model} at {row.eps:g}: {fails(row)}" for row in asked if fails(row)]
        if not asked:
            return f"- not measured: {what}"
        told = f"{what}: {len(asked) - len(failed)} of {len(asked)} cells"
        return verdict(not failed, "; ".join([told, *failed]))

    def beaten(row: Row) -> str:
        ours = len(row.told[OURS].fooled)
        better = {n: len(t.fooled) for n, t in row.told.items() if len(t.fooled) > ours}
        return ", ".join(f"{TITLES[n]} fools {count}, it {ours}" for n, count in better.items())

    def short(row: Row) -> str:
        return "" if row.share >= SHARE else f"{percent(row.share)}, {len(row.missed)} missed"

    def slow(row: Row) -> str:
        return "" if max(row.ratios) <= TIME_RATIO else "{:.2f}, CPU {:.2f}".format(*row.ratios)

    def far(row: Row) -> str:
        gap = 100 * (len(row.told[PEER].fooled) - len(row.told[OURS].fooled)) / num_images
        return "" if gap <= POINTS else f"{gap:.2f} points"

    def outside(row: Row) -> str:
        return ", ".join(
            f"{TITLES[n]} {t.num_outside}" for n, t in row.told.items() if t.num_outside
        )

    both = [row for row in found if _has_both(row)]
    whole = [row for row in found if row.told.keys() == set(attacks)]
    without_null = [row for row in both if not next(iter(row.told.values())).has_null]
    lines = [
        claim("worst-case fools at least as many as every other attack", whole, beaten),
        claim(f"it fools at least {percent(SHARE)} of the union", whole, short),
        claim(f"it takes at most {TIME_RATIO:g} of the time of {TITLES[PEER]}", both, slow),
        claim(
            f"without null its robust accuracy is within {POINTS:g} points of AutoAttack's",
            without_null,
            far,
        ),
        claim("nobody left the ball or the box", found, outside),
    ]
    partial = [f"{row.model} at {row.eps:g}" for row in found if row not in whole]
    if partial:
        lines.append(f"- not all attacks are measured yet: {'; '.join(partial)}")
    return lines

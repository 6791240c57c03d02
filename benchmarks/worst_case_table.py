"""The tables and verdicts of what ``worst_case.py`` has recorded."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common import table, verdict
from nullclass.core.errors import UserError
from nullclass.metrics.rates import wilson
from worst_case_models import WITHOUT_NULL
from worst_case_records import FOOLED, OUTSIDE, PROVED, WRONG, Record, read_records

OURS, REFERENCE, PEER = "worst-case", "worst-case-1", "autoattack"
UNMODIFIED = "autoattack-unmodified"

ATTACKS = (
    OURS, REFERENCE, "torchattacks-pgd", "art-pgd", "foolbox-fmn", UNMODIFIED, PEER
)  # fmt: skip
"""The attacks, roughly by cost."""

EPS = (0.1, 0.2, 0.3)
"""Budgets, L∞, in pixel units."""

NUM_IMAGES = 1000
"""Images that a verdict needs."""

MAX_OF_REFERENCE = 1 / 5
MAX_OF_PEER, MAX_OF_PEER_PER_CELL = 1 / 10, 1 / 4
"""CPU time of worst-case, at most, as a share of another attack's."""

MIN_FOUND = 0.995
"""Share of the images that any attack fools which worst-case fools, at least."""

MAX_POINTS = 0.3
"""Percentage points that one attack finds and worst-case misses, at most."""

MAX_GAP = 0.1
"""Percentage points by which AutoAttack's robust accuracy may be lower, without null."""

ABOUT = """\
Written by `benchmarks/worst_case.py`. All attacks get the same images, the first of MNIST's test
images, 250 at a time and with one thread; the slow ones may have got fewer of them. Seed 0. Cells
of less than 1,000 images are a preview. Outcomes, budget (L∞) and box are checked on the images
that come back. *Wrong* images are fooled when clean and count as fooled for every attack;
*proved* ones can never be fooled within ε, as interval bounds prove. Neither is attacked, and costs
are per attacked image. Ratios of costs are of the images that both
attacks got. `autoattack` attacks the K-class view (w_y = max(z_y, z_null)),
`autoattack-unmodified` all logits, `foolbox-fmn`, `art-pgd` and `torchattacks-pgd` every wrong
class in turn. `adversarial` has no null class, so that both forms of AutoAttack are the same.
`quantised` is `adversarial-null` with pixels rounded to 9 levels, `scaled` is `notebook-null` with
logits times 1,000."""


@dataclass(frozen=True)
class Cost:
    """What an attack takes for a cell."""

    cpu_seconds: float
    scaled_seconds: float
    """CPU seconds, each chunk divided by the speed of the machine at that time."""
    forward: int
    backward: int

    def __add__(self, other: Cost) -> Cost:
        """Return the sum."""
        return Cost(
            self.cpu_seconds + other.cpu_seconds,
            self.scaled_seconds + other.scaled_seconds,
            self.forward + other.forward,
            self.backward + other.backward,
        )

    def texts(self) -> list[str]:
        """Return its numbers for a table."""
        seconds = (self.cpu_seconds, self.scaled_seconds)
        return [f"{value:,.0f}" for value in (*seconds, self.forward, self.backward)]

    def over(self, other: Cost) -> float:
        """Return the ratio of the scaled CPU seconds."""
        return self.scaled_seconds / max(other.scaled_seconds, 1e-9)


NO_COST = Cost(0.0, 0.0, 0, 0)


@dataclass(frozen=True)
class Cell:
    """One model at one eps."""

    model: str
    eps: float
    records: dict[str, list[Record]]
    """The records of each attack that has any, first images first, without a gap."""
    usual_speed: float
    """Median of the model's CPU seconds per pass."""

    def images(self, attack: str, letters: str) -> set[int]:
        """Return the images with one of these outcomes."""
        return set().union(*(record.images(letters) for record in self.records[attack]))

    @property
    def name(self) -> str:
        """Model and eps."""
        return f"{self.model} at {self.eps:g}"

    def num_images(self, attack: str) -> int:
        """Return how many images an attack got."""
        return sum(len(record.outcomes) for record in self.records[attack])

    def num_attacked(self, attack: str) -> int:
        """Return how many of its images are neither wrong nor proved."""
        return self.num_images(attack) - len(self.images(attack, PROVED + WRONG))

    @cached_property
    def fooled(self) -> dict[str, set[int]]:
        """Images fooled by each attack, wrong ones included."""
        return {attack: self.images(attack, FOOLED + WRONG) for attack in self.records}

    @cached_property
    def union(self) -> set[int]:
        """Images that any attack fools."""
        return set().union(*self.fooled.values())

    @property
    def missed(self) -> list[int]:
        """Images that only other attacks fool."""
        return sorted(self.union - self.fooled[OURS])

    def cost(self, attack: str, num_images: int) -> Cost:
        """Return what an attack took for the first images."""
        total = NO_COST
        for record in self.records[attack]:
            if record.first < num_images:
                speed = self.usual_speed / record.pass_seconds if record.pass_seconds else 1.0
                seconds = record.cpu_seconds
                total += Cost(seconds, seconds * speed, record.forward, record.backward)
        return total

    def costs_beside(self, other: str) -> tuple[Cost, Cost]:
        """Return the costs of worst-case and of another attack on the images that both got."""
        num_images = min(self.num_images(OURS), self.num_images(other))
        return self.cost(OURS, num_images), self.cost(other, num_images)


def cells_of(models: Sequence[str], folder: Path) -> list[Cell]:
    """Return all cells that worst-case has begun, with the images that it got.

    Raises:
        UserError: If there is none.
    """
    cells = []
    for model in models:
        records = read_records(model, folder)
        speeds = [record.pass_seconds for record in records if record.pass_seconds]
        usual_speed = statistics.median(speeds) if speeds else 1.0
        for eps in EPS:
            found = {
                attack: _without_gap(r for r in records if (r.attack, r.eps) == (attack, eps))
                for attack in ATTACKS
            }
            num_images = sum(len(record.outcomes) for record in found[OURS])
            found = {
                attack: [record for record in of if record.first < num_images]
                for attack, of in found.items()
            }
            if num_images:
                present = {attack: of for attack, of in found.items() if of}
                cells.append(Cell(model, eps, present, usual_speed))
    if not cells:
        raise UserError(f"there is no record of {OURS} in {folder} yet")
    return cells


def _without_gap(records: Iterable[Record]) -> list[Record]:
    """Return the records of the images from the first, as far as there is none missing."""
    found, num_images = [], 0
    for record in sorted(records, key=lambda record: record.first):
        if record.first == num_images:
            found.append(record)
            num_images += len(record.outcomes)
    return found


def report(models: Sequence[str], folder: Path) -> str:
    """Return the tables and verdicts of what is recorded.

    Raises:
        UserError: As :func:`cells_of`.
    """
    cells = cells_of(models, folder)
    attacks = [name for name in ATTACKS if any(name in cell.records for cell in cells)]
    sections = ["# Worst case", ABOUT, about_table(cells), "## Images fooled"]
    for eps in EPS:
        sections += [f"### ε {eps:g}", fooled_table([c for c in cells if c.eps == eps], attacks)]
    sections += [f"Missed by `{OURS}`, and fooled by:", missed_list(cells)]
    sections += ["## Costs", cost_table(cells, attacks), sum_table(cells, attacks)]
    sections += ["## Numbers to reach", "\n".join(verdicts(cells))]
    return "\n\n".join(sections) + "\n"


def about_table(cells: Sequence[Cell]) -> str:
    """Return settings, versions and machines."""
    records = [r for cell in cells for found in cell.records.values() for r in found]
    settings = {f"`{record.attack}`: {record.settings}" for record in records}
    lines = [
        ("settings", ", ".join(sorted(settings))),
        ("versions", ", ".join(sorted({v for r in records for v in r.versions.split(", ")}))),
        ("processors", "; ".join(sorted({record.processor for record in records}))),
    ]
    return table(["what", "value"], lines)


def fooled_table(cells: Sequence[Cell], attacks: Sequence[str]) -> str:
    """Return the images fooled at one eps; of how many, where that is not all."""
    header = ["model", "images", "wrong", "proved", *attacks, "union"]
    header += [f"{OURS} of the union", "missed"]
    lines = []
    for cell in cells:
        line = [cell.model, f"{cell.num_images(OURS):,}"]
        line += [len(cell.images(OURS, WRONG)), len(cell.images(OURS, PROVED))]
        line += [_count(cell, attack) for attack in attacks]
        lines.append([*line, len(cell.union), _found(cell), len(cell.missed)])
    return table(header, lines)


def _count(cell: Cell, attack: str) -> str:
    if attack not in cell.records:
        return "–"
    outside, num_images = len(cell.images(attack, OUTSIDE)), cell.num_images(attack)
    return (
        f"{len(cell.fooled[attack])}"
        + (f" of {num_images:,}" if num_images < cell.num_images(OURS) else "")
        + (f" (**{outside} OUTSIDE**)" if outside else "")
    )


def _found(cell: Cell) -> str:
    """Return the share of the union that worst-case fools, with its 95 % interval."""
    if not cell.union:
        return "–"
    num_found = len(cell.union) - len(cell.missed)
    low, high = wilson(num_found, len(cell.union))
    share = num_found / len(cell.union)
    return f"{100 * share:.1f} % ({100 * low:.1f} – {100 * high:.1f})"


def missed_list(cells: Sequence[Cell]) -> str:
    """Return one line per cell with missed images: who fools each of them."""
    lines = []
    for cell in cells:
        by = [
            f"{image} ({', '.join(name for name, found in cell.fooled.items() if image in found)})"
            for image in cell.missed
        ]
        if by:
            lines.append(f"- {cell.name}: image {', '.join(by)}")
    return "\n".join(lines) or "- none"


def cost_table(cells: Sequence[Cell], attacks: Sequence[str]) -> str:
    """Return CPU seconds and passes per attacked image."""
    others = [other for other in (REFERENCE, PEER) if other in attacks]
    header = ["model, ε", "attacked", *attacks, *(f"{OURS} / {other}" for other in others)]
    lines = []
    for cell in cells:
        line: list[object] = [f"{cell.model}, {cell.eps:g}", cell.num_attacked(OURS)]
        line += [_cost_text(cell, attack) for attack in attacks]
        line += [f"{_share(cell, other):.3f}" if other in cell.records else "–" for other in others]
        lines.append(line)
    return f"CPU seconds, forward / backward passes per attacked image.\n\n{table(header, lines)}"


def _cost_text(cell: Cell, attack: str) -> str:
    if attack not in cell.records:
        return "–"
    cost, num = cell.cost(attack, cell.num_images(attack)), max(1, cell.num_attacked(attack))
    seconds, passes = cost.cpu_seconds / num, (cost.forward / num, cost.backward / num)
    return f"{seconds:.2g} s, {passes[0]:,.0f} / {passes[1]:,.0f}"


def _share(cell: Cell, other: str) -> float:
    """Return the CPU time of worst-case as a share of another attack's."""
    ours, theirs = cell.costs_beside(other)
    return ours.over(theirs)


def sum_table(cells: Sequence[Cell], attacks: Sequence[str]) -> str:
    """Return the costs of all cells together, beside those of each other attack."""
    header = ["attack", "images", "CPU seconds", "at the same speed", "forward passes"]
    header += ["backward passes", f"the same of {OURS}", "ratio at the same speed"]
    lines = []
    for other in attacks:
        if other == OURS:
            continue
        num_images, ours, theirs = sum_costs(cells, other)
        lines.append(
            [
                other,
                f"{num_images:,}",
                *theirs.texts(),
                ", ".join(ours.texts()),
                f"{ours.over(theirs):.3f}",
            ]
        )
    note = (
        "All cells together, on the images that both attacks got. *At the same speed*: a forward "
        "and a backward pass is timed before and after each chunk, and the seconds of the chunk "
        "are divided by that time."
    )
    return f"{note}\n\n{table(header, lines)}"


def sum_costs(cells: Sequence[Cell], other: str) -> tuple[int, Cost, Cost]:
    """Return images, costs of worst-case and costs of another attack over all cells."""
    num_images, ours, theirs = 0, NO_COST, NO_COST
    for cell in cells:
        if other in cell.records:
            our_cost, their_cost = cell.costs_beside(other)
            ours, theirs = ours + our_cost, theirs + their_cost
            num_images += cell.num_images(other)
    return num_images, ours, theirs


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """Return one line per number to reach; finds with fewer than NUM_IMAGES images are open."""

    def per_cell(
        what: str, of: Sequence[Cell], needed: Sequence[str], problem: Callable[[Cell], str]
    ) -> str:
        of = [cell for cell in of if all(attack in cell.records for attack in needed)]
        if not of:
            return f"- not measured: {what}"
        failed = [f"{cell.name}: {problem(cell)}" for cell in of if problem(cell)]
        num_images = min(cell.num_images(attack) for cell in of for attack in needed)
        text = f"{what}: {len(of) - len(failed)} of {len(of)} cells, n ≥ {num_images:,}"
        text = "; ".join([text, *failed])
        return f"- open: {text}" if num_images < NUM_IMAGES else verdict(not failed, text)

    def ratio(other: str, most: float) -> str:
        num_images, ours, theirs = sum_costs(cells, other)
        if not num_images:
            return f"- not measured: {other}"
        found, raw = ours.over(theirs), ours.cpu_seconds / theirs.cpu_seconds
        text = f"CPU time over `{other}`'s, {num_images:,} images of all cells: {found:.3f}"
        return verdict(found <= most, f"{text} ({raw:.3f} as timed); wanted at most {most:.2g}")

    def slow(cell: Cell) -> str:
        share = _share(cell, PEER)
        return f"{share:.3f}" if cell.num_attacked(PEER) and share > MAX_OF_PEER_PER_CELL else ""

    def few(cell: Cell) -> str:
        is_met = len(cell.missed) <= (1 - MIN_FOUND) * len(cell.union)
        return "" if is_met else f"{_found(cell)}, {len(cell.missed)} missed"

    def beaten(cell: Cell) -> str:
        more = {name: len(found - cell.fooled[OURS]) for name, found in cell.fooled.items()}
        most = {name: MAX_POINTS / 100 * cell.num_images(name) for name in more}
        return ", ".join(
            f"{name} finds {num} more" for name, num in more.items() if num > most[name]
        )

    def gap(cell: Cell) -> str:
        num_images = cell.num_images(PEER)
        ours = sum(image < num_images for image in cell.fooled[OURS])
        points = 100 * (len(cell.fooled[PEER]) - ours) / num_images
        return "" if points <= MAX_GAP else f"AutoAttack's is {points:.2f} points lower"

    def outside(cell: Cell) -> str:
        found = {attack: len(cell.images(attack, OUTSIDE)) for attack in cell.records}
        return ", ".join(f"{attack} {num}" for attack, num in found.items() if num)

    both, without_null = (OURS, REFERENCE), [cell for cell in cells if cell.model in WITHOUT_NULL]
    return [
        ratio(REFERENCE, MAX_OF_REFERENCE),
        ratio(PEER, MAX_OF_PEER),
        per_cell(f"CPU time at most {MAX_OF_PEER_PER_CELL:g} of `{PEER}`'s", cells, [PEER], slow),
        per_cell(f"finds at least {100 * MIN_FOUND:g} % of the union", cells, both, few),
        per_cell(
            f"no attack finds more than {MAX_POINTS:g} points that it misses", cells, both, beaten
        ),
        per_cell(
            f"without null, its robust accuracy is within {MAX_GAP:g} points of AutoAttack's",
            without_null,
            [PEER],
            gap,
        ),
        per_cell("no image outside the ball or the box", cells, [OURS], outside),
    ]

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
images, 100 at a time and with one thread. Outcomes, budget (L∞) and box are checked on the images
that come back. *Wrong* images are fooled when clean and count as fooled for every attack; *proved*
ones can never be fooled within ε, as interval bounds prove. Neither is attacked, and costs are per
attacked image. `autoattack` attacks the K-class view (w_y = max(z_y, z_null)),
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

    def over(self, other: Cost) -> float:
        """Return the ratio of the scaled CPU seconds."""
        return self.scaled_seconds / max(other.scaled_seconds, 1e-9)


@dataclass(frozen=True)
class Cell:
    """One model at one eps, the same images for every attack."""

    model: str
    eps: float
    num_images: int
    records: dict[str, list[Record]]
    usual_speed: float
    """Median of the model's CPU seconds per pass."""

    def images(self, attack: str, letters: str) -> set[int]:
        """Return the images with one of these outcomes."""
        return set().union(*(record.images(letters) for record in self.records[attack]))

    @property
    def name(self) -> str:
        """Model and eps."""
        return f"{self.model} at {self.eps:g}"

    @property
    def num_attacked(self) -> int:
        """Images that are neither wrong nor proved."""
        return self.num_images - len(self.images(next(iter(self.records)), PROVED + WRONG))

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

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """The cost of each attack."""
        return {attack: self._cost(records) for attack, records in self.records.items()}

    def _cost(self, records: Iterable[Record]) -> Cost:
        total = Cost(0.0, 0.0, 0, 0)
        for record in records:
            speed = self.usual_speed / record.pass_seconds if record.pass_seconds else 1.0
            seconds = record.cpu_seconds
            total += Cost(seconds, seconds * speed, record.forward, record.backward)
        return total


def cells_of(models: Sequence[str], folder: Path) -> list[Cell]:
    """Return all cells, with as many images as every attack has finished in each of them.

    Raises:
        UserError: If nothing is recorded, or a cell has no image that all attacks have finished.
    """
    read = {model: read_records(model, folder) for model in models}
    read = {model: records for model, records in read.items() if records}
    names = {record.attack for records in read.values() for record in records}
    attacks = [name for name in ATTACKS if name in names]
    num_images, cells = None, []
    for model, records in read.items():
        needed = [name for name in attacks if name != UNMODIFIED or model not in WITHOUT_NULL]
        for eps in EPS:
            by_attack = {
                attack: sorted(
                    (r for r in records if (r.attack, r.eps) == (attack, eps)),
                    key=lambda record: record.first,
                )
                for attack in needed
            }
            finished = min(_num_finished(found) for found in by_attack.values())
            num_images = finished if num_images is None else min(num_images, finished)
            speeds = [record.pass_seconds for record in records if record.pass_seconds]
            usual_speed = statistics.median(speeds) if speeds else 1.0
            cells.append((model, eps, by_attack, usual_speed))
    if not num_images:
        raise UserError("there is no chunk of images yet that all attacks have finished everywhere")
    return [
        Cell(model, eps, num_images, _first(by_attack, num_images), usual_speed)
        for model, eps, by_attack, usual_speed in cells
    ]


def _num_finished(records: Sequence[Record]) -> int:
    """Return the number of images from the first without a gap."""
    num_images = 0
    for record in records:
        if record.first == num_images:
            num_images += len(record.outcomes)
    return num_images


def _first(by_attack: dict[str, list[Record]], num_images: int) -> dict[str, list[Record]]:
    return {
        attack: [record for record in records if record.first < num_images]
        for attack, records in by_attack.items()
    }


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
    if OURS in attacks:
        sections += ["Missed by `worst-case`, and fooled by:", missed_list(cells)]
    sections += ["## Costs", cost_table(cells, attacks), sum_table(cells, attacks)]
    if OURS in attacks:
        sections += ["## Numbers to reach", "\n".join(verdicts(cells))]
    return "\n\n".join(sections) + "\n"


def about_table(cells: Sequence[Cell]) -> str:
    """Return images, settings, versions and machines."""
    records = [r for cell in cells for found in cell.records.values() for r in found]
    settings = {f"`{record.attack}`: {record.settings}" for record in records}
    lines = [
        ("images per model and ε", cells[0].num_images),
        ("settings", ", ".join(sorted(settings))),
        ("versions", ", ".join(sorted({v for r in records for v in r.versions.split(", ")}))),
        ("processors", "; ".join(sorted({record.processor for record in records}))),
    ]
    return table(["what", "value"], lines)


def fooled_table(cells: Sequence[Cell], attacks: Sequence[str]) -> str:
    """Return the images fooled at one eps."""
    header = ["model", "wrong", "proved", *attacks, "union", f"{OURS} of the union", "missed"]
    lines = []
    for cell in cells:
        first = next(iter(cell.records))
        line = [cell.model, len(cell.images(first, WRONG)), len(cell.images(first, PROVED))]
        line += [_count(cell, attack) for attack in attacks] + [len(cell.union)]
        lines.append(line + ([_found(cell), len(cell.missed)] if OURS in attacks else ["–", "–"]))
    return table(header, lines)


def _count(cell: Cell, attack: str) -> str:
    if attack not in cell.records:
        return "–"
    outside = len(cell.images(attack, OUTSIDE))
    return f"{len(cell.fooled[attack])}" + (f" (**{outside} OUTSIDE**)" if outside else "")


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
    header = ["model, ε", "attacked", *attacks, *_ratio_names(attacks)]
    lines = []
    for cell in cells:
        line: list[object] = [f"{cell.model}, {cell.eps:g}", cell.num_attacked]
        num = max(1, cell.num_attacked)
        for attack in attacks:
            cost = cell.costs.get(attack)
            line.append(
                "–"
                if cost is None
                else f"{cost.cpu_seconds / num:.2g} s, {cost.forward / num:,.0f} / "
                f"{cost.backward / num:,.0f}"
            )
        lines.append([*line, *_ratios(cell.costs)])
    return f"CPU seconds, forward / backward passes per attacked image.\n\n{table(header, lines)}"


def sum_table(cells: Sequence[Cell], attacks: Sequence[str]) -> str:
    """Return the costs of all cells together."""
    sums = sum_costs(cells, attacks)
    lines = [
        (
            attack,
            f"{cost.cpu_seconds:,.0f}",
            f"{cost.scaled_seconds:,.0f}",
            f"{cost.forward:,}",
            f"{cost.backward:,}",
        )
        for attack, cost in sums.items()
    ]
    header = ["attack", "CPU seconds", "at the same speed", "forward passes", "backward passes"]
    note = (
        "All cells together. *At the same speed*: a forward and a backward pass of 100 images is "
        "timed before and after each chunk, and the seconds of the chunk are divided by that time. "
        "All ratios are of these seconds."
    )
    if UNMODIFIED in sums:
        note += f" `{UNMODIFIED}` did not run on {', '.join(WITHOUT_NULL)}."
    return f"{note}\n\n{table(header, lines)}"


def sum_costs(cells: Sequence[Cell], attacks: Sequence[str]) -> dict[str, Cost]:
    """Return the cost of each attack over all cells."""
    none = Cost(0.0, 0.0, 0, 0)
    return {
        attack: sum((cell.costs[attack] for cell in cells if attack in cell.costs), start=none)
        for attack in attacks
    }


def _ratio_names(attacks: Sequence[str]) -> list[str]:
    others = [other for other in (REFERENCE, PEER) if other in attacks and OURS in attacks]
    return [f"{OURS} / {other}" for other in others]


def _ratios(costs: dict[str, Cost]) -> list[str]:
    others = [other for other in (REFERENCE, PEER) if other in costs and OURS in costs]
    return [f"{costs[OURS].over(costs[other]):.3f}" for other in others]


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """Return one line per number to reach; open with fewer than :data:`NUM_IMAGES` images."""
    num_images, sums = cells[0].num_images, sum_costs(cells, tuple(cells[0].records))

    def line(is_met: bool, what: str) -> str:
        if num_images < NUM_IMAGES:
            return f"- open with {num_images} images: {what}"
        return verdict(is_met, what)

    def ratio(other: str, most: float) -> str:
        if other not in sums:
            return f"- not measured: {other}"
        found, raw = sums[OURS].over(sums[other]), sums[OURS].cpu_seconds / sums[other].cpu_seconds
        text = f"CPU time over `{other}`'s, all cells: {found:.3f} ({raw:.3f} as timed)"
        return line(found <= most, f"{text}; wanted at most {most:g}")

    def per_cell(what: str, of: Sequence[Cell], problem: Callable[[Cell], str]) -> str:
        failed = [f"{cell.name}: {problem(cell)}" for cell in of if problem(cell)]
        if not of:
            return f"- not measured: {what}"
        return line(
            not failed, "; ".join([f"{what}: {len(of) - len(failed)} of {len(of)} cells", *failed])
        )

    def slow(cell: Cell) -> str:
        share = cell.costs[OURS].over(cell.costs[PEER])
        return f"{share:.3f}" if cell.num_attacked and share > MAX_OF_PEER_PER_CELL else ""

    def few(cell: Cell) -> str:
        is_met = len(cell.missed) <= (1 - MIN_FOUND) * len(cell.union)
        return "" if is_met else f"{_found(cell)}, {len(cell.missed)} missed"

    def beaten(cell: Cell) -> str:
        more = {name: len(found - cell.fooled[OURS]) for name, found in cell.fooled.items()}
        most = MAX_POINTS / 100 * cell.num_images
        return ", ".join(f"{name} finds {num} more" for name, num in more.items() if num > most)

    def gap(cell: Cell) -> str:
        points = 100 * (len(cell.fooled[PEER]) - len(cell.fooled[OURS])) / cell.num_images
        return "" if points <= MAX_GAP else f"AutoAttack's is {points:.2f} points lower"

    def outside(cell: Cell) -> str:
        found = {attack: len(cell.images(attack, OUTSIDE)) for attack in cell.records}
        return ", ".join(f"{attack} {num}" for attack, num in found.items() if num)

    with_peer = [cell for cell in cells if PEER in cell.records]
    return [
        ratio(REFERENCE, MAX_OF_REFERENCE),
        ratio(PEER, MAX_OF_PEER),
        per_cell(f"CPU time at most {MAX_OF_PEER_PER_CELL:g} of `{PEER}`'s", with_peer, slow),
        per_cell(f"finds at least {100 * MIN_FOUND:g} % of the union", cells, few),
        per_cell(f"no attack finds more than {MAX_POINTS:g} points that it misses", cells, beaten),
        per_cell(
            f"without null, its robust accuracy is within {MAX_GAP:g} points of AutoAttack's",
            [cell for cell in with_peer if cell.model in WITHOUT_NULL],
            gap,
        ),
        per_cell("no image outside the ball or the box", cells, outside),
    ]

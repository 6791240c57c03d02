"""The zoo of small models with null, and its leaderboard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nullclass.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from nullclass.data import Dataset
    from nullclass.zoo.entries import Entry

NONE = "none"
"""Instead of attacks or a verifier: leave them out."""


@dataclass(frozen=True)
class ListAll:
    """List the models: what they are, and what is known of them."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from rich.console import Console

        from nullclass.zoo.entries import find_entries
        from nullclass.zoo.results import read_results

        entries = find_entries(("all",), zoo)
        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print(_table([(entry, read_results(entry)) for entry in entries]))


@dataclass(frozen=True)
class Show:
    """Tell all that is known of a model: its card, its figures, and how to check them."""

    name: tyro.conf.Positional[str]
    """As nullclass zoo lists it."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from nullclass.zoo.entries import find_entry
        from nullclass.zoo.results import cells_of, command, read_results

        entry = find_entry(self.name, zoo)
        for label, text in _card_lines(entry):
            print(f"{label}: {text}")
        rows = read_results(entry)
        print("figures:" if len(rows) else "figures: none yet (nullclass zoo evaluate)")
        for cell in cells_of(rows):
            told = cell.of(rows)
            shown = ", ".join(
                f"{row['metric']} {100 * row['value']:.2f} % ({100 * row['low']:.2f} - "
                f"{100 * row['high']:.2f})"
                for row in told[told["kind"] == cell.kind].to_dict("records")
            )
            first = told[told["kind"] == cell.kind].iloc[0]
            by = "" if first["by"] == "none" else f" by {first['by']}"
            print(f"  {cell.name}{by}, n = {first['num_images']:,}: {shown}")
            print(f"    {command(entry, cell)}")


@dataclass(frozen=True)
class Evaluate:
    """Measure a model anew and write its rows: clean images, proofs, attacks."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Models, or all."""
    eps: tuple[float, ...] | None = None
    """Budgets in pixel units; those of the model's card unless given."""
    images: int = 1000
    """How many of the first test images are attacked; clean and proved figures are of all."""
    attack: tuple[str, ...] = ("worst-case", "worst-case-force-null")
    """Names of attacks, one of them with the goal to fool; or none."""
    proofs: str = "interval"
    """Who proves: interval or crown-ibp; or none."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    seed: int = 0
    """Seed of the attacks' random starts."""
    device: str = "auto"
    """Where to attack: auto, cpu, cuda, cuda:N or mps. Proofs are made on the CPU, in float64."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        import torch

        from nullclass.certify import find_verifier
        from nullclass.core.devices import find_device
        from nullclass.core.norms import check_eps
        from nullclass.zoo.entries import find_entries
        from nullclass.zoo.evaluating import find_fooling

        entries = find_entries(self.names, zoo)
        for budget in self.eps or ():
            check_eps(budget, "linf", torch.Size((1, 1, 1, 1)))
        if self.eps == () or not all(budget > 0 for budget in self.eps or ()):
            raise UserError("give at least one --eps, and only such that are larger than 0")
        if self.images < 1:
            raise UserError(f"--images must be at least 1, it is {self.images}")
        if self.attack != (NONE,):
            find_fooling(self.attack)
        if self.proofs != NONE:
            find_verifier(self.proofs)
        device = find_device(self.device)
        load_data = _data_loader(self.data_dir)
        for entry in entries:
            self._evaluate(entry, load_data(entry), str(device))

    def _evaluate(self, entry: Entry, dataset: Dataset, device: str) -> None:
        """Write as soon as something is known: attacks take long."""
        from nullclass.cli.evaluate import tell_flags
        from nullclass.zoo.evaluating import attack_lines, clean_lines, proof_lines
        from nullclass.zoo.results import write_results

        eps = sorted(set(self.eps or entry.eps))
        place = write_results(entry, clean_lines(entry, dataset))
        if self.proofs != NONE:
            with _progress(f"proving {entry.name}", len(dataset.test)) as told:
                proved = proof_lines(entry, dataset, eps, self.proofs, told)
            write_results(entry, proved)
        if self.attack != (NONE,):
            num_images = min(self.images, len(dataset.test))
            units = num_images * (1 + len(eps) * len(self.attack))
            with _progress(f"attacking {entry.name}", units) as told:
                attacked, findings = attack_lines(
                    entry,
                    dataset,
                    eps,
                    attacks=self.attack,
                    num_images=num_images,
                    verifier=None if self.proofs == NONE else self.proofs,
                    seed=self.seed,
                    device=device,
                    checks=True,
                    on_images=told,
                )
            write_results(entry, attacked)
            broken = attacked.loc[attacked["metric"] == "broken", "num_hits"].sum()
            if broken:
                raise UserError(
                    f"attacks on {entry.name} did {broken} times what is proved to be impossible: "
                    "a bound is wrong, so report it"
                )
            print(f"{entry.name}: ", end="")
            tell_flags(findings.flags)
        print(f"{entry.name}: {place}")


@dataclass(frozen=True)
class Check:
    """Measure again what is written of a model, from its weights alone: does it hold?"""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Models, or all."""
    cell: tuple[str, ...] = ()
    """Some cells only: weights, clean, proof@EPS, attack@EPS; all but attacks unless given."""
    attack: bool = False
    """Make the attacks again too: slow."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    device: str = "auto"
    """Where to attack: auto, cpu, cuda, cuda:N or mps."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from nullclass.zoo.entries import find_entries

        entries = find_entries(self.names, zoo)
        from nullclass.core.devices import find_device
        from nullclass.zoo.checking import check_entry

        device, load_data = find_device(self.device), _data_loader(self.data_dir)
        failed, num = [], 0
        for entry in entries:
            for told in check_entry(
                entry,
                load_data,
                cells=self.cell,
                attacks_again=self.attack,
                device=device,
            ):
                num += 1
                mark, what = ("holds", told.found) if told.holds else ("FAILS", told.reason)
                print(f"{mark}  {told.member}  {told.cell}: {what}", flush=True)
                failed += [] if told.holds else [told]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise UserError(
                f"{len(failed)} of {num} cells do not hold: {failed[0].member} {failed[0].cell}"
                f"{more}: {failed[0].reason}"
            )
        print(f"all {num} hold")


@dataclass(frozen=True)
class Leaderboard:
    """Write the page of the leaderboard, from the rows alone."""

    out: Path = Path("docs/leaderboard.md")
    """Where to write."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from nullclass.zoo.leaderboard import write_page

        write_page(self.out, zoo)
        print(f"leaderboard: {self.out}")


def _sub(name: str) -> object:
    return tyro.conf.subcommand(name=name, prefix_name=False)


Action = (
    Annotated[ListAll, _sub("list")]
    | Annotated[Show, _sub("show")]
    | Annotated[Evaluate, _sub("evaluate")]
    | Annotated[Check, _sub("check")]
    | Annotated[Leaderboard, _sub("leaderboard")]
)


@dataclass(frozen=True)
class Zoo:
    """Small trained models with null, and the leaderboard: list, show, evaluate, check them."""

    action: tyro.conf.OmitArgPrefixes[Action] = field(default_factory=ListAll)
    zoo: Path | None = None
    """Folder of another zoo (checkpoints/NAME, results/NAME.csv) than the package's."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.zoo.entries import FOLDER

        self.action.run(FOLDER if self.zoo is None else self.zoo)


def _data_loader(data_dir: Path | None) -> Callable[[Entry], Dataset]:
    """Loads each dataset once."""
    from nullclass.data import load_dataset

    known: dict[str, Dataset] = {}

    def load(entry: Entry) -> Dataset:
        name = entry.card.get("data")
        if not isinstance(name, str):
            raise UserError(f"the card of {entry.name} does not say which data it is for")
        if name not in known:
            known[name] = load_dataset(name, data_dir=data_dir, validation=0)
        return known[name]

    return load


@contextmanager
def _progress(title: str, units: int) -> Iterator[Callable[[int], None]]:
    from nullclass.core.progress import Stages

    with Stages(title, units) as stages, stages.stage(title, units=units, cost=units) as advance:
        yield advance


def _card_lines(entry: Entry) -> Iterator[tuple[str, str]]:
    """What a card tells, in words."""
    import json

    card, about = entry.card, entry.about
    yield entry.name, about.title
    yield "trained", about.recipe
    yield "claims", about.claims
    yield "does not claim", about.limits
    yield "source", about.source
    yield "licence of the weights", about.licence
    if about.radius is not None:
        yield "answers what is proved within", f"{about.radius:g} (L∞, pixel units)"
    yield "parameters", f"{entry.num_parameters:,}"
    yield "weights", f"{card.get('stored', 'exact')}, SHA-256 {card['weights_sha256']}"
    if "rounding" in card:
        yield "rounding", str(card["rounding"])
    yield "data", f"{card.get('data')}, checksum {card.get('data_checksum')}"
    if entry.training_minutes is not None:
        yield "training time", f"{entry.training_minutes:.1f} minutes on {entry.num_cores} cores"
    yield "training config", json.dumps(card.get("training"))
    yield "folder", str(entry.folder)


def _table(known: Sequence[tuple[Entry, pd.DataFrame]]) -> Table:
    """A line a model."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from nullclass.zoo.results import ATTACK, CLEAN, PROOF, budgets, figure

    def percent(rows: pd.DataFrame, kind: str, eps: float, metric: str) -> str:
        found = figure(rows, kind, eps, metric)
        return "–" if found is None else f"{100 * found['value']:.2f}"

    table = Table(
        title="The zoo",
        caption="%; RAR: correct when clean and never fooled within ε (L∞, pixel units); attacked "
        "is at most, proved at least. nullclass zoo show NAME tells more",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for heading in ("name", "what", "parameters", "clean c/n/f", "ε", "RAR attacked", "RAR proved"):
        is_text = heading in ("name", "what")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading != "what")
    for entry, rows in known:
        eps = budgets(rows)
        triple = (percent(rows, CLEAN, 0.0, word) for word in ("correct", "null", "fooled"))
        table.add_row(
            escape(entry.name),
            escape(entry.title),
            f"{entry.num_parameters:,}",
            "/".join(triple) if len(rows) else "–",
            "\n".join(f"{budget:g}" for budget in eps) or "–",
            "\n".join(percent(rows, ATTACK, budget, "rar") for budget in eps) or "–",
            "\n".join(percent(rows, PROOF, budget, "rar_proved") for budget in eps) or "–",
        )
    return table

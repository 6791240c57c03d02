"""``nullclass zoo``: the model zoo and its leaderboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nullclass.cli.common import (
    AttackSeed,
    Checks,
    Data,
    print_flags,
    print_table,
    progress,
    subcommand,
)
from nullclass.cli.outputs import check_output, kept_parts, output_file
from nullclass.core.checks import check_count, check_seed
from nullclass.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from nullclass.data import Dataset
    from nullclass.results.schema import Flag
    from nullclass.scoring.parts import Parts
    from nullclass.zoo import Member

NONE = "none"
"""Stands for no attacks, or no verifier."""


@dataclass(frozen=True)
class ListZoo:
    """List the models and their rates."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from nullclass.zoo.members import find_members

        print_table(
            ("name", "what", "parameters", "clean c/n/f", "ε", "RAR attacked", "RAR proved"),
            _table_rows(find_members(("all",), zoo)),
            title="The zoo",
            caption="%, number of images in brackets; RAR: correct when clean and never fooled "
            "within ε (L∞, pixel units); attacks give an upper bound, proofs a lower bound. "
            "Details: nullclass zoo show NAME",
            num_left=2,
            width=160,
        )


@dataclass(frozen=True)
class ShowMember:
    """Show the card and all rates of a model."""

    name: tyro.conf.Positional[str]
    """Name of the model, as listed by nullclass zoo."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from nullclass.zoo.members import find_member
        from nullclass.zoo.results import CLEAN, read_results

        member = find_member(self.name, zoo)
        rows = read_results(member)
        for label, text in _card_lines(member):
            print(f"{label}: {text}")
        print("rates:" if len(rows) else "rates: none yet (nullclass zoo evaluate)")
        keys = ["kind", "method", "eps_pixels", "num_images"]
        for (kind, method, eps, num_images), group in rows.groupby(keys, sort=False):
            rates = ", ".join(
                f"{row['metric']} {100 * row['rate']:.2f} % ({100 * row['low']:.2f} - "
                f"{100 * row['high']:.2f})"
                for row in group.to_dict("records")
            )
            by = "" if kind == CLEAN else f" by {method}, eps {eps:g}"
            print(f"  {kind}{by}, n = {num_images:,}: {rates}")


@dataclass(frozen=True)
class EvaluateMembers:
    """Measure models: clean rates, proofs and attacks. Writes one run folder per model.

    An interrupted command goes on when it is repeated.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """Models, or all."""
    out: Path = Path("runs/zoo")
    """Output folder; a model's run folder is OUT/NAME, its rates are in OUT/NAME.csv."""
    update: bool = False
    """Also write the rates into the zoo; for the package's zoo only in a checkout."""
    eps: tuple[float, ...] | None = None
    """Budgets in pixel units. Default: those of the model's card."""
    images: int = 1000
    """Number of attacked test images; clean and proved rates are of all test images."""
    attack: tuple[str, ...] = ("worst-case", "worst-case-force-null")
    """Names of attacks, one with the objective fool; or none."""
    proofs: str | None = None
    """Verifier: interval, crown-ibp or cascade; or none. Default: what proves the model's own
    answers, else interval."""
    verifier: str | None = None
    """What proves the answers of models with a radius, instead of their own verifier. The zoo keeps
    no such rates."""
    checks: Checks = True
    data: Data = None
    seed: AttackSeed = 0
    device: str = "auto"
    """Device of the attacks: auto, cpu, cuda, cuda:N or mps. Proofs run on the CPU in float64."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        import torch

        from nullclass.certify import find_verifier
        from nullclass.core.devices import find_device
        from nullclass.core.norms import check_eps
        from nullclass.zoo.evaluate import find_fooling_attacks
        from nullclass.zoo.members import find_members
        from nullclass.zoo.results import RESULTS, check_updatable, update_results, write_rows

        members = find_members(self.names, zoo)
        for budget in self.eps or ():
            check_eps(budget, "linf", torch.Size((1, 1, 1, 1)))
        if self.eps == () or not all(budget > 0 for budget in self.eps or ()):
            raise UserError("give at least one --eps, and only values larger than 0")
        check_count("--images", self.images)
        check_seed(self.seed)
        check_output(self.out)
        if self.attack != (NONE,):
            find_fooling_attacks(self.attack)
        for verifier in {self.verifier or NONE, self.proofs or NONE} - {NONE}:
            find_verifier(verifier)
        if self.update:
            check_updatable(zoo)
            if self.verifier is not None:
                raise UserError("the zoo keeps no rates of another --verifier: leave out --update")
        device = find_device(self.device)
        load_data = _data_loader(self.data)
        with output_file(zoo / RESULTS if self.update else None):
            for member in members:
                path = self.out / f"{member.name}.csv"
                with output_file(path), kept_parts(path) as parts:
                    rows, flags = self._evaluate(member, load_data(member), str(device), parts)
                    write_rows(path, rows)
                if self.update:
                    update_results(zoo, rows)
                if flags is not None:
                    print(f"{member.name}: ", end="")
                    print_flags(flags)
                print(f"{member.name}: {path}")

    def _evaluate(
        self, member: Member, dataset: Dataset, device: str, parts: Parts
    ) -> tuple[pd.DataFrame, list[Flag] | None]:
        """Return the rates of one model, and the red flags if it was attacked."""
        from nullclass.evaluation.record import record_evaluation
        from nullclass.zoo.evaluate import (
            answer,
            attack_rows,
            check_proofs,
            clean_rates,
            proof_rates,
            prove_member,
        )
        from nullclass.zoo.load import load_member
        from nullclass.zoo.results import join

        eps = sorted(set(self.eps or member.description.eps))
        tables, flags = [], None
        verifier = self.proofs or self.verifier or member.verifier
        proofs = None
        if verifier == NONE:
            tables.append(clean_rates(member, answer(member, dataset, self.verifier)))
        else:
            with progress(f"proving {member.name}", len(dataset.test)) as on_images:
                proofs = prove_member(
                    member,
                    dataset,
                    eps,
                    verifier=verifier,
                    answers=self.verifier,
                    on_images=on_images,
                    parts=parts,
                )
            tables.append(clean_rates(member, proofs))
            tables.append(proof_rates(member, proofs, verifier))
        if self.attack != (NONE,):
            num_images = min(self.images, len(dataset.test))
            evaluation = record_evaluation(
                load_member(member, device, self.verifier),
                member.card,
                dataset,
                self.out / member.name,
                name=member.name,
                attacks=self.attack,
                eps=eps,
                norm="linf",
                num_images=num_images,
                checks=self.checks,
                seed=self.seed,
            )
            flags = list(evaluation.flags)
            if proofs is not None:
                check_proofs(member, evaluation, proofs)
                attacked = proofs[proofs["image"] < num_images]
                tables.append(proof_rates(member, attacked, verifier))
            tables.append(attack_rows(member, evaluation, self.attack, self.seed, device))
        return join(tables), flags


@dataclass(frozen=True)
class CheckMembers:
    """Measure the recorded rates of models again, from their weights, and compare."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Models, or all."""
    attack: bool = False
    """Repeat the attacks too; slow."""
    data: Data = None
    device: str = "auto"
    """Device of the attacks: auto, cpu, cuda, cuda:N or mps."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from nullclass.zoo.members import find_members

        members = find_members(self.names, zoo)
        from nullclass.core.devices import find_device
        from nullclass.zoo.check import check_member

        device, load_data = find_device(self.device), _data_loader(self.data)
        comparisons = []
        for member in members:
            for item in check_member(member, load_data, attacks=self.attack, device=device):
                comparisons.append(item)
                mark = "DIFFERS" if item.reason else "agrees "
                text = item.reason or item.found
                print(f"{mark}  {item.member}  {item.what}: {text}", flush=True)
        different = [item for item in comparisons if item.reason]
        if different:
            first = different[0]
            raise UserError(
                f"{len(different)} of {len(comparisons)} differ; the first is {first.member} "
                f"{first.what}: {first.reason}"
            )
        print(f"all {len(comparisons)} agree")


@dataclass(frozen=True)
class WriteLeaderboard:
    """Write the leaderboard page from the recorded rates."""

    out: Path = Path("docs/leaderboard.md")
    """Output file."""

    def run(self, zoo: Path) -> None:
        """Run the action."""
        from nullclass.core.files import write_text
        from nullclass.zoo.leaderboard import page

        with output_file(self.out):
            write_text(self.out, page(zoo))
        print(f"leaderboard: {self.out}")


Action = (
    Annotated[ListZoo, subcommand("list")]
    | Annotated[ShowMember, subcommand("show")]
    | Annotated[EvaluateMembers, subcommand("evaluate")]
    | Annotated[CheckMembers, subcommand("check")]
    | Annotated[WriteLeaderboard, subcommand("leaderboard")]
)


@dataclass(frozen=True)
class Command:
    """List, show, evaluate and check the models of the zoo; write their leaderboard."""

    action: tyro.conf.OmitArgPrefixes[Action] = field(default_factory=ListZoo)
    zoo: Path | None = None
    """Folder of a zoo (checkpoints/NAME, results.csv). Default: the zoo of the package."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.zoo import FOLDER

        self.action.run(FOLDER if self.zoo is None else self.zoo)


def _data_loader(data: str | None) -> Callable[[Member], Dataset]:
    """Return a function that loads each dataset once: the given one, or that of a member."""
    from nullclass.data import load_dataset

    load = cache(lambda name: load_dataset(name, validation=0))
    return lambda member: load(data or member.data)


def _card_lines(member: Member) -> Iterator[tuple[str, str]]:
    """Labels and texts of a card."""
    import json

    description, card, origin = member.description, member.card, member.card.origin
    yield member.name, description.title
    yield "training", description.recipe
    yield "claims", description.claims
    yield "limits", description.limits
    yield "source", description.source
    yield "licence of the weights", description.licence
    yield "rule for null", member.null_by
    yield "parameters", f"{card.num_parameters:,}"
    yield "weights", f"{card.stored}, SHA-256 {card.weights_sha256}"
    if origin.rounding is not None:
        yield "rounding", origin.rounding
    yield "data", f"{member.data}, checksum {member.data_checksum}"
    if member.training_minutes is not None:
        yield "training time", f"{member.training_minutes:.1f} minutes (cores: {member.num_cores})"
    yield "training config", json.dumps(origin.training)
    yield "folder", str(member.folder)


def _table_rows(members: Sequence[Member]) -> Iterator[list[str]]:
    """Return one row per model: rates in percent, with the number of images."""
    from nullclass.zoo import results

    for member in members:
        rows = results.read_results(member)
        metrics = results.METRICS[results.CLEAN]
        clean = [results.find_rate(rows, results.CLEAN, metric) for metric in metrics]
        rates = "/".join(f"{100 * row['rate']:.2f}" for row in clean if row is not None)
        cells = [f"{rates} ({clean[0]['num_images']:,})" if clean[0] else "–"]
        eps = results.budgets(rows)
        cells.append("\n".join(f"{budget:g}" for budget in eps) or "–")
        for kind, metric in ((results.ATTACK, "rar"), (results.PROOF, "rar_proved")):
            found = [results.find_rate(rows, kind, metric, budget) for budget in eps]
            lines = [
                "–" if row is None else f"{100 * row['rate']:.2f} ({row['num_images']:,})"
                for row in found
            ]
            cells.append("\n".join(lines) or "–")
        yield [member.name, member.description.title, f"{member.card.num_parameters:,}", *cells]

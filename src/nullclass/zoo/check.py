"""Measures the recorded rates of a member again and compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import torch

from nullclass.core.errors import UserError
from nullclass.data import Dataset
from nullclass.zoo.evaluate import (
    JOIN,
    answer,
    attack_member,
    clean_rates,
    proof_rates,
    prove_member,
)
from nullclass.zoo.load import load_member
from nullclass.zoo.members import Member
from nullclass.zoo.results import ATTACK, ATTACK_TOLERANCE, CLEAN, PROOF, read_results


@dataclass(frozen=True)
class Recheck:
    """Recorded rates and the same rates measured again."""

    member: str
    what: str
    """Such as ``weights``, ``clean, n = 10,000`` or ``proof at 0.3, n = 10,000``."""
    reason: str
    """Why they differ; empty if they agree."""
    found: str
    """What was measured."""


def check_member(
    member: Member,
    load_data: Callable[[Member], Dataset],
    *,
    attacks: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[Recheck]:
    """Measure the rates of a member again, from its weights.

    Clean rates and proofs must agree to the image, attacks within :data:`ATTACK_TOLERANCE`.

    Args:
        member: The member.
        load_data: Returns the dataset of a member.
        attacks: Whether attacks are repeated too; slow.
        device: Device of the attacks.

    Yields:
        One comparison per kind, eps and number of images, as soon as it is known.
    """
    try:
        load_member(member)
        expected = read_results(member)
        yield Recheck(member.name, "weights", "", f"SHA-256 {member.weights_sha256[:12]}…")
        if expected.empty:
            return
        dataset = load_data(member)
        keys = ["kind", "method", "version", "seed", "num_images"]
        proofs = {
            str(method): prove_member(
                member, dataset, sorted(set(rows["eps_pixels"])), verifier=str(method)
            )
            for method, rows in expected[expected["kind"] == PROOF].groupby("method")
        }
        for _, rows in expected.groupby(keys, sort=False):
            kind, method, version = (str(rows[key].iloc[0]) for key in keys[:3])
            seed, num_images = (int(rows[key].iloc[0]) for key in keys[3:])
            if kind == ATTACK and not attacks:
                continue
            eps = sorted(set(rows["eps_pixels"]))
            if kind == CLEAN:
                answers = next(iter(proofs.values()), None)
                found = clean_rates(member, answer(member, dataset) if answers is None else answers)
            elif kind == PROOF:
                proved = proofs[method]
                found = proof_rates(member, proved[proved["image"] < num_images], method)
            else:
                found = attack_member(
                    member,
                    dataset,
                    eps,
                    attacks=method.split(JOIN),
                    num_images=num_images,
                    seed=seed,
                    device=device,
                )
            for budget, recorded in rows.groupby("eps_pixels"):
                at = "" if kind == CLEAN else f" at {budget:g}"
                what = f"{kind}{at}, n = {num_images:,}"
                reason = _difference(recorded, found, version)
                rates = ", ".join(
                    f"{row['metric']} {100 * row['rate']:.2f} %"
                    for row in recorded.to_dict("records")
                )
                yield Recheck(member.name, what, reason, rates)
    except UserError as error:
        yield Recheck(member.name, "files", str(error), "")


def _difference(recorded: pd.DataFrame, found: pd.DataFrame, version: str) -> str:
    """Return how two tables of rates differ; empty if they agree."""
    if set(found["version"]) != {version}:
        return f"recorded with version {version}, this is version {found['version'].iloc[0]}"
    both = recorded.merge(found, on=["eps_pixels", "metric"], how="left", suffixes=("", "_found"))
    for row in both.to_dict("records"):
        hits, num_images, now = row["num_hits"], row["num_images"], row["num_hits_found"]
        allowed = ATTACK_TOLERANCE * num_images if row["kind"] == ATTACK else 0
        if row["num_images_found"] != num_images or not abs(now - hits) <= allowed:
            text = f"{row['metric']} {hits} of {num_images} recorded"
            return f"{text}, {now:.0f} of {row['num_images_found']:.0f} measured"
    return ""

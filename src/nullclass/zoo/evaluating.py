"""A member and its data -> lines of the leaderboard: clean, proved, attacked.

What is clean and what is proved is computed in float64: of the same weights every machine then
counts the same images. What is attacked is the network as it is used, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from nullclass.attacks import Attack
from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES, outcomes
from nullclass.data import Dataset, LabelledImages
from nullclass.evaluation.plan import find_attacks
from nullclass.evaluation.result import Evaluation
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import hold
from nullclass.metrics.rates import PROVED, UNION
from nullclass.models import Classifier
from nullclass.scoring.proofs import prove
from nullclass.scoring.rows import OnImages
from nullclass.zoo.entries import Entry
from nullclass.zoo.loading import load_entry
from nullclass.zoo.results import ATTACK, BRACKET, CLEAN, METRICS, NONE, PROOF, as_frame, line

ATTACKS = ("worst-case", "worst-case-force-null")
"""What a member is attacked by unless other attacks are named."""

VERIFIER = "interval"
"""Who proves unless another is named."""

BATCH_SIZE = 500
"""Clean images at once."""

JOIN = " + "
"""Between the names of attacks, in lines."""


def clean_lines(entry: Entry, dataset: Dataset) -> pd.DataFrame:
    """The clean triple over all test images, in float64."""
    model = _exact(entry)
    counts = torch.zeros(len(OUTCOME_NAMES), dtype=torch.long)
    for indices in torch.arange(len(dataset.test)).split(BATCH_SIZE):
        images, labels = dataset.test.batch(indices)
        scored = outcomes(model.predict(images.double()), labels)
        counts += scored.bincount(minlength=len(OUTCOME_NAMES))
    return as_frame(
        line(
            entry,
            CLEAN,
            name,
            hits,
            len(dataset.test),
            data_checksum=dataset.checksum,
        )
        for name, hits in zip(OUTCOME_NAMES, counts.tolist(), strict=True)
    )


def proof_lines(
    entry: Entry,
    dataset: Dataset,
    eps: Sequence[float],
    verifier: str = VERIFIER,
    on_images: OnImages | None = None,
) -> pd.DataFrame:
    """What is proved of all test images, in float64, from the weights alone."""
    proved = prove(_exact(entry), dataset.test, eps, verifier=verifier, on_images=on_images)
    return as_frame(_proved_lines(entry, proved, PROOF, dataset, verifier))


def find_fooling(attacks: Sequence[str]) -> dict[str, Attack]:
    """Attacks by name, one of which wants to fool.

    Raises:
        UserError: If one is unknown, or none wants to.
    """
    named = find_attacks(tuple(attacks))
    if all(attack.objective != "fool" for attack in named.values()):
        raise UserError("the leaderboard needs an attack that fools, such as worst-case")
    return named


def attack_lines(
    entry: Entry,
    dataset: Dataset,
    eps: Sequence[float],
    *,
    attacks: Sequence[str] = ATTACKS,
    num_images: int = 1000,
    verifier: str | None = VERIFIER,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checks: bool = False,
    on_images: OnImages | None = None,
) -> tuple[pd.DataFrame, Evaluation]:
    """What attacks left of the first test images, and what is proved of the same images.

    Args:
        entry: The member.
        dataset: Its data.
        eps: Budgets in pixel units; a find at a smaller one counts at every larger one.
        attacks: Names of attacks, all in L∞.
        num_images: How many of the first test images are attacked.
        verifier: Who proves; None leaves out the proofs.
        seed: Seed of the attacks' random starts.
        device: Where to attack.
        checks: Whether red flags are looked for.
        on_images: Progress.

    Raises:
        UserError: If the attacks are unknown, or none of them wants to fool.
    """
    named = find_fooling(attacks)
    data = dataset.test.first(min(num_images, len(dataset.test)))
    findings = evaluate(
        load_entry(entry, device),
        data,
        attacks=named,
        eps=eps,
        data_name=dataset.name,
        seed=seed,
        checks="full" if checks else "none",
        progress=on_images or False,
    )
    summary = findings.summary()
    union = summary[summary["attack"] == UNION]
    versions = {str(getattr(attack, "version", "")) for attack in named.values()} - {""}
    lines = [
        line(
            entry,
            ATTACK,
            str(row["metric"]),
            round(float(row["value"]) * int(row["num_images"])),
            int(row["num_images"]),
            data_checksum=dataset.checksum,
            eps=float(row["eps_pixels"]),
            by=JOIN.join(named),
            version=JOIN.join(sorted(versions)) or NONE,
            seed=seed,
        )
        for row in union.to_dict("records")
        if row["metric"] in METRICS[ATTACK]
    ]
    if verifier is not None:
        lines += _bracket_lines(entry, dataset, data, findings.rows, eps, verifier, seed)
    return as_frame(lines), findings


def _bracket_lines(
    entry: Entry,
    dataset: Dataset,
    data: LabelledImages,
    attacked: pd.DataFrame,
    eps: Sequence[float],
    verifier: str,
    seed: int,
) -> list[dict[str, object]]:
    """What is proved of the images that were attacked, and how many proofs an attack broke."""
    proved = prove(_exact(entry), data, eps, verifier=verifier)
    lines = _proved_lines(entry, proved, BRACKET, dataset, verifier, seed)
    for budget, told in proved.groupby("eps_pixels", sort=True):
        broken = hold(attacked, told).broken["image"].nunique()
        lines.append(
            line(
                entry,
                BRACKET,
                "broken",
                broken,
                len(data),
                eps=float(str(budget)),
                by=verifier,
                seed=seed,
                data_checksum=dataset.checksum,
            )
        )
    return lines


def _proved_lines(
    entry: Entry,
    proved: pd.DataFrame,
    kind: str,
    dataset: Dataset,
    verifier: str,
    seed: int = 0,
) -> list[dict[str, object]]:
    lines = []
    for eps, rows in proved.groupby("eps_pixels", sort=True):
        for metric, column in PROVED.items():
            hits = int(rows[column].sum())
            lines.append(
                line(
                    entry,
                    kind,
                    metric,
                    len(rows) - hits if metric == "aer_bound" else hits,
                    len(rows),
                    eps=float(str(eps)),
                    by=verifier,
                    seed=seed,
                    data_checksum=dataset.checksum,
                )
            )
    return lines


def _exact(entry: Entry) -> Classifier:
    """The member in float64 on the CPU: there bounds need no more than their own margins."""
    return load_entry(entry).double()

"""Measures a member: clean rates, proofs and attacks.

Clean rates and proofs are computed in float64, so that every machine counts the same images.
Attacks run in float32, as the network is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from nullclass.attacks import Attack
from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES, Outcome, outcomes
from nullclass.data import Dataset
from nullclass.evaluation.plan import find_attacks
from nullclass.evaluation.result import Evaluation
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import find_violations
from nullclass.metrics.rates import PROVED
from nullclass.results.schema import UNION
from nullclass.scoring.parts import NOTHING, Parts
from nullclass.scoring.proofs import prove
from nullclass.scoring.score import OnImages, ignore, score_clean
from nullclass.zoo.load import load_member
from nullclass.zoo.members import Member
from nullclass.zoo.results import ATTACK, CLEAN, METRICS, NO_VERSION, PROOF, join, result_rows

JOIN = " + "
"""Separates names of attacks in a row."""


def check_dataset(member: Member, dataset: Dataset) -> None:
    """Refuse a dataset that is not the member's.

    Raises:
        UserError: If the checksum differs from that of the card.
    """
    if dataset.checksum != member.data_checksum:
        raise UserError(
            f"{dataset.name} (checksum {dataset.checksum[:12]}…) is not the dataset of "
            f"{member.name} (checksum {member.data_checksum[:12]}…)"
        )


def answer(member: Member, dataset: Dataset, verifier: str | None = None) -> pd.DataFrame:
    """Return image, label and prediction of all test images, by a verifier or as the card says."""
    check_dataset(member, dataset)
    return score_clean(load_member(member, verifier=verifier).double(), dataset.test)


def clean_rates(member: Member, answers: pd.DataFrame) -> pd.DataFrame:
    """Return the clean rates.

    Args:
        member: The member.
        answers: Rows of :func:`answer`, or of :func:`prove_member`.
    """
    answers = answers.drop_duplicates("image")
    predicted, labels = (torch.tensor(answers[name]) for name in ("prediction", "label"))
    counts = outcomes(predicted, labels).bincount(minlength=len(OUTCOME_NAMES))
    hits = dict(zip(METRICS[CLEAN], counts.tolist(), strict=True))
    return result_rows(member, CLEAN, hits, len(answers), method=CLEAN)


def prove_member(
    member: Member,
    dataset: Dataset,
    eps: Sequence[float],
    *,
    verifier: str,
    answers: str | None = None,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> pd.DataFrame:
    """Return what is proved of each test image (:func:`nullclass.scoring.proofs.prove`).

    Args:
        member: The member.
        dataset: Its dataset.
        eps: Budgets in pixel units.
        verifier: Name of the verifier.
        answers: That of the model's own answers, instead of that of its card.
        on_images: Receives the number of images done since its last call.
        parts: As for ``prove``.
    """
    check_dataset(member, dataset)
    model = load_member(member, verifier=answers).double()
    return prove(model, dataset.test, eps, verifier=verifier, on_images=on_images, parts=parts)


def proof_rates(member: Member, proofs: pd.DataFrame, verifier: str) -> pd.DataFrame:
    """Return the rates that are proved."""
    tables = []
    for eps, rows in proofs.groupby("eps_pixels"):
        hits = {metric: int(rows[column].sum()) for metric, column in PROVED.items()}
        hits["aer_bound"] = len(rows) - hits["aer_bound"]
        tables.append(
            result_rows(member, PROOF, hits, len(rows), method=verifier, eps=float(str(eps)))
        )
    return join(tables)


def check_proofs(member: Member, evaluation: Evaluation, proofs: pd.DataFrame) -> None:
    """Refuse proofs that an evaluation contradicts.

    In float32, bounds are looser than in float64, so that a model may answer null where in float64
    it does not. Fooled is wrong in both. So the proofs, of float64, are compared with the images
    that are fooled, and the evaluation's own, of float32, with all.

    Raises:
        UserError: If an attack broke a proof.
    """
    rows = evaluation.rows
    fooled = rows[rows["outcome"] == OUTCOME_NAMES[Outcome.FOOLED]]
    compared = ((fooled, proofs), (rows, evaluation.certified))
    broken = pd.concat([find_violations(*each).violations["image"] for each in compared])
    if len(broken):
        raise UserError(
            f"attacks on {member.name} broke the proofs of {broken.nunique()} images: "
            "a bound is wrong, so please report it"
        )


def find_fooling_attacks(attacks: Sequence[str]) -> dict[str, Attack]:
    """Return attacks by name.

    Raises:
        UserError: If one is unknown, or none has the objective ``fool``.
    """
    named = find_attacks(tuple(attacks))
    if all(attack.objective != "fool" for attack in named.values()):
        raise UserError("the leaderboard needs an attack that fools, such as worst-case")
    return named


def attack_member(
    member: Member,
    dataset: Dataset,
    eps: Sequence[float],
    *,
    attacks: Sequence[str],
    num_images: int,
    seed: int,
    device: torch.device | str,
) -> pd.DataFrame:
    """Return the rates of the first test images under attacks, at budgets in pixel units.

    Raises:
        UserError: If the attacks are unknown, or none has the objective ``fool``.
    """
    check_dataset(member, dataset)
    evaluation = evaluate(
        load_member(member, device),
        dataset.test.first(num_images),
        attacks=find_fooling_attacks(attacks),
        eps=eps,
        data_name=dataset.name,
        seed=seed,
        checks=False,
    )
    return attack_rows(member, evaluation, attacks, seed, device)


def attack_rows(
    member: Member,
    evaluation: Evaluation,
    attacks: Sequence[str],
    seed: int,
    device: torch.device | str,
) -> pd.DataFrame:
    """Return the rates of an evaluation over the union of its attacks."""
    named = find_attacks(tuple(attacks))
    versions = {str(getattr(attack, "version", "")) for attack in named.values()} - {""}
    summary = evaluation.summary()
    summary = summary[(summary["attack"] == UNION) & summary["metric"].isin(METRICS[ATTACK])]
    tables = []
    for eps, rates in summary.groupby("eps_pixels"):
        num_images = int(rates["num_images"].iloc[0])
        hits = dict(zip(rates["metric"], rates["value"] * num_images, strict=True))
        tables.append(
            result_rows(
                member,
                ATTACK,
                {metric: round(value) for metric, value in hits.items()},
                num_images,
                method=JOIN.join(named),
                eps=float(str(eps)),
                version=JOIN.join(sorted(versions)) or NO_VERSION,
                seed=seed,
                computed_on=f"{device_name(device)}, float32",
            )
        )
    return join(tables)


def device_name(device: torch.device | str) -> str:
    """Return the name of a device for a row: ``CPU``, or that of the GPU."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()

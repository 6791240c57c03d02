"""The threat model as a card: what each attack wants, may do and takes from the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nullclass.report.blocks import Block, Cell, Table, Terms, Text
from nullclass.report.judged import can_refuse
from nullclass.report.measures import GOALS, NORMS, attack_name, eps_text, percent
from nullclass.results.store import Trial

TAKES = {
    "white-box": "gradients and answers",
    "labels": "labels only",
    "scores": "answers only",
    "none": "nothing",
    "unknown": "it does not say",
}
"""What an attack needs of the model, in words."""

WITHIN = {
    "linf": "no pixel moves by more than ε",
    "l2": "the Euclidean length of the change is at most ε",
    "l1": "all pixels together move by at most ε",
}

CHOSEN = {
    "test": "the test images themselves, which flatters every rate below",
    "held-out": "held-out images",
}


def threat_card(trial: Trial) -> list[Block]:
    """The card of one evaluation; empty if it does not tell its threat model."""
    threat = trial.result.get("threat")
    if not threat:
        return []
    norm = str(threat["norm"])
    attacks = threat["attacks"]
    blocks: list[Block] = []
    if attacks:
        blocks.append(_attacks(attacks))
    blocks.append(
        Terms(
            [
                (
                    "budget",
                    f"{NORMS.get(norm, norm)}: {WITHIN.get(norm, 'within ε of the clean image')}; "
                    f"ε in pixel units ({threat['units']}), and attacked images stay in [0,1]",
                ),
                ("null", _null(threat["threshold"], can_refuse(trial.rows))),
                ("data", f"{threat['data'] or 'not named'}, {threat['num_classes']} classes"),
                (
                    "weights chosen on",
                    CHOSEN.get(threat["selected_on"], "nothing, as far as is told"),
                ),
            ]
        )
    )
    blocks.append(
        Text(
            "Budget and box are checked, and every image is scored again outside the attack. What "
            "stronger attacks would do these numbers do not say: AER is a lower bound, RAR an "
            "upper one."
        )
    )
    return blocks


def _attacks(attacks: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, told in attacks.items():
        version = (told["settings"] or {}).get("version")
        eps = ", ".join(map(eps_text, told["eps"])) if told["eps"] else "each image's own"
        is_own = told["source"] == "self"
        rows.append(
            [
                Cell(attack_name(name), str(version or "")),
                Cell(GOALS.get(told["goal"], told["goal"])),
                Cell(TAKES.get(told["takes"], told["takes"])),
                Cell("the model itself" if is_own else f"another model ({told['source_name']})"),
                Cell(eps),
                Cell(f"{told['num_images']:,}"),
            ]
        )
    heads = ["attack", "wants", "takes from the model", "made on", "ε", "test images"]
    return Table("The attacks", [Cell(head) for head in heads], rows, holds_words=True)


def _null(threshold: Mapping[str, Any] | None, may_refuse: bool) -> str:
    """What makes the model answer null."""
    if threshold is None:
        return "whenever it is the largest logit" if may_refuse else "never: the model has none"
    told = f"null score above {threshold['value']:.4g}"
    if threshold["origin"] != "held-out" or not threshold["num_images"]:
        return f"{told}; nothing says on which images that was chosen"
    told += (
        f", calibrated on {threshold['num_images']:,} held-out clean images to refuse at most "
        f"{percent(threshold['clean_null_rate'], 2)} % of such images; of these it refuses "
        f"{percent(threshold['held_out_null_rate'], 2)} %"
    )
    overlap = threshold["num_overlapping"]
    return f"{told}; {overlap:,} of them are among the test images" if overlap else told

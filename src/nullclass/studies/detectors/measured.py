"""Numbers of the study ``detectors``: unaware attacks, survivors."""

from __future__ import annotations

from collections.abc import Sequence

from nullclass.report.measures import Measure, Measures
from nullclass.results.schema import UNION
from nullclass.studies.detectors.config import INTERVAL, NETWORKS, NONE, RULES, STRONG, UNAWARE

SURVIVES = 0.5
"""A way to refuse survives if fewer images than this share are fooled."""


def network_of(model: str) -> str:
    """The network of a variant."""
    return model.split("-", 1)[0]


def rule_of(model: str) -> str:
    """The way to refuse of a variant."""
    return model.split("-", 1)[1]


def networks(measures: Measures) -> list[str]:
    """Networks of the run, in the study's order."""
    known = {network_of(model) for model in measures.models}
    return [network for network in (*NETWORKS, STRONG, INTERVAL) if network in known]


def models_on(measures: Measures, network: str) -> list[str]:
    """Variants of a network, in the study's order."""
    return [name for rule in RULES if (name := f"{network}-{rule}") in measures.models]


def not_fooled(measures: Measures, model: str, attack: str, eps: float) -> Measure | None:
    """Share refused or correct of the images that an unaware attack made on the network."""
    fooled = measures.find(model, f"{attack} on {network_of(model)}", "fooled", eps)
    return None if fooled is None else fooled.complement("not_fooled_rate")


def least_not_fooled(measures: Measures, model: str, eps: float) -> Measure | None:
    """The smallest such share of all unaware attacks."""
    found = (not_fooled(measures, model, attack, eps) for attack in UNAWARE)
    return min(
        (measure for measure in found if measure is not None),
        key=lambda measure: measure.mean,
        default=None,
    )


def refusing(measures: Measures, network: str) -> list[str]:
    """Attacked variants of a network that can refuse."""
    last = measures.union_budgets()[-1:]
    return [
        model
        for model in models_on(measures, network)
        if rule_of(model) != NONE and any(measures.find(model, UNION, "aer", eps) for eps in last)
    ]


def survivors(measures: Measures, models: Sequence[str], eps: float) -> list[str]:
    """Variants of which an aware attacker fools less than :data:`SURVIVES`."""
    found = measures.find_all(models, UNION, "aer", eps)
    return [measure.model for measure in found if measure.mean < SURVIVES]

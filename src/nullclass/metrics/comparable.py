"""Whether evaluations can be compared: the same images, norm and attacks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.metrics.rates import attacked_by_all
from nullclass.results.info import ThreatModel
from nullclass.results.schema import CLEAN


@dataclass(frozen=True)
class Subject:
    """What the rates of an evaluation depend on besides its model."""

    norm: str
    labels: pd.Series[int] = field(repr=False)
    """True class of each image that the rates are of, those that every attack was run on, by its
    index in the test set."""
    attacks: Mapping[str, Any]
    """Settings of each attack, with the version of those that have one; None if unknown."""
    must_have: frozenset[str]
    """The attacks that look for a wrong class."""
    data: str
    """Name of the dataset."""
    checksum: str
    """Of the dataset; empty if unknown."""
    num_searched: int = 0
    """Images of the search for the smallest eps, whose finds count."""

    @classmethod
    def of(cls, rows: pd.DataFrame, threat: ThreatModel, checksum: str = "") -> Subject:
        """Return the subject of an evaluation.

        Args:
            rows: :data:`nullclass.results.schema.ROW_COLUMNS`.
            threat: Its threat model.
            checksum: Of the data, if known.
        """
        attacks = {
            name: info for name, info in threat.attacks.items() if info.eps is not None
        }  # not the search for the smallest eps
        clean = rows[rows["attack"] == CLEAN]
        images = attacked_by_all(clean, rows[rows["attack"].isin(attacks)])
        return cls(
            threat.norm,
            clean.set_index("image")["label"].loc[images],
            {name: info.settings for name, info in attacks.items()},
            frozenset(name for name, info in attacks.items() if info.objective == "fool"),
            threat.data or "",
            checksum,
            rows.loc[rows["has_own_eps"].astype(bool), "image"].nunique(),
        )


def find_differences(subjects: Mapping[str, Subject]) -> list[str]:
    """Return in a sentence each what makes rates of these models incomparable; empty if nothing.

    Attacks with the objective ``fool`` must be the same with the same settings, which include the
    version of an ensemble. Others, such as those that force null, may be missing, since not every
    model can answer null.
    """
    (first, reference), *others = subjects.items()
    found = []
    for name, subject in others:
        both = f"{first} and {name}"
        if subject.norm != reference.norm:
            found.append(f"the norms of {both} differ: {reference.norm} and {subject.norm}")
        if _other_data(reference, subject):
            names = " and ".join(sorted({reference.data, subject.data} - {""}))
            found.append(f"the data of {both} differ ({names})")
        elif not subject.labels.equals(reference.labels):
            counts = f"{len(reference.labels):,} and {len(subject.labels):,}"
            found.append(f"the attacked images of {both} differ ({counts})")
        found += _different_attacks(both, reference, subject)
        searched = reference.num_searched, subject.num_searched
        if len(set(searched)) > 1:
            counts = " and ".join(map(str, searched))
            found.append(f"the smallest ε of {both} was searched for {counts} images")
    return found


def _other_data(one: Subject, other: Subject) -> bool:
    """Return whether the data are known to differ: by their checksums, or else by their names."""
    if one.checksum and other.checksum:
        return one.checksum != other.checksum
    return bool(one.data and other.data and one.data != other.data)


def _different_attacks(both: str, one: Subject, other: Subject) -> list[str]:
    lacking = one.must_have ^ other.must_have
    if lacking:
        return [f"only one of {both} was attacked by {', '.join(sorted(lacking))}"]
    changed = [
        _with_versions(name, one.attacks[name], other.attacks[name])
        for name in sorted(set(one.attacks) & set(other.attacks))
        if one.attacks[name] != other.attacks[name]
    ]
    return [f"the attacks of {both} differ: {', '.join(changed)}"] if changed else []


def _with_versions(name: str, one: Any, other: Any) -> str:
    """Return an attack's name with its two versions, or that its settings differ."""
    versions = [each.get("version") for each in (one, other) if each]
    if len(versions) == 2 and versions[0] != versions[1]:
        return f"{name} ({versions[0] or 'no version'} and {versions[1] or 'no version'})"
    return f"{name} (other settings)"


def check_comparable(differences: Sequence[str], remedy: str) -> None:
    """Refuse a comparison.

    Args:
        differences: What :func:`find_differences` found.
        remedy: How to compare all the same.

    Raises:
        UserError: If there are any.
    """
    if differences:
        raise UserError(f"these runs cannot be compared: {'; '.join(differences)}; {remedy}")

"""What a result says of the code and machine that computed it. Imports no torch."""

from __future__ import annotations

from nullclass.core.documents import Schema


class Machine(Schema, frozen=True):
    """A computer."""

    system: str
    processor: str
    num_cores: int | None
    num_threads: int
    """Threads that torch uses."""


class Provenance(Schema, frozen=True):
    """What computed a result."""

    versions: dict[str, str]
    """Of nullclass, torch and python."""
    commit: str | None
    """Of the source tree, with ``+changes`` if it was edited."""
    machine: Machine

"""What a result says of the code and machine that computed it. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nullclass.core.documents import Schema


class Machine(Schema, frozen=True):
    """A computer."""

    system: str
    processor: str
    num_cores: Annotated[int, Meta(ge=1)] | None
    num_threads: Annotated[int, Meta(ge=0)]
    """Threads that torch uses."""


class Provenance(Schema, frozen=True):
    """What computed a result."""

    versions: dict[str, str]
    """Of nullclass, torch and python."""
    commit: str | None
    """Of the source tree, with ``+changes`` if it was edited."""
    machine: Machine

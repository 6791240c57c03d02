"""Tasks and events as lines of JSON, between a sweep and its worker processes."""

from __future__ import annotations

import json
from typing import Any

import cattrs

from nullclass.experiments.config import Config, Craft, Estimate, Training, Trial
from nullclass.experiments.engines.base import Done, Event, Failed, Progress, Task

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (Task, Progress, Done, Failed)}

_converter = cattrs.Converter(forbid_extra_keys=True)


_MARKS: dict[str, type] = {
    "training": Trial,
    "measure": Estimate,
    "plan": Craft,
    "recipe": Training,
}
"""A field that only this kind of config has."""


def _which(told: dict[str, Any], _: Any) -> Config:
    kind = next(kind for mark, kind in _MARKS.items() if mark in told)
    config: Config = _converter.structure(told, kind)
    return config


_converter.register_structure_hook(Config, _which)
_converter.register_unstructure_hook(
    Config, lambda config: _converter.unstructure(config, type(config))
)


def to_line(message: Task | Event) -> str:
    """One message on one line, with its kind."""
    return json.dumps([type(message).__name__, _converter.unstructure(message)])


def from_line(line: str) -> Task | Event:
    """The message of a line."""
    kind, told = json.loads(line)
    message: Task | Event = _converter.structure(told, _KINDS[kind])
    return message

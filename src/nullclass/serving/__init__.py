"""A model in use: exported files, and a guard that checks, counts and raises an alarm."""

from __future__ import annotations

from nullclass.metrics.rates import null_band
from nullclass.serving.alarm import NullRateAlarm
from nullclass.serving.export import FORMATS, Exported, export_model
from nullclass.serving.guard import Answer, Guard, InvalidInputError

__all__ = [
    "FORMATS",
    "Answer",
    "Exported",
    "Guard",
    "InvalidInputError",
    "NullRateAlarm",
    "export_model",
    "null_band",
]

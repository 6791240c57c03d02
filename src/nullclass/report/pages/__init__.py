"""The pages. A new one: one file, one line in :data:`PAGES`."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.records import Run
from nullclass.report.blocks import Page
from nullclass.report.pages.evaluated import evaluated
from nullclass.report.pages.fgsm_null import fgsm_null
from nullclass.report.pages.null_probabilities import null_probabilities
from nullclass.report.pages.null_samples import null_samples
from nullclass.report.pages.provable_null import provable_null
from nullclass.report.pages.ramps import ramps

PAGES: dict[str, Callable[[Run], Page]] = {
    "fgsm-null": fgsm_null,
    "ramps": ramps,
    "null-samples": null_samples,
    "null-probabilities": null_probabilities,
    "provable-null": provable_null,
    "provable-null-fashion-mnist": provable_null,
    "evaluate": evaluated,
}
"""Name of a study, as in ``run.json``, to what its page says; ``evaluate`` is a model of one's
own."""

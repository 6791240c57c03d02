"""The pages. A new one: one file, one line in :data:`PAGES`."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.report.blocks import Page
from nullclass.report.evaluation_page import evaluated
from nullclass.results.store import Run
from nullclass.studies.fgsm_null.page import fgsm_null
from nullclass.studies.null_probabilities.page import null_probabilities
from nullclass.studies.null_samples.page import null_samples
from nullclass.studies.provable_null.page import provable_null
from nullclass.studies.ramps.page import ramps

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

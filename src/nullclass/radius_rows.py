"""The rows that tell what other radii would answer (:mod:`nullclass.radius_scoring`). No torch."""

from __future__ import annotations

RADII = "radii.csv.gz"
"""Their file, in a trial's folder."""

RADIUS_COLUMNS = {
    "radius": "float64",  # within which an answer must be proved, in pixel units
    "image": "int64",  # index in the test set
    "prediction": "int64",  # for the clean image; -1 is null
    "outcome": "str",  # correct, null or fooled
    "margin": "float64",  # largest proved margin of a class: positive is an answer
}
"""Their columns and types."""

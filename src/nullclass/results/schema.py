"""Names, columns and types of the files in a run folder, and the words their rows use.

A run folder::

    run.json             :class:`nullclass.results.info.RunInfo`
    summary.csv          one row per metric (:data:`SUMMARY_COLUMNS`)
    report.html, figures/
    .lock, .tmp/         of the process that writes to the folder
    models/NAME-seedN-HASH/    one training each; the hash covers its config and data
        last/, test/ …         checkpoints: of the last epoch, or of each selection
        history.csv            one row per epoch
        queries.csv            one row per round of a substitute's label queries
    estimates/NAME-seedN-HASH/ one null curve each: curve.csv
    crafted/NAME-seedN-HASH/   adversarial images of one model: images.safetensors,
                               rows.parquet with their outcomes on that model, costs.csv
    trials/NAME-seedN-HASH/    one evaluation each
        rows.parquet           one row per image and attack (:data:`ROW_COLUMNS`)
        costs.csv              one row per attack, eps and member (:data:`COST_COLUMNS`)
        held-out.parquet       clean held-out images, if any (:data:`ROW_COLUMNS`)
        ood.parquet            inputs of no class, if any (:data:`OOD_COLUMNS`)
        certified.parquet      proofs per image, if any (:data:`CERTIFIED_COLUMNS`)
        proved-eps.parquet     the largest eps proved of each image, if any (the same)
        summary.csv            rates of these rows
        scores.csv             metrics of the null score
        radii.parquet          answers with other radii, if any (:data:`RADIUS_COLUMNS`)
        sizes.parquet          answers by size of perturbation, if any (:data:`SIZE_COLUMNS`)
        thresholds.parquet     smallest eps that fools each image, if any
        examples.safetensors   a few images to show

Every training, estimate, crafted set and trial has a ``result.json``, written last
(:mod:`nullclass.results.info`). ``summary.csv``, the report and the figures are drawn from the
trials, and can be drawn again. Tables per image are Parquet, others CSV; pandas reads both with its
defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from nullclass.core.documents import Schema

if TYPE_CHECKING:  # NumPy is slow to load, and every help needs this module
    import numpy as np
    import numpy.typing as npt

FORMAT = 1
"""``format`` in ``run.json``; another number means other files, columns or keys."""

RUN = "run.json"
SUMMARY = "summary.csv"
REPORT = "report.html"
FIGURES = "figures"
MODELS = "models"
TRIALS = "trials"
ESTIMATES = "estimates"
CRAFTED = "crafted"
JOB_FOLDERS = (MODELS, ESTIMATES, CRAFTED, TRIALS)
"""Folders of the jobs; each needs only what comes before."""
EVALUATION = "evaluate"
"""Value of ``study`` in ``run.json`` for the evaluation of one model."""
RESULT = "result.json"
HISTORY = "history.csv"
QUERIES = "queries.csv"
CURVE = "curve.csv"
ROWS = "rows.parquet"
COSTS = "costs.csv"
HELD_OUT = "held-out.parquet"
OOD = "ood.parquet"
OOD_PREFIX = "ood:"
"""Of a source of inputs of no class, in the column ``attack`` of ``scores.csv``."""
CERTIFIED = "certified.parquet"
PROVED_EPS = "proved-eps.parquet"
RADII = "radii.parquet"
SIZES = "sizes.parquet"
THRESHOLDS = "thresholds.parquet"
SCORES = "scores.csv"
IMAGES = "images.safetensors"
EXAMPLES = "examples.safetensors"
DECISIONS = "decisions.safetensors"
STATE = "training.safetensors"
"""The state of an unfinished training."""
PARTS = ".parts"
"""Folder of the finished parts of an unfinished evaluation."""

CLEAN = "clean"
"""``attack``, ``objective``, ``source`` and ``member`` of clean images."""

NO_MEMBER = "no-success"
"""``member`` of images on which no attack succeeded."""

LEFT_OUT = "proved"
"""``member`` of images that are not attacked, because they are proved never to be fooled at that
eps; their row has the answer on the clean image."""

SELF = "self"
"""``source`` of an attack made on the same model that it is scored on."""

UNION = "union"
"""``attack`` of rates over all attacks together, image by image."""

PROOF = "proof"
"""``attack`` of rates that are proved for every possible attack."""

SMALLEST = "smallest-eps"
"""``attack`` of the search for the smallest eps that fools each image."""

LAST = "last"
"""``selection`` of the weights after the last epoch."""

ROW_COLUMNS = {
    "image": "int64",  # index in the test set
    "label": "int64",
    "attack": "str",
    "objective": "str",  # fool, force-null or untargeted
    "source": "str",  # the model that the attack was made on: "self", or a name
    "norm": "str",
    "has_own_eps": "bool",  # whether each image has a budget of its own, not one for all
    "eps_pixels": "float64",
    "attacked_eps_pixels": "float64",  # at which the row's image was attacked; NaN: it was not
    "member": "str",  # the member of an ensemble that succeeded
    "prediction": "int64",  # -1 is null
    "outcome": "str",  # correct, null or fooled
    "confidence": "float64",  # probability of the prediction
    "loss": "float64",  # cross-entropy to the true label
    "null_loss": "float64",  # cross-entropy to null; NaN without a null class
    "real_prediction": "int64",  # the best real class
    "null_score": "float64",  # larger is closer to null (nullclass.rejection.threshold)
}
"""One row per image and attack.

``attacked_eps_pixels`` is ``eps_pixels`` where the image was attacked at that eps. It is smaller
where a success at a smaller eps counts; larger where the image was attacked at a larger eps only,
and what was found there is projected into the smaller ball: a success, or an inferred survival. NaN
for clean images, for images that are a success without an attack, and where ``member`` is
:data:`LEFT_OUT`."""

Access = Literal["white-box", "scores", "labels", "none"]
"""What an attack uses of the model under attack: gradients and logits, logits only, predicted
labels only, or nothing (transfer, noise)."""

MAX_TARGETS = 20
"""Most answers that attacks towards one answer after another take by default."""

UNKNOWN = "unknown"
"""The access of an attack that does not declare one."""

COST_COLUMNS = {
    "attack": "str",
    "objective": "str",
    "source": "str",
    "norm": "str",
    "eps_pixels": "float64",  # NaN where each image has a budget of its own
    "access": "str",  # :data:`Access` or unknown
    "is_iterative": "bool",  # False for a fixed recipe, such as one step
    "status": "str",  # ran, or why it was skipped: unsupported-norm, no-gradient
    "member": "str",  # of an ensemble, in its order; else the attack itself
    "num_images": "int64",  # images it attacked: those without a success so far
    "num_successes": "int64",  # on the model attacked
    "num_forwards": "int64",  # images through the model attacked
    "num_backwards": "int64",
    "seconds": "float64",
}
"""One row per attack, eps and member: what it did and cost."""

COST_COUNTS = [
    "num_images",
    "num_successes",
    "num_forwards",
    "num_backwards",
    "seconds",
]
"""Columns that add up over images."""

OOD_COLUMNS = {
    "source": "str",  # name in nullclass.scoring.ood.OOD
    "image": "int64",
    "prediction": "int64",  # -1 is null
    "real_prediction": "int64",
    "confidence": "float64",
    "null_score": "float64",
}
"""One row per input of no class."""

RADIUS_COLUMNS = {
    "radius": "float64",  # within which an answer must be proved, in pixel units
    "image": "int64",  # index in the test set
    "prediction": "int64",  # of the clean image; -1 is null
    "outcome": "str",  # correct, null or fooled
    "margin": "float64",  # largest proved margin of a class: positive is an answer
}
"""One row per image and radius of a provable null."""

CERTIFIED_COLUMNS = {
    "image": "int64",  # index in the test set
    "label": "int64",
    "norm": "str",
    "eps_pixels": "float64",
    "verifier": "str",  # name in nullclass.certify.verifiers.VERIFIERS
    "prediction": "int64",  # of the clean image; -1 is null
    "margin": "float64",  # lower bound that decides is_never_fooled: positive is proved
    "is_correct_proved": "bool",  # every image within eps is answered with the true label
    "is_rar_proved": "bool",  # correct when clean, and no image within eps is fooled
    "is_never_fooled": "bool",  # no image within eps is fooled
    "status": "str",  # correct, not-fooled or undecided
}
"""One row per image, eps and verifier."""

SIZE_COLUMNS = {
    "perturbation": "str",  # name in nullclass.nulls.perturb.PERTURBATIONS
    "norm": "str",  # linf, l2, l1 or l0
    "size": "float64",  # requested, in units of the norm
    "image": "int64",  # index in the test set
    "actual_size": "float64",  # the [0,1] box may have made it smaller
    "label": "int64",
    "prediction": "int64",  # -1 is null
    "outcome": "str",  # correct, null or fooled
    "p_label": "float64",  # probability of the true label
    "p_null": "float64",  # probability of null; 0 without a null class
}
"""One row per image and size. A threshold changes the prediction, not the probabilities."""

THRESHOLD_COLUMNS = {"image": "int64", "threshold": "float64"}
"""One row per image: the smallest eps, in pixel units, at which it is fooled."""

SUMMARY_COLUMNS = {
    "study": "str",
    "model": "str",
    "seed": "int64",
    "selection": "str",  # which of a training's weights: "last" or what selected the epoch
    "attack": "str",
    "objective": "str",
    "source": "str",
    "norm": "str",
    "eps_pixels": "float64",  # empty where each image has a budget of its own
    "metric": "str",
    "value": "float64",  # rates are shares in [0,1]
    "published": "float64",  # empty where the source has no figure
    "low": "float64",  # 95 % Wilson interval over images; empty for a loss
    "high": "float64",
    "num_images": "int64",
}
"""Columns of the run's ``summary.csv``; a trial's lacks the first four and ``published``."""

LOSSES = ("loss", "null_loss")
"""The metrics of a summary that are no rates."""

TABLES = {
    ROWS: ROW_COLUMNS,
    COSTS: COST_COLUMNS,
    HELD_OUT: ROW_COLUMNS,
    OOD: OOD_COLUMNS,
    CERTIFIED: CERTIFIED_COLUMNS,
    PROVED_EPS: CERTIFIED_COLUMNS,
    RADII: RADIUS_COLUMNS,
    SIZES: SIZE_COLUMNS,
    THRESHOLDS: THRESHOLD_COLUMNS,
}
"""File names to columns and types, in the order in which they are written."""


@dataclass(frozen=True)
class Examples:
    """A few clean images and the adversarial images that one attack made of them."""

    attack: str
    norm: str
    eps_pixels: float
    """NaN where each image has its own."""
    budgets: list[float]
    """The eps of each image."""
    labels: list[int]
    clean_predictions: list[int]
    clean_confidences: list[float]
    predictions: list[int]
    confidences: list[float]
    clean: npt.NDArray[np.float32] = field(repr=False)
    """``(N, C, H, W)`` in [0,1]."""
    adv_images: npt.NDArray[np.float32] = field(repr=False)
    """``(N, C, H, W)`` in [0,1]."""


class Flag(Schema, frozen=True):
    """One red flag of an evaluation."""

    name: str
    """The check that raised it."""
    message: str
    """One sentence with the numbers."""

    @property
    def page(self) -> str:
        """Where it is explained."""
        return f"docs/red-flags.md#{self.name}"

"""The only reader and writer of results. Rows first; tables and figures only read rows.

A run folder::

    run.json             study, settings, versions, commit, machine, data
    summary.csv          one metric a line (:data:`SUMMARY_COLUMNS`)
    report.html, figures/
    models/NAME-seedN-HASH/    one training each; the hash is of its config and data
        last/, test/ …         checkpoints: the last epoch's, or each selection's
        history.csv            one epoch a line
        result.json            written last: the training is whole
    estimates/NAME-seedN-HASH/ one null curve each: curve.csv, result.json
    crafted/NAME-seedN-HASH/   images attacked on one model: images.safetensors, rows.csv.gz of
                               what became of them there, result.json
    trials/NAME-seedN-HASH/    one evaluation each
        rows.csv.gz            one attacked image a line (:data:`ROW_COLUMNS`)
        costs.csv              what each attack and member did and cost (:data:`COST_COLUMNS`)
        held-out.csv.gz        clean held-out images, if there were any: columns of rows
        ood.csv.gz             inputs of no class, if there were any (:data:`OOD_COLUMNS`)
        certified.csv.gz       what is proved of each image, if asked (:data:`CERTIFIED_COLUMNS`)
        summary.csv            the rates of these rows
        scores.csv             metrics of the null score
        radii.csv.gz           what other radii answer, if asked (:data:`RADIUS_COLUMNS`)
        sizes.csv.gz           where probability goes with size, if asked (:data:`SIZE_COLUMNS`)
        examples.safetensors   a few images to show
        result.json            written last: the trial is whole

``result.json`` holds the SHA-256 of every file beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

RUN = "run.json"

SUMMARY = "summary.csv"

REPORT = "report.html"

FIGURES = "figures"

MODELS = "models"

TRIALS = "trials"

ESTIMATES = "estimates"

CRAFTED = "crafted"

HISTORY = "history.csv"

ROWS = "rows.csv.gz"

COSTS = "costs.csv"

HELD_OUT = "held-out.csv.gz"

OOD = "ood.csv.gz"

CERTIFIED = "certified.csv.gz"

RADII = "radii.csv.gz"

SCORES = "scores.csv"

THRESHOLDS = "thresholds.csv"

SIZES = "sizes.csv.gz"

CURVE = "curve.csv"

IMAGES = "images.safetensors"

QUERIES = "queries.csv"

EXAMPLES = "examples.safetensors"

DECISIONS = "decisions.safetensors"

RESULT = "result.json"

TRIAL_FILES = (RESULT, ROWS, COSTS, HELD_OUT, OOD, CERTIFIED, SUMMARY, SCORES, EXAMPLES)
"""Everything an evaluation writes; ``result.json`` is removed first."""

STATE = "training.safetensors"
"""The state of a training that is not done."""

ROW_COLUMNS = {
    "image": "int64",  # index in the test set
    "label": "int64",
    "attack": "str",  # "none" for the clean image
    "objective": "str",  # "none" for the clean image
    "source": "str",  # the model attacked: "self", or the name of the one transferred from
    "norm": "str",
    "budget": "str",  # "given": one eps for all images; "threshold": each image has its own
    "eps_pixels": "float64",
    "member": "str",  # the member of an ensemble that the image fell to; "none" if to none
    "prediction": "int64",  # -1 is null
    "outcome": "str",  # correct, null or fooled
    "confidence": "float64",  # probability of the prediction
    "loss": "float64",  # cross-entropy to the true label
    "null_loss": "float64",  # cross-entropy to null; NaN without a null class
    "real_prediction": "int64",  # the best real class
    "null_score": "float64",  # larger is more null (nullclass.rejection.threshold)
}
"""Columns of ``rows.csv.gz`` and their types."""

COST_COLUMNS = {
    "attack": "str",
    "objective": "str",
    "source": "str",
    "norm": "str",
    "eps_pixels": "float64",  # NaN where each image had a budget of its own
    "access": "str",  # what it takes from the model: white-box, scores, labels, none; or unknown
    "is_iterative": "bool",  # False for a fixed recipe, such as one step
    "status": "str",  # ran, or why it was skipped: unsupported-norm, no-gradient
    "member": "str",  # of an ensemble, in its order; else the attack itself
    "num_images": "int64",  # images it was given: those that stood
    "num_successes": "int64",  # on the model attacked
    "num_forward": "int64",  # images through the model attacked, forwards
    "num_backward": "int64",  # and backwards
    "seconds": "float64",
}
"""Columns of ``costs.csv`` and their types."""

COST_COUNTS = ["num_images", "num_successes", "num_forward", "num_backward", "seconds"]
"""The columns that add up over images."""

OOD_COLUMNS = {
    "source": "str",  # name in nullclass.scoring.ood.OOD
    "image": "int64",
    "prediction": "int64",  # -1 is null
    "real_prediction": "int64",
    "confidence": "float64",
    "null_score": "float64",
}
"""Columns of ``ood.csv.gz`` and their types."""

RADIUS_COLUMNS = {
    "radius": "float64",  # within which an answer must be proved, in pixel units
    "image": "int64",  # index in the test set
    "prediction": "int64",  # for the clean image; -1 is null
    "outcome": "str",  # correct, null or fooled
    "margin": "float64",  # largest proved margin of a class: positive is an answer
}
"""Columns and types of what a provable null answers with other radii."""

CERTIFIED_COLUMNS = {
    "image": "int64",  # index in the test set
    "label": "int64",
    "norm": "str",
    "eps_pixels": "float64",
    "verifier": "str",  # name in nullclass.certify.verifiers.VERIFIERS
    "prediction": "int64",  # for the clean image; -1 is null
    "margin": "float64",  # lower bound that decides is_never_fooled: positive is proved
    "is_correct_proved": "bool",  # every image within eps is answered with the true label
    "is_rar_proved": "bool",  # right when clean, and none within eps is fooled
    "is_never_fooled": "bool",  # none within eps is fooled
    "status": "str",  # correct, not-fooled or undecided
}
"""Columns of ``certified.csv.gz`` and their types."""

SIZE_COLUMNS = {
    "perturbation": "str",  # name in nullclass.nulls.perturb.PERTURBATIONS
    "norm": "str",  # linf, l2, l1 or l0
    "size": "float64",  # asked for, in units of the norm
    "image": "int64",  # index in the test set
    "reached": "float64",  # size that came out: the box may have made it smaller
    "label": "int64",
    "prediction": "int64",  # -1 is null
    "outcome": "str",  # correct, null or fooled
    "p_label": "float64",  # probability of the true label
    "p_null": "float64",  # probability of null; 0 without a null class
}
"""Columns of ``sizes.csv.gz`` and their types. The probabilities are the network's own: a threshold
changes the answer, not them."""

SUMMARY_COLUMNS = [
    "study",
    "model",
    "seed",
    "selection",
    "attack",
    "objective",
    "source",
    "norm",
    "eps_pixels",
    "metric",
    "value",
    "published",
    "low",
    "high",
    "num_images",
]
"""Columns of ``summary.csv``: ``selection`` says which of a training's weights (``last`` or
what the epoch was selected on); ``eps_pixels`` is empty where each image had its own threshold as
its budget; rates are shares in [0,1]; ``low`` and ``high`` are the ends of the
95 % Wilson interval over images of a rate, empty for a loss; ``published`` is empty where the
source gives no figure."""
LAST = "last"
"""The weights after the last epoch, kept by a training that selects on nothing."""


@dataclass(frozen=True)
class Examples:
    """A few clean images and what one attack made of them."""

    attack: str
    norm: str
    eps_pixels: float
    """NaN if each image had its own."""
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


@dataclass(frozen=True)
class Flag:
    """One reason for doubt."""

    name: str
    """Which check it comes from."""
    message: str
    """One sentence with the numbers."""

    @property
    def page(self) -> str:
        """Where it is explained."""
        return f"docs/red-flags.md#{self.name}"

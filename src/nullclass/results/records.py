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

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import read_json, replacing, sha256, write_json
from nullclass.nulls.null_curve import NullCurve
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.diagnostics.red_flags import Flag
from nullclass.metrics.score_summary import score_metrics
from nullclass.metrics.rates import PROOF, proved_rates, summarise

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
    "made_on": "str",  # the model attacked: "self", or the name of the one transferred from
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
    "made_on": "str",
    "norm": "str",
    "eps_pixels": "float64",  # NaN where each image had a budget of its own
    "needs": "str",  # what it takes from the model: gradients, answers, labels, nothing; or untold
    "is_search": "bool",  # False for a fixed recipe, such as one step
    "member": "str",  # of an ensemble, in its order; else the attack itself
    "num_images": "int64",  # images it was given: those that stood
    "num_fallen": "int64",  # on the model attacked
    "num_forward": "int64",  # images through the model attacked, forwards
    "num_backward": "int64",  # and backwards
    "seconds": "float64",
}
"""Columns of ``costs.csv`` and their types."""

COST_COUNTS = ["num_images", "num_fallen", "num_forward", "num_backward", "seconds"]
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
    "measure": "str",  # linf, l2 or l0
    "size": "float64",  # asked for, in units of the measure
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
    "made_on",
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
    attacked: npt.NDArray[np.float32] = field(repr=False)
    """``(N, C, H, W)`` in [0,1]."""


@dataclass(frozen=True)
class Trial:
    """One trained and evaluated model of a run. Its files are read when they are asked for."""

    folder: Path
    model: str
    seed: int
    selection: str
    """Which of the training's weights."""
    result: dict[str, Any]
    """Settings and timings, from ``result.json``."""

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One attacked image a line: :data:`ROW_COLUMNS`.

        Raises:
            UserError: If they are damaged.
        """
        rows = read_frame(self.folder / ROWS, ROW_COLUMNS)
        is_whole = len(rows) == self.result.get("num_rows", len(rows))
        if not is_whole or not rows["outcome"].isin(OUTCOME_NAMES).all():
            raise UserError(f"{self.folder / ROWS} is damaged: remove it and run the study again")
        return rows

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Rates of the rows, as :func:`nullclass.metrics.rates.summarise` gave them."""
        return read_frame(self.folder / SUMMARY)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What each attack and member did and cost: :data:`COST_COLUMNS`."""
        return self._frame(COSTS, COST_COLUMNS)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Clean held-out images: :data:`ROW_COLUMNS`; empty if there were none."""
        return self._frame(HELD_OUT, ROW_COLUMNS)

    @cached_property
    def ood(self) -> pd.DataFrame:
        """Inputs of no class: :data:`OOD_COLUMNS`; empty if there were none."""
        return self._frame(OOD, OOD_COLUMNS)

    @cached_property
    def certified(self) -> pd.DataFrame:
        """What is proved of each image: :data:`CERTIFIED_COLUMNS`; empty if it was not asked."""
        return self._frame(CERTIFIED, CERTIFIED_COLUMNS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Metrics of the null score, as :func:`nullclass.metrics.score_summary.score_metrics` gave them."""
        return self._frame(SCORES)

    @property
    def flags(self) -> list[Flag]:
        """Reasons not to believe the evaluation."""
        return [Flag(**told) for told in self.result.get("flags", [])]

    def _frame(self, name: str, dtypes: dict[str, str] | None = None) -> pd.DataFrame:
        path = self.folder / name
        return (
            read_frame(path, dtypes) if path.exists() else pd.DataFrame(columns=list(dtypes or {}))
        )

    @cached_property
    def history(self) -> pd.DataFrame:
        """One epoch a line; empty for a model that was trained elsewhere.

        Columns epoch, loss, null_loss, train_accuracy, validation_accuracy, seconds and the losses
        of the selections, such as ``test_loss``.
        """
        place = self.result.get("trained_in")
        path = self.folder.parent.parent / str(place) / HISTORY
        return read_frame(path) if place and path.exists() else pd.DataFrame()

    @cached_property
    def examples(self) -> list[Examples]:
        """Images to show."""
        return read_examples(self.folder / EXAMPLES)

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """Columns image and threshold (eps in pixel units), where this trial looked for them.

        Empty if it did not.
        """
        path = self.folder / THRESHOLDS
        empty = pd.DataFrame({"image": [], "threshold": []})
        return read_frame(path) if path.exists() else empty

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """Where probability goes with size: :data:`SIZE_COLUMNS`; empty if it was not asked."""
        return self._frame(SIZES, SIZE_COLUMNS)

    @cached_property
    def decisions(self) -> npt.NDArray[np.int8] | None:
        """Predictions on a grid over the unit cube, -1 for null; one axis a pixel."""
        path = self.folder / DECISIONS
        if not path.exists():
            return None
        try:
            return load_file(path)["predictions"]
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): run the study again") from None


@dataclass(frozen=True)
class Curve:
    """An estimated null curve of a run."""

    model: str
    """The clean model."""
    seed: int
    curve: NullCurve
    result: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Source:
    """Images attacked on one model of a run, and what became of them there."""

    model: str
    seed: int
    attack: str
    result: dict[str, Any] = field(repr=False)
    rows: pd.DataFrame = field(repr=False)
    """:data:`ROW_COLUMNS`."""


@dataclass(frozen=True)
class Run:
    """Everything a report needs."""

    folder: Path
    info: dict[str, Any]
    """``run.json``."""
    summary: pd.DataFrame = field(repr=False)
    trials: list[Trial] = field(repr=False)

    @cached_property
    def curves(self) -> list[Curve]:
        """The null curves estimated in the run.

        Raises:
            UserError: If one is damaged.
        """
        return [
            Curve(
                told["model"],
                told["seed"],
                NullCurve.from_dict(told["curve"]),
                told,
            )
            for _, told in _results(self.folder / ESTIMATES)
        ]

    @cached_property
    def sources(self) -> list[Source]:
        """The models on which images were crafted.

        Raises:
            UserError: If one is damaged.
        """
        return [
            Source(
                told["model"],
                told["seed"],
                told["attack"],
                told,
                read_frame(folder / ROWS, ROW_COLUMNS),
            )
            for folder, told in _results(self.folder / CRAFTED)
        ]

    @cached_property
    def queried(self) -> dict[tuple[str, int], pd.DataFrame]:
        """Name and seed of each substitute trained by queries, to its rounds.

        Columns num_queries, num_images, null, agreement_before, agreement_after.
        """
        return {
            (told["config"]["name"], told["config"]["seed"]): read_frame(folder / QUERIES)
            for folder, told in _results(self.folder / MODELS)
            if (folder / QUERIES).exists()
        }


def _results(parent: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders with a result, by name, and the results."""
    for path in sorted(parent.glob(f"*/{RESULT}")):
        yield path.parent, read_json(path, "result")


def trial_folder(run_folder: Path, model: str, seed: int) -> Path:
    """Where the one trial of an evaluation lives."""
    return run_folder / TRIALS / f"{model}-seed{seed}"


def write_frame(path: Path, frame: pd.DataFrame, float_format: str = "%.7g") -> None:
    """Write a table as CSV (gzipped if the name says so), whole or not at all."""
    content = frame.to_csv(index=False, float_format=float_format).encode()
    with replacing(path) as temporary:
        # The same rows give the same bytes: no time and no temporary name in the gzip header.
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_frame(path: Path, dtypes: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table written by :func:`write_frame`.

    Raises:
        UserError: If it is missing, damaged, or lacks a column.
    """
    try:
        # "none" is an attack's name here, not a missing value
        frame = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=["", "nan"])
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run the study again, it redoes what is lacking"
        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())  # pandas tells some things in several lines
        raise UserError(
            f"{path} is damaged ({reason}): remove it and run the study again"
        ) from None
    missing = [column for column in dtypes or {} if column not in frame]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}: it was written by something else")
    return frame


def write_examples(path: Path, examples: list[Examples]) -> None:
    """Write example images, their labels and predictions in one safetensors file."""
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    told = []
    for number, example in enumerate(examples):
        tensors[f"{number}.clean"] = np.ascontiguousarray(example.clean)
        tensors[f"{number}.attacked"] = np.ascontiguousarray(example.attacked)
        told.append({k: v for k, v in asdict(example).items() if k not in ("clean", "attacked")})
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"examples": json.dumps(told)})


def read_examples(path: Path) -> list[Examples]:
    """Read what :func:`write_examples` wrote; no file, no examples."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="numpy") as file:
            return [
                Examples(
                    **told,
                    clean=file.get_tensor(f"{number}.clean"),
                    attacked=file.get_tensor(f"{number}.attacked"),
                )
                for number, told in enumerate(json.loads(file.metadata()["examples"]))
            ]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run the study again") from None


@dataclass(frozen=True)
class Findings:
    """What an evaluation found, as it is kept."""

    rows: pd.DataFrame = field(repr=False)
    """One attacked image a line: :data:`ROW_COLUMNS`."""
    costs: pd.DataFrame = field(repr=False)
    """What each attack and member did and cost: :data:`COST_COLUMNS`."""
    examples: list[Examples] = field(repr=False)
    """The first few images under each attack and eps, to show."""
    held_out: pd.DataFrame = field(repr=False)
    """Clean held-out images, columns of :data:`ROW_COLUMNS`; empty without any."""
    ood: pd.DataFrame = field(repr=False)
    """Inputs of no class: :data:`OOD_COLUMNS`; empty without any."""
    threat: dict[str, Any] = field(repr=False)
    """The threat model: what the attacker wants, may do and knows (JSON values)."""
    probes: dict[str, Any] = field(repr=False)
    """What the model was asked besides (:mod:`nullclass.diagnostics.probes`); empty if it was not."""
    flags: list[Flag]
    """Reasons not to believe the evaluation (:mod:`nullclass.diagnostics.red_flags`)."""
    certified: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(CERTIFIED_COLUMNS)), repr=False
    )
    """What is proved of each image: :data:`CERTIFIED_COLUMNS`; empty if it was not asked."""

    def summary(self) -> pd.DataFrame:
        """Rates with 95 % intervals, one a line: see :func:`nullclass.metrics.rates.summarise`.

        Last, under the attack name ``proof``, those of :func:`nullclass.metrics.rates.proved_rates`.
        """
        rates = summarise(self.rows)
        if self.certified.empty:
            return rates
        place = {"attack": PROOF, "objective": "any", "made_on": "any"}
        proved = proved_rates(self.certified).drop(columns="verifier").assign(**place)
        return pd.concat([rates, proved[list(rates.columns)]], ignore_index=True)

    def scores(self) -> pd.DataFrame:
        """Metrics of the null score: see :func:`nullclass.metrics.score_summary.score_metrics`."""
        return score_metrics(self.rows, self.held_out, self.ood)


def write_trial(folder: Path, findings: Findings, result: dict[str, Any]) -> None:
    """Write a trial; ``result.json`` last, so that it vouches for the rest.

    Args:
        folder: The trial's folder, perhaps with thresholds or decisions in it already.
        findings: What was found.
        result: At least ``model`` and ``seed``; ``selection`` and ``trained_in`` (the training's
            folder, from the run folder) if there are any.
    """
    unseal(folder)
    rows = findings.rows
    write_frame(folder / ROWS, rows[list(ROW_COLUMNS)])
    write_frame(folder / COSTS, findings.costs[list(COST_COLUMNS)])
    write_frame(folder / SUMMARY, findings.summary())
    write_frame(folder / SCORES, findings.scores())
    for name, frame, columns in (
        (HELD_OUT, findings.held_out, ROW_COLUMNS),
        (OOD, findings.ood, OOD_COLUMNS),
        (CERTIFIED, findings.certified, CERTIFIED_COLUMNS),
    ):
        (folder / name).unlink(missing_ok=True)
        if len(frame):
            write_frame(folder / name, frame[list(columns)])
    write_examples(folder / EXAMPLES, findings.examples)
    told = {
        "threat": findings.threat,
        "probes": findings.probes,
        "flags": [asdict(flag) for flag in findings.flags],
        "num_rows": len(rows),
    }
    seal(folder, result | told)


def unseal(folder: Path) -> None:
    """Take away ``result.json``, before anything in the folder changes."""
    try:
        (folder / RESULT).unlink(missing_ok=True)
    except OSError as error:
        raise CannotWriteError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error


def seal(folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``: what is told, and the SHA-256 of every file in the folder."""
    write_json(folder / RESULT, {**result, "files": _digests(folder)})


def is_whole(folder: Path) -> bool:
    """Whether all that ``result.json`` vouches for is there, to the byte."""
    try:
        told = read_json(folder / RESULT, "result")["files"]
        return bool(told.items() <= _digests(folder).items())  # what others put there is theirs
    except (UserError, KeyError, OSError, AttributeError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in files
        if path.name not in (RESULT, STATE) and not path.name.startswith(".")
    }


def read_trial(folder: Path) -> Trial:
    """Read one trial.

    Raises:
        UserError: If something in it is missing or damaged.
    """
    result = read_json(folder / RESULT, "result of a trial")
    if not is_whole(folder):
        raise UserError(
            f"{folder} is damaged (a file is not the one that was written): remove it and run the "
            "study again"
        )
    try:
        return Trial(
            folder=folder,
            model=result["model"],
            seed=result["seed"],
            selection=result.get("selection", "last"),
            result=result,
        )
    except KeyError as error:
        raise UserError(f"{folder / RESULT} does not say its {error}: remove that folder") from None


def recorded_trials(run_folder: Path) -> Iterator[Path]:
    """Folders of the run's trials that have a result, by name.

    ``run.json`` names a study's trials: one that was planned otherwise before stays where it is,
    but is no longer part of the run.
    """
    told = run_folder / RUN
    planned = read_info(run_folder).get("trials") if told.exists() else None
    for result in sorted((run_folder / TRIALS).glob(f"*/{RESULT}")):
        place = result.parent.relative_to(run_folder).as_posix()
        if planned is None or place in planned.values():
            yield result.parent


def clear_leftovers(folder: Path) -> None:
    """Remove what was half-written in a folder when somebody was killed."""
    for leftover in folder.rglob(".*"):
        if leftover.is_file():
            leftover.unlink()


def write_summary(
    folder: Path,
    study: str,
    published: Callable[[str, str, float, str], float | None] = lambda *_: None,
) -> None:
    """Write ``summary.csv`` from those of the trials.

    Args:
        folder: The run folder.
        study: Name of the study, for its column.
        published: Model, attack, eps in pixel units (NaN for thresholds) and metric to the
            source's figure, if any.
    """
    tables = []
    for trial in map(read_trial, recorded_trials(folder)):
        table = trial.summary.assign(
            study=study, model=trial.model, seed=trial.seed, selection=trial.selection
        )
        told = zip(table["attack"], table["eps_pixels"], table["metric"], strict=True)
        table["published"] = [published(trial.model, *place) for place in told]
        tables.append(table)
    summary = pd.concat(tables) if tables else pd.DataFrame(columns=SUMMARY_COLUMNS)
    write_frame(folder / SUMMARY, summary[SUMMARY_COLUMNS])


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        UserError: If it is no run folder, or the file is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give the --out of a study or evaluation")
    return read_json(folder / RUN, "description of a run")


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: If it is no run folder, or something in it is missing or damaged.
    """
    info = read_info(folder)
    order = info.get("models", [])
    trials = [read_trial(path) for path in recorded_trials(folder)]
    trials.sort(key=lambda t: (order.index(t.model) if t.model in order else len(order), t.seed))
    return Run(folder=folder, info=info, summary=read_frame(folder / SUMMARY), trials=trials)

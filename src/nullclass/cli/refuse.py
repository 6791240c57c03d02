"""``nullclass refuse``: give a trained model a way to refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nullclass.cli.common import Device, HeldOut
from nullclass.cli.models import LoadedModel, Model, ModelOptions
from nullclass.cli.outputs import checkpoint_folder
from nullclass.core.checks import check_choice, check_count, check_rate, check_seed
from nullclass.core.errors import UserError
from nullclass.experiments.detector_plan import CONSISTENCY, DetectorPlan

if TYPE_CHECKING:
    from nullclass.models import Classifier
    from nullclass.rejection import ThresholdedClassifier

NULL_LOGIT = "null-logit"
PROOF = "proof"
NULL_RATE = 0.01
NUM_FITTED = 5000
CONFIDENCE = 0.99
"""Of the printed interval of the null rate."""


@dataclass(frozen=True)
class Command:
    """Give a trained model a way to refuse; write its checkpoint."""

    out: Path
    """Folder for the checkpoint of the model that refuses."""
    by: str
    """softmax, margin, energy or entropy, scores of the logits; feature-squeezing,
    magnet-reconstruction, magnet-divergence, kernel-density, mahalanobis or odds-are-odd,
    detectors; consistency or proof, within a radius; null-logit, for a model with a null class
    (docs/rejection.md)."""
    model: Model = field(default_factory=ModelOptions)
    null_rate: float | None = None
    """At most this share of clean held-out images is refused. Default: 0.01. A proof has no such
    threshold."""
    radius: float | None = None
    """For consistency and proof: L∞ in pixel units. Half of the eps to resist is best."""
    verifier: str | None = None
    """For proof: interval, crown-ibp or cascade. Default: that of the checkpoint, else interval."""
    fitted: int | None = None
    """For detectors: to how many training images, from the first, they are fitted. Default: 5000,
    or all if there are fewer."""
    held_out: HeldOut = None
    seed: int = 0
    """Seed of what is drawn while fitting."""
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        check_seed(self.seed)
        if self.null_rate is not None:
            check_rate("--null-rate", self.null_rate)
        if self.fitted is not None:
            check_count("--fitted", self.fitted)
        from nullclass.core.devices import find_device
        from nullclass.rejection import DETECTORS, SCORES, ThresholdedClassifier, with_proof
        from nullclass.training.card import Origin, origin_of
        from nullclass.training.checkpoint import save_checkpoint

        check_choice("--by", self.by, (*DETECTORS, CONSISTENCY, PROOF, NULL_LOGIT))
        if self.by in (CONSISTENCY, PROOF) and self.radius is None:
            raise UserError(f"--by {self.by} needs --radius")
        without_effect = {
            "radius": self.by not in (CONSISTENCY, PROOF),
            "verifier": self.by != PROOF,
            "null_rate": self.by == PROOF,
            "held_out": self.by == PROOF,
            "fitted": self.by in (*SCORES, CONSISTENCY, PROOF),
        }
        for name, has_none in without_effect.items():
            if has_none and getattr(self, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} has no effect with --by {self.by}")
        device = find_device(self.device)
        with checkpoint_folder(self.out):
            loaded = self.model.load(device, held_out=self.held_out)
            refusing: Classifier
            if self.radius is not None and self.by == PROOF:
                refusing = with_proof(loaded.model, self.radius, self.verifier)
            else:
                refusing = self._at_rate(loaded)
            card = loaded.card
            save_checkpoint(
                refusing,
                self.out,
                metadata={} if card is None else card.metadata,
                origin=Origin() if card is None else origin_of(card),
            )
        if isinstance(refusing, ThresholdedClassifier):
            threshold = refusing.threshold
            low, high = threshold.band(CONFIDENCE)
            print(
                f"{self.by} refuses {100 * (threshold.held_out_null_rate or 0):.2f} % of "
                f"{threshold.num_images:,} held-out images, and {100 * low:.2f} to "
                f"{100 * high:.2f} % of all images like them (confidence {CONFIDENCE:g})"
            )
        print(f"checkpoint: {self.out}")

    def _at_rate(self, loaded: LoadedModel) -> ThresholdedClassifier:
        """Return the model with its detector, at a threshold."""
        from nullclass.evaluation.record import NOTHING_HELD_OUT, refuse_at_rate
        from nullclass.experiments.context import with_detector
        from nullclass.rejection import ProvableNull, overlap

        model = loaded.model
        if isinstance(model, ProvableNull):
            raise UserError(f"{loaded.name} answers what it proves: it takes --by proof only")
        if loaded.dataset.validation is None:  # found out before a detector is fitted
            raise UserError(NOTHING_HELD_OUT.format("a threshold needs them"))
        if self.by != NULL_LOGIT:
            settings = {} if self.radius is None else {"radius": self.radius}
            plan = DetectorPlan(self.by, self.fitted or NUM_FITTED, settings)
            model = with_detector(model, plan, loaded.dataset, self.seed)
        elif not model.has_null:
            raise UserError("--by null-logit needs a model with a null class: choose another --by")
        refusing = refuse_at_rate(model, loaded.dataset, self.null_rate or NULL_RATE)
        if num := overlap(refusing.threshold, loaded.dataset.test):
            raise UserError(
                f"{num} held-out images are test images too, so no evaluation on these could be "
                "believed: give others by --held-out"
            )
        return refusing

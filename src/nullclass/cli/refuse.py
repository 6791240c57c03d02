"""``nullclass refuse``: give a trained model a way to refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nullclass.cli.common import Data, Device, HeldOut, Resize
from nullclass.cli.models import LoadedModel, Model, ModelOptions
from nullclass.cli.outputs import checkpoint_folder
from nullclass.core.checks import check_choice, check_count, check_rate, check_seed
from nullclass.core.errors import UserError
from nullclass.experiments.detector_plan import CONSISTENCY, DetectorPlan

if TYPE_CHECKING:
    from nullclass.models import Classifier

NULL_LOGIT = "null-logit"
PROOF = "proof"


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
    null_rate: float = 0.01
    """Share of clean held-out images that are refused; a proof has no such threshold."""
    radius: float | None = None
    """Of consistency and proof: L∞ in pixel units; best half of the eps to resist."""
    verifier: str = "interval"
    """Of proof: interval, crown-ibp or cascade."""
    fitted: int = 5000
    """Number of training images, from the first, to which a detector is fitted."""
    data: Data = None
    held_out: HeldOut = None
    resize: Resize = None
    seed: int = 0
    """Of what is drawn while fitting."""
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        check_seed(self.seed)
        check_rate("--null-rate", self.null_rate)
        check_count("--fitted", self.fitted)
        from nullclass.core.devices import find_device
        from nullclass.rejection import DETECTORS, ProvableNull, ThresholdedClassifier
        from nullclass.training.checkpoint import save_checkpoint

        check_choice("--by", self.by, (*DETECTORS, CONSISTENCY, PROOF, NULL_LOGIT))
        if (self.by in (CONSISTENCY, PROOF)) != (self.radius is not None):
            raise UserError("--by consistency and --by proof need --radius, the others have none")
        if self.by != PROOF and self.verifier != "interval":
            raise UserError("--verifier is for --by proof")
        device = find_device(self.device)
        with checkpoint_folder(self.out):
            loaded = self.model.load(self.data, device, resize=self.resize, held_out=self.held_out)
            refusing: Classifier
            if self.radius is not None and self.by == PROOF:
                refusing = ProvableNull(loaded.model, self.radius, verifier=self.verifier)
            else:
                refusing = self._at_rate(loaded)
            metadata = {} if loaded.card is None else loaded.card.metadata
            save_checkpoint(refusing, self.out, metadata=metadata, origin=loaded.origin())
        if isinstance(refusing, ThresholdedClassifier):
            threshold = refusing.threshold
            low, high = threshold.band()
            print(
                f"{self.by} refuses {100 * (threshold.held_out_null_rate or 0):.2f} % of "
                f"{threshold.num_images:,} held-out images, and {100 * low:.2f} to "
                f"{100 * high:.2f} % of all images like them (confidence 0.99)"
            )
        print(f"checkpoint: {self.out}")

    def _at_rate(self, loaded: LoadedModel) -> Classifier:
        """Return the model with its detector, at a threshold."""
        from nullclass.evaluation.record import NOTHING_HELD_OUT, refuse_at_rate
        from nullclass.experiments.context import with_detector

        model = loaded.model
        if loaded.dataset.validation is None:  # found out before a detector is fitted
            raise UserError(NOTHING_HELD_OUT.format("a threshold needs them"))
        if self.by != NULL_LOGIT:
            settings = {} if self.radius is None else {"radius": self.radius}
            plan = DetectorPlan(self.by, self.fitted, settings)
            model = with_detector(model, plan, loaded.dataset, self.seed)
        elif not model.has_null:
            raise UserError("--by null-logit needs a model with a null class: choose another --by")
        return refuse_at_rate(model, loaded.dataset, self.null_rate)

"""``nullclass evaluate``: attack a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nullclass.cli.common import (
    AttackNorm,
    AttackSeed,
    Checks,
    Device,
    Eps,
    HeldOut,
    NullRate,
    print_flags,
    print_report,
)
from nullclass.cli.models import Model, ModelOptions
from nullclass.cli.outputs import check_output
from nullclass.core.checks import check_choice, check_count, check_seed
from nullclass.core.errors import UserError

NUM_IMAGES = 1000
"""Test images attacked by default."""

NUM_SMALLEST = 50
"""Images of the search for the smallest eps by default."""


@dataclass(frozen=True)
class Command:
    """Attack a model; write a run folder with rows, rates, red flags and a report."""

    model: Model = field(default_factory=ModelOptions)
    attack: tuple[str, ...] | None = None
    """Names of attacks, such as worst-case, apgd, square, autoattack (all: docs/attacks.md).
    Default: fgsm, worst-case and, for a model that can answer null, worst-case-force-null."""
    eps: Eps = (0.05, 0.1, 0.2, 0.3)
    norm: AttackNorm = "linf"
    images: int | None = None
    """Number of attacked test images, from the first. Default: 1000, or all if there are fewer."""
    null_rate: NullRate = None
    proofs: str | None = None
    """Also prove what no attack can do, with this verifier: interval, crown-ibp or cascade. The
    worst case leaves out proved images, except a few. Default: none; with a radius, that of its
    answers."""
    radius: float | None = None
    """For a model without null class: answer only what is proved within this radius (L∞, pixel
    units), else null. Default: the radius of the checkpoint."""
    verifier: str | None = None
    """With a radius, what proves its answers: interval, crown-ibp or cascade. Default: that of the
    checkpoint, else interval."""
    ood: tuple[str, ...] = ("noise", "blank", "tiles")
    """Inputs of no class: noise, blank, tiles, fashion-mnist; or none."""
    smallest: int | None = None
    """For how many images to search the smallest eps that fools. Default: 50, or with
    --distribution all attacked images."""
    distribution: bool = False
    """Also search the largest eps proved of these images, for the robustness distribution."""
    checks: Checks = True
    strict: bool = False
    """Exit with status 1 if there is a red flag."""
    held_out: HeldOut = None
    out: Path | None = None
    """Run folder. Default: runs/evaluate/NAME-HASH, with a hash of the weights."""
    seed: AttackSeed = 0
    device: Device = "auto"

    def run(self) -> int:
        """Run the command and return the exit status."""
        check_seed(self.seed)
        if self.smallest is not None:
            check_count("--smallest", self.smallest, 0)
            if self.distribution and not self.smallest:
                raise UserError("--distribution needs images: give --smallest, how many")
        if self.strict and not self.checks:
            raise UserError("--strict needs red flags: leave out --no-checks")
        from nullclass.core.devices import find_device
        from nullclass.evaluation.record import record_evaluation
        from nullclass.scoring.ood import OOD

        ood = () if self.ood == ("none",) else self.ood
        for source in ood:
            check_choice("ood", source, OOD)
        device = find_device(self.device)
        if self.out is not None:
            _check(self.out)
        loaded = self.model.load(device, held_out=self.held_out)
        folder = self.out or Path("runs") / "evaluate" / f"{loaded.name}-{loaded.digest}"
        _check(folder)
        num_images = self.images
        if num_images is None:
            num_images = min(NUM_IMAGES, len(loaded.dataset.test))
        smallest = num_images if self.distribution else NUM_SMALLEST
        evaluation = record_evaluation(
            loaded.model,
            loaded.card,
            loaded.dataset,
            folder,
            name=loaded.name,
            attacks=self.attack,
            eps=self.eps,
            norm=self.norm,
            num_images=num_images,
            clean_null_rate=self.null_rate,
            proofs=self.proofs,
            radius=self.radius,
            verifier=self.verifier,
            ood=ood,
            num_smallest=smallest if self.smallest is None else self.smallest,
            distribution=self.distribution,
            checks=self.checks,
            seed=self.seed,
        )
        print_report(folder)
        if self.checks:
            print_flags(evaluation.flags)
        else:
            print("no checks were run")
        return int(self.strict and bool(evaluation.flags))


def _check(folder: Path) -> None:
    """Check, before the work, that the rows and the report can be written."""
    from nullclass.results.schema import EVALUATION
    from nullclass.studies.reports import check_drawable

    check_output(folder)
    check_drawable(folder, EVALUATION)

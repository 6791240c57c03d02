"""``nullclass curve``: estimate a null curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nullclass.cli.common import Device, HeldOut
from nullclass.cli.models import Model, ModelOptions
from nullclass.cli.outputs import output_file
from nullclass.core.checks import check_count, check_seed
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Command:
    """Estimate a null curve: the share of images fooled by perturbations of each size."""

    out: Path
    """CSV file for the curve: size, probability of null, share fooled."""
    model: Model = field(default_factory=ModelOptions)
    norm: Literal["linf", "l2", "l0"] = "linf"
    """Norm of the sizes: linf and l2 in pixel units, l0 as a share of the pixels."""
    perturbation: Literal["fgsm", "pgd", "sparse", "noise"] = "fgsm"
    """What perturbs the images."""
    steps: int | None = None
    """Gradient steps of pgd or sparse."""
    always: float = 0.99
    """Share of fooled images that counts as always fooled; one step of FGSM reaches at most the
    error of guessing."""
    largest: float | None = None
    """Largest size. Default: the largest possible."""
    images: int = 1000
    """Number of held-out images, from the first."""
    sizes: int = 32
    """Points of the curve."""
    held_out: HeldOut = None
    seed: int = 0
    """Seed of the perturbation."""
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        check_seed(self.seed)
        check_count("--images", self.images)
        from nullclass.core.devices import find_device
        from nullclass.evaluation.record import NOTHING_HELD_OUT
        from nullclass.nulls.estimate_curve import estimate_curve
        from nullclass.nulls.perturb import check_norm, make_perturbation
        from nullclass.results.null_curve import write_curve

        check_norm(self.perturbation, self.norm)
        if self.steps is not None and self.perturbation not in ("pgd", "sparse"):
            raise UserError(f"--steps is for pgd and sparse: {self.perturbation} takes no steps")
        settings = {} if self.steps is None else {"num_steps": self.steps}
        perturbation = make_perturbation(self.perturbation, settings)
        device = find_device(self.device)
        with output_file(self.out):
            loaded = self.model.load(device, held_out=self.held_out)
            held_out = loaded.dataset.validation
            if held_out is None:
                raise UserError(NOTHING_HELD_OUT.format("a null curve needs them"))
            curve = estimate_curve(
                loaded.model,
                held_out.up_to(self.images),
                perturbation,
                self.norm,
                num_sizes=self.sizes,
                always=self.always,
                largest=self.largest,
                seed=self.seed,
            )
            write_curve(self.out, curve)
        print(
            f"{curve.num_images} held-out images, {self.perturbation}: always fooled from "
            f"{curve.largest:.4g} ({self.norm})"
        )
        print(f"curve: {self.out}")

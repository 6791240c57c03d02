"""Estimate a null curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Curve:
    """Estimate f, how often perturbations of each size fool a clean model, from held-out images."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder with model.safetensors and card.json."""
    out: Path
    """CSV file for the curve: size, probability of null, share fooled."""
    norm: Literal["linf", "l2", "l0"] = "linf"
    """How sizes are told: linf and l2 in pixel units, l0 as a share of the pixels."""
    perturbation: Literal["fgsm", "pgd", "sparse", "noise"] = "fgsm"
    """What perturbs the images."""
    steps: int | None = None
    """Its gradient steps, if it takes several; its own number unless given."""
    always: float = 0.99
    """The share fooled that counts as always: one step of FGSM never reaches more than that of
    guessing."""
    largest: float | None = None
    """The largest size looked at; all that make sense unless given."""
    images: int = 1000
    """How many held-out images are perturbed, from the first."""
    sizes: int = 32
    """Points of the curve."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    seed: int = 0
    """Seed of what the perturbation draws."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.core.devices import find_device
        from nullclass.evaluation.record import NOTHING_HELD_OUT, load_with_data
        from nullclass.nulls.estimate_curve import estimate_curve
        from nullclass.nulls.perturb import check_norm, make_perturbation
        from nullclass.results.null_curve import write_curve

        check_norm(self.perturbation, self.norm)
        if self.steps is not None and self.perturbation not in ("pgd", "sparse"):
            raise UserError(
                f"--steps is for pgd and sparse: {self.perturbation} takes no number of steps"
            )
        settings = {} if self.steps is None else {"num_steps": self.steps}
        maker = make_perturbation(self.perturbation, settings)
        device = find_device(self.device)
        model, _, dataset = load_with_data(self.checkpoint, None, self.data_dir, device)
        if dataset.validation is None:
            raise UserError(NOTHING_HELD_OUT.format("a null curve needs them"))
        curve = estimate_curve(
            model,
            dataset.validation.first(min(self.images, len(dataset.validation))),
            maker,
            self.norm,
            num_sizes=self.sizes,
            always=self.always,
            largest=self.largest,
            seed=self.seed,
        )
        write_curve(self.out, curve)
        print(
            f"{curve.num_images} held-out images, {self.perturbation}: always fooled from "
            f"{curve.largest:.4g} on ({self.norm})"
        )
        print(f"curve: {self.out}")

"""Prove what no attack can do to a checkpoint."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from nullclass.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Certify:
    """Prove, image by image, what no attack within eps can do; save certificates, or check them."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder with model.safetensors and card.json."""
    eps: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    """Budgets in pixel units, pixels in [0,1]."""
    radius: float | None = None
    """Of a model without null: answer only what is proved within this radius, else null; eps / 2 is
    best for an eps. Unless given, such a model's certified accuracy is told."""
    verifier: str = "interval"
    """Who proves: interval, or the slower and tighter crown-ibp."""
    norm: Literal["linf", "l2"] = "linf"
    """linf or l2."""
    images: int | None = None
    """How many of the first test images; all unless given."""
    out: Path | None = None
    """JSON file for the certificates of a model with --radius, one an image."""
    check: Path | None = None
    """Such a file: prove its certificates anew, from the weights alone, in float64; nothing else
    is done."""
    dataset: str | None = None
    """Another dataset than the card names."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> None:
        """Run the command."""
        import torch

        from nullclass.core.devices import find_device
        from nullclass.evaluation.record import load_with_data
        from nullclass.metrics.rates import proved_rates
        from nullclass.rejection import Certificates, ProvableNull, check_certificates
        from nullclass.scoring.proofs import prove

        if self.out is not None and self.radius is None:
            raise UserError("certificates are of answers within a radius: give --radius with --out")
        device = torch.device("cpu") if self.check is not None else find_device(self.device)
        model, _, dataset = load_with_data(self.checkpoint, self.dataset, self.data_dir, device)
        if self.check is not None:
            told = Certificates.load(self.check)
            images, _ = dataset.test.first(len(told)).as_float().batch(slice(None))
            check_certificates(told, model, images)
            kind = "proved anew" if told.confidence == 1 else "not contradicted by fresh noise"
            print(
                f"{told.num_proved} answers within {told.norm} {told.radius:g}: {kind}; "
                f"{len(told) - told.num_proved} images without an answer"
            )
            return
        test = dataset.test if self.images is None else dataset.test.first(self.images)
        if self.radius is not None:
            model = ProvableNull(model, self.radius, norm=self.norm, verifier=self.verifier)
        started = time.perf_counter()
        rows = prove(model, test, self.eps, norm=self.norm, verifier=self.verifier)
        seconds = time.perf_counter() - started
        _tell(rows, proved_rates(rows), has_null=model.has_null)
        print(f"{len(test)} images, {len(set(self.eps))} eps, in {seconds:.1f} s")
        if self.out is not None and isinstance(model, ProvableNull):
            model.certificates(test.as_float().images).save(self.out)
            print(f"certificates: {self.out}")


def _tell(rows: pd.DataFrame, rates: pd.DataFrame, *, has_null: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    clean = rows[rows["eps_pixels"] == rows["eps_pixels"].min()]
    is_null, is_right = clean["prediction"] == -1, clean["prediction"] == clean["label"]
    triple = (is_right, is_null, ~is_right & ~is_null)
    told = ", ".join(
        f"{100 * part.mean():.2f} % {name}"
        for name, part in zip(("correct", "null", "fooled"), triple, strict=True)
    )
    print(f"clean: {told}")
    titles = {"rar_proved": "RAR ≥", "strict_proved": "strict ≥", "aer_bound": "AER ≤"}
    if not has_null:
        titles = {"rar_proved": "certified accuracy"}
    how = f"{rows['norm'].iloc[0]}, {rows['verifier'].iloc[0]}"
    print(f"proved against every attack ({how}), in %, ε in pixel units:")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("ε", justify="right")
    for title in titles.values():
        table.add_column(title, justify="right")
    for eps, of in rates.groupby("eps_pixels"):
        values = of.set_index("metric")["value"]
        table.add_row(f"{eps:g}", *(f"{100 * values[metric]:.2f}" for metric in titles))
    # A pipe has no width: wide enough that no column is cut.
    (Console() if sys.stdout.isatty() else Console(width=100)).print(table)
    if has_null:
        print("Nothing is proved of null-DoS: any image may be made null.")

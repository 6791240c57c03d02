"""``nullclass certify``: prove what no attack can do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nullclass.cli.common import Device, Eps, print_table, progress
from nullclass.cli.models import LoadedModel, Model, ModelOptions
from nullclass.cli.outputs import kept_parts, output_file
from nullclass.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from nullclass.certify import Settled
    from nullclass.data import LabelledImages
    from nullclass.models import Classifier


@dataclass(frozen=True)
class Command:
    """Prove per image what no attack within eps can do; save or check certificates."""

    model: Model = field(default_factory=ModelOptions)
    eps: Eps = (0.1, 0.2, 0.3, 0.4)
    radius: float | None = None
    """For a model without null class: answer only what is proved within this radius, else null.
    eps / 2 is best for an eps. Default: the radius of the checkpoint, or none (certified
    accuracy)."""
    verifier: str | None = None
    """interval, the slower and tighter crown-ibp, or cascade: both, then branch and bound. Default:
    that of the checkpoint, else interval."""
    norm: Literal["linf", "l2"] = "linf"
    """linf or l2."""
    images: int | None = None
    """Number of test images, from the first. Default: all."""
    out: Path | None = None
    """JSON file for the certificates of a model with a radius."""
    rows: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """CSV file with the stage of the cascade that settled each image, one row per image and table
    of stages. What is finished is kept beside the file, so that the same command resumes."""
    check: Path | None = None
    """Only check the certificates in this file: prove them again from the weights, in float64."""
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        import pandas as pd
        import torch

        from nullclass.certify import CASCADE, record_stages
        from nullclass.core.devices import find_device
        from nullclass.metrics.rates import proved_rates
        from nullclass.rejection import ProvableNull
        from nullclass.results.frames import write_frame
        from nullclass.scoring.prediction_cost import settled_rows
        from nullclass.scoring.proofs import proof_radius, prove

        if self.check is not None:
            self._refuse_other_options()
            loaded = self.model.load(torch.device("cpu"))
            _check(self.check, loaded)
            return
        device = find_device(self.device)
        output = self.rows or self.out
        with output_file(self.out), output_file(self.rows), kept_parts(output) as parts:
            loaded = self.model.load(device)
            test = loaded.dataset.test
            test = test if self.images is None else test.first(self.images)
            model = self._with_radius(loaded)
            if self.out is not None and not isinstance(model, ProvableNull):
                raise UserError("certificates hold within a radius: give --radius with --out")
            own = model.verifier if isinstance(model, ProvableNull) else "interval"
            verifier = own if self.verifier is None else self.verifier
            if self.rows is not None and verifier != CASCADE:
                raise UserError("only the cascade has stages: give --verifier cascade with --rows")
            started = time.perf_counter()
            with progress("proofs", len(test)) as advance, record_stages() as settled:
                rows = prove(
                    model,
                    test,
                    self.eps,
                    norm=self.norm,
                    verifier=verifier,
                    on_images=advance,
                    parts=parts,
                )
            seconds = time.perf_counter() - started
            if self.out is not None and isinstance(model, ProvableNull):
                model.certificates(test.batch(slice(None))[0]).save(self.out)
            radii = {eps: proof_radius(eps, self.norm) for eps in sorted(set(self.eps))}
            if isinstance(model, ProvableNull):
                radii = {model.radius: model.radius}
            by_radius = {
                shown: [each for each in settled if each.radius == radius]
                for shown, radius in radii.items()
            }
            if self.rows is not None:
                tables = (settled_rows(rows, here, shown) for shown, here in by_radius.items())
                write_frame(self.rows, pd.concat(tables, ignore_index=True))
        _print_rates(rows, proved_rates(rows), has_null=model.has_null)
        if verifier == CASCADE:
            _print_stages(by_radius, model, test, self.norm)
        print(f"{len(test)} images, {len(set(self.eps))} eps, in {seconds:.1f} s")
        if self.out is not None:
            print(f"certificates: {self.out}")
        if self.rows is not None:
            print(f"stages per image: {self.rows}")

    def _refuse_other_options(self) -> None:
        """Refuse options that a check of certificates does not have."""
        for name in ("eps", "radius", "verifier", "norm", "images", "out", "rows"):
            if getattr(self, name) != getattr(type(self), name):
                raise UserError(f"--{name} has no effect with --check, which reads only its file")

    def _with_radius(self, loaded: LoadedModel) -> Classifier:
        """Return the model, which answers what it proves within a radius if it has one."""
        from nullclass.rejection import ProvableNull, with_proof

        model = loaded.model
        if self.radius is None and not isinstance(model, ProvableNull):
            return model
        return with_proof(model, self.radius, self.verifier, self.norm)


def _check(path: Path, loaded: LoadedModel) -> None:
    from nullclass.rejection import Certificates, ProvableNull, check_certificates

    certificates, model = Certificates.load(path), loaded.model
    num = len(certificates)
    images, _ = loaded.dataset.test.first(num).batch(slice(None))
    if isinstance(model, ProvableNull):
        model = model.model
    check_certificates(certificates, model, images)
    how = "proved again" if certificates.confidence == 1 else "not contradicted by fresh noise"
    print(
        f"{certificates.num_proved} answers within {certificates.norm} {certificates.radius:g}: "
        f"{how}; {num - certificates.num_proved} images are null, as nothing is proved"
    )


def _print_rates(rows: pd.DataFrame, rates: pd.DataFrame, *, has_null: bool) -> None:
    from nullclass.core.outcomes import OUTCOME_NAMES, outcome_name

    clean = rows[rows["eps_pixels"] == rows["eps_pixels"].min()]
    found = list(map(outcome_name, clean["prediction"], clean["label"]))
    shares = (f"{100 * found.count(name) / len(found):.2f} % {name}" for name in OUTCOME_NAMES)
    print(f"clean: {', '.join(shares)}")
    metrics = {"rar_proved": "RAR ≥", "strict_proved": "strict ≥", "aer_bound": "AER ≤"}
    if not has_null:
        metrics = {"rar_proved": "certified accuracy"}
    how = f"{rows['norm'].iloc[0]}, {rows['verifier'].iloc[0]}"
    print(f"proved against every attack ({how}), in %, ε in pixel units:")
    values = rates.pivot(index="eps_pixels", columns="metric", values="value")[list(metrics)]
    lines = ([f"{eps:g}", *(f"{100 * v:.2f}" for v in row)] for eps, row in values.iterrows())
    print_table(("ε", *metrics.values()), lines, width=100)
    if has_null:
        print("Nothing is proved about null-DoS: an attack may turn any image into null.")


def _print_stages(
    by_radius: dict[float, list[Settled]],
    model: Classifier,
    test: LabelledImages,
    norm: str,
) -> None:
    """Print what each stage of the cascade settled: of the answers, or else of the proofs."""
    import numpy as np

    from nullclass.rejection import ProvableNull
    from nullclass.scoring.prediction_cost import (
        NUM_IMAGES,
        prediction_cost,
        seconds_per_image,
        stage_table,
    )

    if isinstance(model, ProvableNull):
        model = model.model
    few = test.batch(slice(0, NUM_IMAGES))[0]
    plain = prediction_cost(model, few).cpu_ms
    for within, here in by_radius.items():
        first = prediction_cost(ProvableNull(model, within, norm=norm), few).cpu_ms / 1000
        lines = []
        for row in stage_table(here, len(test), first).to_dict("records"):
            counts = (f"{row[name]:,}" for name in ("images", "proved", "refuted", "left"))
            each = 1000 * row["seconds"] / max(row["images"], 1)
            spent = (f"{row[name]:,.3g}" for name in ("median", "percentile_99"))
            shown = f"{row['seconds']:,.1f}", *spent, f"{each / plain:,.1f}"
            lines.append((row["stage"], *counts, *shown))
        print(f"stages of the cascade within {within:g}; CPU s: of all images that get there, then")
        print(
            "median and 99th percentile per image, and the mean in plain forward passes of "
            f"{plain:.3g} ms:"
        )
        counted = ("images", "proved", "refuted", "left")
        headings = ("stage", *counted, "CPU s", "median", "99 %", "passes")
        print_table(headings, lines, num_left=1, width=100)
        costs = 1000 * np.percentile(seconds_per_image(here, len(test), first), [50, 99])
        median, most = (f"{cost:.3g} ms ({cost / plain:,.1f} passes)" for cost in costs)
        print(f"all stages, per image: median {median}, 99th percentile {most}")

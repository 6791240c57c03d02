"""``nullclass export``: a model in one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nullclass.cli.common import NullRate
from nullclass.cli.models import Model, ModelOptions
from nullclass.cli.outputs import output_file
from nullclass.core.checks import check_count

NUM_IMAGES = 10_000
"""Test images on which model and file are compared by default."""


@dataclass(frozen=True)
class Command:
    """Write a model with its rule for null into one file: ONNX or torch.export."""

    model: Model = field(default_factory=ModelOptions)
    format: Literal["onnx", "torch-export"] = "onnx"
    """onnx, for ONNX Runtime, or torch-export, for torch.export.load."""
    out: Path | None = None
    """The file. Default: NAME.onnx or NAME.pt2 in the working folder."""
    null_rate: NullRate = None
    images: int | None = None
    """Number of test images, from the first, on which model and file are compared. Default:
    10,000, or all if there are fewer."""

    def run(self) -> None:
        """Run the command."""
        import torch

        from nullclass.serving.export import FORMATS, export_model

        if self.images is not None:
            check_count("--images", self.images)
        with output_file(self.out):
            loaded = self.model.load(torch.device("cpu"))
        out = self.out or Path(f"{loaded.name}{FORMATS[self.format]}")
        with output_file(out):
            dataset = loaded.dataset
            num_images = min(NUM_IMAGES, len(dataset.test)) if self.images is None else self.images
            equality = export_model(
                loaded.rejecting(self.null_rate),
                out,
                dataset.test.first(num_images),
                format=self.format,
                class_names=loaded.class_names,
                card=loaded.card,
            )
        by = "ONNX Runtime" if self.format == "onnx" else "the graph of torch.export"
        print(
            f"{equality.num_equal_labels:,} of {equality.num_images:,} labels by {by} are those of "
            f"the model; logits of up to {equality.scale:.3g} differ by at most "
            f"{equality.difference:.2g} ({equality.difference / equality.scale:.1g} of the largest)"
        )
        print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")

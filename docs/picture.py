"""Draw docs/fgsm-null.png from the rows of a run: python docs/picture.py runs/fgsm-null-full."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from nullclass.studies.reports import read_run

MODEL = "null-0.5-wd"
DETECTED, FOOLED = "#0072B2", "#D55E00"  # Okabe and Ito (2008)


def main(folder: Path) -> None:
    """Draw null rate under FGSM and AER of the notebook's null model."""
    summary = read_run(folder).summary.query("model == @MODEL")
    fgsm = summary.query("attack == 'fgsm' and metric == 'null_rate' and eps_pixels < 0.35")
    fooled = summary.query("attack == 'union' and metric == 'aer'")
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    curves = (
        (fgsm, "s:", DETECTED, "FGSM images answered null: “detection”"),
        (fooled, "o-", FOOLED, "images fooled by a null-aware attack"),
    )
    for lines, style, colour, label in curves:
        mean = lines.groupby("eps_pixels")["value"].mean() * 100
        axes.plot(mean.index, mean, style, color=colour, label=label, lw=2)
    seeds = sorted(set(summary["seed"]))
    counts = fgsm["num_images"].max(), fooled["num_images"].max()
    axes.set(
        xlabel="ε in pixel units, L∞",
        ylabel="% of images",
        ylim=(-3, 103),
        title=f"The notebook's null model {MODEL} (trained at ε 0.154), MNIST: {len(seeds)} seed"
        f"{'s' * (len(seeds) > 1)},\n{counts[0]:,} and {counts[1]:,} test images",
    )
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.42))
    figure.savefig(Path(__file__).with_name("fgsm-null.png"), dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

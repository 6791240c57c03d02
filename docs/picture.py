"""Draw docs/fgsm-null.png: python docs/picture.py (some 15 CPU minutes)."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

import nullclass
from nullclass.attacks import FGSM
from nullclass.core.process import tune_process
from nullclass.results.schema import UNION
from nullclass.zoo import load_zoo

MODEL = "notebook-null"
NUM_IMAGES = 1_000
FGSM_EPS = (0.003, 0.03, 0.06, 0.08, 0.1, 0.12, 0.154, 0.2, 0.25, 0.3)
AWARE_EPS = (0.05, 0.1, 0.154, 0.3)
DETECTED, FOOLED = "#0072B2", "#D55E00"  # Okabe and Ito (2008)


def main() -> None:
    """Draw null rate under FGSM and AER of the notebook's null model."""
    tune_process()
    model, images = load_zoo(MODEL), nullclass.load_dataset("mnist").test.first(NUM_IMAGES)
    fgsm = nullclass.evaluate(
        model, images, attacks={"fgsm": FGSM("untargeted")}, eps=FGSM_EPS, checks=False
    )
    aware = nullclass.evaluate(model, images, attacks=["worst-case"], eps=AWARE_EPS, checks=False)
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    curves = (
        (fgsm, "fgsm", "null_rate", "s:", DETECTED, "FGSM images answered null: “detection”"),
        (aware, UNION, "aer", "o-", FOOLED, "images fooled by an attack that knows about null"),
    )
    for result, attack, metric, style, colour, label in curves:
        table = result.summary()
        lines = table[(table["attack"] == attack) & (table["metric"] == metric)]
        axes.plot(lines["eps_pixels"], 100 * lines["value"], style, color=colour, label=label, lw=2)
        print(metric, dict(zip(lines["eps_pixels"], lines["value"], strict=True)))
    axes.set(
        xlabel="ε in pixel units, L∞",
        ylabel="% of images",
        ylim=(-3, 103),
        title=f"The notebook's null model (trained at ε 0.154), MNIST,\nfirst {NUM_IMAGES:,} test "
        "images, seed 0; attacks: FGSM and worst-case, version 2",
    )
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.42))
    figure.savefig(Path(__file__).with_name("fgsm-null.png"), dpi=130)


if __name__ == "__main__":
    main()

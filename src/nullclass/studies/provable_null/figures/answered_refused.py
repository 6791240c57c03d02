"""Images that a model answers because it proves the answer, and that it refuses, with margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nullclass.core.outcomes import NULL_LABEL
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import attack_name, eps_text
from nullclass.report.pictures import answer_text
from nullclass.report.style import OUTCOME_COLOURS, WIDE, sheet
from nullclass.results.schema import CLEAN, Examples
from nullclass.results.store import Run, Trial
from nullclass.studies.provable_null.proved import radius_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_IMAGES = 8
"""Images in a row."""

FILE = "fig_answered_refused"


@dataclass(frozen=True)
class Shown:
    """One picture and what the model made of it."""

    pixels: npt.NDArray[np.float32]
    """``(H, W)`` or ``(H, W, 3)`` in [0,1]."""
    label: int
    prediction: int
    margin: float
    """The largest proved margin of a class: positive if it is answered."""


def answered_refused(run: Run) -> Drawing | None:
    """A panel a model that proves its answers, of the first seed that kept images."""
    trials = [t for t in run.trials if radius_of(t) is not None and t.examples]
    if not trials:
        return None
    seed = min(trial.seed for trial in trials)
    panels = [
        panel for trial in trials if trial.seed == seed and (panel := _panel(trial)) is not None
    ]
    if not panels:
        return None
    return Drawing(
        "Answered and refused",
        f"Test images in their order, seed {seed}. Over each what the model says, and the margin "
        "in logits by which interval bounds prove the best class within the radius: an answer "
        "needs more than 0. First the first images that are answered when clean, then the same as "
        "attacked, at the ε told; below the first that are refused when clean (undecided: no "
        "class is proved), among those whose pictures were kept. Frame: blue right, grey refused, "
        "red wrong. L∞, pixel units.",
        panels,
    )


def rows_of(trial: Trial) -> list[tuple[str, list[Shown]]]:
    """Headings and pictures, row by row; those without a picture are left out."""
    radius = radius_of(trial)
    if radius is None:
        return []
    sets = _near(trial.examples, 2 * radius)
    if not sets:
        return []
    widest = max(sets, key=lambda examples: len(examples.labels))
    clean = _clean(trial, widest)
    answered = [n for n, shown in enumerate(clean) if shown.prediction != NULL_LABEL][:NUM_IMAGES]
    refused = [n for n, shown in enumerate(clean) if shown.prediction == NULL_LABEL][:NUM_IMAGES]
    rows = [("clean, answered", [clean[n] for n in answered])]
    for examples in sets:
        attacked = _attacked(trial, examples)
        name = f"{attack_name(examples.attack)}, ε {eps_text(examples.eps_pixels)}"
        rows.append((name, [attacked[n] for n in answered if n < len(attacked)]))
    rows.append((f"clean, refused (of the first {len(clean)})", [clean[n] for n in refused]))
    attacked = _attacked(trial, widest)
    name = f"these, {attack_name(widest.attack)}, ε {eps_text(widest.eps_pixels)}"
    rows.append((name, [attacked[n] for n in refused]))
    return [(heading, shown) for heading, shown in rows if shown]


def _near(examples: list[Examples], eps: float) -> list[Examples]:
    """Of each attack the set whose budget is nearest to an eps; who denies comes last."""
    best: dict[str, Examples] = {}
    for one in examples:
        kept = best.get(one.attack)
        if kept is None or abs(one.eps_pixels - eps) < abs(kept.eps_pixels - eps):
            best[one.attack] = one
    return sorted(best.values(), key=lambda one: "force-null" in one.attack)


def _clean(trial: Trial, examples: Examples) -> list[Shown]:
    margins = _margins(trial, CLEAN, 0.0, len(examples.labels))
    told = zip(examples.labels, examples.clean_predictions, margins, strict=True)
    return [Shown(_picture(examples.clean[n]), *one) for n, one in enumerate(told)]


def _attacked(trial: Trial, examples: Examples) -> list[Shown]:
    margins = _margins(trial, examples.attack, examples.eps_pixels, len(examples.labels))
    told = zip(examples.labels, examples.predictions, margins, strict=True)
    return [Shown(_picture(examples.adv_images[n]), *one) for n, one in enumerate(told)]


def _margins(trial: Trial, attack: str, eps: float, num: int) -> list[float]:
    """Of the first images, as the examples are: minus the null score, as null's own logit is 0."""
    rows = trial.rows
    of = rows[(rows["attack"] == attack) & ((rows["eps_pixels"] - eps).abs() < 1e-6)]
    scores = of.set_index("image")["null_score"].reindex(range(num))
    return (-scores).tolist()


def _picture(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``(C, H, W)`` as matplotlib wants it."""
    return image[0] if image.shape[0] < 3 else image[:3].transpose(1, 2, 0)


def _panel(trial: Trial) -> Panel | None:
    rows = rows_of(trial)
    if not rows:
        return None
    radius = radius_of(trial)
    heading = f"{trial.model}, radius {eps_text(radius or 0.0)}"
    alt = f"images answered and refused by {trial.model}, with the margins of the proofs"
    file = f"{FILE}_{trial.model}"
    with sheet(file, alt, (WIDE, 1.3 * len(rows))) as (figure, drawn):
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (name, shown) in zip(parts, rows, strict=True):
            part.suptitle(name, x=0.005, ha="left", fontsize=8.5, fontweight="bold")
            axes = part.subplots(1, NUM_IMAGES)
            for axis in axes:
                axis.set_axis_off()
            for axis, one in zip(axes, shown, strict=False):
                _draw(axis, one)
    (panel,) = drawn
    return Panel(panel.html, heading, panel.file, panel.svg, panel.png)


def _draw(axis: Axes, shown: Shown) -> None:
    axis.set_axis_on()
    axis.imshow(shown.pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    is_null, is_right = shown.prediction == NULL_LABEL, shown.prediction == shown.label
    word = "null" if is_null else "correct" if is_right else "fooled"
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color(OUTCOME_COLOURS[word])
        spine.set_linewidth(2.5)
    margin = f"{shown.margin:+.2g}".replace("-", "−")
    wrong = "" if is_null or is_right else f" (is {shown.label})"
    axis.set_title(f"{answer_text(shown.prediction)}{wrong} {margin}", fontsize=7, pad=3)

"""The error among accepted clean images against how many are accepted."""

from __future__ import annotations

from nullclass.metrics import scores
from nullclass.report.blocks import Drawing
from nullclass.report.judged import can_refuse, only_trial
from nullclass.report.measures import CLEAN, Measures
from nullclass.report.populations import clean_images, score_of
from nullclass.report.style import WIDTH, percent_axis, sheet
from nullclass.results.store import Run

FILE = "fig_risk_coverage"


def risk_coverage(run: Run) -> Drawing | None:
    """One curve, its areas in the legend, and a dot where the model itself refuses.

    Nothing is drawn where no image is wrong: the curve is 0.
    """
    trial = only_trial(run)
    if trial is None:
        return None
    population = clean_images(trial)
    clean = trial.rows[trial.rows["attack"] == CLEAN]
    is_wrong = (clean["real_prediction"] != clean["label"]).to_numpy()
    if not is_wrong.any():
        return None
    coverage, risk = scores.risk_coverage(population.scores, is_wrong)
    areas = ", ".join(
        f"{name} {100 * score_of(trial, population, metric):.3g} %"
        for name, metric in (("AURC", "aurc"), ("AUGRC", "augrc"))
    )
    with sheet(FILE, "error among accepted clean images against coverage", (WIDTH, 3.2)) as (
        figure,
        drawn,
    ):
        axis = figure.subplots()
        axis.plot(
            coverage, risk, color=population.colour, drawstyle="steps-post", label=f"clean: {areas}"
        )
        answered = clean[clean["outcome"] != "null"]
        if can_refuse(trial.rows) and len(answered):
            axis.plot(
                len(answered) / len(clean),
                (answered["outcome"] == "fooled").mean(),
                marker="o",
                linestyle="none",
                color="#D55E00",
                label="where the model itself refuses",
                clip_on=False,
                zorder=3,
            )
        axis.set_xlim(0, 1)
        axis.set_ylim(0, max(1.1 * float(risk.max()), 0.01))
        axis.set_xlabel("coverage: clean images accepted")
        axis.set_ylabel("risk: wrong among them")
        axis.grid()
        percent_axis(axis.xaxis)
        percent_axis(axis.yaxis)
        figure.legend(loc="outside lower center", ncols=1)
    return Drawing(
        "Risk against coverage",
        f"{len(clean):,} clean images, accepted in order of rising null score; wrong is a wrong "
        f"best real class ({int(is_wrong.sum()):,} of them). The lower the better: whoever refuses "
        f"wrong answers first has no risk until few images are left. "
        f"{Measures(run).seeds_text()}.",
        drawn,
        is_large=True,
    )

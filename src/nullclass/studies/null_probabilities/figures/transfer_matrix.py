"""Who fools whom: shares fooled by source and target, as a heat map an eps."""

from __future__ import annotations

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import Measures, attack_name, eps_text
from nullclass.report.style import WIDTH, sheet
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.config import QUERIED, SUBSTITUTES, TRANSFERS
from nullclass.studies.null_probabilities.defences import short
from nullclass.studies.null_probabilities.transfer_tables import num_moved
from nullclass.studies.null_probabilities.transferred import Transfers

MAIN = TRANSFERS[-1]
"""The attack made for transfer, which is drawn first and larger."""

COLOURS = ("#FFFFFF", "#F6C9A8", "#D55E00", "#7A3300")


def transfer_matrix(run: Run) -> Drawing | None:
    """Of the attack made for transfer."""
    return _drawing(run, [MAIN], "Who fools whom", is_large=True)


def other_transfers(run: Run) -> Drawing | None:
    """Of the other attacks."""
    others = [name for name in TRANSFERS if name != MAIN]
    return _drawing(run, others, "Who fools whom, by one step", is_large=False)


def _drawing(run: Run, attacks: list[str], title: str, *, is_large: bool) -> Drawing | None:
    measures = Measures(run)
    transfers = Transfers(run, measures)
    panels = [
        panel
        for attack in attacks
        if attack in transfers.attacks
        for eps in transfers.budgets
        if (panel := _panel(transfers, attack, eps)) is not None
    ]
    if not panels:
        return None
    several = "" if len(measures.seeds) == 1 else ", mean over seeds"
    return Drawing(
        title,
        f"Share of test images that fool the target (a wrong class, not null), %. Rows: the model "
        f"{' and '.join(map(attack_name, attacks))} was made on; columns: the model it was shown "
        "to. Framed: both are the same, which makes it white-box, though far weaker than the worst "
        "case. By queries: each target's own "
        "substitute, trained on its answers. The attacks aim at a wrong class and take null for a "
        f"defence. L∞, ε in pixel units, {num_moved(transfers)} images, {measures.seeds_text()}"
        f"{several}.",
        panels,
        is_large=is_large,
    )


def _panel(transfers: Transfers, attack: str, eps: float) -> Panel | None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    sources, targets = transfers.sources, transfers.targets
    found = {
        (row, column): measure
        for row, source in enumerate(sources)
        for column, target in enumerate(targets)
        if (measure := transfers.find(attack, source, target, eps)) is not None
    }
    if not found:
        return None
    colours = LinearSegmentedColormap.from_list("fooled", COLOURS)
    heading = f"{attack_name(attack)}, ε {eps_text(eps)}"
    alt = f"{heading}: share fooled by source and target"
    size = (WIDTH, 1.15 + 0.25 * len(sources))
    with sheet(f"fig_transfer_{attack}_{eps:g}", alt, size) as (figure, drawn):
        axis = figure.subplots()
        for (row, column), measure in found.items():
            share = measure.mean
            axis.add_patch(Rectangle((column, row), 1, 1, color=colours(share), linewidth=0))
            axis.text(
                column + 0.5,
                row + 0.52,
                _number(share),
                ha="center",
                va="center",
                fontsize=7.5,
                color="#FFFFFF" if share > 0.5 else "#1D1F22",
            )
        for row, source in enumerate(sources):
            if source in targets:
                place = (targets.index(source) + 0.03, row + 0.04)
                axis.add_patch(
                    Rectangle(place, 0.94, 0.92, fill=False, edgecolor="#1D1F22", linewidth=1.2)
                )
        for row in range(1, len(sources)):
            if _kind(sources[row]) != _kind(sources[row - 1]):
                axis.axhline(row, color="#1D1F22", linewidth=0.8)
        axis.set_xlim(0, len(targets))
        axis.set_ylim(len(sources), 0)
        axis.set_xticks(
            [n + 0.5 for n in range(len(targets))],
            list(map(short, targets)),
            rotation=40,
            ha="left",
            rotation_mode="anchor",
        )
        axis.tick_params(length=0)
        axis.xaxis.tick_top()
        axis.set_yticks([n + 0.5 for n in range(len(sources))], list(map(short, sources)))
        axis.spines[:].set_visible(False)
    (panel,) = drawn
    return Panel(panel.html, heading, panel.file, panel.svg, panel.png)


def _number(share: float) -> str:
    """Percent in so few digits that it fits."""
    value = 100 * share
    return "0" if value == 0 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _kind(source: str) -> int:
    return 0 if source in SUBSTITUTES else 2 if source == QUERIED else 1

"""Red flags on the page: of one evaluation at its head, of a study's trials in a section."""

from __future__ import annotations

from nullclass.diagnostics.red_flags import CHECKS
from nullclass.report.blocks import Block, Doubt, FlagList, Section, Text
from nullclass.results.store import Run, Trial

TITLE = "Red flags"


def flags_of(trial: Trial) -> list[Block]:
    """The flags of one evaluation, or that there are none, or that none were looked for."""
    if trial.flags:
        return [
            Text("Reasons not to believe the numbers below until they are explained:"),
            FlagList([Doubt(flag) for flag in trial.flags]),
        ]
    if not was_checked(trial):
        return [
            Text(
                "None were looked for: the checks were switched off, so whether the attacks did "
                "what they should is not known."
            )
        ]
    return [
        Text(
            f"None of the {len(CHECKS)} automatic checks found a reason not to believe this "
            "evaluation. That does not prove it right; docs/red-flags.md says what is looked for."
        )
    ]


def flags_section(run: Run) -> list[Section]:
    """A study's section: model, flag and message; none where no trial was checked."""
    checked = [trial for trial in run.trials if was_checked(trial)]
    if not checked:
        return []
    found: dict[tuple[str, str], list[Doubt]] = {}
    for trial in checked:
        for flag in trial.flags:
            of = f"{trial.model}, seed {trial.seed}"
            found.setdefault((trial.model, flag.name), []).append(Doubt(flag, of))
    num = f"{len(checked)} of {len(run.trials)}"
    which = "every evaluation" if len(checked) == len(run.trials) else f"{num} evaluations"
    if not found:
        return [Section(TITLE, [Text(f"They were looked for in {which}, and there are none.")])]
    items = [_first(doubts) for doubts in found.values()]
    told = f"Reasons not to believe a number until they are explained, looked for in {which}:"
    return [Section(TITLE, [Text(told), FlagList(items)])]


def was_checked(trial: Trial) -> bool:
    """Whether flags were looked for: only then the model was asked more than the attacks asked."""
    return bool(trial.result.get("probes") or trial.flags)


def _first(doubts: list[Doubt]) -> Doubt:
    """The first seed's message, as the others' differ by a number."""
    first, *more = doubts
    others = f" and {len(more)} more evaluation{'s' if len(more) > 1 else ''}" if more else ""
    return Doubt(first.flag, first.of + others)

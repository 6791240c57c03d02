"""The results in a page: the text between two marks, written by a script beside the page."""

from __future__ import annotations

from pathlib import Path

from nullclass.core.files import write_text
from nullclass.report.formatting import WORST_CASE
from nullclass.results.run import Run

END = "<!-- end of results -->"


def worst_case_version(run: Run) -> str:
    """The number of the worst case's version by which the models of a run were attacked."""
    attacks = [trial.result.threat.attacks.get(WORST_CASE) for trial in run.trials]
    versions = {str((each.settings or {})["version"]).split()[-1] for each in attacks if each}
    return " and ".join(sorted(versions))


def replace_results(page: Path, script: str, results: str) -> None:
    """Write a page anew with other results; the rest of it stays.

    Args:
        page: The page.
        script: Name of the script, as the first mark has it.
        results: The new text between the marks.
    """
    begin = f"<!-- results: written by docs/{Path(script).name}, do not edit -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(END)
    write_text(page, f"{before}{begin}\n\n{results}\n{END}{after}")

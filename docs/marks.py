"""What the scripts that write results into pages share: the marks, and what is said of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from nullclass.core.files import write_text
from nullclass.report.formatting import WORST_CASE
from nullclass.report.measures import Measures
from nullclass.report.sections import previews, unfinished

END = "<!-- end of results -->"


def facts(measures: Measures) -> dict[str, str]:
    """Preset, seeds, data, torch and the version of the worst case, for the head of a page."""
    info = measures.run.info
    return {
        "preset": str(info.preset),
        "seeds": measures.seeds_text(),
        "data": info.data.name,
        "torch": info.provenance.versions["torch"],
        "version": setting(measures, WORST_CASE, "version").removeprefix(f"{WORST_CASE} "),
    }


def setting(measures: Measures, attack: str, name: str) -> str:
    """A setting of an attack on the models of a run."""
    attacks = [trial.result.threat.attacks.get(attack) for trial in measures.run.trials]
    values = {str((each.settings or {})[name]) for each in attacks if each}
    return " and ".join(sorted(values))


def bullets(measures: Measures, variants: Sequence[str], findings: Iterable[str]) -> str:
    """The sentences of the report's first paragraph, as a list."""
    sentences = [*findings, *unfinished(measures, variants), *previews(measures)]
    return "".join(f"- {sentence}\n" for sentence in sentences)


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

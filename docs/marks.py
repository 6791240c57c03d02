"""The results in a page: the text between two marks, written by a script beside the page."""

from __future__ import annotations

from pathlib import Path

from nullclass.core.files import write_text

END = "<!-- end of results -->"


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

"""Every Python example of the documentation runs, each on its own in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line numbers and contents of a page's Python blocks."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(1)].count("\n"), m.group(1)) for m in BLOCK.finditer(text)]


EXAMPLES = [
    pytest.param(
        page,
        line,
        code,
        id=f"{page.relative_to(ROOT)}:{line + 1}",
        marks=[pytest.mark.slow] if page.name == "README.md" else [],  # trains on MNIST
    )
    for page in PAGES
    for line, code in blocks(page)
]


def test_the_readme_has_an_example() -> None:
    assert blocks(ROOT / "README.md"), "the library's dozen lines belong in the README"


@pytest.mark.parametrize(("page", "line", "code"), EXAMPLES)
def test_example(
    page: Path, line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Blank lines before it, so that an error names the line of the page.
    exec(compile("\n" * line + code, str(page), "exec"), {"__name__": "__main__"})


LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []

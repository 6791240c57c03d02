"""Collects the pages of the documentation site, and builds it: ``python docs/website.py``.

The pages are those of ``docs/``, the README and its siblings, the benchmarks, the notebooks, the
help of every command, and one page per public name. They are collected in ``build/docs/pages``; the
site is written to ``build/docs/site``. No network is needed.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nullclass
from nullclass.cli import COMMANDS
from nullclass.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "docs"
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "LOG.md")
MODULES = ("attacks", "nulls", "rejection", "certify", "serving")
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def collect(pages: Path) -> None:
    """Write all pages into a folder, which is emptied first."""
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    names = {ROOT / "README.md": "index.md"}
    names |= {ROOT / name: name for name in ROOT_PAGES}
    names |= {path: path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    names |= {path: path.name for path in sorted((ROOT / "docs").glob("*.png"))}
    for pattern in ("benchmarks/*.md", "notebooks/*.ipynb", "results/*/figures/*.png"):
        names |= {path: path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob(pattern))}
    for path, name in names.items():
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = moved(path.read_text(encoding="utf-8"), path, name, names)
            (pages / name).write_text(text, encoding="utf-8")
        elif path.suffix == ".ipynb":
            (pages / name).write_text(moved_notebook(path, name, names), encoding="utf-8")
        else:
            shutil.copyfile(path, pages / name)
    (pages / "assets").mkdir()
    for name in ("iframe-worker.js", "site.css"):
        shutil.copy(ROOT / "docs" / name, pages / "assets")
    (pages / "help.md").write_text(help_page(), encoding="utf-8")
    write_names(pages)


def moved(text: str, path: Path, name: str, names: dict[Path, str]) -> str:
    """Return the text of a page with links for its new place; other files as code."""

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        found = (path.parent / target).resolve()
        if found in names:
            new = os.path.relpath(names[found], Path(name).parent).replace(os.sep, "/")
            return f"[{label}]({new}{anchor})"
        return f"{label} (`{found.relative_to(ROOT).as_posix()}`)"

    return LINK.sub(link, text)


def moved_notebook(path: Path, name: str, names: dict[Path, str]) -> str:
    """Return a notebook whose texts link to pages of the site, which does not change them."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = moved("".join(cell["source"]), path, name, names)
            cell["source"] = re.sub(r"\.(?:md|ipynb)(?=[)#])", ".html", text)
    return json.dumps(notebook)


def help_page() -> str:
    """Return the help of all commands."""
    os.environ |= {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    parts = ["# Help of every command\n\nWhat `nullclass COMMAND --help` prints.\n"]
    calls = [(name,) for name in COMMANDS]
    calls += [("zoo", name) for name in ("show", "evaluate", "check", "leaderboard")]
    calls += [("data", name) for name in ("fetch", "show")]
    for words in (("--help",), *((*call, "--help") for call in calls)):
        output = io.StringIO()
        with redirect_stdout(output):
            main(words)
        title = " ".join(("nullclass", *words[:-1]))
        parts.append(f"## {title}\n\n```text\n{output.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


def public_names() -> dict[str, Any]:
    """Return every public name with its object."""
    found = {name: getattr(nullclass, name) for name in nullclass.__all__}
    for module in MODULES:
        members = __import__(f"nullclass.{module}", fromlist=["*"])
        found |= {f"{module}.{name}": getattr(members, name) for name in members.__all__}
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }


def write_names(pages: Path) -> None:
    """Write one page per public name, and a page that lists them."""
    (pages / "names").mkdir()
    lines = ["# Every public name\n", "Signatures at a glance: [public names](api.md).\n"]
    for name, value in public_names().items():
        is_defined = inspect.isclass(value) or inspect.isfunction(value)
        path = f"{value.__module__}.{value.__qualname__}" if is_defined else f"nullclass.{name}"
        text = f"# nullclass.{name}\n\n::: {path}\n"
        (pages / "names" / f"{name}.md").write_text(text, encoding="utf-8")
        summary = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
        summary = re.sub(r":\w+:`(?=[^`])", "`", summary) if is_defined else "a value"
        lines.append(f"- [`{name}`](names/{name}.md): {summary}")
    (pages / "names.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(folder: Path = FOLDER) -> int:
    """Build the site in ``folder/site``; a warning is an error.

    Args:
        folder: Its pages are collected in ``folder/pages``.

    Returns:
        The exit status.
    """
    collect(folder / "pages")
    # The colours of the theme's own advice on MkDocs 2 are no warning of this build.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    environment["NULLCLASS_PAGES"] = str(folder / "pages")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean"]
    command += ["--site-dir", str(folder / "site")]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(build())

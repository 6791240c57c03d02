"""The notebooks: scripts that run, and beside each the same cells with their outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
LARGEST = 1_200_000
"""Bytes of a notebook with its figures."""


def cells_of(script: Path) -> list[tuple[str, str]]:
    """Type and source of the cells of a script in the percent format."""
    _, *parts = re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = []
    for part in parts:
        mark, _, text = part.partition("\n")
        lines = text.strip("\n").split("\n")
        if "[markdown]" in mark:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        cells.append(("markdown" if "[markdown]" in mark else "code", "\n".join(lines)))
    return cells


def notebook_of(script: Path) -> Any:
    return json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))


each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def test_every_notebook_has_its_script_and_is_in_the_readme() -> None:
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [path.stem for path in notebooks] == [path.stem for path in SCRIPTS]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"(notebooks/{path.name})" in readme for path in notebooks)


@each
def test_the_notebook_has_the_cells_of_its_script(script: Path) -> None:
    cells = notebook_of(script)["cells"]
    assert [(cell["cell_type"], "".join(cell["source"]).strip("\n")) for cell in cells] == [
        (kind, text.strip("\n")) for kind, text in cells_of(script)
    ]


@each
def test_outputs_are_complete_small_and_of_no_machine(script: Path) -> None:
    path = script.with_suffix(".ipynb")
    text = path.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    assert not re.search(r"/home/|/tmp/|/work/|/root/|site-packages", text)
    code = [cell for cell in notebook_of(script)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    kinds = {(output["output_type"], output.get("name")) for output in outputs}
    assert kinds <= {("execute_result", None), ("display_data", None), ("stream", "stdout")}
    assert not re.search(r"\d s\b|seconds", json.dumps(outputs)), "times change"


@each
@pytest.mark.slow
def test_the_script_runs(script: Path, tmp_path: Path) -> None:
    """Without Jupyter: cells that show something are expressions."""
    ended = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.iterdir()) == [], "a notebook leaves nothing behind"

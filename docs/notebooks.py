"""Executes the notebooks: ``python docs/notebooks.py`` writes ``notebooks/*.ipynb``.

A notebook is a script whose cells begin with ``# %%``; the notebook beside it has its outputs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def execute(script: Path) -> None:
    """Execute a script in a new kernel and write its notebook; the same outputs, the same bytes."""
    notebook = jupytext.read(script)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    nbformat.write(notebook, script.with_suffix(".ipynb"))


if __name__ == "__main__":
    names = sys.argv[1:]
    for path in sorted(NOTEBOOKS.glob("*.py")):
        if not names or path.stem in names:
            print(path.name, flush=True)
            execute(path)

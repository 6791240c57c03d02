from __future__ import annotations

import pytest

from nullclass.core.progress import Stages


def test_lines_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with Stages("job", cost=50) as stages:
        with stages.stage("first", units=10, cost=25) as advance:
            for _ in range(10):
                advance(1)
        with stages.stage("second", units=3, cost=25) as advance:
            advance(5)  # more than expected
        stages.say("all done")
        with pytest.raises(KeyError), stages.stage("third", units=1, cost=1):
            raise KeyError
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == "", "progress never mixes with results"
    assert [line.split(":")[0] for line in lines] == ["first", "second", "all done"]


def test_the_time_left_follows_the_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("nullclass.core.progress.time.perf_counter", lambda: now[0])
    stages = Stages("job", cost=100)
    with stages:
        with stages.stage("a small share", units=1, cost=5):
            now[0] = 4.0
        with stages.stage("first", units=1, cost=15):
            now[0] = 50.0
        with stages.stage("second", units=1, cost=80):
            now[0] = 90.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["a small share: 4.0 s", "first: 46.0 s, about 3 min left", "second: 40.0 s"]


IN_JUPYTER = """
from nullclass.core.progress import Stages
with Stages("job", cost=1) as stages, stages.stage("first", units=2, cost=1) as advance:
    advance(1)
    advance(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_widgets", [True, False])
def test_bars_in_jupyter(has_widgets: bool) -> None:
    """A widget with bars, or without ipywidgets the lines alone and no warnings."""
    for name in ("ipykernel", "ipywidgets"):
        pytest.importorskip(name)
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    hide = "import sys; sys.modules['ipywidgets'] = None" if not has_widgets else ""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (hide, IN_JUPYTER)]
    nbclient.NotebookClient(notebook, timeout=300).execute()
    outputs = notebook.cells[1].outputs
    assert all(output.output_type == "display_data" for output in outputs), outputs
    widgets = [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.data]
    assert len(widgets) == has_widgets
    (line,) = (o.data["text/plain"] for o in outputs if "first: " in o.data["text/plain"])
    assert line.startswith("first: ")


def test_names_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with Stages("[/job]", cost=1) as stages, stages.stage("[/x]", units=1, cost=1) as advance:
        advance(1)

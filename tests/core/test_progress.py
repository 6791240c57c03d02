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
        with stages.stage("first", units=1, cost=20):
            now[0] = 10.0
        with stages.stage("second", units=1, cost=80):
            now[0] = 50.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["first: 10.0 s, about 40 s left", "second: 40.0 s"]

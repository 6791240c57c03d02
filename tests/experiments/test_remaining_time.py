from __future__ import annotations

import pytest
from tiny_study import TINY, trials

from nullclass.experiments.jobs import Job, jobs_of
from nullclass.experiments.progress import JobBars


def test_the_time_left_comes_from_finished_jobs_of_the_same_kind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("nullclass.experiments.progress.time.perf_counter", lambda: now[0])
    jobs = jobs_of(trials("quick", [0, 1], TINY.variants), "data")
    first, second, third, fourth, *_ = (j for j in jobs if j.folder.startswith("models/"))
    trial = next(job for job in jobs if job.folder.startswith("trials/"))
    assert len(jobs) == 12

    def do(job: Job, seconds: float) -> None:
        bars.begin(job)
        bars.advance(job, 0.5)
        now[0] += seconds
        bars.end(job)

    with JobBars("run", jobs) as bars:
        assert bars.seconds_left() == 0, "nothing is known yet"
        do(first, 10)
        assert bars.seconds_left() == 5 * 10 + 6 * 10, "trials count as the mean of all"
        do(second, 20)
        do(trial, 1)
        assert bars.seconds_left() == pytest.approx(4 * 15 + 5 * 1)
        bars.begin(third)
        now[0] += 5
        assert bars.seconds_left() == pytest.approx(4 * 15 - 5 + 5 * 1)
        bars.begin(fourth)
        assert bars.seconds_left() == pytest.approx((4 * 15 - 5 + 5 * 1) / 2), "two at once"
        bars.fail(fourth)
        assert bars.seconds_left() == pytest.approx((4 * 15 - 5 + 5 * 1) / 2), "it runs again"
        bars.drop(fourth)
        assert bars.seconds_left() == pytest.approx((3 * 15 - 5 + 5 * 1) / 2)
    printed = capsys.readouterr()
    assert printed.out == "", "progress never mixes with results"
    assert printed.err.splitlines() == [
        "training base, seed 0: 10.0 s (1 of 12, about 2 min left)",
        "training grown, seed 0: 20.0 s (2 of 12, about 2 min left)",
        "attacking base, seed 0: 1.0 s (3 of 12, about 65 s left)",
    ]

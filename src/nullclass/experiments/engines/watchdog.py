"""Ends a worker that hangs, so that its job fails and is tried again.

A worker is at work as long as it calls models and reports progress. Between two calls pass seconds,
in a trial of ten seconds and in one of five hours alike, so one limit serves both.
"""

from __future__ import annotations

import faulthandler
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nullclass.experiments.engines.base import Event, Report

HANG_SECONDS = 30 * 60
"""Seconds without a call of a module and without a report after which a worker is ended."""

HANG_SIGNAL = 14
"""Ends a worker that hangs: SIGALRM, a name that Windows does not have."""


@contextmanager
def watchdog(report: Report, seconds: int) -> Iterator[Report]:
    """End this process if, inside the block, it calls no module and reports nothing for a while.

    The timer is the system's: it ends the process also if no Python code can run any more. First
    the stack of every thread is printed on standard error.

    Args:
        report: Receives the events.
        seconds: The limit.

    Yields:
        What to report to instead.
    """
    if not hasattr(signal, "alarm"):  # Windows
        yield report
        return
    # here, because a worker sets its threads and memory before torch is loaded
    from torch.nn.modules.module import register_module_forward_pre_hook

    restarted_at = -math.inf

    def restart(*_: object) -> None:
        nonlocal restarted_at
        if time.monotonic() - restarted_at > seconds / 10:  # a system call takes longer
            restarted_at = time.monotonic()
            signal.alarm(seconds)

    def restart_and_report(event: Event) -> None:
        restart()
        report(event)

    faulthandler.register(HANG_SIGNAL, file=2, chain=True)
    hook = register_module_forward_pre_hook(restart)
    restart()
    try:
        yield restart_and_report
    finally:
        hook.remove()
        signal.alarm(0)
        faulthandler.unregister(HANG_SIGNAL)

"""Kills processes when the process that started them is gone.

Ray's agents would live on for a minute after a driver that was killed. Imports nothing of this
package, so that it starts at once: ``python -S guard.py PID...``, with a pipe as standard input.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> Iterator[int]:
    """Yield the ids of all processes below one; none on systems without ``/proc``."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from descendants(child)


def start_guard(pids: Iterable[int]) -> subprocess.Popen[bytes]:
    """Start a process that kills others when its standard input is closed or this process ends."""
    return subprocess.Popen(
        [sys.executable, "-S", __file__, *map(str, pids)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process
    )


def guard(pids: Iterable[int]) -> None:
    """Wait for the end of the standard input, then kill the processes."""
    handles = []
    for pid in pids:
        with suppress(OSError):
            handles.append(os.pidfd_open(pid))  # another process may get the number of a dead one
    sys.stdin.buffer.read()
    for handle in handles:
        with suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


if __name__ == "__main__":
    guard(map(int, sys.argv[1:]))

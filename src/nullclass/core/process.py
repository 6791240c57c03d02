"""Settings of the whole process, for the command line and workers, not for a library (LOG.md).

Imports no torch, which must be loaded after them.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def tune_process() -> None:
    """Speed torch up on busy CPUs; environment variables that are set have precedence.

    Waiting threads must not spin: beside another busy process that makes training several times
    slower. Memory freed after a step is kept for the next: returning it costs a quarter of an
    attack's time in page faults.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the largest value of glibc
            mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def trim_memory() -> None:
    """Return the memory kept by :func:`tune_process` to the system; call it between jobs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

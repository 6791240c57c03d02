"""Settings of the whole process that the command line makes, and a library must not. LOG.md has
the measurements. Imports no torch: they must be made before it is loaded.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def tune_process() -> None:
    """Make torch's CPU work faster on busy machines; anything the user has set is left alone.

    Waiting threads must not spin: beside another busy process that makes training several times
    slower. And memory freed after a step is kept for the next: giving it back costs a quarter of
    an attack's time in page faults.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the most that glibc takes
            mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def trim_memory() -> None:
    """Give back the memory that :func:`tune_process` made us keep: between jobs, not within one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

"""Versions, commit and machine, recorded in every model card and ``run.json``."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@cache
def _commit() -> str | None:
    """Return the commit of the source tree, with ``+changes`` if it was edited, or None."""
    package = Path(__file__).parents[1]
    if not (package.parents[1] / ".git").exists():  # installed
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--", str(package)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def provenance() -> dict[str, Any]:
    """Return versions, commit and machine, as JSON values."""
    try:
        own_version = version("nullclass")
    except PackageNotFoundError:  # a source tree that was never installed
        own_version = "not installed"
    return {
        "versions": {
            "nullclass": own_version,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": _commit(),
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "num_cores": os.cpu_count(),
            "num_threads": torch.get_num_threads(),
        },
    }


def run_origin(data: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return data, device, :func:`provenance` and the time, for ``run.json``, as JSON values.

    Call it before the work starts: the time is the start, and the commit is of the code that runs.
    """
    return {
        "data": data,
        "device": str(device),
        **provenance(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }

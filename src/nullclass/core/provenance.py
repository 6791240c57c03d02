"""Versions, commit and machine, recorded in every model card and result."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from nullclass.core.origin import Machine, Provenance


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


def provenance() -> Provenance:
    """Return versions, commit and machine."""
    try:
        own_version = version("nullclass")
    except PackageNotFoundError:  # a source tree that was never installed
        own_version = "not installed"
    return Provenance(
        versions={
            "nullclass": own_version,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        commit=_commit(),
        machine=Machine(
            system=platform.system(),
            processor=_processor(),
            num_cores=os.cpu_count(),
            num_threads=torch.get_num_threads(),
        ),
    )


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

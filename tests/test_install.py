"""What is installed: no module needs POSIX on import, extras are listed, the wheel is small."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

POSIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "posix", "syslog")


def test_no_module_needs_posix_on_import() -> None:
    """Every module is imported in a process without the modules that only POSIX has."""
    code = f"""
import sys, importlib, pkgutil
import torch, numpy, pandas, sklearn, scipy.stats, matplotlib.figure, requests, rich, filelock
import tyro, jinja2, safetensors.torch, PIL.Image, multiprocessing.pool, subprocess, tempfile
import asyncio, concurrent.futures, platformdirs, shutil, pathlib, getpass
import signal
for name in ("SIGALRM", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGQUIT", "alarm", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
import os
for name in ("fork", "getuid", "geteuid", "killpg", "setsid", "sysconf", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {POSIX_ONLY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
for name in {POSIX_ONLY!r}:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
import nullclass
for found in pkgutil.walk_packages(nullclass.__path__, "nullclass."):
    importlib.import_module(found.name)
print(sum(name.startswith("nullclass.") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_extras_are_in_one_table() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([a-z]+)`", row.split("|")[1])}
    assert listed == set(PROJECT["optional-dependencies"])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.slow
def test_the_wheel_holds_the_zoo_and_is_small(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", tmp_path, ROOT],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 15e6
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    data = [
        path.relative_to(source).as_posix()
        for folder in ("zoo/checkpoints", "demo")
        for path in (source / "nullclass" / folder).rglob("*.*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert len(data) > 14
    assert set(data) <= names

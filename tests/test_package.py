"""The public names: lazy, complete, and pinned by docs/api.md."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import nullclass

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_every_public_name_is_there() -> None:
    for name in nullclass.__all__:
        assert getattr(nullclass, name) is not None, name
    assert set(nullclass.__all__) <= set(dir(nullclass))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = nullclass.tarin


def test_importing_is_lazy_and_hides_nothing() -> None:
    """In a fresh process: no torch at first, then all names, also after importing modules."""
    code = """
import sys, types
import nullclass, nullclass.cli.main
assert "torch" not in sys.modules
import nullclass.attacks, nullclass.training.loop, nullclass.evaluation.run
assert type(sys.modules["nullclass"]) is types.ModuleType
assert callable(nullclass.train) and callable(nullclass.evaluate)
assert nullclass.attacks.PGD is nullclass.attacks.pgd.PGD
from nullclass import *
assert evaluate is nullclass.evaluate and attacks is nullclass.attacks
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def load_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api", DOCS / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_signatures_are_those_of_the_reference() -> None:
    """Every public signature is pinned: after a change on purpose run docs/api.py."""
    api = load_api()
    blocks = re.compile(r"```py\n(.*?)```", re.DOTALL)
    written = blocks.findall((DOCS / "api.md").read_text(encoding="utf-8"))
    assert blocks.findall(api.page()) == written
    listed = {name.split(".")[0] for names in api.GROUPS.values() for name in names}
    assert listed | set(api.MODULES) | {"__version__"} == set(nullclass.__all__)

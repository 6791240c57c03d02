from __future__ import annotations

import subprocess
import sys

import pytest

import nullclass


def test_every_name_of_the_front_door_is_there() -> None:
    for name in nullclass.__all__:
        assert callable(getattr(nullclass, name)), name
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = nullclass.tarin


@pytest.mark.parametrize(
    "before", ["", "import nullclass.experiments.runner", "import nullclass.training.loop"]
)
def test_functions_are_not_hidden_by_the_modules_of_their_name(before: str) -> None:
    code = f"""
{before}
import nullclass
for _ in range(2):
    for name in nullclass.__all__:
        assert not hasattr(getattr(nullclass, name), "__path__")
        assert callable(getattr(nullclass, name)), name
from nullclass.evaluation import run as evaluate
from nullclass.training import loop as train
from nullclass.training.loop import TrainConfig
assert callable(evaluate) and callable(train) and callable(nullclass.training.loop)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_does_not_wait_for_torch() -> None:
    code = "import sys, nullclass, nullclass.cli.main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import torch

import nullclass
from nullclass.core.documents import parse
from nullclass.core.origin import Provenance
from nullclass.core.provenance import provenance


def test_it_says_what_ran() -> None:
    found = provenance()
    assert parse(msgspec.json.encode(found), Provenance, "provenance") == found
    assert found.versions["torch"] == torch.__version__
    assert found.machine.num_threads == torch.get_num_threads()
    root = Path(nullclass.__file__).parents[2]
    if (root / ".git").exists():
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        assert found.commit is not None
        assert len(found.commit.removesuffix("+changes")) == len(head) == 40

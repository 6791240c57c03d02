from __future__ import annotations

import pytest
import torch

from nullclass.core.devices import find_device, supports_bfloat16
from nullclass.core.errors import UserError


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:-1", "cuda:x", "CPU!"])
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(UserError, match=r"there is no device .*: use auto, cpu, cuda"):
        find_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xpu"])
def test_what_this_machine_lacks(name: str) -> None:
    with pytest.raises(UserError, match=f"this machine has no device '{name}': use --device cpu"):
        find_device(name)


def test_cuda_and_mps_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(UserError, match="this machine has no device"):
            find_device(name)


def test_bfloat16_is_a_yes_or_no() -> None:
    assert isinstance(supports_bfloat16(torch.device("cpu")), bool)
    assert supports_bfloat16(torch.device("meta")) is False

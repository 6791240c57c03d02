from __future__ import annotations

import pytest
import torch
from worlds import Digits

import nullclass
from nullclass.core.devices import exact_float32, find_device, supports_bfloat16
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.scoring.score import score_clean


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:-1", "cuda:x", "CPU!"])
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(UserError, match=r"there is no device .*: use auto, cpu, cuda"):
        find_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xpu"])
def test_what_this_machine_lacks(name: str) -> None:
    with pytest.raises(UserError, match=f"this machine has no device '{name}': use the device cpu"):
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


@pytest.mark.parametrize("before", [True, False])
def test_tf32_is_off_inside_the_block_and_as_before_after_it(before: bool) -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    defaults = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = before
        with exact_float32():
            assert not any(backend.allow_tf32 for backend in backends)
        assert [backend.allow_tf32 for backend in backends] == [before, before]
        with pytest.raises(KeyError), exact_float32():
            raise KeyError
        assert [backend.allow_tf32 for backend in backends] == [before, before]
        assert torch.get_float32_matmul_precision() == ("high" if before else "highest")
    finally:
        for backend, default in zip(backends, defaults, strict=True):
            backend.allow_tf32 = default


@pytest.mark.parametrize("before", ["medium", "high", "highest"])
def test_the_matmul_precision_is_highest_inside_the_block_and_restored(before: str) -> None:
    default = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        with exact_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == before
        assert torch.backends.cuda.matmul.allow_tf32 == (before != "highest")
    finally:
        torch.set_float32_matmul_precision(default)


def test_tf32_that_was_set_by_the_newer_api() -> None:
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this torch has one API only")
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"  # now allow_tf32 cannot be read
        with exact_float32():
            assert torch.backends.cuda.matmul.fp32_precision != "tf32"
            assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
        assert conv.fp32_precision == "ieee"
        assert torch.backends.cudnn.rnn.fp32_precision == "tf32"
    finally:
        conv.fp32_precision = before


def test_evaluations_and_proofs_run_without_tf32(digits: Digits) -> None:
    data = LabelledImages(digits.images[:4], digits.labels[:4], 10)
    seen: list[bool] = []
    hook = digits.plain.register_forward_hook(
        lambda *_: seen.append(torch.backends.cudnn.allow_tf32)
    )
    before = torch.backends.cudnn.allow_tf32
    try:
        for run in (
            lambda: nullclass.evaluate(digits.plain, data, attacks="fgsm", eps=0.1),
            lambda: nullclass.prove(digits.plain, data, 0.1),
            lambda: score_clean(digits.plain, data),
            lambda: nullclass.rejection.calibrate(digits.plain, data, 0.5),
        ):
            seen.clear()
            run()
            assert seen
            assert not any(seen)
            assert torch.backends.cudnn.allow_tf32 == before
    finally:
        hook.remove()

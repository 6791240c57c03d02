from __future__ import annotations

import pytest
import torch
from torch import Tensor
from worlds import Digits

import nullclass
from nullclass.core.devices import exact_float32, find_device, in_float64, supports_bfloat16
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


@pytest.mark.parametrize(
    "name", ["cuda:99", "cuda:256", "cuda:999", "cpu:1", "cpu:256", "mps:1", "xpu"]
)
def test_what_this_machine_lacks(name: str) -> None:
    with pytest.raises(UserError, match=f"this machine has no device '{name}': use the device cpu"):
        find_device(name)


def test_a_device_is_a_name_too() -> None:
    assert find_device(torch.device("cpu")) == torch.device("cpu")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no device None"):
        find_device(None)  # type: ignore[arg-type]


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


def fast_settings() -> list[object]:
    """How products may be rounded: as the older and the newer API of torch say."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    old = [torch.get_float32_matmul_precision(), matmul.allow_tf32, cudnn.allow_tf32]
    if not hasattr(cudnn, "conv"):
        return old
    owners = (matmul, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul)
    return old + [owner.fp32_precision for owner in owners]


def is_exact() -> bool:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(cudnn, "conv"):
        return not matmul.allow_tf32 and not cudnn.allow_tf32
    owners = (matmul, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul)
    return not {owner.fp32_precision for owner in owners} & {"tf32", "bf16"}


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
@pytest.mark.parametrize("allow_tf32", [True, False])
def test_products_are_exact_inside_the_block_and_as_before_after_it(
    precision: str, allow_tf32: bool
) -> None:
    defaults = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = allow_tf32
        before = fast_settings()
        with exact_float32():
            assert is_exact()
        assert fast_settings() == before
        with pytest.raises(KeyError), exact_float32():
            raise KeyError
        assert fast_settings() == before
    finally:
        torch.set_float32_matmul_precision(defaults[0])
        torch.backends.cudnn.allow_tf32 = defaults[1]


def test_evaluations_and_proofs_run_without_tf32(digits: Digits) -> None:
    data = LabelledImages(digits.images[:4], digits.labels[:4], 10)
    seen: list[bool] = []
    hook = digits.plain.register_forward_hook(lambda *_: seen.append(is_exact()))
    before = fast_settings()
    assert not is_exact(), "torch's default for cuDNN is TF32"
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
            assert all(seen)
            assert fast_settings() == before
    finally:
        hook.remove()


class OnMPS(Tensor):
    """As on a device without float64."""

    device = property(lambda self: torch.device("mps"))  # type: ignore[assignment]

    def double(self, *args: object, **more: object) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64")

    def cpu(self, *args: object, **more: object) -> Tensor:
        return self.as_subclass(Tensor)


def test_float64_on_a_device_without_it() -> None:
    values = torch.tensor([0.1, 0.25])
    for given in (values, values.as_subclass(OnMPS)):
        found = in_float64(given)
        assert found.device.type == "cpu"
        assert torch.equal(found, values.double())
    assert in_float64(0.1).item() == 0.1


def test_a_thread_that_ends_leaves_exact_products_to_the_others() -> None:
    before = fast_settings()
    assert not is_exact(), "torch's default for cuDNN is TF32"
    first, second = exact_float32(), exact_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_exact()
    second.__exit__(None, None, None)
    assert fast_settings() == before

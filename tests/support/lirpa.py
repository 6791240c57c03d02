"""auto_LiRPA 0.3 (Xu et al. 2020), to compare our bounds with. Its bounds are not rounded outward.

    pip install appdirs tqdm && pip install --no-deps auto_LiRPA==0.3

(Its metadata requires torch below 1.13, and torchvision, which it does not use.) It needs three
names that numpy and torch no longer have; they are defined while it is imported and reads a
network. It does not know hardtanh or ELU. It gets standardised images: behind the standardisation
it loses an L2 ball, and its interval bounds are those of a point.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor

from nullclass.models import Classifier


class LirpaVerifier:
    """Lower bounds ``(N, M)`` of ``C z`` by auto_LiRPA.

    Args:
        model: The classifier, in evaluation mode.
        image: ``(1, C, H, W)``, an example.
        method: ``IBP``, ``CROWN-IBP``, ``CROWN``, or ``CROWN-Optimized`` (α-CROWN): float32 only,
            and for one call, since it keeps the slopes of its images.

    Raises:
        ImportError: If auto_LiRPA is not installed.
        NotImplementedError: If it does not know a layer.
    """

    def __init__(self, model: Classifier, image: Tensor, method: str = "IBP") -> None:
        self.method = method
        self.model = model
        with _missing_names(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import auto_LiRPA
            import auto_LiRPA.perturbations

            self._library = auto_LiRPA
            self._bounded = auto_LiRPA.BoundedModule(
                model.body,
                self._standardised(image),
                device=str(image.device),
                bound_opts={"sparse_features_alpha": False, "sparse_spec_alpha": False},
            )

    def __call__(self, images: Tensor, radius: float, norm: str, spec: Tensor) -> Tensor:
        """Bounds over the L∞ ball in [0,1], or the L2 ball."""
        if norm == "linf":
            low = self._standardised((images - radius).clamp(min=0))
            high = self._standardised((images + radius).clamp(max=1))
            region = self._library.PerturbationLpNorm(norm=torch.inf, eps=0, x_L=low, x_U=high)
        else:
            (std,) = self.model.std.unique()  # it knows no ellipsoids
            region = self._library.PerturbationLpNorm(norm=2, eps=radius / float(std))
        rows = spec.expand(len(images), *spec.shape[-2:]).contiguous()
        inputs = self._library.BoundedTensor(self._standardised(images), region)
        with torch.set_grad_enabled(self.method == "CROWN-Optimized"):
            lower, _ = self._bounded.compute_bounds(
                x=(inputs,), C=rows, method=self.method, bound_upper=False
            )
        return lower.detach()

    def _standardised(self, images: Tensor) -> Tensor:
        return (images - self.model.mean) / self.model.std


@contextmanager
def _missing_names() -> Iterator[None]:
    import torch.onnx.symbolic_helper as helper

    arrays = ModuleType("numpy.lib.arraysetops")
    arrays.isin = numpy.isin  # type: ignore[attr-defined]
    sys.modules.setdefault(arrays.__name__, arrays)
    added: list[tuple[Any, str]] = []
    for owner, name, value in (
        (helper, "_set_opset_version", lambda version: None),
        (torch._C.Node, "__getitem__", lambda node, name: getattr(node, node.kindOf(name))(name)),
    ):
        if not hasattr(owner, name):
            setattr(owner, name, value)
            added.append((owner, name))
    try:
        yield
    finally:
        for owner, name in added:
            delattr(owner, name)
        if sys.modules.get(arrays.__name__) is arrays:
            del sys.modules[arrays.__name__]

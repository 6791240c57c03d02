"""auto_LiRPA beside our own bounds: somebody else's code, to check ours by.

Bounds of Xu et al. 2020 ("Automatic perturbation analysis for scalable certified robustness"). They
are not rounded outward, so they check ours and prove nothing by themselves.

The release on PyPI, 0.3, demands torch below 1.13 and torchvision in its metadata, and uses three
names that have gone since: ``numpy.lib.arraysetops``, ``torch.onnx.symbolic_helper``'s
``_set_opset_version``, and ``node[name]`` on the nodes of a traced graph. They are put back while
it is imported and reads a network, and taken away after; with them it works (tried: torch 2.13).
It knows neither hardtanh nor ELU. It is given standardised images: behind the standardisation it
forgets an L2 ball, and its interval bounds are those of a point.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from nullclass.certify.regions import check_radius
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier

Method = Literal["IBP", "CROWN-IBP", "CROWN"]

INSTALL = "pip install 'nullclass[certify]' && pip install --no-deps auto_LiRPA==0.3"
"""How to get it: its metadata forbids this torch, and demands torchvision, which it never uses."""


def lirpa_bounds(
    model: Classifier,
    images: Tensor,
    radius: float,
    norm: str,
    spec: Tensor,
    *,
    method: Method = "IBP",
) -> Tensor:
    """auto_LiRPA's lower bounds of ``C z``; not sound in floating point.

    Args:
        model: The classifier, in evaluation mode; left as it is.
        images: ``(N, C, H, W)`` in [0,1].
        radius: In pixel units.
        norm: ``linf``, cut at 0 and 1, or ``l2``, the whole ball.
        spec: C, ``(M, L)`` or ``(N, M, L)``.
        method: How it bounds.

    Returns:
        ``(N, M)``.

    Raises:
        UserError: If auto_LiRPA is not installed or cannot be imported, or the norm or the radius
            makes no sense.
    """
    return LirpaVerifier(model, images[:1], method=method)(images, radius, norm, spec)


class LirpaVerifier:
    """A model read by auto_LiRPA once, to be bounded many times.

    Args:
        model: The classifier, in evaluation mode; left as it is.
        image: ``(1, C, H, W)``, one of those to come.
        method: How it bounds.

    Raises:
        UserError: If auto_LiRPA is not installed, cannot be imported or does not know a layer.
    """

    def __init__(self, model: Classifier, image: Tensor, *, method: Method = "IBP") -> None:
        library = _library()
        self.method = method
        self.model = model
        self._perturbation = library.PerturbationLpNorm
        self._tensor = library.BoundedTensor
        with _names_put_back(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            try:
                self._bounded = library.BoundedModule(
                    model.body, self._standardised(image), device=str(image.device)
                )
            except NotImplementedError as error:
                raise UserError(f"auto_LiRPA cannot read the network: {error}") from None

    @torch.no_grad()
    def __call__(self, images: Tensor, radius: float, norm: str, spec: Tensor) -> Tensor:
        """Lower bounds of ``C z``, as of :func:`lirpa_bounds`."""
        check_radius(radius, norm)
        if norm == "linf":
            low = self._standardised((images - radius).clamp(min=0))
            high = self._standardised((images + radius).clamp(max=1))
            region = self._perturbation(norm=torch.inf, eps=0, x_L=low, x_U=high)
        else:
            std = self.model.std.unique()
            if len(std) > 1:
                raise UserError("auto_LiRPA knows no ellipsoids: L2 needs one std for all channels")
            region = self._perturbation(norm=2, eps=radius / float(std))
        rows = spec.expand(len(images), *spec.shape[-2:]).contiguous()
        given = self._tensor(self._standardised(images), region)
        lower, _ = self._bounded.compute_bounds(
            x=(given,), C=rows, method=self.method, bound_upper=False
        )
        bounds: Tensor = lower
        return bounds

    def _standardised(self, images: Tensor) -> Tensor:
        return (images - self.model.mean) / self.model.std


def _library() -> Any:
    try:
        with _names_put_back(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import auto_LiRPA
            import auto_LiRPA.perturbations
    except Exception as error:  # a broken install raises more than ImportError
        raise UserError(
            f"auto_LiRPA cannot be used ({type(error).__name__}: {error}): {INSTALL}"
        ) from None
    library = ModuleType("lirpa")
    library.BoundedModule = auto_LiRPA.BoundedModule  # type: ignore[attr-defined]
    library.BoundedTensor = auto_LiRPA.BoundedTensor  # type: ignore[attr-defined]
    library.PerturbationLpNorm = auto_LiRPA.PerturbationLpNorm  # type: ignore[attr-defined]
    return library


@contextmanager
def _names_put_back() -> Iterator[None]:
    """What auto_LiRPA 0.3 looks for in numpy and torch, for as long as it looks."""
    import torch.onnx.symbolic_helper as helper

    arrays = "numpy.lib.arraysetops"
    is_there = arrays in sys.modules
    if not is_there:
        stand_in = ModuleType(arrays)
        stand_in.isin = numpy.isin  # type: ignore[attr-defined]
        sys.modules[arrays] = stand_in
    added: list[tuple[Any, str]] = []
    for owner, name, value in (
        (helper, "_set_opset_version", _opset_version_set),
        (torch._C.Node, "__getitem__", _attribute),
    ):
        if not hasattr(owner, name):
            setattr(owner, name, value)
            added.append((owner, name))
    try:
        yield
    finally:
        for owner, name in added:
            delattr(owner, name)
        if not is_there:
            sys.modules.pop(arrays, None)


def _opset_version_set(version: int) -> None:
    """Nothing: the graph is only simplified, never exported."""


def _attribute(node: Any, name: str) -> Any:
    return getattr(node, node.kindOf(name))(name)

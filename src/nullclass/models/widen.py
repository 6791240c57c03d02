"""Adds a null class to a trained classifier."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.models.network import FunctionModule


def with_null_class(module: nn.Module) -> nn.Module:
    """Return a copy of a classifier whose last linear layer has one more output, null.

    The learned rows are kept. The null row is their mean, so that the null logit is the mean of the
    real logits: no prediction changes until the copy is trained.

    Args:
        module: A classifier; its logits come from the :class:`torch.nn.Linear` registered last.

    Raises:
        UserError: If it is a function, has no linear layer, or a null class already.
    """
    if isinstance(module, Classifier) and module.has_null:
        raise UserError("the model has a null class already: train it as it is")
    if not isinstance(module, nn.Module) or any(
        isinstance(part, FunctionModule) for part in module.modules()
    ):
        raise UserError("a function has no layer to widen: add the null logit by hand")
    linears = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise UserError("the model has no linear layer to widen: add the null logit by hand")
    name, last = linears[-1]
    if hasattr(last, "is_widened"):
        raise UserError("the model has a null class already: train it as it is")
    if {key for key, _ in last.named_parameters()} - {"weight", "bias"}:
        raise UserError(
            f"the last linear layer {name!r} has weights that are computed (such as weight_norm): "
            "remove that first, or add the null logit by hand"
        )
    widened = copy.deepcopy(module)
    if isinstance(widened, Classifier):
        widened.has_null, widened.num_nulls = True, 1
        widened.imported = None  # its function builds the network without null
    wider: nn.Linear = nn.utils.skip_init(  # every weight is set below, so none is drawn
        nn.Linear,
        last.in_features,
        last.out_features + 1,
        bias=last.bias is not None,
        device=last.weight.device,
        dtype=last.weight.dtype,
    )
    with torch.no_grad():
        for parameter, learned in zip(wider.parameters(), last.parameters(), strict=True):
            parameter.copy_(torch.cat([learned, learned.mean(dim=0, keepdim=True)]))
            parameter.requires_grad_(learned.requires_grad)
    wider.train(last.training)
    wider.is_widened = True  # type: ignore[assignment]
    if not name:  # the module is the linear layer itself
        return wider
    parent, _, attribute = name.rpartition(".")
    setattr(widened.get_submodule(parent), attribute, wider)
    return widened

"""A null logit for a classifier that is already trained."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier


def with_null_class(module: nn.Module) -> nn.Module:
    """Copy a classifier and widen its last linear layer by one output, null.

    The learned rows are kept. The null row is their mean, so that at first the null logit is
    the mean of the real logits: never above the largest, so no prediction changes until the
    copy is trained.

    Args:
        module: A classifier whose logits come from the :class:`torch.nn.Linear` it registered last.

    Returns:
        A widened copy; ``module`` itself is left as it was.

    Raises:
        UserError: If the module has no linear layer, or is a :class:`Classifier` with null already.
    """
    if isinstance(module, Classifier) and module.has_null:
        raise UserError("the model has a null class already: train it as it is")
    widened = copy.deepcopy(module)
    if isinstance(widened, Classifier):
        widened.has_null, widened.num_nulls = True, 1
    linears = [(n, m) for n, m in widened.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise UserError("the model has no linear layer to widen: add the null logit by hand")
    name, last = linears[-1]
    wider: nn.Linear = (
        nn.utils.skip_init(  # every weight is set below, so nothing is drawn for them
            nn.Linear,
            last.in_features,
            last.out_features + 1,
            bias=last.bias is not None,
            device=last.weight.device,
            dtype=last.weight.dtype,
        )
    )
    with torch.no_grad():
        wider.weight.copy_(torch.cat([last.weight, last.weight.mean(dim=0, keepdim=True)]))
        if last.bias is not None:
            wider.bias.copy_(torch.cat([last.bias, last.bias.mean(dim=0, keepdim=True)]))
    for parameter, learned in zip(wider.parameters(), last.parameters(), strict=True):
        parameter.requires_grad_(learned.requires_grad)
    wider.train(last.training)
    if not name:  # the module is the linear layer itself
        return wider
    parent, _, attribute = name.rpartition(".")
    setattr(widened.get_submodule(parent), attribute, wider)
    return widened

"""Which images an attack leaves out because it cannot fool them, and a sample that it attacks."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor

from nullclass.core.sampling import evenly

NUM_AUDITED = 25
"""Proved images that are attacked all the same, so that an attack can break a wrong proof."""


def find_proved_eps(certified: pd.DataFrame, chosen: Tensor, norm: str) -> Tensor:
    """Return the eps up to which each image is proved never to be fooled, and is not attacked.

    A proof at an eps holds at every smaller one. :data:`NUM_AUDITED` of the chosen images that are
    proved at the largest eps, spread evenly, count as not proved; if there are fewer, others that
    are proved at a smaller eps complete them. They depend on nothing but the proofs.

    Args:
        certified: Columns of :data:`nullclass.results.schema.CERTIFIED_COLUMNS`, of one model.
        chosen: ``(N,)`` indices of the images under attack.
        norm: Norm of the attack.

    Returns:
        ``(N,)`` float64 in pixel units, -inf for images without a proof and for those audited.
    """
    is_proved = certified["is_never_fooled"].astype(bool) & (certified["norm"] == norm)
    largest = certified[is_proved].groupby("image")["eps_pixels"].max()
    proved = largest.reindex(chosen.tolist()).dropna()
    audited: list[int] = []
    for eps in sorted(proved.unique(), reverse=True):
        images = proved.index[proved >= eps].difference(audited)
        audited += evenly(images, NUM_AUDITED - len(audited))
    left = largest.drop(audited).reindex(chosen.tolist()).fillna(-math.inf)
    return torch.tensor(left.to_numpy(dtype=float))

"""Images perturbed by a random size, null in part: NULL probabilities (Hosseini et al. 2017).

    x' = perturb(x, s),    s ~ U(0, s_max],    t = (1 - p) onehot(y) + p null,    p = f(|x' - x|)

Their step 3: the more an image is perturbed, the more of its target moves from the true label to
null, at the pace f at which the clean model is fooled (:mod:`nullclass.results.null_curve`, their
step 2).
f is read at the size that came out, which the box may have made smaller than s. The perturbations
are made on the model in training, against its cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nullclass.core.norms import size_of
from nullclass.models.classifier import Classifier
from nullclass.nulls.base import NullImages
from nullclass.nulls.perturb import (
    Perturbation,
    check_norm,
    make_perturbation,
    name_of,
)
from nullclass.nulls.perturb.base import check_maker
from nullclass.results.null_curve import NullCurve


class NullProbabilities:
    """Null images in part, by their distance from the image they were made from.

    Args:
        model: The model in training.
        curve: f, or its values as JSON (:meth:`nullclass.results.null_curve.NullCurve.to_dict`).
        perturbation: A maker, or its name in :data:`nullclass.nulls.perturb.PERTURBATIONS`; unless
            given the one the curve was estimated with.
        perturbation_settings: A named maker's settings; unless given those of the curve, if they
            are that maker's.

    Raises:
        UserError: If the curve is none, the maker is unknown or refuses its settings, or it cannot
            be told a size in the curve's norm.
    """

    is_soft = True

    def __init__(
        self,
        model: Classifier,
        curve: NullCurve | Mapping[str, Any],
        perturbation: str | Perturbation = "",
        perturbation_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.curve = curve if isinstance(curve, NullCurve) else NullCurve.from_dict(curve)
        perturbation = perturbation or self.curve.perturbation
        if isinstance(perturbation, str):
            if perturbation_settings is None and perturbation == self.curve.perturbation:
                perturbation_settings = self.curve.perturbation_settings
            check_norm(perturbation, self.curve.norm)
            perturbation = make_perturbation(perturbation, perturbation_settings)
        self.maker = perturbation
        self.perturbation = name_of(perturbation)
        check_maker(perturbation, self.curve.norm)
        self.needs_image_gradient = self.maker.needs_gradient

    def settings(self) -> dict[str, Any]:
        """The curve, the maker and its settings; the model is the one in training."""
        return {
            "curve": self.curve.to_dict(),
            "perturbation": self.perturbation,
            "perturbation_settings": self.maker.settings(),
        }

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """See :class:`nullclass.nulls.base.NullSource`."""
        drawn = 1 - torch.rand(len(images), generator=generator)  # never 0
        sizes = self.curve.largest * drawn
        if self.curve.norm == "l0":  # 1 to N_max pixels, each as likely
            num_pixels = math.prod(images.shape[2:])
            most = max(1, math.floor(self.curve.largest * num_pixels * (1 + 1e-6)))
            sizes = (most * drawn).ceil() / num_pixels
        sizes = sizes.to(images)
        clean = images.detach()
        perturbed = self.maker(
            self.model, clean, labels, sizes, self.curve.norm, generator, gradient=images.grad
        )
        reached = size_of(perturbed, clean, self.curve.norm)
        shares = torch.from_numpy(self.curve(reached.double().cpu().numpy()))
        return NullImages(perturbed, shares.to(images))

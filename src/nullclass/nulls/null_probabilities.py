"""Perturbed images with a probability of null that grows with the perturbation.

    x' = perturb(x, s),    s ~ U(0, s_max],    t = (1 - p) onehot(y) + p null,    p = f(|x' - x|)

Step 3 of Hosseini et al. 2017 ("Blocking transferability"). f is the null curve: how often the
clean model is fooled by perturbations of a size (:mod:`nullclass.results.null_curve`, their step
2). It is read at the size of the perturbation within [0,1], which may be smaller than s. The
perturbations increase the cross-entropy of the model in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nullclass.core.norms import size_of
from nullclass.models.classifier import Classifier
from nullclass.nulls.base import NullImages, NullSource
from nullclass.nulls.perturb import Perturbation, check_support, make_perturbation, name_of
from nullclass.results.null_curve import NullCurve


class NullProbabilities(NullSource):
    """Soft null images, by their distance from the original image.

    Args:
        model: The model in training.
        curve: f, or its JSON values (:meth:`nullclass.results.null_curve.NullCurve.to_dict`).
        perturbation: A perturbation, or its name in :data:`nullclass.nulls.perturb.PERTURBATIONS`;
            by default, the one that the curve was estimated with.
        perturbation_settings: Settings of a named perturbation; by default, those of the curve if
            it was estimated with the same perturbation.

    Raises:
        UserError: If the curve is invalid, or the perturbation is unknown, rejects its settings or
            does not support the curve's norm.
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
            perturbation = make_perturbation(perturbation, perturbation_settings)
        check_support(perturbation, self.curve.norm)
        self.perturbation = perturbation
        self.needs_image_gradient = perturbation.needs_gradient

    def settings(self) -> dict[str, Any]:
        """Return the curve, the perturbation and its settings."""
        return {
            "curve": self.curve.to_dict(),
            "perturbation": name_of(self.perturbation),
            "perturbation_settings": self.perturbation.settings(),
        }

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return images perturbed by random sizes (:class:`nullclass.nulls.base.NullSource`)."""
        uniform = 1 - torch.rand(len(images), generator=generator)  # in (0, 1]
        sizes = self.curve.largest * uniform
        if self.curve.norm == "l0":  # 1 to N_max pixels, all equally likely
            num_pixels = math.prod(images.shape[2:])
            max_pixels = max(1, math.floor(self.curve.largest * num_pixels * (1 + 1e-6)))
            sizes = (max_pixels * uniform).ceil() / num_pixels
        clean = images.detach()
        perturbed = self.perturbation(
            self.model,
            clean,
            labels,
            sizes.to(images),
            self.curve.norm,
            generator,
            gradient=images.grad,
        )
        final_sizes = size_of(perturbed, clean, self.curve.norm)
        null_probs = torch.from_numpy(self.curve(final_sizes.cpu().double().numpy()))
        return NullImages(perturbed, null_probs.to(images))

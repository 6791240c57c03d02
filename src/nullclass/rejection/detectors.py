"""The detectors by name, each fitted to clean training images with the settings of its paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from nullclass.models.classifier import Classifier
from nullclass.rejection.feature_squeezing import FeatureSqueezing
from nullclass.rejection.fitting import Images
from nullclass.rejection.kernel_density import fit_kernel_density
from nullclass.rejection.magnet import AnswerDivergence, ReconstructionError, train_autoencoder
from nullclass.rejection.mahalanobis import fit_mahalanobis
from nullclass.rejection.odds_are_odd import fit_odds_are_odd
from nullclass.rejection.reject_by import LogitScore, check_without_null
from nullclass.rejection.scores import SCORES

Fit = Callable[[Classifier, Images, int], nn.Module]
"""A classifier of K logits, clean training images and a seed, to a detector."""


def _autoencoder(classifier: Classifier, clean: Images, seed: int) -> nn.Module:
    check_without_null(classifier)  # before the training, which takes long
    return train_autoencoder(clean, seed=seed, device=classifier.mean.device)


def _of_logits(name: str, classifier: Classifier, clean: Images, seed: int) -> nn.Module:
    return LogitScore(name)


DETECTORS: dict[str, Fit] = {
    **{name: partial(_of_logits, name) for name in SCORES if name != "null-logit"},
    "feature-squeezing": lambda classifier, clean, seed: FeatureSqueezing(classifier),
    "magnet-reconstruction": lambda *given: ReconstructionError(_autoencoder(*given)),
    "magnet-divergence": lambda *given: AnswerDivergence(given[0], _autoencoder(*given)),
    "kernel-density": lambda classifier, clean, seed: fit_kernel_density(classifier, clean),
    "mahalanobis": lambda classifier, clean, seed: fit_mahalanobis(classifier, clean),
    "odds-are-odd": lambda classifier, clean, seed: fit_odds_are_odd(classifier, clean, seed=seed),
}
"""For :func:`nullclass.rejection.reject_by`, by name. Consistency and the proofs have a radius, and
are classifiers of their own: ``ConsistentNull``, ``ProvableNull``, ``SmoothedNull``."""

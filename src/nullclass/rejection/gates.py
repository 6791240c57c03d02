"""Gradients of a null score that a gate by hand hides from attacks.

A detector is often wired as ``null = where(s(x) > tau, top + 1, top - 1)``. The answers are those
of :func:`nullclass.rejection.reject_by`, but no gradient leads through the comparison, so attacks
walk into null by chance. :func:`see_through` records what a forward pass compares: the null score
of an image that requires a gradient becomes ``s(x) - tau`` of the comparison that decides on null,
and rounding gets the gradient of the identity (BPDA, Athalye et al. 2018). All answers, and the
logits of images without a gradient, stay exactly those of the model. What is compared outside of
torch is unknown; :class:`EstimatedGate` estimates its gradient from finite differences.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nullclass.attacks.steps import NoGradientError, input_gradient
from nullclass.core.modules import frozen
from nullclass.models.classifier import Classifier, append_null
from nullclass.rejection.certificates import CertifiedNull
from nullclass.rejection.fixed import FixedClassifier
from nullclass.rejection.reject_by import with_gradient_of
from nullclass.rejection.scores import null_scores

GREATER = ("gt", "ge", "greater", "greater_equal")
LESS = ("lt", "le", "less", "less_equal")
SIGN = ("sign", "sgn", "heaviside")
ROUND = ("round", "floor", "ceil", "trunc", "fix")
"""Names of functions of torch, as functions, methods and operators."""

NUM_DIRECTIONS = 16
"""Random directions of an estimated gradient, both ways each."""


class Recorder(TorchFunctionMode):
    """Records ``a - b`` of every comparison ``a > b``, and lets gradients through rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.differences: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = getattr(function, "__name__", "").strip("_")
        given = [*args, *(kwargs[key] for key in ("input", "other") if key in kwargs)]
        is_float = all(not isinstance(each, Tensor) or each.is_floating_point() for each in given)
        if name in ROUND and isinstance(result, Tensor) and is_float:
            return with_gradient_of(result, given[0])
        if name in SIGN and is_float:
            self.differences.append(given[0])
        if name in GREATER + LESS and is_float and len(given) == 2:
            difference = torch.as_tensor(given[0] - given[1])
            self.differences.append(difference if name in GREATER else -difference)
        return result


class ThroughGate(FixedClassifier):
    """A classifier with the same answers, whose null score has a gradient.

    Args:
        model: K classes and null; shared, not copied.
        rule: Which of the :func:`candidates` is the null score.
        num_candidates: How many there were, of a batch of ``size``. A network that computes a large
            batch in parts has more, so its gradients are computed in batches of ``size``.
        size: The size of that batch.
        scale: Factor of the null score, if it is smaller than the logits: attacks on the sum
            of the two follow the larger one (LOG.md).
    """

    def __init__(
        self, model: Classifier, rule: int, num_candidates: int, size: int, scale: float = 1.0
    ) -> None:
        super().__init__(model)
        self.rule, self.num_candidates, self.size = rule, num_candidates, size
        self.scale = scale
        self.eval()

    def all_logits(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K + 1)``; those of the model, where no gradient is needed."""
        if not images.requires_grad:
            given: Tensor = self.model(images)
            return given
        logits, scores = candidates(self.model, images)
        if len(scores) != self.num_candidates and len(images) > self.size:
            return torch.cat([self.all_logits(part) for part in images.split(self.size)])
        is_null = null_scores(logits.detach(), self.num_classes) > 0
        score = self.scale * scores[self.rule]
        tiny = torch.finfo(score.dtype).tiny
        agreeing = torch.where(is_null, score.clamp(min=tiny), score.clamp(max=0))
        return append_null(logits[:, : self.num_classes], with_gradient_of(agreeing, score))


class EstimatedGate(FixedClassifier):
    """A classifier with the same logits, whose null score has an estimated gradient.

    That is the mean of ``u (s(x + sigma u) - s(x - sigma u)) / (2 sigma)`` over random directions u
    (Spall 1992; Salimans et al. 2017), the gradient of the score averaged over noise.

    Args:
        model: K classes and null; shared, not copied.
        sigma: Standard deviation of the noise, in pixel units.
        seed: Seed of the directions.
    """

    def __init__(self, model: Classifier, sigma: float, seed: int) -> None:
        super().__init__(model)
        self.sigma = sigma
        self.generator = torch.Generator().manual_seed(seed)
        self.eval()

    def all_logits(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K + 1)``; with a gradient, by ``2 NUM_DIRECTIONS`` more passes."""
        logits: Tensor = self.model(images)
        if not images.requires_grad:
            return logits
        score, x = null_scores(logits, self.num_classes), images.detach()
        gradient = torch.zeros_like(x)
        for _ in range(NUM_DIRECTIONS):
            u = torch.randn(x.shape, generator=self.generator).to(x)
            above, below = (self._score(x + step * u) for step in (self.sigma, -self.sigma))
            slope = (above - below) / (2 * self.sigma * NUM_DIRECTIONS)
            gradient += slope.view(-1, 1, 1, 1).to(u) * u
        linear = (gradient * images).flatten(1).sum(dim=1).to(score)
        return append_null(logits[:, : self.num_classes], with_gradient_of(score, linear))

    @torch.no_grad()
    def _score(self, images: Tensor) -> Tensor:
        return null_scores(self.model(images.clamp(0, 1)), self.num_classes)


def candidates(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits ``(N, K + 1)``, and what may decide on null, ``(M, N)``.

    The differences of each comparison, 0 if it has no gradient or not one value per image; their
    largest and their smallest; all of these with the other sign; and the model's own null score,
    through rounding.
    """
    with Recorder() as recorder:
        logits = model(images)
    size = len(images)
    is_usable = [d.requires_grad and d.shape in ((size,), (size, 1)) for d in recorder.differences]
    zeros = torch.zeros_like(images[:, 0, 0, 0])
    pairs = list(zip(recorder.differences, is_usable, strict=True))
    compared = [d.reshape(size) if usable else zeros for d, usable in pairs]
    used = torch.stack([d.reshape(size) for d, usable in pairs if usable] or [zeros])
    rows = torch.stack([*compared, used.amax(dim=0), used.amin(dim=0)])
    own = null_scores(logits, model.num_classes)
    return logits, torch.cat([rows.to(own), -rows.to(own), own[None]])


def see_through(model: Classifier, images: Tensor) -> Classifier:
    """Return the model as a :class:`ThroughGate` if it has a gate that can be seen through.

    A gate: real logits have a gradient, but the null logit, or the null score, has none on any
    image. It is seen through if the rounding or one of the comparisons of its forward pass decides
    on null, on clean and on noisy images. Bounds and votes
    (:class:`nullclass.rejection.ProvableNull`) are no gates.

    Args:
        model: The model under test.
        images: ``(N, C, H, W)``, a few clean images.
    """
    if not model.has_null or isinstance(model, CertifiedNull):
        return model
    images = images.to(model.mean.device)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    tried = torch.cat([images, (images + noise) / 2, noise]).requires_grad_()
    with frozen(model):
        try:
            of_real, of_null, bare = (
                input_gradient(model, tried, loss)[0]
                for loss in (
                    lambda logits: logits[:, : model.num_classes].logsumexp(dim=1),
                    lambda logits: logits[:, -1],
                    partial(null_scores, num_classes=model.num_classes),
                )
            )
            if not of_real.any() or (of_null.any() and bare.any()):
                return model
            logits, scores = candidates(model, tried)
            if len(candidates(model, tried[:1])[1]) != len(scores):
                return model  # a batch in parts: which comparison is which depends on its size
        except (NoGradientError, RuntimeError):  # a compiled graph, say, may refuse to be recorded
            return model
        is_null = null_scores(logits, model.num_classes) > 0
        for rule, score in enumerate(scores):
            if torch.equal(score > 0, is_null):
                (gradient,) = torch.autograd.grad(score.sum(), tried, retain_graph=True)
                if gradient.any() and not torch.equal(gradient, bare):
                    spread = logits[:, : model.num_classes].std() / score.std()
                    scale = max(1.0, float(spread.detach()))
                    return ThroughGate(model, rule, len(scores), len(tried), scale)
    return model

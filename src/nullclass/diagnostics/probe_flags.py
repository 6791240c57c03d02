"""Red-flag checks that read probe results. Imports no torch."""

from __future__ import annotations

from typing import Any

from nullclass.diagnostics.evidence import MIN_IMAGES, Evidence, is_many
from nullclass.metrics.rates import wilson

HIGH_ZERO_GRADIENTS = 0.05
"""Share of images without a gradient: about 0 for trained networks, near 1 for masked gradients."""

HIGH_NOISE_NULL = 0.1
"""Null rate under noise: twice the largest accepted null rate of clean images."""

HIGH_MISLEADING = 0.25
"""Share of images whose null score falls along its own gradient, of those where it changes: at most
6 of 64 for 24 models with detectors (LOG.md), about one half for the gradient of something else."""

RANDOM_LOGITS = 1e-4
"""Difference of two passes, as a share of the largest logit; rounding on a GPU is below 1e-5."""

RANDOM_GRADIENTS = 1e-2
"""The same for gradients, as a share of their norm; their rounding errors are larger."""


def doubling_finds_more(evidence: Evidence) -> str | None:
    """Twice the steps or restarts would raise AER by more than half a point."""
    for effort in ("steps", "restarts"):
        probe = evidence.probes.get(f"doubled_{effort}")
        if probe and is_many(probe["num_fooled"], probe["num_judged"]):
            return f"With twice the {effort}, {probe['attack']} {_found(probe)}."
    return None


def reference_finds_more(evidence: Evidence) -> str | None:
    """The reference attack fools images that the evaluation's attacks do not."""
    probe = evidence.probes.get("reference")
    if not probe or not is_many(probe["num_fooled"], probe["num_judged"]):
        return None
    return f"A null-aware reference {_found(probe)}."


def _found(probe: dict[str, Any]) -> str:
    return (
        f"at eps {probe['eps']:g} fooled {probe['num_fooled']} of {probe['num_images']} images "
        "that no attack had fooled: AER would rise by at least "
        f"{100 * probe['num_fooled'] / probe['num_judged']:.1f} points"
    )


def rerun_differs(evidence: Evidence) -> str | None:
    """An attack fails at a larger eps on images that it fools at a smaller one."""
    probe = evidence.probes.get("rerun")
    if not probe:
        return None
    is_larger = probe["follows_from"] == "larger"
    num = probe["num_fooled"] if is_larger else probe["num_images"] - probe["num_fooled"]
    if not is_many(num, probe["num_judged"]):
        return None
    did = "fooled" if is_larger else "did not fool"
    had = "had not fooled at a larger" if is_larger else "had fooled at a smaller"
    return (
        f"{probe['attack']}, run from scratch at eps {probe['eps']:g}, {did} {num} of "
        f"{probe['num_images']} images that it {had} eps."
    )


def largest_budget_survived(evidence: Evidence) -> str | None:
    """Attacks fail at the largest eps, unless proofs show that they miss nothing."""
    probe = evidence.probes.get("largest_eps")
    if not probe or not is_many(probe["num_accepted"] - probe["num_fooled"], probe["num_images"]):
        return None
    if evidence.is_bracket_closed():
        return None
    return (
        f"At eps {probe['eps']:g}, where any image can become any other, the attacks fooled "
        f"{probe['num_fooled']} of {probe['num_images']} images, although the model answers "
        f"{probe['num_accepted']} clean ones with a real class."
    )


def no_gradients(evidence: Evidence) -> str | None:
    """Autograd does not connect the logits to the pixels."""
    probe = evidence.probes.get("gradients")
    if not probe or probe["has_gradients"]:
        return None
    return (
        "The logits have no gradient with respect to the pixels, so no attack could use one: the "
        "forward pass detaches its input (torch.no_grad, .detach() or numpy inside)."
    )


def zero_gradients(evidence: Evidence) -> str | None:
    """The gradient is exactly zero on many images."""
    probe = evidence.probes.get("gradients")
    if not probe or not probe["has_gradients"]:
        return None
    for key, name in (("margin", "the null-aware margin"), ("cross_entropy", "cross-entropy")):
        num, total = probe[f"num_zero_{key}"], probe["num_images"]
        if is_many(num, total, HIGH_ZERO_GRADIENTS):
            return f"The gradient of {name} is exactly zero on {num} of {total} images."
    return None


def hidden_null_score(evidence: Evidence) -> str | None:
    """No gradient leads through what decides on null."""
    probe, gate = evidence.probes.get("gradients"), evidence.probes.get("gate")
    if not evidence.has_null or not probe or not probe["has_gradients"]:
        return None
    if gate:
        num, total = gate["num_fooled"], gate["num_images"]
        compared = f": of {total} images fooled so, {gate['attack']} fools {num} on it as given"
        return (
            "The model as given decides on null by a comparison or rounding without a gradient, "
            f"and attacks here go through it{compared if total else ''}."
        )
    num, total = probe["num_zero_null_score"], probe["num_images"]
    if not is_many(num, total, HIGH_ZERO_GRADIENTS):
        return None
    found = evidence.probes.get("estimated_gate") or {"num_fooled": 0}
    by_differences = (
        f"; with finite differences of it a reference {_found(found)}"
        if found["num_fooled"]
        else ""
    )
    return (
        f"The null logit minus the largest real one has a gradient of exactly zero on {num} of "
        f"{total} images, so gradient attacks do not see what makes the model answer null"
        f"{by_differences}."
    )


def misleading_null_gradient(evidence: Evidence) -> str | None:
    """The null score falls along its own gradient."""
    probe = evidence.probes.get("null_direction")
    if not probe:
        return None
    num, total = probe["num_fallen"], probe["num_fallen"] + probe["num_risen"]
    if not is_many(num, total, HIGH_MISLEADING):
        return None
    return (
        f"On {num} of the {total} images on which the null score changes, a step of eps "
        f"{probe['eps']:g} along its gradient gives a lower score than one against it, so gradient "
        "attacks go the wrong way."
    )


def non_finite_gradients(evidence: Evidence) -> str | None:
    """The gradient of an image is NaN or infinite."""
    probe = evidence.probes.get("gradients")
    if not probe or not probe["num_non_finite"]:
        return None
    num, total = probe["num_non_finite"], probe["num_images"]
    return f"The gradient is not finite on {num} of {total} images."


def random_gradients(evidence: Evidence) -> str | None:
    """Two gradients of the same image differ."""
    probe = evidence.probes.get("gradients")
    if not probe or probe["largest_difference"] <= RANDOM_GRADIENTS:
        return None
    difference = 100 * probe["largest_difference"]
    return f"Two gradients of the same image differ by up to {difference:.2g} % of their norm."


def random_forward(evidence: Evidence) -> str | None:
    """Two passes of the same image differ, at random or by the other images of the batch."""
    probe = evidence.probes.get("forward")
    if not probe or probe["largest_difference"] <= RANDOM_LOGITS:
        return None
    return (
        "Two passes of the same image, among others and among half of them, differ by up to "
        f"{100 * probe['largest_difference']:.2g} % of the largest logit, and "
        f"{probe['num_predictions']} of {probe['num_images']} predictions change."
    )


def null_on_noise(evidence: Evidence) -> str | None:
    """Random noise turns correct images to null."""
    probe = evidence.probes.get("noise")
    if not probe:
        return None
    for kind in ("uniform", "signs"):
        num, total = probe[f"num_null_{kind}"], probe["num_images"]
        if num >= MIN_IMAGES and wilson(num, total)[0] > HIGH_NOISE_NULL:
            return (
                f"Random noise ({kind}) of eps {probe['eps']:g} turns {num} of {total} correct "
                "images to null."
            )
    return None

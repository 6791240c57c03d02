"""The members of the zoo, in the order of its tables, as their cards tell of them. No torch.

A new one: an entry here, and its checkpoint by :func:`nullclass.zoo.adopt.adopt`.
"""

from __future__ import annotations

from nullclass.zoo.about import About

_THREAT = (
    "Threat model: any change of the pixels within ε (L∞, pixel units, within [0,1]) by somebody "
    "who knows the weights and wants a wrong class answered."
)

_ATTACKED = (
    "Nothing is proved of it: it was attacked, and an attack can only show that an image can be "
    "fooled. Its robust accuracy with rejection is at most what the leaderboard says, and a better "
    "attack may leave less. Nothing is promised against refusal, in other norms, or for images "
    "that are not like the test set's."
)

_PROVED = (
    "Where interval bounds prove the label within max({radius}, ε - {radius}) of an image, no "
    "input within ε of it is answered with another class, whatever the attack. The share of test "
    "images of which that is so is the proved robust accuracy with rejection. It holds for the "
    "real function of the weights as they are stored: the bounds are moved outward by what "
    "floating point may round. "
)

_NOT_PROVED = (
    "Nothing is promised against refusal: an attacker can make it say null (null-DoS in the "
    "leaderboard). Nothing is promised in other norms, for rotations, or for images that are not "
    "like the test set's; and an answer that is proved to be stable may still be wrong."
)

_PROVABLE_RECIPE = (
    "K classes without null, trained on jittered images with interval bounds: 50 epochs for ε "
    "0.16, then 10 for ε {eps} (study provable-null, full). Null is what cannot be proved within "
    "{radius}. Training minutes are those of both stages on one core, beside other work."
)

_PROVABLE_SOURCE = (
    "A verifier as a classifier: Tramèr 2022, Detecting adversarial examples is (nearly) as hard "
    "as classifying them. Interval bounds: Gowal et al. 2018, On the effectiveness of interval "
    "bound propagation for training verifiably robust models; the short warm-up is that of Shi et "
    "al. 2021, Fast certified robust training with short warmup."
)


def _provable(eps: float, radius: float, train_eps: float) -> About:
    return About(
        title=f"null that is proved: answers what is proved within {radius:g}, for ε {eps:g}",
        recipe=_PROVABLE_RECIPE.format(eps=train_eps, radius=radius),
        claims=_PROVED.format(radius=radius) + _THREAT,
        limits=_NOT_PROVED,
        source=_PROVABLE_SOURCE,
        eps=(0.1, 0.3, 0.4),
        radius=radius,
    )


MEMBERS: dict[str, About] = {
    "notebook-null": About(
        title="the notebook's null class: FGSM images are null",
        recipe="The notebook's model null-0.5-wd: FGSM images of ε 0.154, made on the fly, are "
        "labelled null (study fgsm-null, fast recipe).",
        claims="It answers null to FGSM images of its own, at the ε it was trained for. Here it is "
        f"judged by the worst case. {_THREAT}",
        limits=_ATTACKED,
        source="The notebook whose figures the study fgsm-null reproduces; the idea is that of "
        "Hosseini et al. 2017, arXiv 1703.04318.",
        eps=(0.1, 0.3),
    ),
    "report-usm": About(
        title="the report's usm: uniform, tile-shuffled and mixed images are null",
        recipe="The report's network; 35 % of each batch are null images of the three kinds (study "
        "null-samples, fast recipe). The epoch kept is the best on held-out training images, which "
        "was the best on test images too.",
        claims="It answers null to images that are no digit, and to most FGSM images of another "
        f"network. Here it is judged by the worst case. {_THREAT}",
        limits=_ATTACKED,
        source="Roos 2020, arXiv 2002.10084.",
        eps=(0.1, 0.3),
    ),
    "null-probabilities": About(
        title="NULL probabilities: the more an image is perturbed, the more its target is null",
        recipe="The notebook's network, trained with PGD images of every size; the share of null "
        "in their target is how often that size fools a clean network, estimated on held-out "
        "images (study null-probabilities, np-linf).",
        claims="Images made to fool another network do not fool this one. Here it is judged by the "
        f"worst case. {_THREAT}",
        limits=_ATTACKED,
        source="Hosseini et al. 2017, Blocking transferability of adversarial examples in "
        "black-box learning systems, arXiv 1703.04318.",
        eps=(0.1, 0.3),
    ),
    "adversarial-null": About(
        title="adversarial training with null: of an attacked image the label or null is right",
        recipe="Null-aware PGD at ε 0.3; -log(p_label + p_null) on what it makes, cross-entropy on "
        "clean images; 3 epochs of a small network (study provable-null, quick).",
        claims=f"Few images can be fooled within ε 0.3. {_THREAT}",
        limits=_ATTACKED,
        source="Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, "
        "here with a null class.",
        eps=(0.1, 0.3, 0.4),
    ),
    "abstain": About(
        title="the abstain class: bounds under which the label or null beats every other class",
        recipe="K + 1 classes, trained with interval bounds for ε 0.3 under which no wrong class "
        "may beat both the label and null; 5 epochs of a small network (study provable-null, "
        "quick).",
        claims="Where bounds prove that the label or null beats each other class within ε, no "
        f"attack fools it; the leaderboard counts those images. {_THREAT}",
        limits=_NOT_PROVED,
        source="Sheikholeslami, Lotfi & Kolter 2021, Provably robust classification of adversarial "
        "examples with detection.",
        eps=(0.1, 0.3, 0.4),
    ),
    "provable-0.3": _provable(0.3, 0.15, 0.125),
    "provable-0.4": _provable(0.4, 0.2, 0.175),
}
"""By name."""

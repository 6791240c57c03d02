"""Part ``worst-case`` of ``gpu.py``: the worst case on the zoo, and version 1 on fewer images."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from common import mnist
from gpu_checks import shrunk
from gpu_options import Items, Options, Row
from nullclass.attacks import find_attack
from nullclass.attacks.base import with_reference_images
from nullclass.core.devices import exact_float32, find_device
from nullclass.zoo import load_zoo
from worst_case import attack_chunk, make_chunk
from worst_case_table import OURS, REFERENCE

MODELS = ("adversarial-null", "null-probabilities", "notebook-null", "provable-0.3")
EPS = (0.3, 0.1)
"""Budgets, L∞, in pixel units."""

NUM_IMAGES, CHUNK = 10_000, 2000


def worst_case_items(o: Options) -> Items:
    """One item per model, eps and chunk of images; all models before the next chunk."""
    num_images, size = (8, 8) if o.tiny else (NUM_IMAGES, CHUNK)
    plan = [(OURS, first) for first in range(0, num_images, size)] + [(REFERENCE, 0)]
    return {
        f"{attack}, {model}, {eps:g}, from image {first}": partial(
            attack_images, attack, model, eps, first, size, o
        )
        for attack, first in plan
        for eps in EPS
        for model in MODELS
    }


@exact_float32()
def attack_images(name: str, model: str, eps: float, first: int, size: int, o: Options) -> Row:
    """Attack some images of a model; outcomes are checked on the device."""
    attack, test = find_attack(name), mnist(o.data).test
    attack = with_reference_images(shrunk(attack) if o.tiny else attack, test)
    classifier = load_zoo(model, find_device(o.device)).requires_grad_(False)
    chunk = make_chunk(classifier, test, first, size, eps)
    attacked = attack_chunk(classifier, attack, chunk)
    version = str(getattr(attack, "version", ""))
    about = {"attack": name, "version": version, "model": model, "eps": eps, "first": first}
    costs = {f"attack_{key}": value for key, value in asdict(attacked).items() if "sec" in key}
    passes = {"forward": attacked.forward, "backward": attacked.backward}
    return about | {"outcomes": attacked.outcomes} | costs | passes

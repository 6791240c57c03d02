"""Part ``certified`` of ``gpu.py``: the study's certified training, and what is proved of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from common import cached_model, mnist
from gpu_options import Items, Options, Row
from nullclass.core.devices import find_device
from nullclass.experiments.config import Training
from nullclass.metrics.rates import proved_rates
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull
from nullclass.scoring.proofs import prove
from nullclass.studies.provable_null.config import PROVABLE, training

VERIFIERS = {"interval": 10_000, "cascade": 500}
"""How many test images each verifier gets."""


def certified_items(o: Options) -> Items:
    """Per model its training, then the rates that each verifier proves."""
    items: Items = {}
    for name in PROVABLE:
        items[f"{name}, training"] = partial(train_model, name, o)
        for verifier in VERIFIERS:
            items[f"{name}, {verifier}"] = partial(prove_model, name, verifier, o)
    return items


def train_model(name: str, o: Options) -> Row:
    """Train a model, stage by stage; each leaves a checkpoint, and an epoch its state."""
    trained(training(name, "mnist", 0, "full"), o)
    return {}


def trained(config: Training, o: Options) -> Classifier:
    """Return a model and train it if it has no checkpoint yet, after the model it starts from."""
    start = None if config.start is None else trained(config.start, o)
    if o.tiny:
        config = replace(config, recipe=replace(config.recipe, epochs=1))
    dataset, folder = mnist(o.data, 256 if o.tiny else None), o.out / "certified" / config.name
    return cached_model(config, dataset, folder, find_device(o.device), start)


def prove_model(name: str, verifier: str, o: Options) -> Row:
    """Return the proved RAR at twice the radius, and the clean images that are fooled."""
    model = trained(training(name, "mnist", 0, "full"), o)
    radius = 1e-3 if o.tiny else PROVABLE[name]  # minutes per image of an untrained network
    test = mnist(o.data).test.first(1 if o.tiny else VERIFIERS[verifier])
    provable = ProvableNull(model, radius, verifier=verifier)
    rows = prove(provable, test, 2 * radius, verifier=verifier)
    rates = proved_rates(rows).set_index("metric")["value"]
    return {"eps": 2 * radius, "num_images": len(test), "proved": rates.to_dict()}

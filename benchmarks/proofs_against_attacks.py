"""Provable models of the zoo under the worst case, seed by seed: does any attack break a proof?

The attack's gradient goes through the bounds. A proof is broken if an image that is proved never to
be fooled within eps is fooled by an attack within eps, or if the attack leaves a smaller robust
accuracy with rejection than is proved of the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from common import mnist, say, table
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import find_violations
from nullclass.scoring import audit
from nullclass.zoo import load_zoo


@dataclass(frozen=True)
class Options:
    """Settings of this check."""

    models: tuple[str, ...] = ("provable-0.3", "provable-0.4")
    """Members of the zoo with a radius."""
    eps: tuple[float, ...] = (0.3, 0.4)
    """Budgets, L-infinity, in pixel units."""
    attack: str = "worst-case"
    """Name of the attack; its goal is to fool."""
    num_images: int = 25
    """Of the first test images, attacked."""
    seeds: int = 5
    """Seeds of the attack's random starts, from 0."""
    data: str = "mnist"
    """mnist, or a folder with its files."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    data = mnist(options.data).test.first(options.num_images)
    audit.NUM_AUDITED = options.num_images  # attack every proved image
    lines = []
    for name in options.models:
        model = load_zoo(name)
        for seed in range(options.seeds):
            found = evaluate(
                model,
                data,
                attacks=options.attack,
                eps=options.eps,
                proofs="interval",
                checks=False,
                seed=seed,
            )
            rates = found.summary().set_index(["attack", "eps_pixels", "metric"])["value"]
            broken = find_violations(found.rows, found.certified).violations
            for eps in options.eps:
                adv_images, proved = rates["union", eps, "rar"], rates["proof", eps, "rar_proved"]
                fooled = round(rates[options.attack, eps, "fooled"] * len(data))
                here = int((broken["eps_pixels"] == eps).sum()) if len(broken) else 0
                shares = [f"{100 * rate:.1f} %" for rate in (adv_images, proved)]
                below = "yes" if adv_images < proved else "no"
                lines.append((name, f"{eps:g}", str(seed), str(fooled), *shares, str(here), below))
                say(" | ".join(lines[-1]))
    head = (
        "model",
        "ε",
        "seed",
        "fooled",
        "RAR (attack)",
        "RAR (proved)",
        "proofs broken",
        "below",
    )
    about = f"`{options.attack}`, first {len(data)} test images, MNIST, L∞"
    return f"## Proofs against attacks\n\n{about}\n\n{table(head, lines)}"


if __name__ == "__main__":
    print(measure(tyro.cli(Options)))

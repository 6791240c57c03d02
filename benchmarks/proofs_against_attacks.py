"""Provable models of the zoo under the worst case, seed by seed: does any attack break a proof?

Every image is attacked, proved or not, to fool and to force null. The attack's gradient goes
through the bounds; those of a cascade are the bounds of its first stage. A proof is broken if an
image that is proved never to be fooled within eps is fooled within eps. What is finished is kept,
so that the same command resumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from common import SCRATCH, mnist, percent, say, table
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import find_violations
from nullclass.rejection import with_proof
from nullclass.scoring import audit
from nullclass.zoo import load_zoo

ATTACKS = ("worst-case", "worst-case-force-null")


@dataclass(frozen=True)
class Options:
    """Settings of this check."""

    models: tuple[str, ...] = ("provable-0.3", "provable-0.4")
    """Members of the zoo with a radius."""
    verifier: str = "interval"
    """Of the answers and of the proofs: interval, crown-ibp or cascade."""
    eps: tuple[float, ...] = (0.3, 0.4)
    """Budgets, L-infinity, in pixel units."""
    num_images: int = 1000
    """Of the first test images, attacked."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the attacks' random starts."""
    data: str = "mnist"
    """mnist, or a folder with its files."""
    parts: Path = SCRATCH / "proofs-against-attacks"
    """Folder that keeps what is finished of each model and seed; remove it afterwards."""


def measure(options: Options) -> str:
    """Run it and give its section of the results."""
    data = mnist(options.data).test.first(options.num_images)
    audit.NUM_AUDITED = options.num_images  # attack every proved image
    lines = []
    for name in options.models:
        model = with_proof(load_zoo(name), verifier=options.verifier)
        for seed in options.seeds:
            found = evaluate(
                model,
                data,
                attacks=ATTACKS,
                eps=options.eps,
                proofs=options.verifier,
                checks=False,
                seed=seed,
                progress=True,
                parts=options.parts / f"{name}-{options.verifier}-{seed}",
            )
            broken = find_violations(found.rows, found.certified).violations
            for eps in options.eps:
                num_broken = broken.loc[broken["eps_pixels"] == eps, "image"].nunique()
                rates = [
                    found.rate("null_rate"),
                    found.rate("fooled_rate", eps, attack=ATTACKS[0]),
                    found.rate("rar", eps),
                    found.rate("rar_proved", eps),
                    found.rate("null_dos", eps),
                ]
                lines.append((name, f"{eps:g}", seed, *map(percent, rates), num_broken))
                say(" | ".join(map(str, lines[-1])))
    rates = ("clean null", "fooled", "RAR, at most", "RAR, at least", "null-DoS, at least")
    head = ("model", "ε", "seed", *rates, "proofs broken")
    about = (
        f"`{ATTACKS[0]}` and `{ATTACKS[1]}`, verifier `{options.verifier}`, first {len(data):,} "
        "test images, MNIST, L∞"
    )
    return f"## Proofs against attacks\n\n{about}\n\n{table(head, lines)}"


if __name__ == "__main__":
    print(measure(tyro.cli(Options)))

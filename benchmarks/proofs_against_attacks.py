"""Provable models of the zoo under the worst case, seed by seed: does any attack break a proof?

Each member is attacked at twice its radius, where every answer is proved, on the images that are
not proved and on a sample of those that are. The attack's gradient goes through the bounds; those
of a cascade are the bounds of its first stage. A proof is broken if an image that is proved never
to be fooled within eps is fooled within eps. What is finished is kept, so that the same command
resumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from common import SCRATCH, mnist, percent, say, table
from nullclass.evaluation.run import evaluate
from nullclass.metrics.claims import find_violations
from nullclass.scoring import audit
from nullclass.zoo import load_zoo

ATTACK = "worst-case"


@dataclass(frozen=True)
class Options:
    """Settings of this check."""

    models: tuple[str, ...] = ("provable-cascade-0.3", "provable-cascade-0.4")
    """Members of the zoo with a radius."""
    num_audited: int = audit.NUM_AUDITED
    """Proved images that are attacked all the same."""
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
    audit.NUM_AUDITED = options.num_audited
    lines = []
    for name in options.models:
        model = load_zoo(name)
        eps = 2 * model.radius
        for seed in options.seeds:
            found = evaluate(
                model,
                data,
                attacks=(ATTACK,),
                eps=(eps,),
                proofs=model.verifier,
                checks=False,
                seed=seed,
                progress=True,
                parts=options.parts / f"{name}-{seed}",
            )
            broken = find_violations(found.rows, found.certified).violations["image"].nunique()
            rates = [
                found.rate("null_rate"),
                found.rate("fooled_rate", eps, attack=ATTACK),
                found.rate("rar", eps),
                found.rate("rar_proved", eps),
            ]
            lines.append((name, f"{eps:g}", seed, *map(percent, rates), broken))
            say(" | ".join(map(str, lines[-1])))
    rates = ("clean null", "fooled", "RAR, at most", "RAR, at least")
    head = ("model", "ε", "seed", *rates, "proofs broken")
    about = (
        f"`{ATTACK}`, first {len(data):,} test images, MNIST, L∞; {options.num_audited} of the "
        "proved images attacked"
    )
    return f"## Proofs against attacks\n\n{about}\n\n{table(head, lines)}"


if __name__ == "__main__":
    print(measure(tyro.cli(Options)))

"""Train a substitute on a model's answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Substitute:
    """Train a substitute for a checkpoint on nothing but its answers, to make attacks on."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder with model.safetensors and card.json of the model that is asked."""
    out: Path
    """Folder for the substitute's checkpoint."""
    queries: int = 4800
    """Images it may be asked about, in all."""
    seeds: int = 150
    """Images the attacker begins with, drawn from the last 1000 test images (half, of fewer)."""
    step: float = 0.1
    """How far an image moves to become a new question, in pixel units (lambda)."""
    model: str = "small"
    """The substitute's network: small, notebook or report."""
    null_rate: float | None = None
    """The model answers null by a threshold that refuses this share of clean held-out images."""
    dataset: str | None = None
    """Another dataset than the card names."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    seed: int = 0
    """Seed of the choice of images and of training."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.core.devices import find_device
        from nullclass.evaluation.record import load_with_data, refuse_at_rate
        from nullclass.training.checkpoint import CARD, save_checkpoint
        from nullclass.training.queries import QueryPlan, num_own
        from nullclass.training.substitutes import agreement, query_substitute

        plan = QueryPlan(self.seeds, self.queries, self.step)
        device = find_device(self.device)
        if (self.out / CARD).exists():
            raise UserError(f"{self.out} holds a checkpoint already: choose another --out")
        target, card, dataset = load_with_data(self.checkpoint, self.dataset, self.data_dir, device)
        if self.null_rate is not None:
            target = refuse_at_rate(target, dataset, self.null_rate)
        num_pool = num_own(len(dataset.test))
        substitute, rounds = query_substitute(
            target,
            dataset.test.subset(slice(-num_pool, None)),
            plan,
            architecture=self.model,
            seed=self.seed,
            device=device,
        )
        about = {
            "data": dataset.name,
            "data_checksum": dataset.checksum,
            "queried": card["weights_sha256"],
            "num_queries": rounds[-1].num_images,
        }
        save_checkpoint(substitute, self.out, metadata=about)
        others = dataset.test.first(len(dataset.test) - num_pool)
        alike = agreement(substitute, target, others)
        print(
            f"{rounds[-1].num_images} queries in {len(rounds)} rounds; the substitute answers as "
            f"the model does on {100 * alike:.1f} % of {len(others)} other test images"
        )
        print(f"checkpoint: {self.out}")

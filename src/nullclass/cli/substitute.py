"""``nullclass substitute``: train a substitute on a model's answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nullclass.cli.common import Device, NullRate
from nullclass.cli.models import Model, ModelOptions
from nullclass.cli.outputs import checkpoint_folder, restarting
from nullclass.core.checks import check_seed
from nullclass.core.files import remove
from nullclass.results.schema import STATE


@dataclass(frozen=True)
class Command:
    """Train a substitute on a model's answers, as the source of transfer attacks."""

    out: Path
    """Folder for the substitute's checkpoint. The same command resumes, without a second query."""
    model: Model = field(default_factory=ModelOptions)
    queries: int = 4800
    """Query budget: number of images that the model labels."""
    seeds: int = 150
    """Images that the attacker starts with, from the last 1000 test images (half, of fewer)."""
    step: float = 0.1
    """Step that turns an image into a new query, in pixel units (lambda)."""
    architecture: str = "small"
    """Architecture of the substitute: small, notebook or report."""
    null_rate: NullRate = None
    seed: int = 0
    """Seed of the choice of images and of the training."""
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        check_seed(self.seed)
        from nullclass.core.devices import find_device
        from nullclass.training.card import Origin
        from nullclass.training.checkpoint import save_checkpoint
        from nullclass.training.queries import QueryPlan, num_own
        from nullclass.training.substitutes import agreement, query_substitute

        plan = QueryPlan(self.seeds, self.queries, self.step)
        device = find_device(self.device)
        with checkpoint_folder(self.out):
            loaded = self.model.load(device)
            target, test = loaded.rejecting(self.null_rate), loaded.dataset.test
            num_pool = num_own(len(test))
            query = partial(
                query_substitute,
                target,
                test.subset(slice(-num_pool, None)),
                plan,
                architecture=self.architecture,
                seed=self.seed,
                device=device,
                state_folder=self.out,
            )
            substitute, rounds = restarting(self.out / STATE, query)
            origin = Origin(
                data=loaded.dataset.name,
                data_checksum=loaded.dataset.checksum,
                queried=loaded.weights_sha256,
                num_queries=rounds[-1].num_images,
            )
            save_checkpoint(substitute, self.out, origin=origin)
            remove(self.out / STATE)
        others = test.first(len(test) - num_pool)
        share = agreement(substitute, target, others)
        print(
            f"{rounds[-1].num_images} queries in {len(rounds)} rounds; the substitute agrees with "
            f"the model on {100 * share:.1f} % of {len(others)} other test images"
        )
        print(f"checkpoint: {self.out}")

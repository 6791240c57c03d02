"""Attack a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from nullclass.cli.finishing import finish
from nullclass.core.errors import UserError

if TYPE_CHECKING:
    from nullclass.results.schema import Flag


@dataclass(frozen=True)
class Evaluate:
    """Attack a checkpoint and report what holds, what does not, and whether to believe it."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder with model.safetensors and card.json."""
    attack: tuple[str, ...] | None = None
    """Names such as worst-case, apgd, square, autoattack (docs/attacks.md lists them all); unless
    given fgsm, worst-case and, for a model that may refuse, worst-case-force-null."""
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    """Budgets in pixel units, pixels in [0,1]."""
    norm: str = "linf"
    """linf, l2 or l1."""
    images: int = 1000
    """How many of the first test images are attacked."""
    null_rate: float | None = None
    """Answer null by a threshold on the null score that refuses this share of clean held-out
    images; unless given the largest logit decides."""
    proofs: str | None = None
    """Also prove what no attack can do, with this verifier: interval or crown-ibp."""
    radius: float | None = None
    """Of a model without null: answer only what is proved within this radius (linf, pixel units),
    else null."""
    ood: tuple[str, ...] = ("noise", "blank", "tiles")
    """Inputs of no class to show the model: noise, blank, tiles, fashion-mnist; or none."""
    smallest: int = 50
    """For how many of the first images to look for the smallest eps that fools."""
    strict: bool = False
    """Exit with status 1 if there is any red flag."""
    dataset: str | None = None
    """Another dataset than the card names."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    out: Path | None = None
    """Run folder for rows, summary and report; runs/evaluate/NAME unless given."""
    seed: int = 0
    """Seed of the attacks' random starts."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.core.devices import find_device
        from nullclass.evaluation.record import load_with_data, record_evaluation

        if self.smallest < 0:
            raise UserError(f"--smallest must not be negative, it is {self.smallest}")
        device = find_device(self.device)
        model, card, dataset = load_with_data(self.checkpoint, self.dataset, self.data_dir, device)
        checkpoint = self.checkpoint.resolve()
        if checkpoint.is_file():  # load_checkpoint takes the weights file too
            checkpoint = checkpoint.parent
        # The weights' hash keeps checkpoints of one name in different runs apart.
        place = f"{checkpoint.name}-{card['weights_sha256'][:8]}"
        folder = self.out or Path("runs") / "evaluate" / place
        selections = (card.get("training") or {}).get("selections") or ()
        findings = record_evaluation(
            model,
            card,
            dataset,
            folder,
            name=checkpoint.name,
            attacks=self.attack,
            eps=self.eps,
            norm=self.norm,
            num_images=self.images,
            clean_null_rate=self.null_rate,
            proofs=self.proofs,
            radius=self.radius,
            ood=() if self.ood == ("none",) else self.ood,
            num_smallest=self.smallest,
            selected_on=checkpoint.name if checkpoint.name in selections else None,
            seed=self.seed,
        )
        finish(folder)
        tell_flags(findings.flags)
        if self.strict and findings.flags:
            raise RedFlagsError(len(findings.flags))


class RedFlagsError(Exception):
    """There are reasons not to believe an evaluation, and the user wants to hear of any."""

    def __init__(self, num_flags: int) -> None:
        super().__init__(f"{num_flags} red flags")
        self.num_flags = num_flags


def tell_flags(flags: Sequence[Flag]) -> None:
    """Print the reasons not to believe an evaluation."""
    if not flags:
        print("no red flags")
        return
    print(f"{len(flags)} red {'flag' if len(flags) == 1 else 'flags'}:")
    for flag in flags:
        print(f"  {flag.name}: {flag.message} ({flag.page})")

"""Run a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nullclass.cli.finishing import finish
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Study:
    """Run a study: train its models, attack them, draw its report. Stopped, it goes on."""

    name: tyro.conf.Positional[str]
    """fgsm-null (the notebook), ramps or null-samples (the report), null-probabilities, or
    provable-null."""
    preset: Literal["quick", "full"] = "quick"
    """quick is few seeds with the fast recipe; full is the source's own recipe and number."""
    sets: str | None = None
    """Other seeds (the report's sets) than the preset's, such as 0-9 or 0,3,7."""
    variants: str | None = None
    """Some of the study's models only, such as base,sm."""
    out: Path | None = None
    """Run folder; runs/NAME for quick and runs/NAME-full for full unless given."""
    data: str | None = None
    """Other data than the study's own, if it is made with them too: fashion-mnist for
    provable-null."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    engine: Literal["local", "ray"] = "local"
    """local is worker processes on this machine, ray a cluster (extra: nullclass[ray])."""
    workers: int | None = None
    """Models trained at once; on one machine as many as cores (one on a GPU) unless given."""
    threads: int | None = None
    """Threads of a worker; the cores divided by the workers unless given."""
    address: str | None = None
    """The Ray cluster's address; a cluster of this machine alone unless given."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.studies import find_study

        study = find_study(self.name, self.data)  # before torch is waited for
        seeds = None if self.sets is None else numbers(self.sets)
        variants = None if self.variants is None else self.variants.split(",")
        if any(n is not None and n < 1 for n in (self.workers, self.threads)):
            raise UserError("--workers and --threads must be at least 1")
        if self.address is not None and self.engine != "ray":
            raise UserError("--address is that of a Ray cluster: say --engine ray too")
        from nullclass.core.devices import find_device
        from nullclass.core.files import make_folder
        from nullclass.data import load_dataset
        from nullclass.experiments.engines import DataSource, make_engine
        from nullclass.experiments.runner import run_study

        folder = self.out or Path("runs") / (
            study.name if self.preset == "quick" else f"{study.name}-{self.preset}"
        )
        device = find_device(self.device)
        make_folder(folder)
        for name in study.further_data:
            load_dataset(name, validation=0)
        dataset = load_dataset(study.dataset, data_dir=self.data_dir, validation=study.validation)
        data_dir = None if self.data_dir is None else str(self.data_dir.resolve())
        engine = make_engine(
            self.engine,
            DataSource(study.dataset, data_dir, study.validation),
            device=str(device),
            num_workers=self.workers,
            num_threads=self.threads,
            address=self.address,
        )
        outcome = run_study(
            study,
            dataset,
            folder.resolve(),
            engine=engine,
            device=device,
            preset=self.preset,
            seeds=seeds,
            variants=variants,
        )
        try:
            finish(folder)
        except UserError:  # not one trial to draw: the reasons are told below
            if not outcome.failed:
                raise
        if outcome.failed:
            raise IncompleteError(outcome.failed)


class IncompleteError(Exception):
    """Some jobs of a sweep were given up."""

    def __init__(self, failed: dict[str, str]) -> None:
        super().__init__("; ".join(f"{title} ({reason})" for title, reason in failed.items()))
        self.num_failed = len(failed)


def numbers(text: str) -> list[int]:
    """Numbers from a text such as ``0-9`` or ``0,3,5-7``.

    Raises:
        UserError: If it is none.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(end.isdecimal() for end in ends) or int(ends[-1]) >= 10**6:
            raise UserError(f"--sets {text!r} is no list of numbers: write it as 0-9 or 0,3,7")
        found += range(int(ends[0]), int(ends[-1]) + 1)
    if not found:
        raise UserError(f"--sets {text!r} is empty: write it as 0-9 or 0,3,7")
    return list(dict.fromkeys(found))

"""``nullclass study``: run a study."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from nullclass.cli.common import Device, print_report
from nullclass.cli.outputs import check_output
from nullclass.core.checks import check_count, shown
from nullclass.core.errors import UserError

if TYPE_CHECKING:
    from nullclass.data import Dataset
    from nullclass.experiments.study import Study

MAX_WORKERS = 4096
"""Most workers, and threads of a worker."""

MAX_SEEDS = 10_000
"""Most seeds of one run."""


@dataclass(frozen=True)
class Command:
    """Run a study: train its models, attack them, draw its report."""

    name: tyro.conf.Positional[str]
    """fgsm-null (the notebook), ramps or null-samples (the report), null-probabilities,
    provable-null, or detectors."""
    preset: Literal["quick", "full", "source"] = "quick"
    """quick: few seeds, few attacked images and the fast recipe. full: all seeds and images, by the
    source's recipe; null-samples trains its 240 models by the fast recipe. source (null-samples):
    one set by the source's recipe."""
    sets: str | None = None
    """Seeds (the report's sets), such as 0-9 or 0,3,7. Default: those of the preset."""
    variants: str | None = None
    """Some of the study's models, such as base,sm. Default: all."""
    out: Path | None = None
    """Run folder. Default: runs/NAME for quick, runs/NAME-PRESET for the others."""
    data: str | None = None
    """A folder with the study's dataset, which all workers can read; or another dataset, if the
    study has it: fashion-mnist for provable-null. Default: the study's own, from the cache."""
    device: Device = "auto"
    engine: Literal["local", "ray"] = "local"
    """local: worker processes on this machine; ray: a cluster (extra nullclass[ray])."""
    workers: int | None = None
    """Jobs at once; several may share a GPU. Default: one per core, or one on a GPU."""
    threads: int | None = None
    """Threads per worker. Default: the cores divided by the workers."""
    address: str | None = None
    """Address of the Ray cluster. Default: a cluster of this machine."""
    join: Path | None = None
    """Run nothing, but copy the finished jobs of another run folder of this study and preset, made
    elsewhere, into the run folder."""

    def run(self) -> int:
        """Run the command and return the exit status."""
        study, dataset = self._find_study()
        default = study.name if self.preset == "quick" else f"{study.name}-{self.preset}"
        folder = self.out or Path("runs") / default
        if self.join is not None:
            return self._join(study, folder, self.join)
        seeds = None if self.sets is None else parse_numbers(self.sets)
        variants = None if self.variants is None else self.variants.split(",")
        for option, value in (("--workers", self.workers), ("--threads", self.threads)):
            if value is not None:
                check_count(option, value, 1, MAX_WORKERS)
        if self.address is not None and self.engine != "ray":
            raise UserError("--address is for a Ray cluster: add --engine ray")
        from nullclass.core.devices import find_device
        from nullclass.data import absolute_source, load_dataset
        from nullclass.experiments.engines import DataSource, make_engine
        from nullclass.experiments.runner import plan_trials, run_study
        from nullclass.studies.reports import check_drawable

        trials = plan_trials(study, self.preset, seeds, variants)
        device = find_device(self.device)
        check_output(folder)
        check_drawable(folder, study.name)
        for name in study.further_data:
            load_dataset(name, validation=0)
        data = study.dataset if self.data is None else absolute_source(self.data)
        dataset = dataset or load_dataset(data, validation=0)
        engine = make_engine(
            self.engine,
            DataSource(data, study.validation),
            device=str(device),
            num_workers=self.workers,
            num_threads=self.threads,
            address=self.address,
        )
        result = run_study(
            study,
            dataset.hold_out(study.validation),
            folder.absolute(),
            engine=engine,
            device=device,
            preset=self.preset,
            trials=trials,
        )
        is_complete = not result.failed
        try:
            is_complete &= print_report(folder)
        except UserError:  # no trial to draw: the reasons follow
            if is_complete:
                raise
        if result.failed:
            reasons = "; ".join(f"{title} ({why})" for title, why in result.failed.items())
            print(
                f"nullclass: {len(result.failed)} jobs failed, the others are finished; the same "
                f"command tries them again: {reasons}",
                file=sys.stderr,
            )
        return int(not is_complete)

    def _find_study(self) -> tuple[Study, Dataset | None]:
        """Return the study on the chosen data, and these if only loading tells which they are."""
        from nullclass.data.known import known_names
        from nullclass.studies import find_study

        study = find_study(self.name)  # before torch is loaded
        if self.data is None:
            return study, None
        if self.data in known_names():
            return find_study(self.name, self.data), None
        from nullclass.data import load_dataset

        dataset = load_dataset(self.data, validation=0)
        return find_study(self.name, dataset.name), dataset

    def _join(self, study: Study, folder: Path, piece: Path) -> int:
        """Join a piece and return the exit status."""
        if self.sets is not None or self.variants is not None:
            raise UserError(
                "--join copies all that the piece holds: leave out --sets and --variants"
            )
        from nullclass.experiments.join import join_run
        from nullclass.studies.reports import check_drawable

        check_output(folder)
        check_drawable(folder, study.name)
        num_copied, num_present = join_run(study, self.preset, folder, piece)
        print(f"joined {num_copied} jobs of {piece}; {num_present} were there already")
        return int(not print_report(folder))


def parse_numbers(text: str) -> list[int]:
    """Return the numbers in a text such as ``0-9`` or ``0,3,5-7``, each once.

    Raises:
        UserError: If it has none or another form.
    """
    ranges: list[range] = []
    for part in text.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(end.isdecimal() and len(end) <= 6 for end in ends):
            raise UserError(f"--sets {shown(text)} is no list of numbers: write it as 0-9 or 0,3,7")
        ranges.append(range(int(ends[0]), int(ends[-1]) + 1))
    num_seeds = sum(map(len, ranges))
    if not num_seeds:
        raise UserError(f"--sets {shown(text)} is empty: write it as 0-9 or 0,3,7")
    if num_seeds > MAX_SEEDS:
        raise UserError(f"--sets names {num_seeds:,} seeds, more than the {MAX_SEEDS:,} of one run")
    return list(dict.fromkeys(itertools.chain.from_iterable(ranges)))

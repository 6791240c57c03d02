"""A study: its models, presets and trials. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nullclass.experiments.config import Trial

Preset = Literal["quick", "full", "source"]


@dataclass(frozen=True)
class Study:
    """What the command line, the runner and the report need of a study."""

    name: str
    claim: str
    """The claim that the study tests, in one sentence."""
    dataset: str
    """Name of its dataset."""
    validation: int
    """Number of training images held out."""
    variants: tuple[str, ...]
    """Names of its models, in the order of tables."""
    num_seeds: Mapping[Preset, int]
    """The presets that it has, and how many seeds (the report's sets) each trains, from 0."""
    trials: Callable[[Preset, Sequence[int], Sequence[str]], list[Trial]]
    """Trials of a preset, seeds and variants, in the order to run them."""
    published: Callable[[str, str, float, str], float | None] = lambda *_: None
    """Maps model, attack, eps in pixel units (NaN for thresholds) and metric to the published
    figure, if there is one."""
    further_data: tuple[str, ...] = ()
    """Other datasets that its trainings use, fetched before the first job."""
    package: str = ""
    """Package of the study, whose module ``page`` draws its report."""

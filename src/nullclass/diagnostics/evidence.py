"""What the red-flag checks read: rows, costs, probe results and metadata. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import pandas as pd

from nullclass.core.outcomes import SUCCESSES
from nullclass.metrics.rates import with_given_eps
from nullclass.results.schema import CLEAN, LEFT_OUT, SELF, UNKNOWN, Access

MIN_POINTS = 0.005
"""Smallest difference that counts, as a share of images: half a point, about the spread of a good
attack over its random starts."""

MIN_IMAGES = 3
"""Smallest number of differing images that counts: one or two of a small probe can be chance."""

MIN_FAILURES = 20
"""Images needed before "all of them" means much: 0 of 20 has an upper bound of 16 %."""

ALL = 0.99
"""Share that counts as all, so that one outlier hides nothing."""

GREY = 0.5
"""L-infinity eps from which any image can be made plain grey."""

BACKWARD = 2
"""Time of a backward pass, in forward passes."""

CHECKS_NAME = "checks"
"""Value of the ``attack`` column of the costs for the probes."""


def is_many(num: int, total: int, share: float = MIN_POINTS) -> bool:
    """Return whether a number of images exceeds both chance and a share of the total."""
    return num >= MIN_IMAGES and num > share * total


def cost_of(costs: pd.DataFrame) -> pd.Series[float]:
    """Return the cost of each row: a number of forward passes that takes as long.

    It does not depend on the machine, unlike seconds, so that everything derived from it can be
    repeated.
    """
    return (costs["num_forwards"] + BACKWARD * costs["num_backwards"]).astype(float)


@dataclass(frozen=True, eq=False)
class AttackRun:
    """One attack on one model, at budgets that hold for all images."""

    name: str
    objective: str
    source: str
    """``self``, or the name of the model it is transferred from."""
    access: str
    """The most that it, or a member of it, uses of the model; ``unknown`` if one does not say."""
    is_iterative: bool
    """Whether it searches the ball; a single step does not."""
    is_fooling: bool
    """Whether exactly the wrong real classes count as success, any of them."""
    rows: pd.DataFrame = field(repr=False)

    @property
    def successes(self) -> tuple[str, ...]:
        """Outcomes that are a success."""
        return SUCCESSES[self.objective]

    @property
    def is_white_box(self) -> bool:
        """Whether it uses gradients of the model that is scored."""
        return self.source == SELF and self.access == "white-box"

    def at(self, eps: float) -> pd.DataFrame:
        """Return its rows at one eps, indexed by image."""
        return self.rows[self.rows["eps_pixels"] == eps].set_index("image")

    def images(self, eps: float) -> set[int]:
        """Return the images of its rows at an eps."""
        return set(self.rows.loc[self.rows["eps_pixels"] == eps, "image"])

    def left_out(self, eps: float) -> set[int]:
        """Return the images that it did not attack at an eps, because they are proved."""
        rows = self.at(eps)
        return set(rows.index[rows["member"] == LEFT_OUT])

    @cached_property
    def _smallest_eps(self) -> pd.Series[float]:
        fooled = self.rows[self.rows["outcome"] == "fooled"]
        return fooled.groupby("image")["eps_pixels"].min()

    def fooled(self, eps: float) -> set[int]:
        """Return the images that it fooled at an eps or below."""
        return set(self._smallest_eps.index[self._smallest_eps <= eps])


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that checks read."""

    rows: pd.DataFrame = field(repr=False)
    """:data:`nullclass.results.schema.ROW_COLUMNS`, of one model."""
    costs: pd.DataFrame = field(repr=False)
    """:data:`nullclass.results.schema.COST_COLUMNS`."""
    probes: Mapping[str, Any]
    """From :func:`nullclass.diagnostics.probes.probe`; at least ``has_null``, whether the model can
    answer null."""
    info: Mapping[str, Any]
    """``norm``; ``data``, the dataset's name; ``threshold``, None or a mapping with ``value``,
    ``origin`` (``held-out`` or ``unknown``) and ``num_overlapping``, the test images that it was
    calibrated on; ``selected_on``, None or the images by which the weights were selected;
    ``chosen_targets``, names of the attacks that aim at one class chosen by the user."""
    certified: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    """:data:`nullclass.results.schema.CERTIFIED_COLUMNS`; may be empty."""

    @property
    def norm(self) -> str:
        """The norm of the budgets."""
        return str(self.info.get("norm"))

    @cached_property
    def clean(self) -> pd.DataFrame:
        """Rows of the clean images, indexed by image."""
        rows = self.rows[self.rows["attack"] == CLEAN]
        return rows.drop_duplicates("image").set_index("image")

    def clean_with(self, outcome: str) -> set[int]:
        """Return the images with an outcome when clean."""
        return set(self.clean.index[self.clean["outcome"] == outcome])

    @property
    def has_null(self) -> bool:
        """Whether the model can answer null."""
        return bool(self.probes["has_null"])

    @cached_property
    def own_costs(self) -> pd.DataFrame:
        """Costs of attacks on the model itself."""
        costs = self.costs
        return costs[(costs["source"] == SELF) & (costs["attack"] != CHECKS_NAME)]

    @cached_property
    def attacks(self) -> list[AttackRun]:
        """The attacks in the norm, with one budget for all images."""
        rows, costs = self.rows, self.costs
        given = with_given_eps(rows[rows["norm"] == self.norm])
        levels = (UNKNOWN, *get_args(Access))
        runs = []
        for (name, source), group in given.groupby(["attack", "source"], sort=False):
            of_attack = costs[(costs["attack"] == name) & (costs["source"] == source)]
            access = set(of_attack["access"]) or {UNKNOWN}
            objective = str(group["objective"].iloc[0])
            runs.append(
                AttackRun(
                    name=str(name),
                    objective=objective,
                    source=str(source),
                    access=next((level for level in levels if level in access), UNKNOWN),
                    is_iterative=bool(of_attack["is_iterative"].eq(True).any()),
                    is_fooling=str(name) not in self.info.get("chosen_targets", ())
                    and (objective == "fool" or (objective == "untargeted" and not self.has_null)),
                    rows=group,
                )
            )
        return runs

    @cached_property
    def fooling_attacks(self) -> list[AttackRun]:
        """The attacks for which only a wrong real class is success; all, if there are none."""
        return [run for run in self.attacks if run.is_fooling] or self.attacks

    @cached_property
    def budgets(self) -> list[float]:
        """Eps of the attacks, increasing."""
        return sorted({float(eps) for run in self.attacks for eps in run.rows["eps_pixels"]})

    def judged(self, eps: float) -> set[int]:
        """Return the images scored clean and under all fooling attacks at an eps.

        Empty without such an attack.
        """
        images = [attacked for run in self.fooling_attacks if (attacked := run.images(eps))]
        return set.intersection(set(self.clean.index), *images) if images else set()

    def fooled(self, eps: float) -> set[int]:
        """Return the images fooled by any attack or search at an eps or below, or when clean."""
        fooled = self.clean_with("fooled").union(*(run.fooled(eps) for run in self.attacks))
        found = self._smallest_found
        return fooled | set(found.loc[found["eps_pixels"] <= eps, "image"])

    @cached_property
    def _smallest_found(self) -> pd.DataFrame:
        """Rows fooled within a budget of their own, as the search for the smallest eps does."""
        rows = self.rows[(self.rows["norm"] == self.norm) & (self.rows["attack"] != CLEAN)]
        return rows[rows["has_own_eps"].astype(bool) & (rows["outcome"] == "fooled")]

    def is_bracket_closed(self) -> bool:
        """Return whether attacks at the largest eps fooled every image that is not proved safe."""
        if self.certified.empty or not self.budgets:
            return False
        eps = self.budgets[-1]
        proofs = self.certified[
            (self.certified["norm"] == self.norm)
            & (self.certified["eps_pixels"] >= eps - 1e-9)
            & self.certified["is_never_fooled"].astype(bool)
        ]
        judged = self.judged(eps)
        undecided = judged - self.fooled(eps) - set(proofs["image"])
        return bool(judged) and not is_many(len(undecided), len(judged))


def names_of(runs: Iterable[AttackRun]) -> str:
    """Return the names of attacks, sorted, each once."""
    return ", ".join(sorted({run.name for run in runs}))

"""The images that the union of attacks is over, and what became of each of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from nullclass.core.outcomes import NULL_LABEL
from nullclass.metrics.rates import GIVEN
from nullclass.report.measures import CLEAN, NULL_AWARE
from nullclass.results.store import Run, Trial


@dataclass(frozen=True)
class WorstCaseTable:
    """What :func:`nullclass.metrics.rates.summarise` takes its union from."""

    clean: pd.DataFrame = field(repr=False)
    """Rows of the clean images that every attack saw too, by image."""
    attacked: pd.DataFrame = field(repr=False)
    """Rows of these images under all attacks, whatever their budgets."""

    def answers(self, eps: float) -> pd.Series[int]:
        """One answer an image, the worst for the model: -1 is null.

        The first wrong class that was answered, to the clean image or to an attacked one, the
        smallest eps first; else null if the image was ever refused; else the true class.
        """
        columns = ["image", "prediction", "outcome"]
        within = self.attacked[self.attacked["eps_pixels"] <= eps]
        within = within.sort_values("eps_pixels", kind="stable")
        tried = pd.concat([self.clean.reset_index()[columns], within[columns]])
        told = self.clean["label"].copy()
        told[told.index.isin(tried.loc[tried["outcome"] == "null", "image"])] = NULL_LABEL
        fooled = tried[tried["outcome"] == "fooled"].drop_duplicates("image")
        told.update(fooled.set_index("image")["prediction"])
        return told.astype("int64")


def judged(rows: pd.DataFrame) -> WorstCaseTable:
    """The images that every attack with one eps for all saw and that were scored clean too."""
    clean = rows[rows["attack"] == CLEAN].set_index("image")
    seen = [set(group["image"]) for _, group in given(rows).groupby("attack")]
    images = sorted(set(clean.index).intersection(*seen))
    is_attacked = (rows["attack"] != CLEAN) & rows["image"].isin(images)
    return WorstCaseTable(clean.loc[images], rows[is_attacked])


def given(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the attacks with one eps for all images."""
    return rows[(rows["attack"] != CLEAN) & (rows["budget"] == GIVEN)]


def strongest(rows: pd.DataFrame) -> str | None:
    """The attack to show where there is room for one: who knows of null, then who fools most."""
    attacked = given(rows)
    if attacked.empty:
        return None
    is_fooled = attacked["outcome"] == "fooled"
    found = attacked.assign(is_fooled=is_fooled).groupby(["attack", "objective"])["is_fooled"].sum()
    best = max(
        found.index, key=lambda key: (key[0] in NULL_AWARE, key[1] == "fool", int(found[key]))
    )
    return str(best[0])


def can_refuse(rows: pd.DataFrame) -> bool:
    """Whether the model of the rows has null among its answers."""
    return bool(rows["null_loss"].notna().any() or (rows["prediction"] == NULL_LABEL).any())


def only_trial(run: Run) -> Trial | None:
    """The one trial of an evaluation, if it is there."""
    return run.trials[0] if run.trials else None

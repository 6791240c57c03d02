"""``nullclass train``: train one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nullclass.cli.common import Device, Resize, progress
from nullclass.cli.outputs import checkpoint_folder, restarting
from nullclass.core.checks import check_seed
from nullclass.core.errors import UserError
from nullclass.results.schema import STATE

if TYPE_CHECKING:
    import pandas as pd

    from nullclass.experiments.config import NullPlan, RobustPlan

NULL_PROBABILITIES = "null-probabilities"
HAVE_CLASSES = ("adversarial", NULL_PROBABILITIES, "ccat")
"""Sources that make null images near an image of a class."""

SOURCES = {
    "--null-eps": {"adversarial", "ccat"},
    "--null-steps": {*HAVE_CLASSES},
    "--curve": {NULL_PROBABILITIES},
    "--norm": {NULL_PROBABILITIES},
    "--perturbation": {NULL_PROBABILITIES},
    "--background": {"background"},
}
"""Options that only some sources of null images have."""

WEIGHTS = {NULL_PROBABILITIES: 2.0, "ccat": 0.5}
"""Default weights of the null loss; 1/11 for other sources."""


@dataclass(frozen=True)
class Command:
    """Train one model and write its checkpoint: weights and card."""

    out: Path
    """Folder for the checkpoint. The same command resumes an interrupted training."""
    data: str = "mnist"
    """A known name, a folder, a file or a function that returns images and labels,
    PACKAGE.MODULE:FUNCTION, whose code is run (docs/data.md)."""
    resize: Resize = None
    model: str = "notebook"
    """notebook or report, the networks of the two sources; small; residual, for small colour
    images, and residual-wide on a GPU; certifiable, certifiable-medium or certifiable-small, for
    bounds."""
    nulls: tuple[str, ...] = ("adversarial",)
    """Sources of null images: adversarial, null-probabilities, ccat, background, uniform,
    tile-shuffle, mixed, or several; none trains a model without null class."""
    null_eps: float | None = None
    """L∞ size of adversarial and ccat null images, in pixel units. Default: 0.154 (the notebook's
    0.5) and 0.3 (as published)."""
    null_steps: int | None = None
    """Gradient steps of null images. Default: that of each source (1 for adversarial: FGSM)."""
    null_weight: float | None = None
    """Weight of the null loss. Default: 2 for null-probabilities, 0.5 for ccat, else 1/11 (alpha
    of the notebook)."""
    nulls_per_image: float | None = None
    """Null images appended per image of a batch. Default: 1 for null-probabilities, else that of
    the recipe."""
    replace_rate: float | None = None
    """Replace this share of each batch by null images instead of appending them (the report)."""
    curve: Path | None = None
    """Null curve for null-probabilities: CSV file of size and probability, from nullclass curve."""
    norm: Literal["linf", "l2", "l0"] | None = None
    """Norm of the curve's sizes, if its file does not say: linf and l2 in pixel units, l0 as a
    share of the pixels."""
    perturbation: Literal["fgsm", "pgd", "sparse", "noise"] | None = None
    """Perturbation for null-probabilities. Default: that of the curve."""
    background: str | None = None
    """Dataset whose images are null with --nulls background. Default: fashion-mnist."""
    per_class_null: bool = False
    """One null logit per class; null images go to that of their class (2N labelling)."""
    uniform_targets: bool = False
    """No null class: null images get uniform targets, for a threshold to refuse (CCAT; evaluate
    --null-rate)."""
    robust: Literal["interval", "mtl-ibp", "adversarial", "abstain"] | None = None
    """Robust loss instead of null images: interval bounds (alone, or mixed with adversarial
    images), null-aware adversarial training, or the abstain class."""
    robust_eps: float | None = None
    """Training eps of the robust loss, L∞ in pixel units. Default: 0.2. To prove a radius, a
    little more than the radius."""
    null_class: bool = False
    """With a robust loss: add a null class; abstain always has one."""
    weight_decay: float = 1e-4
    """L2 penalty of Adam."""
    recipe: Literal["fast", "faithful"] = "fast"
    """faithful is the published recipe of the model; fast takes a fifteenth of its time."""
    epochs: int | None = None
    """Number of epochs. Default: that of the recipe."""
    learning_rate: float | None = None
    """Default: that of the recipe."""
    validation: int = 5000
    """Training images held out and measured after every epoch."""
    seed: int = 0
    """On a CPU, the same seed gives the same weights."""
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        check_seed(self.seed)
        from dataclasses import replace

        from nullclass.core.devices import find_device
        from nullclass.data import load_dataset
        from nullclass.experiments.config import Training
        from nullclass.experiments.trainings import Trainer
        from nullclass.training.recipes import find_recipe

        device = find_device(self.device)
        rate = self.nulls_per_image
        if rate is None and self.nulls == (NULL_PROBABILITIES,):
            rate = 1.0
        changes = {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "nulls_per_image": rate,
        }
        recipe = find_recipe(self.recipe, self.model)
        recipe = replace(recipe, **{name: v for name, v in changes.items() if v is not None})  # type: ignore[arg-type]
        robust = self._robust_plan()
        nulls = None if robust else self._null_plan()
        with checkpoint_folder(self.out):
            dataset = load_dataset(self.data, validation=self.validation, resize=self.resize)
            training = Training(
                name=self.model,
                architecture=self.model,
                dataset=dataset.name,
                validation=self.validation,
                seed=self.seed,
                weight_decay=self.weight_decay,
                nulls=nulls,
                recipe=recipe,
                has_null=(nulls is not None and not self.uniform_targets)
                or (robust is not None and (self.null_class or robust.loss == "abstain")),
                per_class_null=self.per_class_null,
                uniform_targets=self.uniform_targets,
                robust=robust,
            )

            def train() -> pd.DataFrame:
                trainer = Trainer(training, dataset, device=device)
                with progress(f"training {self.model} on {dataset.name}", 1) as advance:
                    history = trainer.train(self.out, advance)
                trainer.write(history, self.out)
                return history

            history = restarting(self.out / STATE, train)
        last = history.iloc[-1]
        line = f"loss {last.loss:.4f}, training accuracy {100 * last.train_accuracy:.2f} %"
        if dataset.validation is not None:
            line += (
                f", validation accuracy {100 * last.validation_accuracy:.2f} % "
                f"({len(dataset.validation)} images)"
            )
        print(line)
        print(f"checkpoint: {self.out}")

    def _robust_plan(self) -> RobustPlan | None:
        from nullclass.experiments.config import RobustPlan
        from nullclass.training.robust import make_robust

        if self.robust is None:
            if self.null_class or self.robust_eps is not None:
                raise UserError("--null-class and --robust-eps are for --robust")
            return None
        is_default = self.nulls in (("adversarial",), ("none",))
        if not is_default or self.per_class_null or self.uniform_targets:
            raise UserError("--robust takes no null images: leave --nulls out")
        if given := self._null_options():
            raise UserError(f"--robust takes no null images: leave {given[0]} out")
        settings = {"eps": 0.2 if self.robust_eps is None else self.robust_eps}
        make_robust(self.robust, settings)  # checks the eps
        return RobustPlan(self.robust, settings)

    def _null_plan(self) -> NullPlan | None:
        from nullclass.experiments.config import NullPlan
        from nullclass.nulls import make_nulls

        self._check_options()
        if self.nulls == ("none",):
            return None
        if not self.nulls or "none" in self.nulls:
            raise UserError("give --nulls none alone, or one or more sources of null images")
        sources = {name: self._settings(name) for name in self.nulls}
        source, settings = self.nulls[0], sources[self.nulls[0]]
        if len(sources) > 1:
            source, settings = "any-of", {"sources": sources}
        make_nulls(source, settings, None)  # checks the settings
        weight = None
        if self.replace_rate is None:
            default = WEIGHTS.get(source, 1 / 11)
            weight = default if self.null_weight is None else self.null_weight
        return NullPlan(source, settings, weight=weight, replace_rate=self.replace_rate)

    def _check_options(self) -> None:
        """Refuse options that contradict each other or would have no effect."""
        if self.per_class_null and self.uniform_targets:
            raise UserError("--per-class-null and --uniform-targets exclude each other")
        if (self.per_class_null or self.uniform_targets) and self.nulls == ("none",):
            raise UserError("--per-class-null and --uniform-targets need null images: give --nulls")
        without = [name for name in self.nulls if name not in HAVE_CLASSES]
        if self.per_class_null and without:
            raise UserError(
                f"{without[0]} images have no class: with --per-class-null use "
                f"{', '.join(HAVE_CLASSES)}"
            )
        given = self._null_options()
        appended = [name for name in ("--null-weight", "--nulls-per-image") if name in given]
        if self.replace_rate is not None and appended:
            raise UserError(
                f"{appended[0]} is for null images that are appended: leave --replace-rate out"
            )
        for option, sources in SOURCES.items():
            if option in given and not sources & {*self.nulls}:
                raise UserError(f"{option} is for --nulls {' or '.join(sorted(sources))}")
        if self.nulls == ("none",) and given:
            raise UserError(f"{given[0]} needs null images: give --nulls")

    def _null_options(self) -> list[str]:
        """Return the options about null images that are given."""
        names = (
            *("null_eps", "null_steps", "null_weight", "nulls_per_image", "replace_rate"),
            *("curve", "norm", "perturbation", "background"),
        )
        given = (name for name in names if getattr(self, name) is not None)
        return [f"--{name.replace('_', '-')}" for name in given]

    def _settings(self, source: str) -> dict[str, Any]:
        """Return the settings of a source of null images."""
        steps = {} if self.null_steps is None else {"num_steps": self.null_steps}
        if source == "adversarial":
            eps = 0.154 if self.null_eps is None else self.null_eps
            return {"eps": eps, "num_steps": 1, **steps}
        if source == "ccat":
            return {"eps": 0.3 if self.null_eps is None else self.null_eps, **steps}
        if source == "background":
            return {"dataset": self.background or "fashion-mnist"}
        if source != NULL_PROBABILITIES:
            return {}
        if self.curve is None:
            raise UserError(
                "null-probabilities need a curve: give --curve, from nullclass curve CHECKPOINT"
            )
        from nullclass.results.null_curve import read_curve

        curve = read_curve(self.curve, self.norm)
        perturbation = self.perturbation or curve.perturbation
        if not perturbation:
            raise UserError(f"{self.curve} names no perturbation: give --perturbation")
        is_same = perturbation == curve.perturbation
        return {
            "curve": curve.to_dict(),
            "perturbation": perturbation,
            "perturbation_settings": (curve.perturbation_settings if is_same else {}) | steps,
        }

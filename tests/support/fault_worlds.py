"""Tiny checkpoints and data, and commands on them that take a tenth of a second."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from fault_injection import snapshot
from markupsafe import Markup
from tiny import learnable_dataset
from tiny_zoo import trained

from nullclass import load_checkpoint, load_dataset, save_checkpoint
from nullclass.cli.main import main
from nullclass.core.errors import UserError
from nullclass.core.files import LOCK
from nullclass.experiments import engines
from nullclass.experiments.config import Trial
from nullclass.experiments.engines import DataSource
from nullclass.experiments.engines.serial import SerialEngine, load
from nullclass.report.blocks import Drawing, Page, Panel, section
from nullclass.results.run import Run, read_run
from nullclass.studies import STUDIES
from nullclass.studies.fgsm_null.config import FGSM_NULL
from nullclass.training.card import Origin
from nullclass.training.recipes import Recipe

VALIDATION = 60
"""A null curve needs 50."""


@dataclass(frozen=True)
class World:
    """Folders of the data and of two checkpoints."""

    path: Path
    data_folder: Path
    learned: Path
    """A model with null class."""
    plain: Path
    """A model without."""

    def evaluate(self, out: Path, *options: str, eps: str = "0.1") -> list[str]:
        """The words of a small evaluation."""
        return [
            *("evaluate", str(self.learned), "--out", str(out), "--attack", "fgsm", "noise"),
            *("--eps", eps, "--images", "6", "--smallest", "0", "--ood", "noise"),
            *("--no-checks", *self._common, *options),
        ]

    def train(self, out: Path, *options: str) -> list[str]:
        """The words of a small training."""
        return [
            *("train", "--out", str(out), "--validation", "20"),
            *("--epochs", "3", "--model", "small", *self._common, *options),
        ]

    def substitute(self, out: Path, *options: str) -> list[str]:
        """The words of a small substitute."""
        return [
            *("substitute", str(self.learned), "--out", str(out), "--queries", "14"),
            *("--seeds", "7", *self._common, *options),
        ]

    def study(self, out: Path, *options: str) -> list[str]:
        """The words of the small study."""
        return [
            *("study", SMALL_STUDY, "--out", str(out), "--variants", "clean-wd", "--sets", "0"),
            *(*self._common, *options),
        ]

    def certify(self, out: Path, *options: str) -> list[str]:
        """The words of a few certificates."""
        return [
            *("certify", str(self.plain), "--radius", "0.02", "--eps", "0.02", "--images", "5"),
            *("--out", str(out), *self._common, *options),
        ]

    def curve(self, out: Path, *options: str) -> list[str]:
        """The words of a small null curve."""
        return [
            *("curve", str(self.plain), "--out", str(out), "--perturbation", "noise"),
            *("--sizes", "4", "--always", "0.01", *self._common, *options),
        ]

    def transfer(self, out: Path, *options: str) -> list[str]:
        """The words of a small transfer matrix."""
        return [
            *("transfer", "--sources", str(self.plain), "--targets", str(self.learned)),
            *("--attack", "fgsm", "--eps", "0.2", "--images", "6", "--out", str(out)),
            *(*self._common, *options),
        ]

    @property
    def _common(self) -> tuple[str, ...]:
        return ("--data", str(self.data_folder), "--device", "cpu")


def make_world(path: Path) -> World:
    """Write data and checkpoints."""
    data_folder = learnable_dataset(path / "letters")
    dataset = load_dataset(data_folder, validation=VALIDATION)
    for name, has_null in (("learned", True), ("plain", False)):
        origin = Origin(
            data=dataset.name,
            data_checksum=dataset.checksum,
            num_held_out=VALIDATION,
        )
        save_checkpoint(trained(dataset, has_null), path / name, origin=origin)
    return World(path, data_folder, path / "learned", path / "plain")


SMALL_STUDY = "fgsm-null"
"""The study that :func:`use_small_study` makes small."""


def use_small_study(patch: pytest.MonkeyPatch) -> None:
    """Run the notebook's study on tiny data, in the process of the command."""

    def trials(preset: str, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
        recipe = Recipe(batch_size=16, epochs=1, learning_rate=2e-3)
        return [
            replace(
                trial,
                training=replace(
                    trial.training, dataset="letters", architecture="small", recipe=recipe
                ),
                attacks=(replace(trial.attacks[0], num_images=6),),
                num_clean=6,
                is_checked=False,
            )
            for trial in FGSM_NULL.trials("quick", seeds, variants)
        ]

    def make_engine(name: str, source: DataSource, **settings: object) -> SerialEngine:
        return SerialEngine(load(source), torch.device("cpu"))

    patch.setitem(STUDIES, SMALL_STUDY, replace(FGSM_NULL, dataset="letters", trials=trials))
    patch.setattr(engines, "make_engine", make_engine)
    patch.setattr("nullclass.studies.fgsm_null.page.page", stub_page)
    patch.setattr("nullclass.studies.fgsm_null.page.summary_tables", lambda run: [])


def warm_up(world: World) -> None:
    """Import what the commands import, so that forked processes need not."""
    out = world.path / "warm"
    commands = (
        world.evaluate(out / "run"),
        ["report", str(out / "run")],
        world.study(out / "study"),
        world.train(out / "trained", "--epochs", "1"),
        world.substitute(out / "substitute"),
        world.certify(out / "certificates.json"),
        world.curve(out / "curve.csv"),
        world.transfer(out / "matrix.csv"),
    )
    for words in commands:
        assert run_command(words) == 0, words
    contents_of_run(out / "run")


def marker(run: Run) -> str:
    """A text in :func:`stub_page` that names the run's budgets."""
    budgets = {eps for trial in run.trials for eps in trial.rows["eps_pixels"]}
    return f"budgets {sorted(budgets)}"


def stub_page(run: Run) -> Page:
    """A page of one figure; drawing all of them takes a second."""
    panel = Panel(Markup("<svg></svg>"), file="figure", svg=b"<svg></svg>", png=b"png")
    return Page("Page", marker(run), [], section("Figures", Drawing("figure", "", [panel])))


# What a command's result is, as a value to compare; None if there is none.


def contents_of_run(folder: Path) -> dict[str, object]:
    """All values of a run but times and origin.

    Raises:
        UserError: If it is no run, or damaged, or nothing in it is finished.
    """
    run = read_run(folder)
    if not run.trials:
        raise UserError(f"{folder} holds no finished evaluation")
    return run_values(run)


def run_values(run: Run) -> dict[str, object]:
    """All values of a run but times and origin."""
    values: dict[str, object] = {"summary": run.summary.to_csv()}
    for trial in run.trials:
        name = trial.folder.name
        costs = trial.costs.drop(columns="seconds")
        for table in ("rows", "scores", "held_out", "ood", "certified", "radii", "sizes"):
            values[f"{name} {table}"] = getattr(trial, table).to_csv()
        values[f"{name} costs"] = costs.to_csv()
        values[f"{name} flags"] = [flag.name for flag in trial.flags]
        values[f"{name} examples"] = [
            (example.attack, example.labels, example.adv_images.tobytes())
            for example in trial.examples
        ]
    return values


def contents_of_checkpoint(folder: Path) -> dict[str, object]:
    """The weights of a checkpoint.

    Raises:
        UserError: If it is none, or damaged.
    """
    model, card = load_checkpoint(folder)
    weights = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    return {"card": card.architecture, **weights}


def file_names(folder: Path) -> set[str]:
    """Names of all files below a folder but its lock, which stays where there is a result."""
    names = {name for name, content in snapshot(folder).items() if isinstance(content, bytes)}
    return names - {LOCK} if len(names) > 1 else names


def copy_of(folder: Path, target: Path) -> Path:
    """Copy a folder or file, replacing what is there."""
    remove(target)
    if folder.is_dir():
        shutil.copytree(folder, target, symlinks=True)
    elif folder.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder, target)
    return target


def remove(path: Path) -> None:
    """Remove a folder or file if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_command(words: list[str]) -> int:
    """Run the command line on one thread."""
    torch.set_num_threads(1)
    return main(words)

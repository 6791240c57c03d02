"""The commands: an open set of dataclasses of options with a method ``run``.

A new command: one file, one line in :data:`COMMANDS`. Commands import torch inside ``run`` only, so
that ``--help`` is fast.
"""

from __future__ import annotations

from collections.abc import Callable

from nullclass.cli.certify import CertifyCommand
from nullclass.cli.curve import CurveCommand
from nullclass.cli.data import DataCommand
from nullclass.cli.evaluate import EvaluateCommand
from nullclass.cli.report import ReportCommand
from nullclass.cli.study import StudyCommand
from nullclass.cli.substitute import SubstituteCommand
from nullclass.cli.train import TrainCommand
from nullclass.cli.transfer import TransferCommand
from nullclass.cli.zoo import ZooCommand

COMMANDS: dict[str, Callable[..., object]] = {
    "data": DataCommand,
    "train": TrainCommand,
    "curve": CurveCommand,
    "substitute": SubstituteCommand,
    "transfer": TransferCommand,
    "evaluate": EvaluateCommand,
    "certify": CertifyCommand,
    "study": StudyCommand,
    "report": ReportCommand,
    "zoo": ZooCommand,
}
"""Name to command, in the order of the help."""

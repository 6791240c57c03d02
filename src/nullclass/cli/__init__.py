"""The commands. A new one: one file, one line in :data:`COMMANDS`. Imports torch only to work."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.cli.certify import Certify
from nullclass.cli.curve import Curve
from nullclass.cli.data import Data
from nullclass.cli.evaluate import Evaluate
from nullclass.cli.report import Report
from nullclass.cli.study import Study
from nullclass.cli.substitute import Substitute
from nullclass.cli.train import Train
from nullclass.cli.transfer import Transfer
from nullclass.cli.zoo import Zoo

__all__ = ["COMMANDS", "Command"]

Command = Data | Train | Curve | Substitute | Transfer | Evaluate | Certify | Study | Report | Zoo

COMMANDS: dict[str, Callable[..., object]] = {
    "data": Data,
    "train": Train,
    "curve": Curve,
    "substitute": Substitute,
    "transfer": Transfer,
    "evaluate": Evaluate,
    "certify": Certify,
    "study": Study,
    "report": Report,
    "zoo": Zoo,
}
"""Name to a dataclass of options with a method ``run``, in the order of the help."""

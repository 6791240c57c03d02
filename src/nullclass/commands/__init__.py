"""The commands. A new one: one file, one line in :data:`COMMANDS`. Imports torch only to work."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.commands.certify import Certify
from nullclass.commands.curve import Curve
from nullclass.commands.data import Data
from nullclass.commands.evaluate import Evaluate
from nullclass.commands.report import Report
from nullclass.commands.study import Study
from nullclass.commands.substitute import Substitute
from nullclass.commands.train import Train
from nullclass.commands.transfer import Transfer
from nullclass.commands.zoo import Zoo

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

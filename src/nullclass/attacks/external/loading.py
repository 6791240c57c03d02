"""Another library, loaded only when one of its attacks is wanted, and what is said if it is not."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from types import ModuleType
from typing import Any

from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Library:
    """Where an adapter's attacks come from."""

    module: str
    """Name to import."""
    catalogue: str
    """The module that lists its attacks."""
    adapter: str
    """The adapter that asks, for messages."""
    install: str
    """The command that installs it."""

    def load(self, name: str | None = None) -> ModuleType:
        """One of its modules, its main one unless named.

        Raises:
            UserError: If it is not installed, or is but does not import.
        """
        try:
            importlib.import_module(self.module)
            return importlib.import_module(name or self.module)
        except Exception as error:  # a broken package raises whatever it likes
            is_missing = isinstance(error, ModuleNotFoundError) and error.name == self.module
            if is_missing:
                raise UserError(f"{self.adapter} needs {self.module}: {self.install}") from None
            raise UserError(
                f"{self.adapter} needs {self.module}, which is installed but does not import: "
                f"{type(error).__name__}: {error}"
            ) from error

    def find(self, name: str) -> Any:
        """The attack's class: a name in the catalogue, or a dotted path to one that is not there.

        Raises:
            UserError: If there is none.
        """
        self.load()
        path, _, last = name.rpartition(".")
        try:
            return getattr(importlib.import_module(path or self.catalogue), last)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"there is no attack {name!r} in {path or self.catalogue}: {error}"
            ) from None

    def make(
        self,
        name: str,
        *first: object,
        given: Mapping[str, object],
        settings: Mapping[str, object],
    ) -> Any:
        """An attack of that class.

        Args:
            name: As for :meth:`find`.
            first: What its constructor takes before all settings, the model say.
            given: What the adapter knows, eps say.
            settings: What the user chose.

        Raises:
            UserError: If a setting is unknown, impossible, or not the user's to choose.
        """
        taken = sorted(given.keys() & settings.keys())
        if taken:
            raise UserError(f"{taken[0]!r} is no setting of {name} here: it comes with the call")
        maker = self.find(name)
        try:
            return maker(*first, **given, **settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.module} makes no {name} of this: {error}") from error


def accepted(maker: Any, given: Mapping[str, object]) -> dict[str, object]:
    """Those of the settings that a class's constructor has."""
    known = signature(maker).parameters
    return {name: value for name, value in given.items() if name in known}


def in_units_of(eps: float, relative: Mapping[str, float]) -> dict[str, float]:
    """Settings that were given as shares of eps."""
    return {name: share * eps for name, share in relative.items()}


def name_for(names: Mapping[str, str], norm: str) -> str:
    """The attack for that norm.

    Raises:
        UserError: If there is none.
    """
    if norm not in names:
        raise UserError(f"this attack is for {' and '.join(names)}, not for {norm}")
    return names[norm]

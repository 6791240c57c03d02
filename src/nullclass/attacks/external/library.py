"""Another library, imported only when one of its attacks is created."""

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
    """Where attacks come from."""

    module: str
    """Name to import."""
    catalogue: str
    """The module that lists its attacks."""
    install: str
    """The command that installs it."""

    def load(self, name: str | None = None) -> ModuleType:
        """Import and return one of its modules, its main one by default.

        Raises:
            UserError: If it is not installed, or installed but broken.
        """
        try:
            importlib.import_module(self.module)
            return importlib.import_module(name or self.module)
        except Exception as error:  # a broken package may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                raise UserError(f"{self.module} is not installed: {self.install}") from None
            raise UserError(
                f"{self.module} is installed but does not import: {type(error).__name__}: {error}"
            ) from error

    def find(self, name: str) -> Any:
        """Return an attack's class: a name in the catalogue, or a dotted path.

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

    def create(
        self,
        name: str,
        *first: object,
        given: Mapping[str, object],
        settings: Mapping[str, object],
        only_known: bool = True,
    ) -> Any:
        """Return an attack of that class.

        Args:
            name: As in :meth:`find`.
            first: Positional arguments of its constructor, such as the model.
            given: Arguments that the adapter provides, such as eps.
            settings: The user's settings.
            only_known: Leave out those of ``given`` that the constructor does not take.

        Raises:
            UserError: If a setting is unknown, impossible, or provided by the adapter.
        """
        maker = self.find(name)
        if only_known:
            given = {key: given[key] for key in given.keys() & signature(maker).parameters.keys()}
        taken = sorted(given.keys() & settings.keys())
        if taken:
            raise UserError(f"{taken[0]!r} is no setting of {name}: the attack's call gives it")
        try:
            return maker(*first, **given, **settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.module} refuses to create {name}: {error}") from error

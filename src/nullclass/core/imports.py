"""Functions of the user, written as ``PACKAGE.MODULE:FUNCTION``. Importing one runs its code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from nullclass.core.checks import shown
from nullclass.core.errors import UserError, describe_error


def is_function_name(text: str) -> bool:
    """Whether a text has the form ``PACKAGE.MODULE:FUNCTION``."""
    module, _, function = text.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_function(name: str) -> Callable[..., Any]:
    """Import a function, from the working folder or an installed package.

    Args:
        name: ``PACKAGE.MODULE:FUNCTION``.

    Raises:
        UserError: If the name has another form, the module cannot be imported or fails, or it has
            no such function.
    """
    if not is_function_name(name):
        raise UserError(f"{shown(name)} names no function: write it as PACKAGE.MODULE:FUNCTION")
    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(f"{module_name} cannot be imported ({describe_error(error)})") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        found = "no function" if function is None else f"a {type(function).__name__} as"
        raise UserError(f"{module_name} has {found} {attribute}: name a function of that module")
    return function  # type: ignore[no-any-return]


def call_function(name: str, **arguments: Any) -> Any:
    """Import a function and return what it returns.

    Args:
        name: ``PACKAGE.MODULE:FUNCTION``.
        arguments: Keyword arguments of the function.

    Raises:
        UserError: As :func:`import_function`, or if the function raises an exception.
    """
    function = import_function(name)
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:
        raise UserError(f"{name} failed ({describe_error(error)})") from error


def import_extra(module: str, extra: str) -> Any:
    """Import a module that comes with an extra of the package.

    Raises:
        UserError: If it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} cannot be imported ({error}): pip install 'nullclass[{extra}]'"
        ) from None

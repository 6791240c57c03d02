"""Writes api.md, the reference of the public names, from their signatures and docstrings.

Run it after changing a public signature: python docs/api.py
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

import nullclass

PAGE = Path(__file__).with_suffix(".md")

INTRODUCTION = """# Public API

`import nullclass` loads everything lazily. Images are `(N, C, H, W)` in [0,1], eps is in pixel
units, K is the number of real classes, null is the last of K + 1 logits and the label -1. Invalid
input raises `nullclass.UserError`, a `ValueError`, with one sentence that says what to do.

This page is written by `python docs/api.py`; a test compares it with the code.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "Data": ("load_dataset", "LabelledImages"),
    "Models": (
        "Classifier",
        "with_null_class",
        "load_checkpoint",
        "save_checkpoint",
        "load_zoo",
    ),
    "Training": ("train", "TrainConfig", "Recipe"),
    "Evaluation": (
        "evaluate",
        "Evaluation.table",
        "Evaluation.rate",
        "Evaluation.summary",
        "Evaluation.scores",
        "Evaluation.plot",
        "transfer_matrix",
        "compare",
        "Outcome",
    ),
    "Rejection and proofs": ("ProvableNull", "prove", "check_certificates"),
    "A model in use": (
        "export_model",
        "Guard",
        "Guard.answer",
        "Guard.calibrate",
        "Guard.counters",
    ),
    "Errors": ("UserError",),
}
"""Sections and their names in the package."""

MODULES = ("attacks", "nulls", "rejection", "certify")
"""Modules, each a section of everything it exports."""


def find(name: str) -> Any:
    """The object of a dotted name in the package."""
    found: Any = nullclass
    for part in name.split("."):
        found = getattr(found, part)
    return found


def first_line(item: Any) -> str:
    """The first paragraph of a docstring, without Sphinx roles."""
    text = (inspect.getdoc(item) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`(?=[^`])", "`", text)


def signature(name: str, item: Any) -> str:
    """The call as it is written, one argument per line if it is long."""
    if inspect.isclass(item) and issubclass(item, Enum):
        return "\n".join(f"{name}.{member.name} = {member.value}" for member in item)
    # typing replaces the constructor of a protocol's subclass when it is first called
    if inspect.isclass(item) and getattr(item.__init__, "__module__", "typing") == "typing":
        return f"{name}()"
    try:
        call = inspect.signature(item)
    except ValueError:  # an exception without a signature of its own
        return name
    arguments = []
    for parameter in call.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        text = parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_type(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {getattr(parameter.default, '__name__', repr(parameter.default))}"
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        text = prefix.get(parameter.kind, "") + text
        arguments.append(text)
    returned = call.return_annotation
    has_result = not inspect.isclass(item) and returned is not call.empty
    result = f" -> {_type(returned)}" if has_result else ""
    line = f"{name}({', '.join(arguments)}){result}"
    if len(line) <= 96:
        return line
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{name}(\n{lines}){result}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def entry(name: str) -> str:
    """The first line of an object's docstring, and its signature."""
    item = find(name)
    summary = first_line(item)
    if not callable(item):
        return f"`{name}`\n"
    return f"{summary}\n\n```py\n{signature(name, item)}\n```\n"


def page() -> str:
    """The text of the page."""
    parts = [INTRODUCTION]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [f"### {name}\n\n{entry(name)}" for name in names]
    for module in MODULES:
        exported = find(module)
        parts.append(f"## nullclass.{module}\n")
        parts.append(first_line(exported) + "\n")
        names = [name for name in exported.__all__ if inspect.isroutine(find(f"{module}.{name}"))]
        classes = [name for name in exported.__all__ if inspect.isclass(find(f"{module}.{name}"))]
        parts += [f"```py\n{signature(f'{module}.{n}', find(f'{module}.{n}'))}\n```\n"
                  for n in (*classes, *names)]  # fmt: skip
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

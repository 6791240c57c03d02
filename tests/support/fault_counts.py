"""Counts the faults that a suite tries and those that are handled."""

from __future__ import annotations

FAULTS = "faults"
"""Key of a report's property: suite, tried, handled."""


class Counter:
    """Counts the faults of a suite; :meth:`check` fails the test if one was not handled."""

    def __init__(self, suite: str, properties: list[tuple[str, object]]) -> None:
        self.suite, self.properties = suite, properties
        self.tried = 0
        self.bad: list[str] = []

    def add(self, case: object, problem: str | None) -> None:
        """Count a fault; ``problem`` says what was wrong, None that it was handled."""
        self.tried += 1
        if problem is not None:
            self.bad.append(" ".join(f"{case}: {problem}".split()))

    def check(self, at_least: int = 1) -> None:
        """Record the counts; every fault must have been handled."""
        handled = self.tried - len(self.bad)
        self.properties.append((FAULTS, (self.suite, self.tried, handled)))
        shown = "\n".join(self.bad[:40])
        assert not self.bad, f"{len(self.bad)} of {self.tried} not handled:\n{shown}"
        assert self.tried >= at_least, f"only {self.tried} tried"

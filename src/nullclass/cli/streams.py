"""Standard output and error that may be full, closed, or unable to encode a character."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


class Output:
    """A stream whose errors cost only what is printed.

    After the first error, such as a full disk, everything printed is lost. Characters that the
    stream cannot encode are printed as escapes.

    Args:
        stream: The stream; None, as Python has it for a closed one, prints nowhere.
        is_piped: Whether a reader that is gone raises ``BrokenPipeError``.
    """

    def __init__(self, stream: TextIO | None, *, is_piped: bool = False) -> None:
        self._stream: Any = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self._is_piped = is_piped
        self.error: OSError | None = None
        """Why output was lost."""
        with suppress(AttributeError, OSError):  # not every stream is a file
            self._stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Write a text and return its length."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._attempt(self._stream.flush)

    def discard(self) -> None:
        """Send everything nowhere from now on, also what Python flushes when it exits."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def _attempt(self, operation: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            operation()
        except OSError as error:
            if self._is_piped and isinstance(error, BrokenPipeError):
                raise
            self.error = error
            self.discard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

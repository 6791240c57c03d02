"""Exceptions for mistakes that the user can correct."""

LONGEST = 600
"""Most characters of a message."""


class UserError(ValueError):
    """An invalid input; the message is one sentence that says how to correct it.

    The command line prints the message and exits with status 2, without a traceback. A message may
    quote a file or a name, so it is shortened in the middle, and control characters are escaped.
    """

    def __init__(self, message: object) -> None:
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message))
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 + 3 :]}"
        super().__init__(text)


class NotFiniteError(UserError):
    """A model's logits, or the scores of its detector, are NaN or infinite."""


class CannotWriteError(UserError):
    """A file cannot be written: the disk is full, read-only or gone. Retrying does not help."""


class StateError(UserError):
    """The saved state of unfinished work cannot be resumed."""


class DamagedStateError(StateError):
    """The saved state is damaged: the work starts again."""


def describe_error(error: BaseException) -> str:
    """Return type and message of an exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":. ")

"""Exceptions for mistakes that the user can correct."""


class UserError(ValueError):
    """An invalid input; the message is one sentence that says how to correct it.

    The command line prints the message and exits with status 2, without a traceback.
    """


class CannotWriteError(UserError):
    """A file cannot be written: the disk is full, read-only or gone. Retrying does not help."""


class StateError(UserError):
    """The saved state of unfinished work cannot be resumed."""


class DamagedStateError(StateError):
    """The saved state is damaged: the work starts again."""

"""The exceptions for mistakes a user can put right."""


class UserError(Exception):
    """A mistake in the input, told in one sentence that says what to do.

    The command line prints the sentence and exits with status 2, without a traceback.
    """


class CannotWriteError(UserError):
    """The disk refused: full, read-only or gone. No use in going on."""


class StateError(UserError):
    """The state of a training that was begun cannot be gone on from."""

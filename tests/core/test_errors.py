from __future__ import annotations

import pickle

import pytest

from nullclass.core.errors import LONGEST, CannotWriteError, UserError


def test_a_message_is_one_short_line() -> None:
    assert str(UserError("a\nb\0\ud800 é ε")) == "a\\nb\\x00\\ud800 é ε"
    assert str(UserError("x" * LONGEST)) == "x" * LONGEST
    long = str(UserError(f"the name {'x' * 10**6}: choose another"))
    assert len(long) == LONGEST
    assert long.startswith("the name xx")
    assert long.endswith("xx: choose another")


@pytest.mark.parametrize("kind", [UserError, CannotWriteError])
def test_a_worker_can_send_it(kind: type[UserError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a\nb")))
    assert (type(error), str(error)) == (kind, "a\\nb")

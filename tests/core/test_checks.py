from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nullclass.core.checks import (
    check_choice,
    check_count,
    check_path,
    check_positive,
    check_rate,
    check_seed,
    check_share,
    shown,
)
from nullclass.core.errors import UserError


def test_what_fits_is_returned_as_a_plain_value() -> None:
    assert check_count("steps", 1) == 1
    assert type(check_count("steps", np.int64(3))) is int
    assert check_count("steps", 0, 0, 0) == 0
    assert type(check_share("share", np.float32(0.5))) is float
    assert [check_share("share", value) for value in (0, 1)] == [0.0, 1.0]
    assert check_positive("step", 1) == 1.0
    assert check_choice("norm", "l2", ["linf", "l2"]) == "l2"
    assert check_seed(2**63 - 1) == 2**63 - 1
    assert check_rate("rate", np.float32(0.5)) == 0.5
    assert check_path("out", "~/x") == Path.home() / "x"
    assert check_path("out", "ä" * 127) == Path("ä" * 127), "254 bytes"
    assert shown("x" * 10**6) == f"'{'x' * 59}…{'x' * 9}'"
    assert shown("é") == "'é'"


@pytest.mark.parametrize("wrong", [True, None, "1", math.nan, [1], 1j])
@pytest.mark.parametrize("check", [check_count, check_share, check_positive])
def test_other_types_and_nan_are_refused(check: Callable[..., object], wrong: object) -> None:
    with pytest.raises(UserError, match=r"^steps must be a"):
        check("steps", wrong)


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (check_count, ("steps", 0), "steps must be a whole number of at least 1, not 0"),
        (check_count, ("steps", 1.0), "steps must be a whole number of at least 1, not 1.0"),
        (check_count, ("folds", 9, 2, 8), "folds must be a whole number from 2 to 8, not 9"),
        (check_share, ("share", 1.5), "share must be a number from 0 to 1, not 1.5"),
        (check_positive, ("step", 0), "step must be a number above 0, not 0"),
        (check_positive, ("step", math.inf), "step must be a number above 0, not inf"),
        (check_choice, ("norm", "l3", ("l1", "l2")), "norm must be one of l1, l2, not 'l3'"),
        (check_choice, ("norm", None, ("l1", "l2")), "norm must be one of l1, l2, not None"),
        (check_seed, (-1,), f"seed must be a whole number from 0 to {2**63 - 1}, not -1"),
        (check_seed, (2**63,), "seed must be a whole number from 0 to"),
        (check_count, ("steps", 10**9 + 1), "steps must be at most 1,000,000,000, not 1000000001"),
        (check_count, ("steps", 10**5000), "steps must be at most 1,000,000,000, not a number of"),
        (check_positive, ("step", 10**400), "step must be a number above 0, not 1000"),
        (check_rate, ("rate", 1), "rate must be between 0 and 1, not 1"),
        (check_path, ("out", ""), "out must be a path, not ''"),
        (check_path, ("out", "a\0b"), r"out must be a path, not 'a\x00b'"),
        (check_path, ("out", "\udcff"), r"out must be a path, not '\udcff'"),
        (check_path, ("out", "~nosuchuser"), "out: '~nosuchuser' names a user without a home"),
        (check_path, ("out", "ä" * 128), "out: 'ä"),
        (check_path, ("out", "d/" * 2048), "out: 'd/"),
    ],
)
def test_each_refusal_is_one_sentence(
    check: Callable[..., object], arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        check(*arguments)
    assert str(refused.value).startswith(message)
    assert isinstance(refused.value, ValueError)

from __future__ import annotations

import torch

from nullclass.core.rng import fork_rng


def test_the_stream_is_put_back_as_if_nothing_had_been() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        with fork_rng(8):
            inside = torch.rand(4)
            torch.rand(99)
        assert torch.equal(torch.rand(4), expected)
        with fork_rng(8):
            assert torch.equal(torch.rand(4), inside)
        state = torch.get_rng_state()
        try:
            with fork_rng(8):
                torch.rand(1)
                raise KeyError
        except KeyError:
            assert torch.equal(torch.get_rng_state(), state)

"""A state goes from one rank to all others, bit for bit, whichever rank has it."""

import torch

from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import exchanged_state, group_of
from clip_testkit.tinystate import same, state_at
from clip_trainer.checkpoint import exchange
from clip_trainer.checkpoint.exchange import broadcast_bytes, broadcast_state, describe


def test_alone_it_is_what_it_was():
    parts = state_at(5)
    got = broadcast_state(group_of(0, 1), 0, parts)
    assert got["weights"]["big"] is parts["weights"]["big"]
    broadcast_bytes(group_of(0, 1), 0, parts["weights"].values())
    assert same(got, state_at(5))


def test_the_last_rank_gives_to_the_others(tmp_path):
    assert run_ranks(3, tmp_path, exchanged_state, 3, 2) == [[True, True, True]] * 3


def test_a_description_has_no_values():
    described = describe({"weights": {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.tensor(1)}})
    assert described == {"weights": {"a": ([2, 3], "bfloat16"), "b": ([], "int64")}}


def test_small_tensors_travel_together_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(exchange, "MESSAGE_BYTES", 100)
    sizes = [10, 0, 80, 300, 5, 95, 5, 101, 1]
    tensors = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    bunches = [[tensor.numel() for tensor in bunch] for bunch in exchange._bunches(tensors)]
    assert bunches == [[10, 80], [300], [5, 95], [5], [101], [1]]

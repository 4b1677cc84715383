"""What ranks exchange about rows: gathered, reduced, and checked."""

import pytest
import torch

from clip_testkit.ranks import run_ranks
from clip_trainer.loss.exchange import GatherRows, SingleProcess, exchange_for

COUNTS = (2, 0, 3)


def rows_of(rank):
    """Rows that say where they come from: 100 * rank + index."""
    return torch.tensor([[100.0 * rank + i, -i] for i in range(COUNTS[rank])]).reshape(-1, 2)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return run_ranks(3, tmp_path_factory.mktemp("exchange"), exchanged)


def exchanged(rank):
    exchange = exchange_for(COUNTS[rank], None, COUNTS)
    values = torch.tensor([float(rank), -float(rank)])
    largest, total = values.clone(), values.clone()
    exchange.max_(largest)
    exchange.sum_(total)
    shares = [torch.full((count, 2), 10.0 * owner + rank) for owner, count in enumerate(COUNTS)]
    leaf = rows_of(rank).requires_grad_()
    sum(
        (index + 1) * (rank + 1) * block.sum() for index, block in enumerate(GatherRows.apply(leaf, exchange))
    ).backward()
    own = exchange.own_rows()
    return {
        "gathered": [block.tolist() for block in exchange.gather_rows(rows_of(rank))],
        "reduced": exchange.reduce_rows(shares).tolist(),
        "max": largest.tolist(),
        "sum": total.tolist(),
        "own": (own.start, own.stop),
        "gradient": leaf.grad.tolist(),
    }


def test_every_rank_gets_all_rows_in_rank_order(seen):
    everything = [rows_of(rank).tolist() for rank in range(3)]
    assert [answer["gathered"] for answer in seen] == [everything] * 3


def test_each_rank_gets_the_sum_for_its_own_rows(seen):
    """Rank r's shares for owner o are 10 o + r; their sum over the three ranks is 30 o + 3."""
    assert [answer["reduced"] for answer in seen] == [[[3.0, 3.0]] * 2, [], [[63.0, 63.0]] * 3]


def test_maximum_and_sum(seen):
    assert all(answer["max"] == [2.0, 0.0] for answer in seen)
    assert all(answer["sum"] == [3.0, -3.0] for answer in seen)


def test_own_rows_follow_those_of_lower_ranks(seen):
    assert [answer["own"] for answer in seen] == [(0, 2), (2, 2), (2, 5)]


def test_the_gradient_of_gathered_rows_is_summed_over_ranks(seen):
    """Block o weighs (o + 1)(r + 1) on rank r: together (o + 1) * 6."""
    assert seen[0]["gradient"] == [[6.0, 6.0]] * 2
    assert seen[2]["gradient"] == [[18.0, 18.0]] * 3


def test_alone_nothing_is_exchanged():
    exchange = exchange_for(3, None, None)
    assert isinstance(exchange, SingleProcess)
    assert (exchange.rank, exchange.counts, exchange.own_rows()) == (0, (3,), slice(0, 3))
    rows = torch.ones(3, 2)
    assert exchange.gather_rows(rows)[0] is rows
    assert exchange.reduce_rows([rows]) is rows
    values = torch.tensor([1.0, 2.0])
    exchange.max_(values)
    exchange.sum_(values)
    assert values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("rows", "counts", "message"),
    [(3, [3, 3], "counts names 2 ranks, the group has 1"), (3, [2], "counts says 2 rows for rank 0, which has 3")],
)
def test_counts_that_contradict_are_refused(rows, counts, message):
    with pytest.raises(ValueError, match=message):
        exchange_for(rows, None, counts)

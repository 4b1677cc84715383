"""What ranks tell each other about a batch whose rows they share, possibly unevenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from clip_trainer.elastic.beacon import current as beacon


class Exchange(Protocol):
    """Collectives over the rows of one global batch; `counts[r]` of them are on rank r."""

    rank: int
    counts: tuple[int, ...]

    def own_rows(self) -> slice:
        """Where this rank's rows are among those of all ranks."""
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """Every rank's rows [counts[r], d], in rank order."""
        ...

    def reduce_rows(self, rows: Sequence[Tensor]) -> Tensor:
        """Sum over ranks of what each rank has for this rank's rows: [counts[rank], d]."""
        ...

    def max_(self, values: Tensor) -> None:
        """Replace `values` by the maximum over ranks."""
        ...

    def sum_(self, values: Tensor) -> None:
        """Replace `values` by the sum over ranks."""
        ...


class SingleProcess(Exchange):
    """The whole batch is here.

    Args:
        count: rows of the batch.
    """

    def __init__(self, count: int) -> None:
        self.rank = 0
        self.counts: tuple[int, ...] = (count,)

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """The rows themselves."""
        return [rows]

    def reduce_rows(self, rows: Sequence[Tensor]) -> Tensor:
        """The rows themselves."""
        (only,) = rows
        return only

    def max_(self, values: Tensor) -> None:
        """Nothing to do."""

    def sum_(self, values: Tensor) -> None:
        """Nothing to do."""


class GroupExchange(Exchange):
    """The batch is spread over a process group.

    Collectives need equal shapes, so rows travel padded to the largest count.

    Args:
        group: the process group.
        counts: rows of each rank of the group.
    """

    def __init__(self, group: dist.ProcessGroup, counts: Sequence[int]) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.counts = tuple(counts)

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """One all-gather of padded rows."""
        padded = self._pad(rows)
        gathered = rows.new_empty(len(self.counts) * len(padded), rows.shape[1])
        with beacon().waiting_for_peers():
            dist.all_gather_into_tensor(gathered, padded, group=self._group)
        blocks = gathered.chunk(len(self.counts))
        return [block[:count] for block, count in zip(blocks, self.counts, strict=True)]

    def reduce_rows(self, rows: Sequence[Tensor]) -> Tensor:
        """One reduce-scatter of padded rows."""
        padded = torch.cat([self._pad(block) for block in rows])
        mine = padded.new_empty(max(self.counts), padded.shape[1])
        with beacon().waiting_for_peers():
            dist.reduce_scatter_tensor(mine, padded, group=self._group)
        return mine[: self.counts[self.rank]]

    def max_(self, values: Tensor) -> None:
        """One all-reduce."""
        with beacon().waiting_for_peers():
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group)

    def sum_(self, values: Tensor) -> None:
        """One all-reduce."""
        with beacon().waiting_for_peers():
            dist.all_reduce(values, dist.ReduceOp.SUM, group=self._group)

    def _pad(self, rows: Tensor) -> Tensor:
        missing = max(self.counts) - len(rows)
        return torch.nn.functional.pad(rows, (0, 0, 0, missing)).contiguous()


def exchange_for(rows: int, group: dist.ProcessGroup | None, counts: Sequence[int] | None) -> Exchange:
    """The exchange for a batch of which `rows` are here.

    Args:
        rows: rows of this rank.
        group: None means the default group if there is one.
        counts: rows of each rank; None means `rows` everywhere.

    Raises:
        ValueError: `counts` contradicts `rows` or the size of the group.
    """
    if group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    world = 1 if group is None else dist.get_world_size(group)
    counts = [rows] * world if counts is None else counts
    if len(counts) != world:
        raise ValueError(f"counts names {len(counts)} ranks, the group has {world}")
    rank = 0 if group is None else dist.get_rank(group)
    if counts[rank] != rows:
        raise ValueError(f"counts says {counts[rank]} rows for rank {rank}, which has {rows}")
    if group is None or world == 1:
        return SingleProcess(rows)
    return GroupExchange(group, counts)


class GatherRows(torch.autograd.Function):
    """`Exchange.gather_rows` as a differentiable function: the gradient of a row is the sum over ranks."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, exchange: Exchange) -> tuple[Tensor, ...]:
        """Every rank's rows."""
        ctx.exchange = exchange  # type: ignore[attr-defined]
        return tuple(block.clone() for block in exchange.gather_rows(rows))

    @staticmethod
    def backward(ctx: FunctionCtx, *blocks: Tensor) -> tuple[Tensor, None]:
        """This rank's share of what all ranks have."""
        exchange: Exchange = ctx.exchange  # type: ignore[attr-defined]
        return exchange.reduce_rows(blocks), None

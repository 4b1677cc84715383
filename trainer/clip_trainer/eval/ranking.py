"""In which place does the right partner come? Exact ranks without a similarity matrix, on any number of ranks.

Every rank keeps the queries of its own samples; blocks of candidates travel from rank to rank, and each rank counts how
many of them beat the right partner of each of its queries. So memory is a block times a chunk, for any number of pairs.

Similarities are products in float64, rounded to float32: equal vectors (the same caption twice) then have equal
similarities, whatever the shapes of blocks. Ties go to the candidate that comes first, as in a stable sort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from clip_trainer.train.group import Group

BLOCK = 4096
"""Candidates that travel together."""
QUERIES = 1024
"""Queries compared with a block at once."""


@dataclass(frozen=True)
class Rows:
    """Embeddings of one kind, images or texts, of one rank's samples.

    Attributes:
        features: unit vectors [n, d], float32.
        owners: id of the sample each belongs to [n], int64; several texts may have the same one.
        keys: place among all rows of this kind over all ranks [n], int64; decides ties.
    """

    features: torch.Tensor
    owners: torch.Tensor
    keys: torch.Tensor

    def __len__(self) -> int:
        return int(self.features.shape[0])


def best_places(group: Group, queries: Rows, candidates: Rows) -> torch.Tensor:
    """Place (0 = best) of the best candidate with the same owner, for each query of this rank. Collective.

    Args:
        group: the ranks; each passes its own rows, and has at least one candidate for each of its queries.
        queries: what is looked up with.
        candidates: what is ranked.

    Returns:
        int64 [queries].
    """
    best, key = _right_partners(queries, candidates)
    places = torch.zeros(len(queries), dtype=torch.int64)
    for block in _blocks(group, candidates, queries.features.shape[1]):
        for at in range(0, len(queries), QUERIES):
            part = slice(at, at + QUERIES)
            scores = _similarities(queries.features[part].to(group.device), block.features)
            own, own_key, owner = (x[part].to(group.device).unsqueeze(1) for x in (best, key, queries.owners))
            beats = (scores > own) | ((scores == own) & (block.keys < own_key))
            places[part] += (beats & (block.owners != owner)).sum(1).cpu()
    return places


def gather_rows(group: Group, rows: torch.Tensor) -> torch.Tensor:
    """All ranks' rows (of any number each), rank by rank, on every rank. Collective."""
    if group.world == 1:
        return rows
    counts = group.gather_json(rows.shape[0])
    padded = rows.new_zeros((max(counts), *rows.shape[1:]), device=group.device)
    padded[: rows.shape[0]] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).to(rows.device)


def _similarities(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    return (queries.double() @ candidates.double().T).float()


def _right_partners(queries: Rows, candidates: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity and key of each query's best own candidate. Both kinds are sorted by owner."""
    first = torch.searchsorted(candidates.owners, queries.owners)
    count = torch.searchsorted(candidates.owners, queries.owners, right=True) - first
    assert bool((count > 0).all()), "a query without a partner"
    best = torch.full((len(queries),), -torch.inf)
    key = torch.zeros(len(queries), dtype=torch.int64)
    for nth in range(int(count.max()) if len(queries) else 0):
        has = (count > nth).nonzero().squeeze(1)
        at = first[has] + nth
        products = queries.features[has].double() * candidates.features[at].double()
        score = products.sum(1).float()
        better = score > best[has]
        best[has[better]], key[has[better]] = score[better], candidates.keys[at[better]]
    return best, key


def _blocks(group: Group, rows: Rows, width: int) -> Iterator[Rows]:
    """All ranks' rows in blocks, the same on every rank, on the group's device."""
    for owner, count in enumerate(group.gather_json(len(rows))):
        for at in range(0, count, BLOCK):
            size = min(BLOCK, count - at)
            if owner == group.rank:
                part = slice(at, at + size)
                features, numbers = rows.features[part], torch.stack([rows.owners[part], rows.keys[part]])
            else:
                features, numbers = torch.empty(size, width), torch.empty(2, size, dtype=torch.int64)
            features, numbers = features.to(group.device).contiguous(), numbers.to(group.device)
            group.broadcast_tensors([features, numbers], owner)
            yield Rows(features, numbers[0], numbers[1])

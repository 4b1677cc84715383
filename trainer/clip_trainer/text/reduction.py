"""What to leave out of a caption with too many tokens (CLIPA, arXiv 2305.07017, section 3.2).

The random ones draw from the global generators of `random` and torch, in OpenCLIP's order, so that equal seeds give
equal tokens in both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from clip_trainer.text.syntax import nouns_first

REDUCTIONS = ("simple", "random", "shuffle", "syntax")
"""A random block; random tokens in order; random tokens shuffled; nouns before adjectives before verbs."""

Encode = Callable[[str], list[int]]


class Reduction(Protocol):
    """Captions to a padded tensor of ids [n, context_length]."""

    def __call__(
        self, texts: Sequence[str], context_length: int, sot_token_id: int, eot_token_id: int, encode_fn: Encode
    ) -> Tensor:
        """Encode with `encode_fn` and keep `context_length - 2` ids between the start and the end token."""


def get_reduction_mask_fn(kind: str) -> Reduction:
    """The reduction of a name.

    Raises:
        ValueError: no such reduction.
    """
    functions: dict[str, Reduction] = {
        "simple": partial(_reduced, keep=_random_block),
        "random": partial(_reduced, keep=partial(_random_ids, shuffle=False)),
        "shuffle": partial(_reduced, keep=partial(_random_ids, shuffle=True)),
        "syntax": _syntax,
    }
    if kind not in functions:
        raise ValueError(f"there is no reduction {kind!r}; there are {', '.join(REDUCTIONS)}")
    return functions[kind]


def _reduced(
    texts: Sequence[str],
    context_length: int,
    sot_token_id: int,
    eot_token_id: int,
    encode_fn: Encode,
    keep: Callable[[list[int], int], list[int]],
) -> Tensor:
    result = torch.zeros(len(texts), context_length, dtype=torch.long)
    room = context_length - 2
    for row, ids in zip(result, [encode_fn(text) for text in texts], strict=True):
        kept = ids if len(ids) <= room else keep(ids, room)
        row[: len(kept) + 2] = torch.tensor([sot_token_id, *kept, eot_token_id])
    return result


def _random_block(ids: list[int], room: int) -> list[int]:
    start = random.randint(0, len(ids) - room)  # noqa: S311 (no secret)
    return ids[start : start + room]


def _random_ids(ids: list[int], room: int, shuffle: bool) -> list[int]:
    indices = torch.randperm(len(ids))[:room].tolist()
    return [ids[index] for index in (indices if shuffle else sorted(indices))]


def _syntax(
    texts: Sequence[str], context_length: int, sot_token_id: int, eot_token_id: int, encode_fn: Encode
) -> Tensor:
    result = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(result, texts, strict=True):
        # A word may have several tokens, so the end may have to be cut all the same.
        ids = [sot_token_id, *encode_fn(nouns_first(text, context_length - 2)), eot_token_id][:context_length]
        if len(ids) == context_length:
            ids[-1] = eot_token_id
        row[: len(ids)] = torch.tensor(ids)
    return result

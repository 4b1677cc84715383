"""Finding ranks whose weights have silently become others: a checksum of all weights, compared now and then.

Replicas do the same arithmetic on the same numbers, so their weights are equal bit for bit; a flipped bit in memory, a
miscomputing core or a bug ends that, and nobody notices, because gradients are still summed. What every rank gets alike
(a gradient that was wrong before it was summed) cannot be found so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clip_trainer.train.group import Group
from clipctl.contract.errors import TryAgainError

_COLUMNS = 4096
_WORD = 8
_M64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

Tell = Callable[..., None]
"""`tell(event, message, **fields)`, as `EventLog.tell`: it must not fail, lest ranks fail in different ways."""


class DivergenceError(TryAgainError):
    """The ranks have different weights: everybody must go back to the newest verified checkpoint.

    Attributes:
        ranks: those that differ from the majority; all of them if there is none.
    """

    def __init__(self, problem: str, ranks: tuple[int, ...]) -> None:
        super().__init__(problem, hint="All ranks go back to the newest verified checkpoint.")
        self.ranks = ranks


@dataclass(frozen=True)
class Verdict:
    """Which ranks differ.

    Attributes:
        ranks: those in the minority; if there is no majority, all.
        certain: whether there is a majority, so that the others are right.
    """

    ranks: tuple[int, ...]
    certain: bool

    def __str__(self) -> str:
        """In words."""
        names = ", ".join(map(str, self.ranks[:-1])) + f" and {self.ranks[-1]}" if self.ranks[1:] else self.ranks[0]
        if not self.certain:
            return f"ranks {names} have different weights, and there is no majority"
        several = len(self.ranks) > 1
        return f"rank{'s' * several} {names} {'have' if several else 'has'} other weights than the majority"


@torch.no_grad()
def checksum(tensors: Iterable[Tensor]) -> int:
    """A 64-bit checksum (as a signed integer) of the bits of tensors, in their order.

    Each tensor is summed as 64-bit words in 4,096 columns, each column is multiplied by an odd number of its own, and
    the sums are mixed with the place of the tensor. All of that is invertible arithmetic modulo 2**64, so a change
    within a single word always changes the result, and arithmetic that went apart almost certainly does. Words that
    change places within a column do not; this finds accidents, not forgeries. Nothing is copied but tensors that are
    not contiguous, and a tail of fewer than 8 bytes.

    Args:
        tensors: all on one device; the result is fetched from it once.
    """
    total: Tensor | None = None
    weights: Tensor | None = None
    for index, tensor in enumerate(tensors):
        if weights is None:
            weights = _odd_numbers(tensor.device)
        mixed = (_sum(tensor.detach(), weights) + _signed(index * _GOLDEN)) * _signed((2 * index + 1) * _GOLDEN | 1)
        total = mixed if total is None else total + mixed
    return 0 if total is None else int(total)


def judge(checksums: Sequence[int]) -> Verdict | None:
    """Who differs, by rank; None if nobody does."""
    (common, count), *others = Counter(checksums).most_common()
    if not others:
        return None
    if 2 * count <= len(checksums):
        return Verdict(tuple(range(len(checksums))), certain=False)
    return Verdict(tuple(rank for rank, own in enumerate(checksums) if own != common), certain=True)


class ReplicaCheck:
    """Compares the weights of all ranks every few steps, and before each checkpoint.

    Args:
        tensors: gives the weights and buffers, in the same order on every rank.
        group: the ranks, each of which has all weights.
        every_steps: `health.checksum_steps`; 0 compares never.
        tell: says what was found, in the ledger.
    """

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], group: Group, every_steps: int, tell: Tell) -> None:
        self._tensors = tensors
        self._group = group
        self._every_steps = every_steps
        self._tell = tell

    def own(self, step: int, *, saving: bool = False) -> int | None:
        """This rank's checksum, if the ranks' are to be compared after optimiser step `step`. Not collective.

        Args:
            step: steps done.
            saving: a checkpoint of this step is about to be made. Comparing first keeps a rank that has diverged out
                of it: otherwise there would be no good state left to go back to.
        """
        if not self._every_steps or not (saving or step % self._every_steps == 0):
            return None
        return checksum(self._tensors())

    def compare(self, step: int, own: int) -> None:
        """Compare the ranks' checksums. Collective.

        Raises:
            DivergenceError: the ranks differ; on every rank.
        """
        checksums: list[int] = self._group.gather_json(own)
        verdict = judge(checksums)
        if verdict is None:
            return
        message = f"after step {step} {verdict}"
        fields: dict[str, Any] = {"step": step, "ranks": list(verdict.ranks), "certain": verdict.certain}
        self._tell("divergence", message, **fields, checksums=checksums)
        raise DivergenceError(f"{message}.", verdict.ranks)


def _sum(tensor: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of a tensor's words, a 0-d int64."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    whole = data.numel() // _WORD * _WORD
    aligned = data[:whole] if data.storage_offset() % _WORD == 0 else data[:whole].clone()
    words = aligned.view(torch.int64)
    rows = words.numel() // _COLUMNS
    table = words[: rows * _COLUMNS].view(rows, _COLUMNS)
    rest = words[rows * _COLUMNS :]
    total = (table.sum(0) * weights).sum() + (rest * weights[: rest.numel()]).sum() * 3
    if whole < data.numel():
        tail = torch.zeros(_WORD, dtype=torch.uint8, device=data.device)
        tail[: data.numel() - whole] = data[whole:]
        total = total + tail.view(torch.int64)[0] * 5
    return total + data.numel()


def _odd_numbers(device: torch.device) -> Tensor:
    """One odd factor for each column: [4096] int64."""
    return torch.arange(_COLUMNS, device=device) * _signed(2 * _GOLDEN & _M64) + 1


def _signed(number: int) -> int:
    """The signed 64-bit integer with the same bits."""
    number &= _M64
    return number - (1 << 64) if number >> 63 else number

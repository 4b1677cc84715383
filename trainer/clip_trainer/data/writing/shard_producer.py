"""What writes shards is given: samples, or the reasons why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from clipctl.contract.errors import ClipError


class NewSample(NamedTuple):
    """A sample to be written."""

    key: str
    origin: str  # directory that tells samples with the same key apart
    members: tuple[tuple[str, bytes], ...]  # what follows the key and its dot, and the content


class Unpackable(Exception):
    """A sample that cannot be written.

    Attributes:
        reason: short and stable enough to count by.
        where: what to look at: table and line, a file, or shard and key.
        error: what to tell the user if this ends the work.
    """

    def __init__(self, reason: str, where: str, error: ClipError) -> None:
        super().__init__(reason)
        self.reason, self.where, self.error = reason, where, error


Outcome = NewSample | Unpackable


class Producer(Protocol):
    """Makes samples; called by several threads at once."""

    stage: str  # how progress calls the work
    options: Mapping[str, Any]  # everything that decides the samples: digest of the input, order, changes

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def produce(self, positions: range) -> list[Outcome]:
        """The samples at some neighbouring positions of the order of writing."""
        ...

"""What the threads of a loader are doing, and who is to blame when the data does not come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from clip_trainer.data.order.base import SampleRef
from clipctl.contract.errors import UnavailableError

Stage = Literal["read", "decode", "tokenize"]
Clock = Callable[[], float]


class Doing(NamedTuple):
    """One thread's work at the moment."""

    stage: Stage
    turn: int  # number of the batch
    ref: SampleRef
    since: float


class Slot:
    """Where one thread writes what it is doing, and others read it: one assignment, no lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.doing: Doing | None = None

    def begin(self, stage: Stage, turn: int, ref: SampleRef) -> None:
        """The thread turns to a sample."""
        self.doing = Doing(stage, turn, ref, self._clock())

    def rest(self) -> None:
        """The thread waits for work."""
        self.doing = None


@dataclass(frozen=True)
class Stall:
    """Why training waits for data."""

    stage: str
    """read, decode or tokenize; `queue` if no thread is working on the batch."""
    shard: str
    sample: int
    """Index within the shard."""
    seconds: float
    """How long that stage has taken so far."""
    waited: float
    """How long the batch has been waited for."""

    def __str__(self) -> str:
        where = f"sample {self.sample} of {self.shard}"
        if self.stage == "queue":
            return f"no data for {self.waited:.1f} s: no thread has come to {where} yet"
        doing = {"read": "reading", "decode": "decoding", "tokenize": "tokenizing the captions of the batch of"}
        return f"no data for {self.waited:.1f} s: {doing[self.stage]} {where} has taken {self.seconds:.1f} s so far"


class StallWatch:
    """Looks after one wait of the consumer at a time: reports a long one once, and ends one that is too long.

    Args:
        slots: of all threads.
        shard_name: name of a shard by its number.
        report: told about a stall.
        clock: seconds, monotonic.
        threshold: seconds after which a wait is a stall.
        timeout: seconds after which it is an error; None for never.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        shard_name: Callable[[int], str],
        report: Callable[[Stall], None],
        clock: Clock,
        threshold: float,
        timeout: float | None,
    ) -> None:
        self._slots, self._shard_name, self._report, self._clock = slots, shard_name, report, clock
        self._threshold, self._timeout = threshold, timeout
        self._started = 0.0
        self._reported = False
        self.stalls = 0

    def begin(self) -> float:
        """A wait begins; returns when."""
        self._started, self._reported = self._clock(), False
        return self._started

    def look(self, turn: int, first_missing: SampleRef) -> None:
        """The wait goes on.

        Args:
            turn: number of the batch that is waited for.
            first_missing: one of its samples that is not there yet.

        Raises:
            UnavailableError: it has taken longer than `timeout`.
        """
        waited = self._clock() - self._started
        if waited >= self._threshold and not self._reported:
            self._reported = True
            self.stalls += 1
            self._report(self.explain(turn, first_missing))
        if self._timeout is not None and waited >= self._timeout:
            raise UnavailableError(
                f"{self.explain(turn, first_missing)}.".capitalize(),
                hint="Look at the storage of the shard; a longer timeout only helps if it is slow and not gone.",
            )

    def explain(self, turn: int, first_missing: SampleRef) -> Stall:
        """What the batch waits for: whatever a thread has been doing for it the longest."""
        now = self._clock()
        busy = [doing for slot in self._slots if (doing := slot.doing) is not None and doing.turn == turn]
        if not busy:
            ref, waited = first_missing, now - self._started
            return Stall("queue", self._shard_name(ref.shard), ref.index_in_shard, waited, waited)
        oldest = min(busy, key=lambda doing: doing.since)
        shard = self._shard_name(oldest.ref.shard)
        return Stall(oldest.stage, shard, oldest.ref.index_in_shard, now - oldest.since, now - self._started)

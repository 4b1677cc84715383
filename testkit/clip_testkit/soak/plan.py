"""What is to go wrong, and when: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: as the record and the command line have it.
        weight: how often it comes, compared with the others.
        needs: what the scene must offer: "s3", "folder", "disk" (a file system of its own), "nodes" (more than one).
        text: what happens, in words.
    """

    name: str
    weight: float
    needs: frozenset[str]
    text: str


def _kind(name: str, weight: float, text: str, *needs: str) -> Kind:
    return Kind(name, weight, frozenset(needs), text)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("kill_worker", 5, "SIGKILL to a worker"),
        _kind("kill_rank_0", 2, "SIGKILL to the worker with rank 0"),
        _kind("kill_all_workers", 1, "SIGKILL to all workers at once"),
        _kind("kill_agent", 2, "SIGKILL to an agent, with whose death its workers die; started again later", "nodes"),
        _kind("term_agent", 2, "SIGTERM to an agent, as when a node is drained; started again later", "nodes"),
        _kind("kill_coordinator", 1, "SIGKILL to the coordinator; started again at the same address later"),
        _kind("stop_worker", 1, "SIGSTOP to a worker, which hangs until the watchdog finds it"),
        _kind("pause_worker", 1, "SIGSTOP to a worker and SIGCONT soon after: slow, not dead"),
        _kind("failpoint", 2, "an agent starts again with failpoints at which its workers die once", "nodes"),
        _kind("corrupt_checkpoint", 1, "a byte of the newest checkpoint is flipped, then all workers die", "folder"),
        _kind("disk_full", 1, "nothing can be written for a moment", "disk", "folder"),
        _kind("s3_errors", 2, "the store answers 503 for a while", "s3"),
        _kind("s3_resets", 2, "the store breaks connections for a while", "s3"),
        _kind("s3_slow", 1, "the store answers late for a while", "s3"),
    )
}


@dataclass(frozen=True, order=True)
class Planned:
    """One fault of a plan.

    Attributes:
        at: seconds since the run began to train.
        kind: one of `KINDS`.
        chance: seeds whatever else is random about it: which victim, for how long.
    """

    at: float
    kind: str
    chance: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Planned:
        """From its form in a record."""
        return cls(float(raw["at"]), str(raw["kind"]), int(raw["chance"]))


def possible(offered: Iterable[str], wanted: Sequence[str] = ()) -> list[str]:
    """The kinds of faults that a scene can have, of those that are wanted (default: all)."""
    there = frozenset(offered)
    return [name for name, kind in KINDS.items() if kind.needs <= there and (not wanted or name in wanted)]


def plan(seed: int, seconds: float, mtbf: float, kinds: Sequence[str]) -> list[Planned]:
    """A Poisson process of faults, at least one of them.

    Args:
        seed: the same seed gives the same plan.
        seconds: faults happen before that.
        mtbf: mean time between them, in seconds.
        kinds: which kinds to choose from.
    """
    chance = random.Random(seed)
    weights = [KINDS[kind].weight for kind in kinds]
    faults: list[Planned] = []
    at = chance.expovariate(1 / mtbf)
    while at < seconds or not faults:
        (kind,) = chance.choices(kinds, weights)
        faults.append(Planned(round(min(at, seconds / 2 if not faults else at), 2), kind, chance.getrandbits(32)))
        at += chance.expovariate(1 / mtbf)
    return faults

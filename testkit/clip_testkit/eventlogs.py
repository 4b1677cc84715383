"""Event logs that store at once, without a run around them."""

from __future__ import annotations

from collections.abc import Callable

from clip_trainer.train.events import EventLog
from clipctl.contract.store import ObjectStore


def opened(store: ObjectStore, incarnation: int, clock: Callable[[], float]) -> EventLog:
    """The log of rank 0 of an incarnation."""
    log = EventLog(store, clock)
    log.open(incarnation)
    return log

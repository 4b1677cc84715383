"""TensorBoard event files in the run's storage.

Object stores cannot append, so the log is a sequence of immutable files, each a valid event file; their names sort in
the order of incarnation and part, which is the order in which TensorBoard reads them. A resumed run begins with a
`START` record at the step it resumed from: readers then drop what an earlier incarnation logged after that step.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

from clip_trainer.log.scalars import Scalars
from clipctl.contract import layout
from clipctl.contract.errors import MissingError, SpecError
from clipctl.contract.store import ObjectStore

_EPOCHS = f"{layout.TENSORBOARD}evaluated-epochs.json"
_FIRST_FLUSH, _LONGEST_FLUSH, _GROWTH = 10.0, 300.0, 0.02


class TensorBoardLog:
    """Implements `channel.Log`.

    Args:
        store: the run's store.
        incarnation: who writes; part of the file names.
        first_step: the step this incarnation begins with, counted from 0.
        clock: seconds since the epoch.
        monotonic: seconds, for when to store.

    Raises:
        SpecError: the package tensorboard is missing.
    """

    def __init__(
        self,
        store: ObjectStore,
        incarnation: int,
        first_step: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._event = _protocol()
        self._store, self._incarnation = store, incarnation
        self._clock, self._monotonic = clock, monotonic
        self._part = 0
        self._pending: list[Any] = []
        self._opened = self._flushed = monotonic()
        self._epochs = self._logged_epochs()
        self._new_epochs = False
        if incarnation > 1:
            self._pending.append(self._event(wall_time=clock(), step=first_step, session_log={"status": "START"}))

    def train(self, scalars: Scalars, step: int) -> None:
        """See `channel.Log`."""
        self._add(scalars, step)

    def evaluation(self, scalars: Scalars, step: int, epoch: int | None) -> None:
        """See `channel.Log`. An epoch is logged once, also if a resumed run evaluates it again."""
        if epoch is None:
            self._add(scalars, step)
        elif epoch not in self._epochs:
            self._epochs.add(epoch)
            self._new_epochs = True
            self._add(scalars, epoch)

    def flush(self) -> None:
        """Store what is pending, rarely enough that a long run has few files."""
        now = self._monotonic()
        wait = min(max(_FIRST_FLUSH, _GROWTH * (now - self._opened)), _LONGEST_FLUSH)
        if now - self._flushed >= wait:
            self._store_part()

    def close(self) -> None:
        """See `channel.Log`."""
        self._store_part()

    def _add(self, scalars: Scalars, step: int) -> None:
        values = [{"tag": tag, "simple_value": value} for tag, value in scalars.items()]
        self._pending.append(self._event(wall_time=self._clock(), step=step, summary={"value": values}))

    def _store_part(self) -> None:
        self._flushed = self._monotonic()
        if self._pending:
            version = self._event(wall_time=self._clock(), file_version="brain.Event:2")
            # If this raises, what is pending stays so and is stored with the next part.
            self._store.write(part_key(self._incarnation, self._part), _records([version, *self._pending]))
            if self._new_epochs:
                self._store.write(_EPOCHS, json.dumps(sorted(self._epochs)).encode())
            self._part += 1
            self._pending.clear()
            self._new_epochs = False

    def _logged_epochs(self) -> set[int]:
        try:
            return set(map(int, json.loads(self._store.read(_EPOCHS))))
        except MissingError:
            return set()


def part_key(incarnation: int, part: int) -> str:
    """Key of one event file; TensorBoard looks for `tfevents` in the name."""
    return f"{layout.TENSORBOARD}events.out.tfevents.{incarnation:06d}.{part:06d}"


def _protocol() -> Callable[..., Any]:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError as error:
        raise SpecError("the package tensorboard is not installed.", hint="Install clipctl[tensorboard].") from error
    made: Callable[..., Any] = Event
    return made


def _records(events: list[Any]) -> bytes:
    """An event file: each event with its length and checksums."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()

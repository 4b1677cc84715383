"""Look for a new rendezvous store in the background while the workers train on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from clip_trainer.elastic.rendezvous import Meeting, StoreLostError

RETRY_SECONDS = 1.0


class Reconnect:
    """Calls `connect` in a thread until it succeeds. Dropping the object ends the search after the current try."""

    def __init__(self, connect: Callable[[], Meeting], retry_seconds: float = RETRY_SECONDS) -> None:
        self._connect = connect
        self._retry_seconds = retry_seconds
        self._cancelled = threading.Event()
        self._found: Meeting | None = None
        threading.Thread(target=self._search, name="rendezvous-reconnect", daemon=True).start()

    def result(self) -> Meeting | None:
        """The new meeting once there is one."""
        return self._found

    def cancel(self) -> None:
        """Stop searching."""
        self._cancelled.set()

    def _search(self) -> None:
        while not self._cancelled.is_set():
            try:
                self._found = self._connect()
                return
            except StoreLostError:
                self._cancelled.wait(self._retry_seconds)

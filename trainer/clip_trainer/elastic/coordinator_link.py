"""A connection to the coordinator that is made again whenever it ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from clip_trainer.elastic.protocol import LineBuffer, Message, ProtocolError, decode, encode
from clip_trainer.elastic.sockets import prepare

RETRY_SECONDS = 1.0
BEAT_SECONDS = 1.0
_CONNECT_SECONDS = 5.0
_PORTION = 1 << 16


class CoordinatorLink:
    """Talks to the coordinator at `endpoint` from a thread; another one sends the beats.

    Args:
        endpoint: host and port.
        greet: what to say first on a new connection; called with the link's lock held.
        heard: called with every message, in the link's thread.
        clock: seconds; monotonic.
    """

    def __init__(
        self,
        endpoint: tuple[str, int],
        greet: Callable[[], list[Message]],
        heard: Callable[[Message], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._greet = greet
        self._heard = heard
        self._clock = clock
        self._lock = threading.Lock()
        self._end: socket.socket | None = None
        self._down_since: float | None = clock()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Connect, now and for ever, in the background."""
        threading.Thread(target=self._run, name="coordinator-link", daemon=True).start()
        threading.Thread(target=self._beat, name="coordinator-beat", daemon=True).start()

    def stop(self) -> None:
        """Close the connection, after what has been sent, and make no other."""
        self._stopping.set()
        with self._lock:
            if self._end is not None:
                _shut(self._end)

    def send(self, message: Message) -> None:
        """Send a message if there is a connection. Whatever must not be lost has to be part of the greeting as well."""
        with self._lock:
            if self._end is None:
                return
            try:
                self._end.sendall(encode(message))
            except OSError:
                _shut(self._end)  # half a line may have been sent; the thread that reads connects again

    def down_seconds(self) -> float:
        """For how long there has been no connection; 0 if there is one."""
        since = self._down_since
        return 0.0 if since is None else self._clock() - since

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(OSError, ProtocolError):
                self._connect_and_read()
            self._stopping.wait(RETRY_SECONDS)

    def _connect_and_read(self) -> None:
        with socket.create_connection(self._endpoint, _CONNECT_SECONDS) as end:
            prepare(end)
            try:
                # Under the lock nothing can be sent before the greeting, and nothing that changes it gets lost.
                with self._lock:
                    end.sendall(b"".join(encode(message) for message in self._greet()))
                    self._end = end
                self._read(end)
            finally:
                with self._lock:
                    self._end = None
                if self._down_since is None:
                    self._down_since = self._clock()

    def _read(self, end: socket.socket) -> None:
        lines = LineBuffer()
        while not self._stopping.is_set():
            try:
                chunk = end.recv(_PORTION)
            except TimeoutError:
                continue  # it says nothing, but its machine is there
            if not chunk:
                return
            self._down_since = None
            for line in lines.feed(chunk):
                self._heard(decode(line))

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_SECONDS):
            self.send({"type": "beat"})


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)

"""The socket under `http.client`: a broken connection ends the stream instead of throwing away what arrived.

Python's buffered reader receives a large body straight into the bytes that it returns, without a copy and without a
line of Python between, but forgets them all if the socket raises. So what goes wrong is noted here, the reader sees an
end, and returns what it has.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

_SENT_AT_ONCE = 1 << 20  # bytes


class Wire:
    """A connected socket, as much of it as `http.client` uses.

    Attributes:
        error: what broke the connection; None while it works.
        deadline: when the current answer must have arrived, on the clock.
    """

    def __init__(self, source: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self.error: OSError | None = None
        self.deadline = float("inf")
        self._source, self._clock = source, clock
        # `SSLSocket.recv_into` does the same through one more layer of Python, once for every 16 KiB record.
        self._receive: Callable[[Any], Any] = (
            (lambda buffer: source.read(len(buffer), buffer)) if isinstance(source, ssl.SSLSocket) else source.recv_into
        )

    def sendall(self, data: bytes) -> None:
        """Send. The timeout of the socket holds for each piece, as one for everything would forbid large uploads."""
        with memoryview(data) as view:
            for start in range(0, len(view), _SENT_AT_ONCE):
                self._source.sendall(view[start : start + _SENT_AT_ONCE])

    def makefile(self, mode: str) -> io.BufferedReader:
        """What is received, to be read."""
        return io.BufferedReader(_Received(self, self._source.makefile("rb", buffering=0)))

    def close(self) -> None:
        """Close the socket when all files are closed."""
        self._source.close()

    def receive_into(self, buffer: Any) -> int:
        """Receive some bytes; 0 at the end, which `error` tells from a break."""
        if self.error is not None:
            return 0
        try:
            if self._clock() >= self.deadline:
                raise TimeoutError("the answer takes too long")
            return int(self._receive(buffer))
        except OSError as error:
            self.error = error
            return 0


class _Received(io.RawIOBase):
    """The receiving side of a wire as a file; holds the socket open as long as it is."""

    def __init__(self, wire: Wire, hold: io.RawIOBase) -> None:
        self._wire, self._hold = wire, hold

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive_into(buffer)

    def close(self) -> None:
        self._hold.close()
        super().close()

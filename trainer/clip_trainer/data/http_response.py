"""An answer of a web server, its body received into the caller's buffer.

`http.client` speaks the protocol. Large bodies go past its layers, straight from the socket into place: half the CPU
time of its own `read`, and on an error it is known which bytes arrived.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from clip_trainer.data.http_errors import nonsense, of_connection

_CHUNKED_PIECE = 64 << 10


class Lease(Protocol):
    """The connection under an answer, as the pool lends it."""

    connection: http.client.HTTPConnection

    def give_back(self, *, reusable: bool) -> None:
        """Nothing more is read."""
        ...


class Response:
    """An answer whose body has not been read yet; `release` it.

    Args:
        raw: its head has been read.
        lease: the connection it comes from.
        has_time: whether the deadline of the request has not passed.
        what: names the object in errors.
    """

    def __init__(self, raw: http.client.HTTPResponse, lease: Lease, has_time: Callable[[], bool], what: str) -> None:
        self.status, self.headers = raw.status, raw.headers
        self.left = None if raw.chunked else raw.length  # bytes of the body; None if nobody knows
        self._raw, self._lease, self._has_time, self._what = raw, lease, has_time, what
        # Under an answer that ends with its connection, `http.client` has let go of the socket already.
        self._socket: socket.socket | None = lease.connection.sock
        self._past_buffer = False

    def read_into(self, view: memoryview) -> int:
        """Receive some of the body.

        Returns:
            How many bytes are now at the beginning of `view`; 0 at the end of the body.

        Raises:
            UnavailableError: the connection broke or stalled, or the answer takes too long.
        """
        if self.left is not None:
            view = view[: self.left]
        if not len(view):
            return 0
        if not self._has_time():
            raise nonsense(self._what, "the answer takes too long")
        try:
            count = self._receive(view)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise of_connection(error, self._what) from error
        if self.left is not None:
            if count == 0:
                raise nonsense(self._what, f"the connection ended {self.left} bytes early")
            self.left -= count
        return count

    def read_rest(self, limit: int) -> bytes:
        """The rest of the body, cut at `limit` bytes."""
        pieces = []
        piece = bytearray(_CHUNKED_PIECE)
        with memoryview(piece) as view:
            while limit and (count := self.read_into(view[:limit])):
                pieces.append(bytes(view[:count]))
                limit -= count
        return b"".join(pieces)

    def release(self) -> None:
        """Give the connection back, or close it if more of the body is to come."""
        finished = self.left == 0 or self._raw.isclosed()
        self._raw.close()
        self._lease.give_back(reusable=finished and not self._raw.will_close)

    def _receive(self, view: memoryview) -> int:
        if self._raw.chunked:
            return self._raw.readinto(view[:_CHUNKED_PIECE])
        if self._past_buffer:
            return _receive_from_socket(self._socket, view)
        # The head was read through a buffer, which may hold the beginning of the body. A view larger than the buffer
        # empties it, and then the socket can be read directly.
        self._past_buffer = self._socket is not None and len(view) > io.DEFAULT_BUFFER_SIZE
        count: int = self._raw.fp.readinto1(view)
        return count


def _receive_from_socket(source: socket.socket | None, view: memoryview) -> int:
    assert source is not None, "only read past the buffer while the connection holds its socket"
    if isinstance(source, ssl.SSLSocket):
        # `SSLSocket.recv_into` does the same through one more layer of Python, once for every 16 KiB record.
        return int(source.read(len(view), view))
    return source.recv_into(view)

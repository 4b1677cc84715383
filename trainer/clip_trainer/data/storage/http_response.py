"""An answer of a web server."""

from __future__ import annotations

import http.client
from collections.abc import Callable

from clip_trainer.data.storage.http_errors import nonsense, of_connection
from clip_trainer.data.storage.http_wire import Wire


class Response:
    """An answer whose body has not been read yet; `release` it.

    Args:
        raw: its head has been read.
        wire: what it comes over.
        give_back: told at the end whether the connection can be used again.
        what: names the object in errors.

    Attributes:
        status: of HTTP.
        headers: in any case.
        left: bytes of the body that are to come; None if nobody knows.
    """

    def __init__(self, raw: http.client.HTTPResponse, wire: Wire, give_back: Callable[[bool], None], what: str) -> None:
        self.status, self.headers = raw.status, raw.headers
        self.left = None if raw.chunked else raw.length
        self._raw, self._wire, self._give_back, self._what = raw, wire, give_back, what

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of the body; fewer where it ends or the connection breaks, none only at its end.

        Raises:
            UnavailableError: the connection has broken or stalls, or the answer takes too long.
        """
        if self.left is not None:
            count = min(count, self.left)
        if not count:
            return b""
        try:
            data: bytes = self._raw.read(count) if self._raw.chunked else self._raw.fp.read(count)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise of_connection(self._wire.error or error, self._what) from error
        if not data and self._wire.error is not None:
            raise of_connection(self._wire.error, self._what) from self._wire.error
        if self.left is not None:
            if not data:
                raise nonsense(self._what, f"the connection ended {self.left} bytes early")
            self.left -= len(data)
        return data

    def read_rest(self, limit: int) -> bytes:
        """The rest of the body, cut at `limit` bytes. Raises as `read`."""
        pieces = []
        while limit and (piece := self.read(limit)):
            pieces.append(piece)
            limit -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """Give the connection back, or close it if more of the body is to come."""
        finished = self.left == 0 or self._raw.isclosed()
        self._raw.close()
        self._give_back(finished and not self._raw.will_close and self._wire.error is None)

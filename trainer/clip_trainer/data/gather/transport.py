"""Connections for `exchange`: to allowed addresses only, and with a deadline for each whole exchange.

urllib3 has timeouts for silence, none for a server that sends a byte now and then, headers included. Here every read
of a connection looks at the deadline that the thread has set for its exchange.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from clip_trainer.data.gather.address import Allowed, connect

_MAX_POOLS = 64  # hosts whose connections are kept; tables name millions

_deadline: ContextVar[float] = ContextVar("_deadline")  # monotonic seconds


@contextlib.contextmanager
def exchange_within(seconds: float) -> Iterator[None]:
    """Everything this thread does on connections inside the block ends in time, by a TimeoutError if need be."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def pool_manager(allowed: Allowed) -> urllib3.PoolManager:
    """Pools whose connections go to allowed addresses and keep the deadline."""

    class Plain(HTTPConnection):
        response_class = _TimedResponse

        def _new_conn(self) -> socket.socket:
            return connect(self._dns_host, self.port, _connect_seconds(self.timeout), allowed)

    class Encrypted(HTTPSConnection):
        response_class = _TimedResponse

        def _new_conn(self) -> socket.socket:
            return connect(self._dns_host, self.port, _connect_seconds(self.timeout), allowed)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    # One context for all: to load the certificates takes longer than to fetch an image.
    pools = urllib3.PoolManager(_MAX_POOLS, maxsize=8, ssl_context=ssl.create_default_context())
    pools.pool_classes_by_scheme = {"http": PlainPool, "https": EncryptedPool}
    return pools


class _TimedReader(io.RawIOBase):
    """The bytes of a connection, until the deadline of the exchange."""

    def __init__(self, raw: Any, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = _deadline.get() - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole exchange took too long")
        self._sock.settimeout(min(left, self._sock.gettimeout() or left))
        return self._raw.readinto(buffer)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """A response whose status line, headers and body all arrive before the deadline, or not at all."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock))


def _connect_seconds(timeout: Any) -> float:
    """The connect timeout that urllib3 set on a connection, cut at the deadline."""
    left = _deadline.get() - time.monotonic()
    return max(0.0, min(left, timeout) if isinstance(timeout, (int, float)) else left)

"""Connections to web servers and object stores: kept alive, bounded in time, through a proxy where one is set."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult

from clip_trainer.data.storage.http_errors import of_connection, shown_url
from clip_trainer.data.storage.http_proxies import proxy_for
from clip_trainer.data.storage.http_response import Response
from clip_trainer.data.storage.http_trust import tls_context
from clip_trainer.data.storage.http_wire import Wire
from clipctl.contract.errors import SpecError

_IDLE_LIMIT = 10.0  # seconds; servers and the gateways before them forget connections that rest longer
_NO_HEADERS: Mapping[str, str] = {}


class Timeouts(NamedTuple):
    """How long one request may take, seconds."""

    connect: float = 5.0
    stall: float = 20.0  # without a byte
    deadline: float = 120.0  # for the whole answer


class ConnectionPool:
    """Sends requests over kept-alive connections; safe to share between threads.

    Args:
        timeouts: see `Timeouts`.
        ca_file: certificates to trust instead of the system's.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        timeouts: Timeouts | None = None,
        *,
        ca_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._ca_file = ca_file
        self._resting = _Resting(clock)
        self._tls_lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        # Nobody closes a source: its connections go when it does.
        weakref.finalize(self, self._resting.close)

    def request(
        self, method: str, url: SplitResult, headers: Mapping[str, str], what: str, body: bytes = b""
    ) -> Response:
        """Send one request and receive the head of the answer; `what` names the object in errors.

        Raises:
            UnavailableError: no answer.
            SpecError: not an address.
        """
        while True:
            lease, fresh = self._take(url)
            try:
                raw, wire = lease.exchange(method, url, headers, body, self._timeouts)
            except (OSError, http.client.HTTPException) as error:
                lease.give_back(False)
                # A server may close a resting connection at any moment: no failure, a new one will do.
                if fresh or isinstance(error, TimeoutError):
                    raise of_connection(error, what) from error
                continue
            return Response(raw, wire, lease.give_back, what)

    def _take(self, url: SplitResult) -> tuple[_Lease, bool]:
        """A connection, and whether it is new."""
        lease = self._resting.take((url.scheme, url.netloc))
        return (lease, False) if lease is not None else (self._new(url), True)

    def _new(self, url: SplitResult) -> _Lease:
        host, port = _host_and_port(url)
        proxy = proxy_for(url.scheme, host)
        place = (proxy.host, proxy.port) if proxy else (host, port)
        origin, timeout = (url.scheme, url.netloc), self._timeouts.connect
        if url.scheme == "https":
            secure = http.client.HTTPSConnection(*place, timeout=timeout, context=self._context())
            if proxy:
                secure.set_tunnel(host, port, headers=dict(proxy.headers))
            return _Lease(self._resting, origin, secure)
        plain = http.client.HTTPConnection(*place, timeout=timeout)
        if proxy:
            return _Lease(self._resting, origin, plain, f"http://{url.netloc}", proxy.headers)
        return _Lease(self._resting, origin, plain)

    def _context(self) -> ssl.SSLContext:
        with self._tls_lock:
            if self._tls is None:
                self._tls = tls_context(self._ca_file)
            return self._tls


class _Resting:
    """Connections that wait for the next request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._leases: defaultdict[tuple[str, str], list[tuple[_Lease, float]]] = defaultdict(list)

    def put(self, origin: tuple[str, str], lease: _Lease) -> None:
        with self._lock:
            self._leases[origin].append((lease, self.clock()))

    def take(self, origin: tuple[str, str]) -> _Lease | None:
        """The one that was used last, unless all have rested for too long."""
        oldest = self.clock() - _IDLE_LIMIT
        with self._lock:
            waiting = self._leases[origin]
            while waiting:
                lease, since = waiting.pop()
                if since > oldest:
                    return lease
                lease.close()
        return None

    def close(self) -> None:
        with self._lock:
            for waiting in self._leases.values():
                for lease, _ in waiting:
                    lease.close()
            self._leases.clear()


class _Lease:
    """A connection; `prefix` and `extra` are what a proxy for plain HTTP wants in every request."""

    def __init__(
        self,
        resting: _Resting,
        origin: tuple[str, str],
        connection: http.client.HTTPConnection,
        prefix: str = "",
        extra: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        self._resting, self._origin, self._connection = resting, origin, connection
        self._prefix, self._extra = prefix, extra
        self._wire: Wire | None = None

    def exchange(
        self, method: str, url: SplitResult, headers: Mapping[str, str], body: bytes, timeouts: Timeouts
    ) -> tuple[http.client.HTTPResponse, Wire]:
        wire = self._wire = self._wire or self._connected(timeouts)
        target = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        self._connection.request(method, self._prefix + target, body or None, {**headers, **self._extra})
        wire.deadline = self._resting.clock() + timeouts.deadline
        try:
            return self._connection.getresponse(), wire
        except http.client.HTTPException as error:
            raise wire.error or error from error

    def give_back(self, reusable: bool) -> None:
        if reusable:
            self._resting.put(self._origin, self)
        else:
            self.close()

    def close(self) -> None:
        self._connection.close()

    def _connected(self, timeouts: Timeouts) -> Wire:
        self._connection.connect()
        source: socket.socket = self._connection.sock
        source.settimeout(timeouts.stall)
        source.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        wire = Wire(source, self._resting.clock)
        self._connection.sock = wire
        return wire


def _host_and_port(url: SplitResult) -> tuple[str, int]:
    try:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
    except (ValueError, KeyError) as error:
        raise SpecError(f"{shown_url(url.geturl())} is not an http:// or https:// address.") from error
    if not url.hostname:
        raise SpecError(f"{shown_url(url.geturl())} names no host.")
    return url.hostname, port

"""One GET as a table of the whole web needs it: every wait and every size has a bound, and nothing is followed blindly.

urllib3 speaks HTTP, over the connections of `transport`. Proxies of the environment are not used: they would
look up names on our behalf, and nobody would see to which addresses.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.response import BaseHTTPResponse

from clip_trainer.data.gather.address import Allowed, is_public
from clip_trainer.data.gather.errors import GatherError, of_status
from clip_trainer.data.gather.transport import exchange_within, pool_manager

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """How long an exchange may take, in seconds."""

    connect: float = 10.0
    read: float = 15.0  # without a byte
    total: float = 60.0


class Answer:
    """An answer whose body was not read yet."""

    def __init__(self, url: str, response: BaseHTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.location: str | None = None  # where a redirect leads
        if response.status in _REDIRECTS:
            self.location = _followed(url, response.headers.get("Location", ""))

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        return list(self._response.headers.getlist(name))

    def body(self, limit: int) -> bytes:
        """All of the body.

        Raises:
            GatherError: `too-large` if it has more than `limit` bytes, `truncated`, `timeout` or `connection`.
        """
        stated = self._response.headers.get("Content-Length", "")
        if stated.isdigit() and int(stated) > limit:
            raise GatherError("too-large", f"{stated} bytes", code=self.status)
        data = self.start_of_body(limit + 1)
        if len(data) > limit:
            raise GatherError("too-large", f"more than {limit} bytes", code=self.status)
        return data

    def start_of_body(self, limit: int) -> bytes:
        """The body, or its first `limit` bytes."""
        pieces, left = [], limit
        while left > 0 and (piece := self._response.read1(min(left, _CHUNK), decode_content=False)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


class WebClient:
    """Sends GET requests; safe to share between threads.

    Args:
        agent: the User-Agent.
        limits: how long an exchange may take.
        allowed: which addresses may be connected to.
    """

    def __init__(self, agent: str, limits: Limits = Limits(), allowed: Allowed = is_public) -> None:
        self._headers = {"User-Agent": agent, "Accept": "image/*,*/*;q=0.1", "Accept-Encoding": "identity"}
        self._limits = limits
        self._timeout = urllib3.Timeout(connect=limits.connect, read=limits.read)
        self._pools = pool_manager(allowed)

    @contextlib.contextmanager
    def get(self, url: str) -> Iterator[Answer]:
        """Ask for `url`; the answer is one with status 200 or a redirect, which is not followed.

        Raises:
            GatherError: any other answer, or none; errors while the block reads the body are translated too.
        """
        host_of(url)
        try:
            with exchange_within(self._limits.total), self._exchange(url) as response:
                if response.status != 200 and response.status not in _REDIRECTS:
                    raise of_status(response.status, _retry_after(response.headers.get("Retry-After")))
                yield Answer(url, response)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Drop idle connections."""
        self._pools.clear()

    @contextlib.contextmanager
    def _exchange(self, url: str) -> Iterator[BaseHTTPResponse]:
        options: dict[str, Any] = {"redirect": False, "retries": False, "preload_content": False}
        response = self._pools.request("GET", url, headers=self._headers, timeout=self._timeout, **options)
        try:
            yield response
        finally:
            response.close()  # a connection whose body was read to its end is back in the pool by now


def host_of(url: str) -> str:
    """The host of an address, in lower case.

    Raises:
        GatherError: `bad-url`: it is no http address.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018 - raises for a port that is no number
    except ValueError as error:
        raise GatherError("bad-url", str(error)) from error
    if parts.scheme.lower() not in ("http", "https") or not host or "\ufffd" in url:
        raise GatherError("bad-url", "not an http:// or https:// address")
    return host


def _followed(url: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        target = urljoin(url, location)
        host_of(target)
    except (ValueError, GatherError) as error:
        raise GatherError("redirect", f"to {location[:200]!r}") from error
    if not location:
        raise GatherError("redirect", "to nowhere")
    if urlsplit(url).scheme.lower() == "https" and urlsplit(target).scheme.lower() != "https":
        raise GatherError("redirect", "from https to http")
    return target


def _retry_after(value: str | None) -> float:
    """Seconds of a `Retry-After` header, which holds a number or a date; 0 without one."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _translated(error: Exception) -> GatherError:
    """What a failure of urllib3 means for the row."""
    cause = error.args[-1] if error.args else None
    if isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
        return GatherError("timeout", "the answer took too long", transient=True)
    if isinstance(error, (urllib3.exceptions.SSLError, ssl.SSLError)):
        return GatherError("tls", _words(error))
    if isinstance(cause, (urllib3.exceptions.IncompleteRead, http.client.IncompleteRead)):
        return GatherError("truncated", "the body ends early", code=200, transient=True)
    if isinstance(error, OSError) or isinstance(cause, OSError):
        return GatherError("connection", _words(cause or error), transient=True)
    if isinstance(error, (urllib3.exceptions.LocationValueError, ValueError)):
        return GatherError("bad-url", _words(error))
    return GatherError("protocol", _words(cause or error))


def _words(error: object) -> str:
    return f"{type(error).__name__}: {error}"[:200]

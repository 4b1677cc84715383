"""Shards on a web server: read-only, and no listing."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from clip_trainer.data.storage.http_client import HttpClient, Proof, Request
from clip_trainer.data.storage.http_connections import ConnectionPool, Timeouts
from clip_trainer.data.storage.http_errors import shown_url
from clip_trainer.data.storage.http_info import object_info
from clip_trainer.data.storage.http_proxies import basic_authorization
from clip_trainer.data.storage.http_ranges import read_range
from clip_trainer.data.storage.parallel_info import parallel_info
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters, checked_name
from clipctl.contract.errors import CannotCreateError, MissingError

_URL_SAFE = "/%:=&?~+!$,;'@()*[]-_."  # an address is given as it is written in a browser


class HttpSource:
    """Files below an `http://` or `https://` address; implements `source.Source`.

    A user and password in the address are sent as basic authorization, to that server only, and shown nowhere.

    Args:
        base: the address, without a trailing slash.
        retry: how failed requests are repeated.
        timeouts: of single requests.
    """

    remote = True

    def __init__(self, base: str, *, retry: RetryPolicy | None = None, timeouts: Timeouts | None = None) -> None:
        parts = urlsplit(base)
        self.base = shown_url(base)
        self.counters = SourceCounters()
        self._root = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=quote(parts.path, safe=_URL_SAFE))
        authorizer = _BasicAuthorizer(parts.username, parts.password)
        self._client = HttpClient(ConnectionPool(timeouts), authorizer, retry or RetryPolicy(), self.counters)

    def info(self, name: str) -> ObjectInfo:
        """By one HEAD request, or one GET of a byte where the server does not know HEAD."""
        return object_info(self._client, self._request("GET", name), name)

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """By HEAD requests in parallel."""
        return parallel_info(self.info, names)

    def list_shards(self) -> tuple[str, ...]:
        """Web servers cannot list. Raises MissingError."""
        raise MissingError(
            f"{self.base} cannot be listed over {self._root.scheme}, and holds no index.json.",
            hint="Give a brace pattern (.../shard-{000000..000127}.tar) or put index.json beside the shards.",
        )

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """A range, resumed where it breaks; `etag` is demanded by `If-Match` and compared."""
        if length == 0:
            return b""
        request = self._request("GET", name)
        return read_range(self._client, request.url, request.what, offset, length, etag)

    def load(self, name: str) -> bytes:
        """One GET of the whole file, which may be made on the fly and of a size nobody knows."""
        return self._client.call(self._request("GET", name))

    def save(self, name: str, data: bytes) -> None:
        """Web servers are read-only. Raises CannotCreateError."""
        raise CannotCreateError(f"{self.base}/{name} cannot be written over {self._root.scheme}.")

    def _request(self, method: str, name: str) -> Request:
        path = f"{self._root.path}/{quote(checked_name(name), safe='/-_.~')}"
        return Request(method, self._root._replace(path=path), f"{self.base}/{name}")


class _BasicAuthorizer:
    """Sends user and password along, if there are any; implements `http_client.Authorizer`."""

    follows_redirects = True

    def __init__(self, user: str | None, password: str | None) -> None:
        self._proof = Proof(basic_authorization(user, password))

    def prove(self, request: Request) -> Proof:
        return self._proof

    def renew(self, refused: Proof) -> None:
        raise AssertionError("a password does not expire")

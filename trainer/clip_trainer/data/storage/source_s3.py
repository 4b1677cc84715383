"""Shards in S3 or a store that speaks its protocol: own requests, own signatures, no SDK."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone

from clip_trainer.data.storage.http_client import HttpClient, Proof, Request
from clip_trainer.data.storage.http_connections import ConnectionPool, Timeouts
from clip_trainer.data.storage.http_info import object_info
from clip_trainer.data.storage.http_ranges import read_range
from clip_trainer.data.storage.parallel_info import parallel_info
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.s3_address import Bucket, S3Settings, settings_from, split_location
from clip_trainer.data.storage.s3_listing import listing_query, parse_listing
from clip_trainer.data.storage.s3_signing import Keys, signed_headers
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters, checked_name
from clip_trainer.data.storage.source_credentials import CredentialChain

_LISTED_AT_ONCE = 64  # objects; asking for fewer one by one is quicker than listing a whole directory


class S3Source:
    """Objects below `s3://bucket/prefix`; implements `source.Source`.

    Args:
        base: the location, without a trailing slash.
        retry: how failed requests are repeated.
        timeouts: of single requests.
        environ: where settings come from; see `s3_address.settings_from`.
    """

    remote = True

    def __init__(
        self,
        base: str,
        *,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.base = base
        self.counters = SourceCounters()
        name, self._prefix = split_location(base)
        settings = settings_from(os.environ if environ is None else environ)
        self._bucket = Bucket(settings, name)
        pool = ConnectionPool(timeouts, ca_file=settings.ca_file)
        self._client = HttpClient(pool, S3Authorizer(settings), retry or RetryPolicy(), self.counters)

    def info(self, name: str) -> ObjectInfo:
        """By one HEAD request."""
        return object_info(self._client, self._request("GET", name), name)

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """By HEAD requests in parallel, or by one listing if there are many."""
        wanted = list(names)
        if len(wanted) < _LISTED_AT_ONCE or any("/" in name for name in wanted):
            return parallel_info(self.info, wanted)
        listed = {info.name: info for info in self._listing()}
        return {name: listed[name] for name in wanted if name in listed}

    def list_shards(self) -> tuple[str, ...]:
        """The `.tar` objects directly below the base."""
        return tuple(sorted(info.name for info in self._listing() if info.name.endswith(".tar")))

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """A range, resumed where it breaks; `etag` is demanded by `If-Match`."""
        if length == 0:
            return b""
        request = self._request("GET", name)
        return read_range(self._client, request.url, request.what, offset, length, etag)

    def load(self, name: str) -> bytes:
        """A whole object of one version."""
        info = self.info(name)
        return self.read(name, 0, info.bytes, etag=info.etag)

    def save(self, name: str, data: bytes) -> None:
        """One PUT; stores publish an object only when it is complete."""
        self._client.call(self._request("PUT", name, data))

    def _request(self, method: str, name: str, body: bytes = b"") -> Request:
        url = self._bucket.url(self._prefix + checked_name(name))
        return Request(method, url, f"{self.base}/{name}", body=body)

    def _listing(self) -> Iterator[ObjectInfo]:
        token = None
        while True:
            url = self._bucket.url(query=listing_query(self._prefix, token))
            document = self._client.call(Request("GET", url, self.base))
            page = parse_listing(document, self._prefix, self.base)
            yield from page.objects
            token = page.next_token
            if token is None:
                return


class S3Authorizer:
    """Signs requests, unless the bucket is public; implements `http_client.Authorizer`."""

    follows_redirects = False  # a redirect means another region, for which the signature is wrong

    def __init__(self, settings: S3Settings) -> None:
        self._region = settings.region
        self._chain = None if settings.anonymous else CredentialChain()

    def prove(self, request: Request) -> Proof:
        """Headers with the signature."""
        if self._chain is None:
            return Proof()
        keys = self._chain.current()
        now = datetime.now(timezone.utc)
        method, url, _, headers, body = request
        return Proof(signed_headers(keys, self._region, method, url, headers, body, now), keys)

    def renew(self, refused: Proof) -> None:
        """See `CredentialChain.renew`."""
        assert isinstance(refused.keys, Keys), "only a signature can be refused as expired"
        assert self._chain is not None, "unsigned requests have no keys"
        self._chain.renew(refused.keys)

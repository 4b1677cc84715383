"""Shards in object storage or on a web server, through fsspec (s3fs for `s3://`).

The client's own retries are turned down to one: `RetryPolicy` decides, so that an unreachable store fails within
seconds and is counted, not hidden.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from clip_trainer.data.retry import RetryPolicy
from clip_trainer.data.source import ObjectInfo, SourceCounters, checked_name
from clip_trainer.data.source_errors import typed_error
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, UnavailableError

T = TypeVar("T")

_CONNECT_TIMEOUT = 5  # seconds
_READ_TIMEOUT = 30  # seconds without a byte
_PARALLEL_INFO = 16


class RemoteSource:
    """Objects below a URL; implements `source.Source`.

    Args:
        base: directory URL without a trailing slash.
        retry: how failed requests are repeated.
        environ: where S3 options come from (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`, keys).
    """

    remote = True

    def __init__(
        self, base: str, *, retry: RetryPolicy | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.base = base
        self.counters = SourceCounters()
        self._retry = retry or RetryPolicy()
        self._environ = os.environ if environ is None else environ
        self._scheme = base.split(":", 1)[0]

    def info(self, name: str) -> ObjectInfo:
        """Size and etag by one HEAD request."""
        return self._request(name, lambda url: _object_info(name, self._files.info(url), url))

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """By one listing where the store can list, else by parallel HEAD requests."""
        wanted = list(names)
        if self._is_store and not any("/" in name for name in wanted):
            listed = self._listing()
            return {name: listed[name] for name in wanted if name in listed}
        with ThreadPoolExecutor(_PARALLEL_INFO) as pool:
            return {info.name: info for info in pool.map(self._info_or_none, wanted) if info is not None}

    def list_shards(self) -> tuple[str, ...]:
        """The `.tar` objects directly below the base."""
        if not self._is_store:
            raise MissingError(
                f"{self.base} cannot be listed over {self._scheme}, and holds no index.json.",
                hint="Give a brace pattern (.../shard-{000000..000127}.tar) or put index.json beside the shards.",
            )
        return tuple(sorted(name for name in self._listing() if name.endswith(".tar")))

    def read(self, name: str, offset: int, length: int) -> bytes:
        """One ranged GET."""
        if length == 0:
            return b""
        data = self._request(name, lambda url: self._read_range(url, offset, length))
        self.counters.add(bytes_read=len(data))
        return data

    def load(self, name: str) -> bytes:
        """One GET of the whole object."""
        return bytes(self._request(name, lambda url: self._files.cat_file(url)))

    def save(self, name: str, data: bytes) -> None:
        """One PUT (or a multipart upload); stores publish an object only when it is complete."""
        if not self._is_store:
            raise CannotCreateError(f"{self.base}/{name} cannot be written over {self._scheme}.")
        self._request(name, lambda url: self._files.pipe_file(url, data))

    @property
    def _is_store(self) -> bool:
        return self._scheme not in ("http", "https")

    @cached_property
    def _files(self) -> Any:  # fsspec has no types
        import fsspec

        if self._scheme != "s3":
            return fsspec.filesystem(self._scheme, skip_instance_cache=True, use_listings_cache=False)
        files = fsspec.filesystem("s3", **s3_options(self._environ), skip_instance_cache=True)
        files.retries = 1
        return files

    def _listing(self) -> dict[str, ObjectInfo]:
        entries = self._request("", lambda url: self._files.ls(url, detail=True, refresh=True))
        found = {}
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]
            if entry.get("type") == "file" and name:
                found[name] = _object_info(name, entry, name)
        return found

    def _info_or_none(self, name: str) -> ObjectInfo | None:
        try:
            return self.info(name)
        except MissingError:
            return None

    def _read_range(self, url: str, offset: int, length: int) -> bytes:
        data = bytes(self._files.cat_file(url, start=offset, end=offset + length))
        if len(data) > length:
            # A server without range support sends everything; cutting it keeps that correct, if slow.
            data = data[offset : offset + length]
        if len(data) == length:
            return data
        if offset + length > int(self._files.info(url)["size"]):
            raise CorruptError(f"{url} is shorter than the index says.", hint="Fetch or pack the shard again.")
        raise UnavailableError(f"{url}: the server sent {len(data)} bytes instead of {length}.")

    def _request(self, name: str, call: Callable[[str], T]) -> T:
        """Run a call on an object's URL with retries; only typed errors come out."""
        url = f"{self.base}/{checked_name(name)}" if name else self.base

        def attempt() -> T:
            self.counters.add(requests=1)
            try:
                return call(url)
            except Exception as error:
                raise typed_error(error, url) from error

        return self._retry.run(attempt, lambda: self.counters.add(retries=1))


def s3_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """Options of s3fs from the environment; keys, profiles and roles are found by botocore itself."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
        "retries": {"max_attempts": 0},
    }
    client: dict[str, Any] = {}
    if endpoint:
        client["endpoint_url"] = endpoint
        # Host-style names (bucket.host) rarely resolve for stores other than AWS.
        config["s3"] = {"addressing_style": "path"}
    if region or endpoint:
        client["region_name"] = region or "us-east-1"
    return {"client_kwargs": client, "config_kwargs": config, "use_listings_cache": False}


def _object_info(name: str, raw: Mapping[str, Any], url: str) -> ObjectInfo:
    if raw.get("type") == "directory":
        raise MissingError(f"{url} is a directory, not a shard.")
    if raw.get("size") is None:
        raise UnavailableError(f"{url}: the server does not tell its size.")
    etag = raw.get("ETag") or raw.get("etag")
    return ObjectInfo(name, int(raw["size"]), str(etag).strip('"') if etag else None)

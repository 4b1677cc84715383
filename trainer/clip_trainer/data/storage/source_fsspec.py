"""Shards wherever fsspec reaches (`gs://`, `az://`, `hf://`, `memory://`, ...): for compatibility, not for speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from clip_trainer.data.storage.http_errors import changed, too_short
from clip_trainer.data.storage.parallel_info import parallel_info
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters, checked_name
from clip_trainer.data.storage.source_errors import typed_error
from clipctl.contract.errors import MissingError, UnavailableError

T = TypeVar("T")


def knows_scheme(scheme: str) -> bool:
    """Whether fsspec has, or can have by installing a package, a client for a scheme."""
    import fsspec

    return scheme in fsspec.available_protocols()


class FsspecSource:
    """Objects below a URL that fsspec understands; implements `source.Source`.

    Clients repeat failed requests themselves, each in its own way; `retry` goes on where they give up.

    Args:
        base: directory URL without a trailing slash.
        retry: how failed requests are repeated.
    """

    remote = True

    def __init__(self, base: str, *, retry: RetryPolicy | None = None) -> None:
        self.base = base
        self.counters = SourceCounters()
        self._retry = retry or RetryPolicy(attempts=4)
        self._scheme = base.split(":", 1)[0]
        self._checked: set[tuple[str, str]] = set()

    def info(self, name: str) -> ObjectInfo:
        """Size and etag, where the client tells one."""
        return self._request(name, lambda url: _object_info(name, self._files.info(url), url))

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """By one listing, or one by one where names lie in different directories."""
        wanted = list(names)
        if any("/" in name for name in wanted):
            return parallel_info(self.info, wanted)
        listed = self._listing()
        return {name: listed[name] for name in wanted if name in listed}

    def list_shards(self) -> tuple[str, ...]:
        """The `.tar` objects directly below the base."""
        return tuple(sorted(name for name in self._listing() if name.endswith(".tar")))

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """One ranged read. fsspec has no conditions, so `etag` is compared once, before the first range."""
        if length == 0:
            return b""
        if etag is not None and (name, etag) not in self._checked:
            if self.info(name).etag not in (etag, None):
                raise changed(f"{self.base}/{name}")
            self._checked.add((name, etag))
        data = self._request(name, lambda url: self._read_range(url, offset, length))
        self.counters.add(bytes_read=len(data))
        return data

    def load(self, name: str) -> bytes:
        """A whole object."""
        return bytes(self._request(name, lambda url: self._files.cat_file(url)))

    def save(self, name: str, data: bytes) -> None:
        """A whole object; whether readers may see a part of it is up to the storage."""
        self._request(name, lambda url: self._files.pipe_file(url, data))

    @cached_property
    def _files(self) -> Any:  # fsspec has no types
        import fsspec

        return fsspec.filesystem(self._scheme, skip_instance_cache=True, use_listings_cache=False)

    def _listing(self) -> dict[str, ObjectInfo]:
        entries = self._request("", lambda url: self._files.ls(url, detail=True))
        found = {}
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]
            if entry.get("type") == "file" and name:
                found[name] = _object_info(name, entry, name)
        return found

    def _read_range(self, url: str, offset: int, length: int) -> bytes:
        data = bytes(self._files.cat_file(url, start=offset, end=offset + length))
        if len(data) == length:
            return data
        if offset + length > int(self._files.info(url)["size"]):
            raise too_short(url)
        raise UnavailableError(f"{url}: the storage client gave {len(data)} bytes instead of {length}.")

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


def _object_info(name: str, raw: Mapping[str, Any], url: str) -> ObjectInfo:
    if raw.get("type") == "directory":
        raise MissingError(f"{url} is a directory, not a shard.")
    if raw.get("size") is None:
        raise UnavailableError(f"{url}: the server does not tell its size.")
    etag = raw.get("ETag") or raw.get("etag")
    return ObjectInfo(name, int(raw["size"]), str(etag).strip('"') if etag else None)

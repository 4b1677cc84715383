"""Where the bytes of a file come from: web servers and object stores, both resumable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from clip_trainer.pretrained import httperrors
from clip_trainer.pretrained.digests import Expected, expected_from_etag
from clip_trainer.pretrained.httpclient import Answer, HttpClient, offline_error
from clip_trainer.pretrained.patience import TransientError
from clip_trainer.pretrained.settings import FetchSettings
from clipctl.contract.errors import UnavailableError

if TYPE_CHECKING:
    from clip_trainer.data.storage.source import ObjectInfo

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_STORE_CHUNK = 8 << 20


@dataclass(frozen=True)
class Opened:
    """A file that is being read."""

    start: int  # offset of the first byte that `chunks` gives
    total: int | None  # bytes of the whole file
    validator: str | None  # names this version of the file
    promised: Expected  # what the source says of the content
    chunks: Iterator[bytes]
    close: Callable[[], None]


class Origin(Protocol):
    """A file that can be read from any offset."""

    @property
    def where(self) -> str:
        """The address, without secrets."""
        ...

    def open(self, offset: int, validator: str | None) -> Opened:
        """Start reading at `offset`, or at 0 if the file is not the one that `validator` names.

        Raises:
            TransientError: worth another attempt.
            ClipError: not worth one.
        """
        ...


class HttpOrigin:
    """A file on a web server.

    Args:
        client: sends the requests.
        url: the address.
        headers: further headers of every request.
    """

    def __init__(self, client: HttpClient, url: str, headers: Mapping[str, str] | None = None) -> None:
        self._client, self._url, self._headers = client, url, dict(headers or {})

    @property
    def where(self) -> str:
        """See `Origin.where`."""
        return httperrors.shown_url(self._url)

    def open(self, offset: int, validator: str | None) -> Opened:
        """See `Origin.open`; ranges are asked for with `If-Range`, so that versions never mix."""
        conditions = {"Range": f"bytes={offset}-", "If-Range": validator} if offset and validator else {}
        try:
            answer = self._client.request("GET", self._url, {**self._headers, **conditions})
        except httperrors.RangeRefusedError:
            answer = self._client.request("GET", self._url, self._headers)
        start, total = self._extent(answer, offset)
        return Opened(start, total, _strong_etag(answer), _promised(answer), answer.chunks(), answer.close)

    def _extent(self, answer: Answer, offset: int) -> tuple[int, int | None]:
        """Offset of the first byte and size of the whole."""
        if answer.headers.get("Content-Encoding", "identity") not in ("identity", ""):
            answer.close()
            raise httperrors.of_server(f"{self.where} is compressed on the way although that was not asked for")
        if answer.status == 206:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if match is None or int(match.group(1)) != offset:
                answer.close()
                raise httperrors.of_server(f"{self.where}: the server sent another range than it was asked for")
            return offset, None if match.group(2) == "*" else int(match.group(2))
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None


class StoreOrigin:
    """A file in object storage.

    Args:
        url: `s3://bucket/key` or another scheme that the data sources know.
        settings: tells whether connections are allowed.
    """

    def __init__(self, url: str, settings: FetchSettings) -> None:
        from clip_trainer.data.storage.location import Location
        from clip_trainer.data.storage.retry import RetryPolicy
        from clip_trainer.data.storage.source import open_source

        if settings.offline:
            raise offline_error(url)
        base, _, self._name = url.rpartition("/")
        self._url = url
        # One attempt: how often to repeat is decided by the download, as for web servers.
        self._source = open_source(Location(url.partition(":")[0], base, None), retry=RetryPolicy(attempts=1))

    @property
    def where(self) -> str:
        """See `Origin.where`."""
        return self._url

    def open(self, offset: int, validator: str | None) -> Opened:
        """See `Origin.open`."""
        try:
            info = self._source.info(self._name)
        except UnavailableError as error:
            raise TransientError(error.problem, hint=error.hint) from error
        start = offset if validator is not None and validator == info.etag and offset < info.bytes else 0
        return Opened(start, info.bytes, info.etag, Expected(), self._chunks(start, info), lambda: None)

    def _chunks(self, start: int, info: ObjectInfo) -> Iterator[bytes]:
        for at in range(start, info.bytes, _STORE_CHUNK):
            try:
                yield self._source.read(self._name, at, min(_STORE_CHUNK, info.bytes - at), etag=info.etag)
            except UnavailableError as error:
                raise TransientError(error.problem, hint=error.hint) from error


def _strong_etag(answer: Answer) -> str | None:
    """The ETag as it stands; weak ones do not promise the same bytes and cannot resume anything."""
    etag = answer.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else etag


def _promised(answer: Answer) -> Expected:
    """The digest that the hub, and mirrors that keep its headers, send along with a large file."""
    linked = answer.first_header("X-Linked-Etag")
    return expected_from_etag(bare_etag(linked) if linked else None)


def bare_etag(etag: str) -> str:
    """An ETag without the mark of weak ones and without quotes."""
    return etag.removeprefix("W/").strip('"')

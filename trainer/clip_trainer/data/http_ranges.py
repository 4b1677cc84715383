"""Ranges of an object, byte for byte: a broken body goes on where it broke, and versions never mix."""

from __future__ import annotations

import io
import re
from urllib.parse import SplitResult

from clip_trainer.data.http_client import HttpClient, Request
from clip_trainer.data.http_errors import changed, nonsense, too_short
from clip_trainer.data.http_response import Response
from clip_trainer.data.retry import Failures
from clipctl.contract.errors import UnavailableError

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_SKIPPED_AT_ONCE = 1 << 20  # bytes
_PROGRESS = 16 << 10  # bytes; a server that drips fewer between two failures does not get on


def read_range(client: HttpClient, url: SplitResult, what: str, offset: int, length: int, etag: str | None) -> bytes:
    """Exactly the bytes `[offset, offset + length)` of an object.

    Args:
        client: sends the requests.
        url: where the object is.
        what: names the object in errors.
        offset: first byte.
        length: bytes, at least 1.
        etag: the version that is wanted, without quotes; None takes what the first answer has.

    Raises:
        CorruptError: the object is shorter, or no longer that version.
        UnavailableError: too many attempts in a row that got nowhere.
        ClipError: the server refuses.
    """
    # A BytesIO gives its content out as `bytes` without a copy, and allocating zeros costs nothing.
    buffer = io.BytesIO(bytes(length))
    with buffer.getbuffer() as view:
        filling = _Filling(client, url, what, offset, view, etag)
        filling.run()
    return buffer.getvalue()


def strong_etag(value: str | None) -> str | None:
    """An ETag without its quotes; None for weak ones, which do not promise the same bytes."""
    return value.strip('"') if value and not value.startswith("W/") else None


class _Filling:
    """A buffer that is being filled with a range; `_done` bytes of it are good."""

    def __init__(
        self, client: HttpClient, url: SplitResult, what: str, offset: int, view: memoryview, etag: str | None
    ) -> None:
        self._client, self._url, self._what = client, url, what
        self._offset, self._view, self._etag = offset, view, etag
        self._done = 0

    def run(self) -> None:
        """Fill it."""
        failures = Failures(self._client.retry)
        mark = 0
        while self._done < len(self._view):
            try:
                self._attempt()
            except UnavailableError as error:
                if self._done - mark >= _PROGRESS:
                    mark = self._done
                    failures.progressed()
                failures.wait_after(error)
                self._client.counters.add(retries=1)

    def _attempt(self) -> None:
        start = self._offset + self._done
        headers = {"Range": f"bytes={start}-{self._offset + len(self._view) - 1}"}
        if self._etag:
            headers["If-Match"] = f'"{self._etag}"'
        with self._client.open(Request("GET", self._url, self._what, headers)) as response:
            self._check_version(response)
            if response.status == 206:
                self._check_range(response, start)
            else:
                self._skip(response, start)
            self._receive(response)

    def _check_version(self, response: Response) -> None:
        found = strong_etag(response.headers.get("ETag"))
        if self._etag and not found:
            raise nonsense(self._what, "an answer without an etag, which cannot be the object that was asked for")
        if self._etag and found != self._etag:
            raise changed(self._what)
        self._etag = found

    def _check_range(self, response: Response, start: int) -> None:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match.group(1)) != start:
            raise nonsense(self._what, "the server sent another range than it was asked for")
        count = int(match.group(2)) + 1 - start
        if match.group(3) != "*" and int(match.group(3)) < self._offset + len(self._view):
            raise too_short(self._what)
        if response.left is not None and response.left != count:
            raise nonsense(self._what, f"the server announced {response.left} bytes and a range of {count}")
        if count <= 0:
            raise nonsense(self._what, "the server sent an empty range")

    def _skip(self, response: Response, start: int) -> None:
        """Read up to `start` in the answer of a server without ranges, which begins at 0: slow, but right."""
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise nonsense(self._what, "the server sent a web page instead")
        if response.left is not None and response.left < self._offset + len(self._view):
            raise too_short(self._what)
        scratch = memoryview(bytearray(min(start, _SKIPPED_AT_ONCE)))
        while start:
            count = response.read_into(scratch[:start])
            if not count:
                raise nonsense(self._what, "the connection ended early")
            start -= count

    def _receive(self, response: Response) -> None:
        before, end = self._done, len(self._view)
        try:
            while self._done < end:
                count = response.read_into(self._view[self._done :])
                if not count:
                    if self._done > before:
                        return  # a part of the range is an honest answer; the rest is asked for next
                    raise nonsense(self._what, "the answer ended early")
                self._done += count
        finally:
            self._client.counters.add(bytes_read=self._done - before)

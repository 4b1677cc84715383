"""Ranges of an object, byte for byte: a broken body goes on where it broke, and versions never mix."""

from __future__ import annotations

import re
from urllib.parse import SplitResult

from clip_trainer.data.storage.http_client import HttpClient, Request
from clip_trainer.data.storage.http_errors import changed, nonsense, too_short
from clip_trainer.data.storage.http_response import Response
from clip_trainer.data.storage.retry import Failures
from clipctl.contract.errors import UnavailableError

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_SKIPPED_AT_ONCE = 1 << 20  # bytes
_PROGRESS = 16 << 10  # bytes; a server that drips fewer between two failures does not get on
_LARGE = 31 << 20  # bytes

# glibc gives large freed blocks back to the system at once, and the next one costs page faults again: a third of the
# CPU time of reading. It keeps those that are smaller than the largest that was ever freed, up to 32 MiB. This one is
# never touched, so that it costs nothing itself.
bytes(_LARGE)


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
    return _Range(client, url, what, offset, length, etag).read()


def strong_etag(value: str | None) -> str | None:
    """An ETag without its quotes; None for weak ones, which do not promise the same bytes."""
    return value.strip('"') if value and not value.startswith("W/") else None


class _Range:
    """A range that is being read, piece by piece if it breaks; `_start` is the next byte that is missing."""

    def __init__(
        self, client: HttpClient, url: SplitResult, what: str, offset: int, length: int, etag: str | None
    ) -> None:
        self._client, self._url, self._what = client, url, what
        self._start, self._end, self._etag = offset, offset + length, etag
        self._pieces: list[bytes] = []

    def read(self) -> bytes:
        """All of it."""
        failures = Failures(self._client.retry)
        mark = self._start
        while self._start < self._end:
            try:
                self._attempt()
            except UnavailableError as error:
                if self._start - mark >= _PROGRESS:
                    mark = self._start
                    failures.progressed()
                failures.wait_after(error)
                self._client.counters.add(retries=1)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def _attempt(self) -> None:
        headers = {"Range": f"bytes={self._start}-{self._end - 1}"}
        if self._etag:
            headers["If-Match"] = f'"{self._etag}"'
        with self._client.open(Request("GET", self._url, self._what, headers)) as response:
            self._check_version(response)
            if response.status == 206:
                self._check_range(response)
            else:
                self._skip(response)
            self._receive(response)

    def _check_version(self, response: Response) -> None:
        found = strong_etag(response.headers.get("ETag"))
        if self._etag and not found:
            raise nonsense(self._what, "an answer without an etag, which cannot be the object that was asked for")
        if self._etag and found != self._etag:
            raise changed(self._what)
        self._etag = found

    def _check_range(self, response: Response) -> None:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match.group(1)) != self._start:
            raise nonsense(self._what, "the server sent another range than it was asked for")
        count = int(match.group(2)) + 1 - self._start
        if match.group(3) != "*" and int(match.group(3)) < self._end:
            raise too_short(self._what)
        if response.left is not None and response.left != count:
            raise nonsense(self._what, f"the server announced {response.left} bytes and a range of {count}")
        if count <= 0:
            raise nonsense(self._what, "the server sent an empty range")

    def _skip(self, response: Response) -> None:
        """Read up to the range in the answer of a server without ranges, which begins at 0: slow, but right."""
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise nonsense(self._what, "the server sent a web page instead")
        if response.left is not None and response.left < self._end:
            raise too_short(self._what)
        before = self._start
        while before:
            skipped = len(response.read(min(before, _SKIPPED_AT_ONCE)))
            if not skipped:
                raise nonsense(self._what, "the answer ended early")
            before -= skipped

    def _receive(self, response: Response) -> None:
        """Take what comes. A part of the range is an honest answer: the rest is asked for next."""
        began = self._start
        while self._start < self._end and (piece := response.read(self._end - self._start)):
            self._pieces.append(piece)
            self._start += len(piece)
            self._client.counters.add(bytes_read=len(piece))
        if self._start == began:
            raise nonsense(self._what, "the answer ended early")

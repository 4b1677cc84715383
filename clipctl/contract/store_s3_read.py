"""Reading from S3 across interruptions: what came is kept, the next request asks for the rest of the same object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clipctl.contract.errors import UnavailableError
from clipctl.contract.store_s3_errors import is_conflict

Get = Callable[["Download"], None]
"""One request for `Download.conditions()`, which calls `answered` and then `extend` with what comes."""


class Download:
    """An object, or a range of it, as far as it came.

    Args:
        key: of the object in the bucket.
        start: first byte.
        end: behind the last byte; None for all there is.
    """

    def __init__(self, key: str, start: int = 0, end: int | None = None) -> None:
        self.key = key
        self._start, self._end = start, end
        self._data = bytearray()
        self._version = ""
        self._announced: int | None = None

    def conditions(self) -> dict[str, str]:
        """Arguments of the next request: the bytes that are missing, of the version that the others are of."""
        first = self._start + len(self._data)
        found = {"IfMatch": self._version} if self._version else {}
        if first or self._end is not None:
            found["Range"] = f"bytes={first}-{'' if self._end is None else self._end - 1}"
        return found

    def answered(self, answer: Mapping[str, Any]) -> None:
        """Take note of the headers of an answer. Raises `UnavailableError` if it is not the range asked for."""
        if "Range" in self.conditions() and "ContentRange" not in answer:
            raise UnavailableError(f"the service does not serve parts of {self.key}.")
        self._version = str(answer["ETag"])
        self._announced = len(self._data) + int(answer["ContentLength"])

    def extend(self, piece: bytes) -> None:
        """Append bytes of the body."""
        self._data.extend(piece)

    def advance(self, get: Get) -> tuple[bytes, str]:
        """Ask for what is missing; returns bytes and version when all is there. Raises what the client raises."""
        if self._announced is None or len(self._data) < self._announced:
            try:
                get(self)
            except Exception as error:
                if not (self._version and is_conflict(error)):
                    raise
                self._restart()  # somebody replaced the object in the meantime
                get(self)
        if len(self._data) != self._announced:
            raise ConnectionError("the answer ended early")
        return bytes(self._data), self._version

    def _restart(self) -> None:
        self._data.clear()
        self._version, self._announced = "", None

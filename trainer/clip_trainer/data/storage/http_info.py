"""Size and etag of an object, without reading it."""

from __future__ import annotations

import re
from http.client import HTTPMessage

from clip_trainer.data.storage.http_client import HttpClient, Request
from clip_trainer.data.storage.http_errors import nonsense
from clip_trainer.data.storage.http_ranges import strong_etag
from clip_trainer.data.storage.source import ObjectInfo
from clipctl.contract.errors import PermissionDeniedError, SpecError

_WHOLE_SIZE = re.compile(r"bytes \d+-\d+/(\d+)")


def object_info(client: HttpClient, request: Request, name: str) -> ObjectInfo:
    """By a HEAD request, or a GET of one byte where that is not understood.

    Args:
        client: sends the requests.
        request: a GET of the object.
        name: of the object.

    Raises:
        UnavailableError: no answer, or none that tells the size.
        ClipError: the server refuses.
    """
    by_byte = request._replace(method="GET", headers={"Range": "bytes=0-0"})
    try:
        headers = client.headers(request._replace(method="HEAD"))
        if "Content-Length" not in headers:
            headers = client.headers(by_byte)
    except (PermissionDeniedError, SpecError):
        # What is wrong stands in the document of an error, and answers to HEAD have none.
        headers = client.headers(by_byte)
    size = _size(headers)
    if size is None:
        raise nonsense(request.what, "the server does not tell its size")
    return ObjectInfo(name, size, strong_etag(headers.get("ETag")))


def _size(headers: HTTPMessage) -> int | None:
    """The size of the whole object, whether all of it or a range was answered."""
    if "Content-Range" in headers:
        match = _WHOLE_SIZE.fullmatch(headers["Content-Range"])
        return int(match.group(1)) if match else None
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None

"""Multipart uploads to S3: parts go up in parallel, each with attempts of its own; a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from clipctl.contract.errors import UnavailableError
from clipctl.contract.parts import exactly, regrouped
from clipctl.contract.retrying import Retrying
from clipctl.contract.store import Part
from clipctl.contract.store_s3_errors import error_code, is_transient

PART_BYTES = 8 << 20
"""Smallest part, and the size up to which one request is enough."""
MAX_PARTS = 10_000
"""S3's limit for one upload; larger objects get larger parts."""
PARALLEL = 4
"""Parts in flight; this many and one more are in memory."""

Call = Callable[..., Any]


def upload(call: Call, key: str, parts: Iterable[Part], size: int, retrying: Retrying) -> None:
    """Store an object part by part.

    Args:
        call: a request to the bucket: name of the method, arguments.
        key: of the object in the bucket.
        parts: its bytes in pieces of any length.
        size: bytes in all.
        retrying: of each request.

    Raises:
        UnavailableError: the service says afterwards that it has another number of bytes.
        Exception: what the client raises; the upload is aborted.
    """
    begun = retrying.call(lambda _: call("create_multipart_upload", Key=key), is_transient)
    target = {"Key": key, "UploadId": begun["UploadId"]}
    try:
        sent = _send(call, target, regrouped(exactly(parts, size), part_length(size)), retrying)
        _complete(call, target, sent, retrying)
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong before is what matters; `prune` sweeps the rest
            retrying.call(lambda _: call("abort_multipart_upload", **target), is_transient)
        raise
    stored = retrying.call(lambda _: call("head_object", Key=key), is_transient)["ContentLength"]
    if stored != size:
        raise UnavailableError(f"S3 holds {stored} bytes of {key} after {size} were uploaded.")


def part_length(size: int) -> int:
    """Bytes of each part but the last."""
    return max(PART_BYTES, -(-size // MAX_PARTS))


def _send(call: Call, target: dict[str, str], bodies: Iterable[bytes], retrying: Retrying) -> list[dict[str, Any]]:
    def send(number: int, body: bytes) -> dict[str, Any]:
        answer = retrying.call(lambda _: call("upload_part", PartNumber=number, Body=body, **target), is_transient)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    sent: list[dict[str, Any]] = []
    pending: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="upload") as pool:
        try:
            for number, body in enumerate(bodies, start=1):
                if len(pending) == PARALLEL:
                    sent.append(pending.popleft().result())
                pending.append(pool.submit(send, number, body))
            sent += [future.result() for future in pending]
        finally:
            pool.shutdown(cancel_futures=True)
    return sent


def _complete(call: Call, target: dict[str, str], sent: list[dict[str, Any]], retrying: Retrying) -> None:
    """An attempt without an answer may have succeeded: then the next one finds no upload, but the object is there."""
    attempts = 0

    def complete(attempt: int) -> None:
        nonlocal attempts
        attempts = attempt
        call("complete_multipart_upload", MultipartUpload={"Parts": sent}, **target)

    try:
        retrying.call(complete, is_transient)
    except Exception as error:
        if not (attempts and error_code(error) == "NoSuchUpload"):
            raise

"""`ObjectStore` on S3 through s3fs, by conditional writes (`If-None-Match`, `If-Match`) where the service has them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from clipctl.contract.errors import ClipError, CorruptError, MissingError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.parts import exactly
from clipctl.contract.retrying import Retrying
from clipctl.contract.store import ObjectInfo, Part, Unfinished
from clipctl.contract.store_s3_errors import BEYOND, error_code, is_absent, is_conflict, is_transient, translated
from clipctl.contract.store_s3_read import Download
from clipctl.contract.store_s3_upload import PART_BYTES, upload
from clipctl.contract.store_unconditional import create_by_claim, has_conditions

# Every request is tried once by botocore and once by s3fs: only here it is known what a repetition may do.
_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 1, "mode": "standard"}}
_RETRYING = Retrying()
_PIECE = 1 << 20
_Result = TypeVar("_Result")


class S3Store:
    """Objects below `bucket/prefix`. Endpoint and credentials come from the environment."""

    def __init__(self, location: str) -> None:
        import s3fs

        self._bucket, _, prefix = location.strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        # asynchronous=False and no listing cache: a listing must show what other writers did a moment ago.
        self._fs = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=dict(_TIMEOUTS))
        self._fs.retries = 1
        self._retrying = _RETRYING
        self._conditions: bool | None = None
        self._probing = threading.Lock()

    @property
    def root(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        found = self.read_version(key)
        if found is None:
            raise MissingError(f"{self.root}/{key} does not exist.")
        return found[0]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.read_range`; what an interrupted answer already brought is not asked for again."""
        if length == 0:
            return b""
        short = CorruptError(f"{self.root}/{key} ends before byte {start + length}.")
        with self._translated(key):
            try:
                data, _ = self._download(Download(self._prefix + key, start, start + length))
            except Exception as error:
                if error_code(error) in BEYOND:
                    raise short from error
                raise
        if len(data) != length:
            raise short
        return data

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """See `ObjectStore.read_version`; the version is the ETag."""
        with self._translated(key):
            try:
                failpoint("store.s3.read")
                return self._download(Download(self._prefix + key))
            except Exception as error:
                if is_absent(error):
                    return None
                raise

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        with self._translated(key):
            failpoint("store.s3.write")
            self._persistently(lambda: self._put(key, data))

    def write_parts(self, key: str, parts: Iterable[Part], size: int) -> None:
        """See `ObjectStore.write_parts`: one request if it is small, else a multipart upload."""
        if size <= PART_BYTES:
            self.write(key, b"".join(exactly(parts, size)))
            return
        with self._translated(key):
            upload(self._call, self._prefix + key, parts, size, self._retrying)

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`; without conditional writes at most one caller gets True (`store_unconditional`)."""
        if not self._conditional():
            return create_by_claim(self, key, data)
        return self._put_if(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """See `ObjectStore.replace`; without conditional writes the comparison and the write are two steps."""
        if self._conditional():
            return self._put_if(key, data, IfMatch=version)
        current = self.read_version(key)
        if current is None or current[1] != version:
            return False
        self.write(key, data)
        return True

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `ObjectStore.list`."""
        with self._translated(prefix):
            failpoint("store.s3.list")
            return sorted(self._pages(prefix), key=lambda info: info.key)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with self._translated(key):
            failpoint("store.s3.delete")
            self._persistently(lambda: self._call("delete_object", Key=self._prefix + key))

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        """See `ObjectStore.unfinished`: multipart uploads neither completed nor aborted."""
        with self._translated(prefix):
            page = self._persistently(lambda: self._call("list_multipart_uploads", Prefix=self._prefix + prefix))
        found = (
            Unfinished(str(item["Key"])[len(self._prefix) :], str(item["UploadId"]), _timestamp(item["Initiated"]))
            for item in page.get("Uploads", [])
        )
        return sorted(found, key=lambda item: item.begun_at)

    def discard(self, unfinished: Unfinished) -> None:
        """See `ObjectStore.discard`."""
        arguments = {"Key": self._prefix + unfinished.key, "UploadId": unfinished.token}
        with self._translated(unfinished.key):
            try:
                self._persistently(lambda: self._call("abort_multipart_upload", **arguments))
            except Exception as error:
                if error_code(error) not in {"NoSuchUpload", "404"}:
                    raise

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self._bucket, **arguments)

    def _persistently(self, request: Callable[[], _Result]) -> _Result:
        return self._retrying.call(lambda _: request(), is_transient)

    def _put(self, key: str, data: bytes, **conditions: str) -> None:
        self._call("put_object", Key=self._prefix + key, Body=data, **conditions)

    def _download(self, download: Download) -> tuple[bytes, str]:
        return self._retrying.call(lambda _: download.advance(self._get), is_transient)

    def _get(self, download: Download) -> None:
        from fsspec.asyn import sync

        async def fetch() -> None:
            # One request for bytes and ETag: two would race with a writer.
            arguments = {"Bucket": self._bucket, "Key": download.key, **download.conditions()}
            answer = await self._fs._call_s3("get_object", **arguments)
            async with answer["Body"] as body:
                download.answered(answer)
                while piece := await body.read(_PIECE):
                    download.extend(piece)

        sync(self._fs.loop, fetch)

    def _put_if(self, key: str, data: bytes, **conditions: str) -> bool:
        """Put under a condition. If an attempt was left without an answer it may have succeeded, and then the next
        one meets our own object: what is stored tells.
        """
        attempts = 0

        def put(attempt: int) -> None:
            nonlocal attempts
            attempts = attempt
            self._put(key, data, **conditions)

        with self._translated(key):
            try:
                failpoint("store.s3.put_if")
                self._retrying.call(put, is_transient)
                failpoint("store.s3.put_done")
            except Exception as error:
                if is_conflict(error):
                    found = self.read_version(key) if attempts else None
                    return found is not None and found[0] == data
                if is_absent(error) and "IfMatch" in conditions:
                    return False
                raise
            return True

    def _put_probe(self, key: str, data: bytes) -> None:
        self._persistently(lambda: self._put(key, data, IfNoneMatch="*"))

    def _conditional(self) -> bool:
        with self._probing:
            if self._conditions is None:
                with self._translated(""):
                    self._conditions = has_conditions(self, self._put_probe)
            return self._conditions

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        token: dict[str, str] = {}

        def ask() -> Any:
            return self._call("list_objects_v2", Prefix=self._prefix + prefix, **token)

        while True:
            page = self._persistently(ask)
            for item in page.get("Contents", []):
                yield ObjectInfo(str(item["Key"])[len(self._prefix) :], int(item["Size"]))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClipError:
            raise
        except Exception as error:
            raise translated(error, f"{self.root}/{key}".rstrip("/"), self._retrying.attempts) from error


def _timestamp(value: datetime) -> float:
    return value.timestamp()

"""`ObjectStore` on S3 through s3fs, with conditional writes (`If-None-Match`, `If-Match`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from clipctl.contract.errors import (
    CannotCreateError,
    ClipError,
    MissingError,
    PermissionDeniedError,
    UnavailableError,
)
from clipctl.contract.store import ObjectInfo

_REFUSED = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "403",
    }
)
_ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "404"})
_CONFLICT = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
# One attempt for botocore: s3fs retries itself, and the two would multiply.
_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1, "mode": "standard"}}


class S3Store:
    """Objects below `bucket/prefix`. Endpoint and credentials come from the environment."""

    def __init__(self, location: str) -> None:
        import s3fs

        self._bucket, _, prefix = location.strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        # asynchronous=False and no listing cache: a listing must show what other writers did a moment ago.
        self._fs = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=dict(_TIMEOUTS))

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

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """See `ObjectStore.read_version`; the version is the ETag."""
        with self._translated(key):
            try:
                return self._fetch(key)
            except Exception as error:
                if _error_code(error) in _ABSENT or isinstance(error, FileNotFoundError):
                    return None
                raise

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        with self._translated(key):
            self._put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        return self._put_if(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """See `ObjectStore.replace`."""
        return self._put_if(key, data, IfMatch=version)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `ObjectStore.list`."""
        with self._translated(prefix):
            return sorted(self._pages(prefix), key=lambda info: info.key)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with self._translated(key):
            self._call("delete_object", Key=self._prefix + key)

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self._bucket, **arguments)

    def _put(self, key: str, data: bytes, **conditions: str) -> None:
        self._call("put_object", Key=self._prefix + key, Body=data, **conditions)

    def _fetch(self, key: str) -> tuple[bytes, str]:
        from fsspec.asyn import sync

        async def fetch() -> tuple[bytes, str]:
            # One request for bytes and ETag: two would race with a writer.
            answer = await self._fs._call_s3("get_object", Bucket=self._bucket, Key=self._prefix + key)
            async with answer["Body"] as body:
                return bytes(await body.read()), str(answer["ETag"])

        result: tuple[bytes, str] = sync(self._fs.loop, fetch)
        return result

    def _put_if(self, key: str, data: bytes, **conditions: str) -> bool:
        with self._translated(key):
            try:
                self._put(key, data, **conditions)
            except Exception as error:
                if _error_code(error) in _CONFLICT or isinstance(error, FileExistsError):
                    return False
                if _error_code(error) in _ABSENT and "IfMatch" in conditions:
                    return False
                raise
            return True

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._prefix + prefix, **token)
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
            raise self._translate(error, key) from error

    def _translate(self, error: Exception, key: str) -> ClipError:
        where = f"{self.root}/{key}".rstrip("/")
        code = _error_code(error)
        if code in _ABSENT or isinstance(error, FileNotFoundError):
            return MissingError(f"{where} does not exist.", hint="Check the bucket name and the prefix.")
        if code in _REFUSED or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            return PermissionDeniedError(
                f"S3 refuses access to {where} ({code or type(error).__name__}).",
                hint="Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the role), and the bucket policy.",
            )
        if code in {"EntityTooLarge", "QuotaExceeded"}:
            return CannotCreateError(f"S3 cannot store {where} ({code}).")
        return UnavailableError(
            f"S3 did not serve {where}: {code or type(error).__name__}.",
            hint="Check AWS_ENDPOINT_URL and that the service is reachable; the request was retried 5 times.",
        )


def _error_code(error: BaseException | None) -> str:
    """The S3 error code behind an exception of botocore or of s3fs, which wraps the former in OSErrors."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""

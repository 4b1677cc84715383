"""Addresses of buckets and objects: path style for stores of one's own, host style for AWS."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from clip_trainer.data.storage.source_credentials import profile_settings
from clipctl.contract.errors import SpecError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_DEFAULT_REGION = "us-east-1"


class S3Settings(NamedTuple):
    """Where a store is and how to speak to it."""

    endpoint: str | None  # None for AWS
    region: str
    anonymous: bool
    ca_file: str | None


def settings_from(environ: Mapping[str, str]) -> S3Settings:
    """Settings as AWS's own tools read them: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`, the profile."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    ca_file = environ.get("AWS_CA_BUNDLE")
    # botocore takes half a second to import: not for settings that nobody wrote down.
    if not (endpoint and region) and _config_file(environ).exists():
        profile = profile_settings()
        endpoint, region = endpoint or profile.endpoint, region or profile.region
        ca_file = ca_file or profile.ca_file
    anonymous = environ.get("FSSPEC_S3_ANON", "").lower() in ("1", "true", "yes")
    return S3Settings(endpoint, region or _DEFAULT_REGION, anonymous, ca_file)


class Bucket(NamedTuple):
    """A bucket at its store."""

    settings: S3Settings
    name: str

    def url(self, key: str = "", query: Mapping[str, str] | None = None) -> SplitResult:
        """The address of an object, or of the bucket itself; percent-encoded as it has to be signed."""
        root = self._root()
        path = quote(f"/{key}", safe="/-_.~")
        asked = urlencode(query or {}, quote_via=quote, safe="-_.~")
        return root._replace(path=root.path.rstrip("/") + path, query=asked)

    def _root(self) -> SplitResult:
        endpoint, region, name = self.settings.endpoint, self.settings.region, self.name
        if endpoint:
            # Host-style names (bucket.host) rarely resolve for stores other than AWS.
            parts = urlsplit(endpoint)
            return parts._replace(path=f"{parts.path.rstrip('/')}/{name}", query="", fragment="")
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        # A certificate for *.s3.amazonaws.com does not cover names with dots.
        if _HOST_LABEL.fullmatch(name):
            return urlsplit(f"https://{name}.s3.{region}.{suffix}")
        return urlsplit(f"https://s3.{region}.{suffix}/{name}")


def split_location(base: str) -> tuple[str, str]:
    """Bucket and key prefix (empty, or with a slash at its end) of `s3://bucket/prefix`.

    Raises:
        SpecError: no bucket can have that name.
    """
    name, _, prefix = base.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(name):
        raise SpecError("The location does not name an S3 bucket.", hint="Write it as s3://bucket/directory.")
    return name, f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _config_file(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("AWS_CONFIG_FILE") or os.path.join("~", ".aws", "config")).expanduser()

"""Signature version 4 of S3 requests, in headers.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"


class Keys(NamedTuple):
    """Credentials."""

    access: str
    secret: str
    token: str | None = None  # of a session

    def __repr__(self) -> str:
        return f"Keys({self.access!r}, ...)"  # secrets stay out of logs and tracebacks


def signed_headers(
    keys: Keys,
    region: str,
    method: str,
    url: SplitResult,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """The headers that prove that the holder of the keys sends this request.

    Args:
        keys: who sends it.
        region: of the bucket.
        method: GET, PUT or HEAD.
        url: path and query must be percent-encoded as they will be sent.
        headers: the others that will be sent; they are signed too.
        body: its digest is signed where the connection does not protect it (without TLS).
        now: in UTC; the store refuses what is more than 15 minutes off.
    """
    payload = UNSIGNED_PAYLOAD if url.scheme == "https" and body else hashlib.sha256(body).hexdigest()
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    added = {"Host": url.netloc, "X-Amz-Content-SHA256": payload, "X-Amz-Date": stamp}
    if keys.token:
        added["X-Amz-Security-Token"] = keys.token
    names, canonical = _canonical_request(method, url, {**headers, **added}, payload)
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(_signing_key(keys.secret, scope), text.encode(), hashlib.sha256).hexdigest()
    proof = f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**added, "Authorization": proof}


def _canonical_request(method: str, url: SplitResult, headers: Mapping[str, str], payload: str) -> tuple[str, str]:
    """The names of the signed headers, and the request in the one spelling that both sides sign."""
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    names = ";".join(name for name, _ in lines)
    listed = "".join(f"{name}:{value}\n" for name, value in lines)
    return names, f"{method}\n{url.path or '/'}\n{_canonical_query(url.query)}\n{listed}\n{names}\n{payload}"


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return "&".join(sorted(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs))


def _signing_key(secret: str, scope: str) -> bytes:
    """The secret narrowed down to a day, a region and a service."""
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key

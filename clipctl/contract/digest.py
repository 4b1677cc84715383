"""Digests: xxh3-128 per chunk finds which bytes are bad at memory speed, sha256 ties everything to one commit.

xxh3 runs at tens of GB/s on one core and sha256 at under 2, so the bulk is hashed by the first and only the small
manifest by the second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import xxhash

CHUNK_BYTES = 8 << 20


def canonical_json(value: Any) -> bytes:
    """The one byte string that stands for a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """sha256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def xxh3_hex(data: bytes | memoryview) -> str:
    """xxh3-128 of `data`, hexadecimal."""
    return xxhash.xxh3_128_hexdigest(data)


def chunk_digests(data: bytes | memoryview, chunk_bytes: int = CHUNK_BYTES) -> list[str]:
    """xxh3-128 of each `chunk_bytes` piece of `data`, in order."""
    view = memoryview(data)
    return [xxh3_hex(view[at : at + chunk_bytes]) for at in range(0, len(view), chunk_bytes)]


def self_digest(record: Mapping[str, Any]) -> str:
    """sha256 of a record without its own `digest` field."""
    return sha256_hex(canonical_json({key: value for key, value in record.items() if key != "digest"}))

"""Creating an object on a service without conditional writes.

Nothing but reading and writing cannot decide a race so that exactly one contender wins and nobody waits (Herlihy 1991:
registers have consensus number 1). What can be had without waiting is that *at most one* wins:

1. write a claim of one's own, `claims/<key>/<random>`;
2. list the claims of the key: if there is another one, withdraw;
3. look whether the object exists: if so, withdraw;
4. write the object, read it back, then remove the claim.

Of two that both pass step 2, each would have listed before the other wrote its claim, which is impossible. A third one
that comes when the winner's claim is gone sees the object in step 3. When two meet both may withdraw: callers take
that like a lost race and choose another number or try again. It needs a service whose listings show every write that
was answered, as S3's do. A contender that dies leaves its claim, and the key stays closed; every incarnation of a run
has keys of its own, and `clipctl checkpoints prune` sweeps the claims.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

from clipctl.contract.errors import ClipError
from clipctl.contract.layout import CLAIMS, PROBES
from clipctl.contract.store import ObjectInfo
from clipctl.contract.store_s3_errors import NOT_IMPLEMENTED, error_code, is_conflict


class PlainStore(Protocol):
    """The operations that need no condition; see `ObjectStore`."""

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `ObjectStore.list`."""
        ...

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        ...


def has_conditions(store: PlainStore, put_if_absent: Callable[[str, bytes], None]) -> bool:
    """Whether the service honours `If-None-Match: *`, found out by creating a probe object twice.

    Args:
        store: to remove the probe.
        put_if_absent: one conditional request; raises what the client raises.
    """
    key = f"{PROBES}{uuid4().hex}"
    stored = False
    try:
        for _ in range(2):
            put_if_absent(key, b"probe\n")
            stored = True
    except Exception as error:
        if error_code(error) in NOT_IMPLEMENTED:
            return False
        if not is_conflict(error):
            raise
        return True
    finally:
        if stored:
            with contextlib.suppress(ClipError):
                store.delete(key)
    return False


def create_by_claim(store: PlainStore, key: str, data: bytes) -> bool:
    """Create `key` unless it exists or somebody else is about to create it; at most one caller gets True."""
    if _exists(store, key):
        return False
    claims = f"{CLAIMS}{key}/"
    own = f"{claims}{uuid4().hex}"
    store.write(own, b"claim\n")
    if [info.key for info in store.list(claims)] != [own] or _exists(store, key):
        store.delete(own)
        return False
    store.write(key, data)  # if this fails the claim stays: the request may still be on its way
    created = store.read(key) == data
    store.delete(own)
    return created


def _exists(store: PlainStore, key: str) -> bool:
    return any(info.key == key for info in store.list(key))

"""Bringing a staged share to storage: digests first, then the bytes, in pieces, as often as storage needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from clip_trainer.checkpoint.objects import PlannedObject
from clipctl.contract.commits import StoredObject, TensorEntry
from clipctl.contract.digest import CHUNK_BYTES
from clipctl.contract.failpoints import failpoint
from clipctl.contract.store import ObjectStore


def upload(
    store: ObjectStore,
    prefix: str,
    objects: Sequence[PlannedObject],
    buffer: torch.Tensor,
    check: Callable[[], None],
) -> list[StoredObject]:
    """Store every object of a share.

    Args:
        store: the run's store.
        prefix: of the checkpoint.
        objects: the layout of the share.
        buffer: the staged bytes.
        check: called between any two pieces; raises to stop.

    Raises:
        ClipError: storage does not take them.
    """
    staged = buffer.numpy().data
    stored = []
    for planned in objects:
        data = staged[planned.at : planned.stop]
        check()
        described = describe(planned, data)
        failpoint("checkpoint.digested")
        store.write_parts(prefix + planned.name, _pieces(data, check), planned.size)
        failpoint("checkpoint.object_stored")
        stored.append(described)
    return stored


def describe(planned: PlannedObject, data: memoryview) -> StoredObject:
    """What the manifest says of an object: digests of its chunks, and where its tensors are."""
    entries = {}
    for placed in planned.tensors:
        extent = placed.extent
        where = placed.start, placed.stop, extent.global_shape, extent.offsets
        entries[placed.name] = TensorEntry(extent.dtype_name, extent.shape, *where)
    return StoredObject.of(planned.name, data, entries)


def _pieces(data: memoryview, check: Callable[[], None]) -> Iterator[memoryview]:
    for at in range(0, len(data), CHUNK_BYTES):
        check()
        failpoint("checkpoint.piece")
        yield data[at : at + CHUNK_BYTES]

"""Where the tensors of a safetensors object lie, read from its header: for checkpoints whose manifest does not say.

A file is an unsigned 64-bit little-endian header length, a JSON header that maps names to dtype, shape and byte range,
then the bytes (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace

from clipctl.contract.commits import read_range
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, StoredObject
from clipctl.contract.store import ObjectStore
from clipctl.contract.tensor_entry import TensorEntry

_MAX_HEADER = 100 << 20


def described(store: ObjectStore, checkpoint: CheckpointId, manifest: Manifest) -> Manifest:
    """The manifest with the tensors of every object; what it does not list is taken from the objects, verified.

    Raises:
        CorruptError: an object is damaged or is no safetensors file.
    """
    objects = (
        stored if stored.tensors else replace(stored, tensors=read_entries(store, checkpoint, stored))
        for stored in manifest.objects
    )
    return replace(manifest, objects=tuple(objects))


def read_entries(store: ObjectStore, checkpoint: CheckpointId, stored: StoredObject) -> dict[str, TensorEntry]:
    """The tensors of one object. Raises `CorruptError`."""
    if stored.size < 8:
        raise CorruptError(f"{stored.name} is too short for a safetensors file.")
    (length,) = struct.unpack("<Q", read_range(store, checkpoint, stored, 0, 8))
    if length > min(_MAX_HEADER, stored.size - 8):
        raise CorruptError(f"{stored.name}: the header is longer than the file.")
    try:
        header = json.loads(bytes(read_range(store, checkpoint, stored, 8, 8 + length)))
        return {name: _entry(raw, 8 + length, stored.size) for name, raw in header.items() if name != "__metadata__"}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{stored.name}: the header is not well-formed.") from error


def _entry(raw: dict[str, object], first: int, size: int) -> TensorEntry:
    offsets = raw["data_offsets"]
    if not isinstance(offsets, list):
        raise TypeError("no byte range")
    start, end = offsets
    if start < 0:
        raise ValueError("a tensor begins inside of the header")
    place = {"dtype": raw["dtype"], "shape": raw["shape"], "start": first + start, "end": first + end}
    return TensorEntry.from_json(place, size)

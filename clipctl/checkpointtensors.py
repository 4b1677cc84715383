"""The tensors of a checkpoint's part as bytes, pieces of sharded ones put together, without torch and numpy."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from math import prod

from clipctl.contract.commits import read_object
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, Piece, StoredObject
from clipctl.contract.store import ObjectStore
from clipctl.contract.tensor_entry import ITEM_BYTES
from clipctl.safetensorsfile import Tensor

_HELD = 2


class PartReader:
    """Reads tensors of one checkpoint; the objects read last are kept, because neighbours are asked for together.

    Args:
        store: the run's store.
        checkpoint: which one.
    """

    def __init__(self, store: ObjectStore, checkpoint: CheckpointId) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._held: OrderedDict[str, bytes] = OrderedDict()

    def tensor(self, pieces: Sequence[Piece]) -> Tensor:
        """The whole tensor of which these are the pieces (see `Manifest.locate`). Raises `CorruptError`."""
        first = pieces[0].entry
        if len(pieces) == 1 and first.shape == first.whole_shape:
            return Tensor(first.dtype, first.shape, self._bytes(pieces[0]))
        whole = bytearray(prod(first.whole_shape) * ITEM_BYTES[first.dtype])
        for piece in pieces:
            _place(whole, piece, self._bytes(piece))
        return Tensor(first.dtype, first.whole_shape, memoryview(whole))

    def _bytes(self, piece: Piece) -> memoryview:
        return memoryview(self._object(piece.stored))[piece.entry.start : piece.entry.end]

    def _object(self, stored: StoredObject) -> bytes:
        if stored.name not in self._held:
            while len(self._held) >= _HELD:
                self._held.popitem(last=False)
            self._held[stored.name] = read_object(self._store, self._checkpoint, stored)
        self._held.move_to_end(stored.name)
        return self._held[stored.name]


def read_part(store: ObjectStore, checkpoint: CheckpointId, manifest: Manifest, part: str) -> dict[str, Tensor]:
    """All tensors of a part. Raises `CorruptError` if it does not verify or its pieces do not fit together."""
    reader = PartReader(store, checkpoint)
    return {name: reader.tensor(pieces) for name, pieces in manifest.locate(part).items()}


def _place(whole: bytearray, piece: Piece, data: memoryview) -> None:
    """Copy a piece into its tensor, one run of bytes that lie together in both at a time."""
    entry = piece.entry
    shape, limits, offsets = entry.shape, entry.whole_shape, entry.offsets or (0,) * len(entry.shape)
    if not len(data):
        return
    item = ITEM_BYTES[entry.dtype]
    # Dimensions behind `split` are complete, so rows along `split` lie together.
    split = max((axis for axis in range(len(shape)) if shape[axis] != limits[axis]), default=0)
    strides = [prod(limits[axis + 1 :]) * item for axis in range(len(limits))]
    run = prod(shape[split:]) * item
    start = sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
    for number, index in enumerate(product(*map(range, shape[:split]))):
        at = start + sum(i * stride for i, stride in zip(index, strides, strict=False))
        whole[at : at + run] = data[number * run : (number + 1) * run]

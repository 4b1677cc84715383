"""Whole tensors from pieces, and how far two are apart, against numpy."""

import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.memorystore import MemoryStore
from clipctl.checkpointtensors import PartReader, read_part
from clipctl.contract import layout
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, StoredObject
from clipctl.contract.tensor_entry import TensorEntry
from clipctl.safetensorsfile import Tensor
from clipctl.tensordiff import distance

CHECKPOINT = CheckpointId(1, 1)


def stored_in_pieces(whole, boxes):
    """A store and a manifest in which each box (slices) of an array is an object of its own."""
    store, objects = MemoryStore(), []
    for rank, box in enumerate(boxes):
        piece = np.ascontiguousarray(whole[box])
        offsets = tuple(s.start for s in box)
        entry = TensorEntry("I32", piece.shape, 3, 3 + piece.nbytes, whole.shape, offsets)
        data = b"pad" + piece.tobytes() + b"tail"
        name = f"weights-{rank:05d}-of-{len(boxes):05d}.safetensors"
        store.write(layout.checkpoint_prefix(CHECKPOINT) + name, data)
        objects.append(StoredObject.of(name, data, {"w": entry}))
    return store, Manifest(tuple(objects), {})


def cuts(data, length):
    inner = data.draw(st.sets(st.integers(1, max(1, length - 1)), max_size=3)) if length > 1 else set()
    edges = [0, *sorted(inner), length]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


class TestPieces:
    @given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.data())
    def test_any_cut_of_any_tensor(self, shape, data):
        whole = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        boxes = data.draw(st.permutations(list(itertools.product(*(cuts(data, n) for n in shape)))))
        store, manifest = stored_in_pieces(whole, boxes)
        found = read_part(store, CHECKPOINT, manifest, "weights")["w"]
        assert (found.dtype, found.shape) == ("I32", whole.shape)
        assert bytes(found.data) == whole.tobytes()

    def test_empty_pieces(self):
        whole = np.arange(6, dtype=np.int32).reshape(3, 2)
        store, manifest = stored_in_pieces(whole, [(slice(0, 3), slice(0, 2)), (slice(3, 3), slice(0, 2))])
        assert bytes(read_part(store, CHECKPOINT, manifest, "weights")["w"].data) == whole.tobytes()

    def test_a_piece_that_is_damaged(self):
        whole = np.arange(6, dtype=np.int32).reshape(3, 2)
        store, manifest = stored_in_pieces(whole, [(slice(0, 1), slice(0, 2)), (slice(1, 3), slice(0, 2))])
        key = layout.checkpoint_prefix(CHECKPOINT) + manifest.objects[1].name
        store.write(key, store.read(key)[:-1] + b"!")
        with pytest.raises(CorruptError, match="damaged"):
            read_part(store, CHECKPOINT, manifest, "weights")

    def test_neighbours_are_read_from_one_fetch(self):
        store, reads = MemoryStore(), []
        data = struct.pack("<3f", 1, 2, 3)
        entries = {name: TensorEntry("F32", (), 4 * i, 4 * i + 4) for i, name in enumerate("abc")}
        manifest = Manifest((StoredObject.of("weights-0", data, entries),), {})
        store.write(layout.checkpoint_prefix(CHECKPOINT) + "weights-0", data)
        store.read = lambda key: (reads.append(key), MemoryStore.read(store, key))[1]
        reader = PartReader(store, CHECKPOINT)
        found = [reader.tensor(pieces) for pieces in manifest.locate("weights").values()]
        assert [struct.unpack("<f", t.data)[0] for t in found] == [1, 2, 3]
        assert len(reads) == 1


DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def tensor(array, dtype):
    return Tensor(dtype, array.shape, memoryview(array.tobytes()))


class TestDistance:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_as_numpy_says(self, dtype):
        random = np.random.default_rng(5)
        one, two = (random.normal(0, 40, (70, 1000)).astype(DTYPES[dtype]) for _ in range(2))
        found = distance(tensor(one, dtype), tensor(two, dtype))
        apart = one.astype(np.float64) - two.astype(np.float64)
        assert found.max_abs == np.abs(apart).max()
        assert found.relative == pytest.approx(
            np.linalg.norm(apart) / np.linalg.norm(one.astype(np.float64)), rel=1e-12
        )

    def test_bfloat16(self):
        one, two = (np.array(v, dtype="<f4") for v in ([1.0, -2.0, 0.5], [1.5, -2.0, 0.25]))
        halves = [Tensor("BF16", (3,), memoryview((a.view("<u4") >> 16).astype("<u2").tobytes())) for a in (one, two)]
        found = distance(*halves)
        assert found.max_abs == 0.5
        assert found.relative == pytest.approx(np.linalg.norm(one - two) / np.linalg.norm(one))

    def test_the_same_is_nothing_apart(self):
        one = tensor(np.ones(5, dtype="<f4"), "F32")
        assert distance(one, one).max_abs == distance(one, one).relative == 0.0
        assert distance(tensor(np.ones(0), "F64"), tensor(np.ones(0), "F64")).relative == 0.0

    def test_from_nothing_it_is_infinitely_far(self):
        zero, one = (tensor(np.full(3, v, dtype="<f4"), "F32") for v in (0, 1))
        assert distance(zero, one).relative == math.inf

    @pytest.mark.parametrize("where", [0, 1, 2])
    def test_nan_is_said_wherever_it_stands(self, where):
        bad = np.ones(3, dtype="<f4")
        bad[where] = np.nan
        found = distance(tensor(np.ones(3, dtype="<f4"), "F32"), tensor(bad, "F32"))
        assert math.isnan(found.max_abs)
        assert math.isnan(found.relative)

    def test_numbers_that_python_does_not_have(self):
        eight = Tensor("F8_E4M3", (1,), memoryview(b"x"))
        assert distance(eight, eight) is None
